"""What a network remembers between two calls of a stream, keyed by the names of its layers.

The caller owns it and hands it in: two streams share one network, nothing has to be reset, and
nothing of it is in the state dict. It is a pytree, so `torch.export` takes one step of a stream.
"""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from reeltok.nn.rows import Rows
from reeltok.records import register


class Layer(nn.Module):
    """A module that may keep something in a `Past`, under `path`: its name in the network."""

    path: str = ""


def name_layers(network: nn.Module, prefix: str = "") -> None:
    """Tell every `Layer` of `network` its name there, as `named_modules` gives it."""
    for path, module in network.named_modules(prefix=prefix):
        if isinstance(module, Layer):
            module.path = path


@dataclass(eq=False)
class Past:
    """What a causal network remembers of the frames before.

    `kept` holds the last frames that a layer read, by its name; `begun` names the layers that have
    read the first frame. `lookahead` counts the frames at the end of the present call that belong
    to the next one; they are read, not kept. A layer that doubles time doubles it. With `whole` the
    clip begins with a whole group, where else its first frame stands alone. With `rows` it is that
    of one strip of the frames, which come from top to bottom.
    """

    kept: dict[str, Tensor] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    lookahead: int = 0
    whole: bool = False
    rows: Rows | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing has been read yet."""
        return not self.kept and not self.begun

    def copy(self) -> "Past":
        """A `Past` that goes on from here by itself; its tensors are shared, never changed."""
        return Past(dict(self.kept), list(self.begun), self.lookahead, self.whole, self.rows)

    def has_begun(self, layer: Layer) -> bool:
        """Whether `layer` has read the first frame. ValueError for a layer without a name."""
        if not layer.path:
            raise ValueError(
                f"a {type(layer).__name__} without a name cannot stream: call name_layers(network)"
            )
        return layer.path in self.begun

    def begin(self, layer: Layer) -> bool:
        """Whether `layer` reads the first frame now; from here on it has."""
        first = not self.has_begun(layer)
        if first:
            self.begun.append(layer.path)
        return first

    def keep(self, layer: Layer, x: Float[Tensor, "b t h w c"], frames: int) -> None:
        """Remember the last `frames` frames of `x` that are not look-ahead."""
        end = x.shape[1] - self.lookahead
        self.kept[layer.path] = x[:, end - frames : end].clone()


register(Past, "kept")
