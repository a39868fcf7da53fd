"""The record: shapes that agree, parts that add up, bits per pixel, ids made elsewhere."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reeltok.tokens import Tokens


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
    )
    flat = tokens.flat()
    for ids in (flat, flat[0], flat[0].tolist(), flat.numpy(), flat.int(), tokens.ids):
        made = Tokens.from_ids(ids, grid=(5, 4, 6), **about)
        assert torch.equal(made.ids, tokens.ids)
        made = Tokens.from_ids(ids, frames=17, size=(30, 46), tokenizer=tokenizer)
        assert torch.equal(made.ids, tokens.ids)
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


def test_tensors_of_another_type_are_refused() -> None:
    # A TypeError where the shape types of public functions are checked.
    with pytest.raises((ValueError, TypeError), match=r"int32|i32"):
        clip(ids=ids_of(1, 5, 4, 6).int())
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


def test_joined_references_and_extras_are_collected() -> None:
    parts = [
        clip(reference_bits=10, extras={"reference.0": torch.ones(2)}),
        clip(reference_bits=5, extras={"reference.1": torch.zeros(3)}),
    ]
    whole = Tokens.join(parts)
    assert whole.reference_bits == 15
    assert list(whole.extras) == ["reference.0", "reference.1"]


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
