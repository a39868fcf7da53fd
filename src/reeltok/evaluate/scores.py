"""From metrics to results: what one clip scored, and what a set of clips says, with intervals.

A `Scorer` turns a clip and its reconstruction into a `ClipScore`; `Scores` gathers those, so that
memory grows by a few numbers per clip and never with its pixels. Means over a set are weighted by
frames, intervals are bootstrapped over sources, and two models are compared on the same clips.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic takes typing's from Python 3.12 on
    cast,
)

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, with_config
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from reeltok.devices import pick_device
from reeltok.evaluate.intervals import Estimate, estimate
from reeltok.files.atomic import replacing
from reeltok.files.parsing import first_error, parse_config, parse_json
from reeltok.metrics import paired as metrics
from reeltok.metrics.distances import appearance_features, feature_moments, frechet_distance
from reeltok.metrics.lpips import LPIPS, PLANS, NetworkName
from reeltok.metrics.networks import Extractor, load_i3d, load_styleganv
from reeltok.metrics.paired import Box, FrameMetric, Pair, Videos
from reeltok.nn.moments import Moments
from reeltok.tokenizer.folder import hash_weights

# Measured at once, whatever the clip: on a CPU so little that it stays in the caches.
CPU_PIXELS, GPU_PIXELS = 4 * 256 * 256, 64 * 256 * 256
SHORTEST = 1e-9  # seconds that can be told from none
LARGEST = 1e6  # of a feature: those of the networks stay below 1,000

FRAME_METRICS: dict[str, FrameMetric[Any]] = {
    "psnr": metrics.psnr,
    "psnr-uint8": metrics.psnr_bytes,
    "ssim": metrics.ssim,
    "ssim-uniform7": metrics.ssim_uniform,
    "ssim-grey": metrics.ssim_grey,
    "ms-ssim": metrics.ms_ssim,
    "detail": metrics.detail,
    "flicker": metrics.flicker,
}
DEFAULT_METRICS = (
    *("psnr", "psnr-uint8", "ssim", "ms-ssim", "lpips-alex", "detail", "flicker"),
    *("appearance", "fvd-i3d"),
)
EXTRACTORS = {"i3d": load_i3d, "styleganv": load_styleganv}
Features = tuple[Tensor, Tensor]  # of the original and of its reconstruction


# ---------------------------------------------------------------- one clip

NonNegative = Annotated[int, Field(ge=1, le=2**53)]
Bits = Annotated[int, Field(ge=0, le=2**53)]
Value = Annotated[float, Field(ge=-1e30, le=1e30)]  # sums of these stay finite


@with_config(ConfigDict(extra="forbid"))
class ClipRecord(TypedDict):
    """A clip's score as JSON holds it; the fields are those of `ClipScore`."""

    name: str
    sha256: str | None
    frames: NonNegative
    pixels: NonNegative
    values: dict[str, Value]
    psnr: list[Value]
    bits: Bits | None
    stored_bits: NotRequired[Bits | None]  # results made before there was packing have none
    seconds: dict[str, Annotated[float, Field(ge=0, le=1e12)]]
    notes: list[str]
    source: NotRequired[str]


@dataclass(frozen=True, eq=False, kw_only=True)
class ClipScore:
    """What one clip scored: its mean over frames for each metric, and what it cost."""

    name: str
    sha256: str | None  # of the original's pixels
    frames: int
    pixels: int  # t x h x w of the original
    values: dict[str, float]
    psnr: list[float]  # per frame: drift shows here
    bits: int | None = None  # of the tokens, nominal, or of a codec's packets
    stored_bits: int | None = None  # of the tokens as a file holds them, packed
    seconds: dict[str, float] = field(default_factory=dict)  # "encode", "decode"
    notes: list[str] = field(default_factory=list)  # such as a clip filled up to the protocol
    source: str = ""  # of clips that are not independent: windows of a video, parts of a file
    features: dict[str, Features] = field(default_factory=dict, repr=False)

    def record(self) -> ClipRecord:
        """The score as plain values, without features."""
        plain = {key: value for key, value in vars(self).items() if key != "features"}
        if self.source in ("", self.name):
            del plain["source"]
        return cast(ClipRecord, plain)

    def save(self, path: Path) -> None:
        """Write the score with its features, so that an interrupted run need not repeat it."""
        sides = [(f"{k}/{i}", v) for k, pair in self.features.items() for i, v in enumerate(pair)]
        tensors = {key: value.contiguous() for key, value in sides}
        with replacing(path) as part:
            save_file(tensors, part, metadata={"score": json.dumps(self.record())})

    @classmethod
    def load(cls, path: Path) -> "ClipScore":
        """Read what `save` wrote. ValueError that names the file where it is something else."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                said = (file.metadata() or {}).get("score", "")
            record = parse_config(parse_json(said, "score"), ClipRecord, "score")
            names = sorted({key.rpartition("/")[0] for key in tensors})
            pairs = {k: (tensors.pop(f"{k}/0"), tensors.pop(f"{k}/1")) for k in names}
            if tensors or not all(map(_are_features, pairs.values())):
                raise ValueError("its features are not in pairs")
        except (SafetensorError, KeyError, ValueError) as error:
            said = first_error(error)
            raise ValueError(
                f"{path} is not a score of a clip ({said}): remove it, or evaluate with `again`"
            ) from error
        return cls(**record, features=pairs)


def _are_features(pair: Features) -> bool:
    """Whether two tensors are rows of one width, of numbers whose squares can be summed."""
    flat = all(side.ndim == 2 and side.numel() and side.is_floating_point() for side in pair)
    return (
        flat
        and pair[0].shape[1] == pair[1].shape[1]
        and all(bool((side.abs() < LARGEST).all()) for side in pair)
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Scorer:
    """The networks that judge; `missing` says in a sentence why a metric is not among them."""

    metrics: Sequence[str] = DEFAULT_METRICS  # of which those without weights are `missing`
    lpips: Sequence[LPIPS] = ()
    extractors: Mapping[str, Extractor] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def networks(self) -> list[str]:
        """The networks that judge, each with the hash of its weights."""
        lpips = [f"lpips-{net.net}-{hash_weights(net.state_dict())[:8]}" for net in self.lpips]
        return lpips + sorted(f"{e.name}-{e.frames}" for e in self.extractors.values())

    @torch.no_grad()
    def score(
        self,
        name: str,
        x: Any,
        y: Any,
        *,
        boxes: Iterable[Box] = (),
        sha256: str | None = None,
        bits: int | None = None,
        stored_bits: int | None = None,
        seconds: Mapping[str, float] | None = None,
        notes: Iterable[str] = (),
    ) -> ClipScore:
        """Measure one clip (a batch of one, in [-1, 1]): the original, then its reconstruction.

        Raises ValueError naming the clip where shapes differ or the reconstruction is not finite.
        """
        try:
            x, y = metrics.check_pair(x, y)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        rows, features = self._measure(x, y)
        for key, extractor in self.extractors.items():
            features[f"fvd-{key}-{extractor.name}"] = (extractor(x).cpu(), extractor(y).cpu())
        return ClipScore(
            name=name,
            sha256=sha256,
            frames=x.shape[2],
            pixels=x[:, 0].numel(),
            values={k: v.mean().item() for k, v in rows.items()} | self._boxes(x, y, boxes),
            psnr=rows["psnr"].tolist() if "psnr" in rows else [],
            bits=bits,
            stored_bits=stored_bits,
            seconds=dict(seconds or {}),
            notes=list(notes),
            features=features,
        )

    def _measure(self, x: Videos, y: Videos) -> tuple[dict[str, Tensor], dict[str, Features]]:
        """One value per frame of each metric, and the features of the appearance distance."""
        rows: dict[str, list[Tensor | None]] = {}
        last: list[Features] = []
        before: Tensor | None = None
        wanted = [key for key in FRAME_METRICS if key in self.metrics]
        held = CPU_PIXELS if x.device.type == "cpu" else GPU_PIXELS
        step = max(1, held // x[0, 0, 0].numel())
        for start in range(0, x.shape[2], step):
            parts = [v[:, :, start : start + step] for v in (x, y)]
            pair = Pair(metrics.unit(parts[0]), metrics.unit(parts[1]), before)
            for key in wanted:
                rows.setdefault(key, []).append(FRAME_METRICS[key].of(pair))
            before = pair.error[:, :, -1:]
            for net in self.lpips:
                maps = [net.backbone(v[0].transpose(0, 1).float().clamp(-1, 1)) for v in parts]
                rows.setdefault(f"lpips-{net.net}", []).append(net.compare(maps[0], maps[1]))
                last += [(maps[0][-1], maps[1][-1])] if net.net == "alex" else []
        joined = {key: _join(parts) for key, parts in rows.items()}
        given = {key: row for key, row in joined.items() if row is not None and len(row)}
        moving = "appearance" in self.metrics and x.shape[2] > 1
        return given, _appearance(last) if moving else {}

    def _boxes(self, x: Videos, y: Videos, boxes: Iterable[Box]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for box in boxes:
            for net in self.lpips:
                value = metrics.lpips(net, box.crop(x), box.crop(y)).mean().item()
                found.setdefault(f"lpips-{net.net}-{box.name}", []).append(value)
        return {key: sum(values) / len(values) for key, values in found.items()}


def open_scorer(
    names: Sequence[str] = DEFAULT_METRICS,
    *,
    frames: int | None = None,
    device: torch.device | str = "cpu",
) -> Scorer:
    """A judge for these metrics, with every network whose weights are found.

    For the others it keeps the reason. `frames` cuts clips into parts for FVD; None feeds the
    whole clip. Raises ValueError for a name that is not a metric.
    """
    device = pick_device(device)
    networks = (*(f"lpips-{net}" for net in PLANS), *(f"fvd-{key}" for key in EXTRACTORS))
    known = (*FRAME_METRICS, *networks, "appearance")
    for name in names:
        if name not in known:
            raise ValueError(f"no metric {name!r}; there are {', '.join(known)}")
    nets: list[LPIPS] = []
    extractors: dict[str, Extractor] = {}
    missing: dict[str, str] = {}
    for name in names:
        kind, _, key = name.partition("-")
        try:
            if kind == "lpips":
                nets.append(LPIPS(cast(NetworkName, key)).to(device))
            elif kind == "fvd":
                extractors[key] = EXTRACTORS[key](frames=frames, device=device)
        except FileNotFoundError as error:
            missing[name] = str(error)
    if "appearance" in names and not any(net.net == "alex" for net in nets):
        missing["appearance"] = missing.get("lpips-alex", "it needs lpips-alex beside it")
    return Scorer(metrics=tuple(names), lpips=nets, extractors=extractors, missing=missing)


def _join(parts: Sequence[Tensor | None]) -> Float[Tensor, " n"] | None:
    given = [part.flatten() for part in parts if part is not None]
    return torch.cat(given).cpu() if len(given) == len(parts) else None


def _appearance(last: Sequence[Features]) -> dict[str, Features]:
    if not last:
        return {}
    original, made = (torch.cat(side) for side in zip(*last, strict=True))
    return {"appearance": (appearance_features(original).cpu(), appearance_features(made).cpu())}


# ---------------------------------------------------------------- a set of clips


class Scores:
    """The scores of a set of clips, gathered one by one or merged from several processes."""

    def __init__(self, missing: Mapping[str, str] | None = None) -> None:
        self.clips: dict[str, ClipScore] = {}
        self.moments: dict[str, tuple[Moments, Moments]] = {}
        self.described = Counter[str]()  # how many clips have features of each kind
        self.broken: dict[str, str] = {}  # clips that could not be scored, with the reason
        self.missing = dict(missing or {})

    def add(self, score: ClipScore) -> None:
        """Take in one clip; its features become part of running sums and are let go.

        ValueError for a clip that is there, and for NaN or infinity in its values or features.
        """
        if score.name in self.clips:
            raise ValueError(f"the clip {score.name} was scored twice: names must differ")
        for key, value in score.values.items():
            if not math.isfinite(value):
                raise ValueError(f"{score.name}: its {key} is {value}, which no mean may hold")
        found = {
            key: tuple(feature_moments(side, f"{key} of {score.name}") for side in pair)
            for key, pair in score.features.items()
        }
        self.clips[score.name] = replace(score, features={})
        self.described.update(found.keys())
        for key, (original, made) in found.items():
            self._count(key, (original, made))

    def merge(self, other: "Scores") -> None:
        """Take in what another process gathered."""
        if twice := self.clips.keys() & other.clips.keys():
            raise ValueError(f"the clip {min(twice)} was scored twice: names must differ")
        self.clips |= other.clips
        self.broken |= other.broken
        self.missing |= other.missing
        self.described.update(other.described)
        for key, pair in other.moments.items():
            self._count(key, pair)

    def _count(self, key: str, pair: tuple[Moments, Moments]) -> None:
        held = self.moments.get(key)
        self.moments[key] = pair if held is None else (held[0] + pair[0], held[1] + pair[1])

    def summary(self) -> dict[str, Estimate]:
        """Every metric over the set: means weighted by frames, distances named by their clips.

        Broken clips are absent; a metric that some clip lacks (MS-SSIM of a small one) is taken
        over the others, and its count says so.
        """
        found = {}
        for key in sorted({key for clip in self.clips.values() for key in clip.values}):
            clips = [clip for clip in self.clips.values() if key in clip.values]
            found[key] = mean_of_clips(
                [c.values[key] for c in clips], [c.frames for c in clips], clips
            )
        for name in ("bits", "stored_bits"):
            counted = [c for c in self.clips.values() if getattr(c, name) is not None]
            if counted:
                rates = [getattr(c, name) / c.pixels for c in counted]
                found[f"{name}_per_pixel"] = mean_of_clips(
                    rates, [c.pixels for c in counted], counted
                )
        for part in sorted({part for clip in self.clips.values() for part in clip.seconds}):
            timed = [c for c in self.clips.values() if c.seconds.get(part, 0.0) > SHORTEST]
            rates = [clip.frames / clip.seconds[part] for clip in timed]
            if timed:
                spent = [clip.seconds[part] for clip in timed]
                found[f"{part}_fps"] = mean_of_clips(rates, spent, timed)
        for key, (original, made) in self.moments.items():
            if original.count > 1:
                distance, count = frechet_distance(original, made), self.described[key]
                found[f"{key}-n{count}"] = Estimate(mean=distance, clips=count)
        return found


def difference(first: Scores, second: Scores, metric: str) -> Estimate:
    """How much `second` exceeds `first`, paired: the mean difference over the clips of both.

    Raises ValueError where no clip is common, or one name stands for two originals.
    """
    common = [
        (a, second.clips[name])
        for name, a in first.clips.items()
        if name in second.clips and metric in a.values and metric in second.clips[name].values
    ]
    if not common:
        raise ValueError(f"no clip was scored for {metric} on both sides: nothing to compare")
    for a, b in common:
        if (a.sha256, a.frames) != (b.sha256, b.frames):
            raise ValueError(f"{a.name} is not the same original on both sides: score them again")
    gaps = [b.values[metric] - a.values[metric] for a, b in common]
    firsts = [a for a, _ in common]
    return mean_of_clips(gaps, [a.frames for a in firsts], firsts)


def mean_of_clips(
    values: Sequence[float], weights: Sequence[float | int], clips: Sequence[ClipScore]
) -> Estimate:
    """The weighted mean of clips; its interval draws all clips of a source together."""
    return estimate(values, weights, [clip.source or clip.name for clip in clips])
