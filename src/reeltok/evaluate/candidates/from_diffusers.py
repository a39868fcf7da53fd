"""The autoencoders of diffusers as subjects: one adapter, and what single classes need beside."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from reeltok.evaluate.candidates.autoencoders import Coded, Foreign, find_shape
from reeltok.files.checkpoints import load_weights, read_checkpoint
from reeltok.hub import fetch_repository, has_weights, is_repository, model_folder
from reeltok.tokenizer.folder import hash_weights


def open_diffusers(
    name: str, folder: str | None, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> Foreign:
    """A diffusers autoencoder by class name, with the weights of a folder or a hub repository.

    Either may be a pipeline with its `vae`, or hold half precision or shards. Without a folder, or
    where it holds a configuration only, it runs with random weights of seed 0. ValueError for
    weights that are not this network's.
    """
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None:
        raise ValueError(f"diffusers {diffusers.__version__} has no class {name!r}")
    place = None if folder is None else find_model(folder)
    trained = place is not None and has_weights(place)
    with quiet():
        model = build(kind, place, trained=trained).eval()
    nn.Module.to(model, device, dtype)  # diffusers' own `to` warns of what is not the case here
    front = count_front(model)
    try:
        shape = find_shape(encoder(haunt(model)), torch.empty(0, device="meta"), front=front)
    except (RuntimeError, NotImplementedError, TypeError):  # some read values: run it small
        shape = find_shape(encoder(model), next(model.parameters()).detach(), front=front)
    return Foreign(
        name=name if folder is None else f"{name} ({Path(folder).name})",
        encode=encoder(model),
        decode=decoder(model),
        shape=shape,
        module=model,
        vocabulary=count_ids(model),
        trained=trained,
        weights=hash_weights(model.state_dict()) if trained else None,
        source=f"diffusers {diffusers.__version__}",
        dtype=dtype,
        device=device,
    )


# ---------------------------------------------------------------- the network


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


def build(kind: Any, folder: Path | None, *, trained: bool) -> Any:
    """A network of a class of diffusers, with its weights or with random ones of seed 0."""
    config = kind.load_config(folder) if folder else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind() if config is None else kind.from_config(dict(config))
    if trained and folder is not None:  # diffusers' own loading leaves random what it does not find
        state = read_checkpoint(folder)
        older = getattr(model, "_fix_state_dict_keys_on_load", None)
        state = state if older is None else older(state)
        load_weights(model, state, what=str(folder), advice=f"give those of {kind.__name__}")
    return model


def find_model(name: str) -> Path:
    """The folder of a model by its own name, that of a pipeline, or that of a hub repository."""
    if not Path(name).is_dir() and is_repository(name):
        return fetch_repository(name)
    return model_folder(Path(name))


def haunt(model: nn.Module) -> Any:
    """The same network on the meta device; its tensors are never copied."""
    kept = [(id(p), nn.Parameter(p.to("meta"), False)) for p in model.parameters()]
    return deepcopy(model, {**dict(kept), **{id(b): b.to("meta") for b in model.buffers()}})


def count_front(model: Any) -> int:
    """diffusers' VidTok wants as many copies of the first frame as complete its first group."""
    if type(model).__name__ != "AutoencoderVidTok" or not model.config.get("is_causal", True):
        return 0
    return int(model.temporal_compression_ratio) - 1


def count_ids(model: Any) -> int | None:
    """The size of the codebook; None for a continuous network."""
    discrete = model.config.get("regularizer", "kl") != "kl"
    return int(model.config["codebook_size"]) if discrete else None


# ---------------------------------------------------------------- there and back


def encoder(net: Any) -> Callable[[Tensor], Coded]:
    """From a clip "1 3 t h w" to what the network makes of it."""
    if by_frame(net):
        return lambda x: Coded(z=_gather(read_code(net.encode(_scatter(x))).z))
    if one_tile(net):  # the clips that show how it counts end within a group: it takes whole ones
        group = net.config.temporal_compression_ratio
        whole = lambda x: x[:, :, : x.shape[2] // group * group]
        return lambda x: read_code(_tiled(net, whole(x).shape[2:]).encode(whole(x)))
    return lambda x: read_code(net.encode(x))


def decoder(net: Any) -> Callable[[Coded], Tensor]:
    """From a code to a clip "1 3 t h w"."""
    if by_frame(net):
        more = lambda t: {"num_frames": t} if "TemporalDecoder" in type(net).__name__ else {}
        made = lambda z: read_sample(net.decode(_scatter(z), **more(z.shape[2])))
        return lambda coded: _gather(made(coded.z))
    if one_tile(net):  # and it gives frames before channels
        return lambda coded: read_sample(_whole(net, coded.z).decode(coded.z)).transpose(1, 2)
    return lambda coded: read_sample(net.decode(coded.z))


def by_frame(net: Any) -> bool:
    """Whether it takes pictures: those of a clip are then its batch."""
    return not any(isinstance(part, nn.Conv3d) for part in net.encoder.modules())


def one_tile(net: Any) -> bool:
    """Whether it knows tiles only: Allegro, which gives zeros where a clip holds no whole tile.

    Here the tile is the clip.
    """
    return "Allegro" in type(net).__name__


def _tiled(net: Any, size: tuple[int, ...]) -> Any:
    net.enable_tiling()
    net.kernel = net.stride = tuple(size)
    return net


def _whole(net: Any, z: Tensor) -> Any:
    space = net.spatial_compression_ratio
    factors = net.config.temporal_compression_ratio, space, space
    return _tiled(net, tuple(n * m for n, m in zip(z.shape[2:], factors, strict=True)))


def _scatter(x: Tensor) -> Tensor:
    return rearrange(x, "1 c t h w -> t c h w")


def _gather(x: Tensor) -> Tensor:
    return rearrange(x, "t c h w -> 1 c t h w")


def read_code(out: Any) -> Coded:
    """What `encode` gave: a distribution (its mode), latents, or latents with ids."""
    if hasattr(out, "latent_dist"):
        return Coded(z=out.latent_dist.mode())
    if isinstance(out, Mapping) and "latent" in out:  # AutoencoderDC
        return Coded(z=out["latent"])
    parts = (out,) if isinstance(out, Tensor) else tuple(getattr(out, "to_tuple", lambda: out)())
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if not isinstance(parts[0], Tensor):  # a distribution
        return Coded(z=parts[0].mode())
    ids = [part for part in tensors if not part.is_floating_point()]
    floats = [part for part in tensors if part.is_floating_point()]
    return Coded(z=floats[0], ids=ids[0] if ids and ids[0].ndim == 4 else None)


def read_sample(out: Any) -> Tensor:
    """The frames that `decode` gave."""
    if isinstance(out, Tensor):
        return out
    return out.sample if hasattr(out, "sample") else out[0]
