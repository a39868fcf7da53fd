"""A short clip to tokens and back, with all that shows how it went in one folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

from torch import Tensor

from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.reel import Reel
from reeltok.transcode.clock import Clock
from reeltok.transcode.decode import counted, decode_frames
from reeltok.transcode.encode import EncodedFile, encode_file
from reeltok.transcode.options import Cut, OnProgress, Watcher
from reeltok.transcode.reconstruct import labels, watched
from reeltok.transcode.side_by_side import PairScores, SampledFrames, alongside, picture
from reeltok.video.record import Video, read, stream, write

LONGEST, SHORT_SIDE = 96, 256  # of a clip: frames, and pixels
CHUNK = 16  # frames that a tokenizer beside codes at a time
FILES = {"tokens": "demo.reel", "reconstruction": "demo.mp4", "side_by_side": "side-by-side.png"}


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """What another tokenizer made of the clip, and the seconds that it took.

    `psnr` (dB) and `ssim` are as those of a `Demonstration`.
    """

    model: str
    bits_per_pixel: float
    reconstruction: str
    psnr: float | None
    ssim: float | None
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """What was written, how good it is (PSNR in dB), and the seconds that each step took.

    `raw_bytes` are those of the clip's pixels; `ssim` is None where frames are too small.
    """

    encoded: EncodedFile
    reconstruction: str
    side_by_side: str
    psnr: float | None
    ssim: float | None
    raw_bytes: int
    seconds: Mapping[str, float]
    beside: tuple[PeerResult, ...] = ()


def cut_short(clip: str | Path) -> Cut:
    """As much of a video as a demonstration needs: 96 frames, 256 pixels of the short side."""
    with stream(clip, frames=LONGEST) as opened:
        small = min(opened.height, opened.width) <= SHORT_SIDE
        rate = None if opened.fps else 24.0
    return Cut(frames=LONGEST, size=None if small else SHORT_SIDE, fps=rate)


def demonstrate(
    tokenizer: Tokenizer,
    clip: str | Path,
    folder: str | Path,
    *,
    cut: Cut | None = None,
    beside: Mapping[str, Tokenizer] | None = None,
    watcher: Watcher | None = None,
) -> Demonstration:
    """Encode a clip to a .reel file, decode it again, compare the two, and write what shows it.

    `folder` gets the files of `FILES`: tokens, the reconstruction, and a picture of some frames
    beside the original's. `cut` is how much of the clip is used, by default `cut_short`. `beside`
    are tokenizers whose reconstructions are shown too, by the video files that those go to. The
    errors are those of `encode_file` and `write`.
    """
    cut = cut or cut_short(clip)
    reel_file, mp4, png = (str(Path(folder) / name) for name in FILES.values())
    clock, comparison = Clock("write"), PairScores()
    heard = [None if watcher is None else watcher.of_file() for _ in range(2)]
    encoded = encode_file(tokenizer, clip, reel_file, cut=cut, on_progress=heard[0])
    original = read(clip, **asdict(cut))
    shown = SampledFrames(len(original))
    with Reel(reel_file) as reel:
        decoded = clock.around("decode", decode_frames(tokenizer, reel, 0, reel.frames))
        pairs = alongside(iter([original]), counted(decoded, heard[1], reel.frames))
        write((part for _, part in watched(pairs, comparison, shown)), mp4)
    clock.switch("done")
    assert encoded.reel is not None, "a named file was written"
    facts, others = encoded.reel, []
    rows, said = shown.rows, [*labels(facts.model, facts.bits_per_pixel, comparison.mean_psnr)]
    for path, other in (beside or {}).items():
        on_progress = None if watcher is None else watcher.of_file()
        others.append(code_beside(other, original, path, rows, on_progress))
        said += labels(other.name, others[-1].bits_per_pixel, others[-1].psnr)[1:]
    write(picture(rows, said), png)
    return Demonstration(
        encoded=encoded,
        reconstruction=mp4,
        side_by_side=png,
        psnr=comparison.mean_psnr,
        ssim=comparison.mean_ssim,
        raw_bytes=original.frames.numel(),
        seconds={"encode": encoded.seconds, "decode": clock.seconds["decode"]},
        beside=tuple(others),
    )


def code_beside(
    tokenizer: Tokenizer,
    original: Video,
    path: str,
    rows: list[list[Tensor]],
    on_progress: OnProgress | None,
) -> PeerResult:
    """Encode and decode the clip, write what came of it to `path`, add its frames to `rows`."""
    comparison, shown = PairScores(), SampledFrames(len(original))
    began = monotonic()
    tokens = tokenizer.encode(original, chunk=CHUNK)
    encoded = monotonic()
    decoded = tokenizer.decode(tokens, chunk=CHUNK)
    done = monotonic()
    assert isinstance(decoded, Video), "a Video was encoded"
    for watcher in (comparison, shown):
        watcher.add(original, decoded)
    rows.append(shown.rows[1])
    write(decoded, path)
    if on_progress is not None:
        on_progress(len(original), len(original))
    return PeerResult(
        model=tokenizer.name,
        bits_per_pixel=tokens.bits_per_pixel,
        reconstruction=path,
        psnr=comparison.mean_psnr,
        ssim=comparison.mean_ssim,
        seconds={"encode": encoded - began, "decode": done - encoded},
    )
