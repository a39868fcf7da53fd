"""SKIP: a token that says "as in the reference", for cells where coding would gain little.

It is the centre code of the codebook, so the vocabulary stays; no other cell of a block with a
reference is given that code. The decoder copies the reference's pixels in their place, to the bit.

What stands still need not be refined for ever: a stream may keep for each cell what the original
showed when it was last coded, and count the blocks in a row that do not change it.
"""

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from reeltok.nn.past import Past

CODED, STILL = "coded", "still"
"""What a stream keeps of cells: what they showed when last coded, and blocks without a change."""
UNCHANGED = 0.1  # of the reference's squared error: less is no change
REFINED = 4.0  # times the squared error of its tokens: with more a still cell is coded again
INVISIBLE = 1e-5  # mean squared error, in (value range 2)^2: 56 dB
STAYS = 0.25  # of what bits are worth: later blocks lean on what is skipped, and have its error too


def skipped_cells(z: Float[Tensor, "b s h w d"]) -> Bool[Tensor, "b s h w"]:
    """Where the decoder's input is the centre code."""
    return (z == 0).all(-1)


def worth_skipping(
    coded: Float[Tensor, "b s h w"],
    copied: Float[Tensor, "b s h w"],
    tau: float,
    margin: float,
    worth: Float[Tensor, "b s h w"] | float = 0.0,
    rests: Bool[Tensor, "b 1 h w"] | None = None,
) -> Bool[Tensor, "b s h w"]:
    """Where a copy has at most `tau` times the squared error of what the tokens made.

    It may have more by `margin` times the mean error of the block: a rate-distortion decision, as
    every cell takes about as many bits, relative to a clip's own quality. Where the bits of each
    are known, what they are `worth` (`RefinedModule.worth_of_bits`) adds to the margin. A cell that
    `rests` is left as it is unless its tokens would have less than a quarter of its squared error.
    Errors are those of the cells of whole blocks.
    """
    mean = coded.mean(dim=(1, 2, 3), keepdim=True)
    skipped = copied <= tau * coded + (margin + STAYS * worth) * mean + INVISIBLE
    return skipped if rests is None else skipped | rests & (copied <= REFINED * coded)


def keep_coded(
    past: Past,
    frame: Float[Tensor, "b 1 h w c"],
    cell: tuple[int, int],
    skipped: Bool[Tensor, "b s h2 w2"] | None = None,
) -> None:
    """Keep what the original's last frame shows, but in cells that were `skipped` what it showed.

    Where nothing is known yet there was no reference to be skipped to, and all begins anew.
    """
    if skipped is None or CODED not in past.kept:
        past.kept[CODED] = frame.clone()
        past.kept[STILL] = torch.zeros_like(
            frame[..., :: cell[0], :: cell[1], 0], dtype=torch.float32
        )
    else:
        past.kept[CODED] = copy_skipped(frame, past.kept[CODED], skipped[:, -1:], cell)


def count_still(
    past: Past,
    block: Float[Tensor, "b t h w c"],
    copied: Float[Tensor, "b s h2 w2"],
    enough: int,
) -> Bool[Tensor, "b 1 h2 w2"]:
    """Which cells more than `enough` blocks in a row have not changed, this one counted.

    No change is a mean squared difference from what was coded last of at most a tenth of what the
    reference lacks (`copied`).
    """
    s, h, w = copied.shape[1:]
    change = mean_errors(block, past.kept[CODED], (s, h, w))
    same = (change <= UNCHANGED * copied).all(dim=1, keepdim=True)
    past.kept[STILL] = torch.where(same, past.kept[STILL] + 1, 0)
    return past.kept[STILL] > enough


def mean_errors(
    block: Float[Tensor, "b t h w c"],
    frames: Float[Tensor, "b #t h w c"],
    cells: tuple[int, int, int],
) -> Float[Tensor, "b s h2 w2"]:
    """The mean squared error of each of the cells (steps, rows, columns), float32."""
    s, h, w = cells
    squared = (block.float() - frames.float()).square()
    return reduce(squared, "b (s k) (h i) (w j) c -> b s h w", "mean", s=s, h=h, w=w)


def copy_skipped(
    frames: Float[Tensor, "b t h w c"],
    still: Float[Tensor, "b 1 h w c"],
    skipped: Bool[Tensor, "b s h2 w2"],
    cell: tuple[int, int],
    top: int = 0,
) -> Float[Tensor, "b t h w c"]:
    """`frames` with the reference's pixels in the cells that were skipped.

    A cell has `cell` = (rows, columns) of pixels. Of frames and reference there may be some rows
    alone, from row `top` of the frame on.
    """
    rows = torch.arange(top, top + frames.shape[2], device=frames.device) // cell[0]
    skipped = skipped.repeat_interleave(frames.shape[1] // skipped.shape[1], dim=1)[:, :, rows]
    skipped = skipped.repeat_interleave(cell[1], dim=3)
    return torch.where(skipped[..., None], still.to(frames.dtype), frames)
