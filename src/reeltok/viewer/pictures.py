"""What the page shows of tokens: a map of one step in colours, a histogram, a table of numbers."""

import math
from collections.abc import Iterable
from html import escape

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from reeltok.tokens.reel import Reel
from reeltok.viewer.work import RoundTrip
from reeltok.wording import plain

SIDE = 512  # pixels of the longer side of a map, at least
GOLDEN = 0.61803398875  # of a turn: neighbouring ids get far-off hues
WIDTH, HEIGHT = 512, 128  # of a histogram

Picture = UInt8[np.ndarray, "h w 3"]


def steps_of(result: RoundTrip) -> int:
    """How many maps there are: steps in time, or where tokens lie in a row, runs of a square."""
    if len(result.grid) == 3:
        return result.grid[0]
    return math.ceil(result.tokens / SIDE**2) if result.tokens else 0


def draw_map(result: RoundTrip, step: int) -> Picture:
    """The tokens of one step (0 to steps - 1): ids in colours of their own, latents as red, green
    and blue of their first three channels. ValueError for a step that is not there."""
    if not 0 <= step < steps_of(result):
        raise ValueError(f"step {step + 1} was asked for, and there are {steps_of(result)}")
    with Reel(result.reel) as reel:
        if len(result.grid) == 3:
            part = reel.part(step, step + 1, frames=(0, 0))
        else:
            start = step * SIDE**2
            part = reel.part(start, min(start + SIDE**2, reel.grid[0]), frames=(0, 0))
        cells = part.first_tensor[0] if part.ids is None else part.ids[0]
    colours = colours_of_latents(cells) if part.ids is None else colours_of_ids(cells)
    return enlarge(arrange_tokens(colours, len(result.grid)))


def colours_of_ids(ids: Int[Tensor, "..."]) -> UInt8[np.ndarray, "... 3"]:
    """A colour for each id, the same everywhere."""
    number = ids.numpy().astype(np.float64)
    hue = (number * GOLDEN) % 1
    value = 0.55 + 0.45 * ((number * GOLDEN**2 * 7) % 1)
    turns = (np.array([5, 3, 1]) + hue[..., None] * 6) % 6
    share = np.clip(np.minimum(turns, 4 - turns), 0, 1)
    return (255 * value[..., None] * (1 - 0.7 * share)).round().astype(np.uint8)


def colours_of_latents(latents: Float[Tensor, "d ..."]) -> UInt8[np.ndarray, "... 3"]:
    """The first three channels, each from its least to its greatest value."""
    x = latents[:3].float()
    x = torch.cat([x, x[-1:].expand(3 - len(x), *x.shape[1:])]).flatten(1)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    bytes_ = ((x - low) / (high - low).clamp(min=1e-6) * 255).round().to(torch.uint8)
    return bytes_.T.reshape(*latents.shape[1:], 3).numpy()


def arrange_tokens(colours: UInt8[np.ndarray, "... 3"], axes: int) -> Picture:
    """One step as a picture: as it lies, or a row of tokens in lines of a square."""
    if axes == 3:
        return colours[0]
    row = colours.reshape(-1, 3)
    width = math.ceil(math.sqrt(len(row)))
    lines = math.ceil(len(row) / width)
    filled = np.full((lines * width, 3), 255, np.uint8)
    filled[: len(row)] = row
    return filled.reshape(lines, width, 3)


def enlarge(picture: Picture) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Each token as a square of pixels."""
    times = max(1, math.ceil(SIDE / max(picture.shape[:2])))
    return picture.repeat(times, 0).repeat(times, 1)


def draw_histogram(result: RoundTrip) -> str:
    """How tokens are spread, as an SVG picture with its description."""
    top, width = max(*result.bars, 1), WIDTH / len(result.bars)
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{HEIGHT * (1 - bar / top):.2f}" width="{width * 0.9:.2f}" '
        f'height="{HEIGHT * bar / top:.2f}"/>'
        for i, bar in enumerate(result.bars)
        if bar
    )
    said = escape(codebook_usage(result))
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT + 1}" role="img" '
        f'aria-label="{said}" preserveAspectRatio="none">{bars}'
        f'<rect y="{HEIGHT}" width="{WIDTH}" height="1"/></svg>'
        f"<div><span>{plain(result.low)}</span><span>{axis(result)}</span>"
        f"<span>{plain(result.high)}</span></div><figcaption>{said}</figcaption></figure>"
    )


def axis(result: RoundTrip) -> str:
    """What a histogram counts."""
    return "latent value" if result.vocabulary is None else "token id"


def codebook_usage(result: RoundTrip) -> str:
    """How the codebook is used, in a sentence."""
    if result.vocabulary is None or result.used is None or result.perplexity is None:
        return f"{result.tokens:,} tokens of latent values: there is no codebook."
    share = result.used / result.vocabulary
    return (
        f"{result.used:,} of {result.vocabulary:,} ids are used ({share:.1%}) by "
        f"{result.tokens:,} tokens, as evenly as {result.perplexity:,.0f} ids would be "
        "(perplexity)."
    )


COLUMNS = ("tokenizer", "bits per pixel", "PSNR", "SSIM", "tokens", "grid", "encode", "decode")


def draw_table(results: Iterable[RoundTrip]) -> str:
    """The numbers of all results, a row each, as an HTML table."""
    head = "".join(f'<th scope="col">{column}</th>' for column in (*COLUMNS, ".reel"))
    rows = "".join(
        f'<tr><th scope="row">{escape(result.label)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells(result))
        + "</tr>"
        for result in results
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def cells(result: RoundTrip) -> list[str]:
    """One row of the table, without its name."""
    seconds = (result.seconds.get(stage) for stage in ("encode", "decode"))
    return [
        f"{result.bits_per_pixel:.4f}",
        "–" if result.psnr is None else f"{result.psnr:.2f} dB",
        "–" if result.ssim is None else f"{result.ssim:.4f}",
        f"{result.tokens:,}",
        plain(result.grid),
        *("–" if each is None else f"{each:.2f} s" for each in seconds),
        f"{result.bytes:,} bytes",
    ]


def caption(result: RoundTrip) -> str:
    """What the video shows."""
    rate = f" at {result.fps:g} per second" if result.fps else ""
    what = f"{result.frames} frames of {plain(result.size)}{rate}"
    if result.video == result.decoded:
        return f"{what}, as `{result.label}` decodes them."
    wide = result.size[1] > 1.2 * result.size[0]
    where = ("above", "below") if wide else ("on the left", "on the right")
    return f"{what}: the original {where[0]}, `{result.label}` {where[1]}."
