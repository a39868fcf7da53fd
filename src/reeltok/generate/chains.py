"""Examples of a prior that goes on block after block: each follows a frame as it was decoded.

A clip is coded in closed loop, one window after another: the reference of a window is the last
frame of the one before it, decoded, and its ids are those of the *true* frames against that. So
a prior meets the frames that it will meet when it goes on from its own, and learns to correct them.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from reeltok.generate import masked
from reeltok.generate.conditions import actions_by_step
from reeltok.generate.ids import Example, Examples
from reeltok.generate.prior import PriorConfig
from reeltok.models.reftok.reference import on_bytes
from reeltok.records import join_records
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.record import Tokens
from reeltok.video.record import to_bytes

TOGETHER = 128  # clips that are coded at a time
WORST = 0.2  # share of ids that is exchanged at most where a frame is disturbed


@torch.no_grad()
def tabulate_chains(
    tokenizer: Tokenizer,
    config: PriorConfig,
    clips: Iterable[Example],
    *,
    links: int,
    disturbed: float = 0.0,
    seed: int = 0,
) -> Examples:
    """The ids of `links` windows of each clip, in a row, behind its first frame.

    A prior that sees where videos start is shown that frame in all of them.
    Of a share `disturbed` of the windows some ids, up to a fifth, are exchanged before they are
    decoded for the next one. ValueError for a tokenizer without references, clips of another
    length or size, and none at all.
    """
    clip = masked.pick_clip(config, tokenizer)
    if config.reference is None:
        raise ValueError(f"{tokenizer.name} has no references: leave chain=1")
    coder, wanted = masked.following(tokenizer), 1 + links * clip.frames
    rng, parts = torch.Generator().manual_seed(seed), []
    for some in batched(clips, TOGETHER):
        x = torch.cat([example.x for example in some])
        if tuple(x.shape[2:]) != (wanted, clip.height, clip.width):
            size = (wanted, clip.height, clip.width)
            raise ValueError(f"a clip is {tuple(x.shape[2:])}, a chain is {size}: cut it so")
        reference, labels = on_bytes(x[:, :, :1]), torch.tensor([one.label for one in some])
        starts = to_frames(reference) if config.start else None
        for link in range(links):
            since = 1 + link * clip.frames
            tokens = coder.encode(x[:, :, since : since + clip.frames], reference=reference)
            parts.append(
                Examples(
                    ids=tokens.flat().cpu(),
                    labels=labels,
                    actions=actions_of_link(some, config, link),
                    references=to_frames(reference),
                    starts=starts,
                )
            )
            if link + 1 < links:
                kept = disturb(tokens, disturbed, rng)
                made = coder.decode(kept, reference=reference)
                assert isinstance(made, Tensor), "tokens of a tensor are decoded as one"
                reference = on_bytes(made[:, :, -1:].float().clamp(-1, 1))
    return join_examples(parts)


def batched(clips: Iterable[Example], count: int) -> Iterator[list[Example]]:
    """So many at a time."""
    each = iter(clips)
    while some := list(islice(each, count)):
        yield some


def actions_of_link(some: list[Example], config: PriorConfig, link: int) -> Tensor | None:
    """The actions that lead to the frames of a window, by token step. ValueError without any."""
    if not config.actions:
        return None
    if any(example.actions is None for example in some):
        raise ValueError("this prior is conditioned on actions, but a clip has none: give them")
    assert config.clip is not None
    frames = config.clip.frames
    actions = torch.cat([example.actions for example in some if example.actions is not None])
    now = actions[:, link * frames : (link + 1) * frames]
    return actions_by_step(now, config.timing, frames, follows=True)


def to_frames(reference: Tensor) -> Tensor:
    """References "b c 1 h w" in [-1, 1] as bytes "b h w c"."""
    return to_bytes(rearrange(reference, "b c 1 h w -> 1 c b h w")).cpu()


def disturb(tokens: Tokens, share: float, rng: torch.Generator) -> Tokens:
    """The tokens, of a share of the clips with some ids exchanged for others of the batch."""
    if not share or tokens.ids is None:
        return tokens
    ids: Int[Tensor, "b n"] = tokens.flat().cpu()
    chosen = torch.rand(len(ids), generator=rng) < share
    worse = torch.rand(len(ids), generator=rng) * WORST * chosen
    places = torch.rand(ids.shape, generator=rng) < worse[:, None]
    others = ids.flatten()[torch.randint(ids.numel(), ids.shape, generator=rng)]
    mixed = torch.where(places, others, ids).view(tokens.ids.shape)
    return tokens.with_(ids=mixed.to(tokens.ids.device))


def join_examples(parts: list[Examples]) -> Examples:
    """All examples in one table. ValueError for none."""
    if not parts:
        raise ValueError("there are no clips to learn from: give at least one")
    return join_records(parts)
