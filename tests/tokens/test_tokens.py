"""The record: shapes that agree, parts that add up, bits per pixel, ids made elsewhere."""

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import ReelWriter


def ids_of(*shape: int, vocabulary: int = 32_768) -> torch.Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0))


def clip(steps: int = 5, **changes) -> Tokens:
    given = {
        "ids": ids_of(1, steps, 4, 6),
        "frames": 4 * steps - 3,
        "height": 30,
        "width": 46,
        "fps": 25.0,
        "model": "default",
        "vocabulary": 32_768,
    }
    return Tokens(**{**given, **changes})


def test_repr_shows_shapes_and_numbers() -> None:
    expected = (
        "Tokens(ids 1x5x4x6 of 32768 for 17 frames 30x46 at 25 fps by 'default' "
        "(0.0767 bits per pixel))"
    )
    assert repr(clip()) == expected
    assert "latents 2x8x3x4x4" in repr(
        Tokens(latents=torch.zeros(2, 8, 3, 4, 4), frames=9, height=32, width=32)
    )


def test_bits_per_pixel_as_the_protocols_define_it() -> None:
    default = Tokens(ids=ids_of(1, 5, 32, 32), frames=17, height=256, width=256, vocabulary=32_768)
    assert default.bits == 15
    assert default.bits_per_pixel == pytest.approx(0.0689, abs=5e-5)
    wide = Tokens(latents=torch.zeros(1, 10, 1024), frames=128, height=128, width=128)
    assert wide.bits_per_pixel == pytest.approx(0.078, abs=5e-4)
    with_reference = clip(reference_bits=17 * 30 * 46)
    assert with_reference.bits_per_pixel == pytest.approx(clip().bits_per_pixel + 1)
    batch = clip(ids=ids_of(3, 5, 4, 6))
    assert batch.bits_per_pixel == pytest.approx(clip().bits_per_pixel)
    with pytest.raises(ValueError, match="without their vocabulary"):
        _ = clip(vocabulary=None).bits_per_pixel


def test_ids_are_flattened_time_slowest_then_row_then_column() -> None:
    tokens = clip()
    flat = tokens.flat()
    assert flat.shape == (1, 120)
    t, h, w = 3, 2, 5
    assert flat[0, (t * 4 + h) * 6 + w] == tokens.ids[0, t, h, w]
    with pytest.raises(ValueError, match="no ids"):
        Tokens(latents=torch.zeros(1, 2, 3), frames=1, height=1, width=1).flat()


def test_from_ids_takes_sequences_batches_and_grids() -> None:
    tokens = clip()
    about = {"frames": 17, "size": (30, 46), "vocabulary": 32_768}
    tokenizer = SimpleNamespace(
        spec=SimpleNamespace(name="default", vocabulary=32_768),
        grid_for=lambda frames, size: (1 + (frames - 1) // 4, -(-size[0] // 8), -(-size[1] // 8)),
        hash=lambda: "of the weights",
    )
    flat = tokens.flat()
    for ids in (flat, flat[0], flat[0].tolist(), flat.numpy(), flat.int(), tokens.ids):
        made = Tokens.from_ids(ids, grid=(5, 4, 6), **about)
        assert torch.equal(made.ids, tokens.ids)
        made = Tokens.from_ids(ids, frames=17, size=(30, 46), tokenizer=tokenizer)
        assert torch.equal(made.ids, tokens.ids)
        assert made.weights == "of the weights"
        assert (made.model, made.vocabulary) == ("default", 32_768)
    made = Tokens.from_ids(flat, **about)
    assert made.grid == (120,)
    assert torch.equal(made.on_grid((5, 4, 6)).ids, tokens.ids)
    assert Tokens.from_ids(tokens.ids, **about).grid == (5, 4, 6)


def test_from_ids_refuses_what_cannot_be_ids() -> None:
    about = {"frames": 17, "size": (30, 46)}
    for ids, said in [
        (torch.zeros(1, 120), "float32"),
        (np.zeros(120, dtype=bool), "bool"),
        (torch.tensor(3), "sequence"),
        ([], "(integers|sequence)"),
        (torch.zeros(1, 100, dtype=torch.int64), "5x4x6 = 120 tokens, found 100"),
    ]:
        with pytest.raises(ValueError, match=said):
            Tokens.from_ids(ids, grid=(5, 4, 6), **about)
    with pytest.raises(ValueError, match=r"id 9 .* 8 ids"):
        Tokens.from_ids([1, 9], vocabulary=8, **about)


def test_a_record_whose_values_disagree_is_refused() -> None:
    for changes, said in [
        ({"ids": None}, "neither"),
        ({"latents": torch.zeros(1, 2, 5, 4, 7)}, "5x4x7"),
        ({"grid": (4, 4, 6)}, "4x4x6"),
        ({"frames": -1}, "-1 frames"),
        ({"height": 0}, "0x46"),
    ]:
        with pytest.raises(ValueError, match=said):
            clip(**changes)


@pytest.mark.parametrize("wrong", [-1, 32_768, 10**9, -(2**63)])
def test_ids_outside_the_vocabulary_are_refused_everywhere(wrong: int) -> None:
    ids = ids_of(1, 5, 4, 6)
    ids[0, 2, 1, 3] = wrong
    about = {"frames": 17, "size": (30, 46)}
    for make in (
        lambda: clip(ids=ids),
        lambda: clip().with_(ids=ids),
        lambda: replace(clip(), ids=ids),
        lambda: Tokens.from_ids(ids, vocabulary=32_768, **about),
    ):
        with pytest.raises(ValueError, match=f"token id {wrong} is out of range"):
            make()
    if wrong < 0:  # known to be wrong without a vocabulary, too
        with pytest.raises(ValueError, match="ids begin at 0"):
            clip(ids=ids, vocabulary=None)
    with pytest.raises(ValueError, match="the vocabulary has 10 ids"):
        clip().with_(vocabulary=10)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_latents_that_are_not_finite_are_refused_everywhere(wrong: float) -> None:
    whole = Tokens(latents=torch.zeros(1, 2, 5, 4, 6), frames=17, height=30, width=46)
    bad = torch.zeros(1, 2, 5, 4, 6)
    bad[0, 1, 2, 3, 4] = wrong
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for make in (
            lambda latents: clip(ids=None, latents=latents),
            lambda latents: whole.with_(latents=latents),
            lambda latents: Tokens.from_latents(latents, frames=17, size=(30, 46)),
        ):
            with pytest.raises(ValueError, match="latents hold NaN or infinity"):
                make(bad.to(dtype))


def test_other_ids_drop_the_latents_and_other_latents_the_ids() -> None:
    ids, latents = ids_of(1, 5, 4, 6).flip(1), torch.randn(1, 2, 5, 4, 6)
    both = clip(latents=torch.zeros(1, 2, 5, 4, 6))
    assert both.with_(ids=ids).latents is None
    assert both.with_(latents=latents).ids is None
    assert both.with_(fps=3.0).latents is both.latents
    kept = both.with_(ids=ids, latents=latents)
    assert (kept.ids is ids, kept.latents is latents) == (True, True)
    assert both.with_(ids=None).latents is both.latents
    assert both.to("cpu").latents is not None
    assert both.on_grid((120,)).latents.shape == (1, 2, 120)


def test_from_latents_takes_what_from_ids_takes() -> None:
    latents = torch.randn(2, 3, 5, 4, 6)
    spec = SimpleNamespace(name="wide", vocabulary=None, channels=3)
    tokenizer = SimpleNamespace(spec=spec, grid_for=lambda frames, size: (5, 4, 6), hash=str)
    for values in (latents, latents.flatten(2), latents.numpy(), latents.tolist()):
        made = Tokens.from_latents(values, frames=17, size=(30, 46), tokenizer=tokenizer)
        assert torch.equal(made.latents, latents)
        assert (made.model, made.grid, made.ids) == ("wide", (5, 4, 6), None)
    for values, said in [
        (latents.long(), "int64"),
        (latents[0, 0, 0], "batch channels"),
        ([[1.0], [2.0, 3.0]], "rows of one length"),
        (latents[:, :2], "have 3 channels, these have 2"),
        (latents[:, :, :4], "take 5x4x6 = 120 tokens, found 96"),
        (latents.transpose(3, 4), "take a grid of 5x4x6, found one of 5x6x4"),
    ]:
        with pytest.raises(ValueError, match=said):
            Tokens.from_latents(values, frames=17, size=(30, 46), tokenizer=tokenizer)


def test_a_data_loader_makes_one_record_of_a_batch() -> None:
    clips = [
        clip(ids=ids_of(1, 5, 4, 6).roll(i, 1), settings={"start": float(i), "fingerprint": str(i)})
        for i in range(4)
    ]
    pairs = [{"tokens": each, "label": i} for i, each in enumerate(clips)]
    first, second = DataLoader(pairs, batch_size=2)
    assert first["tokens"].ids.shape == (2, 5, 4, 6)
    assert torch.equal(second["tokens"].ids[1], clips[3].ids[0])
    assert (first["tokens"].fps, first["tokens"].settings) == (25.0, {})
    flat = Tokens(latents=torch.ones(1, 2, 3), frames=1, height=8, width=8)
    (latents,) = DataLoader([flat] * 3, batch_size=3)
    assert latents.latents.shape == (3, 2, 3)
    rates = next(iter(DataLoader([clip(fps=24.0), clip(fps=30.0)], batch_size=2)))
    assert (rates.fps, rates.batch) == (None, 2)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"frames": 16}, "their frames is 17 and 16"),
        ({"width": 45}, "their width is 46 and 45"),
        ({"ids": ids_of(1, 5, 4, 7)}, "their grid"),
        ({"model": "other"}, "their model"),
        ({"settings": {"window": 16}}, "their settings"),
        ({"extras": {"reference.0.0": torch.zeros(1)}}, r"reference\.0\.0 are not batched"),
    ],
)
def test_clips_that_do_not_fit_one_batch_are_refused(other: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        next(iter(DataLoader([clip(), clip(**other)], batch_size=2)))


def test_tokens_are_pickled_without_their_tokenizer() -> None:
    """Their hash is a method of the tokenizer until it is asked for: workers need its value."""
    tokens = clip(weights=lambda: "ab" * 32)  # which itself cannot be pickled
    again = pickle.loads(pickle.dumps(tokens))
    assert (again.weights, again.fps) == ("ab" * 32, 25.0)
    assert torch.equal(again.ids, tokens.ids)


def test_tokens_are_a_pytree_of_their_tensors() -> None:
    tokens = clip(times=torch.arange(17).double())
    moved = tree_map(lambda x: None if x is None else x + 1, tokens)
    assert torch.equal(moved.ids, tokens.ids + 1)
    assert (moved.latents, moved.model, moved.times[0]) == (None, "default", 1)


def test_tensors_of_another_type_are_refused() -> None:
    # A TypeError where the shape types of public functions are checked.
    with pytest.raises((ValueError, TypeError), match=r"int32|i32"):
        clip(ids=ids_of(1, 5, 4, 6).int())
    with pytest.raises((ValueError, TypeError), match=r"ndarray|Int64"):
        clip(ids=ids_of(1, 5, 4, 6).numpy())
    with pytest.raises((ValueError, TypeError), match=r"int64|i64"):
        clip(latents=torch.zeros(1, 2, 5, 4, 6, dtype=torch.int64))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    steps=st.integers(1, 12), frames=st.integers(1, 40), cut=st.integers(1, 5), both=st.booleans()
)
def test_joined_parts_are_the_whole(steps: int, frames: int, cut: int, both: bool) -> None:
    whole = clip(
        ids=ids_of(2, steps, 2, 3),
        latents=torch.randn(2, 4, steps, 2, 3) if both else None,
        frames=frames,
        times=torch.arange(frames, dtype=torch.float64),
    )
    parts = [whole[start : start + cut] for start in range(0, steps, cut)]
    again = Tokens.join(parts)
    assert again.grid == whole.grid
    assert again.frames == frames
    assert torch.equal(again.ids, whole.ids)
    assert torch.equal(again.times, whole.times)
    assert not both or torch.equal(again.latents, whole.latents)


def test_a_part_takes_the_frames_it_is_told() -> None:
    part = clip(times=torch.arange(17).double()).part(1, 3, frames=(1, 9))
    assert part.grid == (2, 4, 6)
    assert part.frames == 8
    assert part.times.tolist() == list(range(1, 9))
    for start, stop in [(0, 6), (-1, 2), (2, 2)]:
        with pytest.raises(ValueError, match="there are 0 to 5"):
            clip().part(start, stop)
    with pytest.raises(ValueError, match="steps of 1"):
        clip()[::2]


def test_parts_of_different_clips_are_not_joined() -> None:
    for other, said in [
        (clip(model="other"), "model"),
        (clip(width=48), "width"),
        (clip(settings={"pad": "front"}), "settings"),
        (clip(ids=ids_of(2, 5, 4, 6)), "batch"),
        (clip(ids=ids_of(1, 5, 4, 7)), "one kind"),
        (clip(ids=None, latents=torch.zeros(1, 2, 5, 4, 6)), "one kind"),
    ]:
        with pytest.raises(ValueError, match=said):
            Tokens.join([clip(), other])
    with pytest.raises(ValueError, match="no parts"):
        Tokens.join([])


def test_parts_by_other_weights_are_not_joined(tmp_path: Path) -> None:
    one, other = "ab" * 32, "cd" * 32
    first, last = clip(weights=lambda: one)[:2], clip(weights=other)[2:]
    with pytest.raises(ValueError, match="with the weights abababababab and cdcdcdcdcdcd"):
        Tokens.join([first, last])
    with ReelWriter(tmp_path / "a.reel") as writer:
        writer.write(first)
        with pytest.raises(ValueError, match="parts of one clip come from one tokenizer"):
            writer.write(last)
    for known in (one, None):  # None: nobody knows
        assert Tokens.join([first, last.with_(weights=known)]).frames == clip().frames


def test_joined_references_and_extras_are_collected() -> None:
    parts = [
        clip(reference_bits=10, extras={"reference.0": torch.ones(2)}),
        clip(reference_bits=5, extras={"reference.1": torch.zeros(3)}, step=5),
    ]
    whole = Tokens.join(parts)
    assert whole.reference_bits == 15
    assert list(whole.extras) == ["reference.0", "reference.1"]


@pytest.mark.parametrize(
    "parts", [[(2, 5), (0, 2)], [(0, 2), (3, 5)], [(0, 5), (0, 5)]], ids=["order", "gap", "twice"]
)
def test_parts_that_do_not_follow_one_another_are_not_joined(parts: list[tuple[int, int]]) -> None:
    tokens = clip()
    assert torch.equal(Tokens.join([tokens[0:2], tokens[2:5]]).ids, tokens.ids)
    with pytest.raises(ValueError, match=r"comes where step \d is next"):
        Tokens.join([tokens[a:b] for a, b in parts])


def test_weights_are_hashed_when_first_asked_for() -> None:
    calls = []

    def digest() -> str:
        calls.append(1)
        return "ab" * 32

    tokens = clip(weights=digest)
    part = Tokens.join([tokens[:2], tokens[2:]]).to("cpu")
    assert calls == []
    assert part.weights == part.weights == "ab" * 32
    assert len(calls) == 1
    assert clip().weights is None


@pytest.mark.parametrize("ids", [["a"], [[1, 2], [3]], [None], object()])
def test_ids_that_are_no_rows_of_integers_are_refused(ids: object) -> None:
    with pytest.raises(ValueError, match="ids must be integers in rows of one length"):
        Tokens.from_ids(ids, frames=1, size=(8, 8))
