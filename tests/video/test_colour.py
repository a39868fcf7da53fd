"""Colours keep their values: matrices, ranges, depths, alpha, and the tags that say so."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange
from small_clips import Clip
from torch import Tensor

from reeltok.video.colour import ToRGB
from reeltok.video.record import Video, read, write
from reeltok.video.tags import RANGES, UNTAGGED, Colour

KNOWN = torch.tensor(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [16, 200, 220], [128, 128, 128]],
    dtype=torch.uint8,
)
BT709 = {"colorspace": 1, "color_primaries": 1, "color_trc": 1}
BT601 = {"colorspace": 6, "color_primaries": 6, "color_trc": 6}
BT2020 = {"colorspace": 9, "color_primaries": 9, "color_trc": 14}


def patches(colours: Tensor = KNOWN, frames: int = 3, side: int = 16) -> Tensor:
    """Flat squares of the known colours in a row."""
    row = colours.repeat_interleave(side, 0)
    return row.expand(side, *row.shape).expand(frames, -1, -1, -1).contiguous()


def centres(frames: Tensor, side: int = 16) -> Tensor:
    return frames[0, frames.shape[1] // 2, side // 2 :: side].int()


@pytest.mark.parametrize("layout", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("tags", "matrix"), [(BT709, 1), (BT601, 5), (BT2020, 9)])
def test_tagged_clips_keep_colours_and_tags(
    clip: Clip, tmp_path: Path, layout: str, full: bool, tags: dict[str, int], matrix: int
) -> None:
    tags = {**tags, "color_range": 2 if full else 1}
    path = clip("a.mp4", patches(), layout=layout, matrix=matrix, tags=tags, options={"crf": "4"})
    video = read(path)
    assert (centres(video.frames) - KNOWN).abs().max() <= 5
    assert video.colour == Colour(
        matrix=tags["colorspace"],
        primaries=tags["color_primaries"],
        transfer=tags["color_trc"],
        range="full" if full else "limited",
    )
    write(video, tmp_path / "b.mp4", crf=4)
    again = read(tmp_path / "b.mp4")
    assert again.colour == video.colour
    assert (centres(again.frames) - KNOWN).abs().max() <= 6


def test_the_wrong_matrix_would_be_seen(clip: Clip) -> None:
    """The test above can fail: BT.709 samples read as BT.601 are off by tens of levels."""
    lied = clip("a.mp4", patches(), matrix=1, tags=BT601, options={"crf": "4"})
    assert (centres(read(lied).frames) - KNOWN).abs().max() > 20


@pytest.mark.parametrize(("height", "matrix"), [(16, 5), (720, 1)])
def test_untagged_clips_are_601_below_720_lines_and_709_above(
    clip: Clip, tmp_path: Path, height: int, matrix: int
) -> None:
    frames = patches(frames=1)[:, :1].expand(-1, height, -1, -1)
    video = read(clip("a.mp4", frames, matrix=matrix, options={"crf": "4"}))
    assert video.colour == Colour()
    assert (centres(video.frames) - KNOWN).abs().max() <= 4
    write(video, tmp_path / "b.mp4", crf=4)
    again = read(tmp_path / "b.mp4")
    assert again.colour.matrix == UNTAGGED
    assert (centres(again.frames) - KNOWN).abs().max() <= 5


def test_pictures_without_a_past_are_written_as_hd_video(tmp_path: Path) -> None:
    write(Video.of(patches(), fps=25), tmp_path / "a.mp4", crf=4)
    back = read(tmp_path / "a.mp4")
    assert back.colour == Colour(matrix=1, primaries=1, transfer=1, range="limited")
    assert (centres(back.frames) - KNOWN).abs().max() <= 4


def test_ten_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    """Grey levels of ten bits land on the nearest of eight, never just below."""
    levels = np.linspace(64, 940, 96).round().astype(np.uint16)
    frame = av.VideoFrame(96, 16, "yuv420p10le")
    for plane, value in zip(frame.planes, (levels, 512, 512), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)
        rows[:, : plane.width] = value
    frame.color_range = 1
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 96, "yuv420p10le"
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    exact = (levels - 64) / 876 * 255
    assert np.abs(read(tmp_path / "a.mkv").frames[0, 8, :, 1].numpy() - exact).max() <= 0.51


def test_eight_bits_follow_the_formula_without_a_bias(tmp_path: Path) -> None:
    """BT.601 as written in the standard, on random luma over one tint; FFmpeg's fast path fails."""
    luma = torch.randint(60, 180, (32, 48)).numpy()
    frame = av.VideoFrame(48, 32, "yuv420p")
    for plane, value in zip(frame.planes, (luma, 140, 110), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
        rows[:, : plane.width] = value
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    y, u, v = (luma - 16) / 219, (140 - 128) / 224, (110 - 128) / 224
    exact = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1) * 255
    difference = read(tmp_path / "a.mkv").frames[0].numpy() - exact
    assert np.abs(difference).max() <= 1.51
    assert np.abs(difference.mean((0, 1))).max() < 0.4


def test_alpha_is_laid_on_black(tmp_path: Path, clip: Clip) -> None:
    from PIL import Image

    rgba = torch.full((1, 8, 8, 4), 201, dtype=torch.uint8)
    rgba[..., 4:, 3] = 0
    rgba[..., :4, 3] = 128
    Image.fromarray(rgba[0].numpy()).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", clip("a.mov", rgba, codec="png", layout="rgba")):
        frames = read(path).frames[0]
        assert frames[:, 4:].eq(0).all()
        assert frames[:, :4].eq(round(201 * 128 / 255)).all()


def test_hidden_colours_do_not_bleed_when_resized(tmp_path: Path) -> None:
    from PIL import Image

    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, 16:] = (255, 255, 255, 0)  # white that nobody sees
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", size=8).frames.max() == 0
    rgba[:, ::2, 3] = 255  # white stripes on black
    Image.fromarray(rgba).save(tmp_path / "b.png")
    assert (read(tmp_path / "b.png", size=8).frames[:, :, 5:7].float() - 127.5).abs().max() < 30


def test_webm_alpha_is_laid_on_black(clip: Clip) -> None:
    rgba = torch.full((3, 32, 32, 4), 255, dtype=torch.uint8)
    rgba[:, :, 16:, 3] = 0
    path = clip("a.webm", rgba, codec="libvpx-vp9", layout="yuva420p")
    frames = read(path).frames
    assert frames[:, :, :12].float().mean() > 250
    assert frames[:, :, 20:].float().mean() < 5


def test_codes_of_ranges_are_those_of_ffmpeg() -> None:
    assert {"limited": int(ColorRange.MPEG), "full": int(ColorRange.JPEG)} == RANGES


def ramp(layout: str, full: bool, alpha: float = 1.0) -> tuple[av.VideoFrame, np.ndarray]:
    """A frame of grey levels from black to white, and those levels, exact in [0, 255]."""
    frame = av.VideoFrame(64, 32, layout)
    frame.color_range = RANGES["full" if full else "limited"]
    parts = frame.format.components
    bits, kind = parts[0].bits, "u1" if parts[0].bits == 8 else layout[-2:].translate(ENDS) + "u2"
    top = (1 << bits) - 1
    low, high = (0, top) if full else (16 << bits - 8, 235 << bits - 8)
    levels = np.linspace(low, high, 64).round().astype(int)
    kinds = [None if part.is_luma or part.is_alpha else 1 << bits - 1 for part in parts]
    values = [levels if kind is None or frame.format.is_rgb else kind for kind in kinds]
    values = [top * alpha if p.is_alpha else v for p, v in zip(parts, values, strict=True)]
    for plane, number in zip(frame.planes, range(len(parts)), strict=False):
        packed = values if len(frame.planes) == 1 else values[number : number + 1]
        rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
        for channel, value in enumerate(packed):
            rows[:, channel : plane.width * len(packed) : len(packed)] = value
    return frame, (levels - low) * 255 / (high - low)


ENDS = {ord("l"): "<", ord("b"): ">", ord("e"): ""}
DEEP = [
    *("gray10le", "gray12le", "gray16le", "gray16be", "ya16be", "rgb48le", "rgb48be", "rgba64le"),
    *("gbrp10le", "gbrp12le", "gbrp14le", "gbrp16le", "gbrap12le", "yuv420p10le", "yuv422p10le"),
    *("yuv422p12le", "yuv444p16le", "yuva444p10le"),
]


@pytest.mark.parametrize("layout", DEEP)
def test_deep_levels_are_rounded_to_the_nearest(layout: str) -> None:
    frame, exact = ramp(layout, full=True)
    for size in (None, (16, 64)):
        assert np.abs(ToRGB(size)(frame)[8] - exact[:, None]).max() <= 0.501


@pytest.mark.parametrize("layout", ["gray", "gray10le", "gray12le", "gray16le", "yuv420p"])
def test_grey_of_limited_range_is_stretched(layout: str) -> None:
    frame, exact = ramp(layout, full=False)
    assert np.abs(ToRGB()(frame)[8] - exact[:, None]).max() <= 0.501
    frame.color_range = 0  # not tagged: swscale's meaning, and FFV1's
    assert (ToRGB()(frame)[8, 0, 0] == 0) == (layout == "yuv420p")


def test_transparency_of_deep_pictures_is_rounded_too() -> None:
    frame, exact = ramp("rgba64le", full=True, alpha=0.5)
    assert np.abs(ToRGB()(frame)[8] - exact[:, None] / 2).max() <= 1


def test_a_matrix_that_cannot_be_converted_is_said(clip: Clip, tmp_path: Path) -> None:
    path = clip("a.mp4", patches(), tags={"colorspace": 10})
    with pytest.raises(ValueError, match=r"the colour matrix of .*a\.mp4 is code 10 of H\.273"):
        read(path)
    with pytest.raises(ValueError, match=r"the colour matrix of the video is code 8 of H\.273"):
        write(Video(patches(), fps=5, colour=Colour(matrix=8)), tmp_path / "b.mp4")
