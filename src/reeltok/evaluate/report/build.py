"""The report: one folder with a page, its data and its videos, that opens without a network.

`Media` writes what the player shows while clips are judged; `write_report` puts results of one
protocol into the page of `page/`. Videos are compressed for viewing; the numbers are not of them.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from reeltok.evaluate.clips import ScoredClip
from reeltok.evaluate.candidates.codecs import CODERS
from reeltok.evaluate.published import PUBLISHED
from reeltok.evaluate.notes import all_left_out
from reeltok.evaluate.results import METRICS, Result, find_metric, build_table
from reeltok.evaluate.scores import difference
from reeltok.evaluate.candidates.candidate import TIMING, Candidate, CodedClip, pad_clip
from reeltok.files.atomic import replacing, write_file
from reeltok.files.hashes import hash_text
from reeltok.files.parsing import parse_config, read_json
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.traced import shown, trace_blocks
from reeltok.video.record import Video, write

PAGE = Path(__file__).parent / "page"
BINS = 64  # bars of the histogram of ids
Bins = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=BINS, max_length=BINS)]
# Of the videos to look at: a quality above what is compared, in half the usual time.
VIEWED: dict[str, Any] = {"crf": 12, "preset": "veryfast"}
PAIRED = ("psnr", "ssim", "lpips-alex")
ORIGINAL, MOTION = "original", "-motion.mp4"
_SHUFFLE = 2654435761  # Knuth's multiplicative hash: neighbouring ids get unlike colours


def slug(name: str, *more: Any) -> str:
    """A name that is safe in paths and addresses, and stays unlike others (or others' `more`)."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40]
    text = json.dumps([name, *more], sort_keys=True, default=str) if more else name
    return f"{plain}-{hash_text(text, 6)}"


def slug_of(made: Candidate | Result) -> str:
    """The slug of a candidate or of its result: another of other weights, or used otherwise."""
    if isinstance(made, Result):
        return slug(made.model, made.weights, made.settings)
    settings = dict(made.settings) | {"trained": made.trained}
    return slug(made.name, made.weights, settings)


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
    """The videos, token maps and counts of a report, written while clips are judged.

    What it knows stands in the folder, so that processes and later runs share it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "media"

    def place(self, candidate: str, clip: str, kind: str = ".mp4") -> Path:
        """Where something of a clip lies; both by their slugs."""
        return self.folder / candidate / f"{clip}{kind}"

    def kept(self, candidate: Candidate) -> Callable[[ScoredClip], bool]:
        """Whether the video of a clip is there already; the original is written on the way."""

        def there(clip: ScoredClip) -> bool:
            return self.place(slug_of(candidate), self.see(clip)).exists()

        return there

    def keep(self, candidate: Candidate) -> Callable[[ScoredClip, CodedClip], None]:
        """Writes what came of a clip."""

        def save(clip: ScoredClip, coded: CodedClip) -> None:
            mine, name = slug_of(candidate), self.see(clip)
            if coded.ids is not None and candidate.vocabulary and coded.ids.ndim == 3:
                path = self.place(mine, name, ".png")
                if "factors" in candidate.settings:
                    draw_tokens(coded.ids, path)
                bins = histogram(coded.ids, candidate.vocabulary)
                write_file(path.with_suffix(".json"), json.dumps(bins))
            fps = clip.video.fps or 25.0
            if (motion := motion_of(candidate, clip)) is not None:
                self._video(self.place(mine, name, MOTION), Video.of(motion, fps=fps))
            self._video(self.place(mine, name), Video.of(coded.x.cpu(), fps=fps))

        return save

    def see(self, clip: ScoredClip) -> str:
        """Write the original of a clip, and what it is, where it is not there yet; its slug."""
        video = clip.video
        shown = Shown(
            name=clip.name,
            slug=slug(clip.name, clip.sha256),
            frames=len(video),
            fps=video.fps or 25.0,
            height=video.height,
            width=video.width,
        )
        path = self.place(ORIGINAL, shown.slug, ".json")
        if not path.exists():
            self._video(path.with_suffix(".mp4"), video)
            write_file(path, json.dumps(asdict(shown)))
        return shown.slug

    def find(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        """What the player must know of a clip of a result; its name alone where none is here."""
        path = self.place(ORIGINAL, slug(clip["name"], clip["sha256"]), ".json")
        if not path.exists():
            return {"name": clip["name"]}
        return asdict(parse_config(read_json(path), Shown, str(path)))

    def _video(self, path: Path, video: Video) -> None:
        still = Video(video.frames, video.fps or 25.0)  # a constant rate: steps are exact
        write(still, path, **VIEWED, pad_even=True)

    def counts(self, candidate: str, clips: Iterable[str]) -> list[int] | None:
        """How often ids occurred over these clips, in `BINS` ranges of the codebook."""
        files = [self.place(candidate, clip, ".json") for clip in clips]
        found = {path: read_json(path) for path in files if path.exists()}
        total = [parse_config(value, Bins, str(path)) for path, value in found.items()]
        return [sum(column) for column in zip(*total, strict=True)] if total else None


def motion_of(candidate: Candidate, clip: ScoredClip) -> Tensor | None:
    """The motion and the skipped cells of a clip "1 3 t h w"; None where there can be none."""
    model = getattr(candidate, "tokenizer", None)
    if not isinstance(model, RefTok) or not (model.config.motion or model.config.skip):
        return None
    spec, x = model.spec, clip.video.tensor(device=model.device)
    whole = pad_clip(x, spec.frames(spec.steps(x.shape[2])), spec.factors[1:])
    frames = torch.cat([shown(block) for block in trace_blocks(model, model.network_input(whole))])
    _, _, t, h, w = x.shape
    return frames[:t, :h, :w].permute(3, 0, 1, 2)[None].float().cpu()


def draw_tokens(ids: Tensor, path: Path) -> None:
    """A token grid "t h w" as a picture: steps side by side, an id a colour."""
    from PIL import Image

    mixed = (ids.numpy().astype(np.uint64) + 1) * np.uint64(_SHUFFLE) & np.uint64(0xFFFFFFFF)
    colours = np.stack([mixed >> np.uint64(shift) & np.uint64(255) for shift in (24, 16, 8)], -1)
    strip = colours.astype(np.uint8).transpose(1, 0, 2, 3).reshape(ids.shape[1], -1, 3)
    with replacing(path) as part:
        Image.fromarray(strip).save(part)


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
    data = page_data(results, media or Media(folder), title)
    for name in ("page.css", "page.js", "player.js"):
        write_file(folder / name, (PAGE / name).read_bytes())
    taken: list[str] = []
    for result in results:
        numbered = (f"{slug_of(result)}-{number}" for number in count(2))
        name = next(n for n in chain([slug_of(result)], numbered) if n not in taken)
        result.save(folder / "results" / f"{name}.json")
        taken.append(name)
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")  # nothing in it can end the script that holds it
    page = (PAGE / "index.html").read_text(encoding="utf-8").replace("/*data*/", text)
    return write_file(folder / "index.html", page)


def page_data(results: Sequence[Result], media: Media, title: str) -> dict[str, Any]:
    """Everything that the page shows, as JSON values."""
    table = build_table(results)
    keys = in_order({key for row in table.rows for key in (*row.values, *row.missing)})
    labels = distinct_names(results)
    models = [
        model_data(result, label, row.values, media)
        for result, label, row in zip(results, labels, table.rows, strict=True)
    ]
    clips = {clip["name"]: media.find(clip) for result in results for clip in result.clips}
    first = results[0]
    return {
        "title": title,
        "original": ORIGINAL,
        "protocol": asdict(table.protocol),
        "judged": table.judged,
        "left_out": all_left_out(results),
        "clips": [clips[name] for name in sorted(clips)],
        "common": table.clips,
        "models": models,
        "metrics": {key: asdict(find_metric(key)) for key in keys},
        "notes": table.notes,
        "paired": paired(results, labels),
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


def distinct_names(results: Sequence[Result]) -> list[str]:
    """What a page calls the results: by their models, told apart where two have one name."""
    names = [result.model for result in results]
    found: list[str] = []
    for result in results:
        name = result.model
        if names.count(name) > 1 and result.weights:
            name = f"{name} ({result.weights[:8]})"
        numbered = (f"{name} #{number}" for number in count(2))
        found.append(next(label for label in chain([name], numbered) if label not in found))
    return found


def model_data(
    result: Result, label: str, values: Mapping[str, Any], media: Media
) -> dict[str, Any]:
    """One row of the report."""
    mine = slug_of(result)
    slugs = {clip["name"]: slug(clip["name"], clip["sha256"]) for clip in result.clips}
    there = [name for name, clip in slugs.items() if media.place(mine, clip).exists()]
    timing = timing_of(result)
    drawn = there if timing else []  # ids of a function: nobody knows which pixels each is of
    maps = [name for name in drawn if media.place(mine, slugs[name], ".png").exists()]
    moved = [name for name in there if media.place(mine, slugs[name], MOTION).exists()]
    return {
        "name": label,
        "slug": mine,
        "kind": result.kind,
        "role": result.settings.get("role", ""),
        "class": class_of(result),
        "codec": codec_of(result),
        "weights": result.weights,
        "trained": result.settings.get("trained", True),
        "settings": result.settings,
        "timing": timing,
        "values": {key: asdict(value) for key, value in values.items()},
        "missing": result.missing,
        "broken": result.broken,
        "left_out": len(result.left_out),
        "clips": {
            clip["name"]: {
                "values": clip["values"],
                "bits": clip["bits"],
                "stored_bits": clip.get("stored_bits"),
                "psnr": clip["psnr"],
            }
            for clip in result.clips
        },
        "videos": there,
        "maps": maps,
        "motions": moved,
        "counts": media.counts(mine, slugs.values()),
    }


def timing_of(result: Result) -> dict[str, int | None] | None:
    """Which frames its steps of ids are of; None where there are none.

    Earlier results do not say so, and it is guessed; the page shows no map that belies the guess.
    """
    if (factors := result.settings.get("factors")) is None:
        return None
    time = factors[0]
    guess = (1 if result.causal else time), 1, time, 1
    return result.settings.get("timing", {**dict(zip(TIMING, guess, strict=True)), "window": None})


def codec_of(result: Result) -> str:
    """What a codec is called in tables: h264, where its encoder is libx264; "" for others."""
    encoder = result.settings.get("encoder", "")
    return next((key for key, coder in CODERS.items() if coder.encoder == encoder), "")


def class_of(result: Result) -> str:
    """Which tokenizers it is fair beside: discrete ones, or those of as many channels."""
    if result.kind not in ("tokenizer", "peer"):
        return ""
    if result.settings.get("vocabulary"):
        return "discrete"
    channels = result.settings.get("channels")
    return f"{channels} channels" if channels else "other"


def paired(
    results: Sequence[Result], labels: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """How much every model exceeds the first, clip by clip, with intervals."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    first = results[0].scores()
    for other, label in zip(results[1:], labels[1:], strict=True):
        theirs, row = other.scores(), {}
        for metric in PAIRED:
            try:
                row[metric] = asdict(difference(first, theirs, metric))
            except ValueError:  # one of the two has no such score
                continue
        found[label] = row
    return found
