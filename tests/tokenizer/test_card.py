"""The model card that a saved tokenizer has, as hubs of models read it."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from small_foreign import TINY
from small_models import CAUSAL, COORDTOK, DISCRETE

import reeltok
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.foreign.diffusers import Diffusers, DiffusersConfig
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.contract import Tokenizer


def models() -> list[Tokenizer]:
    return [VidTok(CAUSAL, "kl"), VidTok(DISCRETE, "ids"), CoordTok(COORDTOK, "planes")]


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_hubs_find_the_library_and_the_family(model: Tokenizer, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / model.name)
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "reeltok"
    assert card.data.tags == ["video", "video-tokenizer", model.family]
    assert f"# {model.name}\n" in card.text
    assert f"| parameters | {model.parameter_count():,} |" in card.text
    vocabulary = model.spec.vocabulary
    assert ("vocabulary" in card.text) == (vocabulary is not None)
    assert "reeltok.load(" in card.text


def test_a_card_that_someone_wrote_stays(tmp_path: Path) -> None:
    model = VidTok(DISCRETE, "ids")
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("my own words")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own words"
    assert reeltok.load(tmp_path).name == "ids"


def test_a_name_cannot_add_to_the_front_matter(tmp_path: Path) -> None:
    folder = VidTok(DISCRETE, "a\n---\nlicense: none").save_pretrained(tmp_path / "x")
    card = ModelCard.load(folder / "README.md")
    assert card.data.license is None
    assert r"# a\n---\nlicense: none" in card.text


def test_one_of_another_library_has_a_card_too(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="needs diffusers (extra diffusers)")
    name = "AutoencoderKLCosmos"
    config = DiffusersConfig(class_name=name, arguments=TINY[name])
    folder = Diffusers(config, "cosmos").eval().save_pretrained(tmp_path / "x")
    card = ModelCard.load(folder / "README.md")
    assert card.data.tags[-1] == "diffusers"
    assert "a latent of 16 channels for every 8 frames of 8x8 pixels" in card.text
