"""Tiles read with all that they depend on: nothing changes, and no cell is read in vain."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.vidtok.network import VidTok, VidTokConfig
from reeltok.tokenizer.tiling import ExactTiles
from reeltok.tokens.record import Tokens

SHORT = {"width": 8, "multipliers": (1, 1), "blocks": (1, 0)}
PLAIN = {"middle": "none", "groups": None, "width": 8, "multipliers": (1, 1, 1, 1)}
KINDS: dict[str, VidTokConfig] = {
    "short": replace(COMPACT, **SHORT),
    "zeros": replace(COMPACT, **SHORT, edge="past-zeros", sampler="plain"),
    "linear": replace(COMPACT, **SHORT, upsampling="trilinear", sampler="blend"),
    "not causal": replace(COMPACT, **SHORT, edge="both", sampler="joint", block="full"),
    "default": replace(COMPACT, width=8),
    "published, no middle": replace(VIDTOK["vidtok_kl_causal_488_4chn_v1_1"], **PLAIN),
}


def build(kind: str) -> VidTok:
    """A narrow model whose every weight matters."""
    torch.manual_seed(1)
    model = VidTok(KINDS[kind], kind).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 1.2 * parameter[0].numel() ** -0.5)
    return model


MODELS = {kind: build(kind) for kind in KINDS}


def clip(frames: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


def assert_same_ids(model: VidTok, a: Tokens, b: Tokens) -> None:
    """Equal but for one in a thousand, which rounding may move over a boundary between codes."""
    if a.ids is None or b.ids is None:
        torch.testing.assert_close(a.latents, b.latents, rtol=0, atol=1e-5)
        return
    assert (a.ids != b.ids).sum() <= 1e-3 * a.ids.numel()


@pytest.mark.parametrize("axis", [2, 3], ids=["height", "width"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_depends_on_its_halo_and_on_no_less(kind: str, side: str, axis: int) -> None:
    """By gradients: what the middle cell of a row is made of."""
    model = build(kind).double()
    (_, fh, fw), spec = KINDS[kind].factors, model.spec
    assert spec.halos is not None
    halo = spec.halos[side == "decoder"]
    count, middle = 2 * halo + 5, halo + 2
    shape = [1, spec.first_frames, fh, fw, 3] if side == "encoder" else [1, 1, 1, 1, spec.channels]
    shape[axis] *= count
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    own = model.get_submodule(side)(x).unflatten(axis, (count, -1)).select(axis, middle)
    (own * torch.randn_like(own)).sum().backward()
    assert x.grad is not None
    read = x.grad.abs().unflatten(axis, (count, -1)).movedim(axis, 0).flatten(1).sum(1) > 0
    reached = read.nonzero().flatten() - middle
    assert max(-reached.min(), reached.max()) == halo


@settings(max_examples=60)
@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    cells=st.integers(2, 30),
    halo=st.integers(0, 9),
)
def test_cut_and_joined_a_grid_is_what_it_was(
    rows: int, columns: int, cells: int, halo: int
) -> None:
    tiles = ExactTiles(rows, columns, cells, halo)
    grid = torch.arange(2 * rows * columns).reshape(2, rows, columns)
    parts = [grid[:, y, x] for y, x in tiles.boxes()]
    assert max(part[0].numel() for part in parts) <= (cells + 2 * halo) ** 2
    assert torch.equal(tiles.join_tokens(parts), grid)
    pixels = grid.repeat_interleave(4, 1).repeat_interleave(2, 2)
    blocks = (part.repeat_interleave(4, 1).repeat_interleave(2, 2) for part in parts)
    assert torch.equal(tiles.join_pixels(blocks, (4, 2)), pixels)


def test_a_frame_is_cut_into_strips_where_they_fit() -> None:
    strips = ExactTiles(60, 10, 16, 3).boxes()
    assert all(x == slice(0, 10) for _, x in strips)
    assert len(strips) > 1
    assert ExactTiles(60, 10, None, 3).boxes() == [(slice(0, 60), slice(0, 10))]


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(["short", "zeros", "linear", "not causal"]),
    frames=st.integers(1, 9),
    height=st.integers(40, 150),
    width=st.integers(40, 330),
    chunk=st.sampled_from([None, 1, 4, 5]),
    extra=st.integers(0, 24),
    seed=st.integers(0, 99),
)
def test_tiles_change_nothing(
    kind: str, frames: int, height: int, width: int, chunk: int | None, extra: int, seed: int
) -> None:
    model, x = MODELS[kind], clip(frames, height, width, seed)
    tile = model.spec.least_tile + extra
    whole = model.encode(x, chunk=chunk)
    tiled = model.encode(x, chunk=chunk, tile=tile)
    assert_same_ids(model, tiled, whole)
    frames_whole = model.decode(whole, chunk=chunk)
    frames_tiled = model.decode(whole, chunk=chunk, tile=tile)
    torch.testing.assert_close(frames_tiled, frames_whole, rtol=0, atol=1e-5)


def test_what_depends_on_the_whole_frame_has_no_halo() -> None:
    for name in ("vidtok_kl_causal_488_4chn", "vidtok_variant_3", "vidtok_kl_noncausal_488_4chn"):
        config = replace(VIDTOK[name], width=32, multipliers=(1, 1, 1, 1))
        assert VidTok(config).spec.halos is None
    grouped = VidTok(replace(COMPACT, **SHORT | {"groups": 4}))
    assert grouped.spec.halos is None
    assert grouped.spec.least_tile == 1


def test_a_tile_smaller_than_its_halo_is_refused_with_the_least() -> None:
    model = MODELS["short"]
    message = "tile=47 is less than the 48 pixels that short reads around a tile: give 48 or more"
    with pytest.raises(ValueError, match=message):
        model.encode(clip(1, 64, 64, 0), tile=47)
    with pytest.raises(ValueError, match=message):
        model.decode(model.encode(clip(1, 64, 64, 0)), tile=47)


def test_tiles_that_memory_asks_for_change_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("short"), clip(1, 64, 320, 0)
    whole, encode = model.encode(x), model.encode_part

    def small(part: torch.Tensor, *args: object, **options: object) -> object:
        if part.shape[4] > 260:
            raise torch.OutOfMemoryError("out of memory")
        return encode(part, *args, **options)

    monkeypatch.setattr(model, "encode_part", small)
    with pytest.warns(UserWarning, match="going on in tiles") as told:
        tiled = model.encode(x)
    assert [str(each.message).split()[-2] for each in told] == ["160", "80"]
    assert_same_ids(model, tiled, whole)
