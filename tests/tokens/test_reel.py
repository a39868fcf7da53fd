"""The file: what is read is what was saved, whole or in ranges, and damage is noticed."""

import contextlib
import hashlib
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from reeltok.tokens import payload
from reeltok.tokens.header import BLOCK, bits_for
from reeltok.tokens.payload import pack_ids, unpack_ids
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel, ReelWriter, load_tokens, save_tokens
from reeltok.transcode.facts import reel_facts

DOCS = Path(__file__).parents[2] / "docs" / "tokens.md"


def clip(steps: int = 6, *, vocabulary: int = 1000, batch: int = 1, **changes) -> Tokens:
    draw = torch.Generator().manual_seed(0)
    given = {
        "ids": torch.randint(vocabulary, (batch, steps, 3, 5), generator=draw),
        "frames": 4 * steps - 3,
        "height": 23,
        "width": 39,
        "fps": 24000 / 1001,
        "model": "default",
        "weights": "ab" * 32,
        "settings": {"given": "video", "tile": [256, 32]},
        "vocabulary": vocabulary,
        "times": torch.arange(4 * steps - 3).double() / 24,
        "colour": {"matrix": 1, "primaries": 1, "transfer": 1, "range": "limited"},
    }
    return Tokens(**{**given, **changes})


def continuous(steps: int = 4, **changes) -> Tokens:
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, steps, 3, 5, generator=draw)
    return clip(steps, ids=None, latents=latents, vocabulary=1, **changes).with_(vocabulary=None)


FIELDS = ("grid", "frames", "height", "width", "fps", "model", "weights", "settings", "vocabulary")


def same(one: Tokens, other: Tokens) -> bool:
    fields = all(getattr(one, name) == getattr(other, name) for name in (*FIELDS, "colour"))
    return fields and torch.equal(one.first_tensor, other.first_tensor)


# -- bits -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, derandomize=True)
@given(bits=st.integers(1, 62), count=st.integers(0, 70), start=st.integers(0, 40))
def test_ids_survive_packing_from_any_place(bits: int, count: int, start: int) -> None:
    start = min(start, count)
    ids = np.random.default_rng(bits).integers(0, 2**bits, count)
    packed = pack_ids(ids, bits)
    assert len(packed) == -(-count * bits // 8)
    rest = packed[start * bits // 8 :]
    assert np.array_equal(unpack_ids(rest, bits, count - start, start * bits % 8), ids[start:])


def test_packing_in_many_runs_equals_packing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, 2**18, 1003)
    whole = pack_ids(ids, 18)
    expected = "".join(f"{each:018b}" for each in ids)
    assert "".join(f"{each:08b}" for each in whole).startswith(expected)
    monkeypatch.setattr(payload, "IDS_AT_ONCE", 64)
    assert np.array_equal(pack_ids(ids, 18), whole)
    assert np.array_equal(unpack_ids(whole, 18, 1003), ids)


def test_bits_of_an_id() -> None:
    sizes = (2, 3, 4, 5, 1000, 1024, 1025, 32_768, 262_144)
    assert [bits_for(size) for size in sizes] == [1, 2, 2, 3, 10, 10, 11, 15, 18]


# -- identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens",
    [
        clip(),
        clip(vocabulary=2),
        clip(vocabulary=2**40, batch=3),
        clip(fps=None, times=None, colour=None, settings={}, weights=None),
        clip(ids=torch.arange(7)[None], grid=(7,)),
    ],
    ids=["plain", "bits", "wide", "bare", "flat"],
)
def test_what_is_loaded_is_what_was_saved(tokens: Tokens, tmp_path: Path) -> None:
    path = tmp_path / "clip.reel"
    save_tokens(tokens, path)
    again = load_tokens(path)
    assert same(again, tokens)
    assert again.latents is None
    assert again.times is tokens.times is None or torch.equal(again.times, tokens.times)
    assert again.bits_per_pixel == tokens.bits_per_pixel
    assert [each.name for each in tmp_path.iterdir()] == ["clip.reel"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_latents_are_stored_as_asked(dtype: torch.dtype, tmp_path: Path) -> None:
    tokens = continuous()
    save_tokens(tokens, tmp_path / "clip.reel", dtype=dtype)
    again = load_tokens(tmp_path / "clip.reel")
    assert again.latents.dtype == dtype
    assert torch.equal(again.latents, tokens.latents.to(dtype))
    assert again.latent_bits == 8 * dtype.itemsize
    with Reel(tmp_path / "clip.reel") as reel:
        assert torch.equal(reel.part(1, 3).latents, again.latents[:, :, 1:3])


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    steps=st.integers(1, 9),
    vocabulary=st.sampled_from([2, 5, 1000, 32_768, 262_144]),
    batch=st.integers(1, 2),
    cut=st.integers(1, 4),
)
def test_streamed_parts_and_ranges_equal_the_whole(
    tmp_path_factory: pytest.TempPathFactory, steps: int, vocabulary: int, batch: int, cut: int
) -> None:
    tokens = clip(steps, vocabulary=vocabulary, batch=batch)
    folder = tmp_path_factory.mktemp("reel")
    save_tokens(tokens, folder / "whole.reel")
    with ReelWriter(folder / "parts.reel") as writer:
        for start in range(0, steps, cut):
            writer.write(tokens[start : start + cut])
    assert (folder / "parts.reel").read_bytes() == (folder / "whole.reel").read_bytes()
    with Reel(folder / "parts.reel") as reel:
        assert same(Tokens.join(reel.parts(cut)), tokens)
        for start in range(steps):
            part = reel.part(start, steps, frames=(0, 1))
            assert torch.equal(part.ids, tokens.ids[:, start:])
            assert len(part.times) == part.frames == 1


def test_an_open_file_answers_as_its_tokens_do(tmp_path: Path) -> None:
    save_tokens(clip(), tmp_path / "clip.reel")
    with Reel(tmp_path / "clip.reel") as reel:
        for name in FIELDS:
            assert getattr(reel, name) == getattr(clip(), name)
        assert reel.bits_per_pixel == clip().bits_per_pixel
        assert torch.equal(reel.times, clip().times)
        assert reel.info.ids.is_meta
        assert repr(reel.info) == repr(clip())
        with pytest.raises(ValueError, match="there are 0 to 6"):
            reel.part(2, 9)


def test_extras_are_kept_and_read_when_asked_for(tmp_path: Path) -> None:
    extras = {
        "reference.0": torch.arange(7, dtype=torch.uint8),
        "scales": torch.randn(2, 3, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
    }
    with ReelWriter(tmp_path / "clip.reel") as writer:
        writer.write(clip(reference_bits=9, extras=extras)[:3])
        writer.write(clip(reference_bits=5, extras={"reference.1": torch.ones(3)})[3:])
    again = load_tokens(tmp_path / "clip.reel")
    assert again.reference_bits == 14
    assert set(again.extras) == {*extras, "reference.1"}
    for name, value in extras.items():
        assert again.extras[name].dtype == value.dtype
        assert torch.equal(again.extras[name], value)
    with Reel(tmp_path / "clip.reel") as reel, pytest.raises(KeyError):
        _ = reel.info.extras["missing"]


def test_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("wb") as out:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
        save_tokens(clip(), "-")
    save_tokens(clip(), tmp_path / "clip.reel")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "clip.reel").read_bytes()
    with (tmp_path / "out").open("rb") as given:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=given))
        assert same(load_tokens("-"), clip())


def test_a_range_reads_little_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = clip(ids=torch.randint(32_768, (1, 400, 32, 32)), vocabulary=32_768, times=None)
    save_tokens(tokens, tmp_path / "long.reel")
    with Reel(tmp_path / "long.reel") as reel:
        read = []
        plain = reel.source.file.read
        spy = SimpleNamespace(
            read=lambda count: read.append(count) or plain(count),
            seek=reel.source.file.seek,
            close=reel.source.file.close,
            closed=False,
        )
        monkeypatch.setattr(reel.source, "file", spy)
        assert torch.equal(reel.part(200, 203).ids, tokens.ids[:, 200:203])
    assert sum(read) < 3 * BLOCK + 3 * 1920 < (tmp_path / "long.reel").stat().st_size / 3


# -- the bytes --------------------------------------------------------------------------------


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    save_tokens(clip(), tmp_path / "clip.reel")
    with safe_open(tmp_path / "clip.reel", "np") as file:
        about = json.loads(file.metadata()["about"])
        assert file.metadata()["format"] == "reel"
        assert file.metadata()["version"] == "1"  # what has nothing of later versions
        packed = file.get_tensor("ids")
        assert hashlib.sha256(packed.tobytes()).hexdigest() == about["payload"]["sha256"]
        assert np.array_equal(file.get_tensor("times"), clip().times.numpy())
    save_tokens(continuous(), tmp_path / "latents.reel", dtype=torch.float32)
    with safe_open(tmp_path / "latents.reel", "pt") as file:
        stored = file.get_tensor("latents")
        assert torch.equal(stored, continuous().latents.movedim(2, 0))


def test_tokens_of_a_tensor_of_bytes_are_of_a_version_that_knows_them(tmp_path: Path) -> None:
    tokens = clip(settings={"given": "uint8"}, fps=None, times=None)
    save_tokens(tokens, tmp_path / "clip.reel")
    assert same(load_tokens(tmp_path / "clip.reel"), tokens)
    with safe_open(tmp_path / "clip.reel", "np") as file:
        assert file.metadata()["version"] == "4"


def test_the_example_of_the_docs_reads_the_file(tmp_path: Path, monkeypatch) -> None:
    example = re.search(r"```python\n(import json\n.*?)```", DOCS.read_text(), re.S).group(1)
    tokens = clip(7, vocabulary=700, batch=2)
    save_tokens(tokens, tmp_path / "clip.reel")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(example, found)
    assert np.array_equal(found["ids"], tokens.ids.numpy())


# -- damage -----------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "clip.reel"
    save_tokens(clip(extras={"reference": torch.arange(40, dtype=torch.uint8)}), path)
    return path


def test_a_changed_byte_is_noticed_anywhere(written: Path) -> None:
    whole = written.read_bytes()
    tokens = load_tokens(written)
    harmless = 0
    for at in range(0, len(whole), 3):
        written.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with contextlib.suppress(ValueError):
            again = load_tokens(written)
            assert same(again, tokens)
            assert torch.equal(again.extras["reference"], tokens.extras["reference"])
            harmless += 1
    assert harmless <= 1, "only a lower version number may pass"


def test_every_cut_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    for length in range(0, len(whole), 7):
        written.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is cut off|not a"):
            load_tokens(written)
    written.write_bytes(whole + b"more")
    with pytest.raises(ValueError, match="altered"):
        load_tokens(written)


def test_damage_is_noticed_where_it_is_read_and_only_there(tmp_path: Path) -> None:
    path = tmp_path / "long.reel"
    tokens = clip(ids=torch.randint(32_768, (1, 400, 32, 32)), vocabulary=32_768, times=None)
    save_tokens(tokens, path)
    whole = bytearray(path.read_bytes())
    whole[-1000] ^= 4  # the ids stand last
    path.write_bytes(whole)
    with Reel(path) as reel:
        assert torch.equal(reel.part(0, 100).ids, tokens.ids[:, :100])
        with pytest.raises(ValueError, match="bytes 720896 to 768000 of its tokens"):
            reel.part(395, 400)


def test_a_newer_version_is_refused(written: Path) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole.replace(b'"version": "1"', b'"version": "9"'))
    with pytest.raises(ValueError, match=r"version 9 .* upgrade reeltok"):
        load_tokens(written)


def test_what_is_not_a_reel_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "clip.reel"
    for content in (b"", b"{}", b"\0" * 100, b"RIFF....AVI " * 100, b'{"a": 1}' * 20):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a"):
            load_tokens(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="is not a"):
        load_tokens(path)
    with pytest.raises(FileNotFoundError):
        load_tokens(tmp_path / "missing.reel")


# -- writing ----------------------------------------------------------------------------------


def spoiled(tokens: Tokens, value: float) -> Tokens:
    """The same record, one of whose values was changed in place after it was checked."""
    tokens.first_tensor.view(-1)[-1] = value
    return tokens


def test_bad_tokens_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clip.reel"
    for tokens, said in [
        (spoiled(clip(vocabulary=1000), 1000), "id 1000 is out of range"),
        (spoiled(clip(vocabulary=1000), -1), "id -1 is out of range"),
        (clip(vocabulary=1000).with_(vocabulary=None), "vocabulary"),
        (continuous().with_(latents=torch.full((2, 4, 4, 3, 5), 1e5)), "reach 100000.*float16"),
        (spoiled(continuous(), float("nan")), "latents hold NaN"),
        (clip(settings={"pad": object()}), "settings .* JSON"),
        (clip(extras={"complex": torch.zeros(1, dtype=torch.complex64)}), "complex64"),
    ]:
        with pytest.raises(ValueError, match=said):
            save_tokens(tokens, path)
    with pytest.raises(ValueError, match="float64"):
        save_tokens(continuous(), path, dtype=torch.float64)
    with pytest.raises(ValueError, match="no tokens"), ReelWriter(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_file_that_was_there(written: Path) -> None:
    before = written.read_bytes()
    with pytest.raises(ValueError, match="model"), ReelWriter(written) as writer:  # noqa: PT012
        writer.write(clip())
        writer.write(clip(model="other"))
    assert written.read_bytes() == before
    assert [each.name for each in written.parent.iterdir()] == [written.name]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(payload, "copy_range", full)
    with pytest.raises(OSError, match=r"cannot write .*clip\.reel: the disk is full"):
        save_tokens(clip(), tmp_path / "clip.reel")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/clip\.reel"):
        ReelWriter(tmp_path / "file" / "clip.reel")
    with pytest.raises(ValueError, match="exists and is not a file"):
        ReelWriter(tmp_path)


def test_the_folders_of_a_file_are_made(tmp_path: Path) -> None:
    save_tokens(clip(), tmp_path / "a" / "b" / "clip.reel")
    assert (tmp_path / "a" / "b" / "clip.reel").is_file()


def test_the_ratio_of_pixels_is_read() -> None:
    from reeltok.tokenizer.streaming import aspect_of

    for text, found in [("16:11", Fraction(16, 11)), (None, 1), ("2", 1), ("0:1", 1), ("a:b", 1)]:
        assert aspect_of({"pixel_aspect": text}) == found


# -- the header alone -----------------------------------------------------------------------------


def test_info_reads_a_header_without_torch(tmp_path: Path) -> None:
    """Neither torch nor numpy is loaded, of a clip of varying rate either."""
    save_tokens(clip(), tmp_path / "a.reel")
    code = (
        "import sys; from reeltok.cli.main import main; code = main(['info', sys.argv[1]]);"
        "sys.exit(str((code, {'torch', 'numpy', 'av', 'jaxtyping'} & set(sys.modules))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.reel")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "(0, set())"
    assert re.search(r"^frames +21$", done.stdout, re.M)


@pytest.mark.parametrize("tokens", [clip(), clip(batch=3, vocabulary=2), continuous()])
def test_a_header_says_what_the_tokens_say(tokens: Tokens, tmp_path: Path) -> None:
    save_tokens(tokens, tmp_path / "a.reel")
    facts = reel_facts(tmp_path / "a.reel")
    assert (facts.frames, facts.size) == (tokens.frames, (tokens.height, tokens.width))
    assert facts.tokens == tokens.grid
    assert facts.bits_per_pixel == tokens.bits_per_pixel
    with Reel(tmp_path / "a.reel") as reel:
        assert 8 * reel.about.payload.bytes + reel.info.reference_bits == reel.stored_bits
        assert torch.equal(reel.times, tokens.times)
