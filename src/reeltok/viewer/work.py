"""What the page does: check what visitors bring, code it, open .reel files. Knows no web framework.

All of it streams; only a few frames are in memory at a time. A tokenizer works for one visitor at
a time, and everything that is written lies in the visitor's room.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from reeltok.evaluate.labels import label_models
from reeltok.nn.quantizers.usage import Usage
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.inputs import made_by
from reeltok.tokens.ids import join_sizes
from reeltok.tokens.reel import Reel, ReelWriter
from reeltok.transcode.clock import Clock
from reeltok.transcode.decode import counted, decode_frames
from reeltok.transcode.options import USUAL, Cut
from reeltok.transcode.reconstruct import watched
from reeltok.transcode.side_by_side import PairScores, alongside, also_beside
from reeltok.video.record import stream, write
from reeltok.viewer.rooms import Room, shorten

BARS = 128  # of a histogram
FASTEST = 120  # frames per second that are believed when the length is limited
MOST_PIXELS = 1920 * 1088  # of a frame that is coded
OnShare = Callable[[float, str], None]  # how much of the work is done (0 to 1), and what it is

# Files are told by their first bytes. FFmpeg also opens play lists, which name other files of the
# machine: from strangers those are not taken.
SIGNS = (
    (4, (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")),  # mp4, mov
    (0, (b"\x1a\x45\xdf\xa3", b"GIF8", b"FLV", b"OggS")),  # mkv, webm; gif; flv; ogv
    (8, (b"AVI ",)),  # behind RIFF and its length, where others have WAVE or WEBP
    (0, (b"\x30\x26\xb2\x75", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")),  # wmv, mpg
)
TRANSPORT = 188  # bytes of a packet of a transport stream, each of which begins with b"G"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What visitors may bring: megabytes (of 10^6 bytes) of a file, seconds of a clip."""

    seconds: float = 20.0
    megabytes: float = 200.0

    def __post_init__(self) -> None:
        for name in ("seconds", "megabytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`max_{name}` {getattr(self, name):g} lets nothing in: give more")

    def check_file(self, path: Path) -> None:
        """ValueError for a file that is too large."""
        size = path.stat().st_size / 1e6
        if size > self.megabytes:
            raise ValueError(
                f"{path.name} has {size:,.1f} megabytes, and this page takes up to "
                f"{self.megabytes:g}: cut it, or store it smaller"
            )

    def check_clip(self, name: str, frames: int, seconds: float, size: tuple[int, int]) -> None:
        """ValueError for a clip that is too long, or has frames that are too large."""
        if max(seconds, frames / FASTEST) > self.seconds:
            raise ValueError(
                f"{name} lasts {seconds:.1f} seconds ({frames:,} frames), and this page takes up "
                f"to {self.seconds:g}: cut it shorter"
            )
        if math.prod(size) > MOST_PIXELS:
            raise ValueError(
                f"{name} would be coded at {size[1]}x{size[0]}, and this page codes up to "
                f"{MOST_PIXELS:,} pixels: choose a smaller side"
            )


class Offer:
    """The tokenizers of the page, by the names that visitors see; each is loaded when first used.

    Folders are called by their runs, as `evaluate.labels` has it, and LABEL=NAME says otherwise.
    FileNotFoundError or ValueError for a name that is not known; ValueError for two of one name.
    """

    def __init__(self, names: Sequence[str], load: Callable[[str], Tokenizer]) -> None:
        self.places: dict[str, str] = {}
        self.load = load
        for one in label_models(names):
            label = one.label.replace("/", "-")  # a part of the names of files
            if self.places.setdefault(label, one.source) != one.source:
                raise ValueError(
                    f"{self.places[label]} and {one.source} are both called {label}: name one as "
                    f"LABEL={one.source}"
                )
        self.locks = {label: Lock() for label in self.places}
        self.loaded: dict[str, Tokenizer] = {}

    @contextmanager
    def use(self, label: str) -> Iterator[Tokenizer]:
        """The tokenizer of that name, for nobody else inside. ValueError for one not offered."""
        if label not in self.places:
            raise ValueError(f"{label!r} is not offered here: choose {', '.join(self.places)}")
        with self.locks[label]:
            if label not in self.loaded:
                self.loaded[label] = self.load(self.places[label])
            yield self.loaded[label]

    def find(self, reel: Reel) -> str:
        """The offered tokenizer that made a file: of its weights, else of its name.

        A file of a stranger never decides what is loaded. ValueError where none fits.
        """
        named = []
        for label in sorted(self.places, key=lambda label: label != reel.model):
            with self.use(label) as tokenizer:
                if made_by(reel.weights, tokenizer):
                    return label
                named += [label] if tokenizer.name == reel.model else []
        if named:
            return named[0]
        raise ValueError(
            f"{reel.source.path} was made by {reel.model!r}, which is not offered here: "
            f"this page has {', '.join(self.places)}"
        )


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """What one tokenizer made of a clip; quality is None where there is no original.

    `video` shows both (or the frames of a .reel file), `decoded` only the reconstruction. `bars`
    counts ids, or latent values between `low` and `high`, in `BARS` equal ranges.
    """

    label: str
    reel: Path
    decoded: Path
    video: Path
    frames: int
    size: tuple[int, int]
    fps: float | None
    grid: tuple[int, ...]
    vocabulary: int | None
    bits_per_pixel: float
    bytes: int
    seconds: dict[str, float]
    bars: tuple[int, ...]
    low: float
    high: float
    used: int | None = None
    perplexity: float | None = None
    psnr: float | None = None
    ssim: float | None = None

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return math.prod(self.grid)


# A video.


def check_video(path: Path, limits: Limits, side: int | None) -> Cut:
    """How a video is read, at most `side` pixels on its short side; ValueError for a bad one."""
    limits.check_file(path)
    check_sign(path)
    with stream(path) as video:
        small = side is None or min(video.height, video.width) <= side
    cut = Cut(size=None if small else side, fps=None if video.fps else 24.0)
    with stream(path, **asdict(cut)) as video:
        size = (video.height, video.width)
        limits.check_clip(path.name, video.frames, video.seconds or 0.0, size)
    return cut


def check_sign(path: Path) -> None:
    """ValueError for a file that does not begin as a video does."""
    with path.open("rb") as file:
        head = file.read(TRANSPORT + 1)
    transport = head[::TRANSPORT] == b"GG"
    if not transport and not any(head[start:].startswith(signs) for start, signs in SIGNS):
        raise ValueError(
            f"{path} is not a video, or its header is cut off or damaged: "
            "give mp4, mov, mkv, webm, avi, gif, ts, mpg, ogv, flv or wmv"
        )


def round_trip(
    offer: Offer, label: str, source: Path, cut: Cut, room: Room, tell: OnShare
) -> RoundTrip:
    """A clip to a .reel file in the room, from it back to a video, and the two compared."""
    reel, decoded, both = (
        room.place(source.name, f"-{shorten(label)}{end}")
        for end in (".reel", ".mp4", "-side-by-side.mp4")
    )
    clock, comparison = Clock("write"), PairScores()

    def advance(done: float, what: str) -> None:
        room.check()
        tell(done, f"{label}: {what}")

    def decoding(done: int, total: int) -> None:
        advance((1 + done / total) / 2, "decoding")

    with offer.use(label) as tokenizer:
        write_tokens(tokenizer, source, cut, reel, clock, advance)
        with Reel(reel) as opened, stream(source, **asdict(cut)) as video:
            video.chunk = USUAL.chunk_for(video.height, video.width)
            parts = clock.around("decode", decode_frames(tokenizer, opened, 0, opened.frames))
            parts = counted(parts, decoding, opened.frames)
            pairs = watched(alongside(clock.around("read", video), parts), comparison)
            write((part for _, part in also_beside(pairs, str(both))), decoded, pad_even=True)
            seconds = {stage: clock.seconds[stage] for stage in ("encode", "decode")}
            found = reel_record(label, opened) | comparison.record()
            return RoundTrip(decoded=decoded, video=both, seconds=seconds, **found)


def write_tokens(
    tokenizer: Tokenizer, source: Path, cut: Cut, reel: Path, clock: Clock, tell: OnShare
) -> None:
    """Write the tokens of a clip to the file `reel`."""
    with stream(source, **asdict(cut)) as video, ReelWriter(reel) as writer:
        video.chunk = USUAL.chunk_for(video.height, video.width)
        parts = tokenizer.stream_encode(clock.around("read", video))
        for part in clock.around("encode", parts):
            writer.write(part)
            tell(writer.frames / video.frames / 2, "encoding")


# A .reel file.


def open_reel(offer: Offer, path: Path, limits: Limits, room: Room, tell: OnShare) -> RoundTrip:
    """The video that a .reel file holds. ValueError for one that is damaged, or not for here."""
    limits.check_file(path)
    clock = Clock("write")
    with Reel(path) as reel:
        if reel.fps is not None and not 0 < reel.fps <= 1000:
            raise ValueError(f"{path} plays at {reel.fps} frames per second: it was altered")
        seconds = reel.frames / reel.fps if reel.fps else 0.0
        limits.check_clip(path.name, reel.frames, seconds, (reel.height, reel.width))
        label = offer.find(reel)
        decoded = room.place(path.name, ".mp4")

        def advance(done: int, total: int) -> None:
            room.check()
            tell(done / total, f"{label}: decoding")

        with offer.use(label) as tokenizer:
            check_grid(reel, tokenizer)
            parts = clock.around("decode", decode_frames(tokenizer, reel, 0, reel.frames))
            write(counted(parts, advance, reel.frames), decoded, pad_even=True)
        seconds_by = {"decode": clock.seconds["decode"]}
        return RoundTrip(
            decoded=decoded, video=decoded, seconds=seconds_by, **reel_record(label, reel)
        )


def check_grid(reel: Reel, tokenizer: Tokenizer) -> None:
    """ValueError where tokens are for larger or more frames than the file says: it was altered."""
    whole = tokenizer.grid_for(reel.frames, (reel.height, reel.width))
    if reel.grid[1:] != whole[1:] or reel.grid[0] > whole[0]:
        raise ValueError(
            f"{reel.source.path} holds {join_sizes(reel.grid)} tokens, but its frames have "
            f"{join_sizes(whole)}: it was altered"
        )


# Tokens in numbers.


def reel_record(label: str, reel: Reel) -> dict[str, Any]:
    """What is in a .reel file, and how its tokens are spread."""
    return {
        "label": label,
        "reel": Path(reel.source.path),
        "frames": reel.frames,
        "size": (reel.height, reel.width),
        "fps": reel.fps,
        "grid": reel.grid,
        "vocabulary": reel.vocabulary,
        "bits_per_pixel": reel.bits_per_pixel,
        "bytes": reel.source.size,
        **(histogram_of_latents(reel) if reel.vocabulary is None else histogram_of_ids(reel)),
    }


def histogram_of_ids(reel: Reel) -> dict[str, Any]:
    """How often ids of each range occur, how many are used, and their perplexity."""
    assert reel.vocabulary is not None
    usage = Usage(reel.vocabulary)
    for part in reel.parts(64):
        assert part.ids is not None
        usage.update(part.ids)
    count = min(BARS, reel.vocabulary)
    place = torch.arange(reel.vocabulary) * count // reel.vocabulary
    bars = torch.zeros(count, dtype=torch.int64).index_add_(0, place, usage.counts)
    return {
        "bars": tuple(bars.tolist()),
        "low": 0,
        "high": reel.vocabulary - 1,
        "used": int((usage.counts > 0).sum()),
        "perplexity": usage.perplexity,
    }


def histogram_of_latents(reel: Reel) -> dict[str, Any]:
    """How often values of each range occur."""
    ends = [part.first_tensor.float().aminmax() for part in reel.parts(64)]
    low = min(float(end.min) for end in ends)
    high = max(float(end.max) for end in ends)
    bars = torch.zeros(BARS)
    for part in reel.parts(64):
        bars += torch.histc(part.first_tensor.float(), BARS, low, high)
    return {"bars": tuple(bars.long().tolist()), "low": low, "high": high}
