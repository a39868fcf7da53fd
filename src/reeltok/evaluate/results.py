"""The record of an evaluation, as JSON: everything that decides what its numbers mean.

Tables are made of results under one protocol and of the same clips; for any others the error says
which fields differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from reeltok.devices import describe_machine
from reeltok.evaluate.comparable import check_comparable
from reeltok.evaluate.intervals import Estimate
from reeltok.evaluate.notes import all_left_out, note_left_out, note_machines, note_unmatched
from reeltok.evaluate.protocols import Protocol
from reeltok.evaluate.scores import ClipRecord, ClipScore, Scores
from reeltok.files.atomic import write_file
from reeltok.files.parsing import parse_config, parse_json

CandidateKind = Literal["tokenizer", "peer", "codec", "resize"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is defined and printed."""

    definition: str
    better: Literal["higher", "lower", ""]
    digits: int
    unit: str = ""


METRICS: dict[str, Metric] = {
    "psnr": Metric(
        definition="per frame on values in [0, 1] after clamping, 10 log10(1 / (mse + 1e-8)), "
        "mean over frames, then over clips weighted by frames",
        better="higher",
        digits=2,
        unit="dB",
    ),
    "psnr-uint8": Metric(
        definition="psnr after both videos are rounded to uint8",
        better="higher",
        digits=2,
        unit="dB",
    ),
    "ssim": Metric(
        definition="Gaussian window 11, sigma 1.5, k1 .01, k2 .03, per channel, valid padding, "
        "data range 1; first average-pooled by max(1, round(short side / 256))",
        better="higher",
        digits=4,
    ),
    "ssim-grey": Metric(
        definition="ssim of the luma (Rec. 709)",
        better="higher",
        digits=4,
    ),
    "ssim-uniform7": Metric(
        definition="uniform window 7, unbiased variances, per channel, valid padding, of uint8",
        better="higher",
        digits=4,
    ),
    "ms-ssim": Metric(
        definition="five scales (.0448 .2856 .3001 .2363 .1333), Gaussian window 11, sigma 1.5; "
        "not given where the short side is 160 pixels or less",
        better="higher",
        digits=4,
    ),
    "lpips": Metric(
        definition="v0.1, linear heads on the named backbone, per frame, inputs in [-1, 1]",
        better="lower",
        digits=4,
    ),
    "detail": Metric(
        definition="psnr over the tenth of each original frame's pixels with the largest Sobel "
        "magnitude of luma (Rec. 709)",
        better="higher",
        digits=2,
        unit="dB",
    ),
    "flicker": Metric(
        definition="mean absolute error of frame differences, x 255",
        better="lower",
        digits=3,
    ),
    "appearance": Metric(
        definition="Fréchet distance of AlexNet relu5 means and of their changes to the next "
        "frame (512 numbers per pair of frames); a proxy, not FVD; n is the number of clips",
        better="lower",
        digits=2,
    ),
    "fvd": Metric(
        definition="Fréchet distance of the named network's features (unbiased covariances, "
        "float64), bytes resized bilinearly to 224; n is the number of clips",
        better="lower",
        digits=1,
    ),
    "bits_per_pixel": Metric(
        definition="nominal bits of the tokens (ceil(log2 vocabulary) each) and bits of stored "
        "references over the original t x h x w; of a codec those of its packets",
        better="lower",
        digits=4,
    ),
    "stored_bits_per_pixel": Metric(
        definition="the same with the bits that a file holds: of ids packed without loss",
        better="lower",
        digits=4,
    ),
    "encode_fps": Metric(
        definition="frames per second of encoding", better="higher", digits=1, unit="fps"
    ),
    "decode_fps": Metric(
        definition="frames per second of decoding", better="higher", digits=1, unit="fps"
    ),
    "utilization": Metric(
        definition="share of the codebook that occurs at least once over the set",
        better="higher",
        digits=4,
    ),
    "perplexity": Metric(
        definition="exp of the entropy of the ids over the set", better="higher", digits=1
    ),
    "coding_memory_bytes": Metric(
        definition="the most that coding the first clip took at a time, beyond what was held "
        "before, such as weights",
        better="lower",
        digits=0,
    ),
}


def find_metric(key: str) -> Metric:
    """The metric behind a column such as "lpips-alex-text" or "fvd-i3d-1a2b3c4d-n22"."""
    if key in METRICS:
        return METRICS[key]
    if (family := key.partition("-")[0]) in METRICS:
        return METRICS[family]
    return Metric(definition="", better="", digits=4)


OF_NO_CLIPS = ("parameters",)  # what else is known of a model is that of all of its own clips


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Result:
    """One model judged under one protocol."""

    model: str
    kind: CandidateKind
    data: str = ""  # what was judged: the name of its folder or list; "" in older results
    weights: str | None  # sha256; None where there are none (codecs), or where they are random
    protocol: Protocol
    causal: bool = True  # which of the protocol's clip lengths
    summary: dict[str, Estimate]
    clips: list[ClipRecord]
    broken: dict[str, str] = field(default_factory=dict)  # clip -> why it could not be judged
    left_out: dict[str, str] = field(default_factory=dict)  # clip -> which rule it does not meet
    filled: int = 0  # clips whose last frame was repeated
    missing: dict[str, str] = field(default_factory=dict)  # metric -> why it is not given
    extra: dict[str, float] = field(default_factory=dict)  # utilization, parameters, MACs, memory
    settings: dict[str, Any] = field(default_factory=dict)  # of the model: dtype, tiles, crf, ...
    definitions: dict[str, str] = field(default_factory=dict)
    networks: list[str] = field(default_factory=list)  # that judged; none in older results
    machine: dict[str, str] = field(default_factory=dict)
    made: str = ""  # UTC, ISO 8601

    @classmethod
    def of(
        cls,
        scores: Scores,
        *,
        model: str,
        kind: CandidateKind,
        protocol: Protocol,
        weights: str | None = None,
        **more: Any,
    ) -> "Result":
        """The result that gathered scores make, with definitions, machine and time filled in."""
        summary = scores.summary()
        columns = (*summary, *more.get("extra", {}))
        return cls(
            model=model,
            kind=kind,
            weights=weights,
            protocol=protocol,
            summary=summary,
            clips=[clip.record() for clip in scores.clips.values()],
            broken=dict(scores.broken),
            missing=dict(scores.missing),
            definitions={key: text for key in columns if (text := find_metric(key).definition)},
            machine=describe_machine(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        )

    def save(self, path: str | Path) -> None:
        """Write it as JSON; nothing half-written is left behind."""
        write_file(path, _JSON.dump_json(self, indent=1))

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, as the file holds them."""
        return _JSON.dump_python(self, mode="json")

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Read what `save` wrote; ValueError where the file is something else."""
        alien = f"{path} is not a result of reeltok"
        tree = with_new_names(parse_json(Path(path).read_bytes(), f"{alien}, or"))
        result = parse_config(tree, cls, alien)
        names = [clip["name"] for clip in result.clips]
        if len({*names}) < len(names):
            raise ValueError(f"{path} is not a result of reeltok: a clip stands in it twice")
        return result

    def scores(self) -> Scores:
        """Its clips, to be paired with another result's (`scores.difference`)."""
        held = Scores(self.missing)
        for clip in self.clips:
            held.add(ClipScore(**clip))
        return held


_JSON = TypeAdapter(Result)
BEFORE = {"given": "context_frames", "judged": "scored_size", "readback": "via_mp4"}
"""What a protocol's values were called in earlier results."""


def with_new_names(tree: Any) -> Any:
    """The values of a result with those of its protocol under the names of today."""
    if not isinstance(tree, dict) or not isinstance(tree.get("protocol"), dict):
        return tree
    protocol = {BEFORE.get(key, key): value for key, value in tree["protocol"].items()}
    if (way := tree["protocol"].get("readback")) in ("float", "mp4"):
        protocol["via_mp4"] = way == "mp4"
    return {**tree, "protocol": protocol}


# ---------------------------------------------------------------- tables


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One model of a table; a metric that is not given has its reason in `missing`."""

    model: str
    kind: CandidateKind
    values: dict[str, Estimate]
    missing: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Results side by side, under one protocol and over the same clips."""

    protocol: Protocol
    judged: str  # such as "3 clips in mine"
    clips: int
    columns: list[str]
    rows: list[TableRow]
    notes: list[str]

    def text(self) -> str:
        """A Markdown table with intervals; "no weights" where a network was not found."""
        head = ["model", *self.columns]
        lines = [" | ".join(head), " | ".join("---" for _ in head)]
        lines += [
            " | ".join([row.model, *(_cell(row, column) for column in self.columns)])
            for row in self.rows
        ]
        title = f"{self.protocol.name} (version {self.protocol.version}), {self.judged}"
        return "\n".join([title, "", *(f"| {line} |" for line in lines), "", *self.notes]).rstrip()


def format_value(key: str, value: float) -> str:
    """A metric's value with its digits; with two that count where those would leave fewer."""
    metric = find_metric(key)
    if not (metric.definition and metric.digits) and abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < abs(value) < 10.0 ** (1 - metric.digits):
        return f"{value:.2g}"
    return f"{value:.{metric.digits}f}"


def _cell(row: TableRow, column: str) -> str:
    if column in row.values:
        value = row.values[column]
        if value.low is None or value.high is None:
            return format_value(column, value.mean)
        low, high = format_value(column, value.low), format_value(column, value.high)
        return f"{format_value(column, value.mean)} [{low}, {high}]"
    return "no weights" if column in row.missing else "-"


def build_table(results: Sequence[Result], columns: Iterable[str] | None = None) -> Table:
    """Put results side by side.

    Means are taken over the clips that all of them scored; where that leaves some out, a note
    says so, and what is of all of a model's clips is dropped: distances between sets, how codes
    were used, MACs and memory. Raises ValueError, naming the fields, where protocols, originals,
    the weights of networks that judged or the definitions of metrics differ.
    """
    if not results:
        raise ValueError("a table needs at least one result")
    for first, second in combinations(results, 2):  # all: an old one may lack what is compared
        check_comparable(first, second)
    names = [{clip["name"] for clip in result.clips} for result in results]
    common = set.intersection(*names)
    if not common:
        raise ValueError("no clip was scored by all of these models: there is nothing to compare")
    whole = all(len(common) == len(found) for found in names)
    rows = [
        TableRow(
            model=result.model,
            kind=result.kind,
            values=(result.summary if whole else _over(result, common))
            | _plain({k: v for k, v in result.extra.items() if whole or k in OF_NO_CLIPS}),
            missing=result.missing,
        )
        for result in results
    ]
    present = [key for row in rows for key in (*row.values, *row.missing)]
    notes = [f"{key}: {why}" for key, why in _first_reasons(results).items()]
    if not whole:
        notes.append(f"Means are over the {len(common)} clips that every model has a score for.")
    notes += note_left_out(all_left_out(results), len(common)) + note_unmatched(results, common)
    notes += note_machines(results)
    wanted = list(columns) if columns is not None else list(dict.fromkeys(present))
    return Table(
        protocol=results[0].protocol,
        judged=describe_data(results, len(common)),
        clips=len(common),
        columns=wanted,
        rows=rows,
        notes=notes,
    )


def describe_data(results: Sequence[Result], clips: int) -> str:
    """What was judged, in words: how many clips, and of which folders or lists."""
    names = list(dict.fromkeys(result.data for result in results if result.data))
    where = f" in {', '.join(names)}" if names else ""
    return f"{clips} clip{'' if clips == 1 else 's'}{where}"


def _over(result: Result, names: set[str]) -> dict[str, Estimate]:
    held = Scores()
    for clip in result.clips:
        if clip["name"] in names:
            held.add(ClipScore(**clip))
    return held.summary()


def _plain(extra: Mapping[str, float]) -> dict[str, Estimate]:
    return {key: Estimate(mean=value, clips=0) for key, value in extra.items()}


def _first_reasons(results: Sequence[Result]) -> dict[str, str]:
    found: dict[str, str] = {}
    for result in results:
        found |= {key: why for key, why in result.missing.items() if key not in found}
    return found
