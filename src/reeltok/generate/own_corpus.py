"""Whether a corpus that is given is of the tokenizer and examples of a generator's recipe."""

import json
from collections.abc import Iterator
from pathlib import Path

from reeltok import zoo
from reeltok.corpus.read import Corpus, is_corpus
from reeltok.corpus.sources import further_name
from reeltok.data.lists import GROUP, by_small_letters
from reeltok.files.text import printable
from reeltok.generate.condition_encoder import ConditionEncoder
from reeltok.generate.prior import PriorConfig
from reeltok.generate.recipes import GENERATORS, GeneratorRecipe
from reeltok.generate.sit import FlowConfig
from reeltok.tokenizer.contract import Tokenizer


def load_coder(recipe: GeneratorRecipe, data: str | Path) -> Tokenizer:
    """The recipe's tokenizer; where it is not here, ValueError names that of a corpus at `data`."""
    try:
        return zoo.load(recipe.tokenizer, code=False)
    except FileNotFoundError as error:
        made = Corpus(data).tokenizer["load"] if is_corpus(data) else recipe.tokenizer
        if made == recipe.tokenizer:
            raise
        raise ValueError(
            f"{data} is a corpus of {printable(made)}, and the recipe has "
            f"tokenizer={recipe.tokenizer}, whose weights are not here: give "
            f"`--set tokenizer={printable(made)}`"
        ) from error


def require_own_examples(
    corpus: Corpus, recipe: GeneratorRecipe, config: FlowConfig | PriorConfig | None
) -> None:
    """ValueError where a corpus holds what another recipe made of its windows, or another rate."""
    build = corpus.manifest["build"]
    held = (build.get("beside") or {}).get("prior")
    if held is not None and isinstance(config, PriorConfig):
        record = ConditionEncoder(recipe=recipe, config=config).record["prior"]
        wanted = json.loads(json.dumps(record))
        for name in sorted(held.keys() | wanted.keys()):
            if held.get(name) != wanted.get(name):
                raise ValueError(
                    f"{corpus.place} holds examples made with {name}={held.get(name)}, the recipe "
                    f"has {name}={wanted.get(name)}: set it as the corpus has it, or train on the "
                    "clips"
                )
    strides = recipe.data.strides
    if strides != (1,) and not recipe.data.fps and strides != (build["step"],):
        raise ValueError(
            f"{corpus.place} holds windows with data.strides={[build['step']]}, and the recipe has "
            f"data.strides={[*strides]}: leave it out, or train on the clips"
        )
    if recipe.data.fps and recipe.data.fps != build["fps"]:
        rate = "each clip's own rate" if build["fps"] is None else f"{build['fps']:g} Hz"
        raise ValueError(
            f"{corpus.place} holds windows at {rate}, and the recipe has data.fps="
            f"{recipe.data.fps:g}: leave it out, or train on the clips"
        )


def require_column(corpus: Corpus, column: str) -> None:
    """ValueError where a corpus has no column of that name to take classes from."""
    own = corpus.manifest.get("column")
    if column in (GROUP, own) or class_column(corpus, column) is not None:
        return
    known = ", ".join(corpus.manifest["columns"]) or "no further ones"
    raise ValueError(
        f"{corpus.place} does not hold the column {column!r} ({known}): leave data.column out to "
        "take the classes that it was built with, or train on the clips"
    )


def class_column(corpus: Corpus, column: str) -> str | None:
    """The further column of a corpus that holds the classes; None where its groups are these."""
    known = by_small_letters(corpus.manifest["columns"])
    name = further_name(column)
    return None if column == GROUP else known.get(name, known.get(name.lower()))


def other_windows(corpus: Corpus, recipe: GeneratorRecipe) -> Iterator[str]:
    """In which of its values `every` and `most` a corpus differs from the recipe.

    ValueError instead, unless they are the values that the recipe came with.
    """
    build, usual = corpus.manifest["build"], GENERATORS.get(recipe.name)
    held = {"every": build["stride"] or recipe.frames, "most": build.get("most")}
    wanted = {"every": recipe.every or recipe.frames, "most": recipe.most}
    for name, kept in held.items():
        asked = getattr(recipe, name)
        if wanted[name] == kept:
            continue
        found = f"{corpus.place} was built with {name}={json.dumps(kept)}"
        if asked != (getattr(usual(), name) if usual is not None else None):
            raise ValueError(
                f"{found}, and the recipe has {name}={json.dumps(asked)}: set it as the corpus has "
                "it, or train on the clips"
            )
        if asked is not None:
            yield f"{found}: the recipe's own {name}={asked} is left out"
