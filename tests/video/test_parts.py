"""Parts of a video, one after another: slices, parts of a stream, and what was decoded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import DISCRETE

import reeltok
from reeltok.models.vidtok.network import VidTok
from reeltok.tokens.reel import ReelWriter, load_tokens
from reeltok.video.record import Video, stream, write
from reeltok.video.timing import PartTimes

TIMES = (0.0, 0.1, 0.15, 0.4, 0.5)


@pytest.fixture
def varying() -> Video:
    frames = torch.randint(0, 255, (5, 16, 16, 3), dtype=torch.uint8)
    times = torch.tensor(TIMES, dtype=torch.float64)
    return Video(frames, fps=5 / 0.6, times=times, last=0.1)


def near(times: torch.Tensor | None) -> bool:
    return times is not None and torch.allclose(times, torch.tensor(TIMES).double(), atol=1e-6)


def test_slices_are_written_at_the_times_of_the_clip(varying: Video, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.mkv", tmp_path / "parts.mkv"
    write(varying, whole, lossless=True)
    write([varying[:2], varying[2:3], varying[3:]], parts, lossless=True)
    assert near(reeltok.read(whole).times)
    assert near(reeltok.read(parts).times)
    write(stream(whole, chunk=2), parts, lossless=True)
    assert near(reeltok.read(parts).times)


def test_slices_are_coded_at_the_times_of_the_clip(varying: Video, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tok = VidTok(DISCRETE, "small").eval()
    write(varying, tmp_path / "v.mkv", lossless=True)
    cuts = (varying[:2], varying[2:4], varying[4:])
    for parts in (cuts, [*stream(tmp_path / "v.mkv", chunk=2)], [varying]):
        with ReelWriter(tmp_path / "a.reel") as writer:
            for tokens in tok.stream_encode(parts):
                writer.write(tokens)
        assert near(load_tokens(tmp_path / "a.reel").times)
    state = tok.new_encode_state()
    found = [tok.encode_chunk(part, state).times for part in (varying[:1], varying[1:])]
    assert near(torch.cat(found))
    again = tok.decode(tok.encode(varying))
    write([again[:2], again[2:]], tmp_path / "again.mkv", lossless=True)
    assert near(reeltok.read(tmp_path / "again.mkv").times)


def test_another_clip_follows_the_one_before_it(varying: Video) -> None:
    clock = PartTimes()
    assert near(clock.of(varying))
    torch.testing.assert_close(clock.of(varying), varying.times + 0.6)
    even = Video(varying.frames[:2], fps=10.0)
    torch.testing.assert_close(clock.of(even), torch.tensor([1.2, 1.3]).double())
    assert PartTimes().of(even) is None


def test_parts_of_another_rate_are_refused(varying: Video, tmp_path: Path) -> None:
    one, other = (Video(varying.frames, fps=fps) for fps in (10.0, 3.0))
    said = "began with 10 frames per second and goes on with 3: read all of it with one `fps`"
    with pytest.raises(ValueError, match=said):
        write([one, other], tmp_path / "a.mkv")
    with pytest.raises(ValueError, match=said):
        list(VidTok(DISCRETE, "small").eval().stream_encode([one, other]))
    assert write([one, other], tmp_path / "a.mkv", fps=5).frames == 10


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((0.0, float("nan"), 1, 2, 3), "times hold NaN"),
        ((0.0, 2, 1, 3, 4), "times run backwards: frame 1 is shown at 2 s and the next at 1 s"),
    ],
)
def test_times_that_are_none_are_refused(varying: Video, times: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(varying, times=torch.tensor(times, dtype=torch.float64))


def test_rates_that_no_file_holds_are_refused(varying: Video, tmp_path: Path) -> None:
    even = Video(varying.frames, fps=10.0)
    for fps in (1e-9, 1e300):
        with pytest.raises(ValueError, match="fps lies between 1e-05 and 1e"):
            write(even, tmp_path / "a.mp4", fps=fps)
        with pytest.raises(ValueError, match="fps lies between"):
            Video(varying.frames, fps=fps)
    for name, fps in (("a.mkv", 1e-5), ("a.mkv", 3e-4), ("a.mkv", 1000.0), ("a.mp4", 1e6)):
        write(even, tmp_path / name, fps=fps)
        assert reeltok.read(tmp_path / name).frames.shape == varying.frames.shape
