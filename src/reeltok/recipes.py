"""Recipes of any kind, of tokenizers, packing models and generators: found and run.

>>> run_recipe(find_recipe("prior_cpu"), data="clips/", out="run/")
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reeltok.configuration import parse
from reeltok.files.parsing import read_object
from reeltok.generate.pixels.recipe import PIXELS, PixelRecipe
from reeltok.generate.recipes import GENERATORS, GeneratorRecipe, read_generator
from reeltok.train.launch import train
from reeltok.train.packing import train_packing, try_packing
from reeltok.train.packing_recipes import PACKINGS, PackingRecipe
from reeltok.train.recipe import Recipe, unknown_recipe
from reeltok.train.recipes import RECIPES
from reeltok.train.renames import require_new_keys
from reeltok.train.run import Run
from reeltok.train.trial import DryRun, dry_run
from reeltok.train.validation import validation_metrics

AnyRecipe = Recipe | GeneratorRecipe | PackingRecipe | PixelRecipe
KINDS = {"generator": GeneratorRecipe, "packs": PackingRecipe, "predicts": PixelRecipe}
"""By what a recipe.json says that others do not; any other is a tokenizer's."""


def find_recipe(name: str | Path) -> AnyRecipe:
    """The recipe of that name, of a tokenizer, a packing model or a generator.

    `name` may also be a run's `recipe.json`. ValueError names the nearest.
    """
    path = Path(name) / "recipe.json" if Path(name).is_dir() else Path(name)
    if path.suffix == ".json" and path.is_file():
        tree = read_object(path)
        require_new_keys(tree, str(path))
        kind: type[Any] = next((KINDS[key] for key in KINDS if key in tree), Recipe)
        return read_generator(path) if kind is GeneratorRecipe else parse(tree, str(path), kind)
    known: dict[str, Callable[[], AnyRecipe]] = {
        **RECIPES,
        **GENERATORS,
        **PACKINGS,
        **PIXELS,
    }
    if str(name) not in known:
        raise unknown_recipe(str(name), known)
    return known[str(name)]()


def run_recipe(
    recipe: AnyRecipe,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
    show: Callable[[int], Any] | None = None,
) -> Run:
    """Train what the recipe is of on the clips of `data`; the run's folder is `out`.

    `show` displays how many clips a generator's examples are made of, as `train_generator` says.
    """
    if isinstance(recipe, GeneratorRecipe):
        from reeltok.generate.training import train_generator  # its corpus needs an extra

        return train_generator(recipe, data=data, out=out, resume=resume, device=device, show=show)
    if isinstance(recipe, PackingRecipe):
        return train_packing(recipe, data=data, out=out, resume=resume, device=device)
    if isinstance(recipe, PixelRecipe):
        from reeltok.generate.pixels.training import train_pixels

        return train_pixels(recipe, data=data, out=out, resume=resume, device=device)
    score = validation_metrics(recipe.loop.best, recipe.data.validation.size)
    return train(recipe, data=data, out=out, resume=resume, device=device, score=score)


def try_recipe(recipe: AnyRecipe, *, device: str | None = None) -> DryRun:
    """A few steps on noise: what a run of this recipe needs."""
    if isinstance(recipe, GeneratorRecipe):
        from reeltok.generate.training import try_generator

        return try_generator(recipe, device=device)
    if isinstance(recipe, PackingRecipe):
        return try_packing(recipe, device=device)
    if isinstance(recipe, PixelRecipe):
        from reeltok.generate.pixels.training import try_pixels

        return try_pixels(recipe, device=device)
    return dry_run(recipe, device=device)
