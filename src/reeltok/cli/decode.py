"""`decode`: .reel files to videos, in memory that does not grow with them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.encode import job_text
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, summarize
from reeltok.files.places import check_apart, check_free
from reeltok.transcode.options import Coding, OnProgress, Writing
from reeltok.transcode.plan import Job, own_share, plan_files

if TYPE_CHECKING:
    from reeltok.transcode.models import ReelModels

NamedOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Tokenizer to decode with, a name or a folder; by default the preset that the"
        " file names.",
    ),
]
StartOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="First frame to decode, counted from 0; by default 0."),
]
StopOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Frame to stop before, counted from 0; by default the end."),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        metavar="RATE",
        help="Frames per second to play at; by default the rate of the original. No frame "
        "is dropped.",
    ),
]
SoundOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Video whose sound is copied; by default there is no sound."),
]
SuffixOption = Annotated[
    str | None,
    typer.Option(
        metavar=".mp4",
        help="Suffix of videos in the folder OUT, also for a single input; by default "
        ".mp4, or .mkv with --lossless.",
    ),
]


def decode(
    inputs: given.InputsArgument,
    out: Annotated[str, typer.Argument(metavar="OUT", show_default=False)],
    *,
    model: NamedOption = None,
    weights: given.WeightsOption = None,
    start: StartOption = None,
    stop: StopOption = None,
    fps: RateOption = None,
    lossless: given.LosslessOption = False,
    codec: given.CodecOption = None,
    crf: given.CrfOption = None,
    pad_even: given.PadEvenOption = False,
    audio_from: SoundOption = None,
    suffix: SuffixOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    chunk: given.ChunkOption = None,
    tile: given.TileOption = None,
    memory: given.MemoryOption = None,
    jobs: given.JobsOption = 1,
    force: given.ForceOption = False,
) -> Report:
    """Decode .reel files to videos.

    OUT is .mp4, .mkv, .mov, .webm, .avi, .gif, an image (one frame), a folder of PNG (no suffix) or
    - (standard output: fragmented mp4). Only the frames from --start up to --stop are read and
    decoded. Several files go into a folder; outputs that exist, are complete and were made with the
    same settings are kept.
    """
    from reeltok.data.find import find_reels
    from reeltok.transcode.batch import run_plan
    from reeltok.transcode.models import ReelModels

    kind = given.parse_suffix(suffix, lossless=lossless)
    plan = plan_files(inputs, out, suffix=kind, find=find_reels, folder=suffix is None)
    if plan.named:
        given.require_use(f"videos in a folder, not for {out}", suffix=suffix)
    plan = own_share(plan)
    for job in plan.jobs if audio_from else ():
        check_apart(audio_from or "", job.target)
    check_free(plan.named_targets, force=force)
    coding = Coding(chunk=chunk, tile=tile, memory=memory, jobs=jobs)
    writing = Writing(
        fps=fps,
        lossless=lossless,
        codec=codec,
        crf=crf,
        pad_even=pad_even,
        audio_from=audio_from,
    )
    if not plan.jobs:  # other processes have them
        return summarize((), done="decoded")
    models = ReelModels(model, weights=weights, device=device, dtype=given.parse_dtype(dtype))
    how: dict[str, Any] = {"start": start, "stop": stop, "coding": coding, "writing": writing}

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        return decode_job(models, job, on_progress, how)

    def fits(job: Job) -> bool:
        return not job.older and is_done(models, job, how)

    with Progress("decoding", len(plan.jobs)) as watcher:
        outcomes = run_plan(plan, work, fits=fits, jobs=jobs, force=force, watcher=watcher)
    if not plan.named:
        return summarize(outcomes, done="decoded")
    return Report(data=outcomes[0].record, text=job_text(outcomes[0].record), piped=plan.piped)


def decode_job(
    models: "ReelModels", job: Job, on_progress: OnProgress, how: dict[str, Any]
) -> dict[str, Any]:
    """Decode one .reel file by its tokenizer; what was written, in numbers."""
    from reeltok.tokens.reel import Reel
    from reeltok.transcode.decode import decode_file

    with Reel(job.source) as reel:
        tokenizer = models.of(reel)
        made = decode_file(tokenizer, reel, job.target, on_progress=on_progress, **how)
    record = {"input": job.source, "output": job.target, **asdict(made), "rate": made.rate}
    return {name: value for name, value in record.items() if name not in ("source", "target")}


def is_done(models: "ReelModels", job: Job, how: dict[str, Any]) -> bool:
    """Whether the output of a job is what `decode_job` would make."""
    from reeltok.tokens.reel import Reel
    from reeltok.transcode.decode import is_decoded

    with Reel(job.source) as reel:
        return is_decoded(models.of(reel), reel, job.target, **how)
