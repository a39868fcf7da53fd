"""One check of range and type, at every public function that takes frames."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import COORDTOK
from torch import Tensor

import reeltok
from reeltok.evaluate.scores import FRAME_METRICS, Scorer
from reeltok.metrics import paired as metrics
from reeltok.metrics.lpips import LPIPS, PLANS, Backbone
from reeltok.metrics.networks import Extractor, i3d_input
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.video.frames import as_frames, bytes_of, check_values, round_bytes, shown_bytes
from reeltok.video.record import Video, to_bytes, to_unit

BYTES = torch.randint(0, 256, (1, 3, 8, 16, 24), dtype=torch.uint8)
X = BYTES.float() / 127.5 - 1


def lpips() -> LPIPS:
    heads = {f"lin{i}.model.1.weight": torch.ones(w) for i, w in enumerate(PLANS["squeeze"].widths)}
    return LPIPS("squeeze", backbone=Backbone("squeeze").state_dict(), heads=heads)


def still(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3, 4))


NET, EXTRACTOR = lpips(), Extractor(name="mean", apply=still, frames=None)
VIDTOK = VidTok(replace(COMPACT, width=8), "small").eval()
COORD = CoordTok(COORDTOK, "small").eval()
REF = RefTok(RefTokConfig(body=replace(COMPACT, width=8)), "small").eval()

ENTRIES: dict[str, Callable[[Tensor], object]] = {
    **{name: lambda x, metric=metric: metric(x, x) for name, metric in FRAME_METRICS.items()},
    "lpips": lambda x: metrics.lpips(NET, tall(x), tall(x)),
    "LPIPS": lambda x: NET(tall(x)[:, :, 0], tall(x)[:, :, 1]),
    "Scorer.score": lambda x: Scorer(metrics=("psnr",)).score("a", x, x),
    "extractor": EXTRACTOR,
    "i3d_input": i3d_input,
    "as_bytes": metrics.as_bytes,
    "to_bytes": to_bytes,
    "write": lambda x: Video.of(x),
    "vidtok.encode": VIDTOK.encode,
    "vidtok.encode by parts": lambda x: VIDTOK.encode(x, chunk=4),
    "vidtok.forward": lambda x: VIDTOK(x[:, :, :5]),
    "coordtok.encode": COORD.encode,
    "coordtok.forward": COORD,
    "reftok.encode": REF.encode,
    "reftok.forward": lambda x: REF(x[:, :, :5]),
    "reference": lambda x: REF.encode(X, reference=x[:, :, :1]),
}


def tall(x: Tensor) -> Tensor:
    """Large enough for a backbone."""
    return x.repeat(1, 1, 1, 2, 2)


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (X.mul(0.5).add(0.5).mul(255), r"reaches from 0.* to 2.*floats in \[-1, 1\]"),
        (X * 3, r"reaches from -3 to 3, but frames are floats in \[-1, 1\]"),
        (X.where(X < 0.9, torch.tensor(float("nan"))), "holds NaN or infinity"),
        (X.where(X < 0.9, torch.tensor(float("inf"))), "holds NaN or infinity"),
        (BYTES.long(), r"int64.*(give floats in \[-1, 1\], or uint8)?"),
        (BYTES > 7, "bool"),
    ],
    ids=["0 to 255", "-3 to 3", "NaN", "infinity", "int64", "bool"],
)
def test_what_is_no_frame_is_refused(name: str, wrong: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ENTRIES[name](wrong)


@pytest.mark.parametrize("name", ENTRIES)
def test_frames_in_0_to_1_are_taken_with_a_warning(name: str) -> None:
    """They could be of a bright clip: what they are taken for is said."""
    with pytest.warns(UserWarning, match=r"floats in \[-1, 1\]: if yours are in \[0, 1\], give 2"):
        ENTRIES[name](X.mul(0.5).add(0.5))


@pytest.mark.parametrize("name", [*FRAME_METRICS, "lpips", "extractor", "as_bytes"])
def test_bytes_score_as_the_floats_they_stand_for(name: str) -> None:
    x, y = BYTES, BYTES.roll(1, 2)
    pairs: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        **FRAME_METRICS,
        "lpips": lambda a, b: metrics.lpips(NET, tall(a), tall(b)),
        "extractor": lambda a, b: EXTRACTOR(b),
        "as_bytes": lambda a, b: metrics.as_bytes(b),
    }
    of_bytes, of_floats = pairs[name](x, y), pairs[name](X, X.roll(1, 2))
    if of_bytes is not None:
        torch.testing.assert_close(of_bytes, of_floats)


def test_two_noises_score_7_75_in_every_form() -> None:
    """What the mean squared error 1/6 of two uniform noises is in dB; it was 13.8 and 80."""
    x, y = torch.randint(0, 256, (2, 1, 3, 4, 64, 64), dtype=torch.uint8)
    forms = {
        "bytes": (x, y),
        "floats": (x / 127.5 - 1, y / 127.5 - 1),
        "arrays": (x.numpy(), y.numpy()),
        "videos": tuple(Video(v[0].permute(1, 2, 3, 0)) for v in (x, y)),
        "without a batch": (x[0], y[0]),
        "half": ((x / 127.5 - 1).half(), (y / 127.5 - 1).half()),
    }
    for name, (a, b) in forms.items():
        assert metrics.psnr(a, b).mean().item() == pytest.approx(7.78, abs=0.05), name
        assert Scorer(metrics=("psnr",)).score("a", a, b).values["psnr"] == pytest.approx(
            7.78, abs=0.05
        )


def test_a_reconstruction_may_overshoot_an_original_may_not() -> None:
    near = X * 1.4
    assert metrics.psnr(X, near).shape == (1, 8)
    assert to_bytes(near).shape == (8, 16, 24, 3)
    with pytest.raises(ValueError, match="the original reaches from"):
        metrics.psnr(near, X)
    with pytest.raises(ValueError, match="the reconstruction reaches from -3 to 3"):
        metrics.psnr(X, 3 * X)


def test_a_loss_takes_what_a_network_makes() -> None:
    y = (3 * tall(X)[:, :, 0]).requires_grad_()
    NET(tall(X)[:, :, 0], y).sum().backward()
    assert y.grad is not None


def test_frames_without_all_their_axes() -> None:
    assert as_frames(X[0]).shape == (1, 3, 8, 16, 24)
    assert as_frames(X[:, :, 0]).shape == as_frames(X[0, :, 0]).shape == (1, 3, 1, 16, 24)
    rows = BYTES[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(as_frames(rows), X)
    torch.testing.assert_close(as_frames(rows.numpy()[::-1]), X.flip(2))
    torch.testing.assert_close(as_frames(rows[0]), X[:, :, :1])
    for wrong in (X[0, :, :3], X[0].movedim(0, 1), X[:, :, :0], X[0, 0, 0], X[None]):
        with pytest.raises(ValueError, match="give b c t h w without an empty axis"):
            as_frames(wrong)
    for odd, said in [([X], "list"), (None, "NoneType"), (np.array(["a"]), "array")]:
        with pytest.raises(ValueError, match=said):
            as_frames(odd)


def test_dim_clips_and_single_colours_pass_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (torch.zeros(2, 3), torch.ones(2, 3), torch.rand(2, 3) * 0.4, X, X[:0]):
            check_values(x)


def test_one_clip_becomes_bytes() -> None:
    assert torch.equal(
        to_bytes(to_unit(BYTES[0].permute(1, 2, 3, 0))), BYTES[0].permute(1, 2, 3, 0)
    )
    with pytest.raises(ValueError, match="one clip '1 c t h w'"):
        to_bytes(torch.cat([X, X]))
    assert reeltok.Video.of(X).frames.shape == (8, 16, 24, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bytes_frame_by_frame_are_those_at_once(dtype: torch.dtype) -> None:
    x = (1.2 * torch.randn(2, 5, 6, 7, 3)).to(dtype).permute(0, 4, 1, 2, 3)
    assert torch.equal(bytes_of(x), round_bytes(x))
    assert shown_bytes(x).stride() == x.stride()  # not turned on the way
    assert bytes_of(x[:, :, :0]).shape == (2, 3, 0, 6, 7)


def test_a_nan_is_seen_and_what_only_sums_to_one_is_not() -> None:
    x = torch.zeros(1, 3, 2, 4, 4)
    x[0, 0, 0, 0, 0], x[0, 1, 1, 1, 1] = float("inf"), -float("inf")
    assert shown_bytes(x)[0, :2].flatten().unique().tolist() == [0, 128, 255]
    x[0, 2, 1, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="holds NaN"):
        shown_bytes(x)
