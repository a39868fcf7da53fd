"""`generate`: videos out of nothing, out of a class, or on from given frames."""

import time
from pathlib import Path
from typing import Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, table
from reeltok.files.places import check_free, check_place

Count = Annotated[int, typer.Option(min=1, metavar="N", help="Number of videos to make.")]
Seed = Annotated[
    int, typer.Option(metavar="N", help="Random seed: the same seed gives the same videos.")
]
ClassName = Annotated[
    str | None,
    typer.Option(
        "--class", metavar="NAME", help="Class to generate, by its name; by default no class."
    ),
]
Reader = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Tokenizer to decode with, a name or a folder; by default the one that MODEL names.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Number of sampling steps; by default 250 for a flow, 12 for a prior."
    ),
]
Guidance = Annotated[
    float,
    typer.Option(
        metavar="W",
        help="Classifier-free guidance scale: 1 is none, larger values follow the class "
        "more closely.",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Sampler of a flow: euler-maruyama, heun-sde, euler, heun or dopri5; by "
        "default euler-maruyama.",
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Masking schedule of a prior: cosine, linear, square, exponential, ...; by "
        "default cosine.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(metavar="T", help="Temperature of a prior's sampling; by default 4.5."),
]
Given = Annotated[
    Path | None,
    typer.Option(
        "--given",
        metavar="CLIP",
        help="Video whose first frames the generated videos continue, or whose missing "
        "parts they fill; by default none.",
    ),
]
GivenFrames = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Number of frames to take from the start of --given; by default 1."
    ),
]
LastFrames = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of frames to take from the end of --given as well, so that the frames"
        " in between are generated; by default 0.",
    ),
]
Inpaint = Annotated[
    str | None,
    typer.Option(
        metavar="T,L,B,R",
        help="Box to generate: pixels from the top and left edge to its top, left, bottom "
        "and right; the rest is taken from --given. By default none.",
    ),
]
Outpaint = Annotated[
    str | None,
    typer.Option(
        metavar="T,L,B,R",
        help="Box to keep from --given, in pixels as for --inpaint; the rest is generated."
        " By default none.",
    ),
]
Blocks = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of blocks to generate, each continuing the one before; by default 1.",
    ),
]
Actions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npy",
        help="NumPy array n x a: the a numbers of the action after each of n frames; by "
        "default none.",
    ),
]
Batch = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of videos to generate at the same time.")
]
Rate = Annotated[
    float | None,
    typer.Option(
        metavar="RATE",
        help="Frames per second to play at; by default the rate of the clips that MODEL "
        "was trained on.",
    ),
]
Suffix = Annotated[
    str, typer.Option(metavar=".mp4", help="Suffix of the videos, which chooses the container.")
]


def generate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False)],
    *,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder to write the videos to; required.")
    ],
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
    """Generate videos with a flow on latents, or with a masked prior on ids.

    MODEL is the folder of a generator (RUN/model of `reeltok train sit_cpu`, or a converted one).
    The videos are FOLDER/000.mp4 and so on; the same seed gives the same videos, whatever --batch.
    A prior can also continue the video --given, for as many --blocks as are asked for, or fill the
    parts of it that --last-frames, --inpaint or --outpaint leave open.
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
    pipeline = open_generator(model, request, tokenizer=tokenizer, device=device)
    out.mkdir(parents=True, exist_ok=True)
    videos = []
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
        for one in written:
            size = [one.height, one.width]
            videos.append({"output": str(one.path), "frames": one.frames, "size": size})
            videos[-1]["fps"] = one.fps
            progress.advance(one.frames, of=one.frames)
            progress.finish_file()
    seconds = time.monotonic() - began
    record = {"family": pipeline.family, "tokenizer": pipeline.clip.tokenizer, "seed": seed}
    return Report(
        data={**record, "videos": videos, "seconds": seconds},
        text=f"{table(videos)}\n{seconds:.1f} s",
    )
