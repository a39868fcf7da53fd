"""RefTok: the plain start, the closed loop, references in files, streams, ranges and cuts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reeltok import zoo
from reeltok.models.presets import COMPACT, PRESETS
from reeltok.models.reftok import reference
from reeltok.models.reftok.attention import CrossAttention
from reeltok.models.reftok.coded import CodedBlock
from reeltok.models.reftok.features import ReferenceFeatures
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import Reference
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig, GaussianConfig, LFQConfig, VQConfig
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel, ReelWriter, load_tokens, save_tokens
from reeltok.video.record import Video

FSQ = FSQConfig(levels=(8, 8, 5), regularization=False)
BODY = replace(COMPACT, width=8, quantizer=FSQ)
TINY = RefTokConfig(body=BODY, width=4)
DEEP = replace(
    BODY,
    multipliers=(1, 2, 2),
    blocks=(1, 1, 1),
    space_down=(0, 1),
    space_up=(1, 2),
    time_down=(1,),
    time_up=(2,),
)
"""4x16x16."""


def build(config: RefTokConfig = TINY, *, shaken: bool = True) -> RefTok:
    """A tiny RefTok; `shaken`: as if trained, so that references matter."""
    torch.manual_seed(0)
    model = RefTok(config).eval()
    if shaken:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "_injection" in name and not weight.any():
                    weight.normal_(std=0.5)
    return model


def clip(frames: int, size: tuple[int, int] = (16, 24), batch: int = 1, seed: int = 1) -> Tensor:
    """A smooth picture that drifts: frames resemble one another."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 6 + frames // 4, generator=generator) * 1.2 - 0.6
    wide = torch.nn.functional.interpolate(coarse, (size[0], size[1] + 8 * frames), mode="bilinear")
    return torch.stack([wide[..., i : i + size[1]] for i in range(frames)], dim=2)


def bright(frames: int) -> Tensor:
    """Another scene."""
    return clip(frames, seed=9) * 0.3 + 0.8


def pieces(x: Tensor, lengths: list[int]) -> list[Tensor]:
    return list(x.split(lengths, dim=2))


# The start of training.


@pytest.mark.parametrize(
    ("inject", "block"), [("concatenate", 4), ("attend", 8), ("attend+transfer", 4)]
)
def test_zero_start_is_the_plain_tokenizer(inject: str, block: int) -> None:
    model = build(replace(TINY, inject=inject, block=block, cuts="ignore"), shaken=False)
    plain = VidTok(BODY).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "_injection" not in k})
    x = clip(1 + 2 * block)
    tokens = model.encode(x)
    stream = list(plain.stream_encode(pieces(x, [1, block, block])))
    assert torch.equal(tokens.ids, torch.cat([part.ids for part in stream], dim=1))
    assert torch.equal(model.decode(tokens), torch.cat(list(plain.stream_decode(stream)), dim=2))
    assert torch.equal(tokens.ids, plain.encode(x).ids)


def test_policy_none_is_the_plain_tokenizer_however_trained() -> None:
    model, x = build(replace(TINY, cuts="ignore")).under(policy="none"), clip(9)
    plain = VidTok(BODY).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "_injection" not in k})
    tokens = model.encode(x)
    assert torch.equal(tokens.ids, plain.encode(x).ids)
    assert torch.allclose(model.decode(tokens), plain.decode(plain.encode(x)), atol=1e-5)


@pytest.mark.parametrize("where", ["none", "encoder", "decoder", "both"])
def test_where_names_the_parts_that_exist(where: str) -> None:
    model = build(replace(TINY, where=where))
    assert (model.encoder_injection is not None) == (where in ("encoder", "both"))
    assert (model.decoder_injection is not None) == (where in ("decoder", "both"))
    x = clip(9)
    assert model.decode(model.encode(x)).shape == x.shape


# The closed loop.


def encoder_side(model: RefTok, x: Tensor) -> Tensor:
    """The frames that the encoder made while encoding, which its references were taken from."""
    made: list[Tensor] = []
    run = model.run

    def spy(*arguments: Any, **options: Any) -> Iterator[CodedBlock]:
        for coded in run(*arguments, **options):
            made.append(coded.frames)
            yield coded

    model.run = spy
    model.encode(x)
    del model.run
    return torch.cat(made, dim=1).permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize(
    ("policy", "quantizer"),
    [
        ("previous", FSQ),
        ("first", LFQConfig(bits=6)),
        ("first+previous", VQConfig(codes=32, width=4)),
        ("previous", GaussianConfig(channels=3)),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_both_sides_make_the_same_frames(policy: str, quantizer) -> None:
    config = replace(TINY, policy=policy, references=2, body=replace(BODY, quantizer=quantizer))
    model, x = build(config), clip(9)
    assert torch.equal(encoder_side(model, x), model.decode(model.encode(x)))


def test_latents_survive_a_file_to_the_bit(tmp_path: Path) -> None:
    model = build(replace(TINY, body=replace(BODY, quantizer=GaussianConfig(channels=3))))
    tokens = model.encode(clip(9))
    save_tokens(tokens, tmp_path / "clip.reel")
    assert torch.equal(model.decode(load_tokens(tmp_path / "clip.reel")), model.decode(tokens))


@pytest.mark.parametrize(
    ("policy", "inject"),
    [("previous", "concatenate"), ("first", "attend"), ("first+previous", "attend+transfer")],
)
def test_references_matter(policy: str, inject: str) -> None:
    model = build(replace(TINY, policy=policy, references=2, inject=inject))
    x = clip(9)
    tokens = model.encode(x)
    plain = model.under(policy="none").encode(x)
    assert torch.equal(tokens.ids[:, 0], plain.ids[:, 0])
    assert not torch.equal(tokens.ids[:, 1:], plain.ids[:, 1:])
    other = model.under(policy="first" if policy != "first" else "previous")
    relabelled = tokens.with_(settings={**tokens.settings, "policy": other.config.policy})
    assert not torch.equal(model.decode(relabelled), model.decode(tokens))


def test_clips_of_a_batch_are_independent() -> None:
    model, batch = build(), 2
    x = torch.cat([clip(9, seed=i) for i in range(batch)])
    x[-1:, :, 5:] = bright(4)  # a cut in the last clip alone
    tokens = model.encode(x)
    for i in range(batch):
        alone = model.encode(x[i : i + 1])
        assert torch.equal(tokens.ids[i], alone.ids[0])
        assert torch.allclose(model.decode(tokens)[i], model.decode(alone)[0], atol=5e-5)


@pytest.mark.parametrize("name", ["reftok-default", "reftok-robot", "reftok-41616"])
def test_presets_have_plain_twins(name: str) -> None:
    with torch.device("meta"):
        model = RefTok(PRESETS[name][1], name)
    family, twin = PRESETS[f"{name.removesuffix('-default')}-none"]
    assert family == model.family
    assert twin == replace(model.config, policy="none")
    body = sum(p.numel() for n, p in model.named_parameters() if "_injection" not in n)
    assert 4 * (model.parameter_count() - body) <= 8 * 2**20


def test_a_folder_gives_the_same_tokens(tmp_path: Path) -> None:
    model, x = build(replace(TINY, start="webp")), clip(5)
    again = zoo.load(model.save_pretrained(tmp_path / "model"))
    assert again.config == model.config
    assert torch.equal(again.encode(x).ids, model.encode(x).ids)


# Frames, sizes, streams, ranges.


@pytest.mark.parametrize(
    ("start", "block", "frames"),
    [
        ("plain", 4, 1),
        ("plain", 4, 7),
        ("plain", 8, 14),
        ("lossless", 4, 1),
        ("lossless", 8, 2),
        ("webp", 4, 9),
    ],
)
def test_any_number_of_frames_streamed_or_whole(start: str, block: int, frames: int) -> None:
    model = build(replace(TINY, start=start, block=block))
    x = clip(frames, size=(13, 18))
    tokens = model.encode(x)
    steps = (start == "plain") + -(-(frames - 1) // block) * block // 4
    assert tokens.grid == (steps, 2, 3) == model.under(start=start).grid_for(frames, (13, 18))
    whole = model.decode(tokens)
    assert whole.shape == x.shape
    for lengths in ([1] * frames, [frames // 2, frames - frames // 2]):
        parts = list(model.stream_encode(pieces(x, [n for n in lengths if n])))
        joined = Tokens.join(parts)
        assert torch.equal(joined.ids, tokens.ids)
        assert joined.reference_bits == tokens.reference_bits
        assert sorted(joined.extras) == sorted(tokens.extras)
        streamed = torch.cat(list(model.stream_decode(parts)), dim=2)
        assert torch.equal(streamed, whole)
    assert torch.equal(model.decode(tokens, chunk=3), whole)


@pytest.mark.parametrize("body", [BODY, DEEP], ids=["4x8x8", "4x16x16"])
def test_bodies(body) -> None:
    model, x = build(replace(TINY, body=body)), clip(9, size=(20, 36))
    tokens = model.encode(x)
    assert tokens.grid == (3, -(-20 // body.factors[1]), -(-36 // body.factors[2]))
    assert model.decode(tokens).shape == x.shape


def test_ranges_start_where_the_clip_forgets() -> None:
    model, x = build(replace(TINY, refresh=2)), clip(22)
    tokens = model.encode(x)
    whole = model.decode(tokens)
    assert {name.split(".")[1] for name in tokens.extras} == {"000003", "000005"}
    for start, stop in ((0, 1), (3, 7), (9, 10), (17, 22), (13, 20)):
        assert torch.equal(model.decode(tokens, start=start, stop=stop), whole[:, :, start:stop])
    assert model.span(tokens, 9, 10).early == 3
    assert model.span(tokens, 8, 9).early == 0


def test_a_long_stream_keeps_little() -> None:
    model, x = build(), clip(5)
    seen: list[int] = []
    encode_part = model.encode_part

    def spy(x: Tensor, past, **options):
        quantized = encode_part(x, past, **options)
        seen.append(sum(tensor.numel() for tensor in past.kept.values()))
        return quantized

    model.encode_part = spy
    for _ in model.stream_encode(x[:, :, i % 5 : i % 5 + 1] for i in range(21)):
        pass
    assert len(seen) == 6
    assert len(set(seen[1:])) == 1


def test_videos_come_back_as_videos() -> None:
    model = build()
    video = Video.of(clip(6), fps=12.5)
    back = model.decode(model.encode(video))
    assert isinstance(back, Video)
    assert back.frames.shape == video.frames.shape
    assert back.fps == 12.5


def test_tiles_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(replace(TINY, start="lossless")), clip(9, size=(32, 48))
    tokens = model.encode(x, tile=32)
    assert model.decode(tokens, tile=32).shape == x.shape
    whole = model.encode(x)
    encode_part, failures = RefTok.encode_part, iter([True, False, True])

    def sometimes(self, *arguments, **options):
        if next(failures, False):
            raise torch.OutOfMemoryError("not enough memory")
        return encode_part(self, *arguments, **options)

    monkeypatch.setattr(RefTok, "encode_part", sometimes)
    with pytest.warns(UserWarning, match="out of memory"):
        assert torch.equal(model.encode(x).ids, whole.ids)


# Stored and given references, cuts.


@pytest.mark.parametrize("start", ["lossless", "webp"])
def test_a_stored_first_frame_is_shown_and_counted(start: str, tmp_path: Path) -> None:
    model, x = build(replace(TINY, start=start, quality=80, cuts="ignore")), clip(9)
    exact = reference.on_bytes(x)
    tokens = model.encode(exact)
    assert list(tokens.extras) == ["reference.start.0"]
    assert tokens.reference_bits == 8 * tokens.extras["reference.start.0"].numel()
    bits = tokens.ids.numel() * tokens.bits + tokens.reference_bits
    assert tokens.bits_per_pixel == pytest.approx(bits / (9 * 16 * 24))
    shown = model.decode(tokens)[:, :, 0]
    assert (shown - exact[:, :, 0]).abs().max() <= (0 if start == "lossless" else 0.3)
    path = tmp_path / "clip.reel"
    save_tokens(tokens, path)
    with Reel(path) as reel:
        assert torch.equal(model.under(start="plain").decode(reel), model.decode(tokens))
        assert reel.settings["policy"] == "previous"
        assert reel.bits_per_pixel == tokens.bits_per_pixel


@pytest.mark.parametrize(("start", "steps"), [("plain", 1), ("plain", 3), ("webp", 1)])
def test_files_stream(start: str, steps: int, tmp_path: Path) -> None:
    model, x = build(replace(TINY, start=start, block=8)), clip(22)
    x[:, :, 9:] = bright(13)
    path = tmp_path / "clip.reel"
    with ReelWriter(path) as writer:
        for part in model.stream_encode(pieces(x, [5, 9, 8])):
            writer.write(part)
    whole = model.decode(model.encode(x))
    with Reel(path) as reel:
        streamed = torch.cat(list(model.stream_decode(reel.parts(steps))), dim=2)
        assert torch.equal(streamed, whole)
        assert torch.equal(model.decode(reel, start=18, stop=21), whole[:, :, 18:21])


@pytest.mark.parametrize("start", ["lossless", "webp"])
def test_one_stored_frame_is_a_file(start: str, tmp_path: Path) -> None:
    model, x = build(replace(TINY, start=start)), clip(1)
    tokens = model.encode(x)
    assert tokens.grid == (0, 2, 3)
    save_tokens(tokens, tmp_path / "still.reel")
    with Reel(tmp_path / "still.reel") as reel:
        assert torch.equal(model.decode(reel), model.decode(tokens))
    read = load_tokens(tmp_path / "still.reel")
    assert torch.equal(model.decode(read), model.decode(tokens))


def test_a_given_reference(tmp_path: Path) -> None:
    model, x = build(), clip(10)
    first, rest = reference.on_bytes(x[:, :, :1]), x[:, :, 1:]
    tokens = model.encode(rest, reference=first)
    assert tokens.grid[0] == 3
    assert tokens.reference_bits == 3  # a mode bit a block; the frame itself is free
    back = model.decode(tokens, reference=first)
    assert back.shape == rest.shape
    parts = list(model.stream_encode(pieces(rest, [3, 6]), reference=first))
    assert torch.equal(torch.cat([part.ids for part in parts], 1), tokens.ids)
    save_tokens(tokens, tmp_path / "clip.reel")
    with Reel(tmp_path / "clip.reel") as reel:
        video = Video.of(first)
        assert torch.equal(model.decode(reel, reference=video), back)
        with pytest.raises(ValueError, match=r"do not hold .*give reference="):
            model.decode(reel)
        with pytest.raises(ValueError, match="not the reference frame"):
            model.decode(reel, reference=reference.on_bytes(x[:, :, 1:2]))


def test_a_wrong_reference_changes_the_output() -> None:
    model, x = build(), clip(5)
    first, wrong = (reference.on_bytes(y[:, :, :1]) for y in (x, bright(1)))
    tokens = model.encode(x[:, :, 1:], reference=first)
    claimed = {**tokens.settings, "reference": reference.hash_frame(wrong)}
    assert not torch.equal(
        model.decode(tokens, reference=first),
        model.decode(tokens.with_(settings=claimed), reference=wrong),
    )


@pytest.mark.parametrize("cuts", ["plain", "stored"])
def test_a_block_after_a_cut_forgets(cuts: str) -> None:
    model = build(replace(TINY, cuts=cuts, quality=90))
    tail = bright(8)
    results = []
    for seed in (1, 2):
        x = clip(17, seed=seed)
        x[:, :, 9:] = tail
        tokens = model.encode(x)
        assert [name.split(".")[1] for name in tokens.extras] == ["000003"]
        stored = 8 * sum(data.numel() for data in tokens.extras.values())
        assert (stored > 0) == (cuts == "stored")
        assert tokens.reference_bits == 4 + stored
        back = model.decode(tokens)
        assert torch.equal(model.decode(tokens, start=9), back[:, :, 9:])
        results.append((tokens.ids[:, 3:], back[:, :, 9:]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_without_a_cut_nothing_is_kept() -> None:
    tokens = build().encode(clip(17))
    assert not tokens.extras
    assert tokens.reference_bits == 4
    assert build(replace(TINY, cuts="ignore")).encode(clip(17)).reference_bits == 0


# Training.


@pytest.mark.parametrize("start", ["plain", "lossless"])
def test_training_runs_the_loop_that_encoding_runs(start: str) -> None:
    model, x = build(replace(TINY, cuts="ignore", start=start)), clip(9, batch=2)
    made = model(x)
    tokens = model.encode(x)
    assert torch.equal(made.quantized.ids, tokens.ids)
    assert torch.equal(made.x, model.decode(tokens))


def test_gradients_cross_the_blocks() -> None:
    model, x = build().train(), clip(9)
    made = model(x)
    model.zero_grad()
    made.x[:, :, 5:].square().mean().backward()
    weights = [p.grad for n, p in model.named_parameters() if n.startswith("decoder_injection")]
    assert all(grad is not None for grad in weights)
    stored = model(x, references={0: Reference(x[:, :, :1], torch.tensor([True]), start=True)})
    assert torch.equal(stored.x[:, :, :1], x[:, :, :1])
    assert stored.quantized.ids.shape[1] == 2


def test_clips_that_may_not_lean_are_plain() -> None:
    model, x = build().train(), clip(9, batch=2)
    mask = torch.tensor([True, False])
    made = model(x, reference_mask=mask)
    assert torch.equal(made.x[1], model.under(policy="none")(x).x[1])
    assert torch.equal(made.x[0], model(x).x[0])
    assert not torch.equal(made.x[0], model.under(policy="none")(x).x[0])


# Bad input.


def test_bad_input() -> None:
    model, x = build(), clip(9)
    with pytest.raises(ValueError, match="give reference="):
        model.under(start="given").encode(x)
    with pytest.raises(ValueError, match="give one of that size"):
        model.encode(x, reference=torch.zeros(1, 3, 1, 8, 8))
    with pytest.raises(ValueError, match="one frame, found 2"):
        model.encode(x, reference=torch.zeros(1, 3, 2, 16, 24))
    with pytest.raises(ValueError, match="2 references were given for 1 clips"):
        model.encode(x, reference=torch.zeros(2, 3, 1, 16, 24))
    with pytest.raises(ValueError, match="need no reference"):
        model.decode(model.encode(x), reference=torch.zeros(1, 3, 1, 16, 24))
    with pytest.raises(ValueError, match="references=2"):
        model.under(policy="first+previous")
    with pytest.raises(ValueError, match="not whole token steps"):
        replace(TINY, block=6)
    with pytest.raises(ValueError, match="past-first"):
        replace(TINY, body=replace(BODY, edge="both"))
    long = build(replace(TINY, block=8)).encode(clip(17))
    with pytest.raises(ValueError, match="end within a block"):
        build(replace(TINY, block=8)).decode(long[:4])


@pytest.mark.usefixtures("types_unchecked")  # a check of extras would read one of them
def test_damaged_references_are_found(tmp_path: Path) -> None:
    model, x = build(replace(TINY, start="lossless")), clip(5)
    tokens = model.encode(x)
    name = "reference.start.0"
    for data in (tokens.extras[name][:20], tokens.extras[name].flip(0)):
        with pytest.raises(ValueError, match="stored reference frame is damaged"):
            model.decode(tokens.with_(extras={name: data}))
    other = model.encode(clip(5, size=(24, 24))).extras
    with pytest.raises(ValueError, match="24x24 pixels where the clip has 16x24"):
        model.decode(tokens.with_(extras=other))
    save_tokens(tokens, tmp_path / "clip.reel")
    data = bytearray((tmp_path / "clip.reel").read_bytes())
    at = data.find(b"WEBPVP8L") + 60
    data[at] ^= 1
    (tmp_path / "clip.reel").write_bytes(data)
    with Reel(tmp_path / "clip.reel") as reel, pytest.raises(ValueError, match="was altered"):
        model.decode(reel)


# Parts.


def test_attention_sees_its_surroundings_only() -> None:
    model = build(replace(TINY, inject="attend"))
    attend = model.decoder_injection.cross_attention
    assert isinstance(attend, CrossAttention)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 20, 20, 16, generator=generator)
    coarse = torch.randn(1, 1, 20, 20, 8, generator=generator)
    patches = torch.zeros(1, 1, 40, 40, 96)
    fine, _ = model.decoder_injection.read(patches, torch.zeros(1, 1, 40, 40, 8))
    far, near = coarse.clone(), coarse.clone()
    far[:, :, 19, 19] += 1
    near[:, :, 3, 4] += 1
    outputs = [attend(x, ReferenceFeatures(fine, c, patches))[0] for c in (coarse, far, near)]
    changed = (outputs[1] != outputs[0]).any(-1)[0, 0]
    assert changed[19, 19]
    assert not changed[:8, :8].any()
    assert (outputs[2] != outputs[0]).any(-1)[0, 0, :8, :8].all()


def test_cuts_are_told_from_motion() -> None:
    x = clip(5)
    fast = torch.stack([torch.full((1, 3, 16, 24), 0.4 * i - 0.8) for i in range(5)], dim=2)
    late = torch.cat([x[:, :, :4], bright(1)], dim=2)
    scenes = torch.cat([x, fast, late, torch.cat([x[:, :, :1], bright(4)], dim=2)])
    found = reference.find_cuts(scenes[:, :, :1], scenes[:, :, 1:])
    assert found.tolist() == [False, False, False, True]


def test_a_stored_frame_may_come_alone() -> None:
    """One frame, then whole blocks, as the division of `spec` says."""
    model, x = build(replace(TINY, start="webp")), clip(9)
    state = model.new_encode_state()
    parts = [model.encode_chunk(part, state) for part in (x[:, :, :1], x[:, :, 1:5], x[:, :, 5:])]
    assert [part.frames for part in parts] == [1, 4, 4]
    joined, whole = Tokens.join(parts), model.encode(x)
    assert torch.equal(joined.flat(), whole.flat())
    torch.testing.assert_close(model.decode(joined), model.decode(whole))


def test_ids_alone_are_of_a_clip_that_began_with_plain_tokens() -> None:
    model, x = build(replace(TINY, start="webp", cuts="ignore")), clip(9)
    plain = model.under(start="plain")
    ids = plain.encode(x).ids
    torch.testing.assert_close(model.decode(ids), plain.decode(ids))
    tokens = model.encode(x)
    with pytest.raises(ValueError, match="lack the picture that their clip begins with"):
        model.decode(tokens.with_(extras={}))
