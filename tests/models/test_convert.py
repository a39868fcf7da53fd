"""Foreign checkpoints: what is dropped, what is refused, what diffusers saves."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from public_vidtok import pair_of
from safetensors import SafetensorError
from safetensors.torch import save_file

import reeltok
from reeltok.files.atomic import Unfinished
from reeltok.files.checkpoints import read_checkpoint
from reeltok.models import convert
from reeltok.models.presets import VIDTOK
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig, LFQConfig, VQConfig
from reeltok.zoo import build_from_state

SMALL = replace(VIDTOK["vidtok_fsq_causal_488_4096"], width=8)


def public_weights() -> dict[str, torch.Tensor]:
    return convert.vidtok_to_public(VidTok(SMALL))


def test_a_missing_and_a_misshapen_key_are_named() -> None:
    weights = public_weights()
    key = "encoder.mid.attn_1.q.conv.weight"
    lost = {name: tensor for name, tensor in weights.items() if name != key}
    with pytest.raises(ValueError, match=key.replace(".", "[.]")):
        convert.vidtok_from_public(lost, SMALL)
    with pytest.raises(ValueError, match="has shape"):
        convert.vidtok_from_public(weights | {key: torch.zeros(3, 3)}, SMALL)


def test_arguments_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match=r"the arguments of VidTok: \w+ is missing"):
        convert.from_public("vidtok", public_weights(), {})


SHALLOW = {"width": 8, "multipliers": (1, 1, 1, 1), "blocks": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        ("vidtok_kl_causal_288_8chn", "vidtok_kl_causal_488_8chn"),
        ("vidtok_kl_causal_444_4chn", "vidtok_kl_causal_488_4chn"),
        ("vidtok_fsq_causal_488_32768_v1_1", "vidtok_fsq_causal_888_32768_v1_1"),
    ],
)
def test_a_checkpoint_of_more_layers_is_refused(asked: str, held: str) -> None:
    weights = convert.to_public(VidTok(replace(VIDTOK[held], **SHALLOW)))
    with pytest.raises(ValueError, match="for which this configuration has no place"):
        build_from_state("vidtok", replace(VIDTOK[asked], **SHALLOW), asked, weights)
    beside = {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}
    build_from_state("vidtok", replace(VIDTOK[held], **SHALLOW), held, weights | beside)


@pytest.mark.parametrize(
    "change",
    [
        {"quantizer": VQConfig(codes=8, width=4)},
        {"quantizer": LFQConfig(bits=4)},
        {"patch": (1, 2, 2)},
        {"blocks": (1, 2, 1, 1)},
        {"groups": 4},
        {"quantizer": FSQConfig(levels=(2, 8, 8, 8))},
        {"upsampling": "trilinear"},
        {"upsampling": "trilinear", "edge": "both"},
    ],
)
def test_what_the_public_code_cannot_hold_has_no_public_layout(change: dict[str, Any]) -> None:
    model = VidTok(replace(SMALL, **SHALLOW | change), "other")
    with pytest.raises(ValueError, match="other has no public layout"):
        convert.to_public(model)


def test_channels_of_two_levels_are_not_read_from_the_public_layout() -> None:
    weights = convert.to_public(VidTok(replace(SMALL, **SHALLOW)))
    config = replace(SMALL, **SHALLOW, quantizer=FSQConfig(levels=(8, 2, 8, 8)))
    with pytest.raises(ValueError, match=r"change at 0 here and at -3\.8 there"):
        convert.from_weights("vidtok", weights, config, "two", source="a.ckpt")


def test_a_lightning_checkpoint_is_read_without_running_it(tmp_path: Path) -> None:
    weights = public_weights()
    extra = {"loss.logvar": torch.zeros(())}
    torch.save({"state_dict": {**weights, **extra}, "epoch": 3}, tmp_path / "a.ckpt")
    read = read_checkpoint(tmp_path / "a.ckpt")
    assert sorted(read) == sorted([*weights, *extra])
    save_file(weights, tmp_path / "a.safetensors")
    assert sorted(read_checkpoint(tmp_path / "a.safetensors")) == sorted(weights)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Harmful()}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="read safely"):
        read_checkpoint(tmp_path / "bad.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "text.ckpt")
    for name in ("bytes.ckpt", "bytes.safetensors", "empty.ckpt"):
        (tmp_path / name).write_bytes(b"" if name == "empty.ckpt" else b"hello\n" * 100)
        with pytest.raises(ValueError, match="not a checkpoint that can be read safely"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")


KINDS: dict[str, dict[str, object]] = {
    "kl": {"z_channels": 4},
    "non-causal fsq": {
        "is_causal": False,
        "regularizer": "fsq",
        "codebook_size": 4096,
        "double_z": False,
    },
    "4x16x16": {"ch_mult": [1, 2, 4, 4, 4], "z_channels": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_diffusers_folder_loads_as_it_is(tmp_path: Path, kind: str) -> None:
    theirs, ours = pair_of(KINDS[kind], tmp_path)
    causal = ours.spec.causal
    x = torch.rand(1, 3, 17 if causal else 16, 32, 32) * 2 - 1
    filled = torch.cat([x[:, :, :1].expand(-1, -1, 3, -1, -1), x], dim=2) if causal else x
    with torch.no_grad():
        coded = theirs.encode(filled)
        z = coded.latent_dist.mode() if theirs.regularizer == "kl" else coded[0]
        shown = theirs.decode(z)
    tokens = ours.encode(x)
    assert (tokens.latents - z).abs().max() <= 2e-5 * (z.max() - z.min())
    assert (ours.decode(tokens) - shown).abs().max() <= 2e-5 * (shown.max() - shown.min())


def test_save_and_load_are_the_identity(tmp_path: Path) -> None:
    model = VidTok(SMALL, "small").eval()
    model.statistics = {"mean": [0.0] * 4, "std": [1.0] * 4}
    model.save_pretrained(tmp_path / "small")
    again = reeltok.load(tmp_path / "small")
    assert again.config == model.config
    assert again.name == "small"
    assert again.statistics == model.statistics
    assert again.hash() == model.hash()
    assert sorted(p.name for p in (tmp_path / "small").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_small_folders_hold_weights_of_8_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VidTok(SMALL, "small").eval()
    with torch.no_grad():  # rows of every size, and one of zeros
        for weight in (w for w in model.parameters() if w.ndim > 1):
            weight *= torch.logspace(-12, 0, len(weight)).view(-1, *[1] * (weight.ndim - 1))
            weight[0] = 0
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "small", small=True)
    size = {p.name: (p / "model.safetensors").stat().st_size for p in tmp_path.iterdir()}
    assert size["small"] < 0.5 * size["whole"]
    again = reeltok.load(tmp_path / "small")
    for name, exact in model.state_dict().items():
        found = again.state_dict()[name]
        if exact.ndim < 2:
            assert torch.equal(found, exact)
            continue
        step = exact.flatten(1).abs().amax(1) / 127
        error = (found - exact).flatten(1).abs().amax(1)
        assert (error <= 0.6 * step + 1e-7).all(), name
    assert again.hash() != model.hash()
    again.save_pretrained(tmp_path / "again", small=True)
    assert reeltok.load(tmp_path / "again").hash() == again.hash()


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'vidtok_kl_causal_488_4chn'"):
        reeltok.load("vidtok_kl_causal_488_4ch")
    with pytest.raises(FileNotFoundError, match="reeltok download vidtok_kl_causal_488_4chn"):
        reeltok.load("vidtok_kl_causal_488_4chn")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        reeltok.load(tmp_path)
    VidTok(SMALL).save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["config"]["widht"] = 9
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="widht"):
        reeltok.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        reeltok.load(tmp_path)
    other = replace(SMALL, width=16)
    VidTok(other).save_pretrained(tmp_path / "other")
    VidTok(SMALL).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has shape"):
        reeltok.load(tmp_path, weights=tmp_path / "other" / "model.safetensors")


def test_devices_and_types_that_are_not_here_are_refused(tmp_path: Path) -> None:
    VidTok(SMALL).save_pretrained(tmp_path)
    for device, said in {"tpu": "there is no device", "cuda:99": "give cpu or auto"}.items():
        with pytest.raises(ValueError, match=said):
            reeltok.load(tmp_path, device=device)
    with pytest.raises(ValueError, match="int16 is not known: give float32"):
        reeltok.load(tmp_path, dtype=torch.int16)


def test_a_model_that_cannot_be_saved_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("reeltok.tokenizer.folder.save_file", full)
    monkeypatch.setattr("reeltok.files.atomic.FEW", 2**62)  # a disk never has so much left
    with pytest.raises(OSError, match=r"cannot write .*model: the disk is full"):
        VidTok(SMALL).save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_model_that_is_not_replaced_as_a_whole_is_never_half_of_it(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of one beside the configuration of the other would load."""
    old, new = VidTok(SMALL, "old"), VidTok(replace(SMALL, edge="past-first"), "new")
    old.save_pretrained(tmp_path)

    def stop(unfinished: Unfinished) -> None:
        if unfinished.target.name == file:
            raise OSError("stopped")
        finish(unfinished)

    finish = Unfinished.finish
    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "finish", stop)
        with pytest.raises(OSError, match="stopped"):
            new.save_pretrained(tmp_path)
    if file == "config.json":
        with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
            reeltok.load(tmp_path)
    else:
        kept = reeltok.load(tmp_path)
        assert (kept.name, kept.config, kept.hash()) == ("old", old.config, old.hash())
    new.save_pretrained(tmp_path)
    assert reeltok.load(tmp_path).hash() == new.hash()


def test_nothing_is_replaced_before_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = VidTok(SMALL, "old"), VidTok(replace(SMALL, edge="past-first"), "new")
    old.save_pretrained(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")

    def write(path: Path, *_: object, **__: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write)
        patch.setattr(Path, "write_bytes", write)
        with pytest.raises(OSError, match="the disk is full"):
            new.save_pretrained(tmp_path)
    assert reeltok.load(tmp_path).hash() == old.hash()
    assert reeltok.load(tmp_path).name == "old"


def test_a_model_with_other_weights_is_called_as_its_folder(tmp_path: Path) -> None:
    weights = VidTok(SMALL, "any").save_pretrained(tmp_path / "mine") / "model.safetensors"
    assert reeltok.load(tmp_path / "mine", weights=weights).name == "mine"


def test_random_weights_are_said_and_repeat() -> None:
    with pytest.warns(UserWarning, match="random weights"):
        one = reeltok.load("default", weights="random")
    with pytest.warns(UserWarning, match="random weights"):
        two = reeltok.load("default", weights="random", dtype=torch.bfloat16)
    assert two.dtype == torch.bfloat16
    assert one.hash() == two.hash()


def test_a_published_model_is_described_without_memory() -> None:
    with pytest.warns(UserWarning, match="random weights"), torch.device("meta"):
        model = reeltok.load("vidtok_fsq_causal_888_32768_v1_1", weights="random")
    assert model.device.type == "meta"
    assert model.spec.parameters == 164_944_910
    assert model.spec.bits == 15
