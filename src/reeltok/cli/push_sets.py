"""`push sets`: how generated videos of the pushing world move, against real ones."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, note_all, save_record, table
from reeltok.files.places import check_result

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from reeltok.data.clip import Clip
    from reeltok.evaluate.push.sets import SetScore

EVERY = 16  # frames from one training window to the next
SHOWN = 8  # videos in the picture of --shown


def push_sets(
    made: Annotated[str, typer.Argument(metavar="MADE", show_default=False)],
    real: Annotated[str, typer.Argument(metavar="REAL", show_default=False)],
    *,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Episodes that the generator was trained on, to find the nearest window of each "
            "video; by default none.",
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
    shown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.mp4",
            help="Video to write: the first eight of MADE, and below each the nearest window of "
            "--train; by default none.",
        ),
    ] = None,
    out: given.ResultOption = None,
    device: given.DeviceOption = "auto",
    force: given.ForceOption = False,
) -> Report:
    """Compare how generated and real videos of the pushing world move, as two sets.

    MADE and REAL are folders or lists. One half of the real videos is the reference; the other
    half, and itself coded, frozen, shuffled and blurred, show what a gap between sets means: the
    distance of two distributions, from 0 to 1 (Kolmogorov-Smirnov), averaged over all statistics.
    The distance beside it is the appearance distance (Fréchet, features of AlexNet). Larger sets
    are nearer by chance: all are compared in groups of as many videos as the smallest has.
    """
    check_result(out, force=force, inputs=[made, real])
    if shown is not None:
        if train is None:
            raise ValueError(f"--shown {shown} needs episodes to show: give --train")
        check_result(shown, force=force, inputs=[made, real, train, *([out] if out else [])])
    from reeltok.cli.fvd import said_of_codec
    from reeltok.cli.push import open_lpips
    from reeltok.data.find import find_clips
    from reeltok.evaluate.push.seen import distances_between
    from reeltok.evaluate.push.sets import SPOILED, compare_sets
    from reeltok.evaluate.sets import lossy_codec

    note_all(said_of_codec(lossy_codec(made)))
    whole = read_videos(real, frames, videos)
    size = whole[0].shape[1:3]
    known = None if train is None else read_sketches(train, frames, size)
    reference, other = whole[::2], whole[1::2]
    sets = {"made": read_videos(made, frames, videos, size), "real, other half": other}
    if tokenizer is not None:
        sets["reconstructions"] = recode(other, tokenizer, device)
    sets |= {name: [spoil(video) for video in other] for name, spoil in SPOILED.items()}
    found = compare_sets(reference, sets)
    lpips, missing = open_lpips(find_clips(real)[0])
    far = {} if lpips is None else distances_between(lpips, reference, sets)
    record: dict[str, Any] = {"frames": frames, "reference": len(reference)}
    record["sets"] = {name: asdict(score) for name, score in found.items()}
    record |= {"distances": far, "missing": missing}
    lines = told_of(found, far, missing)
    if known is not None:
        record["nearest"], line = nearest_of(sets["made"], whole, known, frames, shown)
        lines.append(line)
    if out is not None:
        save_record(record, out)
    return Report(data=record, text="\n".join(lines))


def told_of(
    found: "dict[str, SetScore]", far: dict[str, float], missing: Mapping[str, str]
) -> list[str]:
    """Gaps and distances of all sets as lines, and where the made one stands between the others."""
    rows = [
        {"set": name, "videos": score.videos, "gap": score.gap, "distance": far.get(name)}
        | score.means
        for name, score in found.items()
    ]
    each = [{"set": name, **score.gaps} for name, score in found.items()]
    lines = [table(rows), "", "gap of each statistic", table(each), ""]
    gaps = {name: score.gap for name, score in found.items()}
    lines += [placed(kind, of) for kind, of in {"gap": gaps, "distance": far}.items() if of]
    return [*lines, *(f"no {name}: {why}" for name, why in missing.items())]


def placed(kind: str, of: dict[str, float]) -> str:
    """Whether what was made is nearer to what is good than to shuffled videos."""
    good = "reconstructions" if "reconstructions" in of else "real, other half"
    made, low, high = of["made"], of[good], of["shuffled"]
    nearer = "nearer" if abs(made - low) < abs(made - high) else "not nearer"
    return (
        f"by {kind}, made ({made:.3g}) is {nearer} to {good} ({low:.3g}) than to shuffled "
        f"({high:.3g})"
    )


def read_videos(
    data: str, frames: int, most: int, size: tuple[int, ...] | None = None
) -> "list[np.ndarray]":
    """The first frames of videos of one `size` (height, width), by default that of the first.

    ValueError for one that is shorter, or of another size.
    """
    from reeltok.data.find import find_clips

    clips, found = find_clips(data)[:most], list[Any]()
    with Progress("reading", len(clips)) as progress:
        for clip in clips:
            video = clip.read(frames=frames).frames.numpy()
            if len(video) < frames:
                raise ValueError(f"{clip.name} has {len(video)} frames: give --frames so many")
            size = size or video.shape[1:3]
            require_size(clip.name, video, size)
            found.append(video)
            progress.finish_file()
    return found


def require_size(name: str, video: "np.ndarray", size: tuple[int, ...]) -> None:
    """ValueError for a video of another size: speeds and distances are in pixels."""
    if video.shape[1:3] != size:
        from reeltok.video.size import size_text

        found, wanted = size_text(*video.shape[1:3]), size_text(*size)
        raise ValueError(
            f"{name} has {found} pixels, the videos before it {wanted}: give all in one size"
        )


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
    made: "list[np.ndarray]",
    real: "list[np.ndarray]",
    known: "tuple[list[tuple[Clip, int]], Tensor]",
    frames: int,
    shown: Path | None,
) -> tuple[dict[str, Any], str]:
    """The nearest of the training windows `known`, and how far real videos are from theirs.

    `shown`: the video to write of them.
    """
    import numpy as np
    import torch

    from reeltok.evaluate.push.sets import nearest_sketches, sketch

    windows, among = known
    ours, theirs = (
        nearest_sketches(torch.stack([sketch(video) for video in each]), among)
        for each in (made, real)
    )
    means = [float(np.mean(each.distances)) for each in (ours, theirs)]
    found = [windows[number] for number in ours.numbers]
    record = {
        "made": means[0],
        "real": means[1],
        "episodes": [clip.name for clip, _ in found],
        "starts": [start for _, start in found],
        "distances": list(ours.distances),
    }
    if shown is not None:
        show_nearest(made[:SHOWN], found[:SHOWN], frames, shown)
    said = f"the nearest of {len(windows)} training windows is {means[0]:.1f} levels away"
    return record, f"{said} (RMS at 16x16), that of real videos {means[1]:.1f}"


def read_sketches(
    train: str, frames: int, size: tuple[int, ...]
) -> "tuple[list[tuple[Clip, int]], Tensor]":
    """Windows of the training episodes, one every sixteen frames, and a sketch of each."""
    import torch

    from reeltok.data.find import find_clips
    from reeltok.evaluate.push.sets import sketch

    windows, rows = list[Any](), list[Any]()
    clips = find_clips(train)
    with Progress("reading", len(clips)) as progress:
        for clip in clips:
            video = clip.read().frames.numpy()
            if len(video) < frames:
                raise ValueError(f"{clip.name} has {len(video)} frames: give --frames so many")
            require_size(clip.name, video, size)
            for start in range(0, len(video) - frames + 1, EVERY):
                windows.append((clip, start))
                rows.append(sketch(video[start : start + frames]))
            progress.finish_file()
    return windows, torch.stack(rows)


def show_nearest(
    made: "list[np.ndarray]", nearest: "list[tuple[Clip, int]]", frames: int, path: Path
) -> None:
    """Write a video: what was made above, the training window that is nearest below."""
    import numpy as np
    import torch

    from reeltok.video.record import Video, write

    real = [clip.read(frames=start + frames).frames.numpy()[start:] for clip, start in nearest]
    rows = [np.concatenate(each, axis=2) for each in (made, real)]
    both = torch.from_numpy(np.concatenate(rows, axis=1))
    write(Video.of(both, fps=10.0), path)
