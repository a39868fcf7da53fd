"""LPIPS against the published check values, and the search for weight files."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from reeltok.metrics import lpips as perceptual
from reeltok.metrics.lpips import LPIPS, Backbone, WeightFile, fetch_weights, find_weights


def image(path: Path) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    return pixels.permute(2, 0, 1)[None] / 127.5 - 1


def load(shared: Path, net: str, **more: int) -> LPIPS:
    weights = shared / "weights"
    name = {"alex": "alexnet", "squeeze": "squeezenet1_1"}[net] + "_features_torchvision.pth"
    heads = weights / f"lpips_lin_v0.1_{net}.pth"
    return LPIPS(net, backbone=weights / name, heads=heads, **more)


def seeded_vgg() -> dict[str, torch.Tensor]:
    """The random weights that the stored fixture was made with, in its order of drawing."""
    generator = torch.Generator().manual_seed(1234)
    state = {}
    for key, value in Backbone("vgg").state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        scale = (2 / (9 * value.shape[1])) ** 0.5 if key.endswith("weight") else 0.05
        state[key] = noise * scale
    return state


@pytest.mark.weights
@pytest.mark.parametrize(("net", "p0", "p1"), [("alex", 0.722, 0.138), ("squeeze", 0.711, 0.148)])
def test_check_images_give_the_published_distances(
    shared: Path, net: str, p0: float, p1: float
) -> None:
    lpips = load(shared, net)
    ref, first, second = (image(shared / f"weights/check/ex_{n}.png") for n in ("ref", "p0", "p1"))
    found = lpips(torch.cat([ref, ref]), torch.cat([first, second]))
    torch.testing.assert_close(found, torch.tensor([p0, p1]), atol=5e-4, rtol=0)
    assert lpips(ref, ref).item() == 0


@pytest.mark.weights
def test_vgg_equals_the_reference_code(shared: Path) -> None:
    stored = load_file(shared / "parity/coordtok/lpips_seeded_vgg.safetensors")
    heads = {k.removeprefix("sd."): v for k, v in stored.items() if k.startswith("sd.lin")}
    lpips = LPIPS("vgg", backbone=seeded_vgg(), heads=heads, chunk=2)
    for i, features in enumerate(lpips.backbone(stored["in.a"])):
        mean = features[:, :8].mean(dim=(2, 3))
        torch.testing.assert_close(mean, stored[f"mid.a_feat{i}_first8ch_mean"])
    found = lpips(stored["in.a"], stored["in.b"])
    torch.testing.assert_close(found, stored["out.lpips"].flatten(), atol=1e-6, rtol=1e-6)


@pytest.mark.weights
def test_chunks_do_not_change_the_result(shared: Path) -> None:
    x, y = torch.rand(2, 5, 3, 40, 40) * 2 - 1
    whole, parts = load(shared, "alex"), load(shared, "alex", chunk=2)
    torch.testing.assert_close(whole(x, y), parts(x, y))


def small(net: str) -> LPIPS:
    """An LPIPS of random weights: no file needed."""
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1)
        for i, width in enumerate(perceptual.PLANS[net].widths)
    }
    return LPIPS(net, backbone=Backbone(net).state_dict(), heads=heads)


@pytest.mark.parametrize("net", ["alex", "squeeze", "vgg"])
def test_every_backbone_takes_its_smallest_frame_and_says_so(net: str) -> None:
    lpips = small(net)
    side = lpips.backbone.smallest
    x, y = torch.rand(2, 1, 3, side, side + 1) * 2 - 1
    assert lpips(x, y).shape == (1,)
    with pytest.raises(ValueError, match=f"at least {side}x{side}"):
        lpips(x[..., 1:, :], y[..., 1:, :])


def test_gradients_reach_the_frame_and_not_the_weights() -> None:
    lpips = small("squeeze").train()
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)  # flat: dead positions must not give NaN
    y = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(lpips(x, y), lpips(x, y), atol=0, rtol=0)  # no dropout
    lpips(x, y).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in lpips.parameters())


def test_dead_positions_have_a_finite_gradient() -> None:
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    perceptual._normalize(x).sum().backward()
    assert torch.isfinite(x.grad).all()


SQUEEZE = perceptual.PLANS["squeeze"].widths


def test_missing_weights_say_where_to_put_which_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELTOK_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"put vgg16-397923af.pth into .*cache"):
        LPIPS("vgg")
    with pytest.raises(FileNotFoundError, match="no weight file at"):
        LPIPS("vgg", backbone=tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="alex, squeeze, vgg"):
        LPIPS("resnet")  # type: ignore[arg-type]


def test_weights_are_found_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELTOK_WEIGHTS", str(tmp_path))
    torch.save(Backbone("squeeze").state_dict(), tmp_path / "squeezenet1_1-b8a52dc0.pth")
    assert find_weights(perceptual.BACKBONES["squeeze"]).parent == tmp_path


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(Backbone("squeeze").state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"features\.0\.weight has shape .* in the alex backbone"):
        LPIPS("alex", backbone=tmp_path / "a.pth", heads={})
    (tmp_path / "b.pth").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="not a readable weight file"):
        LPIPS("alex", backbone=tmp_path / "b.pth")
    with pytest.raises(ValueError, match="heads for alex should hold"):
        LPIPS("alex", backbone=Backbone("alex").state_dict(), heads={})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine that serves one weight file."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "net.pth").write_bytes(b"weights")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=folder)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_download_is_kept_only_when_its_hash_is_right(server: str, tmp_path: Path) -> None:
    import hashlib

    good, cache = hashlib.sha256(b"weights").hexdigest(), tmp_path / "cache"
    with pytest.raises(ValueError, match="needs the sha256"):
        fetch_weights(f"{server}/net.pth", None, cache)
    with pytest.raises(ValueError, match="should have sha256"):
        fetch_weights(f"{server}/net.pth", "0" * 64, cache)
    assert not cache.exists()
    with pytest.raises(OSError, match="could not be read"):
        fetch_weights(f"{server}/absent.pth", good, cache)
    path = fetch_weights(f"{server}/net.pth?dl=1", good, cache)
    assert path.read_bytes() == b"weights"
    assert [p.name for p in cache.iterdir()] == ["net.pth"]


def test_a_url_is_fetched_once(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    monkeypatch.setenv("REELTOK_WEIGHTS", str(tmp_path / "cache"))
    file = WeightFile(purpose="a test", name="net.pth")
    good = hashlib.sha256(b"weights").hexdigest()
    path = find_weights(file, f"{server}/net.pth", sha256=good)
    (tmp_path / "web" / "net.pth").unlink()
    assert find_weights(file, f"{server}/net.pth", sha256=good) == path
    assert find_weights(file) == path


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod.", "net."])
def test_weights_are_found_under_any_prefix(prefix: str, tmp_path: Path) -> None:
    backbone = Backbone("squeeze").state_dict()
    torch.save({"state_dict": {prefix + k: v for k, v in backbone.items()}}, tmp_path / "a.pth")
    heads = {f"{prefix}lin{i}.model.1.weight": torch.ones(w) for i, w in enumerate(SQUEEZE)}
    net = LPIPS("squeeze", backbone=tmp_path / "a.pth", heads=heads)
    assert all(torch.equal(net.backbone.state_dict()[k], v) for k, v in backbone.items())


# What others call the files.


PUBLIC = {
    "alex": ("alexnet_features_torchvision.pth", "alexnet-owt-7be5be79.pth"),
    "squeeze": ("squeezenet1_1_features_torchvision.pth", "squeezenet1_1-b8a52dc0.pth"),
    "vgg": ("vgg16_features_torchvision.pth", "vgg16-397923af.pth"),
}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place where no weights are."""
    for name in ("REELTOK_WEIGHTS", "REELTOK_CACHE", "REELTOK_SHARED", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.mark.parametrize("net", PUBLIC)
@pytest.mark.parametrize("heads", ["lpips_lin_v0.1_{}.pth", "{}.pth"])
@pytest.mark.parametrize("place", ["REELTOK_WEIGHTS", "REELTOK_SHARED/weights"])
def test_weights_are_found_under_the_names_that_others_give(
    empty: Path, net: str, heads: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptual, "check_published", lambda *_: None)  # they are random
    folder = empty / place
    folder.mkdir(parents=True)
    widths = perceptual.PLANS[net].widths
    state = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(widths)}
    torch.save(state, folder / heads.format(net))
    for name in PUBLIC[net]:
        whole = {**Backbone(net).state_dict(), "classifier.1.weight": torch.zeros(2)}
        torch.save(whole, folder / name)
        assert LPIPS(net).net == net
        (folder / name).unlink()


def test_what_torchvision_fetched_is_found(empty: Path) -> None:
    folder = empty / "TORCH_HOME" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "vgg16-397923af.pth").write_bytes(b"")
    assert find_weights(perceptual.BACKBONES["vgg"]) == folder / "vgg16-397923af.pth"


@pytest.mark.parametrize("net", PUBLIC)
def test_the_error_says_all_the_names(empty: Path, net: str) -> None:
    with pytest.raises(FileNotFoundError, match="has no weights: put ") as error:
        LPIPS(net)
    for name in PUBLIC[net]:
        assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_the_shared_weights_are_found(shared: Path, empty: Path) -> None:
    """As they are, copied to where weights are kept."""
    (empty / "REELTOK_WEIGHTS").symlink_to(shared / "weights")
    for net in ("alex", "squeeze"):
        assert LPIPS(net).net == net


def test_other_weights_of_a_public_name_are_refused(shared: Path, empty: Path) -> None:
    """Whatever the name; one's own are given as a path."""
    folder = empty / "REELTOK_WEIGHTS"
    folder.mkdir()
    for net in PUBLIC:
        name = f"lpips_lin_v0.1_{net}.pth"
        (folder / name).write_bytes((shared / "weights" / name).read_bytes())
    for net, names in {"alex": PUBLIC["alex"], "vgg": PUBLIC["vgg"][1:]}.items():
        for name in names:
            torch.save(Backbone(net).state_dict(), folder / name)
            with pytest.raises(ValueError, match=rf"{name} does not hold .*: put {net}.*-") as said:
                LPIPS(net)
            assert "\n" not in str(said.value)
            assert LPIPS(net, backbone=folder / name).net == net
            (folder / name).unlink()
    (folder / "squeezenet1_1.pth").symlink_to(
        shared / "weights" / "squeezenet1_1_features_torchvision.pth"
    )
    widths = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(SQUEEZE)}
    torch.save(widths, folder / "lpips_lin_v0.1_squeeze.pth")
    with pytest.raises(ValueError, match=r"_squeeze\.pth does not hold the published weights"):
        LPIPS("squeeze", backbone=folder / "squeezenet1_1.pth")


def test_a_hash_that_is_given_holds_for_files_too(empty: Path) -> None:
    import hashlib

    file, path = WeightFile(purpose="a test", name="net.pth"), empty / "REELTOK_WEIGHTS" / "net.pth"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    for source in (None, path):
        good = hashlib.sha256(b"weights").hexdigest()
        assert find_weights(file, source, sha256=good) == path
        with pytest.raises(ValueError, match=r"net\.pth should have sha256 0+, but has "):
            find_weights(file, source, sha256="0" * 64)
