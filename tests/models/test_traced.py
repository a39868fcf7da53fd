"""What is shown of a RefTok's blocks: skipped cells and motion, where there is a reference."""

from dataclasses import replace

import torch
from test_motion import SKIPPING, shake
from test_reftok import bright, build, clip

from reeltok.models.reftok.skip import skipped_cells
from reeltok.models.reftok.traced import STRONG, TracedBlock, hues, shown, trace_blocks


def test_blocks_are_those_that_encoding_makes() -> None:
    model, x = shake(build(SKIPPING)), clip(9)
    tokens = model.encode(x)
    blocks = trace_blocks(model, x)
    frames = torch.cat([block.frames for block in blocks])
    torch.testing.assert_close(frames.permute(3, 0, 1, 2)[None], model.decode(tokens))
    z = model.lookup(tokens.ids).permute(0, 2, 3, 4, 1)
    assert torch.equal(torch.cat([b.skipped for b in blocks[1:]]), skipped_cells(z)[0, 1:])
    assert blocks[0].moved is None
    assert all(block.moved is not None and block.moved.any() for block in blocks[1:])


def test_what_has_no_reference_skips_nothing() -> None:
    """A block behind a cut, and a first frame that is stored."""
    x = torch.cat([clip(5), bright(4)], dim=2)
    model = shake(build(replace(SKIPPING, start="lossless")))
    assert "reference.000001.0" in model.under(cuts="stored").encode(x).extras
    blocks = trace_blocks(model, x)
    assert [len(block.frames) for block in blocks] == [1, 4, 4]
    assert [block.moved is None for block in blocks] == [True, False, True]
    assert not blocks[2].skipped.any()


def test_dim_cells_were_skipped_and_colours_are_directions() -> None:
    skipped, moved = torch.zeros(1, 2, 3, dtype=torch.bool), torch.zeros(4, 4, 6, 2)
    skipped[0, 1, 2] = True
    moved[:, :2, :2, 1] = STRONG  # to the right: red
    moved[:, :1, 2:4, 0] = STRONG / 2  # down, half as far
    frames = torch.zeros(4, 16, 24, 3)
    picture = shown(TracedBlock(frames, skipped, moved))
    assert torch.equal(picture[:, 1, 1], torch.tensor([1.0, -1.0, -1.0]).expand(4, 3))
    assert torch.allclose(picture[:, 1, 12], hues(moved[:, 0, 3]) / 2)
    assert (picture[:, 10:, 17:] == -0.75).all()
    assert (picture[:, 10:, :15] == 0).all()
    directions = torch.tensor([[0.0, 1], [1, 0], [0, -1], [-1, 0]])
    assert len({tuple(hue) for hue in hues(directions).tolist()}) == 4
