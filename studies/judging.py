"""How a trained row is judged: scores of held-out clips, operations, use of the codebook."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reeltok.data.clip import Clip
from reeltok.devices import direct_convolutions
from reeltok.evaluate.candidates.macs import ONEDNN
from reeltok.evaluate.push.measures import CHANGED, decibel
from reeltok.metrics import paired as metrics
from reeltok.metrics.lpips import LPIPS
from reeltok.nn.quantizers import Usage
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.data import ClipSource, resize_square
from reeltok.video.record import to_unit

Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How a row is judged: the first `frames` frames of held-out clips at `size` pixels.

    At every rate of `rates` in frames per second, None being the clip's own. `usage` counts the
    ids of whole held-out clips. `coded`: by encoding and decoding as users do, which takes any
    number of frames and cuts a CoordTok's into slices; else by the pass that is trained.
    """

    frames: int
    size: int
    rates: tuple[float | None, ...] = (None,)
    usage: bool = False
    coded: bool = False

    def pass_through(self, model: Tokenizer, x: Tensor) -> Tensor:
        """The reconstruction of clips, as many frames."""
        if not self.coded:
            return model(x).x[:, :, : x.shape[2]]
        made = model.decode(model.encode(x))
        assert isinstance(made, Tensor)
        return made


@dataclass(frozen=True, eq=False)
class Seen:
    """What a judge looks at: clips in [-1, 1] for every rate, and windows (uint8) to count ids."""

    clips: dict[float | None, list[tuple[Clip, Tensor]]]
    windows: Tensor | None


def look(source: ClipSource, how: Judge) -> Seen:
    """The held-out clips of a source as a judge wants them; ValueError where a rate has none."""
    clips = {rate: list(held_out(source, how, rate)) for rate in how.rates}
    for rate, found in clips.items():
        if not found:
            raise ValueError(f"no held-out clip has {how.frames} frames at {rate} per second")
    return Seen(clips, windows(source, how) if how.usage else None)


def held_out(source: ClipSource, how: Judge, rate: float | None) -> Iterator[tuple[Clip, Tensor]]:
    """First frames at a rate, centre square, scaled to `how.size`."""
    for clip in source.validation_clips:
        stride = max(1, round(clip.fps / rate)) if rate else 1
        stop = (how.frames - 1) * stride + 1
        if clip.frames >= stop:
            yield clip, cut(source, clip, slice(0, stop, stride), how.size)


def windows(source: ClipSource, how: Judge) -> Tensor:
    """All of every held-out clip, in windows of `how.frames` frames, as uint8."""
    found = []
    for clip in source.held:
        for start in range(0, clip.frames - how.frames + 1, how.frames):
            x = cut(source, clip, slice(start, start + how.frames), how.size)
            found.append(((x + 1) * 127.5).round().byte())
    return torch.cat(found)


def cut(source: ClipSource, clip: Clip, times: slice, size: int) -> Tensor:
    """The centre square of some frames, scaled to `size` pixels."""
    side = clip.short
    square = ((clip.height - side) // 2, (clip.width - side) // 2, side)
    return resize_square(to_unit(source.frames[clip].cut(times, square)), size)


@torch.no_grad()
def judge(model: Tokenizer, seen: Seen, how: Judge, device: torch.device) -> Scores:
    """Means over held-out clips; a second rate's scores carry it in their name ("psnr@8")."""
    net, found = perceptual(device), Scores()
    for rate, clips in seen.clips.items():
        each = []
        for _, clip in clips:
            x = clip.to(device)
            y = how.pass_through(model, x).float().clamp(-1, 1)
            each.append(compare(net, x, y))
        end = f"@{rate:g}" if rate else ""
        found |= {key + end: sum(s[key] for s in each) / len(each) for key in each[0]}
        found["clips" + end] = len(each)
        if model.spec.vocabulary is not None:
            found["bits" + end] = model.encode(clips[0][1].to(device)).total_bits
    found["parameters_m"] = model.spec.parameters / 1e6
    found["gmacs"] = forward_gmacs(model, how, device)
    return found | ({} if seen.windows is None else count_usage(model, seen.windows, device))


def perceptual(device: torch.device) -> LPIPS | None:
    """LPIPS(alex) where its weights are at hand."""
    try:
        return LPIPS("alex").to(device)
    except FileNotFoundError as error:
        print(f"no LPIPS column: {error}", flush=True)
        return None


def compare(net: LPIPS | None, x: Tensor, y: Tensor) -> Scores:
    """The scores of one clip."""
    found = {
        "psnr": metrics.psnr(x, y).mean().item(),
        "ssim": metrics.ssim(x, y).mean().item(),
        "flicker": metrics.flicker(x, y).mean().item(),
        "detail": metrics.detail(x, y).mean().item(),
    }
    if net is not None and min(x.shape[-2:]) >= net.backbone.smallest:
        found["lpips"] = metrics.lpips(net, x, y).mean().item()
    return found


class Whole:
    """What stands for a counter's parts where the whole alone is counted.

    A part's hooks fail where it runs without gradients amid what has them, as RefTok's choice of
    cells to skip does.
    """

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def flop_counter() -> FlopCounterMode:
    """A counter of all operations inside `with`."""
    for formula in ONEDNN.values():
        formula._get_raw = True  # it takes tensors, not their shapes
    counter = FlopCounterMode(display=False, custom_mapping=ONEDNN)
    counter.mod_tracker = Whole()
    return counter


def score_changes(real: np.ndarray, made: np.ndarray) -> Scores:
    """PSNR in dB of frames "t h w 3", mean over frames; and the share of pixels that change.

    A pixel changes in a frame if it differs from frame 0 of the real clip by more than 10 levels.
    A still picture has no "changing".
    """
    apart = np.abs(real.astype(np.int16) - real[0].astype(np.int16)).max(-1)
    changed = apart > CHANGED
    error = ((made.astype(np.float64) - real) ** 2).mean(-1)
    chosen = {"all pixels": np.ones_like(changed), "changing": changed, "still": ~changed}
    found = {"share": float(changed.mean())}
    for name, where in chosen.items():
        count = where.sum((1, 2))
        each = decibel((error * where).sum((1, 2))[count > 0] / count[count > 0])
        if len(each):
            found[name] = float(each.mean())
    return found


def forward_gmacs(model: Tokenizer, how: Judge, device: torch.device) -> float:
    """Billions of multiply-adds to encode and decode one clip as it is judged."""
    with direct_convolutions(), flop_counter() as counter:
        how.pass_through(model, torch.zeros(1, 3, how.frames, how.size, how.size, device=device))
    return counter.get_total_flops() / 2e9


def count_usage(model: Tokenizer, shown: Tensor, device: torch.device) -> Scores:
    """How the codebook is used, and how as many uniform draws would use it."""
    vocabulary = model.spec.vocabulary
    assert vocabulary is not None
    usage = Usage(vocabulary)
    for part in shown.split(32):
        usage.update(model.encode_part(part.to(device) / 127.5 - 1).ids.cpu())
    tokens = int(usage.counts.sum())
    return {
        "utilization": usage.utilization,
        "uniform": 1 - (1 - 1 / vocabulary) ** tokens,
        "perplexity": usage.perplexity,
        "tokens": tokens,
    }
