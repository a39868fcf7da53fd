"""Training: data, losses, discriminators, checkpoints, the loop and its recipes.

>>> from reeltok.recipes import find_recipe
>>> from reeltok.train import change, train
>>> train(change(find_recipe("small"), {"loop.seed": "1"}), data="clips/", out="run/")

Names are fetched when first used, as in the package's own `__init__`.
"""

from typing import TYPE_CHECKING

from reeltok.lazy import fetch_from

_HOME = {
    "RECIPES": "recipes",
    "Recipe": "recipe",
    "change": "recipe",
    "as_json": "recipe",
    "train": "launch",
    "dry_run": "trial",
    "check_clips": "frames",
    "draw_runs": "logbook",
}
__all__ = list(_HOME)

if TYPE_CHECKING:
    from reeltok.train.frames import check_clips as check_clips
    from reeltok.train.launch import train as train
    from reeltok.train.logbook import draw_runs as draw_runs
    from reeltok.train.recipe import Recipe as Recipe
    from reeltok.train.recipe import as_json as as_json
    from reeltok.train.recipe import change as change
    from reeltok.train.recipes import RECIPES as RECIPES
    from reeltok.train.trial import dry_run as dry_run

__getattr__ = fetch_from("reeltok.train", _HOME)
