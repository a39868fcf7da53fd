"""`models`, `info`, `convert`, `download`, `statistics`."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from ran import Ran
from safetensors.torch import load_file, save_file

import reeltok
from reeltok import zoo
from reeltok.conversion import change_config
from reeltok.models.presets import VIDTOK
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig
from reeltok.video.tags import Colour

Run = Callable[..., Ran]
Models = dict[str, Path]
PUBLIC = ("convert", "default", "out.pt", "--to", "public")


def test_models_lists_every_preset(run: Run) -> None:
    found = run("models", "--json").json["models"]
    assert [row["name"] for row in found] == reeltok.presets()
    rows = {row["name"]: row for row in found}
    default = rows["default"]
    assert (default["pixels a token"], default["vocabulary"]) == ("4x8x8", 32768)
    assert rows["vidtok_kl_noncausal_488_4chn"]["causal"] == "no"
    assert rows["vidtok_kl_causal_488_4chn"]["weights"] in ("download", "here")
    lines = run("models").out.splitlines()
    assert len(lines) == len(found) + 3
    assert lines[-1] == "generators: prior-push, sit-push (`reeltok generate NAME`)"
    refused = run("info", "sit-push")
    assert "no model or folder 'sit-push': `reeltok generate sit-push` uses it" in refused.err


def test_info_of_a_reel(run: Run, models: Models, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.reel"
    run("encode", clip, path, "--model", models["causal"], "--start", 0.5)
    found = run("info", path)
    assert re.search(r"^decodes to +video$", found.out, re.MULTILINE)
    assert found.code == 0
    for said in ("frames", "32x40", "file bits per pixel", "causal", "start"):
        assert said in found.out
    record = run("info", path, "--json").json
    assert (record["channels"], record["vocabulary"], record["start"]) == (4, None, 0.5)
    assert record["weights"] == zoo.load(models["causal"]).hash()


def test_info_of_a_video(run: Run, clip: Path, tmp_path: Path) -> None:
    record = run("info", clip, "--json").json
    assert (record["frames"], record["size"], record["fps"]) == (18, [32, 40], 10)
    assert record["seconds"] == pytest.approx(1.8)
    reeltok.write(moving(2), tmp_path / "images")
    assert run("info", tmp_path / "images", "--json").json["fps"] is None


def test_info_says_colours_in_words(run: Run, tmp_path: Path) -> None:
    tags = Colour(matrix=1, primaries=9, transfer=10, range="limited")
    reeltok.write(replace(moving(2), colour=tags), tmp_path / "tagged.mkv")
    said = run("info", tmp_path / "tagged.mkv").out
    assert re.search(r"^matrix +BT.709, code 1$", said, re.M)
    assert re.search(r"^primaries +BT.2020, code 9$", said, re.M)
    assert re.search(r"^transfer +code 10 of H.273$", said, re.M)
    assert run("info", tmp_path / "tagged.mkv", "--json").json["transfer"] == 10
    reeltok.write(replace(moving(2), colour=Colour()), tmp_path / "bare.mkv", lossless=True)
    said = run("info", tmp_path / "bare.mkv").out
    assert "RGB, code 0" in said
    assert "transfer" not in said  # not tagged


def test_info_of_a_model(run: Run, models: Models) -> None:
    record = run("info", "default", "--json").json
    assert record["bits_per_pixel"] == pytest.approx(0.0689, abs=1e-4)
    assert (record["at"], record["bits_a_token"]) == ([17, 256, 256], 15)
    own = run("info", models["discrete"], "--json").json
    assert own["parameters"] == zoo.load(models["discrete"]).spec.parameters


def test_download_knows_what_is_published(run: Run) -> None:
    found = run("download", "default")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "not a published preset" in found.err


# Converting.


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of a published kind."""
    small = {"width": 8, "multipliers": (1, 1, 1, 1), "blocks": (1, 1, 1, 1)}
    config = replace(
        VIDTOK["vidtok_fsq_causal_488_4096"], quantizer=FSQConfig(levels=(8, 8)), **small
    )
    torch.manual_seed(2)
    return VidTok(config, "small").eval().save_pretrained(tmp_path_factory.mktemp("p") / "small")


def test_convert_there_and_back(run: Run, public: Path, tmp_path: Path) -> None:
    out = tmp_path / "public.safetensors"
    found = run("convert", public, out, "--to", "public")
    assert found.code == 0, found.err
    weights = load_file(out)
    extra = {"loss.logvar": torch.zeros(1), "loss.discriminator.x": torch.zeros(1)}
    save_file(weights | extra, tmp_path / "more.safetensors")
    back = run("convert", tmp_path / "more.safetensors", tmp_path / "back", "--preset", public)
    assert back.code == 0, back.err
    assert "dropped 2 keys that are not the network's: loss.* (2)" in back.out
    assert zoo.load(tmp_path / "back").hash() == zoo.load(public).hash()
    again = run("convert", out, tmp_path / "back", "--preset", public)
    assert again.code == 2
    assert "--force" in again.err


def test_convert_to_a_checkpoint(run: Run, public: Path, tmp_path: Path) -> None:
    assert run("convert", public, tmp_path / "p.ckpt", "--to", "public").code == 0
    content = torch.load(tmp_path / "p.ckpt", weights_only=True)
    assert "encoder.conv_in.conv.weight" in content["state_dict"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("absent.ckpt", "o", "--preset", "default"), "there is no checkpoint"),
        (("p.safetensors", "o"), "--preset NAME"),
        (("p.safetensors", "o", "--preset", "vidtok_kl_causal_488_4chn"), "has shape"),
        (("p.safetensors", "o", "--preset", "PUBLIC", "--set", "widht=8"), "did you mean 'width'?"),
        (("p.safetensors", "o", "--preset", "PUBLIC", "--set", "width"), "KEY=VALUE"),
        (("p.safetensors", "o", "--preset", "PUBLIC", "--set", "edge=up"), "edge"),
        (("p.safetensors", "/dev/null/o", "--preset", "PUBLIC"), "is not a folder"),
        (("PUBLIC", "o", "--preset", "PUBLIC"), "no --preset"),
        (("PUBLIC", "o.pt", "--to", "public"), ".safetensors or .ckpt"),
        (("PUBLIC", "o", "--to", "diffusers"), "--to diffusers is not known"),
    ],
)
def test_what_convert_refuses(
    run: Run,
    public: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run("convert", public, "p.safetensors", "--to", "public")
    found = run("convert", *(str(public) if word == "PUBLIC" else word for word in words))
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert said in found.err
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_a_short_name_changes_the_one_value_it_can_mean() -> None:
    config = VIDTOK["vidtok_kl_causal_488_4chn"]
    assert change_config(config, {"channels": "8"}).quantizer.channels == 8
    assert change_config(config, {"quantizer.channels": "8"}) == VIDTOK["vidtok_kl_causal_488_8chn"]
    assert change_config(config, {"upsampling": "trilinear"}).upsampling == "trilinear"
    assert change_config(config, {"blocks": "[1, 1, 1, 1]"}).blocks == (1, 1, 1, 1)


# Statistics.


def test_statistics_are_exact_and_saved(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "with"
    (folder / "broken.mp4").write_text("no video")
    found = run("statistics", models["causal"], folder, "--out", out, "--json")
    assert found.code == 0, found.err
    assert "broken.mp4 left out" in found.err
    tokenizer = zoo.load(models["causal"])
    clips = [folder / "one.mp4", folder / "deep" / "two.mp4"]
    latents = [tokenizer.encode(reeltok.read(path)).latents for path in clips]
    values = torch.cat([z.movedim(1, -1).reshape(-1, 4) for z in latents]).double()
    saved = zoo.load(out).statistics
    torch.testing.assert_close(torch.tensor(saved["mean"]), values.mean(0).float())
    torch.testing.assert_close(torch.tensor(saved["std"]), values.std(0, correction=0).float())
    assert (found.json["clips"], found.json["broken"]) == (2, ["broken.mp4"])
    assert zoo.load(out).hash() == tokenizer.hash()
    assert sorted(saved) == ["first", "later", "mean", "std"]


def test_statistics_leave_the_weights_of_a_folder_as_they_are(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    small = zoo.load(models["causal"]).save_pretrained(tmp_path / "small", small=True)
    before = (small / "model.safetensors").read_bytes()
    found = run("statistics", small, folder)
    assert found.code == 0, found.err
    assert "std, later" in found.out
    assert (small / "model.safetensors").read_bytes() == before
    assert len(zoo.load(small).statistics["later"]["std"]) == 4


def test_statistics_replace_no_model(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    model = zoo.load(models["causal"]).save_pretrained(tmp_path / "model")
    other = zoo.load(models["noncausal"]).save_pretrained(tmp_path / "other")
    before = {place: (place / "model.safetensors").read_bytes() for place in (model, other)}
    for words, why in (
        (("--weights", "random"), "name a folder for both with --out"),
        (("--out", other), "exists already: give --force to replace it"),
        (("--out", model, "--force"), "is what is read"),
        (("--out", model / "in"), "lies in what is read"),
        (("--tokenizer", model), "--tokenizer is for a flow, and MODEL is none: leave it out"),
    ):
        refused = run("statistics", model, folder, *words)
        assert refused.code == 2
        assert why in refused.err.splitlines()[-1]
    assert all((at / "model.safetensors").read_bytes() == data for at, data in before.items())
    assert run("statistics", model, folder, "--out", other, "--force").code == 0
    assert zoo.load(other).hash() == zoo.load(model).hash()


def test_statistics_go_into_no_configuration_of_diffusers(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    """Whose own names of them would be read in their place."""
    model = zoo.load(models["causal"])
    model.save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="has no statistics"):
        reeltok.to_diffusers(model).save_pretrained(tmp_path / "model")
    found = run("statistics", tmp_path / "model", folder)
    assert (found.code, found.out) == (2, "")
    assert "does not lie in a folder of its own: name one with --out" in found.err


def test_discrete_models_have_no_statistics(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    found = run("statistics", models["discrete"], folder, "--out", tmp_path / "o")
    assert found.code == 2
    assert "only the latents of continuous models" in found.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((*PUBLIC, "--preset", "x"), "--preset is for --to ours"),
        ((*PUBLIC, "--set", "a=1"), "--set is for --to ours"),
        ((*PUBLIC, "--family", "sit"), "--family is for --to ours"),
        ((*PUBLIC, "--tokenizer", "x"), "--tokenizer is for --to ours"),
        (("view", "--starts", "episodes"), "--starts is for --prior"),
        (("corpus", "build", "clips", "o", "--gpus", 1), "--gpus is for --ray"),
        (("corpus", "build", "clips", "o", "--ray", "here", "--decoders", 2), "--decoders is for"),
        (("corpus", "build", "clips", "o", "--ray", "here", "--device", "cpu"), "--device is for"),
    ],
)
def test_options_without_an_effect_are_refused(
    run: Run, words: tuple[object, ...], why: str
) -> None:
    refused = run(*words)
    assert refused.code == 2
    assert why in refused.err
    assert refused.err.endswith(": leave it out\n")
