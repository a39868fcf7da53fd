"""Tokens name the weights that made them, also where a network is trained, cast or loaded anew."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import reeltok
from reeltok import Tokens
from reeltok.models.vidtok.network import VidTok
from tests.small_models import CAUSAL, DISCRETE


def small(config: object = DISCRETE) -> VidTok:
    torch.manual_seed(0)
    return VidTok(config, "small").eval()


def clip(batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, 9, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def train_a_step(model: VidTok, x: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model.decode(model.encode(x)) - x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("training", [True, False])
def test_a_step_makes_another_hash(training: bool, tmp_path: Path) -> None:
    model, x = small().train(training), clip().requires_grad_()
    before = model.hash()
    model.decode(model.encode(x))
    train_a_step(model, x)
    assert model.hash() != before
    tokens = model.eval().encode(x.detach())
    with pytest.raises(ValueError, match="other weights"):
        small().decode(tokens)
    again = reeltok.load(model.save_pretrained(tmp_path / "tuned"))
    assert torch.equal(again.decode(tokens), model.decode(tokens))


def test_loaded_weights_make_another_hash() -> None:
    model, x = small(), clip()
    model.decode(model.encode(x))
    before = model.hash()
    model.load_state_dict({name: weight * 1.01 for name, weight in model.state_dict().items()})
    assert model.hash() != before


def test_tokens_never_name_weights_that_came_after_them() -> None:
    model, x = small().train(), clip()
    tokens = model.encode(x)
    train_a_step(model, x)
    assert tokens.weights is None
    again, named = model.encode(x), model.encode(x)
    before = named.weights
    train_a_step(model, x)
    assert again.weights == named.weights == before != model.hash()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit")
def test_a_compiled_part_has_the_same_weights() -> None:
    model = small()
    model.encoder = torch.compile(model.encoder)
    assert "encoder._orig_mod.conv_in.weight" in model.state_dict()
    assert model.hash() == small().hash()


@pytest.mark.parametrize("move", [VidTok.bfloat16, VidTok.share_memory])
def test_tokens_name_their_weights_though_these_were_cast_or_moved(move: Callable) -> None:
    model, x = small(), clip()
    tokens = model.encode(x)
    lay = model.versions()
    move(model)
    assert model.versions() != lay
    assert tokens.weights == small().hash() == model.encode(x).weights
    assert model.decode(tokens).shape == x.shape


def test_tokens_of_one_network_are_trees_of_one_form() -> None:
    model, x = small(), clip()
    one, other = model.encode(x), model.encode(x)
    both = tree_map(lambda a, b: None if a is None else torch.stack([a, b]), one, other)
    assert len(both.ids) == 2
    assert one.weights == model.hash()


def test_other_weights_are_read_by_those_that_came_with_them_only(tmp_path: Path) -> None:
    other, first = "ab" * 32, small()
    first.reads = (other,)
    first.save_pretrained(tmp_path / "one")
    model = reeltok.load(tmp_path / "one")
    tokens = model.encode(clip()).with_(weights=other)
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict({name: weight * 1.01 for name, weight in state.items()})
    with pytest.raises(ValueError, match="other weights"):
        model.decode(tokens)
    assert reeltok.load(model.save_pretrained(tmp_path / "two")).reads == ()
    model.load_state_dict(state)
    assert model.decode(tokens).shape == clip().shape
    assert reeltok.load(model.save_pretrained(tmp_path / "three")).reads == (other,)
    assert reeltok.load(model.save_pretrained(tmp_path / "small", small=True)).reads == ()
    assert model.half().reads == (other,)
    assert reeltok.load(model.save_pretrained(tmp_path / "half")).reads == ()


def test_an_empty_network_is_cast() -> None:
    with torch.device("meta"):
        assert VidTok(DISCRETE, "small").to(torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("first", ["decode", "cast"])
def test_casting_keeps_the_hash(first: str) -> None:
    model, x = small(), clip()
    if first == "decode":
        model.decode(model.encode(x))
    parent = nn.ModuleDict({"tokenizer": model}).to(torch.bfloat16)
    assert parent["tokenizer"].dtype == torch.bfloat16
    assert model.hash() == small().hash()
    assert small().decode(model.encode(x)).shape == x.shape


def test_ids_from_elsewhere_are_of_the_tokenizer_that_is_named() -> None:
    model, other, x = small(), small(), clip()
    with torch.no_grad():
        other.decoder.conv_out.bias.add_(1.0)
    made = Tokens.from_ids(model.encode(x).flat(), frames=9, size=(16, 24), tokenizer=model)
    assert torch.equal(model.decode(made), model.decode(model.encode(x)))
    with pytest.raises(ValueError, match="other weights"):
        other.decode(made)


def test_a_continuous_tokenizer_in_training_gives_the_mode_unless_asked_to_draw() -> None:
    model, x = small(CAUSAL).train(), clip()
    assert torch.equal(model.encode(x).latents, model.encode(x).latents)
    drawn = model.encode(x, sample=torch.Generator().manual_seed(0)).latents
    assert not torch.equal(drawn, model.encode(x).latents)
    assert not torch.equal(model(x).quantized.z, model(x).quantized.z)
