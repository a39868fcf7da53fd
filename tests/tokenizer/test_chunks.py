"""Coding in chunks with a state: equal to whole clips, two streams at a time, and exported."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_foreign import TINY
from small_models import CAUSAL, COORDTOK, NONCAUSAL
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

import reeltok
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.layers import Conv
from reeltok.nn.past import Past
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import ReelWriter, load_tokens
from reeltok.video.record import Video

SMALL = replace(COMPACT, width=8)
CONFIGS = {
    "compact": SMALL,
    "looks ahead": replace(SMALL, upsampling="trilinear", sampler="blend"),
    "zeros first": replace(SMALL, edge="past-zeros", sampler="plain"),
}
CONTINUOUS = {"kl": CAUSAL, "windows": NONCAUSAL}
REFTOKS = {"reftok": "plain", "reftok after webp": "webp", "reftok after a frame": "lossless"}


def build(kind: str = "compact") -> Tokenizer:
    torch.manual_seed(0)
    if kind in REFTOKS:
        return RefTok(RefTokConfig(body=SMALL, width=4, start=REFTOKS[kind])).eval()
    if kind == "coordtok":
        return CoordTok(COORDTOK, "planes").eval()
    return VidTok((CONFIGS | CONTINUOUS)[kind]).eval()


def clip(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, 16, 24, generator=generator) * 2 - 1


def chunks(model: Tokenizer, x: Tensor) -> list[Tensor]:
    """The clip in chunks of one and of two groups."""
    first, group = model.spec.first_frames, model.spec.frames_per_group
    cuts = [0, first, first + group, *range(first + 3 * group, x.shape[2], 2 * group), x.shape[2]]
    return [x[:, :, a:b] for a, b in pairwise(cuts)]


@pytest.mark.parametrize("kind", [*CONFIGS, *REFTOKS])
def test_chunks_are_the_whole(kind: str) -> None:
    model, x = build(kind), clip(1 + 5 * 4 + 2)
    whole = model.encode(x)
    state = model.new_encode_state()
    coded = [model.encode_chunk(part, state) for part in chunks(model, x)]
    assert torch.equal(torch.cat([part.ids for part in coded], dim=1), whole.ids)
    opening = model.spec.first_steps
    assert [part.step for part in coded] == [0, *(opening + groups for groups in (0, 1, 3, 5))]
    with pytest.raises(ValueError, match="ended"):
        model.encode_chunk(x[:, :, :4], state)
    back = model.new_decode_state()
    made = [model.decode_chunk(part, back, last=part is coded[-1]) for part in coded]
    frames = torch.cat([each for each in made if each is not None], dim=2)
    assert torch.allclose(frames, model.decode(whole), atol=1e-5)
    assert (made[0] is None) == (kind == "looks ahead")


def test_a_stored_frame_comes_before_all_else() -> None:
    model, x = build("reftok after webp"), clip(5)
    state = model.new_encode_state()
    first, rest = (model.encode_chunk(part, state) for part in (x[:, :, :1], x[:, :, 1:]))
    assert (first.grid[0], first.step, rest.step) == (0, 0, 0)
    with pytest.raises(ValueError, match="lack the picture that their clip begins with"):
        model.decode_chunk(rest, model.new_decode_state())
    state = model.new_decode_state()
    model.decode_chunk(first, state)
    again = model.decode_chunk(rest.with_(extras=first.extras), state)  # as parts of a file say
    assert torch.equal(again, model.decode(model.encode(x))[:, :, 1:])


def test_parts_of_a_stream_may_be_bytes_and_values() -> None:
    model = build()
    data = clip(9).add(1).mul(127.5).round().to(torch.uint8)
    x = data / 127.5 - 1
    for parts in ((data[:, :, :3], x[:, :, 3:]), (x[:, :, :3], data[:, :, 3:])):
        found = Tokens.join(list(model.stream_encode(parts)))
        assert torch.equal(found.ids, model.encode(x).ids)


def test_chunks_of_a_video_are_videos_with_their_times() -> None:
    model = build("looks ahead")
    video = Video.of(clip(9), fps=10.0)
    state, back = model.new_encode_state(), model.new_decode_state(tile=model.spec.least_tile)
    parts = [model.encode_chunk(video[a:b], state) for a, b in ((0, 1), (1, 5), (5, 9))]
    made = [model.decode_chunk(part, back, last=part is parts[-1]) for part in parts]
    assert made[0] is None
    assert [len(each) for each in made[1:]] == [1, 8]
    assert isinstance(made[2], Video)
    assert back.due == 0


SLICED = ("compact", *CONTINUOUS, "reftok", "reftok after webp", "coordtok")


@pytest.mark.parametrize(
    ("kind", "varying"), [*((kind, False) for kind in SLICED), ("compact", True), ("windows", True)]
)
def test_slices_of_a_video_make_one_clip(kind: str, varying: bool, tmp_path: Path) -> None:
    """Each begins at its own time; joined, or in a file, they are what `encode` makes."""
    model = build(kind)
    times = torch.arange(12).double() ** 1.5 / 10 if varying else None
    video = replace(Video.of(clip(12), fps=10.0), start=2.5, times=times)
    cuts = (0, 8, 12) if model.spec.independent else (0, 1, 5, 12)
    whole = model.encode(video, chunk=8)
    state, back = model.new_encode_state(), model.new_decode_state()
    parts = [model.encode_chunk(video[a:b], state) for a, b in pairwise(cuts)]
    made = [model.decode_chunk(part, back, last=part is parts[-1]) for part in parts]
    with ReelWriter(tmp_path / "a.reel", dtype="fp32") as writer:
        for part in parts:
            writer.write(part)
    settings = {name: value for name, value in whole.settings.items() if name != "slices"}
    for found in (Tokens.join(parts), load_tokens(tmp_path / "a.reel")):
        assert (found.frames, found.grid, found.settings) == (12, whole.grid, settings)
        if found.ids is not None:
            assert found.ids.equal(whole.ids)
        else:
            assert torch.allclose(found.latents, whole.latents, atol=1e-5)
        assert sorted(found.extras) == sorted(whole.extras)
        if varying:
            assert torch.allclose(found.times, times)
    assert made[0].start == 2.5
    wanted = model.decode(whole).frames.int()
    assert (torch.cat([each.frames for each in made]).int() - wanted).abs().max() <= 1


def test_the_first_chunk_says_how_long_windows_are() -> None:
    model, x = build("windows"), clip(24)
    state = model.new_encode_state()
    coded = [model.encode_chunk(part, state) for part in (x[:, :, :4], x[:, :, 4:20])]
    assert torch.allclose(
        Tokens.join(coded).latents, model.encode(x[:, :, :20], chunk=4).latents, atol=1e-5
    )
    state = model.new_encode_state()
    for part in (x[:, :, :8], x[:, :, 8:12]):
        model.encode_chunk(part, state)
    with pytest.raises(ValueError, match="ended with a chunk that was not a whole window of 8"):
        model.encode_chunk(x[:, :, 12:20], state)


def test_bare_tokens_are_frames_of_whole_groups() -> None:
    model = build()
    tokens = model.encode(clip(9))
    state = model.new_decode_state()
    shown = [model.decode_chunk(tokens.ids[:, i : i + 1], state) for i in range(3)]
    assert [each.shape[2] for each in shown] == [1, 4, 4]
    assert torch.allclose(torch.cat(shown, dim=2), model.decode(tokens), atol=1e-5)


def test_two_streams_share_a_model_and_leave_nothing_in_it() -> None:
    model = build()
    before = set(model.state_dict())
    clips = [clip(9, seed=i) for i in range(2)]
    states = [model.new_encode_state() for _ in clips]
    coded = [
        [
            model.encode_chunk(x[:, :, a:b], state).ids
            for x, state in zip(clips, states, strict=True)
        ]
        for a, b in ((0, 1), (1, 5), (5, 9))
    ]
    for x, ids in zip(clips, zip(*coded, strict=True), strict=True):
        assert torch.equal(torch.cat(ids, dim=1), model.encode(x).ids)
    assert set(model.state_dict()) == before


def test_tokens_that_end_early_are_said_to() -> None:
    model = build()
    tokens, state = model.encode(clip(9)), model.new_decode_state()
    model.decode_chunk(tokens.part(0, 1, frames=(0, 1)), state)
    wrong = tokens.part(1, 2, frames=(1, 9))
    with pytest.raises(ValueError, match="lack the last 4 of the frames"):
        model.decode_chunk(wrong, state, last=True)


@torch.no_grad()
def test_a_past_is_a_tree_of_tensors_keyed_by_the_names_of_layers() -> None:
    model, past = build(), Past()
    model.encode_part(clip(5), past)
    names = {name for name, _ in model.named_modules()}
    assert set(past.kept) <= set(past.begun) <= names
    assert all(tensor.numel() for tensor in past.kept.values())
    leaves, tree = tree_flatten(past)
    again = tree_unflatten(leaves, tree)
    more = clip(4, seed=3)
    assert torch.equal(model.encode_part(more, past).z, model.encode_part(more, again).z)
    state = model.new_decode_state()
    model.decode_chunk(model.encode(clip(5)), state)
    assert all(isinstance(leaf, Tensor) or leaf is None for leaf in tree_leaves(state))


def test_a_layer_without_a_name_cannot_stream() -> None:
    with pytest.raises(ValueError, match="name_layers"):
        Conv(3, 3, (3, 1, 1))(torch.zeros(1, 2, 4, 4, 3), Past())


class DecodeStep(nn.Module):
    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, state):
        return self.model.decode_chunk(z, state), state


class EncodeStep(nn.Module):
    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, past: Past):
        quantized = self.model.encode_part(x, past)
        return quantized.z, quantized.ids, past


def copied(tree):
    return tree_unflatten(*tree_flatten(tree))


@torch.no_grad()
def test_torch_export_takes_a_step_of_decoding() -> None:
    model = build()
    z = model.encode(clip(13)).latents
    state = model.new_decode_state()
    model.decode_chunk(z[:, :, :1], state)
    program = torch.export.export(DecodeStep(model), (z[:, :, 1:2], copied(state))).module()
    exported = copied(state)
    for step in (1, 2, 3):
        here = z[:, :, step : step + 1]
        frames, exported = program(here, exported)
        assert torch.allclose(frames, model.decode_chunk(here, state), atol=1e-5)


@torch.no_grad()
def test_torch_export_takes_a_step_of_encoding() -> None:
    model, x, past = build(), clip(13), Past()
    model.encode_part(x[:, :, :1], past)
    program = torch.export.export(EncodeStep(model), (x[:, :, 1:5], copied(past))).module()
    exported = copied(past)
    for at in (1, 5, 9):
        here = x[:, :, at : at + 4]
        z, ids, exported = program(here, exported)
        eager = model.encode_part(here, past)
        assert torch.allclose(z, eager.z, atol=1e-5)
        assert torch.equal(ids, eager.ids)


@pytest.mark.parametrize("frames", [8, 16, 11])
def test_chunks_of_windows_are_windows_of_the_whole(frames: int) -> None:
    """CoordTok codes windows of 8 frames apart: a chunk is any number of them."""
    torch.manual_seed(0)
    model, x = CoordTok(COORDTOK, "planes").eval(), clip(frames)
    whole, state, back = model.encode(x), model.new_encode_state(), model.new_decode_state()
    coded = [model.encode_chunk(x[:, :, at : at + 8], state) for at in range(0, frames, 8)]
    assert torch.allclose(torch.cat([p.latents for p in coded], 2), whole.latents, atol=1e-5)
    made = [model.decode_chunk(part, back, last=part is coded[-1]) for part in coded]
    assert [each.shape[2] for each in made] == [min(8, frames - at) for at in range(0, frames, 8)]
    assert torch.allclose(torch.cat(made, dim=2), model.decode(whole), atol=1e-4)
    if frames % 8:  # the last window was filled
        with pytest.raises(ValueError, match="ended"):
            model.encode_chunk(x[:, :, :8], state)


@pytest.mark.parametrize("name", ["AutoencoderKLWan", "AutoencoderKLLTXVideo"])
def test_chunks_of_another_library_are_clips_of_their_own(name: str, tmp_path: Path) -> None:
    """Nothing is handed on, so a chunk is coded as `encode` codes a clip of its frames alone."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    getattr(diffusers, name).from_config(dict(TINY[name])).save_pretrained(tmp_path)
    model = reeltok.load(f"diffusers:{tmp_path}")
    x = torch.rand(1, 3, 18, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    state, back = model.new_encode_state(), model.new_decode_state()
    length = model.spec.first_frames + model.spec.frames_per_group  # whole groups
    parts = [x[:, :, :length], x[:, :, length : 2 * length]]
    for number, part in enumerate(parts):
        tokens = model.encode_chunk(part, state)
        assert torch.equal(tokens.latents, model.encode(part).latents)
        made = model.decode_chunk(tokens, back, last=number == 1)
        assert torch.allclose(made, model.decode(model.encode(part)), atol=1e-5)
        assert made.shape == part.shape
    assert back.due == 0
