"""A trained model as it is bundled: rows of few bits, only what differs from a base, a model card.

    python -m reeltok.train.bundle RUN OUT --hardware "one NVIDIA H200, 16 cores"

writes the model that the run in the folder RUN ended with as the folder OUT, under OUT's name.
docs/decisions/0006 says why 8 bits, or 6. What OUT holds is loaded again and compared before
anything is said; figures of the card are of the trained weights, `--result` adds those of the
bundled ones. Where OUT holds other weights already, `--earlier` names the commit that comes with
those.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reeltok import zoo
from reeltok.files.atomic import write_file
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import (
    dump_config,
    hash_weights,
    write_folder,
)
from reeltok.tokenizer.rows import Bits, pack_rows, unpack_rows
from reeltok.train.card import write_card
from reeltok.wording import as_options

MEBIBYTE = 2**20
OPTIONS = {"hardware": "--hardware", "base": "--base", "earlier": "--earlier"}


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """What was written: the folder, its bytes, the hash of the weights, the layers stored."""

    folder: Path
    bytes: int
    weights: str
    layers: tuple[str, ...]
    of: int  # layers of the whole model
    bits: int
    measured: bool  # whether statistics of its latents come along, where it has latents

    def __str__(self) -> str:
        held = "all" if len(self.layers) == self.of else f"{len(self.layers)} of {self.of}"
        return (
            f"{self.folder}: {self.bytes / MEBIBYTE:.2f} MiB, {held} layers in rows of {self.bits} "
            f"bits, weights {self.weights[:12]}; it loads back exactly"
            + ("" if self.measured else f"; next: reeltok statistics {self.folder} CLIPS")
        )


def bundle(
    source: str | Path,
    out: str | Path,
    *,
    hardware: str = "",
    base: str | None = None,
    best: bool = False,
    results: Sequence[str | Path] = (),
    notes: Sequence[str] = (),
    bits: Bits = 8,
    earlier: str | None = None,
) -> Bundled:
    """Write the model of a run, or of a folder, as the folder `out`, small.

    `base` names the preset that it began with: only layers that differ are stored. `best` takes the
    best model of a run instead of the last. A run's card says the `hardware` that it ran on, its
    hours, command and curve, then what `reeltok evaluate --out` wrote to `results`, then `notes`.
    Matrices are stored in `bits`. `earlier` is the commit that comes with the weights that `out`
    holds until now: their tokens are refused with its name. FileNotFoundError or ValueError where
    `source` is not a model, or shares nothing with `base`, or `out` has weights of no commit.
    """
    source, out = Path(source), Path(out)
    is_run = (source / "recipe.json").is_file()
    if not is_run and not (source / "config.json").is_file():
        raise FileNotFoundError(
            f"there is no run or model in {source}: give the folder that training wrote, or a model"
        )
    if is_run and not hardware:
        raise ValueError(f"a model card says what {source} was trained on: give `hardware`")
    model = zoo.load_folder(source / ("best" if best else "model") if is_run else source)
    model.name = out.resolve().name
    state = model.state_dict()
    shared = None if base is None else zoo.load(base)
    stored = state if shared is None else differing(state, shared)
    packed = unpack_rows(pack_rows(stored, bits))
    model.earlier = earlier_weights(out, hash_weights(state | packed), earlier)
    record = bundle_record(model, shared, stored, bits)
    folder = write_folder(out, record, stored, bits=bits)
    again = zoo.load_folder(folder)
    require_equal(again, state | packed, folder)
    if is_run:
        write_file(
            folder / "README.md",
            write_card(
                again, source, folder, hardware=hardware, results=results, notes=notes, bits=bits
            ),
        )
    return Bundled(
        folder=folder,
        bytes=(folder / "model.safetensors").stat().st_size,
        weights=again.hash(),
        layers=tuple(sorted(layers(stored))),
        of=len(layers(state)),
        bits=bits,
        measured=again.spec.vocabulary is not None or again.statistics is not None,
    )


def differing(state: dict[str, Tensor], base: Tokenizer) -> dict[str, Tensor]:
    """The tensors that are not those of `base`; ValueError where all are, or none fits."""
    shared = base.state_dict()
    odd = [k for k, v in state.items() if k not in shared or shared[k].shape != v.shape]
    if odd or len(shared) != len(state):
        raise ValueError(
            f"the model is not of {base.name}'s network ({(odd or ['it lacks layers'])[0]}): "
            "bundle it without `base`"
        )
    found = {k: v for k, v in state.items() if not torch.equal(v, shared[k])}
    if not found:
        raise ValueError(f"the model is {base.name}: nothing differs, there is nothing to bundle")
    if not any(x.ndim > 1 for name, x in state.items() if name not in found):
        raise ValueError(
            f"no matrix of the model is one of {base.name} as it is here: train it from these "
            "weights, or bundle it without `base`"
        )
    return found


def bundle_record(
    model: Tokenizer, base: Tokenizer | None, stored: dict[str, Tensor], bits: Bits = 8
) -> dict[str, Any]:
    """What config.json says of a model whose tensors `stored` are kept.

    One that shares its encoder and quantizer with `base` makes its ids, so it reads its tokens.
    """
    record = {"family": model.family, "name": model.name, "config": dump_config(model.config)}
    if model.statistics is not None:
        record["statistics"] = model.statistics
    if model.earlier:
        record["earlier"] = dict(model.earlier)
    reads: tuple[str, ...] = ()
    if base is not None:
        record["base"] = {"name": base.name, "weights": base.hash()}
        if not model.loops and all(name.startswith("decoder.") for name in stored):
            reads = (base.hash(), *base.reads)
    elif hash_weights(unpack_rows(pack_rows(stored, bits))) == model.hash():
        reads = model.reads  # in so few bits already
    return record | ({"reads": reads} if reads else {})


def earlier_weights(out: Path, weights: str, commit: str | None) -> dict[str, str]:
    """What config.json of `out` shall say of weights before `weights`, by their hash.

    Those before, and those whose tokens they read, come with the `commit`. ValueError where `out`
    holds other ones, and none is said.
    """
    if not (out / "config.json").is_file():
        return {}
    before = zoo.load_folder(out)
    if before.hash() == weights:
        return dict(before.earlier)
    if commit is None:
        raise ValueError(
            f"{out} holds other weights ({before.hash()[:12]}), whose tokens may be in use: name "
            "the commit that comes with them in `earlier`, or write to another folder"
        )
    return {**before.earlier, **dict.fromkeys((*before.reads, before.hash()), commit)}


def require_equal(model: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    """OSError unless a folder gives back what was written into it."""
    found = model.state_dict()
    wrong = [k for k in state if k not in found or not torch.equal(found[k], state[k])]
    if wrong or len(found) != len(state):
        raise OSError(f"{folder} does not give back {wrong or 'all layers'}: write it again")


def layers(state: dict[str, Tensor]) -> set[str]:
    """The layers that weights and biases are of."""
    return {name.rpartition(".")[0] for name in state}


def main(words: Sequence[str]) -> int:
    """The command: 0, or 2 after an error, which is said in one sentence."""
    asked = argparse.ArgumentParser(prog="python -m reeltok.train.bundle", description=__doc__)
    asked.add_argument("source", metavar="RUN", help="folder of a run or of a model")
    asked.add_argument("out", metavar="OUT", help="folder to write, which gives the name")
    asked.add_argument("--hardware", default="", help="what the run ran on, for the card")
    asked.add_argument("--base", help="preset of which only what differs is stored")
    asked.add_argument("--best", action="store_true", help="best model of the run, not the last")
    asked.add_argument("--bits", type=int, choices=(6, 8), default=8, help="of matrices (8)")
    asked.add_argument("--earlier", metavar="COMMIT", help="comes with the weights OUT has now")
    asked.add_argument("--result", dest="results", action="append", default=[], metavar="JSON")
    asked.add_argument("--note", dest="notes", action="append", default=[], metavar="TEXT")
    return answer(bundle, asked, words, OPTIONS)


def answer(
    make: Callable[..., object],
    asked: argparse.ArgumentParser,
    words: Sequence[str],
    options: Mapping[str, str],
) -> int:
    """Print what `make` gives for the arguments in `words`: 0, or 2 after an error, in a sentence.

    `options` are the flags by the names of arguments, as `as_options` takes them.
    """
    try:
        print(make(**vars(asked.parse_args(words))))
    except (OSError, ValueError) as error:
        print(f"error: {as_options(str(error), options)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
