"""Foreign tokenizers behind the contract: what they gave before, their .reel files, their names."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_foreign import TINY, WAN_2_2
from thorough import slow_but
from torch import Tensor, nn

import reeltok
from reeltok import zoo
from reeltok.cli.main import main
from reeltok.evaluate.candidates.peers import open_peers
from reeltok.files.hashes import hash_text
from reeltok.generate.folder import open_tokenizer
from reeltok.models.foreign.diffusers import read_scale
from reeltok.models.foreign.names import parse_foreign
from reeltok.tokenizer.inputs import made_by
from reeltok.tokenizer.scale import Scale
from reeltok.tokens.reel import Reel, save_tokens
from reeltok.video.record import Video

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "foreign.json").read_text())
OFTEN = ("AutoencoderKLWan-2.2", "AutoencoderVidTok-fsq", "AutoencoderKLTemporalDecoder")
OFTEN += ("AutoencoderKLHunyuanVideo", "AutoencoderKLCosmos", "AutoencoderKLLTXVideo")
FSQ = {"regularizer": "fsq", "codebook_size": 32768, "z_channels": 5, "double_z": False}
HERE = Path(__file__)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*random weights"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


def moving(frames: int = 7, height: int = 40, width: int = 50) -> Video:
    """Soft noise that slides to the right, as tests/evaluate/test_peers.py draws it."""
    draw = torch.Generator().manual_seed(2)
    noise = torch.rand(1, 3, 12, 24, generator=draw)
    wide = nn.functional.interpolate(noise, (height, width + 2 * frames), mode="bicubic")[0]
    shown = [wide[:, :, 2 * i : 2 * i + width] for i in range(frames)]
    pixels = (torch.stack(shown) * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return Video.of(pixels.contiguous(), fps=30)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder that diffusers saved: a small network of a class, its weights those of seed 0."""
    diffusers = pytest.importorskip("diffusers")

    def make(name: str, *, weights: bool = True, **more: Any) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(diffusers, name).from_config(dict(TINY[name] | more))
        (model.save_pretrained if weights else model.save_config)(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def cosmos(saved: Callable[..., Path]) -> Path:
    """The quickest that scales its latents."""
    return saved("AutoencoderKLCosmos")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    reeltok.write(moving(11), path, lossless=True)
    return path


# ---------------------------------------------------------------- the same figures as before


@pytest.mark.parametrize("case", slow_but(OFTEN, GOLDEN))
def test_reconstructions_are_what_peers_gave(case: str, saved: Callable[..., Path]) -> None:
    name, _, variant = case.partition("-")
    more = {"": {}, "2.2": WAN_2_2, "fsq": FSQ}[variant]
    tok = reeltok.load(f"diffusers:{saved(name, **more)}")
    video = moving(height=64, width=64) if variant == "2.2" else moving()
    tokens = tok.encode(video.tensor())
    y = tok.decode(tokens)
    wanted = GOLDEN[case]
    assert tokens.total_bits == wanted["bits"]
    assert y.std().item() == pytest.approx(wanted["std"], abs=1e-5)
    found = y.flatten()[:: max(1, y.numel() // 24)][:24]
    torch.testing.assert_close(found, torch.tensor(wanted["values"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["AutoencoderKLCogVideoX"],
        ["AutoencoderKLCogVideoX", "AutoencoderKLMochi", "AutoencoderKLAllegro"],
    ),
)
def test_a_clip_of_any_length_and_its_batch_come_back(
    name: str, saved: Callable[..., Path]
) -> None:
    tok = reeltok.load(f"diffusers:{saved(name)}")
    for frames in (1, 2, 12):
        x = moving(frames, 33, 35).tensor()
        pair = tok.encode(torch.cat([x, x.flip(3)]))
        y = tok.decode(pair)
        assert y.shape == (2, 3, frames, 33, 35)
        torch.testing.assert_close(y[:1], tok.decode(tok.encode(x)), rtol=0, atol=1e-4)


def test_latents_are_scaled_as_the_config_says(saved: Callable[..., Path]) -> None:
    tok = reeltok.load(f"diffusers:{saved('AutoencoderKLWan')}")
    x = moving(5, 16, 16).tensor()
    raw, config = tok.network.encode(x).latent_dist.mode(), tok.network.config
    mean, std = (
        torch.tensor(config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std")
    )
    tokens = tok.encode(x)
    torch.testing.assert_close(tokens.latents, (raw - mean) / std)
    assert tokens.settings["latents"]["latents_std"] == pytest.approx(list(config["latents_std"]))
    hunyuan = reeltok.load(f"diffusers:{saved('AutoencoderKLHunyuanVideo')}")
    assert hunyuan.encode(x).settings["latents"] == {"scaling_factor": 0.476986}
    raw = hunyuan.network.encode(x).latent_dist.mode()
    torch.testing.assert_close(hunyuan.encode(x).latents, raw * 0.476986)
    drawn = hunyuan.encode(x, sample=torch.Generator().manual_seed(0)).latents
    assert not torch.allclose(drawn, hunyuan.encode(x).latents)


def test_a_scale_of_steps_goes_on_and_is_undone() -> None:
    scale = Scale(factor=2.0, mean=(1.0, 2.0, 3.0, 4.0), std=(0.5, 0.5, 4.0, 4.0))
    z = torch.randn(1, 2, 5, 3, 3)
    torch.testing.assert_close(scale.undo(scale.apply(z)), z)
    torch.testing.assert_close(scale.apply(z)[:, 0, 4], (z[:, 0, 4] - 2) * 2 / 0.5)
    assert read_scale(nn_with({"scaling_factor": None, "shift_factor": None})) == Scale()
    shifted = read_scale(
        nn_with({"scaling_factor": 0.3, "shift_factor": 0.1, "latent_channels": 2})
    )
    assert shifted == Scale(factor=0.3, mean=(0.1, 0.1))


def nn_with(config: dict[str, Any]) -> nn.Module:
    made = nn.Module()
    made.config = config  # type: ignore[assignment]
    return made


# ---------------------------------------------------------------- files


def test_a_reel_and_back(cosmos: Path, clip: Path, tmp_path: Path) -> None:
    name, reel, out = f"diffusers:{cosmos}", tmp_path / "a.reel", tmp_path / "out.mkv"
    assert main(["encode", str(clip), str(reel), "--model", name]) == 0
    with Reel(reel) as held:
        assert held.grid == (3, 5, 7)  # 11 frames are completed to 17: the clip is coded at once
        assert held.settings["window"] == 17
        assert held.settings["source"].startswith("diffusers ")
    decode = ["decode", str(reel), str(out), "--model", name, "--lossless"]
    assert main(decode) == 0
    tok = reeltok.load(name)
    whole = reeltok.read(out)
    assert len(whole) == 11
    wanted = tok.decode(tok.encode(reeltok.read(clip)))
    assert (whole.frames.int() - wanted.frames.int()).abs().max() <= 1  # latents are float16
    assert main([*decode, "--start", "4", "--stop", "7", "--force"]) == 0
    part = reeltok.read(out).frames  # read from another place of the file, so rounding may differ
    assert (part.int() - whole.frames[4:7].int()).abs().max() <= 1
    assert main(["info", str(reel)]) == 0


def test_windows_are_coded_apart_where_a_chunk_is_asked_for(cosmos: Path, clip: Path) -> None:
    tok, x = reeltok.load(f"diffusers:{cosmos}"), reeltok.read(clip).tensor()
    tokens = tok.encode(x, chunk=5)  # a window is one frame and whole groups of eight
    assert tokens.grid == (4, 5, 7)
    parts = [tok.decode(tok.encode(x[:, :, i : i + 9])) for i in (0, 9)]
    torch.testing.assert_close(tok.decode(tokens), torch.cat(parts, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(tok.decode(tokens, start=10, stop=11), parts[1][:, :, 1:])
    streamed = list(tok.stream_encode([x[:, :, :4], x[:, :, 4:]], window=5))
    assert sum(part.grid[0] for part in streamed) == 4
    tiled = tok.decode(tok.encode(x, tile=24), tile=24)
    assert tiled.shape == x.shape


def test_a_file_that_names_it_opens_nothing(
    cosmos: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tok = reeltok.load(f"diffusers:{cosmos}")
    for i, name in enumerate((f"diffusers:{cosmos}", "test_foreign:touched", tok.name)):
        reel = tmp_path / f"{i}.reel"
        save_tokens(tok.encode(reeltok.read(clip)).with_(model=name), reel)
        assert main(["decode", str(reel), str(tmp_path / "x.mkv")]) == 2
        assert "with --model" in capsys.readouterr().err
    assert (
        main(["reconstruct", str(clip), str(tmp_path / "y.mkv"), "--model", f"diffusers:{cosmos}"])
        == 0
    )
    other = tmp_path / "other.reel"
    save_tokens(tok.encode(reeltok.read(clip)).with_(weights="0" * 64), other)
    decode = ["decode", str(other), str(tmp_path / "z.mkv"), "--model", f"diffusers:{cosmos}"]
    assert main(decode) == 2
    assert "other weights" in capsys.readouterr().err


def test_a_model_is_saved_in_our_format(
    saved: Callable[..., Path], cosmos: Path, tmp_path: Path
) -> None:
    for folder in (cosmos, saved("AutoencoderVidTok", **FSQ)):
        tok = reeltok.load(f"diffusers:{folder}")
        channels = tok.spec.channels
        tok.statistics = {"mean": [0.5] * channels, "std": [2.0] * channels}
        again = reeltok.load(tok.save_pretrained(tmp_path / folder.name))
        assert (again.hash(), again.statistics) == (tok.hash(), tok.statistics)
        x = moving(5, 16, 16).tensor()
        torch.testing.assert_close(again.decode(tok.encode(x)), tok.decode(tok.encode(x)))
        assert (
            again.decode(
                tok.encode(x).with_(latents=None) if tok.vocabulary else tok.encode(x)
            ).shape
            == x.shape
        )


# ---------------------------------------------------------------- scripts and functions


class Coder(nn.Module):
    """Ids of every fourth frame, 8x8 pixels each."""

    vocabulary = 256

    def encode(self, x: Tensor) -> Tensor:
        kept = torch.cat([x[:, :, :1], x[:, :, 1:][:, :, 3::4]], dim=2)
        return ((kept[:, 0, :, ::8, ::8] + 1) * 127).long()

    def decode(self, ids: Tensor) -> Tensor:
        x = (ids.float() / 127 - 1)[:, None].repeat(1, 3, 1, 1, 1)
        x = x.repeat_interleave(8, 3).repeat_interleave(8, 4)
        return torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(4, 2)], dim=2)


class Encoder(Coder):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ids = self.encode(x)
        return ids, ids[:, None].float()


class Decoder(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        x = (ids.float() / 127 - 1)[:, None].repeat(1, 3, 1, 1, 1)
        x = x.repeat_interleave(8, 3).repeat_interleave(8, 4)
        return torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(4, 2)], dim=2)


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Counter(Shift):
    """Ids that count cells of one pixel by the frame: it keeps those that it decodes."""

    vocabulary = 2**17
    seen, computed = torch.empty(0), torch.float32

    def encode(self, x: Tensor) -> Tensor:
        self.computed = x.dtype
        return torch.arange(x[:, 0].numel(), device=x.device).view_as(x[:, 0])

    def decode(self, ids: Tensor) -> Tensor:
        self.seen = ids
        return torch.zeros(len(ids), 3, *ids.shape[1:])


coder, shift, counter = Coder(), Shift(), Counter()
ran: list[str] = []


def dimmed(x: Tensor) -> Tensor:
    assert x.shape[2] % 4 == 1
    assert x.shape[3] % 4 == x.shape[4] % 2 == 0
    return x * 0.5


dimmed.frames_per_group, dimmed.cells = 4, (4, 2)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    torch.jit.trace(Encoder(), torch.zeros(1, 3, 9, 16, 16)).save(folder / "encoder.jit")
    torch.jit.script(Decoder()).save(folder / "decoder.jit")
    (folder / "config.json").write_text('{"vocabulary": 256}')
    return folder


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(HERE.parent))
    return HERE.stem


def test_a_pair_of_scripts_is_a_tokenizer(pair: Path, clip: Path, tmp_path: Path) -> None:
    names = [str(pair), f"cosmos:{pair}", f"cosmos:{pair}/encoder.jit,{pair}/decoder.jit"]
    hashes = set()
    for i, name in enumerate(names):
        reel, out = tmp_path / f"{i}.reel", tmp_path / f"{i}.mkv"
        assert main(["encode", str(clip), str(reel), "--model", name]) == 0
        assert main(["decode", str(reel), str(out), "--model", name, "--lossless"]) == 0
        tok = reeltok.load(name)
        hashes.add(tok.hash())
        x = reeltok.read(clip)
        assert torch.equal(reeltok.read(out).frames, tok.decode(tok.encode(x)).frames)
        assert (tok.spec.factors, tok.spec.vocabulary) == ((4, 8, 8), 256)
    assert len(hashes) == 1
    with pytest.raises(ValueError, match="leave out weights"):
        reeltok.load(names[0], weights="random")
    with pytest.raises(ValueError, match="leave out `dtype`"):
        reeltok.load(names[0], dtype=torch.float16)


def test_any_function_is_a_tokenizer(importable: str, clip: Path, tmp_path: Path) -> None:
    x = reeltok.read(clip).tensor()
    tok = reeltok.load(f"{importable}:coder")
    tokens = tok.encode(x)
    assert (tokens.grid, tokens.vocabulary) == ((4, 5, 7), 256)
    assert tok.decode(tokens).shape == x.shape
    alone = reeltok.load(f"{importable}:dimmed")
    torch.testing.assert_close(alone.decode(alone.encode(x)), x * 0.5)
    torch.testing.assert_close(alone.decode(alone.encode(x), start=2, stop=7), x[:, :, 2:7] * 0.5)
    out = tmp_path / "out.mkv"
    for name in ("coder", "dimmed"):
        words = ["reconstruct", str(clip), str(out), "--model", f"{importable}:{name}", "--force"]
        assert main(words) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_no_type_rounds_the_ids_of_a_function(importable: str, dtype: str) -> None:
    tok = reeltok.load(f"{importable}:counter", dtype=dtype)
    tokens = tok.encode(torch.zeros(1, 3, 25, 64, 64))
    tok.decode(tokens)
    assert torch.equal(tok.function.seen, tokens.ids)
    assert tok.function.computed == getattr(torch, dtype)


def test_an_edited_function_is_another_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores are kept and its corpora continued under its hash."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file, found = tmp_path / "edited.py", list[str | None]()
    for text in ("dim = lambda x: x * 0.5", "dim = lambda x: x * 0.99"):
        file.write_text(text)
        sys.modules.pop("edited", None)
        importlib.invalidate_caches()
        tok = reeltok.load("edited:dim")
        [peer] = open_peers("edited:dim")
        assert peer.weights == tok.hash()
        assert made_by(hash_text("edited:dim"), tok)  # files from before there was a source
        found.append(peer.weights)
    assert None not in found
    assert len({*found}) == 2


def test_a_trained_module_is_another_tokenizer(importable: str) -> None:
    tok = reeltok.load(f"{importable}:shift")
    before, [peer] = tok.hash(), open_peers(f"{importable}:shift")
    with torch.no_grad():
        tok.function.bias.add_(1)
    assert tok.hash() != before == peer.weights
    assert open_peers(f"{importable}:shift")[0].weights == tok.hash()


def test_code_is_run_only_where_a_user_named_it(importable: str, pair: Path) -> None:
    sys.modules.pop("made_up_by_a_file", None)
    for name in ("made_up_by_a_file:encode", str(pair), f"cosmos:{pair}"):
        with pytest.raises(ValueError, match="runs code"):
            zoo.load(name, code=False)
    for name in ("made_up_by_a_file:encode", f"{importable}:coder"):
        with pytest.raises(ValueError, match="not the name of a preset"):
            zoo.load_preset(name)


def test_a_generator_s_folder_runs_no_code(pair: Path, tmp_path: Path) -> None:
    """A stranger's run could hold scripts where its tokenizer is expected."""
    shutil.copytree(pair, tmp_path / "tokenizer")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="runs code"):
        open_tokenizer(tmp_path / "model", None, None, "cpu")
    named = open_tokenizer(tmp_path / "model", None, str(pair), "cpu")
    assert named.family == "torchscript"


def test_info_says_what_it_does_to_a_video(
    pair: Path, cosmos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (f"diffusers:{cosmos}", str(pair)):
        zoo.check_name(name)
        assert main(["info", name]) == 0
        assert "x8x8" in capsys.readouterr().out


# ---------------------------------------------------------------- what cannot be opened


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("diffusers:", ValueError, "names no tokenizer"),
        ("diffusers:AutoencoderKLWan=", ValueError, "names no folder"),
        ("diffusers:./none", FileNotFoundError, "there is no folder ./none"),
        ("diffusers:AutoencoderKLWen", ValueError, "has no class 'AutoencoderKLWen'"),
        ("diffusers:UNet2DModel", ValueError, "is not a video autoencoder"),
        ("diffusers:DDPMScheduler", ValueError, "is not a video autoencoder"),
        ("cosmos:none", FileNotFoundError, "there is no folder none"),
        ("cosmos:a.jit,b.jit", FileNotFoundError, "there is no file a.jit"),
        ("no_such_module:function", ValueError, "cannot be imported"),
    ],
)
def test_what_is_no_tokenizer_is_told_in_a_sentence(
    name: str, error: type[Exception], said: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(error, match=said):
        reeltok.load(name)
    assert main(["reconstruct", str(clip), "out.mp4", "--model", name]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(said, line)


def test_a_folder_that_is_no_model_is_told_in_a_sentence(cosmos: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        reeltok.load(f"diffusers:{tmp_path}")
    for text, said in [
        ("{}", "names no class"),
        ("[", "is damaged"),
        ('{"_class_name": "UNet2DModel"}', "is not a video autoencoder"),
        ('{"_class_name": "os.system"}', "has no class"),
        ('{"_class_name": "AutoencoderKLWan", "base_dim": "x"}', "of this configuration"),
    ]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            reeltok.load(f"diffusers:{tmp_path}")
    with pytest.raises(ValueError, match="holds a AutoencoderKLCosmos, not a AutoencoderKLMochi"):
        reeltok.load(f"diffusers:AutoencoderKLMochi={cosmos}")


def test_without_diffusers_a_sentence_says_what_to_install(
    cosmos: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["reconstruct", str(clip), "out.mp4", "--model", f"diffusers:{cosmos}"]) == 2
    assert "pip install 'reeltok[diffusers]'" in capsys.readouterr().err


def test_names_are_read_in_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    for name in ("default", "owner/name", "a:b", "runs/first/model", "C:/models/x", "x.mp4"):
        assert parse_foreign(name) is None
    found = parse_foreign("diffusers:AutoencoderKLWan=a/b=c")
    assert found is not None
    assert (found.cls, found.place) == ("AutoencoderKLWan", "a/b=c")
    for name in ("diffusers:owner/name", "diffusers:./a=b"):
        found = parse_foreign(name)
        assert found is not None
        assert found.place == name.removeprefix("diffusers:")


def test_equal_weights_of_other_arguments_of_diffusers_differ(tmp_path: Path) -> None:
    """else scores of the one are taken for those of the other."""
    diffusers = pytest.importorskip("diffusers")
    found = []
    for number, more in enumerate(({}, {"norm_num_groups": 2})):
        torch.manual_seed(0)
        tiny = dict(TINY["AutoencoderKLCogVideoX"]) | more
        diffusers.AutoencoderKLCogVideoX.from_config(tiny).save_pretrained(tmp_path / str(number))
        found.append(zoo.load(f"diffusers:{tmp_path / str(number)}"))
    assert found[0].hash() == found[1].hash()
    assert found[0].configuration != found[1].configuration


def test_a_foreign_tokenizer_refuses_to_weigh_bits(tmp_path: Path) -> None:
    """else `rate_weight` of `zoo.load` is silently of no use."""
    diffusers = pytest.importorskip("diffusers")
    tiny = dict(TINY["AutoencoderKLCogVideoX"])
    diffusers.AutoencoderKLCogVideoX.from_config(tiny).save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="rate_weight"):
        zoo.load(f"diffusers:{tmp_path / 'a'}", rate_weight=10.0)
