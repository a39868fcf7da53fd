"""`module:function`: whatever a user names, as a tokenizer. To open it runs its code."""

import sys
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.files.hashes import hash_files, hash_text
from reeltok.models.foreign.network import Foreign
from reeltok.models.foreign.shape import EncoderOutput, NetworkShape, check_frames, find_shape
from reeltok.tokenizer.folder import hash_weights


@dataclass(frozen=True, kw_only=True)
class FunctionConfig:
    """What was named."""

    name: str


class Function(Foreign):
    """Two functions, `encode` and `decode`, that are attributes of what was named; or one alone.

    `encode` takes clips "b 3 t h w" in [-1, 1] and gives latents "b d t h w" or ids "b t h w" below
    the attribute `vocabulary`; `decode` takes these. One alone gives a reconstruction, or that
    and more: its tokens are the frames that it gives, each cell's pixels in the channels. It may
    have attributes `frames_per_group` (it takes one frame, then whole groups) and `cells`
    (multiples of these heights and widths).
    """

    family = "function"
    config: FunctionConfig

    def __init__(self, config: FunctionConfig, name: str) -> None:
        super().__init__(config, name)
        self.function = find_function(config.name)
        self.source = hash_source(config.name, self.function)  # as it was imported
        self.reads = (hash_text(config.name),)  # all that files said of it before
        self.about = {"source": "function"}
        if isinstance(self.function, nn.Module):
            self.network = self.function.eval()
        if self.coded:
            self.vocabulary = getattr(self.function, "vocabulary", None)

    @property
    def coded(self) -> bool:
        """Whether it encodes and decodes, and not both at once."""
        return all(callable(getattr(self.function, part, None)) for part in ("encode", "decode"))

    @property
    def dtype(self) -> torch.dtype:
        """float32 where latents are ids, which half precision would round."""
        return super().dtype if self.vocabulary is None else torch.float32

    @property
    def configuration(self) -> dict[str, Any]:
        """Nothing: its hash is of all that it is."""
        return {}

    def hash_present(self) -> str:
        """SHA-256 of the name, the source (`hash_source`) and the weights of an `nn.Module`."""
        weights = dict(chain(self.named_parameters(), self.named_buffers()))
        return hash_text(f"{self.config.name} {self.source} {hash_weights(weights)}")

    def find(self) -> NetworkShape:
        group = getattr(self.function, "frames_per_group", None)
        if not self.coded:
            height, width = cells = getattr(self.function, "cells", (1, 1))
            channels = 3 * cells[0] * cells[1]
            return NetworkShape(
                time=1, height=height, width=width, causal=True, channels=channels, whole=group
            )
        return find_shape(lambda x: self.code(x, None), self.place)

    def code(self, x: Float[Tensor, "b 3 t h w"], sample: torch.Generator | None) -> EncoderOutput:
        if not self.coded:
            out = self.function(x)
            made = check_frames(self.name, out[0] if isinstance(out, tuple) else out, (*x.shape,))
            shape = self.shape
            cells = {"p": shape.height, "q": shape.width}
            return EncoderOutput(z=rearrange(made, "b c t (h p) (w q) -> b (c p q) t h w", **cells))
        out = self.function.encode(x.to(super().dtype))
        if out.is_floating_point():
            return EncoderOutput(z=out)
        if self.vocabulary is None:
            raise ValueError(f"{self.name} gives ids: it needs an attribute vocabulary")
        return EncoderOutput(z=out[:, None].to(x.dtype), ids=out)

    def frames_of(self, z: Float[Tensor, "b d t h w"]) -> Any:
        if not self.coded:
            shape = self.shape
            cells = {"p": shape.height, "q": shape.width}
            return rearrange(z, "b (c p q) t h w -> b c t (h p) (w q)", **cells)
        return self.function.decode(z if self.vocabulary is None else z[:, 0].round().long())


def find_function(name: str) -> Any:
    """The function that "module:function" names; modules of the working folder are found too."""
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the peer {name} cannot be imported ({error}): give module:function"
        ) from (error)


def hash_source(name: str, found: Any) -> str:
    """SHA-256 of the file of the module in `name`, and of the one that defines what was found.

    What these import or open is not seen.
    """
    modules = dict.fromkeys([name.partition(":")[0], getattr(found, "__module__", "")])
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    return hash_files(*(file for file in files if file is not None and Path(file).is_file()))
