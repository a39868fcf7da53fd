"""What begins with the trained default: around another bottleneck, or as a second decoder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import DISCRETE
from small_siblings import FEW, KL
from torch import Tensor

import reeltok
from reeltok.models.vidtok.network import VidTok, VidTokConfig
from reeltok.nn.quantizers import FSQConfig
from reeltok.recipes import find_recipe
from reeltok.tokenizer.rows import pack_rows
from reeltok.train import change, train
from reeltok.train.build import build_model, warm
from reeltok.train.run import freeze


def small(config: VidTokConfig, seed: int) -> VidTok:
    torch.manual_seed(seed)
    return VidTok(config, "small").eval()


def layers(names: set[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in names}


def test_another_bottleneck_leaves_all_but_the_layers_next_to_it() -> None:
    plain, model = small(DISCRETE, 1), small(KL, 2)
    own = {name: weight.clone() for name, weight in model.state_dict().items()}
    warm(model, plain)
    given, state = plain.state_dict(), model.state_dict()
    fresh = layers({name for name in given if given[name].shape != state[name].shape})
    assert len(fresh) == 2
    kept = [name for name in given if name.rpartition(".")[0] not in fresh]
    assert len(kept) == len(given) - 4  # weights and biases
    assert all(torch.equal(state[name], given[name]) for name in kept)
    assert all(torch.equal(state[f"{name}.weight"], own[f"{name}.weight"]) for name in fresh)


def test_a_fresh_gaussian_begins_with_little_noise() -> None:
    plain, model = small(DISCRETE, 1), small(KL, 2)
    x = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def noise() -> Tensor:
        draws = [model.encode(x, sample=torch.Generator().manual_seed(i)).latents for i in (1, 2)]
        return (draws[0] - draws[1]).std()

    before = noise()
    warm(model, plain)
    assert before > 1.0
    assert noise() < 0.05


@pytest.mark.parametrize(
    "config",
    [
        replace(KL, width=16),
        replace(KL, blocks=(2, 1)),
        replace(KL, quantizer=FSQConfig(levels=(4, 4)), transform="shuffle"),
    ],
)
def test_what_differs_beyond_the_bottleneck_is_refused(config: VidTokConfig) -> None:
    with pytest.raises(ValueError, match="choose a model of the same body for warm"):
        warm(small(config, 2), small(DISCRETE, 1))


@pytest.mark.parametrize("name", ["default_kl_cpu", "default_kl_gpu"])
def test_the_continuous_recipe_runs(name: str, default: Path, clips: Path, tmp_path: Path) -> None:
    changes = {k: v for k, v in FEW.items() if "discriminator" not in k}
    train(change(find_recipe(name), changes), data=clips, out=tmp_path / "run", device="cpu")
    made = reeltok.load(tmp_path / "run" / "model")
    assert (made.spec.vocabulary, made.spec.channels) == (None, 6)
    assert made.config == KL


@pytest.mark.parametrize("name", ["default_sharp_cpu", "default_sharp_gpu"])
def test_a_second_decoder_keeps_ids_and_most_weights(
    name: str, default: Path, clips: Path, tmp_path: Path
) -> None:
    changes = {"loop.freeze": '["encoder", "quantizer"]', "loop.best": "psnr"}
    deep = change(find_recipe(name), FEW | changes)
    train(deep, data=clips, out=tmp_path / "run", device="cpu")
    base, made = reeltok.load(default), reeltok.load(tmp_path / "run" / "model")
    video = reeltok.read(clips / "0.mkv")
    tokens = base.encode(video)
    assert torch.equal(tokens.ids, made.encode(video).ids)
    assert not torch.equal(base.decode(tokens).frames, made.decode(tokens).frames)


@pytest.mark.parametrize("name", ["default_sharp_cpu", "default_sharp_gpu"])
def test_what_a_second_decoder_trains_takes_three_mebibytes(name: str) -> None:
    model = build_model(replace(find_recipe(name), start="fresh"))
    freeze(model, find_recipe(name).loop.freeze)
    trained = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("decoder.") for name in trained)
    size = sum(x.numel() * x.element_size() for x in pack_rows(trained).values())
    assert 2 * 2**20 < size < 3 * 2**20
