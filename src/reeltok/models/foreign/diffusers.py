"""The autoencoders of diffusers as tokenizers: one adapter, and what single classes need beside."""

import inspect
import json
from collections.abc import Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.files.checkpoints import load_weights
from reeltok.files.parsing import parse_config, read_object
from reeltok.files.text import printable
from reeltok.models.foreign.network import Foreign
from reeltok.models.foreign.shape import PROBE, EncoderOutput, NetworkShape, find_group, find_shape
from reeltok.tokenizer.card import model_card
from reeltok.tokenizer.folder import config_record, dump_config, hash_weights, write_folder
from reeltok.tokenizer.scale import Scale

FAMILY = "diffusers"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DiffusersConfig:
    """A class of diffusers and its arguments (None: its own defaults)."""

    class_name: str
    arguments: dict[str, Any] | None = None


class Diffusers(Foreign):
    """An autoencoder of diffusers; its latents are shifted and scaled as its config says."""

    family = FAMILY
    config: DiffusersConfig

    def __init__(self, config: DiffusersConfig, name: str) -> None:
        import diffusers

        super().__init__(config, name)
        kind = find_autoencoder_class(config.class_name)
        with quiet():
            self.network = build_network(kind, config.arguments).eval()
        self.vocabulary = count_ids(self.network)
        self.scale = read_scale(self.network) if self.vocabulary is None else Scale()
        record = self.scale.record
        used = {"latents": record} if record else {}
        self.about = {"source": f"diffusers {diffusers.__version__}", **used}

    def find(self) -> NetworkShape:
        try:
            return find_network_shape(to_meta(self.network), torch.empty(0, device="meta"))
        except (RuntimeError, NotImplementedError, TypeError):  # some read values: run it small
            return find_network_shape(self.network, next(self.network.parameters()).detach())

    def code(self, x: Float[Tensor, "b 3 t h w"], sample: torch.Generator | None) -> EncoderOutput:
        return run_encoder(self.network, x, sample)

    def frames_of(self, z: Float[Tensor, "b d t h w"]) -> Any:
        return run_decoder(self.network, z)

    def latents_of(self, ids: Int[Tensor, "b t h w"]) -> Float[Tensor, "b d t h w"]:
        return self.network.regularization.indices_to_codes(ids).to(self.dtype)

    @property
    def configuration(self) -> dict[str, Any]:
        """The class and its arguments, but for those that are its own defaults."""
        usual = inspect.signature(type(self.network).__init__).parameters
        given, own = (
            json.loads(json.dumps(arguments, default=str))  # where tuples are lists
            for arguments in (dict(self.network.config), {k: v.default for k, v in usual.items()})
        )
        others = {k: v for k, v in given.items() if k in usual and v != own[k]}
        return {"class_name": self.config.class_name, "arguments": others}

    def hash_present(self) -> str:
        return hash_weights(self.network.state_dict())

    def save_pretrained(self, folder: str | Path, *, small: bool = False) -> Path:
        """Write config.json and model.safetensors in this package's format."""
        arguments = {k: v for k, v in self.network.config.items() if not k.startswith("_")}
        config = DiffusersConfig(class_name=self.config.class_name, arguments=arguments)
        record = config_record(self) | {"config": dump_config(config)}
        state, card = self.network.state_dict(), model_card(self.spec)
        return write_folder(folder, record, state, bits=8 if small else None, card=card)


def with_state(
    config: DiffusersConfig, name: str, state: Mapping[str, Tensor] | None, *, source: str
) -> Diffusers:
    """A tokenizer with the weights `state`, all of them; None: random ones of seed 0.

    diffusers' own loading leaves random what it does not find. ValueError names what is missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Diffusers(config, name).eval()
    made.trained = state is not None
    if state is not None:
        older = getattr(made.network, "_fix_state_dict_keys_on_load", None)
        state = state if older is None else older(dict(state))
        advice = f"give those of {config.class_name}"
        load_weights(made.network, state, what=source, advice=advice)
    return made


def read_config(folder: Path, class_name: str | None = None) -> DiffusersConfig:
    """The configuration in a folder. ValueError where it says no class and none is given."""
    import diffusers

    path = folder / "config.json"
    record = read_object(path)
    held = record.get("_class_name")
    if class_name and isinstance(held, str) and held != class_name and hasattr(diffusers, held):
        raise ValueError(f"{folder} holds a {held}, not a {class_name}: give diffusers:{folder}")
    if record.get("family") == FAMILY:
        config = parse_config(record.get("config"), DiffusersConfig, str(path))
    else:
        if class_name is None and not isinstance(held, str):
            raise ValueError(
                f"{path} names no class of diffusers (_class_name): give diffusers:CLASS={folder}"
            )
        arguments = {key: value for key, value in record.items() if not key.startswith("_")}
        config = DiffusersConfig(class_name=class_name or str(held), arguments=arguments)
    return config


# ---------------------------------------------------------------- the network


def find_autoencoder_class(name: str) -> Any:
    """The class of diffusers. ValueError where there is none, or it is not an autoencoder."""
    import diffusers

    kind = getattr(diffusers, name, None) if name.isidentifier() else None
    if kind is None:
        raise ValueError(
            f"diffusers {diffusers.__version__} has no class {printable(name)[:80]!r}: "
            "give one of its autoencoders, or a folder that is there"
        )
    whole = inspect.isclass(kind) and issubclass(kind, diffusers.ModelMixin)
    if not (whole and hasattr(kind, "encode") and hasattr(kind, "decode")):
        raise ValueError(
            f"diffusers' {name} is not a video autoencoder: name one, such as AutoencoderKLWan"
        )
    return kind


@contextmanager
def quiet() -> Any:
    """Inside, diffusers says what went wrong and nothing else."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def build_network(kind: Any, arguments: Mapping[str, Any] | None) -> Any:
    """A network of a class of diffusers. ValueError for arguments that are none of it."""
    try:
        return kind() if arguments is None else kind.from_config(dict(arguments))
    except (ValueError, RuntimeError, LookupError, ArithmeticError, TypeError) as error:
        # A constructor fails in any of these ways, deep inside of diffusers and torch.
        said = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"no {kind.__name__} is of this configuration ({said}): copy its config.json again"
        ) from error


def to_meta(model: nn.Module) -> Any:
    """The same network on the meta device; its tensors are never copied."""
    kept = [(id(p), nn.Parameter(p.to("meta"), False)) for p in model.parameters()]
    return deepcopy(model, {**dict(kept), **{id(b): b.to("meta") for b in model.buffers()}})


def find_network_shape(net: Any, like: Tensor) -> NetworkShape:
    """How a network counts, on the device of `like`."""
    # The one of VidTok that is not causal drops what is not a multiple of 16 frames.
    slow = type(net).__name__ == "AutoencoderVidTok" and not net.config.get("is_causal", True)
    probe = (49, 97) if slow else PROBE
    shape = find_shape(lambda x: run_encoder(net, x), like, front=count_front(net), probe=probe)
    return find_group(lambda z: run_decoder(net, z), shape, like)


def count_front(model: Any) -> int:
    """diffusers' VidTok wants as many copies of the first frame as complete its first group."""
    if type(model).__name__ != "AutoencoderVidTok" or not model.config.get("is_causal", True):
        return 0
    return int(model.temporal_compression_ratio) - 1


def count_ids(model: Any) -> int | None:
    """The size of the codebook; None for a continuous network."""
    discrete = model.config.get("regularizer", "kl") != "kl"
    return int(model.config["codebook_size"]) if discrete else None


def read_scale(model: Any) -> Scale:
    """What pipelines of diffusers shift and scale this network's latents by.

    A config names some of scaling_factor, shift_factor, latents_mean and latents_std; LTX holds the
    last two as buffers.
    """
    config = model.config
    listed = lambda key: config.get(key) if key in config else getattr(model, key, None)
    mean, std = (_numbers(listed(key)) for key in ("latents_mean", "latents_std"))
    shift, factor = config.get("shift_factor"), config.get("scaling_factor")
    if shift and not mean:
        mean = (float(shift),) * int(config.get("latent_channels", 1))
    plain = not any(mean) and all(value == 1 for value in std)
    if plain:
        mean, std = (), ()
    return Scale(factor=1.0 if factor is None else float(factor), mean=mean, std=std)


def _numbers(values: Any) -> tuple[float, ...]:
    if values is None:
        return ()
    return tuple(float(value) for value in torch.as_tensor(values).flatten().tolist())


# ---------------------------------------------------------------- there and back


def run_encoder(net: Any, x: Tensor, sample: torch.Generator | None = None) -> EncoderOutput:
    """What a network makes of clips "b 3 t h w"."""
    if takes_pictures(net):
        coded = read_code(net.encode(_scatter(x)), sample)
        spread = None if coded.logvar is None else _gather(coded.logvar, len(x))
        return EncoderOutput(z=_gather(coded.z, len(x)), logvar=spread)
    if one_tile(net):  # the clips that show how it counts end within a group: it takes whole ones
        group = net.config.temporal_compression_ratio
        x = x[:, :, : x.shape[2] // group * group]
        return read_code(_tiled(net, x.shape[2:]).encode(x), sample)
    return read_code(net.encode(x), sample)


def run_decoder(net: Any, z: Tensor) -> Any:
    """Frames "b 3 t h w" of latents."""
    if takes_pictures(net):
        more = {"num_frames": z.shape[2]} if "TemporalDecoder" in type(net).__name__ else {}
        return _gather(read_sample(net.decode(_scatter(z), **more)), len(z))
    if one_tile(net):  # and it gives frames before channels
        return read_sample(_whole(net, z).decode(z)).transpose(1, 2)
    return read_sample(net.decode(z))


def takes_pictures(net: Any) -> bool:
    """Whether it takes pictures: those of a clip are then its batch."""
    return not any(isinstance(part, nn.Conv3d) for part in net.encoder.modules())


def one_tile(net: Any) -> bool:
    """Whether it knows tiles only: Allegro, which gives zeros where a clip holds no whole tile.

    Here the tile is the clip.
    """
    return "Allegro" in type(net).__name__


def _tiled(net: Any, size: tuple[int, ...]) -> Any:
    net.enable_tiling()
    net.enable_slicing()  # its tiles hold one clip
    net.kernel = net.stride = tuple(size)
    return net


def _whole(net: Any, z: Tensor) -> Any:
    space = net.spatial_compression_ratio
    factors = net.config.temporal_compression_ratio, space, space
    return _tiled(net, tuple(n * m for n, m in zip(z.shape[2:], factors, strict=True)))


def _scatter(x: Tensor) -> Tensor:
    return rearrange(x, "b c t h w -> (b t) c h w")


def _gather(x: Tensor, batch: int) -> Tensor:
    return rearrange(x, "(b t) c h w -> b c t h w", b=batch)


def read_code(out: Any, sample: torch.Generator | None = None) -> EncoderOutput:
    """What `encode` gave: a distribution (its mode, or a draw), latents, or latents with ids."""
    if hasattr(out, "latent_dist"):
        return draw_latents(out.latent_dist, sample)
    if isinstance(out, Mapping) and "latent" in out:  # AutoencoderDC
        return EncoderOutput(z=out["latent"])
    parts = (out,) if isinstance(out, Tensor) else tuple(getattr(out, "to_tuple", lambda: out)())
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if not isinstance(parts[0], Tensor):  # a distribution
        return draw_latents(parts[0], sample)
    ids = [part for part in tensors if not part.is_floating_point()]
    floats = [part for part in tensors if part.is_floating_point()]
    return EncoderOutput(z=floats[0], ids=ids[0] if ids and ids[0].ndim == 4 else None)


def draw_latents(dist: Any, sample: torch.Generator | None) -> EncoderOutput:
    """The mode of a distribution, or a draw; its log-variance where it is a Gaussian."""
    z, logvar = (
        dist.mode() if sample is None else dist.sample(sample),
        getattr(dist, "logvar", None),
    )
    return EncoderOutput(z=z, logvar=None if logvar is None else logvar.expand_as(z))


def read_sample(out: Any) -> Tensor:
    """The frames that `decode` gave."""
    if isinstance(out, Tensor):
        return out
    return out.sample if hasattr(out, "sample") else out[0]
