"""Which weights a network has: their hash, which tokens carry, kept right while they change.

And where they lie, of what type, and how many.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from reeltok.tokenizer.folder import hash_weights

Versions = tuple[tuple[int, int], ...]
"""What changes with weights: for each where it lies, and how often it was written."""


class HashedModule(nn.Module):
    """A network that knows the hash of its weights."""

    def __init__(self) -> None:
        super().__init__()
        # Of which weights, and their hash; one list for all views of the same weights.
        self._hashed: list[tuple[Versions, str]] = []

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
        now = self.versions()
        if not self._hashed or self._hashed[0][0] != now:
            self._hashed[:] = [(now, self.hash_present())]
        return self._hashed[0][1]

    def hash_present(self) -> str:
        """SHA-256 of the weights as they are now."""
        return hash_weights(self.state_dict())

    def versions(self) -> Versions:
        """What changes with the weights: where each lies, and how often it was written."""
        held = chain(self.parameters(), self.buffers())
        return tuple((x.data_ptr(), 0 if x.is_inference() else x._version) for x in held)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HashedModule":
        """As in torch; of weights that are cast to another type the hash stays."""
        first = next(self.parameters(), None)
        probe = None if first is None or first.is_meta else torch.empty(0, dtype=first.dtype)
        kept = None if probe is None or fn(probe).dtype == probe.dtype else self.hash()
        super()._apply(fn, recurse)
        if kept is not None:
            self._hashed[:] = [(self.versions(), kept)]
        return self


@runtime_checkable
class Hashed(Protocol):
    """What has weights with a hash."""

    def hash(self) -> str: ...
    def versions(self) -> Versions: ...


@dataclass(frozen=True)
class LateHash:
    """The hash of the weights that make tokens now, found out when it is asked for.

    None where the weights have changed by then: nobody knows what it was.
    """

    tokenizer: Hashed
    versions: Versions

    def is_of(self, tokenizer: Hashed) -> bool:
        """Whether `tokenizer` is the very one, with those weights still."""
        return tokenizer is self.tokenizer and tokenizer.versions() == self.versions

    def __call__(self) -> str | None:
        return self.tokenizer.hash() if self.is_of(self.tokenizer) else None
