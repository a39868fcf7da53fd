"""`reconstruct`: a video to tokens and back in one pass, measured and shown beside the original."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from reeltok.cli import options as given
from reeltok.cli.decode import counted, only_videos
from reeltok.cli.encode import Coding, Cut
from reeltok.cli.files import PIPE, Job, check_free, check_place, plan_files
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts, note, note_all, table
from reeltok.cli.side_by_side import PICTURES, Comparison, Shown, also_beside
from reeltok.wording import count, plain, rate

if TYPE_CHECKING:
    from torch import Tensor

    from reeltok.cli.side_by_side import Pair
    from reeltok.tokenizer.contract import Tokenizer
    from reeltok.tokens.record import Tokens
    from reeltok.video.record import Stream, Video

Part = TypeVar("Part")
STAGES = ("read", "encode", "decode", "compare", "write")


def reconstruct(
    source: Annotated[str, typer.Argument(metavar="IN", show_default=False)],
    out: Annotated[str, typer.Argument(metavar="OUT.mp4", show_default=False)],
    *,
    side_by_side: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none",
            help="Original and reconstruction together, by default OUT-side-by-side.mp4; "
            "a name such as both.png makes a picture of some frames.",
        ),
    ] = None,
    model: given.Model = "default",
    weights: given.Weights = None,
    start: given.Start = 0.0,
    frames: given.Frames = None,
    fps: given.Rate = None,
    size: given.Side = None,
    raw: given.Raw = None,
    damage: given.Damage = "refuse",
    lossless: given.Lossless = False,
    codec: given.Codec = None,
    crf: given.Crf = None,
    pad_even: given.PadEven = False,
    device: given.Device = "auto",
    dtype: given.Dtype = "fp32",
    chunk: given.Chunk = None,
    tile: given.Tile = None,
    force: given.Force = False,
) -> Report:
    """Code a video to tokens and back, and compare the two.

    Writes the reconstruction, with the sound of the original, and both side by side; prints bits
    per pixel, PSNR and SSIM (means over frames, before the output's own codec) and where the time
    went. IN may be - (standard input), and OUT too (fragmented mp4).
    """
    from reeltok.data.find import find_clips

    plan = plan_files([source], out, suffix=".mp4", find=find_clips, folder=True)
    if not plan.named:
        raise ValueError(f"{source} is {count(len(plan.jobs), 'clip')}: reconstruct takes one")
    beside = place_beside(side_by_side, out)
    if out in beside:
        raise ValueError(f"{out} cannot hold both videos: give --side-by-side another name")
    check_free([out, *beside], force=force, inputs=[source])
    check_place(*beside)
    cut = Cut(
        start=start,
        frames=frames,
        fps=fps,
        size=given.parse_size(size),
        raw=raw,
        damage=damage,
    )
    coding = Coding(chunk=chunk, tile=tile)
    form: dict[str, Any] = {"lossless": lossless, "codec": codec, "crf": crf, "pad_even": pad_even}
    tokenizer = given.open_model(model, weights=weights, device=device, dtype=dtype)
    record = there_and_back(tokenizer, plan.jobs[0], beside, cut, coding, form)
    return Report(data=record, text=told(record), piped=plan.piped)


def place_beside(asked: str | None, out: str) -> list[str]:
    """Where the two are shown together; nowhere where it was not wanted, or OUT is a pipe."""
    if asked == "none" or (asked is None and out == PIPE):
        return []
    path = Path(out)
    suffix = path.suffix if path.suffix in PICTURES else ".mp4"
    return [asked or str(path.with_name(f"{path.stem}-side-by-side{suffix}"))]


def sound_for(video: "Stream") -> dict[str, Any]:
    """Where `write` copies the sound from: the video's own file; a note where that is not kept."""
    if video.sound and video.source is None:
        note("the sound of a pipe or an address is not copied: name a file to keep it")
    return {"audio_from": video.source} if video.sound else {}


class Clock:
    """Seconds spent in each stage of a chain of generators, without those that it pulls from."""

    def __init__(self, stage: str) -> None:
        self.seconds = defaultdict[str, float](float)
        self.stage, self.since = stage, monotonic()

    def switch(self, stage: str) -> None:
        """From now on the time belongs to `stage`."""
        now = monotonic()
        self.seconds[self.stage] += now - self.since
        self.stage, self.since = stage, now

    def around(self, stage: str, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts as they are; what it takes to make each belongs to `stage`."""
        rest = iter(parts)
        while True:
            outer = self.stage
            self.switch(stage)
            try:
                part = next(rest)
            except StopIteration:
                return
            finally:
                self.switch(outer)
            yield part


class Passed:
    """What went through a chain: originals that wait for their reconstructions, and token bits."""

    def __init__(self) -> None:
        self.waiting: list[Tensor] = []
        self.grid: list[int] = []
        self.bits = 0

    def frames(self, parts: Iterable["Video"]) -> Iterator["Video"]:
        """The parts as they are, their frames kept as they pass."""
        for part in parts:
            self.waiting.append(part.frames)
            yield part

    def tokens(self, parts: Iterable["Tokens"]) -> Iterator["Tokens"]:
        """The parts as they are, their bits counted as they pass."""
        for part in parts:
            self.bits += math.prod(part.grid) * part.bits + part.reference_bits
            self.grid = [(self.grid or [0])[0] + part.grid[0], *part.grid[1:]]
            yield part

    def original_of(self, decoded: "Video") -> "Video":
        """The original frames of the next reconstruction."""
        import torch

        frames = torch.cat(self.waiting)
        self.waiting = [frames[len(decoded) :]]
        return replace(decoded, frames=frames[: len(decoded)])


def there_and_back(
    tokenizer: "Tokenizer",
    job: Job,
    beside: list[str],
    cut: Cut,
    coding: Coding,
    form: dict[str, Any],
) -> dict[str, Any]:
    """Encode, decode, compare and write in one pass; everything in numbers."""
    from reeltok.video.record import write

    clock, passed, comparison = Clock("write"), Passed(), Comparison()
    with job.stream(**asdict(cut)) as video, Progress("reconstructing") as progress:
        coding.hint(tokenizer, video.height, video.width)
        video.chunk = coding.chunk_for(video.height, video.width)
        note_all(video.notes)
        form = form | sound_for(video)
        shown = Shown(video.frames)
        frames = passed.frames(clock.around("read", video))
        tokens = tokenizer.stream_encode(frames, window=coding.chunk or 16, tile=coding.tile)
        tokens = passed.tokens(clock.around("encode", tokens))
        decoded = clock.around("decode", tokenizer.stream_decode(tokens, tile=coding.tile))
        pairs: Iterator[Pair] = ((passed.original_of(v), v) for v in only_videos(decoded))
        pairs = clock.around("compare", watched(pairs, comparison, shown))
        with both_written(pairs, beside) as pairs:
            parts = (replace(part, start=video.start) for _, part in pairs)
            written = write(counted(parts, progress, video.frames), job.target, **form)
    record = {
        "input": job.source,
        "output": job.target,
        "side_by_side": beside[0] if beside else None,
        "model": tokenizer.name,
        "frames": written.frames,
        "size": [video.height, video.width],
        "fps": written.fps,
        "damaged": video.damaged,
        "tokens": passed.grid,
        "bits_per_pixel": passed.bits / (written.frames * video.height * video.width),
        **comparison.record(),
    }
    for path in beside:
        if Path(path).suffix.lower() in PICTURES:
            write(shown.picture(labels(record)), path)
    clock.switch("done")
    for line in written.notes:
        note(f"{job.target}: {line}")
    return record | {"seconds": {stage: clock.seconds[stage] for stage in STAGES}}


@contextmanager
def both_written(pairs: Iterator["Pair"], paths: list[str]) -> Iterator[Iterator["Pair"]]:
    """The pairs as they are; on the way written together to the videos among `paths`.

    Those are closed here: after an error they must not wait to be collected.
    """
    with ExitStack() as stack:
        for path in paths:
            if Path(path).suffix.lower() not in PICTURES:
                pairs = stack.enter_context(closing(also_beside(pairs, path)))
        yield pairs


def watched(pairs: Iterator["Pair"], *watchers: Any) -> Iterator["Pair"]:
    """The pairs as they are, each shown to the watchers."""
    for original, decoded in pairs:
        for watcher in watchers:
            watcher.add(original, decoded)
        yield original, decoded


def labels(record: dict[str, Any]) -> tuple[str, str]:
    """What stands over the rows of a picture."""
    bits, psnr = record["bits_per_pixel"], record["psnr"]
    return "original", f"{record['model']}: {bits:.4f} bits per pixel, PSNR {psnr:.1f} dB"


def told(record: dict[str, Any]) -> str:
    """The record for people: what it is, how good, and where the time went."""
    frames, seconds = record["frames"], record["seconds"]
    said = {
        "original": f"{record['input']}, {count(frames, 'frame')} of {plain(record['size'])}",
        "reconstruction": record["output"],
        "side by side": record["side_by_side"],
        "tokens": f"{plain(record['tokens'])} by {record['model']}",
        "bits per pixel": f"{record['bits_per_pixel']:.4f}",
        "PSNR": f"{record['psnr']:.2f} dB",
        "SSIM": "frames are too small" if record["ssim"] is None else f"{record['ssim']:.4f}",
    }
    rows = [
        {
            "stage": stage,
            "seconds": round(spent, 2),
            "frames per second": float(rate(frames, spent)),
        }
        for stage, spent in [*seconds.items(), ("total", sum(seconds.values()))]
    ]
    return f"{facts(said)}\n\n{table(rows)}"
