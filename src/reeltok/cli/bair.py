"""`bair`: judge a prior's predictions of robot video, as MAGVIT does, standard or debiased."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.files import check_free, check_place
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts, note, save_record

if TYPE_CHECKING:
    from torch import Tensor

    from reeltok.data.clip import Clip
    from reeltok.evaluate.scores import Judge
    from reeltok.generate.prior import Prior
    from reeltok.generate.schedule import Sampling
    from reeltok.metrics.distances import FeatureMoments
    from reeltok.tokenizer.contract import Tokenizer

METRICS = ("lpips-vgg", "fvd-i3d", "fvd-styleganv")
LENGTH = 16  # frames of a judged clip, the first of them given
WHOLE = 30  # frames of a BAIR video


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which clips of a video are judged, and how many predictions of each; seeds run on."""

    windows: bool  # every window of the video, not its beginning alone
    samples: int
    repeats: int
    seed: int
    batch: int


SAMPLES = {"standard": 100, "debiased": 1}
"""MAGVIT, appendix: 25,600 predictions of 256 beginnings; of all 15 windows, one each (ours)."""


def bair(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False)],
    data: Annotated[str, typer.Argument(metavar="DATA", show_default=False)],
    *,
    protocol: Annotated[
        str, typer.Option(metavar="NAME", help="standard, or debiased: all windows of a video.")
    ] = "standard",
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="If the model does not say.")
    ] = None,
    videos: Annotated[int, typer.Option(min=2, metavar="N", help="At most so many.")] = 256,
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of each clip: 100, debiased 1.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Of all, for a mean.")] = 4,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed, the same figures.")] = 0,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Clips at a time.")] = 20,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the whole record here.")
    ] = None,
    device: given.Device = "auto",
    force: given.Force = False,
) -> Report:
    """Judge a prior by its predictions from one frame, under MAGVIT's BAIR protocol.

    DATA are BAIR's test TFRecords, or a folder of videos of 16 frames or more. FVD compares whole
    clips, real and predicted; PSNR, SSIM (grey) and LPIPS are those of the best prediction of a
    clip, without the given frame. A metric whose network has no weights reads "no weights".
    """
    if out is not None:
        check_free([str(out)], force=force, inputs=[model, data])
        check_place(str(out))
    from reeltok.generate.schedule import BAIR_DEBIASED, BAIR_STANDARD

    if protocol not in SAMPLES:
        raise ValueError(f"--protocol {protocol} is not known: give standard or debiased")
    debiased, samples = protocol == "debiased", samples or SAMPLES[protocol]
    plan = Plan(windows=debiased, samples=samples, repeats=repeats, seed=seed, batch=batch)
    bench = Bench(model, tokenizer, device, BAIR_DEBIASED if debiased else BAIR_STANDARD)
    settings = {"protocol": protocol, "samples": samples, "repeats": repeats, "seed": seed}
    record = settings | judge_all(bench, data, videos, plan)
    if out is not None:
        save_record(record, out)
    return Report(data=record, text=told(record))


def told(record: dict[str, Any]) -> str:
    """The record for people: every metric with its deviation over the repeats."""
    shown = {key: record[key] for key in ("protocol", "videos", "clips")}
    shown |= {name: f"{v['mean']:.4g} ± {v['std']:.2g}" for name, v in record["metrics"].items()}
    shown |= {name: f"no weights ({why})" for name, why in record["missing"].items()}
    return facts(shown)


class Bench:
    """A prior with its tokenizer and schedule, and the judge of what it predicts."""

    def __init__(
        self, folder: Path, tokenizer: str | None, device: str, sampling: "Sampling"
    ) -> None:
        from reeltok.devices import pick_device
        from reeltok.evaluate.scores import open_judge
        from reeltok.generate import masked
        from reeltok.generate.folder import open_tokenizer

        place = pick_device(device)
        self.prior: Prior = masked.load(folder, device=place)
        config = self.prior.config
        self.tokenizer: Tokenizer = open_tokenizer(folder, config.clip, tokenizer, device)
        self.clip = masked.pick_clip(config, self.tokenizer)
        if self.clip.height != self.clip.width:
            size = f"{self.clip.height}x{self.clip.width}"
            raise ValueError(f"this prior makes frames of {size}: the protocol is of squares")
        self.length = self.clip.frames + int(config.reference is not None)
        if self.length != LENGTH:
            note(f"this prior's clips have {self.length} frames, BAIR's {LENGTH}: not comparable")
        self.sampling, self.device = sampling, place
        self.judge: Judge = open_judge(METRICS, device=place)

    def predict(
        self, x: "Tensor", actions: "Tensor | None", seeds: tuple[int, int], count: int
    ) -> "Tensor":
        """`count` clips "b c t h w" that go on from frame 0 of x; seeds: of all, of the first."""
        import torch

        from reeltok.generate.pipeline import continued

        start = x[:, :, :1].expand(count, -1, -1, -1, -1)
        parts = continued(
            self.prior,
            self.tokenizer,
            start,
            count=count,
            blocks=1,
            seed=seeds[0],
            first=seeds[1],
            batch=count,
            sampling=self.sampling,
            actions=actions,
        )
        return torch.cat([part.cpu() for part in parts], dim=2).clamp(-1, 1)

    def features(self, x: "Tensor") -> "dict[str, FeatureMoments]":
        """What FVD compares, of every network that has weights."""
        from reeltok.metrics.distances import FeatureMoments

        found = self.judge.extractors.items()
        return {f"fvd-{name}": FeatureMoments.of(apply(x.to(self.device))) for name, apply in found}

    def compare(self, x: "Tensor", y: "Tensor") -> dict[str, list[float]]:
        """PSNR, grey SSIM and LPIPS of each prediction, meaned over the frames not given."""
        from reeltok.metrics import paired as metrics

        a, b = x[:, :, 1:].expand(len(y), -1, -1, -1, -1), y[:, :, 1:]
        each = {"psnr": metrics.psnr(a, b), "ssim-grey": metrics.ssim(grey(a), grey(b))}
        for net in self.judge.lpips:
            scores = metrics.lpips(net, a.to(self.device), b.to(self.device))
            each[f"lpips-{net.net}"] = scores
        return {name: values.mean(1).tolist() for name, values in each.items()}


def grey(x: "Tensor") -> "Tensor":
    """Luma (Rec. 709) in all three channels."""
    from reeltok.metrics.paired import LUMA

    weights = x.new_tensor(LUMA)[None, :, None, None, None]
    return (x * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1, -1)


def judge_all(bench: Bench, data: str, videos: int, plan: Plan) -> dict[str, Any]:
    """All repeats over all clips: means and deviations over the repeats."""
    from reeltok.data.find import find_clips
    from reeltok.metrics.distances import frechet_distance

    items = find_clips(data)[:videos]
    rounds: dict[str, list[float]] = defaultdict(list)
    used, count = set[str](), 0
    with Progress("predicting", len(items) * plan.repeats) as progress:
        for repeat in range(plan.repeats):
            real: dict[str, FeatureMoments] = {}
            fake: dict[str, FeatureMoments] = {}
            best: dict[str, list[float]] = defaultdict(list)
            count = 0
            for name, x, actions in clips_of(bench, items, plan, progress):
                used.add(name)
                merge(real, bench.features(x))
                judge_clip(bench, x, actions, plan, (repeat, count), fake, best)
                count += 1
            if count < 2:
                raise ValueError(f"{data} holds {count} clips of {bench.length} frames: give 2")
            for name, moments in real.items():
                rounds[name].append(frechet_distance(moments, fake[name]))
            for name, values in best.items():
                rounds[name].append(statistics.fmean(values))
    found = {
        n: {"mean": statistics.fmean(v), "std": statistics.pstdev(v)} for n, v in rounds.items()
    }
    missing = {name: why for name, why in bench.judge.missing.items() if name in METRICS}
    return {"videos": len(used), "clips": count, "metrics": found, "missing": missing}


def judge_clip(
    bench: Bench,
    x: "Tensor",
    actions: "Tensor | None",
    plan: Plan,
    at: tuple[int, int],
    fake: "dict[str, FeatureMoments]",
    best: dict[str, list[float]],
) -> None:
    """Predict one clip `plan.samples` times; count features, keep the best scores."""
    (repeat, number), scores = at, defaultdict[str, list[float]](list)
    for since in range(0, plan.samples, plan.batch):
        size = min(plan.batch, plan.samples - since)
        seeds = (plan.seed + 1000 * repeat, number * plan.samples + since)
        y = bench.predict(x, actions, seeds, size)
        merge(fake, bench.features(y))
        for name, values in bench.compare(x, y).items():
            scores[name] += values
    for name, values in scores.items():
        best[name].append(min(values) if name.startswith("lpips") else max(values))


def merge(sums: "dict[str, FeatureMoments]", more: "dict[str, FeatureMoments]") -> None:
    """Count further features."""
    for name, moments in more.items():
        sums[name] = sums[name] + moments if name in sums else moments


def clips_of(
    bench: Bench, items: "list[Clip]", plan: Plan, progress: Progress
) -> "Iterator[tuple[str, Tensor, Tensor | None]]":
    """The clips "1 c t h w" to predict, with the actions of BAIR's files if the prior knows any."""
    for item in items:
        video, actions = frames_of(bench, item)
        last = video.shape[2] - bench.length
        if last < 0:
            note(f"{item.name} left out: it has {video.shape[2]} frames, {bench.length} are needed")
        for start in range(last + 1 if plan.windows else min(1, last + 1)):
            stop = start + bench.length
            acts = None if actions is None else actions[:, start:stop]
            yield item.name, video[:, :, start:stop], acts
            progress.advance(bench.length, of=bench.length * max(1, last + 1))
        progress.finish_file()


def frames_of(bench: Bench, item: "Clip") -> "tuple[Tensor, Tensor | None]":
    """A video's first 30 frames, the middle square at the prior's size, and its actions."""
    from reeltok.data.bair import read_push
    from reeltok.train.data import resize
    from reeltok.video.record import to_unit

    frames = item.read(frames=WHOLE).frames
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    x = resize(to_unit(frames[:, top : top + side, left : left + side]), bench.clip.height)
    if not bench.prior.config.actions:
        return x, None
    if item.record is None:
        raise ValueError(f"this prior generates from actions and {item.name} has none: give BAIR's")
    return x, read_push(item.path, item.record).actions[None, :WHOLE]
