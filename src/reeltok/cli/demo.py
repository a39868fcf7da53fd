"""`demo`: a clip to tokens and back, and all that shows how it went, in one folder."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.encode import record_of
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts
from reeltok.files.places import check_free, check_place
from reeltok.transcode.options import Cut
from reeltok.transcode.plan import Job
from reeltok.wording import count, plain, rate

if TYPE_CHECKING:
    from reeltok.tokenizer.contract import Tokenizer

LONGEST, SHORT_SIDE = 96, 256  # of a clip that is given: frames, and pixels


def demo(
    *,
    video: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Video of your own: its first 96 frames, scaled to a short side of at most "
            "256 pixels; by default a clip is drawn.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write to.")] = Path("out"),
    model: given.ModelOption = "default",
    weights: given.WeightsOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    force: given.ForceOption = False,
) -> Report:
    """Encode a short clip, decode it again, and show the result.

    Writes clip.mkv (the original), demo.reel (the tokens), demo.mp4 (the reconstruction) and
    side-by-side.png. Works offline, in less than a minute on two cores.
    """
    places = {name: str(out / name) for name in ("demo.reel", "demo.mp4", "side-by-side.png")}
    clip = video or str(out / "clip.mkv")
    check_free([*places.values(), *([] if video else [clip])], force=force, inputs=[video])
    check_place(str(out))
    tokenizer = given.open_model(model, weights=weights, device=device, dtype=dtype)
    cut = cut_of(video)
    out.mkdir(parents=True, exist_ok=True)
    if video is None:
        draw_clip(clip)
    record = code(tokenizer, clip, cut, places)
    return Report(data=record, text=as_text(record))


def cut_of(video: str | None) -> Cut:
    """As much of a video as a demonstration needs."""
    from reeltok.video.record import stream

    if video is None:
        return Cut()
    with stream(video, frames=LONGEST) as opened:
        small = min(opened.height, opened.width) <= SHORT_SIDE
        rate = None if opened.fps else 24.0
    return Cut(frames=LONGEST, size=None if small else SHORT_SIDE, fps=rate)


def draw_clip(path: str) -> None:
    """Draw the clip of `reeltok.demo` and keep it without loss."""
    from reeltok.demo import render_clip
    from reeltok.video.record import write

    write(render_clip(), path, lossless=True)


def code(tokenizer: "Tokenizer", clip: str, cut: Cut, places: dict[str, str]) -> dict[str, Any]:
    """Encode to a .reel file, decode from it, compare, write; everything in numbers."""
    from reeltok.tokens.reel import Reel
    from reeltok.transcode.clock import Clock
    from reeltok.transcode.decode import counted, decode_frames
    from reeltok.transcode.encode import encode_file
    from reeltok.transcode.reconstruct import labels, watched
    from reeltok.transcode.side_by_side import Comparison, SampledFrames, alongside
    from reeltok.video.record import read, write

    reel_file, mp4, png = places.values()
    clock, comparison = Clock("write"), Comparison()
    with Progress("demo", files=2) as progress:
        encoded = encode_file(tokenizer, clip, reel_file, cut=cut, on_progress=progress.of_file())
        made = record_of(Job(source=clip, target=reel_file), encoded)
        original = read(clip, **asdict(cut))
        shown = SampledFrames(len(original))
        with Reel(reel_file) as reel:
            decoded = clock.around("decode", decode_frames(tokenizer, reel, 0, reel.frames))
            pairs = alongside(iter([original]), counted(decoded, progress.of_file(), reel.frames))
            pairs = watched(pairs, comparison, shown)
            write((part for _, part in pairs), mp4)
    clock.switch("done")
    record = {**made, **comparison.record(), "reconstruction": mp4, "side_by_side": png}
    record["raw_bytes"] = original.frames.numel()
    record["seconds"] = {"encode": made["seconds"], "decode": clock.seconds["decode"]}
    said = labels(made["model"], made["bits_per_pixel"], record["psnr"])
    write(shown.picture(said), png)
    return record


def as_text(record: dict[str, Any]) -> str:
    """The record as a table for people."""
    frames = record["frames"]
    rates = {
        stage: f"{seconds:.2f} s, {rate(frames, seconds)} frames per second"
        for stage, seconds in record["seconds"].items()
    }
    said = {
        "clip": f"{record['input']}: {count(frames, 'frame')} of {plain(record['size'])}",
        "tokens": f"{record['output']}: {plain(record['tokens'])} by {record['model']}",
        "size": f"{record['bytes']:,} bytes; the pixels: {record['raw_bytes']:,}",
        "bits per pixel": f"{record['bits_per_pixel']:.4f}",
        **rates,
        "PSNR": f"{record['psnr']:.2f} dB",
        "SSIM": "frames are too small" if record["ssim"] is None else f"{record['ssim']:.4f}",
        "reconstruction": record["reconstruction"],
        "side by side": record["side_by_side"],
    }
    return facts(said)
