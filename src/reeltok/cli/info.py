"""`info`: what a .reel file, a video or a model is, without decoding or loading it."""

import math
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.report import Report, facts


def info(
    what: Annotated[str, typer.Argument(metavar="FILE|MODEL", show_default=False)],
    *,
    raw: given.RawOption = None,
    damage: given.DamageOption = "refuse",
) -> Report:
    """Describe a .reel file, a video or a model.

    Prints for a .reel file its clip, grid, tokenizer and settings, and the bits per pixel of its
    tokens and of the whole file; for a video frames, size, rate and colour; for a model (a preset
    or a folder) its compression, its number of parameters, and where its weights are.
    """
    path = Path(what)
    if path.suffix == ".reel" or what == "-":
        record = about_reel(what)
    elif names_video(what):
        record = about_video(what, raw, damage)
    else:
        record = about_model(what)
    shown = {label_of(name): in_words(name, value) for name, value in record.items() if value != {}}
    return Report(data=record, text=facts(shown))


def label_of(name: str) -> str:
    """What people read for a name of the record."""
    return "decodes to" if name == "given" else name.replace("_", " ")


def in_words(name: str, value: Any) -> Any:
    """A value of the record as people read it."""
    from reeltok.video.tags import NAMES, name_code

    return name_code(name, value) if name in NAMES else value


def names_video(what: str) -> bool:
    """Whether it is a file or called like one, an address, or a folder that holds no model."""
    from reeltok.data.kinds import is_picture, is_video
    from reeltok.files.atomic import is_pipe
    from reeltok.video.inputs import is_address

    path = Path(what)
    called = not path.is_dir() and (is_video(what) or is_picture(what))
    return called or is_address(what) or is_pipe(what) or path.is_file() or holds_no_model(path)


def holds_no_model(path: Path) -> bool:
    """Whether it is a folder of something else."""
    from reeltok.models.foreign.names import is_pair

    return path.is_dir() and not ((path / "config.json").is_file() or is_pair(path))


def about_reel(path: str) -> dict[str, Any]:
    """A .reel file by its header; torch is not loaded for it."""
    from reeltok.tokens.source import ReelSource
    from reeltok.transcode.facts import ReelFacts

    with closing(ReelSource(path)) as source:
        return {
            "file": path,
            **asdict(ReelFacts.of(source)),
            "weights": source.about.weights,
            **source.about.settings,
        }


def about_video(path: str, raw: str | None = None, damage: Any = "refuse") -> dict[str, Any]:
    """A video by its packets and its first frame; all are decoded where some may be left out."""
    from reeltok.video.record import stream
    from reeltok.video.size import ratio_text

    with stream(path, raw=raw, damage=damage) as video:
        return {
            "file": path,
            "frames": video.frames,
            "size": [video.height, video.width],
            "fps": video.fps,
            "rate": "varying" if video.times is not None else None,
            "seconds": video.seconds,
            "damaged": video.damaged,
            "pixel_aspect": None if video.aspect == 1 else ratio_text(video.aspect),
            "sound": video.sound,
            **asdict(video.colour),
            "notes": "; ".join(video.notes) or None,
        }


def about_model(name: str) -> dict[str, Any]:
    """A model by its configuration; its network is built without memory."""
    from reeltok import zoo
    from reeltok.models.foreign.names import parse_foreign
    from reeltok.models.presets import PRESETS
    from reeltok.tokenizer.folder import build_empty

    if parse_foreign(name) is not None:  # how it counts is found by running it
        network = zoo.load(name)
        family = network.family
    else:
        family, config = zoo.described(zoo.preset_folder(name) or name)
        network = build_empty(lambda: zoo.FAMILIES[family][1](config, Path(name).name), name)
    spec = network.spec
    frames, size = spec.window or 17, spec.size or (256, 256)
    grid = network.grid_for(frames, size)
    pixels = frames * math.prod(size)
    return {
        "name": name,
        "family": family,
        "pixels_a_token": list(spec.factors),
        "causal": spec.causal,
        "first_frames": spec.first_frames,
        "frames_per_group": spec.frames_per_group,
        "window": spec.window,
        "vocabulary": spec.vocabulary,
        "channels": spec.channels,
        "bits_a_token": spec.bits,
        "bits_per_pixel": math.prod(grid) * spec.bits / pixels,
        "at": [frames, *size],
        "parameters": spec.parameters,
        "weights": zoo.weights_of(name) if name in PRESETS else "in its folder",
    }
