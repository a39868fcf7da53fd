"""`corpus verify`, `corpus info` and `corpus plan`: what a corpus is, and what one would take."""

from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import corpus as building
from reeltok.cli import options as given
from reeltok.cli.report import Report, facts
from reeltok.files.text import printable
from reeltok.wording import count, duration

MOST = 20  # clips without a row that are named

if TYPE_CHECKING:
    from reeltok.corpus.verify import Sample


def corpus_verify(
    corpus: building.PlaceArgument,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Clips that the corpus was built from, to compare sampled rows with; by default"
            " rows are only decoded.",
        ),
    ] = None,
    root: building.RootOption = None,
    column: building.ColumnOption = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=0, help="Number of rows to decode; 0 for none.")
    ] = 4,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random seed that chooses the rows.")
    ] = 0,
    sheet: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.png", help="Picture of the sampled rows; by default none is written."
        ),
    ] = None,
    weights: given.WeightsOption = None,
    device: given.DeviceOption = "auto",
) -> Report:
    """Check the files of a corpus against their hashes, and decode a sample of its rows.

    With --data the sample is compared with the clips: PSNR, and the share of ids (or of latents
    within 1 %) that this machine makes again; between kinds of processors it may be below 1. A
    row of which less than half is made again, or whose clip is not there, is a failure.
    """
    from reeltok.corpus.place import Place
    from reeltok.corpus.read import Corpus
    from reeltok.corpus.verify import contact_sheet, draw_rows, look, verify_files

    if not samples:
        used = {"data": data, "sheet": sheet, "weights": weights}
        given.require_use("sampled rows, and --samples is 0", **used)
    if data is None:
        given.require_use("the clips of --data", root=root, column=column)
    found = verify_files(Place(corpus))
    lines = [f"{corpus}: {count(found.files, 'file')} with {count(found.rows, 'row')} as written"]
    lines += found.faults
    record: dict[str, Any] = asdict(found)
    if found.faults:
        said = count(len(found.faults), "fault")
        return Report(data=record, text="\n".join(lines), failed=f"{corpus} has {said}")
    failed = None
    if samples and found.rows:
        opened = Corpus(corpus)
        tokenizer = opened.load(weights=weights, device=device)
        if data is not None:  # ids are made again in the type in which they were made
            tokenizer.to(given.parse_dtype(opened.tokenizer["precision"]))
        plan = None if data is None else plan_again(opened, data, root, column)
        seen = look(opened, tokenizer, draw_rows(opened, samples, seed), plan)
        record["samples"] = [sample_record(sample) for sample in seen]
        lines.append(summary(seen, compared=data is not None))
        if data is not None:
            failed = unlike(seen, data, corpus)
        if sheet is not None:
            lines.append(f"contact sheet: {contact_sheet(seen, sheet)}")
    return Report(data=record, text="\n".join(lines), failed=failed)


def plan_again(opened: Any, data: str, root: str | None, column: str | None) -> Any:
    """The plan by which a corpus was built, from the clips as they are now."""
    from reeltok.corpus.plan import plan_of_record
    from reeltok.corpus.sources import find_sources

    return plan_of_record(opened.manifest, find_sources(data, root=root, column=column))


def sample_record(sample: "Sample") -> dict[str, Any]:
    """A sample in numbers."""
    row = sample.row
    about = {"id": row.id, "bucket": row.bucket, "start": row.start}
    return {**about, "psnr": sample.psnr, "same": sample.same}


def summary(samples: "list[Sample]", *, compared: bool) -> str:
    """What a sample shows, in a line; `compared`: with the clips, as far as they are there."""
    told = f"{count(len(samples), 'row')} decoded"
    values = [sample.psnr for sample in samples if sample.psnr is not None]
    same = [sample.same for sample in samples if sample.same is not None]
    if values:
        told += f", PSNR {fmean(values):.2f} dB ({min(values):.2f} to {max(values):.2f}), "
        told += f"{fmean(same):.2%} of tokens made again"
    lost = len(samples) - len(values)
    return told + (f", {lost} without their clip" if compared and lost else "")


def unlike(samples: "list[Sample]", data: str, corpus: str) -> str | None:
    """What shows that the clips are others than those of the corpus, if anything does."""
    from reeltok.corpus.verify import ALIKE

    lost = [sample.row.id for sample in samples if sample.same is None]
    other = [sample.row.id for sample in samples if sample.same is not None and sample.same < ALIKE]
    said = []
    if lost:
        said.append(f"it has no window of {count(len(lost), 'sampled row')}, such as {lost[0]}")
    if other:
        rows = f"{count(len(other), 'sampled row')}, such as {other[0]}"
        said.append(f"less than {ALIKE:.0%} of the tokens of {rows}, are made again")
    if not said:
        return None
    return (
        f"{data} is not what {corpus} was built from: {' and '.join(said)}; name the clips that it "
        "was, or build it again from these"
    )


def corpus_info(corpus: building.PlaceArgument) -> Report:
    """Describe a corpus: clips, hours, tokens, bits per pixel, lengths and sizes."""
    from reeltok.corpus.place import Place
    from reeltok.corpus.read import read_failures, read_manifest

    place = Place(corpus)
    manifest = read_manifest(place)
    lost = read_failures(place) if manifest["failed"] or manifest["short"] else []
    lengths, sizes = histograms(manifest["buckets"])
    build, model = manifest["build"], manifest["tokenizer"]
    shown = {
        "tokenizer": f"{model['name']} ({model['weights'][:12]})",
        "windows": windows_text(build),
        "shards": manifest["shards"],
        "columns": ", ".join(manifest["columns"]) or None,
    }
    text = [building.manifest_text(manifest), facts(shown)]
    text += ["rows by frames", bars(lengths), "rows by size (width x height)", bars(sizes)]
    if lost:
        text += [
            "left out",
            *(printable(f"  {each['source']}: {each['reason']}") for each in lost[:MOST]),
        ]
        text += [f"  and {len(lost) - MOST:,} more, in failed.parquet"] * (len(lost) > MOST)
    data = {key: value for key, value in manifest.items() if key != "files"}
    data["failures"] = lost
    return Report(data={**data, "lengths": lengths, "sizes": sizes}, text="\n".join(text))


def windows_text(build: dict[str, Any]) -> str:
    """How clips were cut, for people."""
    if build["buckets"]:
        return f"buckets {', '.join(build['buckets'])}"
    if not build["frames"]:
        return "whole clips"
    return f"{build['frames']} frames, every {build['stride'] or build['frames']}"


def histograms(buckets: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Rows by frames, and by width x height."""
    lengths: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for bucket, rows in buckets.items():
        size, _, frames = bucket.rpartition("x")
        lengths[frames] = lengths.get(frames, 0) + rows
        sizes[size] = sizes.get(size, 0) + rows
    return dict(sorted(lengths.items(), key=lambda each: int(each[0]))), sizes


def bars(rows: dict[str, int], most: int = 20) -> str:
    """Counts as bars of text; of many only the most frequent."""
    chosen = sorted(rows, key=lambda name: -rows[name])[:most]
    top, width = max(rows.values(), default=1), max(map(len, chosen), default=0)
    lines = [
        f"  {name:>{width}}  {'#' * max(1, round(40 * rows[name] / top))} {rows[name]:,}"
        for name in rows
        if name in chosen
    ]
    rest = len(rows) - len(chosen)
    return "\n".join([*lines, f"  and {rest:,} more"] if rest else lines)


def plan(
    data: building.DataArgument,
    *,
    model: given.ModelOption = "default",
    weights: given.WeightsOption = None,
    frames: building.WindowsOption = None,
    stride: building.StrideOption = None,
    fps: given.RateOption = None,
    size: building.SizeOption = None,
    buckets: building.BucketsOption = None,
    shortest: building.ShortestOption = None,
    scenes: building.ScenesOption = False,
    damage: given.DamageOption = "refuse",
    keep: building.KeepOption = None,
    latents: building.LatentsOption = None,
    pack: building.PackOption = False,
    batch: building.BatchOption = 8,
    shard_clips: building.ClipsOption = 64,
    threads: building.ThreadsOption = 1,
    tile: given.TileOption = None,
    root: building.RootOption = None,
    column: building.ColumnOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of workers that share the shards.")
    ] = 1,
) -> Report:
    """Say how long `corpus build` would take, and how large the corpus would be.

    One shard is made of clips from all over DATA, and thrown away. What is assumed is said.
    """
    from reeltok.corpus import plan_corpus
    from reeltok.corpus.estimate import estimate_build

    shaping = building.parse_shaping(
        frames, stride, fps, size, buckets, shortest, scenes=scenes, damage=damage
    )
    coding = building.parse_coding(keep, latents, batch, threads, tile, shard_clips, pack=pack)
    opener = building.open_named(model, weights, dtype)
    planned = plan_corpus(data, opener, shaping=shaping, coding=coding, root=root, column=column)
    if planned.coding.keep == "ids":
        given.require_use("latents, and ids are kept", latents=latents)
    found = estimate_build(planned, opener, device=device, workers=workers)
    shown = {
        "clips": found.all_clips,
        "shards": found.shards,
        "rows": found.all_rows,
        "bytes": found.bytes,
        "workers": found.workers,
        "time": duration(found.hours * 3600),
    }
    record = {**asdict(found), "hours": found.hours, "bytes": found.bytes, "rows": found.all_rows}
    return Report(data=record, text="\n".join([facts(shown), found.assumption]))
