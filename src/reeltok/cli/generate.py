"""`generate`: videos out of nothing, out of a class, or on from given frames."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, table
from reeltok.files.places import check_free, check_place

SAMPLE = re.compile(r"\d{3,}\.\w+")  # what a run calls its videos

if TYPE_CHECKING:
    from reeltok.video.record import Written

CountOption = Annotated[int, typer.Option(min=1, metavar="N", help="Number of videos to make.")]
SeedOption = Annotated[
    int, typer.Option(metavar="N", help="Random seed: the same seed gives the same videos.")
]
ClassNameOption = Annotated[
    str | None,
    typer.Option(
        "--class", metavar="NAME", help="Class to generate, by its name; by default no class."
    ),
]
ReaderOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Tokenizer to decode with, a name or a folder; by default the one that MODEL names.",
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of sampling steps; by default 250 for a flow (dopri5 chooses its own), 12 for "
        "a prior or what its folder says.",
    ),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        metavar="W",
        help="Classifier-free guidance scale: 1 is none, larger values follow class and actions "
        "more closely; by default 1, or what a prior's folder says.",
    ),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Sampler of a flow: euler-maruyama, heun-sde, euler, heun or dopri5; by "
        "default euler-maruyama.",
    ),
]
ScheduleOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Masking schedule of a prior: cosine, linear, square, exponential, ...; by "
        "default cosine.",
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Temperature at which a prior chooses the ids to keep in each step; by default 4.5.",
    ),
]
GivenOption = Annotated[
    Path | None,
    typer.Option(
        "--given",
        metavar="CLIP",
        help="Video whose first frames the generated videos continue, or whose missing "
        "parts they fill; by default none.",
    ),
]
GivenFramesOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Number of frames to take from the start of --given; by default 1."
    ),
]
LastFramesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of frames to take from the end of --given as well, so that the frames"
        " in between are generated; by default none.",
    ),
]
InpaintOption = Annotated[
    str | None,
    typer.Option(
        metavar="T,L,B,R",
        help="Box to generate: pixels from the top and left edge to its top, left, bottom "
        "and right; the rest is taken from --given. By default none.",
    ),
]
OutpaintOption = Annotated[
    str | None,
    typer.Option(
        metavar="T,L,B,R",
        help="Box to keep from --given, in pixels as for --inpaint; the rest is generated."
        " By default none.",
    ),
]
BlocksOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of blocks to generate, each continuing the one before; by default 1.",
    ),
]
ActionsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npy",
        help="NumPy array n x a: the a numbers of the action after each of n frames; by "
        "default none.",
    ),
]
BatchOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of videos to generate at the same time.")
]
RateOption = Annotated[
    float | None,
    typer.Option(
        metavar="RATE",
        help="Frames per second to play at; by default the rate of the clips that MODEL "
        "was trained on.",
    ),
]
SuffixOption = Annotated[
    str | None,
    typer.Option(
        metavar=".mp4",
        help="Suffix of the videos, which chooses the container; by default .mp4, or .mkv with "
        "--lossless.",
    ),
]


def generate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False)],
    *,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder to write the videos to; required.")
    ],
    count: CountOption = 1,
    seed: SeedOption = 0,
    class_name: ClassNameOption = None,
    tokenizer: ReaderOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    sampler: SamplerOption = None,
    schedule: ScheduleOption = None,
    temperature: TemperatureOption = None,
    token_temperature: given.PriorTemperatureOption = None,
    given_clip: GivenOption = None,
    given_frames: GivenFramesOption = None,
    last_frames: LastFramesOption = None,
    inpaint: InpaintOption = None,
    outpaint: OutpaintOption = None,
    blocks: BlocksOption = None,
    actions: ActionsOption = None,
    batch: BatchOption = 4,
    fps: RateOption = None,
    suffix: SuffixOption = None,
    lossless: given.LosslessOption = False,
    device: given.DeviceOption = "auto",
    force: given.ForceOption = False,
) -> Report:
    """Generate videos with a flow on latents, or with a masked prior on ids.

    MODEL is prior-push or sit-push, which come along, or the folder of a generator (RUN/model of
    `reeltok train sit_cpu`, or a converted one). The videos are FOLDER/000.mp4 and so on; the same
    seed gives the same videos, whatever --batch. A prior can also continue the video --given, for
    as many --blocks as are asked for, or fill the parts of it that --last-frames, --inpaint or
    --outpaint leave open. prior-push begins with frames and actions of its own where --given and
    --actions name no others.
    """
    from reeltok.generate.pipeline import GenerationRequest, generate_files, open_generator

    began = time.monotonic()
    request = GenerationRequest(
        class_name=class_name,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        schedule=schedule,
        temperature=temperature,
        token_temperature=token_temperature,
        given=given_clip,
        given_frames=given_frames,
        last_frames=last_frames,
        inpaint=inpaint,
        outpaint=outpaint,
        blocks=blocks,
        actions=actions,
    )
    kind = given.parse_suffix(suffix, lossless=lossless)
    targets = [out / f"{number:03d}{kind}" for number in range(count)]
    inputs = [given_clip, actions]
    check_samples(out, targets, lossless=lossless, force=force, inputs=inputs)
    pipeline = open_generator(model, request, tokenizer=tokenizer, device=device)
    out.mkdir(parents=True, exist_ok=True)
    with Progress("generating", count) as progress:
        written = generate_files(
            pipeline,
            targets,
            seed=seed,
            batch=batch,
            fps=fps,
            lossless=lossless,
            on_step=lambda: progress.advance(0, of=1),
        )
        videos = list(written_rows(written, progress))
    seconds = time.monotonic() - began
    record = {"family": pipeline.family, "tokenizer": pipeline.clip.tokenizer, "seed": seed}
    record |= {"videos": videos, "seconds": seconds}
    return Report(data=record, text=f"{table(videos)}\n{seconds:.1f} s")


def check_samples(
    out: Path,
    targets: Sequence[Path],
    *,
    lossless: bool,
    force: bool,
    inputs: Sequence[Path | None],
) -> None:
    """ValueError for a suffix that holds no such videos; errors of `check_place`, `check_free`.

    FileExistsError where `out` holds other samples, which would be judged with these as one set.
    Also with --force, which replaces files: nothing says whether the others are a run's or yours.
    """
    from reeltok.data.kinds import is_video
    from reeltok.video.sink import check_form

    check_form(targets[0], lossless=lossless)
    check_place(str(out))
    check_free(list(map(str, targets)), force=force, inputs=inputs)
    mine = {path.name for path in targets}
    inside = sorted(out.iterdir()) if out.is_dir() else []
    others = [path for path in inside if SAMPLE.fullmatch(path.name) and is_video(path)]
    left = next((path for path in others if path.name not in mine), None)
    if left is not None:
        raise FileExistsError(
            f"{out} holds {left.name}, which this run does not write: remove it, or name another "
            "folder"
        )


def written_rows(written: "Iterable[Written]", progress: Progress) -> Iterator[dict[str, Any]]:
    """What was written of each video, which counts as done then."""
    for one in written:
        progress.advance(one.frames, of=one.frames)
        progress.finish_file()
        size = [one.height, one.width]
        yield {"output": str(one.path), "frames": one.frames, "size": size, "fps": one.fps}
