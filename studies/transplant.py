"""A RefTok on another body: its reference features and flow stay, what joins them starts at zero.

    python studies/transplant.py REFTOK BODY OUT

REFTOK is a trained RefTok, BODY a plain tokenizer of the same layers. OUT gives what BODY gives,
but for the cells that it skips, and learns to use references again sooner than fresh layers would
(docs/log.md, 2026-11-30).
"""

import argparse

import torch

from reeltok import load
from reeltok.models.reftok.network import RefTok
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.build import warm

JOINS = (
    "_injection.fine.",
    "_injection.coarse.",
    "_injection.difference_out.",
    "_injection.copy_gate.",
    "_injection.moved_in.",
    "_injection.field_out.",
)
"""Layers that add to the body's streams: zero in a fresh RefTok."""


@torch.no_grad()
def transplant(model: RefTok, body: Tokenizer) -> RefTok:
    """`model` itself, with the weights of `body`; ValueError where those do not fit."""
    warm(model, body)
    for name, weight in model.named_parameters():
        if any(layer in name for layer in JOINS):
            weight.zero_()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("reftok", help="a trained RefTok: a name or a folder")
    parser.add_argument("body", help="the tokenizer whose body it gets: a name or a folder")
    parser.add_argument("out", help="the folder of the new model")
    given = parser.parse_args()
    model = load(given.reftok)
    if not isinstance(model, RefTok):
        parser.error(f"{given.reftok} is not a RefTok: give one")
    transplant(model, load(given.body)).save_pretrained(given.out)


if __name__ == "__main__":
    main()
