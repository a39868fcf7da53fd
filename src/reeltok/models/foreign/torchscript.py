"""A pair of TorchScript files in the manner of Cosmos: an encoder and a decoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.files.hashes import hash_files
from reeltok.files.parsing import read_object
from reeltok.models.foreign.network import Foreign
from reeltok.models.foreign.shape import PROBE, PROBE_SIZE, EncoderOutput, NetworkShape, find_shape

VOCABULARY = 64_000  # of Cosmos' discrete tokenizers: FSQ of levels 8, 8, 8, 5, 5, 5


@dataclass(frozen=True, kw_only=True)
class TorchScriptConfig:
    """Where the pair lies."""

    encoder: str
    decoder: str


class TorchScript(Foreign):
    """The encoder gives a latent, or ids (below 64,000 unless config.json says "vocabulary").

    Its files are loaded as they are: the network computes in the type in which it was saved, and
    takes and gives float32.
    """

    family = "torchscript"
    config: TorchScriptConfig

    def __init__(self, config: TorchScriptConfig, name: str) -> None:
        super().__init__(config, name)
        self.network = nn.ModuleList([load_script(path) for path in self.paths])
        parameters = [*self.network.parameters()]
        self.computes = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
        record = self.paths[0].parent / "config.json"
        if self._discrete():
            held = read_object(record) if record.is_file() else {}
            self.vocabulary = int(held.get("vocabulary", VOCABULARY))
        kind = str(self.computes).removeprefix("torch.")
        self.about = {"source": "TorchScript", "network_dtype": kind}

    @property
    def paths(self) -> list[Path]:
        return [Path(self.config.encoder), Path(self.config.decoder)]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def configuration(self) -> dict[str, Any]:
        """Nothing: its hash is of all that it is."""
        return {}

    def hash_present(self) -> str:
        """SHA-256 of the two files."""
        return hash_files(*self.paths)

    def to(self, *args: Any, **options: Any) -> "TorchScript":
        """On another device. ValueError for another type: scripts have theirs written in."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **options)
        if dtype not in (None, torch.float32):
            raise ValueError(f"{self.name} computes in the type it was saved in: leave out `dtype`")
        return self if device is None else super().to(device)

    def find(self) -> NetworkShape:
        return find_shape(lambda x: self.code(x, None), torch.empty(0, device=self.device))

    def code(self, x: Float[Tensor, "b 3 t h w"], sample: torch.Generator | None) -> EncoderOutput:
        first = first_of(self.network[0](x.to(self.computes)))
        if first.is_floating_point():
            return EncoderOutput(z=first.float())
        return EncoderOutput(z=first[:, None].float(), ids=first)

    def frames_of(self, z: Float[Tensor, "b d t h w"]) -> Any:
        if self.vocabulary is None:
            made = first_of(self.network[1](z.to(self.computes)))
        else:
            made = first_of(self.network[1](z[:, 0].round().long()))
        return made.float()

    def _discrete(self) -> bool:
        x = torch.zeros(1, 3, PROBE[0], PROBE_SIZE, PROBE_SIZE, device=self.device)
        with torch.no_grad():
            return self.code(x, None).ids is not None


def load_script(path: Path) -> Any:
    """A file of TorchScript. ValueError where it is damaged."""
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{path}: {said}: copy the pair again") from error


def first_of(out: Any) -> Tensor:
    """The first of what a script gives: Cosmos' discrete encoder gives ids, then codes."""
    return out if isinstance(out, Tensor) else out[0]
