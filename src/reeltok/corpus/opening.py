"""How a worker gets its tokenizer: by a name that it can load, or a copy of the one at hand."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from reeltok import zoo
from reeltok.devices import pick_device
from reeltok.tokenizer.contract import Tokenizer


@runtime_checkable
class Open(Protocol):
    """What opens a tokenizer on a device, in any process that it is sent to."""

    @property
    def load(self) -> str:
        """The name that loads it."""

    def __call__(self, device: str) -> Tokenizer: ...


@dataclass(frozen=True, kw_only=True)
class NamedTokenizer:
    """A tokenizer as commands name it: a preset, a folder, a repository, one of another library.

    `weights` is a file or "random"; `precision` the name of a torch dtype; latents are refined in
    `refine` steps, where `rate_weight` weighs their bits.
    """

    load: str
    weights: str | None = None
    precision: str = "float32"
    refine: int = 0
    rate_weight: float = 0.0

    def __call__(self, device: str) -> Tokenizer:
        import torch

        kind, place = getattr(torch, self.precision), pick_device(device)
        refined: dict[str, Any] = {"refine": self.refine, "rate_weight": self.rate_weight}
        tokenizer = zoo.load(self.load, weights=self.weights, device=place, **refined)
        return zoo.cast(tokenizer, kind)


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedTokenizer:
    """A tokenizer that is there already, and is copied to other processes."""

    tokenizer: Tokenizer
    load: str = ""

    def __call__(self, device: str) -> Tokenizer:
        return self.tokenizer.to(pick_device(device)).eval()
