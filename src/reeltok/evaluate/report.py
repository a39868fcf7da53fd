"""The report: one folder with a page, its data and its videos, that opens without a network.

`Media` writes what the player shows while clips are judged; `write_report` puts results of one
protocol into the page of `page/`. Videos are compressed for viewing; the numbers are not of them.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reeltok.evaluate.clips import Clip
from reeltok.evaluate.published import PUBLISHED
from reeltok.evaluate.results import METRICS, Result, describe, tabulate
from reeltok.evaluate.scores import difference
from reeltok.evaluate.subjects import Trial
from reeltok.video import Video, write

PAGE = Path(__file__).parent / "page"
BINS = 64  # bars of the histogram of ids
VIEWED = 12  # crf of the videos to look at
PAIRED = ("psnr", "ssim", "lpips-alex")
ORIGINAL = "original"
_SHUFFLE = 2654435761  # Knuth's multiplicative hash: neighbouring ids get unlike colours


def slug(name: str) -> str:
    """A name that is safe in paths and addresses, and stays unlike others."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A clip as the player needs to know it."""

    name: str
    slug: str
    frames: int
    fps: float
    height: int
    width: int


class Media:
    """The videos, token maps and counts of a report, written while clips are judged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "media"
        self.clips: dict[str, Shown] = {}

    def place(self, subject: str, clip: str, kind: str = ".mp4") -> Path:
        """Where something of a clip lies."""
        return self.folder / slug(subject) / f"{slug(clip)}{kind}"

    def kept(self, subject: str) -> Callable[[Clip], bool]:
        """Whether the video of a clip is there already; the original is written on the way."""

        def there(clip: Clip) -> bool:
            self.see(clip)
            return self.place(subject, clip.name).exists()

        return there

    def keep(self, subject: str, vocabulary: int | None) -> Callable[[Clip, Trial], None]:
        """Writes what came of a clip."""

        def save(clip: Clip, trial: Trial) -> None:
            self.see(clip)
            if trial.ids is not None and vocabulary and trial.ids.ndim == 3:
                path = self.place(subject, clip.name, ".png")
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_tokens(trial.ids, path)
                bins = histogram(trial.ids, vocabulary)
                path.with_suffix(".json").write_text(json.dumps(bins))
            self._video(subject, clip, Video.of(trial.x.cpu(), fps=clip.video.fps or 25.0))

        return save

    def see(self, clip: Clip) -> None:
        """Take note of a clip, and write its original where it is not there yet."""
        video = clip.video
        self.clips[clip.name] = Shown(
            name=clip.name,
            slug=slug(clip.name),
            frames=len(video),
            fps=video.fps or 25.0,
            height=video.height,
            width=video.width,
        )
        if not self.place(ORIGINAL, clip.name).exists():
            self._video(ORIGINAL, clip, video)

    def _video(self, subject: str, clip: Clip, video: Video) -> None:
        path = self.place(subject, clip.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        still = Video(video.frames, video.fps or 25.0)  # a constant rate: steps are exact
        write(still, path, crf=VIEWED, pad_even=True)

    def counts(self, subject: str) -> list[int] | None:
        """How often ids occurred over all clips, in `BINS` ranges of the codebook."""
        files = sorted((self.folder / slug(subject)).glob("*.json"))
        total = [json.loads(path.read_text()) for path in files]
        return [sum(column) for column in zip(*total, strict=True)] if total else None


def draw_tokens(ids: Tensor, path: Path) -> None:
    """A token grid "t h w" as a picture: steps side by side, an id a colour."""
    from PIL import Image

    mixed = (ids.numpy().astype(np.uint64) + 1) * np.uint64(_SHUFFLE) & np.uint64(0xFFFFFFFF)
    colours = np.stack([mixed >> np.uint64(shift) & np.uint64(255) for shift in (24, 16, 8)], -1)
    strip = colours.astype(np.uint8).transpose(1, 0, 2, 3).reshape(ids.shape[1], -1, 3)
    Image.fromarray(strip).save(path)


def histogram(ids: Tensor, vocabulary: int) -> list[int]:
    """How many ids fall into each of `BINS` equal ranges of the codebook."""
    place = ids.flatten().long() * BINS // vocabulary
    return torch.bincount(place, minlength=BINS).tolist()


# ---------------------------------------------------------------- the page


def write_report(
    folder: Path, results: Sequence[Result], media: Media | None = None, *, title: str = "reeltok"
) -> Path:
    """Write index.html and what it needs into `folder`; the path of the page.

    Raises ValueError, naming what differs, for results of more than one protocol.
    """
    data = gather(results, media or Media(folder), title)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("page.css", "page.js", "player.js"):
        shutil.copyfile(PAGE / name, folder / name)
    kept = folder / "results"
    kept.mkdir(exist_ok=True)
    for result in results:
        result.save(kept / f"{slug(result.model)}.json")
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")  # nothing in it can end the script that holds it
    page = (PAGE / "index.html").read_text(encoding="utf-8").replace("/*data*/", text)
    index = folder / "index.html"
    index.write_text(page, encoding="utf-8")
    return index


def gather(results: Sequence[Result], media: Media, title: str) -> dict[str, Any]:
    """Everything that the page shows, as JSON values."""
    table = tabulate(results)
    keys = in_order({key for row in table.rows for key in (*row.values, *row.missing)})
    models = [
        model_data(result, row.values, media)
        for result, row in zip(results, table.rows, strict=True)
    ]
    names = sorted({clip["name"] for result in results for clip in result.clips})
    first = results[0]
    return {
        "title": title,
        "original": slug(ORIGINAL),
        "protocol": asdict(table.protocol),
        "clips": [asdict(media.clips[n]) if n in media.clips else {"name": n} for n in names],
        "common": table.clips,
        "models": models,
        "metrics": {key: asdict(describe(key)) for key in keys},
        "notes": table.notes,
        "paired": paired(results),
        "published": [
            asdict(found) | {"same": found.protocol == table.protocol.name}
            for found in sorted(PUBLISHED.values(), key=lambda t: t.protocol != table.protocol.name)
        ],
        "machine": first.machine,
        "made": first.made,
    }


def in_order(keys: Iterable[str]) -> list[str]:
    """Columns in the order in which metrics are defined; any others behind."""
    order = list(METRICS)
    place = lambda key: next((i for i, k in enumerate(order) if k in (key, key.split("-")[0])), 99)
    return sorted(keys, key=lambda key: (place(key), key))


def model_data(result: Result, values: Mapping[str, Any], media: Media) -> dict[str, Any]:
    """One row of the report."""
    there = [
        clip["name"] for clip in result.clips if media.place(result.model, clip["name"]).exists()
    ]
    maps = [name for name in there if media.place(result.model, name, ".png").exists()]
    return {
        "name": result.model,
        "slug": slug(result.model),
        "kind": result.kind,
        "role": result.settings.get("role", ""),
        "class": class_of(result),
        "weights": result.weights,
        "trained": result.settings.get("trained", True),
        "settings": result.settings,
        "values": {key: asdict(value) for key, value in values.items()},
        "missing": result.missing,
        "broken": result.broken,
        "left_out": len(result.left_out),
        "clips": {
            clip["name"]: {"values": clip["values"], "bits": clip["bits"], "psnr": clip["psnr"]}
            for clip in result.clips
        },
        "videos": there,
        "maps": maps,
        "counts": media.counts(result.model),
    }


def class_of(result: Result) -> str:
    """Which tokenizers it is fair beside: discrete ones, or those of as many channels."""
    if result.kind not in ("tokenizer", "peer"):
        return ""
    if result.settings.get("vocabulary"):
        return "discrete"
    channels = result.settings.get("channels")
    return f"{channels} channels" if channels else "other"


def paired(results: Sequence[Result]) -> dict[str, dict[str, dict[str, Any]]]:
    """How much every model exceeds the first, clip by clip, with intervals."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    first = results[0].scores()
    for other in results[1:]:
        theirs, row = other.scores(), {}
        for metric in PAIRED:
            try:
                row[metric] = asdict(difference(first, theirs, metric))
            except ValueError:  # one of the two has no such score
                continue
        found[other.model] = row
    return found
