"""pad="front": the public second release, with diffusers' own model as the oracle.

diffusers does not complete clips itself, so it is given them with copies of frame 0 in front.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from public_vidtok import pair_of
from thorough import examples, slow_but
from torch import Tensor

from reeltok.models.presets import VIDTOK
from reeltok.models.vidtok.network import VidTok
from reeltok.tokens.reel import Reel, save_tokens
from reeltok.video.record import Video

KINDS: dict[str, dict[str, object]] = {
    "4x8x8 kl": {"z_channels": 4},
    "4x8x8 fsq": {"regularizer": "fsq", "codebook_size": 4096, "double_z": False},
    "2x8x8 kl": {"z_channels": 4, "tempo_ds": [1], "tempo_us": [2]},
    "8x8x8 kl": {"z_channels": 4, "tempo_ds": [0, 1, 2], "tempo_us": [1, 2, 3]},
    "4x16x16 kl": {"z_channels": 4, "ch_mult": [1, 2, 4, 4, 4]},
}
SHARE = 2e-5  # of the range of what diffusers gives


@torch.no_grad()
def public(theirs: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The latents of a clip completed in front, and as many frames as it has."""
    missing = -x.shape[2] % theirs.temporal_compression_ratio
    coded = theirs.encode(torch.cat([x[:, :, :1].expand(-1, -1, missing, -1, -1), x], dim=2))
    z = coded.latent_dist.mode() if theirs.regularizer == "kl" else coded[0]
    return z, theirs.decoder(z)[:, :, -x.shape[2] :]


def near(ours: Tensor, theirs: Tensor) -> bool:
    same = ours.shape == theirs.shape
    return same and bool((ours - theirs).abs().max() <= SHARE * (theirs.max() - theirs.min()))


@pytest.mark.parametrize("kind", slow_but(("4x8x8 kl", "4x8x8 fsq"), KINDS))
def test_front_is_the_public_model_for_every_number_of_frames(kind: str, tmp_path: Path) -> None:
    theirs, ours = pair_of(KINDS[kind], tmp_path)
    few = range(1, examples(10, 25)) if kind == "4x8x8 kl" else (1, 2, 7, 8, 15, 18)
    for frames in few:
        x = torch.rand(1, 3, frames, 16, 16) * 2 - 1
        z, shown = public(theirs, x)
        tokens = ours.encode(x, pad="front")
        assert near(tokens.latents, z), frames
        assert near(ours.decode(tokens), shown), frames


def test_diffusers_itself_completes_nothing(tmp_path: Path) -> None:
    """As docs/vidtok.md says: 4 steps for 17 frames, and 13 frames for those."""
    theirs, ours = pair_of(KINDS["4x8x8 kl"], tmp_path)
    x = torch.rand(1, 3, 17, 16, 16) * 2 - 1
    with torch.no_grad():
        z = theirs.encode(x).latent_dist.mode()
        assert (z.shape[2], theirs.decode(z).shape[2]) == (4, 13)
    tokens = ours.encode(x)
    assert tokens.grid[0] == 5
    assert ours.decode(tokens).shape[2] == 17
    z, shown = public(theirs, x)
    assert near(tokens.latents, z)
    assert near(ours.decode(tokens), shown)


def test_a_front_clip_is_saved_and_cut_like_any_other(tmp_path: Path) -> None:
    config = replace(VIDTOK["vidtok_kl_causal_488_4chn_v1_1"], width=8)
    ours = VidTok(config, "front").eval()
    x = torch.rand(2, 3, 8, 16, 16) * 2 - 1
    tokens = ours.encode(x, pad="front")
    assert tokens.settings["pad"] == "front"
    whole = ours.decode(tokens)
    save_tokens(tokens, tmp_path / "front.reel", dtype=torch.float32)
    with Reel(tmp_path / "front.reel") as reel:
        assert torch.equal(ours.decode(reel), whole)
    assert torch.equal(ours.decode(tokens, start=2, stop=5), whole[:, :, 2:5])
    times = torch.arange(8).double() ** 2
    video = Video(torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8), 25.0, times)
    shown = ours.decode(ours.encode(video, pad="front"), start=3)
    assert (len(shown), shown.times.tolist()) == (5, (times[3:] - times[3]).tolist())
    for options in ({"chunk": 4}, {"tile": 16}, {"reference": x[:, :, :1]}):
        with pytest.raises(ValueError, match="pad='front' codes whole clips alone: leave out"):
            ours.encode(x, pad="front", **options)
        with pytest.raises(ValueError, match="pad='front' codes whole clips alone: leave out"):
            ours.decode(tokens, **options)
    with pytest.raises(ValueError, match="frames 3 to 9 were asked"):
        ours.decode(tokens, start=3, stop=9)


def test_front_tokens_are_no_parts_of_a_stream() -> None:
    ours = VidTok(replace(VIDTOK["vidtok_kl_causal_488_4chn_v1_1"], width=8), "front").eval()
    tokens = ours.encode(torch.rand(1, 3, 6, 16, 16) * 2 - 1, pad="front")
    for part in (tokens, tokens[:1]):
        with pytest.raises(ValueError, match="codes a clip whole, and came as parts"):
            list(ours.stream_decode([part]))
        with pytest.raises(ValueError, match="codes a clip whole, and came as parts"):
            ours.decode_chunk(part, ours.new_decode_state())


@pytest.mark.parametrize("frames", [1, 5, 9, 10, 11, 12])
def test_the_first_steps_of_a_front_clip_are_its_first_frames(frames: int) -> None:
    released = VIDTOK["vidtok_kl_causal_488_4chn_v1_1"]  # whose decoder looks one step ahead
    ours = VidTok(replace(released, width=8, upsampling="nearest"), "front").eval()
    tokens = ours.encode(torch.rand(1, 3, frames, 16, 16) * 2 - 1, pad="front")
    whole, steps = ours.decode(tokens), tokens.grid[0]
    for step in range(1, steps + 1):
        part, count = tokens[:step], frames - (steps - step) * 4
        assert part.frames == part[:].frames == count
        torch.testing.assert_close(ours.decode(part), whole[:, :, :count], rtol=0, atol=1e-5)
    assert sum(tokens[step : step + 1].frames for step in range(steps)) == frames
