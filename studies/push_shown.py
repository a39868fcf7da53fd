"""A prior of the pushing world beside the simulator, as a moving picture.

    python studies/push_shown.py prior-push held/ --out runs/prior-push.webp

Above: held-out episodes. Below: what the prior makes of their first frames and actions alone.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from reeltok.data.find import find_clips
from reeltok.generate.condition_encoder import actions_of
from reeltok.generate.predictor import PriorPredictor
from reeltok.video.record import to_bytes

ENLARGED = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a prior with actions: a name or a folder")
    parser.add_argument("data", type=Path, help="episodes of `reeltok data push`")
    parser.add_argument("--episodes", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--tokenizer", help="by default the one that the prior names")
    parser.add_argument("--out", type=Path, required=True, help="a WebP file")
    given = parser.parse_args()
    prior = PriorPredictor(given.model, tokenizer=given.tokenizer)
    found = find_clips(given.data)
    clips = [found[number] for number in given.episodes]
    real = torch.stack([clip.read(frames=given.frames).frames for clip in clips])
    told = [actions_of(clip, 0, given.frames - 1, 4) for clip in clips]
    actions = torch.cat([one for one in told if one is not None])
    made = prior.follow(real[:, 0], actions, frames=given.frames)
    shown = torch.stack([to_bytes(one[None]) for one in made])
    both = torch.cat([torch.cat(list(x), dim=2) for x in (real, shown)], dim=1)
    pictures = [Image.fromarray(frame.numpy()) for frame in both]
    size = (ENLARGED * both.shape[2], ENLARGED * both.shape[1])
    first, *rest = [p.resize(size, Image.Resampling.NEAREST) for p in pictures]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    first.save(
        given.out, save_all=True, append_images=rest, duration=100, loop=0, quality=60, method=6
    )


if __name__ == "__main__":
    main()
