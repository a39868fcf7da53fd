"""Options that several commands have, and how their text becomes values."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.arguments import FLOATS, SHORT

if TYPE_CHECKING:
    import torch

    from reeltok.tokenizer.contract import Tokenizer

InputsArgument = Annotated[list[str], typer.Argument(metavar="IN", show_default=False)]
ModelOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Tokenizer to use: a preset (`reeltok models`), a folder, a hub repository, or one of "
        "another library: diffusers:FOLDER, cosmos:FOLDER or module:function.",
    ),
]
PriorTokenizerOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Tokenizer of the prior, a name or a folder; by default the one that MODEL names.",
    ),
]
PriorStepsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Steps in which a prior decodes a block; by default 12, or what its folder says.",
    ),
]
PriorGuidanceOption = Annotated[
    float | None,
    typer.Option(
        metavar="W",
        help="Guidance scale: how strongly a prior follows its conditions; by default 1, or what "
        "its folder says.",
    ),
]
PriorTemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--token-temperature",
        metavar="T",
        help="Temperature of a prior's ids: below 1 it prefers the likelier ones; by default 1, or "
        "what its folder says.",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|random",
        help="File of weights for the model, or `random`; by default the model's own weights.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="NAME", help="Device to compute on: auto, cpu, cuda, cuda:1 or mps.")
]
DtypeOption = Annotated[
    str, typer.Option(metavar="NAME", help="Precision of the network: fp32, bf16 or fp16.")
]
RefineOption = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Gradient steps that refine each group's latents, for better quality by as many "
        "tokens; each takes about four times as long as decoding the group. 0 refines nothing.",
    ),
]
RateWeightOption = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="WEIGHT",
        help="With --refine, weigh the bits that ids take in a packed file against the error of "
        "frames; 10 saves about a tenth of them. 0 does not.",
    ),
]
StartOption = Annotated[
    float, typer.Option(metavar="SECONDS", help="Seconds to skip at the beginning of the video.")
]
FramesOption = Annotated[
    int | None, typer.Option(metavar="N", help="Number of frames to use at most; by default all.")
]
RateOption = Annotated[
    float | None,
    typer.Option(
        metavar="RATE", help="Frames per second to resample to; by default the rate of the video."
    ),
]
SideOption = Annotated[
    str | None,
    typer.Option(
        metavar="256|HxW",
        help="Pixels of the short side to scale to, or the exact height x width; by "
        "default the size is kept.",
    ),
]
RawOption = Annotated[
    str | None,
    typer.Option(
        metavar="WxH:FPS:LAYOUT",
        help="Width x height in pixels, frames per second and FFmpeg pixel format of raw "
        "pictures (.yuv), such as 1920x1080:25:yuv420p; by default IN is not raw.",
    ),
]
DamageOption = Annotated[
    str,
    typer.Option(
        metavar="refuse|stop|skip",
        help="What to do about frames that cannot be decoded: refuse the file, stop before"
        " them, or skip them.",
    ),
]
ChunkOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of frames to code at a time; by default 16 of 256x256, or as many "
        "pixels at other sizes.",
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="PIXELS",
        help="Pixels of the height of strips that large frames are coded in, which changes"
        " nothing; networks with group norm, RefToks with attention, tokenizers of other"
        " libraries and --refine take squares of that side, which are blended and change ids. By"
        " default what --memory asks for where there is such an option, or else whole frames.",
    ),
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        metavar="GB",
        help="Memory that the process may take, in GB: large frames are coded in strips, and what"
        " does not fit waits in a temporary file, which changes nothing. By default the model"
        " and 0.75, at least 1, or what the frames need at least. What takes squares (see"
        " --tile) is not bounded.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace output files that exist.")]
SeedOption = Annotated[
    int, typer.Option(metavar="N", help="Random seed: the same seed gives the same results.")
]
ResultOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json", help="File to write the whole result to, as JSON; by default none."
    ),
]
HostOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Address to listen on: 127.0.0.1 serves this machine alone, 0.0.0.0 everyone "
        "who can reach it.",
    ),
]
JobsOption = Annotated[
    int, typer.Option(metavar="N", help="Number of files to process at the same time.")
]
LosslessOption = Annotated[
    bool, typer.Option("--lossless", help="Write without loss, as FFV1 (.mkv, .avi) or PNG.")
]
CodecOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Video codec, such as h264, hevc, vp9 or av1; by default what suits the "
        "suffix, h264 for .mp4.",
    ),
]
CrfOption = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="Constant rate factor of the codec: lower is better; by default 18 for h264, "
        "and as good for others.",
    ),
]
PadEvenOption = Annotated[
    bool,
    typer.Option("--pad-even", help="Add a row or column to odd sizes, which some players need."),
]
ChangesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the configuration, such as loop.schedule.steps=1000; may"
        " be repeated; by default nothing is changed.",
    ),
]


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """ "256" is a short side, "128x256" height x width; ValueError for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
        raise ValueError(f"--size {text} is not a size: give a short side (256) or HxW (256x448)")
    sides = [int(side) for side in text.split("x")]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def parse_suffix(text: str | None, *, lossless: bool) -> str:
    """The suffix of videos, with its dot; ValueError for one without."""
    if text is not None and not text.startswith("."):
        raise ValueError(f"--suffix {text} has no dot: give --suffix .{text}")
    return text or (".mkv" if lossless else ".mp4")


def parse_dtype(text: str, option: str = "--dtype") -> "torch.dtype":
    """fp32, bf16, fp16 or torch's own names of these; ValueError for anything else."""
    import torch

    name = SHORT.get(text, text)
    if name not in FLOATS:
        raise ValueError(f"{option} {text} is not known: give fp32, bf16 or fp16")
    return getattr(torch, name)


def parse_changes(texts: list[str] | None) -> dict[str, str]:
    """["a.b=1"] as {"a.b": "1"}; ValueError for what has no "="."""
    changes = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {text} changes nothing: write it as KEY=VALUE")
        changes[key] = value
    return changes


def require_use(what: str, **options: object) -> None:
    """ValueError where an option was given (it is not None or False) that is for `what` alone."""
    for name, value in options.items():
        if value is not None and value is not False:
            said = name.replace("_", "-")
            raise ValueError(f"--{said} is for {what}: leave it out")


def open_model(
    name: str,
    *,
    weights: str | None,
    device: str,
    dtype: str,
    refine: int = 0,
    rate_weight: float = 0.0,
) -> "Tokenizer":
    """The tokenizer that these options describe, in evaluation mode."""
    from reeltok import zoo

    kind = parse_dtype(dtype)
    refined: dict[str, Any] = {"refine": refine, "rate_weight": rate_weight}
    return zoo.load(name, weights=weights, device=device, dtype=kind, **refined)
