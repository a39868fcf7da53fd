"""Model folders of strangers: one sentence with the file's name, before anything large is built."""

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import COORDTOK

import reeltok
from reeltok import zoo
from reeltok.generate import flow, masked
from reeltok.generate.prior import Prior
from reeltok.generate.sit import Flow
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig
from reeltok.tokenizer.folder import build_empty

BODY = replace(COMPACT, width=8, quantizer=FSQConfig(levels=(4, 4, 3)))
PUBLIC = {"width": 8, "multipliers": (1, 1, 1, 1), "blocks": (1, 1, 1, 1)}
NETWORK = {"width": 16, "depth": 1, "heads": 2}
DIFFUSERS = {
    "_class_name": "AutoencoderVidTok",
    "ch": 8,
    "ch_mult": [1, 2, 4, 4],
    "codebook_size": 4096,
    "double_z": False,
    "in_channels": 3,
    "is_causal": True,
    "num_res_blocks": 2,
    "regularizer": "fsq",
    "z_channels": 4,
}
Load = Callable[[Path], Any]


def make_flow(folder: Path) -> None:
    described = flow.config_for(CoordTok(COORDTOK, "planes").eval(), **NETWORK)
    flow.save(Flow(described), folder)


def make_prior(folder: Path) -> None:
    described = masked.config_for(VidTok(BODY, "plain"), frames=5, size=(16, 16), **NETWORK)
    masked.save(Prior(described), folder)


def make_diffusers(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(DIFFUSERS))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"none are needed")


KINDS: dict[str, tuple[Callable[[Path], Any], Load]] = {
    "vidtok": (VidTok(BODY, "vidtok").save_pretrained, reeltok.load),
    "kl": (
        VidTok(replace(VIDTOK["vidtok_kl_causal_488_4chn"], **PUBLIC), "kl").save_pretrained,
        reeltok.load,
    ),
    "coordtok": (CoordTok(COORDTOK, "coordtok").save_pretrained, reeltok.load),
    "reftok": (RefTok(RefTokConfig(body=BODY, width=4), "reftok").save_pretrained, reeltok.load),
    "diffusers": (make_diffusers, reeltok.load),
    "flow": (make_flow, flow.load),
    "prior": (make_prior, masked.load),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Load]:
    """The folder of one kind of model, and what loads it."""
    make, load = KINDS[request.param]
    folder = tmp_path_factory.mktemp("hostile") / request.param
    make(folder)
    return folder, load


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a record, the lists and objects too."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))[:1]
    for name, inner in pairs:
        yield (*way, name)
        yield from places(inner, (*way, name))


def changed(record: Any, way: tuple[Any, ...], value: Any) -> Any:
    """The record with another value at a place, or without it where that is Ellipsis."""
    record = deepcopy(record)
    inner = record
    for name in way[:-1]:
        inner = inner[name]
    if value is ...:
        del inner[way[-1]]
    else:
        inner[way[-1]] = value
    return record


WRONG: list[Any] = [..., None, -1, 0, 10**6, 2**62, "x\x1b", [], {}, [-1], 0.5, [10**6] * 3]


def refusal(load: Load, folder: Path) -> str | None:
    """What loading a folder is refused with; any other error is a test's failure."""
    try:
        load(folder)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def test_any_wrong_value_is_one_sentence(kind: tuple[Path, Load]) -> None:
    folder, load = kind
    config = folder / "config.json"
    good = json.loads(config.read_text())
    said = []
    for number, way in enumerate(places(good)):
        for value in WRONG[number % 3 :: 3]:
            config.write_text(json.dumps(changed(good, way, value)))
            said.append(refusal(load, folder))
    config.write_text(json.dumps(good))
    refused = [text for text in said if text is not None]
    assert len(refused) > 30
    assert all(str(folder) in text and text.isprintable() for text in refused)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{\x00}\x00",
        b'{"family": "vidtok", "name": "\xe9"}',
        b"[" * 100_000,
        b"[]",
        b"7",
        b'{"family": ["vidtok"]}',
        b'{"family": {"a": 1}}',
        b'{"family": "vidtok", "config": {}}',
        b'{"family": "flow"}',
        b'{"_class_name": "AutoencoderKL"}',
        b'{"_class_name": "AutoencoderVidTok"}',
        b'{"family": "coordtok", "name": "a", "config": [1]}',
    ],
)
def test_damaged_configurations_are_one_sentence(kind: tuple[Path, Load], content: bytes) -> None:
    folder, load = kind
    config = folder / "config.json"
    good = config.read_bytes()
    config.write_bytes(content)
    with pytest.raises(ValueError, match="hostile") as caught:  # the folder's name
        load(folder)
    assert str(caught.value).isprintable()
    config.write_bytes(good)


@pytest.mark.parametrize("content", [b"", b"hello\n" * 50, b"\x80\x04K\x01.", b"PK\x03\x04" * 9])
def test_damaged_weights_are_one_sentence(kind: tuple[Path, Load], content: bytes) -> None:
    folder, load = kind
    path = next(path for path in folder.iterdir() if path.suffix == ".safetensors")
    good = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name):
        load(folder)
    path.write_bytes(good)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        reeltok.load(tmp_path)


DEEP: dict[str, tuple[str, Any]] = {
    "vidtok blocks": ("vidtok", {"blocks": [10**6, 10**6]}),
    "vidtok levels": ("vidtok", {"multipliers": [1] * 10**5, "blocks": [1] * 10**5}),
    "vidtok width": ("vidtok", {"width": 10**6}),
    "vidtok patch": ("vidtok", {"patch": [3, 4, 4]}),
    "vidtok level twice": ("vidtok", {"space_down": [0, 0], "space_up": [1, 1]}),
    "coordtok depth": ("coordtok", {"depth": 10**6}),
    "coordtok decoder": ("coordtok", {"decoder_depth": 10**9}),
    "coordtok size": ("coordtok", {"size": [-8, 16, 24]}),
    "coordtok heads": ("coordtok", {"heads": 0}),
    "reftok body": ("reftok", {"body": {"blocks": [10**6, 1]}}),
    "flow": ("flow", {"depth": 10**6}),
    "prior": ("prior", {"depth": 10**6}),
}


@pytest.mark.parametrize("name", DEEP)
def test_an_endless_network_is_not_begun(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by its numbers: `Module.__init__` is never called."""
    made, change = DEEP[name]
    make, load = KINDS[made]
    make(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    record = json.loads(config.read_text())
    inner = change.get("body")
    record["config"] |= {"body": record["config"]["body"] | inner} if inner else change
    config.write_text(json.dumps(record))

    def build(*_: object) -> None:
        raise AssertionError("something is built")

    monkeypatch.setattr(torch.nn.Module, "__init__", build)
    with pytest.raises(ValueError, match=r"config\.json"):
        load(tmp_path / "model")


def test_a_network_of_a_trillion_parameters_is_refused() -> None:
    large = replace(BODY, width=2**15, multipliers=(2**4, 2**4))
    with pytest.raises(ValueError, match=r"big: its network would have [\d,]+ parameters"):
        build_empty(lambda: VidTok(large, "big"), "big")
    with pytest.raises(ValueError, match="parameters"):
        zoo.build_random("vidtok", large, "big")
    larger = replace(large, width=2**16, multipliers=(2**16, 2**16))  # more than 64 bits count
    with pytest.raises(ValueError, match="big: no network is of this configuration"):
        build_empty(lambda: VidTok(larger, "big"), "big")
    with pytest.raises(ValueError, match="groups=7 do not divide"):
        replace(BODY, groups=7)


def test_info_builds_nothing_either(tmp_path: Path) -> None:
    from reeltok.cli.main import main

    VidTok(BODY, "a").save_pretrained(tmp_path / "a")
    config = tmp_path / "a" / "config.json"
    record = json.loads(config.read_text())
    record["config"]["blocks"] = [10**6, 10**6]
    config.write_text(json.dumps(record))
    assert main(["info", str(tmp_path / "a")]) == 2


def test_the_folder_of_a_run_names_its_models(tmp_path: Path) -> None:
    assert "give a folder that `reeltok convert` or training" in str(refusal(zoo.load, tmp_path))
    CoordTok(COORDTOK, "planes").save_pretrained(tmp_path / "model")
    said = f"{tmp_path} has no config.json, it is the folder of a run: give {tmp_path / 'model'}"
    assert refusal(zoo.load, tmp_path) == said
    CoordTok(COORDTOK, "planes").save_pretrained(tmp_path / "best")
    said = said.replace(": give ", f": give {tmp_path / 'best'} or ")
    assert refusal(zoo.load, tmp_path) == said


@pytest.mark.parametrize("make", [make_flow, make_prior])
def test_a_generator_is_no_tokenizer(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    said = "holds a model of family '(flow|masked)': a generator, which `reeltok generate` uses"
    with pytest.raises(ValueError, match=said):
        zoo.load(tmp_path)
