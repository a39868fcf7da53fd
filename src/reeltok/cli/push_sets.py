"""`push sets`: how generated videos of the pushing world move, against real ones."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, save_record, table
from reeltok.files.places import check_result

if TYPE_CHECKING:
    import numpy as np


def push_sets(
    made: Annotated[str, typer.Argument(metavar="MADE", show_default=False)],
    real: Annotated[str, typer.Argument(metavar="REAL", show_default=False)],
    *,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Episodes that the generator was trained on, to find the nearest of each video; "
            "by default none.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Tokenizer whose reconstructions stand beside the videos; by default none.",
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=3, metavar="N", help="Frames of a video to use.")
    ] = 128,
    videos: Annotated[
        int, typer.Option(min=4, metavar="N", help="Number of videos to use at most, of each set.")
    ] = 256,
    out: given.ResultOption = None,
    device: given.DeviceOption = "auto",
    force: given.ForceOption = False,
) -> Report:
    """Compare how generated and real videos of the pushing world move, as two sets.

    MADE and REAL are folders or lists. One half of the real videos is the reference; the other
    half, and itself coded, frozen, shuffled and blurred, show what a gap between sets means: the
    distance of two distributions, from 0 to 1 (Kolmogorov-Smirnov), averaged over all statistics.
    """
    check_result(out, force=force, inputs=[made, real])
    from reeltok.evaluate.push.sets import SPOILED, compare_sets

    whole = read_videos(real, frames, videos)
    reference, other = whole[::2], whole[1::2]
    sets = {"made": read_videos(made, frames, videos), "real, other half": other}
    if tokenizer is not None:
        sets["reconstructions"] = recode(other, tokenizer, device)
    sets |= {name: [spoil(video) for video in other] for name, spoil in SPOILED.items()}
    found = compare_sets(reference, sets)
    record: dict[str, Any] = {"frames": frames, "reference": len(reference)}
    record["sets"] = {name: asdict(score) for name, score in found.items()}
    rows = [
        {"set": name, "videos": score.videos, "gap": score.gap, **score.means}
        for name, score in found.items()
    ]
    lines = [table(rows)]
    if train is not None:
        record["nearest"], line = nearest_of(sets["made"], whole, train, frames)
        lines += ["", line]
    if out is not None:
        save_record(record, out)
    return Report(data=record, text="\n".join(lines))


def read_videos(data: str, frames: int, most: int) -> "list[np.ndarray]":
    """The first frames of videos. ValueError for one that is shorter, or of another size."""
    from reeltok.data.find import find_clips

    clips, found = find_clips(data)[:most], list[Any]()
    with Progress("reading", len(clips)) as progress:
        for clip in clips:
            video = clip.read(frames=frames).frames.numpy()
            if len(video) < frames:
                raise ValueError(f"{clip.name} has {len(video)} frames: give --frames so many")
            if found and video.shape != found[0].shape:
                raise ValueError(f"{clip.name} has another size than {clips[0].name}: give one")
            found.append(video)
            progress.finish_file()
    return found


def recode(videos: "list[np.ndarray]", tokenizer: str, device: str) -> "list[np.ndarray]":
    """Reconstructions of videos."""
    import torch

    from reeltok import zoo
    from reeltok.devices import pick_device
    from reeltok.evaluate.push.candidates import pixels_of
    from reeltok.video.record import to_unit

    model, found = zoo.load(tokenizer, device=pick_device(device)), list[Any]()
    with torch.no_grad():
        for video in videos:
            made = model.decode(model.encode(to_unit(torch.from_numpy(video)).to(model.device)))
            assert isinstance(made, torch.Tensor)
            found.append(pixels_of(made)[0])
    return found


def nearest_of(
    made: "list[np.ndarray]", real: "list[np.ndarray]", train: str, frames: int
) -> tuple[dict[str, Any], str]:
    """The nearest training episode of each made video, and how far real ones are from theirs."""
    import numpy as np

    from reeltok.data.find import find_clips
    from reeltok.evaluate.push.sets import nearest_videos

    names = [clip.name for clip in find_clips(train)]
    among = read_videos(train, frames, len(names))
    ours, theirs = nearest_videos(made, among), nearest_videos(real, among)
    means = [float(np.mean(each.distances)) for each in (ours, theirs)]
    record = {
        "made": means[0],
        "real": means[1],
        "episodes": [names[number] for number in ours.numbers],
        "distances": list(ours.distances),
    }
    said = f"the nearest of {len(names)} training episodes is {means[0]:.1f} levels away"
    return record, f"{said} (RMS at 16x16), that of real videos {means[1]:.1f}"
