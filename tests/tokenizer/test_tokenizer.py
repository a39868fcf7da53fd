"""The contract's laws, for every kind of VidTok: they hold for whatever keeps the contract."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.record import Tokens
from reeltok.video.record import Video

KINDS = {
    "default": COMPACT,
    "first release": VIDTOK["vidtok_kl_causal_488_4chn"],
    "second release": VIDTOK["vidtok_kl_causal_288_8chn_v1_1"],
    "discrete": VIDTOK["vidtok_fsq_causal_888_32768_v1_1"],
    "non-causal": VIDTOK["vidtok_fsq_noncausal_488_262144"],
    "joint sampler": VIDTOK["vidtok_variant_1"],
    "patched, zeros": replace(COMPACT, edge="past-zeros", sampler="plain", patch=(4, 8, 8)),
    "patched, linear": replace(COMPACT, upsampling="trilinear", sampler="blend", patch=(1, 4, 4)),
}
CAUSAL = [kind for kind, config in KINDS.items() if config.causal]


def build(kind: str) -> Tokenizer:
    """A narrow model of a kind whose every parameter matters."""
    torch.manual_seed(1)
    model = VidTok(replace(KINDS[kind], width=8), kind).eval()
    for name, parameter in model.named_parameters():
        if "mix" in name:
            nn.init.normal_(parameter, 0.5, 0.7)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, 0, 1.2 * parameter[0].numel() ** -0.5)
        elif "bias" in name:
            nn.init.normal_(parameter, 0, 0.2)
    return model


MODELS = {kind: build(kind) for kind in KINDS}


def clip(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Equal to a share of the range of `b`."""
    return bool((a - b).abs().max() <= tolerance * (b.max() - b.min()))


def same_ids(model: Tokenizer, a: Tokens, b: Tokens) -> bool:
    """Equal but where the value before rounding may lie on a boundary."""
    if a.ids is None:
        return same(a.latents, b.latents)
    return (a.ids == b.ids).float().mean().item() > 0.999


frames = st.integers(1, 40)
sides = st.integers(16, 64)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(2, 8))
@given(frames=frames, height=sides, width=sides)
def test_no_frame_and_no_pixel_is_lost(kind: str, frames: int, height: int, width: int) -> None:
    model = MODELS[kind]
    x = clip(frames, height, width)
    tokens = model.encode(x)
    assert tokens.grid == model.grid_for(frames, (height, width))
    assert (tokens.frames, tokens.height, tokens.width) == (frames, height, width)
    assert model.decode(tokens).shape == x.shape


@pytest.mark.parametrize("kind", CAUSAL)
@settings(max_examples=examples(2, 12))
@given(frames=frames, side=st.integers(16, 40), chunk=st.integers(1, 20), back=st.integers(1, 20))
def test_streamed_equals_whole(kind: str, frames: int, side: int, chunk: int, back: int) -> None:
    model = MODELS[kind]
    x = clip(frames, side, 24)
    whole, streamed = model.encode(x), model.encode(x, chunk=chunk)
    assert same_ids(model, streamed, whole)
    assert same(model.decode(whole, chunk=back), model.decode(whole))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(3, 20))
@given(data=st.data())
def test_a_range_decodes_as_in_the_whole(kind: str, data: st.DataObject) -> None:
    model = MODELS[kind]
    length = data.draw(st.integers(1, 60))
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    window = None if model.spec.causal else data.draw(st.sampled_from([None, 8, 16]))
    tokens = model.encode(clip(length, 16, 24), chunk=window)
    part = model.decode(tokens, start=start, stop=stop)
    whole = model.decode(tokens)
    assert part.shape[2] == stop - start
    assert (part - whole[:, :, start:stop]).abs().max() <= 1e-5 * (whole.max() - whole.min())


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_later_frame_never_changes_an_earlier_token(kind: str) -> None:
    model, x = MODELS[kind], clip(33, 16, 16)
    other = x.clone()
    other[:, :, 25:] = clip(8, 16, 16, seed=5)
    steps = model.spec.steps(25)
    a, b = (model.encode(v).latents for v in (x, other))
    assert same(a[:, :, :steps], b[:, :, :steps])
    assert not same(a[:, :, steps:], b[:, :, steps:])


@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_a_batch_do_not_mix(kind: str) -> None:
    model = MODELS[kind]
    one, two = clip(9, 16, 24, seed=1), clip(9, 16, 24, seed=2)
    both = model.encode(torch.cat([one, two]))
    assert same(both.latents[:1], model.encode(one).latents)
    assert same(model.decode(both)[1:], model.decode(model.encode(two)))


def test_a_stream_keeps_nothing_that_grows() -> None:
    model = MODELS["default"]
    parts = (clip(4, 16, 16, seed=i) for i in range(40))
    made = list(model.stream_encode(parts))
    assert sum(part.frames for part in made) == 160
    joined = model.encode(torch.cat([clip(4, 16, 16, seed=i) for i in range(40)], dim=2))
    assert torch.equal(Tokens.join(made).ids, joined.ids)
    shown = torch.cat(list(model.stream_decode(made)), dim=2)
    assert same(shown, model.decode(joined))


def test_two_streams_share_a_model() -> None:
    model = MODELS["second release"]
    one, two = clip(20, 16, 16, seed=1), clip(20, 16, 16, seed=2)
    streams = [model.stream_encode(iter(x.split(5, dim=2))) for x in (one, two)]
    parts = list(zip(*streams, strict=True))
    for i, x in enumerate((one, two)):
        joined = Tokens.join([pair[i] for pair in parts])
        assert same(joined.latents, model.encode(x).latents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_come_back_in_their_dtype(dtype: torch.dtype) -> None:
    model, x = MODELS["default"], clip(5, 16, 16).to(dtype)
    assert model.decode(model.encode(x)).dtype == dtype


def test_a_video_comes_back_as_a_video() -> None:
    frames = torch.randint(0, 256, (6, 17, 23, 3), dtype=torch.uint8)
    times = torch.tensor([0.0, 0.1, 0.3, 0.4, 0.5, 0.8], dtype=torch.float64)
    video = Video(frames=frames, fps=8.0, times=times, start=2.5)
    again = MODELS["default"].decode(MODELS["default"].encode(video, chunk=2), chunk=3)
    assert again.frames.shape == frames.shape
    assert again.frames.dtype == torch.uint8
    assert (again.fps, again.start) == (8.0, 2.5)
    assert torch.equal(again.times, times)


@pytest.mark.parametrize("kind", ["default", "non-causal"])
def test_ids_alone_decode(kind: str) -> None:
    model = MODELS[kind]
    tokens = model.encode(clip(9, 20, 28))
    flat = Tokens.from_ids(tokens.flat(), frames=9, size=(20, 28), tokenizer=model)
    if not model.spec.causal:
        flat = flat.with_(settings=tokens.settings)
    assert same(model.decode(flat), model.decode(tokens))
    bare = Tokens.from_ids(tokens.flat(), frames=9, size=(20, 28), vocabulary=tokens.vocabulary)
    assert same(model.decode(bare.with_(settings=tokens.settings)), model.decode(tokens))


def test_tiles_cover_the_frame_and_agree_where_they_are_alone() -> None:
    model, x = MODELS["discrete"], clip(5, 64, 96)
    tokens = model.encode(x, tile=48)
    assert tokens.grid == model.grid_for(5, (64, 96))
    tiled = model.decode(model.encode(x), tile=48)
    assert tiled.shape == x.shape
    assert torch.isfinite(tiled).all()
    assert same(model.decode(model.encode(x), tile=96), model.decode(model.encode(x)))
    assert torch.equal(model.encode(x, tile=48, chunk=3).ids, tokens.ids)


def test_running_out_of_memory_halves_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("default"), clip(21, 32, 32)
    whole = model.encode(x)
    frames = model.decode(whole)
    encode, decode = model.encode_part, model.decode_part

    def small(part: torch.Tensor, *args: object, **options: object) -> object:
        if part.shape[2] > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return encode(part, *args, **options)

    def few(part: torch.Tensor, *args: object, **options: object) -> object:
        if part.shape[2] > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        return decode(part, *args, **options)

    monkeypatch.setattr(model, "encode_part", small)
    monkeypatch.setattr(model, "decode_part", few)
    with pytest.warns(UserWarning, match="out of memory"):
        assert torch.equal(model.encode(x).ids, whole.ids)
    with pytest.warns(UserWarning, match="out of memory"):
        assert same(model.decode(whole), frames)


def test_running_out_of_memory_on_one_frame_goes_on_in_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = build("first release"), clip(1, 64, 64)
    encode = model.encode_part

    def small(part: torch.Tensor, *args: object, **options: object) -> object:
        if part.shape[3] > 32:
            raise torch.OutOfMemoryError("out of memory")
        return encode(part, *args, **options)

    monkeypatch.setattr(model, "encode_part", small)
    with pytest.warns(UserWarning, match="strips of 32 pixels"):
        assert model.encode(x).grid == (1, 8, 8)


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("default")

    def broken(*args: object, **options: object) -> object:
        raise RuntimeError("a shape does not fit")

    monkeypatch.setattr(model, "encode_part", broken)
    x = clip(9, 16, 16)
    with pytest.raises(RuntimeError, match="does not fit"):
        model.encode(x)


def test_gradients_flow_only_when_asked() -> None:
    model, x = build("first release"), clip(5, 16, 16)
    assert not model.encode(x).latents.requires_grad
    frozen = x.clone().requires_grad_()
    model.decode(model.encode(frozen)).square().mean().backward()
    assert frozen.grad.abs().sum() > 0
    model.train()
    assert model.encode(x).latents.requires_grad


def test_the_forward_pass_of_training_is_what_encode_and_decode_do() -> None:
    for kind in ("default", "discrete"):
        model, x = MODELS[kind], clip(9, 16, 16)
        assert same(model(x).x, model.decode(model.encode(x)))


def test_frames_must_be_frames() -> None:
    model = MODELS["default"]
    wrong = {
        "b c t h w": torch.rand(4, 3, 8, 8),
        "c = 3": torch.rand(1, 4, 4, 8, 8),
        "came as torch.int64: give floats": torch.zeros(1, 3, 4, 8, 8, dtype=torch.int64),
        r"floats in \[-1, 1\]": torch.full((1, 3, 4, 8, 8), 1.01),
        "holds NaN": torch.full((1, 3, 4, 8, 8), float("nan")),
        "reeltok.Video": [clip(4, 16, 16)],
    }
    for message, x in wrong.items():
        with pytest.raises(ValueError, match=message):
            model.encode(x)
    with pytest.raises(ValueError, match="chunk=0"):
        model.encode(clip(4, 16, 16), chunk=0)
    with pytest.raises(ValueError, match="tile=0"):
        model.encode(clip(4, 16, 16), tile=0)
    with pytest.raises(ValueError, match="at least one frame"):
        Tokens.from_ids([1], frames=0, size=(8, 8), tokenizer=model)
    with pytest.raises(ValueError, match="continuous: it has latents, no ids"):
        Tokens.from_ids([1], frames=1, size=(8, 8), tokenizer=MODELS["first release"])
    with pytest.raises(ValueError, match="leave reference"):
        model.encode(clip(4, 16, 16), reference=clip(1, 16, 16))
    assert model.encode(torch.full((1, 3, 4, 8, 8), 1.0005)).frames == 4


def test_a_stream_must_keep_its_size() -> None:
    parts = [clip(4, 16, 16), clip(4, 16, 24)]
    with pytest.raises(ValueError, match="continues with"):
        list(MODELS["default"].stream_encode(parts))
    with pytest.raises(ValueError, match="no frames"):
        list(MODELS["default"].stream_encode([]))


def test_tokens_of_another_tokenizer_are_refused() -> None:
    tokens = MODELS["default"].encode(clip(5, 16, 16))
    with pytest.raises(ValueError, match="vocabulary of 262144"):
        MODELS["non-causal"].decode(tokens)
    other = build("default")
    nn.init.normal_(other.decoder.conv_in.weight)
    with pytest.raises(ValueError, match="other weights"):
        other.decode(tokens)
    with pytest.raises(ValueError, match="frames 3 to 9"):
        MODELS["default"].decode(tokens, start=3, stop=9)
    with pytest.raises(ValueError, match="lack the last 85 of the frames"):
        MODELS["default"].decode(tokens.with_(frames=90))
    with pytest.raises(ValueError, match="hold frames of 16x16 pixels, not of the 160x16"):
        MODELS["default"].decode(tokens.with_(height=160))
    with pytest.raises(ValueError, match="32768"):
        MODELS["default"].decode(tokens.with_(ids=tokens.ids + 32768, latents=None))


def test_what_training_sees_is_a_pytree() -> None:
    """So that hooks, `torch.func` and compilers find the tensors in it."""
    found = MODELS["default"](clip(9, 16, 16))
    leaves, form = tree_flatten(found)
    assert [leaf.shape for leaf in leaves[:2]] == [found.x.shape, found.quantized.z.shape]
    again = tree_unflatten(leaves, form)
    assert torch.equal(again.quantized.ids, found.quantized.ids)
    assert type(again) is type(found)
