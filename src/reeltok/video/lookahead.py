"""How many frames x264 and x265 hold while they encode, and the options that bound it."""

import os

AHEAD = 40 * 1280 * 720  # pixels that they look ahead at most
LARGE = 1920 * 1200  # pixels; of larger frames x264 otherwise holds some twenty
THREADS = 4  # of x264 at most: each holds two or three frames more
FEW_FRAMES = {"rc-lookahead": "2", "bf": "0", "refs": "1", "threads": "1"}


def frames_ahead(pixels: float) -> int:
    """How many frames of `pixels` x264 looks ahead, of up to LARGE pixels."""
    return min(40, int(AHEAD // pixels))  # 40: what it takes by itself


def x264_options(pixels: int) -> dict[str, str]:
    """What bounds the frames that x264 holds of `pixels` each."""
    if pixels > LARGE:
        return FEW_FRAMES
    ahead = frames_ahead(pixels)
    known = hasattr(os, "sched_getaffinity")
    processors = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    many = {"threads": str(THREADS)} if 3 * processors // 2 > THREADS else {}  # its own rule
    return many | ({"rc-lookahead": str(ahead)} if ahead < 40 else {})


def x265_options(pixels: int) -> str:
    """The same of x265, to be joined to its others."""
    ahead = AHEAD // pixels
    return f":rc-lookahead={max(5, ahead)}" if ahead < 20 else ""
