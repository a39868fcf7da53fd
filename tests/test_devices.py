"""Every device that is not here is told of in one sentence, by every function and command."""

from pathlib import Path

import pytest
import torch

import reeltok
from reeltok.devices import pick_device
from reeltok.evaluate.scores import open_scorer
from reeltok.parallel import init_distributed
from reeltok.recipes import find_recipe
from reeltok.train import train

NOWHERE = ["gpu", "tpu", "CPU", "", "cuda:-1", "cuda:x", "meta", "xla", "hpu", "vulkan", "cpu:3"]


@pytest.mark.parametrize("device", [*NOWHERE, "cuda:7", "xpu:9", 99, None, 3.5])
def test_a_device_that_is_not_here_is_one_sentence(device: object) -> None:
    with pytest.raises(ValueError, match=r"device .*give (auto, cpu, cuda|cpu or auto)") as caught:
        pick_device(device)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0, torch.device("cuda")])
def test_cuda_where_there_is_none(device: object) -> None:
    with pytest.raises(ValueError, match="torch sees 0 devices of type cuda here"):
        pick_device(device)


def test_what_is_here_is_found() -> None:
    assert pick_device("cpu") == torch.device("cpu") == pick_device(torch.device("cpu"))
    assert pick_device("auto").type in ("cuda", "mps", "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:7", "tpu", "meta"])
def test_every_function_that_takes_a_device_says_so(device: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device"):
        reeltok.load("default", device=device)
    with pytest.raises(ValueError, match="device"):
        open_scorer(("psnr",), device=device)
    with pytest.raises(ValueError, match="device"), init_distributed(device):
        pass
    with pytest.raises(ValueError, match="device"):
        train(find_recipe("small"), data=tmp_path, out=tmp_path / "run", device=device)
