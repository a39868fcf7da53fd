"""How true is the conversion of decoded frames to RGB, and what does it cost?

    python bench/colour.py [--frames 5] [--out FILE.json]

Takes the first frames of every clip of the evaluation set (REELTOK_SHARED, default ../shared) and
compares three ways to RGB: `exact` (planes brought to 4:4:4, then the formula of the clip's matrix
in float64), `ours` (`reeltok.video.colour.ToRGB`), `fast` (FFmpeg's default, the same matrix).
Differences from `exact` are in levels; cost is processor time for each frame, ours over fast.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import numpy as np
from machine import describe

from reeltok.video.colour import ToRGB
from reeltok.video.tags import Colour

# Red and blue weights (ITU-T H.273) by matrix code, and swscale's name for the matrix.
WEIGHTS = {1: (0.2126, 0.0722, "ITU709"), 5: (0.299, 0.114, "ITU601"), 6: (0.299, 0.114, "ITU601")}


def exact(frame: av.VideoFrame) -> np.ndarray:
    """The standard's formula, limited range, from planes brought to full size."""
    flags = av.video.reformatter.Interpolation
    planes = frame.reformat(
        format="yuv444p", interpolation=flags.BILINEAR | flags.ACCURATE_RND | flags.FULL_CHR_H_INP
    ).to_ndarray(channel_last=True)
    red, blue, _ = WEIGHTS[Colour.of(frame).matrix_for(frame.height)]
    y, u, v = ((planes - [16, 128, 128.0]) / [219, 224, 224]).transpose(2, 0, 1)
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1) * 255, 0, 255)


def fast(frame: av.VideoFrame) -> np.ndarray:
    """What FFmpeg does unless it is told otherwise."""
    matrix = WEIGHTS[Colour.of(frame).matrix_for(frame.height)][2]
    return frame.reformat(format="rgb24", src_colorspace=matrix, threads=1).to_ndarray()


def cost(way: Callable[[av.VideoFrame], np.ndarray], frames: list[av.VideoFrame]) -> float:
    """Milliseconds of processor time for each frame, the best of three rounds."""
    rounds = []
    for _ in range(3):
        begin = time.process_time()
        for frame in frames:
            way(frame)
        rounds.append(time.process_time() - begin)
    return min(rounds) / len(frames) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    clips = sorted(Path(os.environ.get("REELTOK_SHARED", "../shared"), "data/eval").glob("*.mp4"))
    rows = []
    for clip in clips:
        with av.open(str(clip)) as source:
            frames = list(islice(source.decode(video=0), arguments.frames))
        row = {"clip": clip.name}
        for name, way in (("ours", ToRGB()), ("fast", fast)):
            error = np.stack([way(frame) - exact(frame) for frame in frames])
            row |= {f"{name}_mean": error.mean(), f"{name}_max": np.abs(error).max()}
            row[f"{name}_ms"] = cost(way, frames)
        rows.append(row)
    columns = [key for key in rows[0] if key != "clip"]
    result = {
        "clips": len(rows),
        "machine": describe(),
        "mean": {key: round(float(np.mean([row[key] for row in rows])), 3) for key in columns},
        "worst": {key: round(float(np.max([row[key] for row in rows])), 3) for key in columns},
        "ms_ratio": round(sum(r["ours_ms"] for r in rows) / sum(r["fast_ms"] for r in rows), 2),
    }
    text = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
