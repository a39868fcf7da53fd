"""`drive`: a page on which a prior of the pushing world is driven by keys."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.report import Report
from reeltok.cli.serving import prepare_serving, say_address

if TYPE_CHECKING:
    from reeltok.viewer.drive.server import Pages
    from reeltok.viewer.drive.world import Start


def drive(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False)] = Path(
        "prior-push"
    ),
    *,
    starts: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Episodes of `reeltok data push` to begin with; by default the frames that come "
            "along with MODEL, or else some are simulated.",
        ),
    ] = None,
    tokenizer: given.PriorTokenizerOption = None,
    steps: given.PriorStepsOption = None,
    guidance: given.PriorGuidanceOption = None,
    token_temperature: given.PriorTemperatureOption = None,
    seed: given.SeedOption = 0,
    host: given.HostOption = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=65535,
            help="Port to listen on; by default the first free one from 7870.",
        ),
    ] = None,
    device: given.DeviceOption = "auto",
) -> Report:
    """Open a web page on which a prior with actions is driven: a world that is predicted.

    Arrow keys or dragging move the gripper, the prior predicts the next frames and its tokenizer
    decodes them. Beside them stands the simulator's truth where the extra `sim` is installed. The
    drive can be saved as an mp4. MODEL is the folder of a prior, such as RUN/model of `reeltok
    train prior_push`; by default the one that comes along, prior-push. Ctrl-C ends it.
    """
    from reeltok.viewer.drive.server import serve_pages

    how = {"steps": steps, "guidance": guidance, "token_temperature": token_temperature}
    pages = open_drive(model, starts, tokenizer, how, seed, device)
    prepare_serving(host)
    serve_pages(pages, host=host, port=port, ready=say_address)
    return Report(data={"closed": True}, text="")


def open_drive(
    model: Path,
    starts: str | None,
    tokenizer: str | None,
    how: dict[str, Any],
    seed: int,
    device: str,
) -> "Pages":
    """The page of a prior, decoded as `how` (of `Sampling`) or as it says, and its first frames.

    ValueError for a prior that cannot be driven, ImportError where nothing can be simulated.
    """
    from reeltok.devices import pick_device
    from reeltok.generate.folder import STARTS, find_generator
    from reeltok.generate.predictor import PriorPredictor
    from reeltok.viewer.drive.server import Pages
    from reeltok.viewer.drive.sessions import Sessions
    from reeltok.viewer.drive.world import WorldModel

    prior = PriorPredictor(model, tokenizer=tokenizer, device=pick_device(device))
    prior.sampling = prior.sampling.with_(**how)
    world = WorldModel(prior, folder=model)
    sessions = Sessions(world, [], seed=seed)
    try:
        own = find_generator(model) / STARTS
        folder = str(own) if starts is None and own.is_dir() else starts
        sessions.starts = sessions.work(find_starts, folder, world.side)
    except BaseException:
        sessions.close()
        raise
    return Pages(sessions)


SHOWN = 32  # starts to choose among
FIRST_SEED = 1_000_003  # of episodes that nobody trains on


def find_starts(folder: str | None, side: int) -> "list[Start]":
    """The first frames of a folder's episodes, or of a few that are simulated now."""
    from reeltok.data.find import find_clips
    from reeltok.viewer.drive.world import simulated_start, start_of

    if folder is not None:
        return [start_of(clip, side) for clip in find_clips(folder)[:SHOWN]]
    try:
        return [simulated_start(FIRST_SEED, number, side) for number in range(8)]
    except ImportError as error:
        raise ImportError(f"{error}; or give --starts FOLDER with episodes to begin with") from None
