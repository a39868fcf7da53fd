"""`reconstruct`: a video to tokens and back in one pass, measured and shown beside the original."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts, table
from reeltok.files.atomic import same_file
from reeltok.files.places import PIPE, check_free, check_place
from reeltok.transcode.options import Coding, Cut, Writing
from reeltok.transcode.plan import plan_files
from reeltok.wording import count, plain, rate


def reconstruct(
    source: Annotated[str, typer.Argument(metavar="IN", show_default=False)],
    out: Annotated[str, typer.Argument(metavar="OUT.mp4", show_default=False)],
    *,
    side_by_side: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none",
            help="Where to write original and reconstruction side by side: a video, or a "
            "picture of some frames (both.png), or none; by default OUT-side-by-side.mp4.",
        ),
    ] = None,
    model: given.ModelOption = "default",
    weights: given.WeightsOption = None,
    start: given.StartOption = 0.0,
    frames: given.FramesOption = None,
    fps: given.RateOption = None,
    size: given.SideOption = None,
    raw: given.RawOption = None,
    damage: given.DamageOption = "refuse",
    lossless: given.LosslessOption = False,
    codec: given.CodecOption = None,
    crf: given.CrfOption = None,
    pad_even: given.PadEvenOption = False,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    refine: given.RefineOption = 0,
    rate_weight: given.RateWeightOption = 0.0,
    chunk: given.ChunkOption = None,
    tile: given.TileOption = None,
    memory: given.MemoryOption = None,
    force: given.ForceOption = False,
) -> Report:
    """Encode a video, decode it again, and compare the two.

    Writes the reconstruction, with the sound of the original, and a video of both side by side;
    prints bits per pixel, PSNR and SSIM (means over frames, before the output is compressed) and
    the time of each step. IN may be - (standard input), and OUT too (fragmented mp4).
    """
    from reeltok.data.find import find_clips
    from reeltok.transcode.reconstruct import reconstruct_file

    plan = plan_files([source], out, suffix=".mp4", find=find_clips, folder=True)
    if not plan.named:
        raise ValueError(f"{source} is {count(len(plan.jobs), 'clip')}: reconstruct takes one")
    beside = place_beside(side_by_side, out)
    if beside is not None and same_file(out, beside):
        raise ValueError(f"{out} cannot hold both videos: give --side-by-side another name")
    places = [out] if beside is None else [out, beside]
    check_free(places, force=force, inputs=[source])
    check_place(*places)
    cut = Cut(
        start=start,
        frames=frames,
        fps=fps,
        size=given.parse_size(size),
        raw=raw,
        damage=damage,
    )
    coding = Coding(chunk=chunk, tile=tile, memory=memory)
    writing = Writing(lossless=lossless, codec=codec, crf=crf, pad_even=pad_even)
    refined: dict[str, Any] = {"refine": refine, "rate_weight": rate_weight}
    tokenizer = given.open_model(model, weights=weights, device=device, dtype=dtype, **refined)
    with Progress("reconstructing") as progress:
        made = reconstruct_file(
            tokenizer,
            plan.jobs[0].opened,
            out,
            side_by_side=beside,
            cut=cut,
            coding=coding,
            writing=writing,
            on_progress=progress.of_file(),
        )
    record = {"input": plan.jobs[0].source, "output": out, **asdict(made)}
    del record["source"], record["target"]
    return Report(data=record, text=reconstruction_text(record), piped=plan.piped)


def place_beside(asked: str | None, out: str) -> str | None:
    """Where the two are shown together; nowhere where it was not wanted, or OUT is a pipe."""
    from reeltok.transcode.side_by_side import PICTURES

    if asked == "none" or (asked is None and out == PIPE):
        return None
    path = Path(out)
    suffix = path.suffix if path.suffix in PICTURES else ".mp4"
    return asked or str(path.with_name(f"{path.stem}-side-by-side{suffix}"))


def reconstruction_text(record: dict[str, Any]) -> str:
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
