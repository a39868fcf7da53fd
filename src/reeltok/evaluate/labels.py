"""What tables call the models that were named: by their runs, and apart."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OF_A_RUN = ("model", "best")  # folders that every training run has: they tell nothing apart
LABEL = re.compile(r"([^=/\\:]+)=(.+)")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A model and what it is called."""

    label: str
    source: str  # a preset, a folder, a repository or the file of a result


def label_models(words: Sequence[str]) -> list[Labelled]:
    """The models of a command line, each a source or LABEL=SOURCE.

    Without a label a folder is called by its run's (runs/a/model is "a"), with as many folders
    above as tell it from the others; anything else by its own name.
    """
    split = [LABEL.fullmatch(word) if not os.path.exists(word) else None for word in words]
    sources = [match[2] if match else word for match, word in zip(split, words, strict=True)]
    plain = [s for match, s in zip(split, sources, strict=True) if not match]
    names = _shortest(plain)
    return [
        Labelled(label=match[1] if match else names[source], source=source)
        for match, source in zip(split, sources, strict=True)
    ]


def _shortest(sources: Sequence[str]) -> dict[str, str]:
    """A name for each source; folders by the fewest last parts that tell them apart."""
    folders = {s: Path(os.path.abspath(s)) for s in sources if os.path.isdir(s)}
    runs = {s: p.parent if p.name in OF_A_RUN and p.parent.name else p for s, p in folders.items()}
    shared = Counter(run for run, _ in {(runs[s], folders[s]) for s in runs})
    depth = dict.fromkeys(sources, 1)

    def name(source: str) -> str:
        if source not in runs:
            return source
        tail = "/".join(runs[source].parts[-depth[source] :])
        return f"{tail}/{folders[source].name}" if shared[runs[source]] > 1 else tail

    most = max((len(path.parts) for path in folders.values()), default=0)
    for _ in range(most):
        owners = Counter(name(s) for s in {folders.get(s, s): s for s in sources}.values())
        for source in runs:
            depth[source] += owners[name(source)] > 1
    return {source: name(source) for source in sources}
