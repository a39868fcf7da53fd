"""Which tokenizers .reel files are decoded with."""

from pathlib import Path
from threading import Lock

import torch

from reeltok import zoo
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.reel import Reel


class ReelModels:
    """The tokenizers of .reel files, each loaded once; threads may share them.

    A file names its tokenizer, but what is opened is what `model` says or a preset of this package:
    a file of a stranger never decides that a folder or a repository is. The others are the
    arguments of `zoo.load`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.weights, self.device, self.dtype = model, weights, device, dtype
        self.loaded: dict[str, Tokenizer] = {}
        self.lock = Lock()

    def of(self, reel: Reel) -> Tokenizer:
        """The tokenizer of a file. ValueError that says how to name it if it is not found."""
        name = str(self.model or reel.model)
        with self.lock:
            if name not in self.loaded:
                self.loaded[name] = self._load(name, reel)
            return self.loaded[name]

    def _load(self, name: str, reel: Reel) -> Tokenizer:
        load = zoo.load_preset if self.model is None else zoo.load
        try:
            return load(name, weights=self.weights, device=self.device, dtype=self.dtype)
        except (ValueError, OSError) as error:
            if self.model is not None:
                raise
            either = "or " if name in zoo.PRESETS else ""
            raise ValueError(
                f"{reel.source.path} was made by {name!r}: {error}; {either}name its folder with "
                "`model`"
            ) from error
