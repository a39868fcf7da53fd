"""A trained generator as it is bundled: rows of few bits, a model card, frames to begin with.

    python -m reeltok.generate.bundle RUN OUT --hardware "2 cores of ..." [--starts EPISODES]

The tokenizer does not travel with it: train a generator on the tokenizer as it is bundled, in 8-bit
rows itself, since its ids stand for those weights alone.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from reeltok.data.find import find_clips
from reeltok.files.atomic import replacing, write_file
from reeltok.generate import flow, masked
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.folder import STARTS, family_of, save_generator
from reeltok.generate.recipes import GENERATORS, read_generator
from reeltok.tokenizer.rows import Bits, pack_rows, unpack_rows
from reeltok.train.bundle import answer, require_equal
from reeltok.train.card import command, curve, held_out, seconds_of, used_precision, wrap_lines
from reeltok.train.logbook import read_lines
from reeltok.train.recipes import as_json
from reeltok.video.record import write
from reeltok.wording import duration

SCORES = {
    "held_out": "loss",
    "masked": "loss of masked ids",
    "rare": "of those that are not the commonest",
    "accuracy": "masked ids right",
}
OPTIONS = {"hardware": "--hardware", "starts": "--starts"}


def bundle_generator(
    run: str | Path,
    out: str | Path,
    *,
    hardware: str,
    starts: str | Path | None = None,
    count: int = 6,
    bits: Bits = 8,
    notes: Sequence[str] = (),
) -> Path:
    """Write the best model of the generator's run `run` as the folder `out`, small; that folder.

    Matrices are stored in `bits`. The card says the `hardware`, hours, command and curve of the
    run, then `notes`. Of the first `count` episodes in `starts` the first frame and all actions
    come along. FileNotFoundError or ValueError where `run` is not a generator's.
    """
    run, out = Path(run), Path(out)
    recipe = json.loads(as_json(read_generator(run / "recipe.json")))
    source = next((run / kind for kind in ("best", "model") if (run / kind).is_dir()), run)
    family = family_of(source)
    load = masked.load if family == "masked" else flow.load
    model: Any = load(source)
    folder = save_generator(model, out, family=family, bits=bits)
    state = model.state_dict()
    require_equal(load(folder), unpack_rows(pack_rows(state, bits)), folder)
    lines = read_lines(run / "log.jsonl")
    parts = [
        f"# Model card: `{out.resolve().name}`",
        wrap_lines(describe_generator(model, model.config.clip, folder, bits)),
        wrap_lines(f"**Training.** {course(recipe, lines, hardware)}"),
        f"    {command(recipe, GENERATORS)}",
        *([curve(lines, SCORES)] if any(line.get("validation") for line in lines) else []),
        *(wrap_lines(note) for note in notes),
    ]
    write_file(folder / "README.md", "\n\n".join(parts) + "\n")
    if starts is not None:
        copy_starts(starts, folder, count)
    return folder


def describe_generator(model: nn.Module, clip: ClipSpec, folder: Path, bits: int) -> str:
    """What the model is, and what its folder stores."""
    size = (folder / "model.safetensors").stat().st_size / 2**20
    return (
        f"Makes tokens of `{clip.tokenizer}` (weights `{str(clip.weights)[:12]}`) for "
        f"{clip.frames} frames of {clip.height}x{clip.width} pixels. "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {size:.1f} MiB in "
        f"rows of {bits} bits, MIT licence. Configuration: `config.json`."
    )


def course(recipe: dict[str, Any], lines: Sequence[Any], hardware: str) -> str:
    """How a run went, in sentences."""
    loop, window = recipe["loop"], recipe["data"]["windows"][0]
    steps = max((line["step"] for line in lines), default=0)
    optimizer = loop["optimizer"]
    return (
        f"Recipe `{recipe['name']}`, {steps:,} steps of {window['batch']} examples on {hardware}, "
        f"{duration(seconds_of(lines))}; {used_precision(lines, loop)}, {optimizer['kind']} at "
        f"rate {optimizer['lr']:g}. {held_out(lines, recipe['data']['holdout'], 'clips')}"
    )


def copy_starts(episodes: str | Path, folder: Path, count: int) -> None:
    """The first frame of each of the first `count` episodes, and its actions, into `folder`."""
    with replacing(folder / STARTS, folder=True) as part:
        for clip in find_clips(episodes)[:count]:
            actions = clip.path.with_suffix(".actions.npy")
            write(clip.read(frames=1), part / f"{clip.path.stem}.mkv", lossless=True)
            shutil.copy(actions, part / actions.name)


def main(words: Sequence[str]) -> int:
    """The command: 0, or 2 after an error, which is said in one sentence."""
    asked = argparse.ArgumentParser(prog="python -m reeltok.generate.bundle", description=__doc__)
    asked.add_argument("run", metavar="RUN", help="folder of a generator's run")
    asked.add_argument("out", metavar="OUT", help="folder to write, which gives the name")
    asked.add_argument("--hardware", required=True, help="what the run ran on, for the card")
    asked.add_argument("--starts", help="episodes whose first frames come along")
    asked.add_argument("--bits", type=int, choices=(6, 8), default=8, help="of matrices (8)")
    asked.add_argument("--note", dest="notes", action="append", default=[], metavar="TEXT")
    return answer(bundle_generator, asked, words, OPTIONS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
