"""Files of public checkpoints as models, and back, from Python."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import COORDTOK

from reeltok import zoo
from reeltok.conversion import change_config, read_public, write_public
from reeltok.models.convert import public_names, to_public
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import VIDTOK
from reeltok.models.vidtok.network import VidTok

NAME = "vidtok_kl_causal_488_4chn"
SMALL = {"width": "32", "multipliers": "[1, 1, 1, 1]", "blocks": "[1, 1, 1, 1]"}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_model_comes_back_from_the_public_layout(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    model = VidTok(change_config(VIDTOK[NAME], SMALL), NAME).eval()
    path = tmp_path / f"public{suffix}"
    assert write_public(model, path) > 0
    found = read_public(path, NAME, SMALL)
    assert found.dropped == []
    assert found.model.hash() == model.hash()
    folder = model.save_pretrained(tmp_path / "folder")
    assert read_public(folder).model.hash() == model.hash()


def test_weights_in_few_bits_are_read(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = VidTok(change_config(VIDTOK[NAME], SMALL), NAME).eval()
    folder = model.save_pretrained(tmp_path / "small", small=True)
    found = read_public(folder / "model.safetensors", NAME, SMALL)
    assert found.dropped == []
    assert found.model.hash() == zoo.load_folder(folder).hash()


def test_a_part_of_a_model_is_no_model(tmp_path: Path) -> None:
    file = zoo.BUNDLED / "default-sharp" / "model.safetensors"
    said = r"holds only what differs from 'default'.*: give the folder itself \(.*default-sharp\)"
    with pytest.raises(ValueError, match=said):
        read_public(file, "default")
    with pytest.raises(ValueError, match=said):
        zoo.load("default", weights=file)
    assert read_public(file.parent).model.name == "default-sharp"


def test_what_is_asked_must_be_possible(tmp_path: Path) -> None:
    model = VidTok(change_config(VIDTOK[NAME], SMALL), NAME)
    with pytest.raises(ValueError, match=r"must be named \.safetensors or \.ckpt"):
        write_public(model, tmp_path / "public.pt")
    write_public(model, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="`preset` NAME"):
        read_public(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="brings its configuration"):
        read_public(model.save_pretrained(tmp_path / "folder"), NAME)
    assert change_config(VIDTOK[NAME], {"width": "64"}) == replace(VIDTOK[NAME], width=64)


def test_slices_are_said_where_they_are_written_not_where_they_are_read(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """The public code decodes a window in one call, which makes other frames."""
    sliced = replace(COORDTOK, cells=(4, 6, 6), cell_patch=(2, 3, 3), padding="public", slices=2)
    torch.manual_seed(1)
    model = CoordTok(sliced, "sliced").eval()
    public = to_public(model)
    assert [str(w.message) for w in recwarn] == [
        "sliced decodes a window in 2 parts, the public code in one, which makes other frames of "
        "the same tokens"
    ]
    recwarn.clear()
    save_file(public, tmp_path / "sliced.safetensors")
    read = zoo.build_from_state("coordtok", sliced, "sliced", public)
    assert public_names(read) == set(public)
    small = {key: str(list(getattr(sliced, key))) for key in ("size", "patch", "cells")}
    small |= {"cell_patch": "[2, 3, 3]", "decoder_patch": "[2, 4, 4]", "channels": "3"}
    small |= {"width": "16", "heads": "2", "vit_depth": "1", "depth": "1", "decoder_width": "32"}
    small |= {"decoder_heads": "2", "decoder_depth": "2", "slices": "2"}
    found = read_public(tmp_path / "sliced.safetensors", "coordtok_s_1280", small)
    assert (found.dropped, found.model.hash()) == ([], model.hash())
    assert not recwarn.list


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    torch.manual_seed(1)
    model = VidTok(change_config(VIDTOK[NAME], SMALL), NAME).eval()
    public, key = to_public(model), "decoder.mid.attn_1.q.conv.weight"
    idle = {"loss.logvar": torch.tensor(value)}
    torch.save({"state_dict": public | idle}, tmp_path / "good.ckpt")
    assert read_public(tmp_path / "good.ckpt", NAME, SMALL).dropped == ["loss.logvar"]
    public[key].view(-1)[3] = value
    torch.save({"state_dict": public}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=f"{key} in .*bad.ckpt holds NaN or infinity: give"):
        read_public(tmp_path / "bad.ckpt", NAME, SMALL)
    model = zoo.build_from_state("vidtok", model.config, NAME, public)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        write_public(model, tmp_path / "out.ckpt")
    with pytest.raises(ValueError, match=r"decoder\.middle.* in .*folder holds NaN or infinity"):
        read_public(model.save_pretrained(tmp_path / "folder"))
