"""`data push`: simulated robot pushing as clips to train on, with actions and true positions."""

from pathlib import Path
from typing import Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report
from reeltok.files.places import check_place
from reeltok.wording import count, rate


def make_push(
    out: Annotated[Path, typer.Argument(metavar="OUT", show_default=False)],
    *,
    episodes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of episodes that the folder will hold.")
    ] = 100,
    frames: Annotated[
        int,
        typer.Option(min=2, metavar="N", help="Number of frames in an episode, at 10 per second."),
    ] = 30,
    size: Annotated[
        int, typer.Option(metavar="N", help="Height and width of the frames in pixels.")
    ] = 64,
    seed: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Random seed: other seeds make other episodes."),
    ] = 0,
    shadows: Annotated[
        bool, typer.Option(help="Whether the lamp casts shadows, which double the time.")
    ] = True,
    jobs: Annotated[
        int, typer.Option(metavar="N", help="Number of processes that make episodes.")
    ] = 1,
    force: given.ForceOption = False,
) -> Report:
    """Simulate a robot that pushes objects on a table, filmed as in BAIR's data set.

    OUT/push-SEED-00000.mkv is lossless, 10 frames per second; push-SEED-00000.actions.npy holds 4
    numbers per frame (dx, dy, dz, grip), push-SEED-00000.truth.safetensors the true positions.
    Episodes that exist are kept. Needs the extra `sim`, and EGL or OSMesa.
    """
    from reeltok.worlds.episodes import PushPlan, make_episodes

    check_place(str(out))
    plan = PushPlan(
        folder=out, episodes=episodes, frames=frames, size=size, seed=seed, shadows=shadows
    )
    with Progress("simulating", episodes) as progress:
        made = make_episodes(
            plan,
            jobs=jobs,
            replace=force,
            on_frames=lambda done, of: progress.advance(done, of=of),
            on_episode=progress.finish_file,
        )
        speed = rate(progress.frames, progress.seconds)
    record = {"folder": str(out), "written": made.written, "kept": made.kept}
    record["frames_per_second"] = round(progress.rate, 1)
    told = f"{count(made.written, 'episode')} written to {out}, {made.kept} were there"
    return Report(data=record, text=f"{told}; {speed} frames per second" if made.written else told)
