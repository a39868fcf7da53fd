"""Which weights a network has: their hash, which tokens carry, kept right while they change.

And where they lie, of what type, and how many.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from reeltok.tokenizer.folder import deciding_config, hash_weights

Versions = tuple[tuple[int, int], ...]
"""What changes with weights: for each where it lies, and how often it was written."""


@dataclass(eq=False)
class Weighed:
    """Weights as they were at one time: what told them from later ones, and their hash once known.

    It goes with them where they are moved, or cast to another type.
    """

    versions: Versions
    hash: str | None = None


class HashedModule(nn.Module):
    """A network that knows the hash of its weights."""

    config: Any

    def __init__(self) -> None:
        super().__init__()
        self._weighed: list[Weighed] = []  # one list for all views of the same weights
        self._reads: tuple[str, ...] = ()
        self.reads_with: str | None = None  # the hash of the weights that `reads` came with

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def hash(self) -> str:
        """SHA-256 of the weights, whatever type they were cast to; anew once they have changed.

        Changes through `weight.data`, which torch does not count, are not seen.
        """
        held = self.weighed()
        held.hash = held.hash or self.hash_present()
        return held.hash

    @property
    def configuration(self) -> dict[str, Any]:
        """What of its configuration decides its output beside weights and `Spec.used`, as JSON.

        The hash of the weights does not tell networks apart that use them differently.
        """
        return deciding_config(self.config)

    @property
    def reads(self) -> tuple[str, ...]:
        """Hashes of other weights that make the same tokens.

        Those that came with weights from a folder (`reads_with`) are gone once these change.
        """
        own = not self._reads or self.reads_with is None or self.hash() == self.reads_with
        return self._reads if own else ()

    @reads.setter
    def reads(self, hashes: tuple[str, ...]) -> None:
        self._reads, self.reads_with = hashes, None

    def weighed(self) -> Weighed:
        """The weights as they are now, without hashing them."""
        now = self.versions()
        if not self._weighed or self._weighed[0].versions != now:
            self._weighed[:] = [Weighed(now)]
        return self._weighed[0]

    def hash_present(self) -> str:
        """SHA-256 of the weights as they are now."""
        return hash_weights(self.state_dict())

    def versions(self) -> Versions:
        """What changes with the weights: where each lies, and how often it was written."""
        held = chain(self.parameters(), self.buffers())
        return tuple((x.data_ptr(), 0 if x.is_inference() else x._version) for x in held)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HashedModule":
        """As in torch; the hash stays where weights are moved, or cast to another type."""
        first = next(self.parameters(), None)
        probe = None if first is None or first.is_meta else torch.empty(0, dtype=first.dtype)
        if probe is not None and fn(probe).dtype != probe.dtype:
            self.hash()
        held = None if probe is None or not self._weighed else self.weighed()
        super()._apply(fn, recurse)
        if held is not None:
            held.versions = self.versions()
        return self


@runtime_checkable
class Hashed(Protocol):
    """What has weights with a hash."""

    def hash(self) -> str: ...
    def versions(self) -> Versions: ...


@dataclass(frozen=True)
class LateHash:
    """The hash of the weights that made tokens, found out when it is asked for.

    None where they have changed by then and it was not known yet.
    """

    tokenizer: Hashed
    weights: Weighed

    def is_of(self, tokenizer: Hashed) -> bool:
        """Whether `tokenizer` is the very one, with those weights still."""
        return tokenizer is self.tokenizer and tokenizer.versions() == self.weights.versions

    def __call__(self) -> str | None:
        return self.tokenizer.hash() if self.is_of(self.tokenizer) else self.weights.hash
