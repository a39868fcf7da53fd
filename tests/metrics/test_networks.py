"""I3D and their inputs: sizes, key names, missing weights."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from reeltok.metrics import networks
from reeltok.metrics.networks import I3D, Extractor, load_i3d, load_styleganv, resize_and_crop
from reeltok.video.record import to_unit


def on_meta(build: type[nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_i3d_has_the_published_size_and_names() -> None:
    network = on_meta(I3D)
    assert parameters(network) == 12_697_264
    keys = set(network.state_dict())
    assert {"Conv3d_1a_7x7.conv3d.weight", "Conv3d_1a_7x7.bn.running_var"} <= keys
    assert {"Mixed_4f.b1b.conv3d.weight", "Mixed_5c.b3b.bn.bias", "logits.conv3d.bias"} <= keys
    assert "logits.bn.weight" not in keys
    assert network.state_dict()["Mixed_4e.b2b.conv3d.weight"].shape == (64, 32, 3, 3, 3)


@pytest.mark.parametrize("frames", [9, 16, 128])
def test_i3d_gives_400_logits_per_clip(frames: int) -> None:
    network = on_meta(I3D).eval()
    assert network(torch.zeros(2, 3, frames, 224, 224, device="meta")).shape == (2, 400)


def test_i3d_names_the_clip_it_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"9 frames of 193 .*\(8, 224, 224\)"):
        on_meta(I3D)(torch.zeros(1, 3, 8, 224, 224, device="meta"))


def test_padding_follows_tensorflow() -> None:
    x = torch.zeros(1, 1, 5, 6, 7)
    # size 5, kernel 3, stride 2: 3 outputs reach 7 wide; 6: 1 zero, behind; 7, kernel 7: 5 + 2
    assert networks.pad_same(x, (3, 3, 7), (2, 2, 2)).shape == (1, 1, 7, 7, 13)
    one = networks.pad_same(torch.ones(1, 1, 1, 1, 6), (1, 1, 3), (1, 1, 2)).flatten()
    assert one.tolist() == [1, 1, 1, 1, 1, 1, 0]


@pytest.mark.weights
def test_i3d_input_equals_the_reference_code(shared: Path) -> None:
    stored = load_file(shared / "parity/coordtok/fvd_math.safetensors")
    found = networks.i3d_input(to_unit(stored["in.video_u8"][0]), 56)
    torch.testing.assert_close(found, stored["out.preprocessed_56"], atol=2e-6, rtol=0)


def test_fit_takes_the_centre() -> None:
    x = torch.arange(12.0).expand(1, 3, 1, 6, 12)
    assert resize_and_crop(x, 6)[0, 0, 0, 0].tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("load", "file"),
    [
        (load_i3d, "i3d_pretrained_400.pt"),
        (load_styleganv, "i3d_torchscript.pt"),
    ],
)
def test_missing_weights_say_where_to_put_which_file(
    load: object, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELTOK_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"has no weights: put {file} into .*cache"):
        load()  # type: ignore[operator]


def test_i3d_is_loaded_by_path_and_named_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    state = I3D().state_dict()
    torch.save(state, path)
    extractor = load_i3d(path)
    assert extractor.name == f"i3d-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    x = torch.rand(1, 3, 9, 20, 24) * 2 - 1
    first = extractor(x)
    assert first.shape == (1, 400)
    torch.testing.assert_close(extractor((x + 1e-4).clamp(-1, 1)), first, atol=0.05, rtol=0)
    del state["logits.conv3d.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"I3D \(pytorch-i3d\) has no logits\.conv3d\.bias \(1 of"):
        load_i3d(path)


def test_clips_are_cut_into_parts_and_the_tail_is_left_out() -> None:
    extractor = Extractor(name="mean", apply=lambda x: x.mean(dim=(2, 3, 4)), frames=4)
    x = torch.arange(10.0).div(32).view(1, 1, 10, 1, 1).expand(2, 3, 10, 2, 2)
    assert extractor(x)[:, 0].mul(32).tolist() == [1.5, 1.5, 5.5, 5.5]
    with pytest.raises(ValueError, match="mean needs 4 frames, but found 3"):
        extractor(x[:, :, :3])


class Detector(nn.Module):
    """A stand-in with the signature of StyleGAN-V's TorchScript file."""

    def forward(
        self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool
    ) -> torch.Tensor:
        return x.mean(dim=(2, 3, 4)) if rescale and resize and return_features else x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_network_gets_bytes(tmp_path: Path) -> None:
    torch.jit.script(Detector()).save(str(tmp_path / "net.pt"))
    extractor = load_styleganv(tmp_path / "net.pt")
    assert extractor.name.startswith("i3d-styleganv-")
    found = extractor(torch.full((1, 3, 4, 8, 8), 0.0))
    assert found.tolist() == [[128, 128, 128]]  # 127.5 is rounded to a level first
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a TorchScript file"):
        load_styleganv(tmp_path / "bad.pt")
