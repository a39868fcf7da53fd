"""A trained model as it is bundled: small, exact, with its card; a decoder beside its base."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import COORDTOK, DISCRETE
from small_siblings import FEW

import reeltok
from reeltok import zoo
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.vidtok.network import VidTok
from reeltok.recipes import find_recipe
from reeltok.tokenizer.folder import amend_config, hash_weights
from reeltok.tokenizer.rows import pack_rows, read_packed, unpack_rows
from reeltok.train import change, train
from reeltok.train.bundle import bundle, main
from reeltok.train.card import command, curve, held_out, losses, seconds_of

pytestmark = pytest.mark.filterwarnings("ignore:loop.best")  # LPIPS has no weights here


def run_of(name: str, clips: Path, out: Path, **more: str) -> Path:
    changes = {k: v for k, v in FEW.items() if "sharp" in name or "discriminator" not in k}
    train(change(find_recipe(name), changes | more), data=clips, out=out, device="cpu")
    return out


@pytest.fixture
def sharp(default: Path, clips: Path, tmp_path: Path) -> Path:
    """A run of a second decoder, of which half rests."""
    frozen = '["encoder", "quantizer", "decoder.conv_in", "decoder.levels.0"]'
    return run_of("default_sharp_cpu", clips, tmp_path / "run", **{"loop.freeze": frozen})


def test_a_run_becomes_a_small_folder_with_its_card(
    default: Path, clips: Path, tmp_path: Path
) -> None:
    run = run_of("default_kl_cpu", clips, tmp_path / "run")
    recipe = json.loads((run / "recipe.json").read_text())
    del recipe["losses"]["flicker"]  # as an earlier version wrote it
    (run / "recipe.json").write_text(json.dumps(recipe))
    statistics = {"mean": [0.0] * 6, "std": [1.0] * 6}
    amend_config(run / "model", statistics=statistics)
    made = bundle(run, tmp_path / "mine-kl", hardware="two cores", notes=("**Use.** Tests.",))
    again, trained = reeltok.load(made.folder), reeltok.load(run / "model")
    packed = unpack_rows(pack_rows(trained.state_dict()))
    assert all(torch.equal(x, packed[name]) for name, x in again.state_dict().items())
    assert (again.name, again.statistics) == ("mine-kl", statistics)
    assert made.weights == again.hash() == hash_weights(packed)
    assert made.bytes < 0.5 * (run / "model" / "model.safetensors").stat().st_size
    card = (made.folder / "README.md").read_text()
    for said in (
        "`mine-kl`",
        "6 continuous channels",
        "two cores",
        "2 steps",
        "1e-07 KL",
        "Tests.",
    ):
        assert said in " ".join(card.split()), said
    assert "reeltok train default_kl_cpu --data CLIPS --out RUN --set " in card
    assert max(map(len, card.splitlines()[:8])) <= 110
    twice = bundle(made.folder, tmp_path / "again")
    assert twice.weights == made.weights
    assert not (twice.folder / "README.md").exists()


def test_rows_of_six_bits_come_back_within_half_a_step(tmp_path: Path) -> None:
    model = CoordTok(COORDTOK, "plain").eval()
    state = model.state_dict()
    made = bundle(model.save_pretrained(tmp_path / "model"), tmp_path / "six", bits=6)
    again = reeltok.load(made.folder)
    for name, x in again.state_dict().items():
        rows = state[name].flatten(1) if x.ndim > 1 else state[name][None]
        limit = rows.abs().amax(1) / 31 * 0.501 if x.ndim > 1 else torch.zeros(1)
        assert bool(((x.view(rows.shape) - rows).abs().amax(1) <= limit).all()), name
    assert "rows of 6 bits" in str(made)
    assert bundle(made.folder, tmp_path / "twice", bits=6).weights == made.weights
    larger = bundle(model.save_pretrained(tmp_path / "model"), tmp_path / "eight")
    matrices = sum(x.numel() for x in state.values() if x.ndim > 1)
    assert larger.bytes - made.bytes > 0.6 * matrices / 4  # the rest are names


@pytest.mark.parametrize(
    "change",
    [
        {"a.row-shape": torch.tensor([4, 7])},
        {"a.row-shape": torch.tensor([-4, -6])},
        {"a.row-shape": torch.tensor([2**40, 2**40])},
        {"a": torch.zeros(17, dtype=torch.uint8)},
        {"a": torch.zeros(0, dtype=torch.uint8), "a.row-shape": torch.tensor([0, 6])},
        {"a": torch.zeros(18, dtype=torch.int8)},
        {"a.row-scale": torch.ones(5)},
    ],
)
def test_damaged_rows_are_refused(change: dict[str, torch.Tensor], tmp_path: Path) -> None:
    packed = pack_rows({"a": torch.randn(4, 6)}, 6)
    assert unpack_rows(packed)["a"].shape == (4, 6)
    with pytest.raises(ValueError, match=r"rows of 'a' .*the file is damaged"):
        unpack_rows(packed | change)
    save_file(packed | change, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: the rows of 'a'"):
        read_packed(tmp_path / "model.safetensors")


def test_weights_that_are_replaced_are_remembered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = tmp_path / "mine", []
    for seed, commit in ((0, None), (1, "abc1234"), (2, "def5678")):
        torch.manual_seed(seed)
        source = VidTok(DISCRETE, "x").save_pretrained(tmp_path / str(seed))
        made = bundle(source, out, earlier=commit)
        assert reeltok.load(out).earlier == dict(before)
        before.append((made.weights, {0: "abc1234", 1: "def5678"}.get(seed, "")))
    bundle(out, out)  # the same weights: nothing is replaced
    assert reeltok.load(out).earlier == dict(before[:2])
    kept = (out / "config.json").read_text()
    assert main([str(tmp_path / "0"), str(out)]) == 2
    said = capsys.readouterr().err
    assert "holds other weights" in said
    assert "in --earlier" in said
    assert (out / "config.json").read_text() == kept


def test_weights_whose_tokens_were_read_are_earlier_too(tmp_path: Path) -> None:
    """As after a change of names in a file: their tokens are of those weights."""
    for seed in range(2):
        torch.manual_seed(seed)
        VidTok(DISCRETE, "small").save_pretrained(tmp_path / str(seed))
    out, other = tmp_path / "small", "f" * 64
    before = bundle(tmp_path / "0", out).weights
    record = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(record | {"reads": [other]}))
    bundle(tmp_path / "1", out, earlier="abc1234")
    assert reeltok.load(out).earlier == {before: "abc1234", other: "abc1234"}


def test_a_card_says_what_an_evaluation_found(default: Path, clips: Path, tmp_path: Path) -> None:
    run = run_of("default_kl_cpu", clips, tmp_path / "run")
    found = {"psnr": {"mean": 30.123, "low": 29.0, "high": 31.0, "clips": 2}}
    record = {"summary": found, "protocol": {"name": "p"}, "clips": [1, 2], "model": "x"}
    (tmp_path / "r.json").write_text(json.dumps(record))
    asked = {"hardware": "h", "results": [tmp_path / "r.json"], "earlier": "abc1234"}
    with pytest.raises(ValueError, match=r"r\.json is of 'x' with weights None, this is 'kl' with"):
        bundle(run, tmp_path / "kl", **asked)
    weights = bundle(run, tmp_path / "kl", hardware="h", earlier="abc1234").weights
    (tmp_path / "r.json").write_text(json.dumps(record | {"weights": weights}))
    made = bundle(run, tmp_path / "kl", **asked)
    card = " ".join((made.folder / "README.md").read_text().split())
    assert "`p`, 2 clips, 95 % intervals over clips: PSNR 30.12 dB (29 to 31)." in card
    assert "reeltok evaluate kl DATA --protocol p" in card


def test_the_command_of_a_card_trains_the_same_recipe() -> None:
    changes = {"loop.schedule.steps": "7", "data.windows.0.batch": "2", "losses.net": "vgg"}
    recipe = change(find_recipe("default_sharp_cpu"), changes)
    words = command(json.loads(reeltok_json(recipe))).split("--set ")[1:]
    pairs = dict(word.strip().strip("'").split("=", 1) for word in words)
    assert change(find_recipe("default_sharp_cpu"), pairs) == recipe


def reeltok_json(recipe: object) -> str:
    from reeltok.train.recipes import as_json

    return as_json(recipe)


def test_a_card_names_the_loss_of_patches() -> None:
    recipe = json.loads(reeltok_json(find_recipe("coordtok_stage2")))
    said = losses(recipe, CoordTok(COORDTOK, "tiny"), 10)
    assert said == "squared error of 12.5% of the clip (frames) + 16 LPIPS (vgg)"


def test_hours_are_those_of_all_resumes() -> None:
    times = [1.0, 5.0, 7.0, 2.0, 4.0]
    assert seconds_of([{"step": i, "time": t} for i, t in enumerate(times)]) == 11.0
    first = [{"step": 1, "time": 10.0}, {"step": 9, "time": 60.0, "stopped": "SIGTERM"}]
    assert seconds_of([*first, {"step": 12, "time": 61.0}, {"step": 20, "time": 100.0}]) == 160.0
    killed = [first[0], {"step": 1, "time": 12.0, "resumed": True}, {"step": 2, "time": 15.0}]
    assert seconds_of(killed) == 25.0


def test_a_card_says_what_was_minimised_and_what_was_held_out() -> None:
    recipe = json.loads(reeltok_json(find_recipe("default_cpu")))
    model = VidTok(replace(DISCRETE, quantizer=replace(DISCRETE.quantizer, even=0.1)), "small")
    more = "0.1 unevenness of the codes"
    assert losses(recipe, model, 3500) == f"l1 for 100 steps, then log-mse + {more}"
    assert losses(recipe, model, 100) == f"l1 + {more}"
    lines = [
        {"step": 0, "train_size": 3, "held_out_size": 0},
        {"step": 5, "validation": True, "psnr": 1.0},
    ]
    assert held_out(lines, 0.1, "sources") == "Nothing was held out."
    assert curve(lines).startswith("On what was trained on, mean weights")
    lines[0] |= {"train_size": 5, "held_out_size": 1}
    assert held_out(lines, 0.1, "sources") == "1 of 6 were held out, by their sources."
    assert curve(lines).startswith("On held-out sources")
    assert held_out(lines[1:], 0.1, "clips") == "10% of the clips were held out."


def test_a_run_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no run or model in .*nowhere: give"):
        bundle(tmp_path / "nowhere", tmp_path / "out", hardware="h")


def test_a_curve_has_few_rows_and_both_ends() -> None:
    lines = [{"step": i, "validation": True, "psnr": float(i)} for i in range(1, 101)]
    rows = curve([*lines, {"step": 100, "loss": 1.0}]).splitlines()[4:]
    assert len(rows) == 10
    assert (rows[0], rows[-1]) == ("| 1 | 1 |", "| 100 | 100 |")


def test_a_decoder_is_stored_beside_its_base(sharp: Path, default: Path, clips: Path) -> None:
    made = bundle(sharp, zoo.BUNDLED / "default-sharp", hardware="h", base="default")
    assert made.layers
    assert all(layer.startswith("decoder.") for layer in made.layers)
    assert made.bytes < 0.6 * (default / "model.safetensors").stat().st_size
    base, second = reeltok.load("default"), reeltok.load("default-sharp")
    for name, weight in base.state_dict().items():
        same = torch.equal(weight, second.state_dict()[name])
        assert same == (name.rpartition(".")[0] not in made.layers)
    video = reeltok.read(clips / "0.mkv")
    tokens = base.encode(video)
    assert torch.equal(tokens.ids, second.encode(video).ids)
    shown = [tokenizer.decode(tokens).frames for tokenizer in (base, second)]
    assert not torch.equal(shown[0], shown[1])
    assert torch.equal(shown[1], second.decode(second.encode(video)).frames)


def test_what_has_lost_its_base_is_refused(sharp: Path, tmp_path: Path) -> None:
    folder = bundle(sharp, tmp_path / "sharp", hardware="h", base="default").folder
    torch.manual_seed(2)
    other = VidTok(DISCRETE, "default")
    other.save_pretrained(zoo.BUNDLED / "default")
    with pytest.raises(ValueError, match=r"'default' with the weights .* load it with the version"):
        reeltok.load(folder)
    shutil.rmtree(zoo.BUNDLED / "default")
    with pytest.raises(FileNotFoundError, match="what differs from 'default', whose weights are"):
        reeltok.load(folder)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"name": "default-sharp", "weights": "0"}, "'default-sharp', which is not whole itself"),
        ({"name": "../../etc", "weights": "0"}, r"'../../etc', whose weights are not here"),
        ({"name": "default"}, "weights"),
    ],
)
def test_odd_bases_are_refused(
    sharp: Path, tmp_path: Path, base: dict[str, object], said: str
) -> None:
    bundle(sharp, zoo.BUNDLED / "default-sharp", hardware="h", base="default")
    folder = bundle(sharp, tmp_path / "sharp", hardware="h", base="default").folder
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"base": base}))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        reeltok.load(folder)


def test_only_what_shares_weights_is_stored_beside_a_base(
    sharp: Path, default: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    model = VidTok(DISCRETE, "other")
    with torch.no_grad():  # layers that begin at zero are alike
        for weight in model.parameters():
            weight += 0.1
    other = model.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="nothing differs"):
        bundle(default, tmp_path / "a", base="default")
    with pytest.raises(ValueError, match="no matrix of the model is one of default"):
        bundle(other, tmp_path / "b", base="default")
    with pytest.raises(ValueError, match="give `hardware`"):
        bundle(sharp, tmp_path / "c", base="default")


def test_the_command_says_what_it_wrote(
    default: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(default), str(tmp_path / "copy")]) == 0
    assert "MiB, all layers in rows of 8 bits" in capsys.readouterr().out
    assert main([str(tmp_path / "none"), str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main([str(default), str(tmp_path / "x"), "--base", "default"]) == 2
    assert "nothing differs" in capsys.readouterr().err
