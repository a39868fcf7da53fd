"""Folders of diffusers and repositories of the hub: which files are read, which are asked for."""

import errno
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from shutil import copyfile, copytree
from types import SimpleNamespace
from typing import Any

import huggingface_hub.errors
import pytest
import torch
from safetensors.torch import load_file, save_file
from thorough import slow_but
from torch import Tensor

import reeltok
from reeltok.files.checkpoints import find_file
from reeltok.hub import fetch_repository, is_repository, model_folder, patterns, pickled
from reeltok.models.convert import to_public

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of diffusers' AutoencoderVidTok."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "vae"
    small = {"ch_mult": [1, 1, 1], "spatial_ds": [0, 1], "spatial_us": [1, 2], "num_res_blocks": 1}
    more = {"tempo_ds": [0, 1], "tempo_us": [1, 2]}
    diffusers.AutoencoderVidTok(ch=8, z_channels=4, **small, **more).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wanted(vae: Path) -> str:
    return reeltok.load(vae).hash()


PLAIN = "diffusion_pytorch_model.safetensors"


def tensors(folder: Path) -> dict[str, Tensor]:
    found = {name: tensor.clone() for name, tensor in load_file(folder / PLAIN).items()}
    (folder / PLAIN).unlink()
    return found


def halved(folder: Path) -> None:
    found = {name: tensor.half() for name, tensor in tensors(folder).items()}
    save_file(found, folder / "diffusion_pytorch_model.fp16.safetensors")


def pickle(folder: Path) -> None:
    torch.save(tensors(folder), folder / "diffusion_pytorch_model.bin")


def sharded(folder: Path, variant: str = "", ending: str = "safetensors") -> None:
    found, places = tensors(folder), {}
    for number in (1, 2, 3):
        name = f"diffusion_pytorch_model{variant}-{number:05d}-of-00003.{ending}"
        part = dict(list(found.items())[number - 1 :: 3])
        places |= dict.fromkeys(part, name)
        save = save_file if ending == "safetensors" else torch.save
        save(part, folder / name)
    index = f"diffusion_pytorch_model.{ending}.index{variant}.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def piped(folder: Path) -> None:
    copytree(folder, folder / "vae")
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.unlink()
    (folder / "model_index.json").write_text('{"_class_name": "SomePipeline"}')
    (folder / "unet").mkdir()
    (folder / "unet" / PLAIN).write_bytes(b"not asked for")


VARIANTS: dict[str, tuple[Change, bool]] = {
    "as it is": (lambda folder: None, True),
    "a pickle": (pickle, True),
    "shards": (sharded, True),
    "shards of a variant": (lambda folder: sharded(folder, ".fp16"), True),
    "pickled shards": (lambda folder: sharded(folder, "", "bin"), True),
    "half precision": (halved, False),
    "a pipeline": (piped, True),
    "a pipeline of shards": (lambda folder: (sharded(folder), piped(folder)), True),
    "a pipeline of half precision": (lambda folder: (halved(folder), piped(folder)), False),
}


@pytest.fixture(params=VARIANTS)
def saved(request: pytest.FixtureRequest, vae: Path, tmp_path: Path) -> tuple[Path, bool]:
    """The same model as others save it, and whether its values are the same to the bit."""
    change, exact = VARIANTS[request.param]
    copytree(vae, tmp_path / "model")
    change(tmp_path / "model")
    return tmp_path / "model", exact


def test_a_folder_is_read_however_it_was_saved(saved: tuple[Path, bool], wanted: str) -> None:
    folder, exact = saved
    loaded = reeltok.load(folder)
    assert (loaded.hash() == wanted) == exact
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "saved",
    slow_but(("a pickle", "shards of a variant", "a pipeline of half precision"), VARIANTS),
    indirect=True,
)
def test_peers_of_diffusers_are_read_alike(saved: tuple[Path, bool]) -> None:
    folder, _ = saved
    peer = reeltok.load(f"diffusers:{folder}")
    assert peer.trained
    found, ours = peer.network.state_dict(), to_public(reeltok.load(folder))
    assert ours.keys() == found.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(found[name], tensor)


def test_a_peer_s_weights_are_all_there_or_refused(vae: Path, tmp_path: Path) -> None:
    """diffusers itself warns of what is missing, and leaves it random."""
    copytree(vae, tmp_path / "model")
    found = tensors(tmp_path / "model")
    found.pop("encoder.conv_in.conv.bias")
    save_file(found, tmp_path / "model" / PLAIN)
    with pytest.raises(ValueError, match=r"has no encoder\.conv_in\.conv\.bias"):
        reeltok.load(f"diffusers:{tmp_path / 'model'}")
    with pytest.raises(ValueError, match=r"has no encoder\.conv_in\.conv\.bias"):
        reeltok.load(tmp_path / "model")


def test_a_file_that_lay_there_before_diffusers_saved_is_not_read(saved: tuple[Path, bool]) -> None:
    folder = model_folder(saved[0])
    before = find_file(folder)
    (folder / "model.safetensors").write_bytes(b"of another model")
    assert find_file(folder) == before


def test_a_variant_is_read_where_it_is_asked_for(vae: Path, tmp_path: Path, wanted: str) -> None:
    copytree(vae, tmp_path / "model")
    halved(tmp_path / "model")
    copyfile(vae / PLAIN, tmp_path / "model" / PLAIN)
    assert reeltok.load(tmp_path / "model").hash() == wanted
    assert reeltok.load(tmp_path / "model", variant="fp16").hash() != wanted
    with pytest.raises(FileNotFoundError, match=r"no model\.int8\.safetensors, but diffusion_"):
        reeltok.load(tmp_path / "model", variant="int8")


def test_shards_lie_beside_their_index(vae: Path, tmp_path: Path) -> None:
    copytree(vae, tmp_path / "model")
    sharded(tmp_path / "model")
    index = find_file(tmp_path / "model")
    good = json.loads(index.read_text())
    for name in ("../../etc/passwd", "/etc/passwd", "a/b.safetensors", index.name, 7, ["x"]):
        places = good["weight_map"] | {"encoder.conv_in.conv.bias": name}
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(ValueError, match="index"):
            reeltok.load(tmp_path / "model")
    for text in ("[]", "{}", '{"weight_map": []}', "[" * 9999, "\x00"):
        index.write_text(text)
        with pytest.raises(ValueError, match="is not an index of shards"):
            reeltok.load(tmp_path / "model")
    index.write_text(json.dumps(good))
    next((tmp_path / "model").glob("*00002-of*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"00002-of-00003\.safetensors, which is not there"):
        reeltok.load(tmp_path / "model")


# ---------------------------------------------------------------- the hub


@dataclass
class Hub:
    """A hub with one repository, that gives what is asked for and remembers it."""

    files: Path
    cache: Path
    asked: list[dict[str, Any]] = field(default_factory=list)

    def snapshot_download(self, name: str, **options: Any) -> str:
        self.asked.append({"name": name, **options})
        for path in self.files.rglob("*"):
            inner = path.relative_to(self.files)
            if path.is_file() and any(fnmatch(str(inner), p) for p in options["allow_patterns"]):
                (self.cache / inner).parent.mkdir(parents=True, exist_ok=True)
                copyfile(path, self.cache / inner)
        return str(self.cache)

    @property
    def given(self) -> list[str]:
        return sorted(str(p.relative_to(self.cache)) for p in self.cache.rglob("*") if p.is_file())


@pytest.fixture
def hub(saved: tuple[Path, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(saved[0], tmp_path / "cache")
    made.cache.mkdir()
    for name in ("README.md", "pytorch_lora.safetensors", "model.ckpt", "flax_model.msgpack"):
        (made.files / name).write_bytes(b"not asked for")
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    return made


def test_a_repository_is_asked_for_what_is_needed(
    hub: Hub, saved: tuple[Path, bool], wanted: str
) -> None:
    assert (reeltok.load("owner/name").hash() == wanted) == saved[1]
    assert not {"README.md", "pytorch_lora.safetensors", "model.ckpt"} & set(hub.given)
    assert all("unet" not in name for name in hub.given)
    assert {asked["revision"] for asked in hub.asked} == {None}


@pytest.mark.parametrize("name", ["default", "owner/name", "diffusers:model"])
def test_weights_and_a_variant_contradict_each_other(name: str) -> None:
    with pytest.raises(ValueError, match="`weights` 'random' and `variant` 'fp16' both say which"):
        reeltok.load(name, weights="random", variant="fp16")


def test_whole_precision_is_enough(
    vae: Path, tmp_path: Path, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(vae, tmp_path / "model")
    halved(tmp_path / "model")
    copyfile(vae / PLAIN, tmp_path / "model" / PLAIN)
    torch.save({}, tmp_path / "model" / "diffusion_pytorch_model.bin")
    hub = Hub(tmp_path / "model", tmp_path / "cache")
    hub.cache.mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    assert reeltok.load("owner/name", revision="v1").hash() == wanted
    assert hub.given == ["config.json", PLAIN]
    assert [asked["revision"] for asked in hub.asked] == ["v1"]
    assert reeltok.load("owner/name@0a1b2c", variant="fp16").hash() != wanted
    assert hub.asked[-1] | {"allow_patterns": 0} == {
        "name": "owner/name",
        "revision": "0a1b2c",
        "allow_patterns": 0,
    }


def test_a_repository_of_something_else_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "README.md").write_text("nothing")
    (tmp_path / "cache").mkdir()
    hub = Hub(tmp_path / "files", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    monkeypatch.setattr("huggingface_hub.model_info", lambda *_, **__: SimpleNamespace(sha="0a"))
    with pytest.raises(FileNotFoundError, match="owner/name@main on the hub has no config"):
        reeltok.load("owner/name@main")
    assert hub.given == []


def fail_with(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_a_part_in_the_cache_is_said_where_there_is_no_network(
    vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the hub's library takes the folder that it has, with whatever lies in it."""
    copytree(vae, tmp_path / "part")
    (tmp_path / "part" / PLAIN).unlink()
    offline = fail_with(huggingface_hub.errors.OfflineModeIsEnabled("offline"))
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "part")
    )
    monkeypatch.setattr("huggingface_hub.model_info", offline)
    said = r"holds only a part of owner/name, .* cannot be reached: load it once with a network$"
    with pytest.raises(OSError, match=said):
        fetch_repository("owner/name")


def errors_of_the_hub() -> dict[str, tuple[Exception, str]]:
    """What its library raises, and what is said of it."""
    http = vars(sys.modules[huggingface_hub.errors.HfHubHTTPError.__bases__[0].__module__])
    full = OSError(errno.ENOSPC, "No space left on device")
    found = {
        "anything": (OSError("no network\x1b[31m\nhere"), r"could not be fetched \(OSError\)"),
        "full": (full, r"cannot be kept in the hub's cache, \S+ \(No space left .*: free some"),
        "denied": (PermissionError(errno.EACCES, "no"), r"\(Permission denied\).* or set HF_HOME"),
        "proxy": (http["ProxyError"]("no"), r"could not be fetched \(ProxyError\): check"),
    }
    if "RemoteProtocolError" in http:
        found["dropped"] = (http["RemoteProtocolError"]("no"), r"\(RemoteProtocolError\): check")
    if hasattr(huggingface_hub.errors, "IncompleteSnapshotError"):
        part = huggingface_hub.errors.IncompleteSnapshotError
        found["part"] = (part.__new__(part), "only a part of owner/name")
    return found


@pytest.mark.parametrize("kind", errors_of_the_hub())
def test_errors_of_the_hub_are_one_sentence(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, said = errors_of_the_hub()[kind]
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail_with(error))
    with pytest.raises(OSError, match=said) as caught:
        fetch_repository("owner/name")
    assert "owner/name" in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_asked_for() -> None:
    asked = patterns()
    wanted = {"config.json", "model.safetensors", f"vae/{PLAIN}", "vae/config.json"}
    assert wanted <= set(asked)
    for name in ("model.fp16.safetensors", "model.bin", "unet/model.safetensors", "a.ckpt"):
        assert not any(fnmatch(name, pattern) for pattern in asked), name
    assert any(fnmatch("model-00001-of-00002.safetensors", pattern) for pattern in asked)
    assert "pytorch_model.bin" in pickled()
    assert not [name for name in pickled() if "safetensors" in name]
    assert is_repository("owner/name")
    assert is_repository("owner/name@v1.0/x")
    for name in ("/etc", "./a", "../a/b", "a", "a/b/c", "~/x", "a/b\x1b"):
        assert not is_repository(name)
