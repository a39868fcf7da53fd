"""Tiles: cut and joined again, a grid is what it was."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reeltok.tokenizer.tiling import Tiles, ran_out_of_memory


@settings(max_examples=40)
@given(rows=st.integers(1, 23), columns=st.integers(1, 23), cells=st.integers(2, 12))
def test_cut_and_joined_tokens_and_pixels_are_what_they_were(
    rows: int, columns: int, cells: int
) -> None:
    tiles = Tiles(rows, columns, cells)
    tokens = torch.arange(2 * rows * columns).reshape(2, rows, columns)
    parts = [tokens[:, y, x] for y, x in tiles.boxes()]
    assert all(max(part.shape[1:]) <= max(cells, 1) or cells >= rows for part in parts)
    assert torch.equal(tiles.join_tokens(parts), tokens)
    pixels = tokens.double().repeat_interleave(4, 1).repeat_interleave(2, 2)
    parts = [
        pixels[:, 4 * y.start : 4 * y.stop, 2 * x.start : 2 * x.stop] for y, x in tiles.boxes()
    ]
    assert torch.allclose(tiles.join_pixels(parts, (4, 2)), pixels)


def test_pixels_blend_from_one_tile_to_the_next() -> None:
    tiles = Tiles(1, 14, 8)
    assert [(x.start, x.stop) for _, x in tiles.boxes()] == [(0, 8), (6, 14)]
    dark, light = torch.zeros(1, 1, 8), torch.ones(1, 1, 8)
    row = tiles.join_pixels([dark, light], (1, 1)).flatten()
    assert torch.equal(row[:6], torch.zeros(6))
    assert torch.equal(row[8:], torch.ones(6))
    assert row[6] == pytest.approx(0.25)
    assert row[7] == pytest.approx(0.75)


def test_tells_memory_from_other_errors() -> None:
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert ran_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not ran_out_of_memory(RuntimeError("shapes differ"))
