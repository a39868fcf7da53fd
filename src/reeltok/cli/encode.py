"""`encode`: videos to .reel files, in memory that does not grow with them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, summarize
from reeltok.files.places import PIPE, check_free
from reeltok.transcode.options import Coding, Cut, OnProgress
from reeltok.transcode.plan import Job, own_share, plan_files
from reeltok.wording import count, plain, rate

if TYPE_CHECKING:
    from reeltok.transcode.encode import EncodedFile


def encode(
    inputs: given.InputsArgument,
    out: Annotated[str, typer.Argument(metavar="OUT.reel|FOLDER", show_default=False)],
    *,
    model: given.ModelOption = "default",
    weights: given.WeightsOption = None,
    start: given.StartOption = 0.0,
    frames: given.FramesOption = None,
    fps: given.RateOption = None,
    size: given.SideOption = None,
    raw: given.RawOption = None,
    damage: given.DamageOption = "refuse",
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    refine: given.RefineOption = 0,
    rate_weight: given.RateWeightOption = 0.0,
    latents: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Precision of stored latents: fp16, bf16 or fp32; by default fp16."
        ),
    ] = None,
    pack: Annotated[
        bool,
        typer.Option("--pack", help="Pack ids without loss, by the packing model of --model."),
    ] = False,
    chunk: given.ChunkOption = None,
    tile: given.TileOption = None,
    memory: given.MemoryOption = None,
    jobs: given.JobsOption = 1,
    force: given.ForceOption = False,
) -> Report:
    """Encode videos as .reel files of tokens.

    IN is a video, an image, a folder of images, a folder of any of these, a pattern such as
    "clips/*.mp4", a list (.csv, .jsonl, .txt), a .tar shard, a URL, or - (standard input). Several
    files go into a folder that keeps the tree of their sources; outputs that exist, are complete
    and were made with the same settings are kept. Under torchrun each process encodes its share.
    """
    from reeltok.data.find import find_clips
    from reeltok.transcode.batch import run_plan
    from reeltok.transcode.encode import encode_file, is_encoded

    plan = own_share(plan_files(inputs, out, suffix=".reel", find=find_clips))
    if plan.named and out != PIPE and not out.endswith(".reel"):
        raise ValueError(f"{out} is not a name for tokens: give OUT.reel, a folder, or -")
    check_free(plan.named_targets, force=force)
    cut = Cut(
        start=start,
        frames=frames,
        fps=fps,
        size=given.parse_size(size),
        raw=raw,
        damage=damage,
    )
    store = str(given.parse_dtype(latents or "fp16", "--latents")).removeprefix("torch.")
    coding = Coding(chunk=chunk, tile=tile, memory=memory, jobs=jobs, latents=store, pack=pack)
    if not plan.jobs:  # other processes have them
        return summarize((), done="encoded")
    refined: dict[str, Any] = {"refine": refine, "rate_weight": rate_weight}
    tokenizer = given.open_model(model, weights=weights, device=device, dtype=dtype, **refined)
    if tokenizer.spec.vocabulary is not None:
        given.require_use("a continuous tokenizer", latents=latents)
    how: dict[str, Any] = {"cut": cut, "coding": coding}

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        made = encode_file(tokenizer, job.opened, job.target, on_progress=on_progress, **how)
        return job_record(job, made)

    def fits(job: Job) -> bool:
        return not job.older and is_encoded(tokenizer, job.opened, job.target, **how)

    with Progress("encoding", len(plan.jobs)) as watcher:
        outcomes = run_plan(plan, work, fits=fits, jobs=jobs, force=force, watcher=watcher)
    if not plan.named:
        return summarize(outcomes, done="encoded")
    return Report(data=outcomes[0].record, text=job_text(outcomes[0].record), piped=plan.piped)


def job_record(job: Job, made: "EncodedFile") -> dict[str, Any]:
    """What was made of a job, in numbers; less is known of a pipe."""
    record = {"input": job.source, "output": job.target, "frames": made.frames}
    record |= {"damaged": made.damaged} | ({} if made.reel is None else asdict(made.reel))
    return record | {"seconds": made.seconds, "rate": made.rate}


def job_text(record: dict[str, Any]) -> str:
    """The record of one file that was encoded or decoded, in two lines for people."""
    name = "standard output" if record["output"] == PIPE else record["output"]
    what = f"{name}: {count(record['frames'], 'frame')}"
    if "size" in record:
        what += f" of {plain(record['size'])}"
    if record.get("fps"):
        what += f" at {record['fps']:.6g} per second"
    if "bits_per_pixel" in record:
        of = f"ids below {record['vocabulary']:,}" if record["vocabulary"] else "latents"
        what += (
            f", {plain(record['tokens'])} {of} by {record['model']}\n"
            f"{said_bits(record)}, {record['bytes']:,} bytes"
        )
    speed = rate(record["frames"], record["seconds"])
    return f"{what}\n{record['seconds']:.2f} s, {speed} frames per second"


def said_bits(record: dict[str, Any]) -> str:
    """Bits per pixel in words; nominal and stored ones are told apart where ids are packed."""
    if not record.get("packing"):
        return f"{record['bits_per_pixel']:.4f} bits per pixel"
    stored, nominal = record["stored_bits_per_pixel"], record["bits_per_pixel"]
    return f"{stored:.4f} bits per pixel stored, {nominal:.4f} nominal"
