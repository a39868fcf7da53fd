"""What does building a corpus cost beside the encoder, and how fast is it read and exported?

    python bench/corpus.py [--clips 200] [--rows 100000] [--model default] [--size 64] [--only PART]

Clips of 24 frames are made for the purpose. Everything is timed in the same run, the peer being
`encode_file` in a loop: the ratio is what counts. Peak memory is that of a process of its own, for
a quarter, a half and all of the clips. Rows are synthetic: ids that nothing encoded. `--only` names
one of the parts building, memory, reading.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import describe, peak_mib

import reeltok
from reeltok.corpus import (
    Corpus,
    Engine,
    NamedTokenizer,
    Row,
    Shaping,
    WindowCoding,
    build_corpus,
    plan_corpus,
)
from reeltok.corpus.build import ShardFiles
from reeltok.corpus.finish import finish_corpus
from reeltok.corpus.formats.export import export_corpus
from reeltok.corpus.place import Place
from reeltok.corpus.plan import Plan, write_plan
from reeltok.corpus.read import read_manifest
from reeltok.corpus.sidecar import write_sidecar
from reeltok.corpus.sources import ListedClip
from reeltok.corpus.verify import verify_files
from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.transcode import Cut, encode_file
from reeltok.video.record import Video

FRAMES, EACH = 24, 17  # of a clip, and of a window
SHARD = 1000  # synthetic rows


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def make_clips(folder: Path, count: int, size: int) -> Path:
    """Clips of a moving picture, half as large again as the windows."""
    generator = torch.Generator().manual_seed(0)
    side = size * 3 // 2
    folder.mkdir()
    for number in range(count):
        small = torch.rand(1, 3, 8, 8, generator=generator)
        still = torch.nn.functional.interpolate(small, (side, side), mode="bicubic")[0]
        still = (still.clamp(0, 1).permute(1, 2, 0) * 255).to(torch.uint8)
        frames = torch.stack([still.roll((i, 2 * i), (0, 1)) for i in range(FRAMES)])
        reeltok.write(Video(frames, fps=12.0), folder / f"{number:04d}.mp4")
    return folder


def shaping_of(size: int) -> Shaping:
    return Shaping(frames=EACH, size=(size, size))


def build(
    clips: Path,
    out: Path,
    model: str,
    size: int,
    *,
    jobs: int,
    decoders: int = 0,
    device: str = "cpu",
) -> None:
    """The corpus of a folder of clips."""
    opener = NamedTokenizer(load=model)
    plan = plan_corpus(clips, opener, shaping=shaping_of(size), coding=WindowCoding(clips=16))
    engine = Engine(device=device, jobs=jobs, decoders=decoders)
    build_corpus(plan, out, opener, engine=engine)


def measure_building(clips: Path, base: Path, model: str, size: int) -> dict[str, Any]:
    """Clips per second by one process, two, and a loop of `encode_file`; the encoder's share."""
    tokenizer = reeltok.load(model)
    count = len(list(clips.iterdir()))
    torch.set_num_threads(1)
    inside = 0.0
    code = type(tokenizer).encode

    def clocked(self: Any, *given: Any, **how: Any) -> Any:
        nonlocal inside
        began = time.perf_counter()
        try:
            return code(self, *given, **how)
        finally:
            inside += time.perf_counter() - began

    (base / "reels").mkdir()
    found = find_clips(clips)

    def loop() -> None:
        for clip in found:
            cut = Cut(frames=EACH, size=(size, size))
            encode_file(tokenizer, clip, base / "reels" / f"{clip.stem}.reel", cut=cut)

    alone = timed(loop)
    type(tokenizer).encode = clocked  # type: ignore[method-assign]
    try:
        one = timed(lambda: build(clips, base / "one", model, size, jobs=1))
    finally:
        type(tokenizer).encode = code  # type: ignore[method-assign]
    two = timed(lambda: build(clips, base / "two", model, size, jobs=2))
    ahead = timed(lambda: build(clips, base / "ahead", model, size, jobs=1, decoders=1))
    rates = {"encode in a loop": alone, "1 worker": one, "2 workers": two, "1 decoder ahead": ahead}
    return {
        "clips": count,
        "share of time outside the encoder": round(1 - inside / one, 3),
        "clips per second": {name: round(count / each, 2) for name, each in rates.items()},
        "ratio to encode in a loop": {name: round(alone / each, 2) for name, each in rates.items()},
    }


def measure_memory(clips: Path, base: Path, model: str, size: int) -> dict[str, Any]:
    """Peak memory for a quarter, a half and all of the clips, each in its own process."""
    files = sorted(clips.iterdir())
    peaks = {}
    for part in (4, 2, 1):
        some = base / f"list-{part}.txt"
        some.write_text("\n".join(str(file) for file in files[: len(files) // part]))
        command = [sys.executable, __file__, "--memory", str(some), "--out", str(base / f"m{part}")]
        command += ["--model", model, "--size", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[len(files) // part] = int(done.stdout)
    first = next(iter(peaks.values()))
    return {n: {"peak MiB": peak, "ratio": round(peak / first, 3)} for n, peak in peaks.items()}


def make_rows(place: Place, count: int, model: str) -> None:
    """A finished corpus of synthetic ids."""
    tokenizer = reeltok.load(model)
    sources = [
        ListedClip(clip=Clip(path=Path(f"{i:07d}.mp4")), caption=f"clip {i}") for i in range(count)
    ]
    plan = plan_for(sources, tokenizer)
    write_plan(plan, place)
    grid = tokenizer.grid_for(EACH, (64, 64))
    generator = torch.Generator().manual_seed(0)
    for number in range(plan.count):
        files = ShardFiles(plan, number, place)
        for source in plan.shard(number):
            ids = torch.randint(tokenizer.spec.vocabulary or 1, grid, generator=generator)
            files.add(
                Row(
                    id=f"{source.name}#0000",
                    source=source.name,
                    fps=12.0,
                    frames=EACH,
                    height=64,
                    width=64,
                    source_height=64,
                    source_width=64,
                    caption=source.caption,
                    ids=ids,
                )
            )
        write_sidecar(files.finish((), clips=len(plan.shard(number))), place)
    finish_corpus(place)


def plan_for(sources: list[ListedClip], tokenizer: Any) -> Plan:
    from reeltok.corpus.plan import make_plan

    coding = WindowCoding(clips=SHARD)
    return make_plan(sources, tokenizer, shaping=shaping_of(64), coding=coding, load=tokenizer.name)


def measure_reading(base: Path, rows: int, model: str) -> dict[str, Any]:
    """Seconds for synthetic rows: made, described, verified, opened; rows per second read."""
    place = Place(base / "rows")
    seconds = {"make": timed(lambda: make_rows(place, rows, model))}
    seconds["info"] = timed(lambda: read_manifest(place))
    seconds["verify"] = timed(lambda: verify_files(place))
    seconds["open"] = timed(lambda: Corpus(place))
    corpus = Corpus(place)
    ways: dict[str, Callable[[], Any]] = {
        "in order": lambda: [row.id for row in corpus],
        "map-style, in order": lambda: [corpus[i].id for i in range(rows)],
        "shuffled batches of 8": lambda: sum(len(batch) for batch in corpus.batches(8)),
    }
    for name in ("megatron", "torchtitan"):
        ways[f"export to {name}"] = partial(export_corpus, place, base / name, to=name)
    rates, busy = {}, {}
    for name, work in ways.items():
        began = time.process_time()
        rates[name] = timed(work)
        busy[name] = time.process_time() - began
    return {
        "rows": rows,
        "seconds": {name: round(each, 3) for name, each in seconds.items()},
        "rows per second": {name: round(rows / each) for name, each in rates.items()},
        "of processor time": {name: round(rows / each) for name, each in busy.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", default="default")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--only", choices=("building", "memory", "reading"))
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.memory:
        build(options.memory, options.out, options.model, options.size, jobs=1)
        print(peak_mib())
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        clips = make_clips(base / "clips", options.clips, options.size)
        parts = {
            "building": lambda: measure_building(clips, base, options.model, options.size),
            "memory": lambda: measure_memory(clips, base, options.model, options.size),
            "reading": lambda: measure_reading(base, options.rows, options.model),
        }
        chosen = [options.only] if options.only else [*parts]
        found = {"machine": describe(), "model": options.model}
        found |= {name: parts[name]() for name in chosen}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
