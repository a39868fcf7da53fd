"""`encode`: videos to .reel files, in memory that does not grow with them."""

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.files import (
    PIPE,
    Job,
    check_free,
    plan_files,
    run_plan,
    share_of,
    summarize,
)
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, note, note_all
from reeltok.wording import count, plain, rate

if TYPE_CHECKING:
    from reeltok.tokenizer.contract import Tokenizer
    from reeltok.tokens.reel import Reel


LARGE = 1920 * 1200  # pixels; a frame of more is better coded in tiles


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which part of a video is taken, at what rate and size; the arguments of `video.read`."""

    start: float = 0.0
    frames: int | None = None
    fps: float | None = None
    size: int | tuple[int, int] | None = None
    raw: str | None = None
    damage: str = "refuse"

    def __post_init__(self) -> None:
        from reeltok.video.decode import check_damage

        check_damage(self.damage)


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a tokenizer is used: frames and pixels at a time, and how latents are stored."""

    chunk: int | None = None
    tile: int | None = None
    latents: str = "float16"

    def __post_init__(self) -> None:
        for name in ("chunk", "tile"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value} is too small: give 1 or more")

    def chunk_for(self, height: int, width: int) -> int:
        """Frames to read at a time."""
        return self.chunk or max(1, min(64, given.FRAME_PIXELS // (height * width)))

    def hint(self, tokenizer: "Tokenizer", height: int, width: int) -> None:
        """Say it where frames are so large that tiles would help, and could be used."""
        if self.tile is None and height * width > LARGE and tokenizer.spec.window is None:
            note(f"frames of {height}x{width} take much memory at once: --tile 256 takes less")


def encode(
    inputs: given.Inputs,
    out: Annotated[str, typer.Argument(metavar="OUT.reel|FOLDER", show_default=False)],
    *,
    model: given.Model = "default",
    weights: given.Weights = None,
    start: given.Start = 0.0,
    frames: given.Frames = None,
    fps: given.Rate = None,
    size: given.Side = None,
    raw: given.Raw = None,
    damage: given.Damage = "refuse",
    device: given.Device = "auto",
    dtype: given.Dtype = "fp32",
    latents: Annotated[
        str, typer.Option(metavar="NAME", help="How latents are stored: fp16, bf16 or fp32.")
    ] = "fp16",
    chunk: given.Chunk = None,
    tile: given.Tile = None,
    jobs: given.Jobs = 1,
    force: given.Force = False,
) -> Report:
    """Turn videos into .reel files of tokens.

    IN is a video, an image, a folder of images, a folder of those, a pattern such as "clips/*.mp4",
    a list (.csv, .jsonl, .txt), a .tar shard, an address, or - (standard input). Many files go into
    a folder, in the tree of their sources; those that are there already, complete and made the same
    way, are kept. Under torchrun every process codes its share.
    """
    from reeltok.data.find import find_clips

    plan = share_of(plan_files(inputs, out, suffix=".reel", find=find_clips))
    if plan.named and out != PIPE and not out.endswith(".reel"):
        raise ValueError(f"{out} is no name for tokens: give OUT.reel, a folder, or -")
    check_free(plan.named_targets, force=force)
    cut = Cut(
        start=start,
        frames=frames,
        fps=fps,
        size=given.parse_size(size),
        raw=raw,
        damage=damage,
    )
    store = str(given.parse_dtype(latents, "--latents")).removeprefix("torch.")
    coding = Coding(chunk=chunk, tile=tile, latents=store)
    if not plan.jobs:  # other processes have them
        return summarize((), done="encoded")
    tokenizer = given.open_model(model, weights=weights, device=device, dtype=dtype)
    outcomes = run_plan(
        plan,
        lambda job, progress: encode_file(tokenizer, job, cut, coding, progress),
        what="encoding",
        parallel=jobs,
        force=force,
        fits=lambda job: holds_tokens(job, tokenizer, cut, coding),
    )
    if not plan.named:
        return summarize(outcomes, done="encoded")
    return Report(data=outcomes[0].record, text=told(outcomes[0].record), piped=plan.piped)


def encode_file(
    tokenizer: "Tokenizer", job: Job, cut: Cut, coding: Coding, progress: Progress
) -> dict[str, Any]:
    """Encode one video to its .reel file; what was made, in numbers."""
    import torch

    from reeltok.tokens.reel import Reel, ReelWriter

    began, settings = time.monotonic(), own_settings(tokenizer, coding)
    with (
        job.stream(**asdict(cut)) as video,
        ReelWriter(job.target, dtype=getattr(torch, coding.latents)) as writer,
    ):
        coding.hint(tokenizer, video.height, video.width)
        video.chunk = coding.chunk_for(video.height, video.width)
        note_all(video.notes)
        if video.sound:
            note("sound is not part of tokens: `reeltok decode --audio-from VIDEO` copies it")
        parts = tokenizer.stream_encode(video, window=coding.chunk or 16, tile=coding.tile)
        for part in parts:
            writer.write(part.with_(settings={**part.settings, **settings}))
            progress.advance(part.frames, of=video.frames)
    seconds = time.monotonic() - began
    record = {"input": job.source, "output": job.target, "frames": writer.frames}
    record |= {"damaged": video.damaged}
    if job.target != PIPE:
        with Reel(job.target) as reel:
            record |= reel_record(reel)
    return record | {"seconds": seconds, "rate": writer.frames / seconds}


def own_settings(tokenizer: "Tokenizer", coding: Coding) -> dict[str, Any]:
    """What the command adds to the settings of tokens, where it is not the default."""
    dtype = str(tokenizer.dtype).removeprefix("torch.")
    settings = {} if coding.tile is None else {"tile": coding.tile}
    return settings if dtype == "float32" else {**settings, "dtype": dtype}


def holds_tokens(job: Job, tokenizer: "Tokenizer", cut: Cut, coding: Coding) -> bool:
    """Whether the target is a whole .reel file that encoding would make again."""
    import torch

    from reeltok.tokens.reel import Reel

    if job.older:
        return False
    try:
        with Reel(job.target) as reel, job.stream(**asdict(cut)) as video:
            deciding = {k: v for k, v in reel.settings.items() if k in ("tile", "dtype", "window")}
            window = tokenizer.spec.window_for(coding.chunk or 16)
            wanted = own_settings(tokenizer, coding) | ({"window": window} if window else {})
            return (
                deciding == wanted
                and (reel.vocabulary is not None or reel.dtype == getattr(torch, coding.latents))
                and (reel.model, reel.weights) == (tokenizer.name, tokenizer.hash())
                and (reel.frames, reel.fps) == (video.frames, video.fps)
                and (reel.height, reel.width) == (video.height, video.width)
                and reel.damaged == video.damaged
                and reel.settings.get("start", 0.0) == video.start
            )
    except ValueError:  # not a .reel file, or damaged
        return False


def reel_record(reel: "Reel") -> dict[str, Any]:
    """What a .reel file holds, in numbers; `file_bits_per_pixel` counts the whole file."""
    pixels = reel.info.batch * reel.frames * reel.height * reel.width
    return {
        "model": reel.model,
        "frames": reel.frames,
        "size": [reel.height, reel.width],
        "fps": reel.fps,
        "damaged": reel.damaged,
        "tokens": list(reel.grid),
        "vocabulary": reel.vocabulary,
        "channels": reel.about.channels,
        "bits_per_pixel": reel.bits_per_pixel,
        "bytes": reel.source.size,
        "file_bits_per_pixel": 8 * reel.source.size / pixels,
    }


def told(record: dict[str, Any]) -> str:
    """The record of one file that was encoded or decoded, in two lines for people."""
    name = "standard output" if record["output"] == PIPE else record["output"]
    what = f"{name}: {count(record['frames'], 'frame')}"
    if "size" in record:
        what += f" of {plain(record['size'])}"
    if record.get("fps"):
        what += f" at {record['fps']:.6g} per second"
    if "bits_per_pixel" in record:
        of = f"ids below {record['vocabulary']:,}" if record["vocabulary"] else "latents"
        what += (
            f", {plain(record['tokens'])} {of} by {record['model']}\n"
            f"{record['bits_per_pixel']:.4f} bits per pixel, {record['bytes']:,} bytes"
        )
    speed = rate(record["frames"], record["seconds"])
    return f"{what}\n{record['seconds']:.2f} s, {speed} frames per second"
