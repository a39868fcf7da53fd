"""`generate`: videos out of nothing, out of a class, or on from given frames."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.files import check_free, check_place
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, table

if TYPE_CHECKING:
    from torch import Tensor

    from reeltok.generate.pipeline import Work

Count = Annotated[int, typer.Option(min=1, metavar="N", help="How many videos.")]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed, the same videos.")]
ClassName = Annotated[
    str | None, typer.Option("--class", metavar="NAME", help="What they are to show.")
]
Reader = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where the tokenizer lies, if the model does not say."),
]
Steps = Annotated[
    int | None, typer.Option(metavar="N", help="250 points in time of a flow, 12 of a prior.")
]
Guidance = Annotated[float, typer.Option(metavar="W", help="Above 1: further towards the class.")]
Sampler = Annotated[
    str | None, typer.Option(metavar="NAME", help="euler-maruyama, heun-sde, euler, heun, dopri5.")
]
Schedule = Annotated[
    str | None, typer.Option(metavar="NAME", help="cosine, linear, square, exponential, ...")
]
Temperature = Annotated[
    float | None, typer.Option(metavar="T", help="Of a prior's choices; 4.5 if not given.")
]
Given = Annotated[
    Path | None, typer.Option("--given", metavar="CLIP", help="The video begins with this.")
]
GivenFrames = Annotated[int | None, typer.Option(metavar="N", help="Frames of it, 1 if not given.")]
LastFrames = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="And its last N: what lies between is new.")
]
Inpaint = Annotated[
    str | None, typer.Option(metavar="T,L,B,R", help="Only this box of --given is new, in pixels.")
]
Outpaint = Annotated[
    str | None, typer.Option(metavar="T,L,B,R", help="All of --given but this box is new.")
]
Blocks = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="So many blocks, each on the last.")
]
Actions = Annotated[
    Path | None, typer.Option(metavar="FILE.npy", help="Actions after each frame, n x a.")
]
Batch = Annotated[int, typer.Option(min=1, metavar="N", help="Videos at a time.")]
Rate = Annotated[float | None, typer.Option(metavar="RATE", help="Play at this rate.")]
Suffix = Annotated[str, typer.Option(metavar=".mp4", help="The kind of video.")]


def generate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the videos go.")],
    count: Count = 1,
    seed: Seed = 0,
    class_name: ClassName = None,
    tokenizer: Reader = None,
    steps: Steps = None,
    guidance: Guidance = 1.0,
    sampler: Sampler = None,
    schedule: Schedule = None,
    temperature: Temperature = None,
    given_clip: Given = None,
    given_frames: GivenFrames = None,
    last_frames: LastFrames = None,
    inpaint: Inpaint = None,
    outpaint: Outpaint = None,
    blocks: Blocks = None,
    actions: Actions = None,
    batch: Batch = 4,
    fps: Rate = None,
    suffix: Suffix = ".mp4",
    lossless: given.Lossless = False,
    device: given.Device = "auto",
    force: given.Force = False,
) -> Report:
    """Make new videos with a generator: a flow on latents, or a prior on ids.

    MODEL is the folder of a generator (RUN/model of `reeltok train sit_cpu`, or a converted one).
    Videos are FOLDER/000.mp4 and so on; the same seed gives the same ones, whatever --batch. A
    prior also goes on from the frames of --given, and --blocks makes it long; or it fills what
    --last-frames, --inpaint or --outpaint leave open of that video.
    """
    from reeltok.generate.pipeline import Wish, open_generator

    began = time.monotonic()
    wish = Wish(
        class_name=class_name,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        schedule=schedule,
        temperature=temperature,
        given=given_clip,
        given_frames=given_frames,
        last_frames=last_frames,
        inpaint=inpaint,
        outpaint=outpaint,
        blocks=blocks,
        actions=actions,
    )
    targets = [out / f"{number:03d}{'.mkv' if lossless else suffix}" for number in range(count)]
    check_place(str(out))
    names = [str(target) for target in targets]
    check_free(names, force=force, inputs=[given_clip, actions])
    work = open_generator(model, wish, tokenizer=tokenizer, device=device)
    out.mkdir(parents=True, exist_ok=True)
    form = {"fps": fps or work.fps, "lossless": lossless}
    videos = write_all(work, targets, seed=seed, batch=batch, form=form)
    seconds = time.monotonic() - began
    record = {"family": work.family, "tokenizer": work.clip.tokenizer, "seed": seed}
    return Report(
        data={**record, "videos": videos, "seconds": seconds},
        text=f"{table(videos)}\n{seconds:.1f} s",
    )


def write_all(
    work: "Work", targets: list[Path], *, seed: int, batch: int, form: dict[str, Any]
) -> list[dict[str, Any]]:
    """Generate and write the videos, `batch` at a time; what was written, in numbers."""
    from reeltok.video.record import write

    rows, batch = [], min(batch, work.most or batch)
    with Progress("generating", len(targets)) as progress:
        for first in range(0, len(targets), batch):
            names = targets[first : first + batch]
            tell = lambda at: progress.advance(0, of=1)
            parts = work.make(len(names), seed, first, tell)
            held = parts if len(names) == 1 else list(parts)
            for number, name in enumerate(names):
                written = write(as_videos(held, number, form["fps"]), name, **form)
                size = [written.height, written.width]
                rows.append({"output": str(name), "frames": written.frames, "size": size})
                rows[-1]["fps"] = written.fps
                progress.advance(written.frames, of=written.frames)
                progress.finish_file()
    return rows


def as_videos(parts: "Iterator[Tensor] | list[Tensor]", number: int, fps: float) -> "Iterator":
    """One clip of a batch, part by part."""
    from reeltok.video.record import Video

    for part in parts:
        yield Video.of(part[number : number + 1].float().clamp(-1, 1), fps=fps)
