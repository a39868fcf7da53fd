"""What a video holds that its pictures, read as plain RGB, do not show: a sentence each."""

from contextlib import closing
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

from reeltok.video.formats import open_container
from reeltok.video.inputs import VideoInput, open_input
from reeltok.video.size import Size, distorts, ratio_text, size_text

# Transfer characteristics by their codes in ITU-T H.273.
_HDR = {16: "PQ", 18: "HLG"}
PROGRESSIVE = 1  # FFmpeg's order of fields: 0 is unknown, from 2 on there are two fields


def comment_in(path: VideoInput) -> str | None:
    """The comment in the metadata of a video; None where there is none.

    Raises FileNotFoundError, or ValueError for what is not a video.
    """
    with closing(open_input(path)) as taken, open_container(taken.file, taken.name) as container:
        return {name.lower(): text for name, text in container.metadata.items()}.get("comment")


def remarks_on(frame: av.VideoFrame, stream: Any, name: str) -> tuple[str, ...]:
    """Notes on a video by its first frame: interlacing and high dynamic range."""
    notes = []
    if frame.interlaced_frame or stream.codec_context.field_order > PROGRESSIVE:
        notes.append(
            f"{name} is interlaced: its frames are read as they are, two moments in each "
            "(deinterlace it first if moving edges look combed)"
        )
    if (transfer := _HDR.get(int(frame.color_trc))) is not None:
        notes.append(
            f"{name} is HDR ({transfer}): it is read without tone mapping, so that it looks flat "
            "wherever its colour tags are not followed"
        )
    return tuple(notes)


def shape_notes(
    name: str, found: tuple[int, int], aspect: Fraction, target: tuple[int, int], size: Size
) -> tuple[str, ...]:
    """Notes on pixels that are not square, and on a (height, width) that distorts the pictures."""
    pixels = "" if aspect == 1 else f" with pixels of {ratio_text(aspect)}"
    if isinstance(size, tuple):
        if not distorts(*found, aspect, target):
            return ()
        advice = f"the short side alone, {min(size)}, keeps it"
        return (
            f"{name} is {size_text(*found)}{pixels}: {size_text(*size)} distorts its shape "
            f"({advice})",
        )
    if aspect == 1 or callable(size):
        return ()
    return (
        f"{name} is {size_text(*found)}{pixels}, read as they are stored: writing keeps the ratio",
    )


def sound_in(container: InputContainer) -> str | None:
    """The codec of the first sound track, or None."""
    tracks: Any = container.streams.audio
    return tracks[0].codec_context.name if tracks else None
