"""What a generator makes: the clip that its tokens stand for, and the tokenizer that reads them."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int64
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from reeltok.nn.bounds import Side
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.inputs import made_by
from reeltok.tokens.record import Tokens


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ClipSpec:
    """Frames, size and rate of one generated clip, its grid of tokens, and their tokenizer.

    `weights` is the SHA-256 of the tokenizer's weights, `settings` say how it codes such clips.
    """

    tokenizer: str
    weights: str | None = None
    frames: int = Field(ge=1)
    height: Side
    width: Side
    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    grid: tuple[Side, ...] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        *,
        frames: int,
        size: tuple[int, int],
        fps: float | None,
        grid: tuple[int, ...],
        settings: Mapping[str, Any],
    ) -> "ClipSpec":
        """Clips of `frames` frames of `size` = (height, width) in tokens of `tokenizer`."""
        return cls(
            tokenizer=tokenizer.spec.name,
            weights=tokenizer.hash(),
            frames=frames,
            height=size[0],
            width=size[1],
            fps=fps,
            grid=grid,
            settings=dict(settings),
        )

    def require(self, tokenizer: Tokenizer) -> None:
        """ValueError for a tokenizer with other weights than the generator was trained on."""
        if self.weights is not None and not made_by(self.weights, tokenizer):
            raise ValueError(
                f"this generator makes tokens of {self.tokenizer!r} ({str(self.weights)[:12]}), "
                f"not of {tokenizer.name!r} ({tokenizer.hash()[:12]}): load that tokenizer"
            )

    def tokens(
        self,
        *,
        ids: Int64[Tensor, "b ..."] | None = None,
        vocabulary: int | None = None,
        latents: Float[Tensor, "b d ..."] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Generated ids or latents as the tokens of such clips."""
        return Tokens(
            ids=ids,
            vocabulary=vocabulary,
            latents=latents,
            grid=self.grid,
            frames=self.frames,
            height=self.height,
            width=self.width,
            fps=self.fps,
            model=self.tokenizer,
            weights=self.weights,
            settings={**self.settings, "given": "float32", **(settings or {})},
        )
