"""Pictures: what a file is stands in its bytes; many in one file; half a picture is none."""

import io
import os
import tracemalloc
import warnings
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from small_clips import Clip, pattern, repack, rough

from reeltok.video.decode import Damage
from reeltok.video.images import images_of, jpegs_are_whole
from reeltok.video.record import read, stream

FORMS = {
    "a.jpg": {"quality": 90},
    "progressive.jpg": {"quality": 90, "progressive": True},
    "a.png": {},
    "a.webp": {},
    "lossless.webp": {"lossless": True},
    "a.bmp": {},
    "a.tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
}


def pictures(count: int = 3) -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in pattern(count).numpy()]


@pytest.mark.parametrize("name", FORMS)
def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(rough(1)[0].numpy()).save(path, **FORMS[name])
    whole = path.read_bytes()
    assert len(read(path)) == 1
    for share in (0.1, 0.5, 0.8, 0.95, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"cannot be decoded|damaged|cut off") as at:
            read(path)
        assert str(path) in str(at.value)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cannot be decoded|damaged|cut off"):
        read(folder)


@pytest.mark.parametrize("end", [1, 2, 3])
def test_a_jpeg_without_its_end_is_refused(tmp_path: Path, end: int) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(pattern(1)[0].numpy()).save(path)
    path.write_bytes(path.read_bytes()[:-end])
    with pytest.raises(ValueError, match=r"cannot be decoded|damaged|cut off"):
        read(path)


@pytest.mark.parametrize("name", ["a.avi", "a.mov", "a.mkv", "a.mjpeg"])
def test_half_a_jpeg_in_a_video_is_damage(clip: Clip, tmp_path: Path, name: str) -> None:
    path = clip(name, rough(6), codec="mjpeg", layout="yuvj420p")
    assert len(read(path)) == 6
    if name == "a.mjpeg":
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 12])
    else:
        half = lambda number, data: data[: len(data) // 2] if number == 3 else data
        path = repack(path, tmp_path / f"half-{name}", change=half)
    with pytest.raises(ValueError, match=r"cannot be decoded|damaged|cut off"):
        read(path)


@pytest.mark.parametrize("fill", [b"", bytes(5000), b"\xff" * 9])
def test_jpegs_may_be_filled_up(clip: Clip, tmp_path: Path, fill: bytes) -> None:
    """As cameras do; the second field of an interlaced frame has to end as well."""
    path = clip("a.avi", rough(3), codec="mjpeg", layout="yuvj420p")
    assert len(read(repack(path, tmp_path / "b.avi", change=lambda _, data: data + fill))) == 3
    jpeg = io.BytesIO()
    pictures(1)[0].save(jpeg, "JPEG")
    field = jpeg.getvalue()
    assert jpegs_are_whole(field + fill + field + fill)
    assert not jpegs_are_whole(field + fill + field[:-2])
    assert not jpegs_are_whole(field[:-2] + fill)


def test_animated_png(tmp_path: Path) -> None:
    first, *rest = pictures(4)
    for name in ("a.png", "a.apng"):
        first.save(
            tmp_path / name, "PNG", save_all=True, append_images=rest, duration=[100, 100, 300, 40]
        )
        video = read(tmp_path / name)
        assert torch.equal(video.frames, pattern(4))
        assert video.times is not None
        assert video.times.tolist() == pytest.approx([0, 0.1, 0.2, 0.5])
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-200])
    with pytest.raises(ValueError, match=r"cannot be decoded|damaged|cut off"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("durations", [[50] * 4, [100, 40, 300, 60]])
def test_animated_webp(tmp_path: Path, durations: list[int]) -> None:
    path = tmp_path / "a.webp"
    first, *rest = pictures(4)
    first.save(path, save_all=True, append_images=rest, duration=durations, lossless=True)
    video = read(path)
    assert torch.equal(video.frames, pattern(4))
    if durations[0] == 50:
        assert (video.fps, video.times) == (20, None)
    else:
        assert video.times is not None
        assert video.times.tolist() == pytest.approx([0, 0.1, 0.14, 0.44])
        assert torch.equal(read(path, start=0.12).frames, pattern(4)[2:])
        shown = read(path, fps=20)  # at 0, 50 ... ms
        assert torch.equal(shown.frames[:4], pattern(4)[[0, 0, 1, 2]])
    assert torch.equal(
        read(path.read_bytes(), size=16, frames=2).frames, read(path, size=16).frames[:2]
    )
    with pytest.raises(ValueError, match="lies past"):
        read(path, start=9)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut off"):
        read(path)


@pytest.mark.parametrize("name", ["a.ppm", "a.pcx", "a.jp2", "a.avif"])
def test_pictures_of_other_kinds_have_no_rate(tmp_path: Path, name: str) -> None:
    try:
        pictures(1)[0].save(tmp_path / name)
    except (KeyError, OSError, ValueError):
        pytest.skip(f"this Pillow writes no {name}")
    video = read(tmp_path / name)
    assert (len(video), video.fps) == (1, None)
    assert read(tmp_path / name, fps=5).fps == 5


def test_animated_avif(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    first, *rest = pictures(3)
    try:
        first.save(path, save_all=True, append_images=rest, duration=100)
    except (KeyError, OSError):
        pytest.skip("this Pillow writes no AVIF")
    video = read(path)
    assert (len(video), video.fps) == (3, 10)


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    first, *rest = pictures(5)
    first.save(path, save_all=True, append_images=rest)
    video = read(path)
    assert torch.equal(video.frames, pattern(5))
    assert video.fps is None
    assert torch.equal(read(path, fps=10, start=0.2, frames=2).frames, pattern(5)[2:4])
    other = Image.new("RGB", (9, 6))
    first.save(path, save_all=True, append_images=[other])
    with pytest.raises(ValueError, match=r"page 2 of .*a.tif \(frame 1\) is 6x9"):
        read(path)
    other.encoderinfo = {"tiffinfo": {254: 1}}  # a reduced copy of the first
    first.save(path, save_all=True, append_images=[other], tiffinfo={254: 0})
    assert len(read(path)) == 1


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}])
def test_tiffs_of_every_mode(tmp_path: Path, mode: str, options: dict) -> None:
    first, *rest = [Image.new("RGB", (24, 16), shade).convert(mode) for shade in ("white",) * 3]
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest, **options)
    frames = read(tmp_path / "a.tif").frames
    assert len(frames) == 3
    assert frames.ge(254).all()  # from CMYK by FFmpeg: a level is lost


def test_tiffs_that_are_cut_off_or_have_no_range(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    first, *rest = pictures(5)
    first.save(path, save_all=True, append_images=rest)
    whole = path.read_bytes()
    for share in (0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"cut off|damaged"):
            read(path)
    Image.new("F", (8, 6)).save(path)
    with pytest.raises(ValueError, match=r"a.tif: .*no fixed range"):
        read(path)
    path.write_bytes(whole[:4] + (8).to_bytes(4, "little") + b"\1\0" + bytes(12) + b"\x08\0\0\0")
    with pytest.raises(ValueError, match="damaged"):  # a page that is its own next
        read(path)


def test_deep_pages_of_a_tiff(tmp_path: Path) -> None:
    deep = [Image.fromarray(np.full((8, 12), level, np.uint16)) for level in (0, 257 * 100, 65535)]
    deep[0].save(tmp_path / "a.tif", save_all=True, append_images=deep[1:])
    assert read(tmp_path / "a.tif").frames[:, 0, 0, 0].tolist() == [0, 100, 255]


def test_a_stack_of_pages_is_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.new("L", (200, 200), level) for level in range(50)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    tracemalloc.start()
    with stream(path, chunk=4) as video:
        for part in video:
            assert len(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size


def noted(name: str, orientation: int) -> bytes:
    """A picture of 6x8 that its EXIF, or XMP, or a text of ImageMagick's turns."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[271], exif[0x0112] = "a maker of cameras", orientation
    options: dict[str, Any] = {"exif": exif}
    if name.startswith("raw"):
        text = f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}\n"
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_text("Raw profile type exif", text, zip=name == "raw-packed.png")
    if name.startswith("xmp"):
        xmp = f'<x:xmpmeta tiff:Orientation="{orientation}"/>'
        options = {"xmp": xmp.encode(), "pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp)
    Image.new("RGB", (8, 6)).save(file, Image.registered_extensions()[Path(name).suffix], **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        *("a.jpg", "a.png", "a.webp", "a.tif", "raw.png", "raw-packed.png"),
        *("xmp.jpg", "xmp.png", "xmp.webp"),
    ],
)
def test_photographs_are_turned_without_touching_the_filters_of_warnings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those are of all threads: what one sets aside and brings back, another one loses."""
    for orientation in (1, 6):
        (tmp_path / name).write_bytes(noted(name, orientation))
        with monkeypatch.context() as patch:
            patch.setattr(warnings, "catch_warnings", None)
            shape = read(tmp_path / name).frames.shape
        assert shape[1:3] == ((8, 6) if orientation == 6 else (6, 8))


def test_content_decides_not_the_name(clip: Clip, tmp_path: Path) -> None:
    video, picture = clip("a.mp4").read_bytes(), io.BytesIO()
    pictures(1)[0].save(picture, "PNG")
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "a", "a.avi"):
        (tmp_path / name).write_bytes(video)
        assert len(read(tmp_path / name)) == 10
    for name in ("b.mp4", "b.jpg", "b"):
        (tmp_path / name).write_bytes(picture.getvalue())
        assert torch.equal(read(tmp_path / name).frames, pattern(1))


def test_motion_jpeg_is_a_video_and_a_second_view_is_none(clip: Clip, tmp_path: Path) -> None:
    path = clip("a.mjpeg", codec="mjpeg", layout="yuvj420p", fps=Fraction(25))
    assert len(read(path)) == 10
    assert len(read(path.read_bytes())) == 10
    first, second = pictures(2)
    first.save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[second])
    assert len(read(tmp_path / "stereo.jpg")) == 1


def test_hidden_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(2)):
        picture.save(tmp_path / f"f{number}.png")
        (tmp_path / f"._f{number}.png").write_bytes(b"\0\5\x16\7" * 20)
    assert torch.equal(read(tmp_path).frames, pattern(2))
    pictures(1)[0].save(tmp_path / "f².png")  # a digit that is not a number
    assert len(read(tmp_path)) == 3


def test_images_of_one_number_have_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["001.png", "01.png", "1.png", "2.png"]
    for name in names:
        pictures(1)[0].save(tmp_path / name)
    walked = list(os.scandir(tmp_path))
    for entries in (walked, walked[::-1]):
        monkeypatch.setattr(os, "scandir", lambda _, found=entries: nullcontext(found))
        assert [file.name for file in images_of(tmp_path)] == names


def test_what_is_no_file_in_a_folder_of_images(tmp_path: Path) -> None:
    pictures(1)[0].save(tmp_path / "0.png")
    (tmp_path / "1.png").mkdir()
    assert len(read(tmp_path)) == 1
    (tmp_path / "2.png").symlink_to("gone.png")
    with pytest.raises(ValueError, match=r"2\.png is not a file, or a link to none"):
        read(tmp_path)


@pytest.mark.parametrize("damage", ["skip", "stop"])
def test_a_broken_image_is_never_left_out(tmp_path: Path, damage: Damage) -> None:
    for number in range(3):
        pictures(1)[0].save(tmp_path / f"{number}.png")
    assert len(read(tmp_path, damage=damage)) == 3
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"1\.png is .*; `damage` is for frames of videos"):
        read(tmp_path, damage=damage)


def test_an_image_of_a_folder_is_one_frame(tmp_path: Path) -> None:
    first, *rest = pictures(3)
    for name in ("a.png", "a.webp", "a.tif"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        first.save(folder / name, save_all=True, append_images=rest)
        with pytest.raises(ValueError, match="more than one picture"):
            read(folder)


def test_transparent_frames_lie_on_black(tmp_path: Path) -> None:
    clear = [Image.new("RGBA", (8, 6), (200, 100, 50, alpha)) for alpha in (0, 255)]
    for name in ("a.webp", "a.png"):
        clear[0].save(
            tmp_path / name, save_all=True, append_images=clear[1:], duration=40, lossless=True
        )
        video = read(tmp_path / name)
        assert video.frames[:, 0, 0].tolist() == [[0, 0, 0], [200, 100, 50]]


def test_a_webp_of_a_few_bytes(tmp_path: Path) -> None:
    for length in range(12, 40):
        data = (b"RIFF" + b"\xff" * 4 + b"WEBPVP8X" + b"\n\0\0\0\x02").ljust(60, b"\0")
        (tmp_path / "a.webp").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"a\.webp"):
            read(tmp_path / "a.webp")
