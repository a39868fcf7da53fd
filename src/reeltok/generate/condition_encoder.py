"""What a prior is conditioned on in a window: what is given, references, actions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from reeltok.corpus.sources import ListedClip
from reeltok.data.actions import read_clip_actions
from reeltok.data.clip import Clip
from reeltok.files.hashes import hash_text
from reeltok.generate.chains import TOGETHER, tabulate_chains
from reeltok.generate.conditions import give
from reeltok.generate.ids import Example, tokenize_examples
from reeltok.generate.prior import PriorConfig
from reeltok.generate.recipes import GeneratorRecipe
from reeltok.tokenizer.contract import Tokenizer

FIELDS = ("ids", "shown", "actions", "references", "starts")  # fields of `Examples`


@dataclass(frozen=True, eq=False, kw_only=True)
class ConditionEncoder:
    """Makes, beside the tokens of a window, the examples that a prior is trained on.

    Those are the ids by which it goes on from frames that are given, the condition videos, the
    references and the actions: the fields of `Examples`, one row for each example. A window is one
    example, or a chain of them (chains.py), and each may be mirrored.
    """

    recipe: GeneratorRecipe
    config: PriorConfig

    @property
    def record(self) -> dict[str, Any]:
        """What they depend on."""
        names = ("given", "tasks", "actions", "chain", "disturbed", "mirrored")
        about = {name: getattr(self.recipe, name) for name in names}
        frames = {"reference": self.config.reference is not None, "start": self.config.start}
        return {"prior": about | frames}

    @property
    def needed(self) -> bool:
        """Whether there is more in them than the window's own ids."""
        recipe, given = self.recipe, masks_of(self.recipe, self.config)
        more = recipe.actions or recipe.mirrored is not None
        return bool(given or more or self.config.reference is not None)

    def __call__(
        self,
        tokenizer: Tokenizer,
        x: Float[Tensor, "b c t h w"],
        sources: Sequence[ListedClip],
        firsts: Sequence[int],
    ) -> list[dict[str, Tensor]]:
        """For each window its examples, by field."""
        made = [
            example
            for clip, source, first in zip(x.split(1), sources, firsts, strict=True)
            for example in self._examples(clip, source.clip, first)
        ]
        names = [f"{source.name}#{first}" for source, first in zip(sources, firsts, strict=True)]
        parts = [
            self._tabulated(tokenizer, made[i : i + TOGETHER], int(hash_text(names[0], 8), 16) + i)
            for i in range(0, len(made), TOGETHER)
        ]
        fields = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        per = len(made) * self.recipe.chain // len(x)
        return [
            {name: value[i * per : (i + 1) * per] for name, value in fields.items()}
            for i in range(len(x))
        ]

    def _examples(self, x: Tensor, clip: Clip, first: int) -> list[Example]:
        """A window as it is, and mirrored where the recipe asks for it."""
        recipe, actions = self.recipe, None
        if recipe.actions:
            wanted = {"count": x.shape[2] - 1, "numbers": recipe.actions}
            actions = read_clip_actions(clip, first=first, **wanted)
        found = [Example(x=x, actions=actions)]
        if recipe.mirrored is not None:
            if actions is not None:
                actions = actions.clone()
                actions[:, :, list(recipe.mirrored)] *= -1
            found.append(Example(x=x.flip(4), actions=actions))
        return found

    def _tabulated(self, tokenizer: Tokenizer, made: list[Example], seed: int) -> dict[str, Tensor]:
        """The fields of examples, one after another; those of a chain follow one another."""
        recipe = self.recipe
        if recipe.chain > 1:
            links, disturbed = recipe.chain, recipe.disturbed
            found = tabulate_chains(
                tokenizer, self.config, made, links=links, disturbed=disturbed, seed=seed
            )
            turn = lambda v: rearrange(v, "(l n) ... -> (n l) ...", l=links)
        else:
            given = masks_of(recipe, self.config)
            found, turn = tokenize_examples(tokenizer, self.config, made, given=given), lambda v: v
        held = {name: getattr(found, name) for name in FIELDS}
        return {name: turn(value) for name, value in held.items() if value is not None}


def masks_of(recipe: GeneratorRecipe, config: PriorConfig) -> list[Bool[Tensor, "t h w"]]:
    """What is given of an example in each of the recipe's tasks; nothing where it is always none.

    A RefTok's reference is given anyway, and is none of the example's frames.
    """
    clip, first = config.clip, max(0, recipe.given - int(config.reference is not None))
    assert clip is not None, "masked.config_for says what the ids stand for"
    if recipe.tasks == ("predict",) and not first:
        return []
    size = (clip.height, clip.width)
    return [give(task, clip.frames, size, first=first) for task in recipe.tasks]
