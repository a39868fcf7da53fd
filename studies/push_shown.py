"""A model of the pushing world as a moving picture.

    python studies/push_shown.py prior prior-push held/ --out runs/prior.webp
    python studies/push_shown.py tokenizer coordtok-push held/ --frames 128 --out runs/planes.webp
    python studies/push_shown.py flow sit-push held/ --episodes 0 1 2 3 --out runs/sit.webp

Above: held-out episodes. Below: what a prior makes of their first frames and actions alone, or a
tokenizer of the episodes. A flow, which is given nothing, makes four rows of videos of its own.
"""

import argparse
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

import reeltok
from reeltok.data.actions import read_clip_actions
from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.generate import flow
from reeltok.generate.predictor import PriorPredictor
from reeltok.video.record import to_bytes

ENLARGED = 2
ROWS = 4
Videos = UInt8[Tensor, "n t h w c"]


def reconstruct(model: str, clips: list[Clip], frames: int) -> list[Videos]:
    """The episodes, and what the tokenizer gives back."""
    tokenizer = reeltok.load(model)
    videos = [clip.read(frames=frames) for clip in clips]
    again = [tokenizer.decode(tokenizer.encode(video)).frames for video in videos]
    return [torch.stack([video.frames for video in videos]), torch.stack(again)]


def follow(model: str, tokenizer: str | None, clips: list[Clip], frames: int) -> list[Videos]:
    """The episodes, and what the prior makes of their first frames and actions."""
    prior = PriorPredictor(model, tokenizer=tokenizer)
    real = torch.stack([clip.read(frames=frames).frames for clip in clips])
    told = [read_clip_actions(clip, count=frames - 1, numbers=4) for clip in clips]
    actions = torch.cat(told)
    made = prior.follow(real[:, 0], actions, frames=frames)
    return [real, torch.stack([to_bytes(one[None]) for one in made])]


def sample(model: str, tokenizer: str | None, columns: int, seed: int) -> list[Videos]:
    """Rows of videos from noise."""
    network = flow.load(model)
    decoder = reeltok.load(tokenizer or flow.pick_clip(network.config, None).tokenizer)
    made = decoder.decode(flow.generate(network, decoder, count=ROWS * columns, seed=seed))
    assert isinstance(made, Tensor)
    return list(torch.stack([to_bytes(one[None].clamp(-1, 1)) for one in made]).split(columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("tokenizer", "prior", "flow"))
    parser.add_argument("model", help="a name or a folder")
    parser.add_argument("data", type=Path, help="episodes of `reeltok data push`")
    parser.add_argument("--episodes", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--every", type=int, default=1, help="show only every such frame")
    parser.add_argument("--seed", type=int, default=0, help="of a flow's noise")
    parser.add_argument("--tokenizer", help="by default the one that the generator names")
    parser.add_argument("--out", type=Path, required=True, help="a WebP file")
    given = parser.parse_args()
    found = find_clips(given.data)
    clips = [found[number] for number in given.episodes]
    if given.kind == "tokenizer":
        rows = reconstruct(given.model, clips, given.frames)
    elif given.kind == "prior":
        rows = follow(given.model, given.tokenizer, clips, given.frames)
    else:
        rows = sample(given.model, given.tokenizer, len(clips), given.seed)
    whole = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pictures = [Image.fromarray(frame.numpy()) for frame in whole[:: given.every]]
    size = (ENLARGED * whole.shape[2], ENLARGED * whole.shape[1])
    first, *rest = [p.resize(size, Image.Resampling.NEAREST) for p in pictures]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    first.save(
        given.out,
        save_all=True,
        append_images=rest,
        duration=100 * given.every,
        loop=0,
        quality=60,
        method=6,
    )


if __name__ == "__main__":
    main()
