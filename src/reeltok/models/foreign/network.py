"""A network of others as a `Tokenizer`: whole clips, or windows that are coded apart.

Its class keeps no state that could be handed on, so nothing streams: without `chunk` a clip is
coded at once, with it `chunk` frames at a time, each as a clip of its own. Frames and sizes that it
does not take are completed (the last frame and the edges repeated) and cropped back.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reeltok.models.foreign.shape import EncoderOutput, NetworkShape, check_frames
from reeltok.nn.layers import Past
from reeltok.nn.quantizers import Quantized
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.spec import Spec
from reeltok.tokens.ids import require_gridded


class Foreign(Tokenizer):
    """What a kind of foreign tokenizer supplies: `code`, `frames_of`, `find`, and `about`."""

    place: Tensor
    vocabulary: int | None = None
    trained = True  # False: random weights

    def __init__(self, config: Any, name: str) -> None:
        super().__init__(config, name)
        # Where it computes, for a kind that has no parameters.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def code(self, x: Float[Tensor, "b 3 t h w"], sample: torch.Generator | None) -> EncoderOutput:
        """What the encoder makes of whole groups."""
        raise NotImplementedError

    def frames_of(self, z: Float[Tensor, "b d t h w"]) -> Any:
        """What the decoder makes of latents."""
        raise NotImplementedError

    def find(self) -> NetworkShape:
        """How it counts."""
        raise NotImplementedError

    @cached_property
    def shape(self) -> NetworkShape:
        """How it counts, found once. ValueError where it does not take clips."""
        try:
            return self.find()
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            # Whatever a class of others fails with on frames that it was not made for.
            said = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"{self.name} is not a video autoencoder, which takes frames b 3 t h w "
                f"({said[:200]}): name one that does"
            ) from error

    @property
    def spec(self) -> Spec:
        shape = self.shape
        return Spec(
            name=self.name,
            family=self.family,
            factors=(shape.time, shape.height, shape.width),
            causal=shape.causal,
            first_frames=shape.first_frames,
            frames_per_group=shape.frames_per_group,
            steps_per_group=shape.frames_per_group // shape.time,
            first_steps=1 if shape.causal else shape.frames_per_group // shape.time,
            channels=shape.channels,
            vocabulary=self.vocabulary,
            parameters=self.parameter_count(),
            receptive_steps=None,
            streams=False,
        )

    def encode_part(
        self,
        x: Float[Tensor, "b c t h w"],
        past: Past | None = None,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
    ) -> Quantized:
        if self.shape.front:
            x = torch.cat([x[:, :, :1].expand(-1, -1, self.shape.front, -1, -1), x], dim=2)
        coded = self.code(x, sample)
        z = self.scale.apply(coded.z)
        ids = None if coded.ids is None else coded.ids.long()
        logvar = None if coded.logvar is None else self.scale.apply_logvar(coded.logvar)
        return Quantized(z=z, ids=ids, loss=z.new_zeros(()), logvar=logvar)

    def decode_part(
        self, z: Float[Tensor, "b d t h w"], past: Past | None = None, *, last: bool = True
    ) -> Float[Tensor, "b 3 t2 h2 w2"]:
        spec, (b, _, steps, rows, columns) = self.spec, z.shape
        _, fh, fw = spec.factors
        made = self.frames_of(self.scale.undo(z))
        whole = (b, 3, spec.frames(steps), rows * fh, columns * fw)
        return check_frames(self.name, made, whole)

    def lookup(self, ids: Int[Tensor, "b t h w"]) -> Float[Tensor, "b d t h w"]:
        require_gridded(ids, "batch steps rows columns")
        top = self.vocabulary or 0
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < top:
            raise ValueError(f"{self.name} has ids from 0 up to {top}, found others: give its own")
        return self.latents_of(ids)

    def latents_of(self, ids: Int[Tensor, "b t h w"]) -> Float[Tensor, "b d t h w"]:
        """The latents of ids within the vocabulary; by default the ids themselves."""
        return ids[:, None].to(self.dtype)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Tensor:
        """Frames there and back, whole groups only."""
        return self.decode_part(self.encode_part(x).z)

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), self.place.device)

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.parameters()), self.place.dtype)

    def save_pretrained(self, folder: str | Path, *, small: bool = False) -> Path:
        raise ValueError(f"{self.name} is kept by those who made it: copy its own files")
