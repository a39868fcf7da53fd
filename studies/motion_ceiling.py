"""How far motion could carry a reference, if every vector is paid within 15 bits a token.

    python studies/motion_ceiling.py --eval EVAL_CLIPS --out runs/studies/motion_ceiling.json

A codec without training. Frame 0 is as the plain tokenizer decodes it; each block of four frames is
predicted from the last decoded frame by the motion that RefTok's encoder searches (for 8x8 pixels
the displacement of the last frame and what the middle one deviates from half of it, to half a
pixel), and what is left is a 4x8x8 cosine transform with one quantiser step a block. Vectors cost
the lengths of an exponential Golomb code of their difference from the median of three neighbours,
coefficients the entropies of their values by frequency: there is no bitstream. Together they cost
what the tokens of the block do.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from leaning import BLOCK, Shot, eval_shots
from torch import Tensor

from reeltok import load
from reeltok.evaluate.results import describe_machine
from reeltok.models.reftok.motion import displacements, enlarge_field, fit, search, warp
from reeltok.tokenizer.contract import Tokenizer

CELL, BITS, BLOCKS = 8, 15, 6
TIMES = torch.tensor([0.5, 1.0]).view(1, 2, 1, 1, 1)
PRICE = 0.0005  # mean absolute difference that one bit of a vector must save
KINDS = ("copy", "vectors", "motion", "motion, free vectors")


@dataclass(frozen=True)
class Coded:
    """A block as the codec gives it back, "1 t h w c", and the bits of its vectors."""

    frames: Tensor
    vectors: float


def golomb(numbers: Tensor) -> Tensor:
    """The lengths in bits of signed exponential Golomb codes of whole numbers, summed."""
    positive = torch.where(numbers > 0, 2 * numbers - 1, -2 * numbers)
    return (2 * (positive + 1).log2().floor() + 1).sum(-1)


def vector_bits(vectors: Tensor) -> Tensor:
    """The bits of each cell's vectors "h w 4" (in half pixels), beside its neighbours' median."""
    wide = F.pad(vectors.permute(2, 0, 1), (1, 1, 1, 0)).permute(1, 2, 0)
    near = torch.stack([wide[1:, :-2], wide[:-1, 1:-1], wide[:-1, 2:]]).median(0).values
    return golomb(vectors - near)


def predict(reference: Tensor, vectors: Tensor) -> Tensor:
    """The block that vectors make of a reference "1 h w c"."""
    last, deviation = vectors[..., :2] / 2, vectors[..., 2:] / 2
    moved = torch.stack([last / 2 + deviation, last])[None]
    field = enlarge_field(fit(moved, TIMES, 1), (CELL, CELL))
    return warp(reference, displacements(field, BLOCK), cubic=True)


def choose_vectors(reference: Tensor, block: Tensor) -> Tensor:
    """Vectors "h w 4" in half pixels: those searched, or a neighbour's where that is cheaper."""
    moved = search(reference, block, steps=1, cell=(CELL, CELL)).moved[0]
    vectors = torch.cat([2 * moved[1], (2 * moved[0] - moved[1]).round()], dim=-1).round()
    for _ in range(4):
        shifts = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
        tried = [torch.roll(vectors, shift, (0, 1)) for shift in shifts]
        tried.append(torch.zeros_like(vectors))
        costs = []
        for each in tried:
            apart = (predict(reference, each) - block).abs()
            there = reduce(apart, "1 t (h i) (w j) c -> h w", "mean", i=CELL, j=CELL)
            costs.append(there + PRICE * vector_bits(each))
        best = torch.stack(costs).argmin(0)
        vectors = torch.stack(tried).gather(0, best[None, ..., None].expand(1, -1, -1, 4))[0]
    return vectors


def cosines(count: int) -> Tensor:
    """The orthonormal cosine basis."""
    order, place = torch.arange(count)[:, None], torch.arange(count) + 0.5
    basis = torch.cos(math.pi / count * order * place) * math.sqrt(2 / count)
    basis[0] /= math.sqrt(2)
    return basis


SPACE, TIME = cosines(CELL), cosines(BLOCK)


def transform(x: Tensor) -> Tensor:
    """Coefficients "n t i j" of blocks "1 t h w c" of 4x8x8 values, one colour after the other."""
    cells = rearrange(x, "1 t (h i) (w j) c -> (c h w) t i j", i=CELL, j=CELL)
    return torch.einsum("st,ki,lj,ntij->nskl", TIME, SPACE, SPACE, cells)


def restore(y: Tensor, like: Tensor) -> Tensor:
    """What `transform` was given."""
    cells = torch.einsum("st,ki,lj,nskl->ntij", TIME, SPACE, SPACE, y)
    _, _, h, w, c = like.shape
    return rearrange(cells, "(c h w) t i j -> 1 t (h i) (w j) c", c=c, h=h // CELL, w=w // CELL)


def quantise(y: Tensor, step: float) -> Tensor:
    """Coefficients on a grid, with a dead zone: less than two thirds of a step is nothing."""
    return (y.abs() / step + 1 / 3).floor() * y.sign()


def entropy_bits(levels: Tensor) -> float:
    """The bits of whole numbers "n t i j", by the entropy of those of about one frequency."""
    n = len(levels) // 3
    frequency = torch.arange(BLOCK)[:, None, None] * 2
    frequency = frequency + torch.arange(CELL)[:, None] + torch.arange(CELL)
    bits = 0.0
    for colour in (levels[:n], levels[n : 2 * n], levels[2 * n :]):
        for band in range(int(frequency.max()) + 1):
            _, counts = colour[:, frequency == band].unique(return_counts=True)
            shares = counts / counts.sum()
            bits -= float((counts * shares.log2()).sum())
    return bits


OPPONENT = torch.tensor([[1, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]])
OPPONENT = OPPONENT / OPPONENT.norm(dim=1, keepdim=True)


def code(reference: Tensor, block: Tensor, kind: str) -> Coded:
    """One block within the bits of its tokens."""
    budget = BITS * (block.shape[2] // CELL) * (block.shape[3] // CELL)
    moving = kind != "copy"
    vectors = choose_vectors(reference, block) if moving else None
    bits = 0.0 if vectors is None else float(vector_bits(vectors).sum())
    near = reference[:, None].expand_as(block) if vectors is None else predict(reference, vectors)
    if kind == "vectors":
        return Coded(near, bits)
    left = budget if kind.endswith("free vectors") else max(0.0, budget - bits)
    y = transform((block - near) @ OPPONENT.T)
    low, high = 0.01, 20.0
    for _ in range(14):
        step = math.sqrt(low * high)
        low, high = (step, high) if entropy_bits(quantise(y, step)) > left else (low, step)
    rest = restore(quantise(y, high) * high, block) @ OPPONENT
    return Coded((near + rest).clamp(-1, 1), bits)


def psnr(x: Tensor, y: Tensor) -> float:
    """dB, the mean over frames."""
    squared = ((x - y) / 2).square().mean(dim=(0, 2, 3, 4))
    return float((-10 * torch.log10(squared + 1e-8)).mean())


def follow_clip(shot: Shot, plain: Tokenizer, kind: str) -> list[float]:
    """PSNR of each block in closed loop, and last the vectors' share of the bits."""
    x = shot.x[:, :, : 1 + BLOCK * BLOCKS]
    first = plain.decode(plain.encode(x[:, :, :1])).clamp(-1, 1)
    rows, reference = x.permute(0, 2, 3, 4, 1), first.permute(0, 2, 3, 4, 1)[:, 0]
    found, spent = [], []
    for at in range(1, rows.shape[1], BLOCK):
        block = rows[:, at : at + BLOCK]
        made = code(reference, block, kind)
        found.append(psnr(made.frames, block))
        spent.append(made.vectors / (BITS * block.shape[2] * block.shape[3] / CELL**2))
        reference = made.frames[:, -1]
    return [*found, fmean(spent)]


def tokens_of(shot: Shot, model: Tokenizer) -> list[float]:
    """PSNR of each block as a tokenizer gives it back."""
    x = shot.x[:, :, : 1 + BLOCK * BLOCKS]
    made = model.decode(model.encode(x)).clamp(-1, 1)
    rows, back = x.permute(0, 2, 3, 4, 1), made.permute(0, 2, 3, 4, 1)
    return [
        psnr(back[:, at : at + BLOCK], rows[:, at : at + BLOCK])
        for at in range(1, rows.shape[1], BLOCK)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["default", "reftok-default"])
    parser.add_argument("--every", type=int, default=1, help="of the clips only every so many")
    parser.add_argument("--out", type=Path, help="a JSON file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    plain, shots = load("default"), eval_shots(given.eval)[:: given.every]
    lines: dict[str, list[list[float]]] = {}
    for shot in shots:
        for name in given.models:
            lines.setdefault(name, []).append(tokens_of(shot, load(name)))
        for kind in KINDS:
            lines.setdefault(kind, []).append(follow_clip(shot, plain, kind))
    means = {
        name: [fmean(column) for column in zip(*rows, strict=True)] for name, rows in lines.items()
    }
    print(f"{len(shots)} clips; PSNR of blocks 1 to {BLOCKS}, then the vectors' share of the bits")
    for name, row in means.items():
        blocks = " ".join(f"{value:5.2f}" for value in row[:BLOCKS])
        share = f"{row[BLOCKS]:.2f}" if len(row) > BLOCKS else ""
        print(f"{name:22} {blocks}  mean {fmean(row[:BLOCKS]):.2f}  {share}")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": describe_machine(), "clips": len(shots), "means": means, "all": lines}
        given.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
