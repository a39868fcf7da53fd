"""Files of weights: where their tensors lie in memory, who saved them, what is refused."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import COORDTOK
from torch import Tensor

import reeltok
from reeltok.files.checkpoints import read_checkpoint
from reeltok.files.tensors import ALIGNMENT, read_tensors
from reeltok.generate import flow
from reeltok.generate.sit import Flow, FlowConfig, volume_group
from reeltok.metrics.lpips import WeightFile, read_weights
from reeltok.models.convert import to_public
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import VIDTOK
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig


def lie_right(tensors: dict[str, Tensor]) -> bool:
    return all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors.values())


def moved(tensor: Tensor, by: int) -> Tensor:
    """The same values in memory that begins `by` bytes behind where torch's own does."""
    room = torch.empty(tensor.numel() + ALIGNMENT // tensor.element_size(), dtype=tensor.dtype)
    first = (by - room.data_ptr()) % ALIGNMENT // tensor.element_size()
    return room[first : first + tensor.numel()].view(tensor.shape).copy_(tensor)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that safetensors hands out at odd places."""
    tensors = {f"{i}.weight": torch.randn(3 + i, 5) for i in range(5)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path


def test_weights_begin_where_torch_puts_its_own(file: Path, tmp_path: Path) -> None:
    """Products of matrices depend in their last bits on it, on some processors."""
    assert not lie_right(load_file(file)), "this file shows nothing"
    plain = WeightFile(purpose="a test", name=file.name)
    torch.save({"state_dict": {"a": moved(torch.randn(7, 3), 8)}}, tmp_path / "a.ckpt")
    for tensors in (
        read_tensors(file),
        read_checkpoint(file),
        read_weights(plain, file),
        read_checkpoint(tmp_path / "a.ckpt"),
    ):
        assert tensors
        assert lie_right(tensors)


def test_loaded_models_lie_like_built_ones(tmp_path: Path) -> None:
    built = CoordTok(COORDTOK, "built").eval()
    assert lie_right(built.state_dict())
    assert lie_right(reeltok.load(built.save_pretrained(tmp_path / "coordtok")).state_dict())
    sit = Flow(FlowConfig(groups=volume_group((2, 2, 2)), channels=3, width=8, depth=1, heads=1))
    assert lie_right(flow.load(flow.save(sit, tmp_path / "flow")).state_dict())
    assert lie_right(reeltok.load("default").state_dict())


@pytest.mark.parametrize("by", [4, 8, 24, 40, 56])
def test_where_weights_lie_changes_no_more_than_rounding(by: int) -> None:
    model = CoordTok(COORDTOK, "built").eval()
    x = torch.rand(1, 3, 8, 16, 24) * 2 - 1
    tokens = model.encode(x)
    frames = model.decode(tokens)
    weights = {name: moved(tensor, by) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    assert not lie_right(model.state_dict())
    torch.testing.assert_close(model.encode(x).latents, tokens.latents, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(model.decode(tokens), frames, atol=2e-5, rtol=1e-4)


# ---------------------------------------------------------------- whoever saved it

PUBLIC = replace(
    VIDTOK["vidtok_fsq_causal_488_4096"],
    width=8,
    multipliers=(1, 1, 1, 1),
    blocks=(1, 1, 1, 1),
    quantizer=FSQConfig(levels=(8, 8)),
)
State = dict[str, Tensor]
LAYOUTS = ("ours", "public", "coordtok")


@dataclass(frozen=True, eq=False, kw_only=True)
class Saved:
    """A model's folder, the hash of its weights, and its weights in some layout."""

    folder: Path
    hash: str
    state: State


@pytest.fixture(scope="module", params=LAYOUTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A folder whose configuration a checkpoint has, and its weights as they are or in public."""
    torch.manual_seed(3)
    kind = request.param
    built = (
        CoordTok(replace(COORDTOK, cells=(4, 6, 6), cell_patch=(2, 3, 3), padding="public"), "c")
        if kind == "coordtok"
        else VidTok(PUBLIC, "v")
    )
    folder = built.eval().save_pretrained(tmp_path_factory.mktemp("saved") / kind)
    state = dict(built.state_dict()) if kind == "ours" else to_public(built)
    return Saved(folder=folder, hash=built.hash(), state=state)


def under(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def inside(*names: str) -> Callable[[State], Any]:
    def wrap(state: State) -> Any:
        content: Any = state
        for name in reversed(names):
            content = {name: content}
        return content

    return wrap


def beside(state: State) -> Any:
    """What training saves beside the weights: numpy's numbers, options, an optimizer."""
    moments = {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(4.0)}}
    return {
        "state_dict": state,
        "epoch": np.int64(3),
        "best": np.float64(0.5),
        "loss": np.float32(0.25),
        "done": np.bool_(True),
        "history": np.arange(4.0),
        "seeds": np.random.RandomState(0).get_state(),
        "args": Namespace(lr=1e-4),
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    }


SAVED: dict[str, Callable[[State], Any]] = {
    "as it is": lambda state: state,
    "DataParallel": under("module."),
    "compiled": under("_orig_mod."),
    "compiled, then parallel": under("module._orig_mod."),
    "parallel, then compiled": under("_orig_mod.module."),
    "Lightning": lambda state: {"state_dict": under("model.")(state), "epoch": 1},
    "all at once": lambda state: {"state_dict": under("model.module._orig_mod.vae.")(state)},
    "latent diffusion": under("first_stage_model."),
    "any name": under("my_net.tokenizer."),
    "wrappers inside of the names": lambda state: {
        name.replace("encoder.", "encoder._orig_mod.module.", 1): t for name, t in state.items()
    },
    "state_dict": inside("state_dict"),
    "model_state_dict": inside("model_state_dict"),
    "model": inside("model"),
    "ema": inside("ema"),
    "vae": inside("vae"),
    "nested": inside("checkpoint", "model", "state_dict", "vae"),
    "an unknown wrapper": inside("autoencoder_weights"),
    "numpy beside": beside,
    "a critic beside": lambda state: {
        "generator": under("module.")(state),
        "discriminator": {"layers.0.weight": torch.zeros(3, 3)},
    },
    "a loss in the same state": lambda state: {**state, "loss.logvar": torch.zeros(1)},
}


@pytest.mark.parametrize("name", SAVED)
def test_weights_are_found_however_they_were_saved(model: Saved, name: str, tmp_path: Path) -> None:
    torch.save(SAVED[name](model.state), tmp_path / "file.ckpt")
    loaded = reeltok.load(model.folder, weights=tmp_path / "file.ckpt")
    assert loaded.hash() == model.hash


@pytest.mark.parametrize("prefix", ["", "module.", "any.name."])
@pytest.mark.parametrize("name", ["file.safetensors", "file.bin", "file.ckpt"])
def test_safetensors_under_any_name(model: Saved, prefix: str, name: str, tmp_path: Path) -> None:
    content = {prefix + key: tensor.contiguous() for key, tensor in model.state.items()}
    save_file(content, tmp_path / name)
    assert reeltok.load(model.folder, weights=tmp_path / name).hash() == model.hash


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_become_the_network_s_own(
    model: Saved, dtype: torch.dtype, tmp_path: Path
) -> None:
    """A public layout in float16 once made a network of float16."""
    torch.save({name: tensor.to(dtype) for name, tensor in model.state.items()}, tmp_path / "a.pt")
    loaded = reeltok.load(model.folder, weights=tmp_path / "a.pt")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}


def test_two_sets_of_weights_are_told(model: Saved, tmp_path: Path) -> None:
    means = {name: tensor + 1 for name, tensor in model.state.items()}
    torch.save({"model": model.state, "ema": means}, tmp_path / "both.ckpt")
    with pytest.warns(
        UserWarning, match="both.ckpt holds weights under 'ema' too: those under 'mo"
    ):
        loaded = reeltok.load(model.folder, weights=tmp_path / "both.ckpt")
    assert loaded.hash() == model.hash


def test_two_copies_of_a_tensor_must_be_the_same(model: Saved, tmp_path: Path) -> None:
    """Only a wrapper's name tells them apart, so one of them would be dropped unseen."""
    path, copies = tmp_path / "both.ckpt", under("module.")(model.state)
    torch.save(model.state | copies, path)
    assert reeltok.load(model.folder, weights=path).hash() == model.hash
    name = next(iter(model.state))
    for other in (copies[f"module.{name}"] + 1, copies[f"module.{name}"].double()):
        torch.save(model.state | copies | {f"module.{name}": other}, path)
        with pytest.raises(ValueError, match="which a network keeps in one place") as caught:
            reeltok.load(model.folder, weights=path)
        assert f"both.ckpt holds {name} and module.{name}, " in str(caught.value)


def test_copies_of_what_is_not_read_may_differ(model: Saved, tmp_path: Path) -> None:
    critic = {"critic.weight": torch.zeros(3), "critic.module.weight": torch.ones(3)}
    torch.save(under("net.")(model.state) | critic, tmp_path / "a.ckpt")
    assert reeltok.load(model.folder, weights=tmp_path / "a.ckpt").hash() == model.hash


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.complex64])
def test_weights_that_are_no_floats_are_refused(
    model: Saved, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Quantised weights mean nothing without their scales."""
    name = next(name for name, tensor in model.state.items() if tensor.ndim > 1)
    changed = model.state | {name: model.state[name].to(dtype)}
    torch.save(changed, tmp_path / "a.pt")
    said = rf"{name} is {str(dtype)[6:]} in \S+ where this network has floats: give the weights as"
    with pytest.raises(ValueError, match=said):
        reeltok.load(model.folder, weights=tmp_path / "a.pt")


WRONG: dict[str, tuple[Any, str]] = {
    "a list": ([torch.zeros(3)], "but a list"),
    "a tensor": (torch.zeros(3), "but a Tensor"),
    "no tensors": ({"epoch": 3, "lr\x1b[31m": 0.1}, r"but epoch, lr\\x1b\[31m"),
    "nothing": ({}, "but an empty dictionary"),
    "another network": (
        {"transformer.wte\x1b[31m.weight": torch.zeros(3)},
        r"but transformer\.wte\\x1b\[31m\.weight: it is of another configuration",
    ),
    "code": (Path("x"), "it holds a pathlib"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_was_found_instead_is_named(model: Saved, name: str, tmp_path: Path) -> None:
    content, said = WRONG[name]
    torch.save(content, tmp_path / "wrong.ckpt")
    with pytest.raises(ValueError, match=said) as caught:
        reeltok.load(model.folder, weights=tmp_path / "wrong.ckpt")
    assert "wrong.ckpt" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_pointer_instead_of_the_file_is_told(tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name in ("a.safetensors", "a.bin"):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="pointer of Git LFS"):
            read_checkpoint(tmp_path / name)


def test_what_is_no_file_of_weights_is_said_without_advice_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(200))
    with pytest.raises(ValueError, match="it is not a file of torch or safetensors") as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)
