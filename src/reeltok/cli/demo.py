"""`demo`: a clip to tokens and back, and all that shows how it went, in one folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.encode import job_record
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts
from reeltok.files.places import check_free, check_place
from reeltok.transcode.options import Cut
from reeltok.transcode.plan import Job
from reeltok.wording import count, plain, rate

BESIDE = ("reftok-default", "default-kl")  # shown beside the default where they are bundled


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
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another tokenizer to show beside it, a name, a folder or LABEL=FOLDER; may be "
            "repeated; by default reftok-default (and default-kl, where it is bundled) beside "
            "default.",
        ),
    ] = None,
    weights: given.WeightsOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    force: given.ForceOption = False,
) -> Report:
    """Encode a short clip, decode it again, and show the result.

    Writes clip.mkv (the original), demo.reel (the tokens), demo.mp4 (the reconstruction), a
    demo-NAME.mp4 for each tokenizer beside, and side-by-side.png with all of them. Works offline,
    in less than a minute on two cores.
    """
    from reeltok.transcode.demonstration import FILES, cut_short, demonstrate

    names = named_beside(model, beside, weights)
    others = files_beside(names, out)
    clip = video or str(out / "clip.mkv")
    places = [str(out / name) for name in FILES.values()]
    written = [*places, *others, *([] if video else [clip])]
    check_free(written, force=force, inputs=[video])
    check_place(str(out))
    how: dict[str, Any] = {"device": device, "dtype": dtype}
    tokenizer = given.open_model(model, weights=weights, **how)
    more = {path: given.open_model(name, weights=None, **how) for path, name in others.items()}
    cut = Cut() if video is None else cut_short(video)
    out.mkdir(parents=True, exist_ok=True)
    if video is None:
        draw_clip(clip)
    with Progress("demo", files=2 + len(more)) as progress:
        made = demonstrate(tokenizer, clip, out, cut=cut, beside=more, watcher=progress)
    encoded = job_record(Job(source=clip, target=places[0]), made.encoded)
    record = {**encoded, **{name: value for name, value in vars(made).items() if name != "encoded"}}
    record["beside"] = [vars(other) for other in made.beside]
    return Report(data=record, text=demo_text(record))


def named_beside(model: str, beside: list[str] | None, weights: str | None) -> list[str]:
    """The tokenizers to show beside: those that were named, or with the bundled default, others."""
    from reeltok import zoo

    if beside is not None:
        return list(dict.fromkeys(beside))
    if model != "default" or weights is not None:
        return []
    return [name for name in BESIDE if name in zoo.bundled()]


def files_beside(names: list[str], out: Path) -> dict[str, str]:
    """The videos of the tokenizers beside, called as `label_models` calls them; whose each is.

    ValueError for two of one name.
    """
    from reeltok.evaluate.labels import label_models

    found: dict[str, str] = {}
    for one in label_models(names):
        label = one.label.replace("/", "-")
        path = str(out / f"demo-{label}.mp4")
        if found.setdefault(path, one.source) != one.source:
            raise ValueError(
                f"{found[path]} and {one.source} are both called {label}: name one as "
                f"LABEL={one.source}"
            )
    return found


def draw_clip(path: str) -> None:
    """Draw the clip of `reeltok.demo` and keep it without loss."""
    from reeltok.demo import render_clip
    from reeltok.video.record import write

    write(render_clip(), path, lossless=True)


def demo_text(record: dict[str, Any]) -> str:
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
    for other in record["beside"]:
        quality = f"{other['psnr']:.2f} dB at {other['bits_per_pixel']:.4f} bits per pixel"
        said[f"beside: {other['model']}"] = f"{quality}, {other['reconstruction']}"
    return facts(said)
