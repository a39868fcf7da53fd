"""Files of weights: where their tensors lie in memory."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import COORDTOK
from torch import Tensor

import reeltok
from reeltok import zoo
from reeltok.checkpoints import ALIGNMENT, read_checkpoint, read_tensors
from reeltok.generate import flow
from reeltok.generate.sit import Flow, FlowConfig, volume_group
from reeltok.models.coordtok import CoordTok
from reeltok.perceptual import WeightFile, read_weights


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
    for name in zoo.bundled():
        assert lie_right(reeltok.load(name).state_dict()), name


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
