"""What refined latents gain, by the number of gradient steps, and what they cost in encoding.

    python studies/refinement.py default default-kl --eval EVAL_CLIPS --every 4 --dtype fp32 bf16

17 frames of each clip, the middle square at 128 pixels: PSNR above that of the latents as the
encoder gives them, and the seconds of encoding over those of decoding in fp32, all in one run.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean

import torch
from leaning import SIZE, Shot, eval_shots

from reeltok import load
from reeltok.evaluate.results import describe_machine
from reeltok.tokenizer.contract import Tokenizer

FRAMES = 17
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS = (0, 1, 2, 4, 8, 16)


def code(model: Tokenizer, plain: Tokenizer, shot: Shot) -> tuple[float, float, float]:
    """PSNR in dB of a clip, the seconds of encoding it, and those of `plain` decoding it."""
    began = time.perf_counter()
    tokens = model.encode(shot.x)
    encoded = time.perf_counter()
    made = plain.decode(tokens)
    decoded = time.perf_counter()
    assert isinstance(made, torch.Tensor)
    error = ((made.clamp(-1, 1) - shot.x) / 2).square().mean()
    return float(-10 * torch.log10(error)), encoded - began, decoded - encoded


def judge(model: Tokenizer, plain: Tokenizer, shots: list[Shot]) -> dict[int, dict[str, object]]:
    """By the number of steps: each clip's PSNR, the mean gain, and the cost of encoding."""
    found: dict[int, dict[str, object]] = {}
    unrefined: list[float] = []
    for steps in STEPS:
        coded = [code(model.under(refine=steps), plain, shot) for shot in shots]
        scores = [score for score, _, _ in coded]
        unrefined = unrefined or scores
        gain = fmean(scores) - fmean(unrefined)
        cost = sum(encoding for _, encoding, _ in coded) / sum(decoding for *_, decoding in coded)
        found[steps] = {"psnr": scores, "gain": gain, "encoding over decoding": cost}
        print(f"{model.name}: {steps:2} steps {fmean(scores):.2f} dB, {gain:+.2f}; {cost:.1f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="tokenizers: names or folders")
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32"])
    parser.add_argument("--every", type=int, default=1, help="take one of so many clips")
    parser.add_argument("--out", type=Path, help="a file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shots = eval_shots(given.eval, FRAMES, SIZE)[:: given.every]
    results = {}
    for name in given.models:
        plain = load(name)
        for dtype in given.dtype:
            model = plain if dtype == "fp32" else load(name, dtype=DTYPES[dtype])
            steps = judge(model, plain, shots)
            told = name if dtype == "fp32" else f"{name}, {dtype}"
            results[told] = {"name": name, "weights": plain.hash(), "dtype": dtype, "steps": steps}
    if given.out:
        clips = [shot.name for shot in shots]
        whole = {"machine": describe_machine(), "clips": clips, "models": results}
        given.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
