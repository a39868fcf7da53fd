"""What do tiles save and cost? Peak memory and processor time of coding large frames, as ratios.

    python bench/tiles.py [--tiles 0 512 256] [--height 1080] [--width 1920] [--model default]

Every tile (0: whole frames) runs in a process of its own, which encodes a clip of noise as a stream
and, with --decode, decodes it too. The ratios are to the first; ids are counted against its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from machine import describe, peak_mib

import reeltok
from reeltok.video.record import Video


def run(options: argparse.Namespace) -> None:
    """Code the clip in tiles of `options.run` pixels, write its ids, print what it took."""
    warnings.simplefilter("ignore")
    tok, tile = reeltok.load(options.model, weights="random"), options.run or None
    generator = torch.Generator().manual_seed(0)
    size = (options.height, options.width, 3)
    still = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    frames = (Video(still.roll(i, 0)[None], fps=24.0) for i in range(options.frames))
    before = time.process_time()
    parts = list(tok.stream_encode(frames, tile=tile))
    shown = sum(len(part) for part in tok.stream_decode(parts, tile=tile)) if options.decode else 0
    spent = time.process_time() - before
    assert shown == options.decode * options.frames
    torch.save(torch.cat([part.ids for part in parts], 1), options.out)
    print(json.dumps({"peak MiB": peak_mib(), "processor s": round(spent, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, nargs="+", default=[0, 512, 256])
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--model", default="default")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        run(options)
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        first = None
        for tile in options.tiles:
            out = str(Path(folder) / f"{tile}.pt")
            command = [sys.executable, *sys.argv, "--run", str(tile), "--out", out]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found, ids = json.loads(done.stdout), torch.load(out)
            first = first or (found, ids)
            ratios = {f"{key} ratio": round(found[key] / first[0][key], 2) for key in found}
            rows[tile] = found | ratios | {"ids changed": int((ids != first[1]).sum())}
    print(json.dumps({"machine": describe(), "model": options.model, "tiles": rows}, indent=1))


if __name__ == "__main__":
    main()
