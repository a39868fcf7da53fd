"""Packed ids are the ids, whatever the grid; the network's sums are exact integers."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_packing import WEIGHTS, small_config, small_network, small_packing, sparse_ids

from reeltok.tokens.digits import split_digits
from reeltok.tokens.header import bits_for
from reeltok.tokens.packing import coder
from reeltok.tokens.packing.coder import UnreadableSegmentError, pack_segment, unpack_segment
from reeltok.tokens.packing.model import ENTRIES, PackingModel
from reeltok.tokens.packing.network import (
    BEFORE,
    EXACT,
    PackingConfig,
    cells_of,
    join_symbols,
    neighbours,
    pad_cells,
    same_digits,
    split_symbols,
)

pytest.importorskip("constriction")
SMALL = small_packing()
SKIPPING = small_packing(skip=0)
ODD = small_packing(vocabulary=1000, digits=(32, 32), groups=(1, 1))


@pytest.mark.parametrize("model", [SMALL, SKIPPING, ODD], ids=["plain", "skip", "odd"])
@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 2), st.integers(1, 7), st.integers(1, 7), st.integers(0, 9)
)
def test_ids_come_back(
    model: PackingModel, steps: int, batch: int, height: int, width: int, seed: int
) -> None:
    vocabulary = model.config.vocabulary
    ids = sparse_ids(steps, batch, height, width, vocabulary=vocabulary, seed=seed)
    data = pack_segment(ids, model, bits_for(vocabulary))
    assert torch.equal(unpack_segment(data, ids.shape, model, bits_for(vocabulary)), ids)


@pytest.mark.parametrize("model", [SMALL, SKIPPING, ODD], ids=["plain", "skip", "odd"])
def test_likely_ids_become_small(model: PackingModel) -> None:
    ids = sparse_ids(6, 1, 12, 20, vocabulary=model.config.vocabulary)
    data = pack_segment(ids, model, 10)
    assert data[:1] == coder.CODED
    assert len(data) < 0.4 * ids.numel() * 10 / 8
    assert torch.equal(unpack_segment(data, ids.shape, model, 10), ids)


def test_unlikely_ids_are_stored_plainly() -> None:
    ids = torch.randint(512, 1024, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    data = pack_segment(ids, SMALL, 10)
    assert data[:1] == coder.PLAIN
    assert len(data) == 1 + ids.numel() * 10 // 8
    assert torch.equal(unpack_segment(data, ids.shape, SMALL, 10), ids)


def test_many_cells_are_coded_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coder, "ROWS", 32)
    ids = sparse_ids(3, 1, 11, 13)
    assert torch.equal(unpack_segment(pack_segment(ids, SMALL, 10), ids.shape, SMALL, 10), ids)


def test_steps_of_too_many_cells_are_stored_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = sparse_ids(3, 1, 11, 13)
    coded = pack_segment(ids, SMALL, 10)
    monkeypatch.setattr(coder, "MOST_CELLS", 15 * 17 - 1)
    assert pack_segment(ids, SMALL, 10)[:1] == coder.PLAIN
    with pytest.raises(UnreadableSegmentError, match="of another kind"):
        unpack_segment(coded, ids.shape, SMALL, 10)


def test_bytes_that_are_no_ids_are_refused_or_read_as_others() -> None:
    ids = sparse_ids(3, 1, 6, 6, vocabulary=1000)
    data = pack_segment(ids, ODD, 10)
    draw = np.random.default_rng(0)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= int(draw.integers(1, 256))
        try:
            found = unpack_segment(bytes(changed), ids.shape, ODD, 10)
        except UnreadableSegmentError:
            continue
        assert found.shape == ids.shape
        assert 0 <= int(found.min()) <= int(found.max()) < 1000
    for wrong in (b"", data[:-1], data + b"12345678", b"\2" + data[1:], b"\0" + data[1:]):
        with pytest.raises(UnreadableSegmentError):
            unpack_segment(wrong, ids.shape, ODD, 10)


# -- exact ------------------------------------------------------------------------------------


def whole_frequencies(model: PackingModel, ids: np.ndarray) -> list[np.ndarray]:
    """How often each value is expected in the last of three steps, computed with 64-bit integers.

    One table for each half and symbol, written out without the network's own code.
    """
    w = {name: tensor.numpy().astype(np.int64) for name, tensor in model.tensors.items()}
    config, found = model.config, []
    sizes = np.array(config.digits)
    digits = ids[..., None] // (sizes.cumprod() // sizes) % sizes
    factors = np.array(config.factors)
    symbols = ids[..., None] // (factors.cumprod() // factors) % factors
    if config.skip is not None:
        symbols = np.concatenate([(ids == config.skip)[..., None], symbols], -1)
    same = np.zeros_like(digits)
    same[1:] = 64 * (digits[1:] == digits[:-1])
    learned = sum(w[f"tables.{i}"][symbols[..., i]] for i in range(symbols.shape[-1]))
    maps = np.concatenate([learned.clip(0, 127), same], -1)
    maps = np.pad(maps, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for half, part in enumerate(model.network.passes):
        cells = [(y, x) for y in range(ids.shape[1]) for x in range(ids.shape[2])]
        cells = [(y, x) for y, x in cells if (y + x) % 2 == half]
        places = [(1, dy, dx) for dy, dx in BEFORE[0]] + [(0, dy, dx) for dy, dx in BEFORE[1]]
        places += [(2, dy, dx) for dy, dx in part.within]
        rows = [
            np.concatenate([maps[t, y + 2 + a, x + 2 + b] for t, a, b in places]) for y, x in cells
        ]
        name, here = f"passes.{half}", tuple(np.array(cells).T)

        def layer(label: str, x: np.ndarray, bits: int | None, beside=0, name: str = name):
            sums = x @ w[f"{name}.{label}.weight"].T + w[f"{name}.{label}.bias"] + beside
            assert np.abs(sums).max() < EXACT
            return sums if bits is None else ((sums + 2 ** (bits - 1)) >> bits).clip(0, 127)

        hidden = layer("inner", np.array(rows).reshape(len(rows), -1), 8, w[f"{name}.known"][2])
        hidden = layer("mix", hidden, 7)
        for number in range(len(config.alphabets)):
            beside = w[f"{name}.earlier.{number}.0"][symbols[1][here][:, number]]
            beside = beside + w[f"{name}.earlier.{number}.1"][symbols[0][here][:, number]]
            for i in range(number):
                beside = beside + w[f"{name}.given.{number}.{i}"][symbols[2][here][:, i]]
            known = same[2][here].copy()
            done = number - (config.skip is not None)
            known[:, sum(config.groups[: max(0, done)]) :] = 0
            asked = layer(f"ask.{number}", np.concatenate([hidden, known], 1), 7, beside)
            scores = layer(f"answer.{number}", asked, None)
            below = (scores.max(1, keepdims=True) - scores) >> 7
            found.append(w["frequencies"][below.clip(max=ENTRIES - 1)])
    return found


def coded_frequencies(model: PackingModel, ids: torch.Tensor) -> list[np.ndarray]:
    """What the coder is given on the last of three steps."""
    found: list[np.ndarray] = []

    def code(symbols: torch.Tensor | None, expected: torch.Tensor) -> torch.Tensor:
        assert symbols is not None
        found.append(expected.numpy().copy())
        return symbols

    coder.code_steps((len(ids), 1, *ids.shape[1:]), model, code, ids[:, None])
    return found[-2 * len(model.config.alphabets) :]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_sums_are_exact(threads: int, precision: str) -> None:
    """The same numbers as in 64-bit integers, also where torch may multiply in bfloat16."""
    ids = sparse_ids(3, 9, 8, seed=3)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = coded_frequencies(SMALL, ids)
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
    wanted = whole_frequencies(SMALL, ids.numpy())
    assert len(found) == len(wanted) == 6
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.astype(np.int64), other)
        assert 1 <= other.min() <= other.max() <= 65535


def test_sums_are_exact_where_ids_are_skipped() -> None:
    """Whether an id is skipped is asked of all cells; the rest of those that are not."""
    ids = sparse_ids(3, 9, 8, seed=4)
    found, wanted = coded_frequencies(SKIPPING, ids), whole_frequencies(SKIPPING, ids.numpy())
    rows = [ids[2].flatten()[cells_of(half, (1, 9, 8))[0]] != 0 for half in (0, 1)]
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        kept = rows[number // 4].numpy() if number % 4 else slice(None)
        assert np.array_equal(one.astype(np.int64), other[kept])


def test_training_comes_to_the_same_bits() -> None:
    """What training minimises is what the file takes."""
    from reeltok.tokens.packing.expected import bits_of_clip

    network, ids = small_network(skip=0), sparse_ids(5, 1, 12, 10, seed=5)
    expected = bits_of_clip(network, ids[:, 0]).sum().item() / 8
    found = len(pack_segment(ids, PackingModel.of(network), 10)) - 1
    assert abs(found - expected) < 0.02 * expected + 4


# -- ids, symbols, digits ---------------------------------------------------------------------


def test_ids_are_their_symbols() -> None:
    for model in (SMALL, SKIPPING, ODD):
        ids = torch.arange(model.config.vocabulary)
        symbols = split_symbols(ids, model.config)
        assert torch.equal(join_symbols(symbols, model.config), ids)
        assert (symbols < torch.tensor(model.config.alphabets)).all()
    assert split_symbols(torch.tensor([0, 1]), SKIPPING.config)[:, 0].tolist() == [1, 0]
    assert split_digits(torch.tensor(16 + 5), SMALL.config.digits).tolist() == [5, 1, 0, 0, 0]
    same = same_digits(torch.tensor([[5, 1]]), torch.tensor([[5, 0]]))
    assert same.tolist() == [[64, 0]]


def test_neighbours_lie_where_they_are_said_to() -> None:
    maps = pad_cells(torch.arange(12.0).view(1, 3, 4, 1))
    inside, padded = cells_of(1, (1, 3, 4))
    assert inside.tolist() == [1, 3, 4, 6, 9, 11]
    (found,) = neighbours([maps], [((-1, 0), (0, 0), (0, 1))], padded)
    assert found[3].tolist() == [2, 6, 7]
    assert found[1].tolist() == [0, 3, 0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digits": (16, 4), "groups": (1, 1)}, "make 64 ids"),
        ({"groups": (2, 2)}, "are none of"),
        ({"groups": (3, 2)}, "are none of"),
        ({"skip": 1024}, "is not an id below"),
        ({"vocabulary": 2048}, "make 1024 ids"),
    ],
)
def test_configurations_that_contradict_themselves(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small_config(**changes)


# -- the file of a model ----------------------------------------------------------------------


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    again = PackingModel.load(SMALL.save(tmp_path / "packing.safetensors"))
    assert (again.config, again.hash) == (SMALL.config, SMALL.hash)
    assert again.hash != SKIPPING.hash
    ids = sparse_ids(3, 1, 6, 6)
    assert pack_segment(ids, again, 10) == pack_segment(ids, SMALL, 10)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = SMALL.save(tmp_path / "packing.safetensors")
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="no packing model at"):
        PackingModel.load(tmp_path / "other")
    for data in (b"", whole[:100], whole[:-1], b"{}"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is not a packing model"):
            PackingModel.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is not a packing model"):
        PackingModel.load(path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("frequencies", lambda t: t * 0, "not 1 to 65,535"),
        ("frequencies", lambda t: t[:-1], "frequencies is"),
        ("passes.0.mix.weight", lambda t: t.float(), "mix.weight is"),
        ("passes.1.known", lambda t: t[:, :-1], "known is"),
        ("tables.0", None, "not those of its network"),
    ],
)
def test_weights_that_do_not_fit_are_refused(name: str, change, words: str) -> None:
    tensors = dict(SMALL.tensors)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    with pytest.raises(ValueError, match=words):
        PackingModel(SMALL.config, tensors)


def test_a_sum_that_float32_cannot_hold_is_refused() -> None:
    config: PackingConfig = replace(SMALL.config, features=64, width=512)
    network = small_network(features=64, width=512)
    tensors = dict(PackingModel.of(network).tensors)
    tensors["passes.1.inner.weight"] = torch.full_like(tensors["passes.1.inner.weight"], 127)
    with pytest.raises(ValueError, match="more than float32 counts to"):
        PackingModel(config, tensors)
    assert config.tokenizer == WEIGHTS


def test_without_constriction_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ValueError, match=r"pip install 'reeltok\[codec\]'"):
        pack_segment(sparse_ids(1, 1, 3, 3), SMALL, 10)


def test_the_bundled_model_is_for_the_bundled_weights() -> None:
    """It packs ids of a still picture to less than their bits, and gives them back."""
    import reeltok
    from reeltok.tokenizer.packing import packing_for
    from reeltok.transcode.packing import packed_bits

    tok = reeltok.load("default")
    model = packing_for(tok)
    assert model.config.tokenizer in (tok.hash(), *tok.reads)
    frames = torch.linspace(-0.5, 0.5, 40)[:, None] * torch.linspace(0.2, 1, 48)
    tokens = tok.encode(frames.expand(1, 3, 9, 40, 48).contiguous())
    ids = tokens.ids.movedim(1, 0)
    data = pack_segment(ids, model, 15)
    assert torch.equal(unpack_segment(data, ids.shape, model, 15), ids)
    assert packed_bits(tok, tokens) == 8 * len(data) < tokens.total_bits
    assert tok.packing.stat().st_size < 2**20
