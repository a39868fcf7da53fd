"""Recipes of either kind, of tokenizers (`train`) and of generators (`generate`): found and run.

>>> run_recipe(find_recipe("prior_cpu"), data="clips/", out="run/")
"""

from pathlib import Path

from reeltok.configuration import parse
from reeltok.files.parsing import read_object
from reeltok.generate.recipes import GENERATORS, GeneratorRecipe
from reeltok.generate.training import train_generator, try_generator
from reeltok.train.launch import train
from reeltok.train.recipe import Recipe, unknown_recipe
from reeltok.train.recipes import RECIPES
from reeltok.train.renames import require_new_keys
from reeltok.train.run import Run
from reeltok.train.trial import DryRun, dry_run
from reeltok.train.validation import validation_metrics


def find_recipe(name: str | Path) -> Recipe | GeneratorRecipe:
    """The recipe of that name, of a tokenizer or a generator, or of a run's `recipe.json`.

    ValueError names the nearest.
    """
    path = Path(name) / "recipe.json" if Path(name).is_dir() else Path(name)
    if path.suffix == ".json" and path.is_file():
        tree = read_object(path)
        require_new_keys(tree, str(path))
        if "generator" in tree:
            return parse(tree, str(path), GeneratorRecipe)
        return parse(tree, str(path), Recipe)
    if str(name) in GENERATORS:
        return GENERATORS[str(name)]()
    if str(name) not in RECIPES:
        raise unknown_recipe(str(name), [*RECIPES, *GENERATORS])
    return RECIPES[str(name)]()


def run_recipe(
    recipe: Recipe | GeneratorRecipe,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
) -> Run:
    """Train what the recipe is of on the clips of `data`; the run's folder is `out`."""
    if isinstance(recipe, GeneratorRecipe):
        return train_generator(recipe, data=data, out=out, resume=resume, device=device)
    score = validation_metrics()
    return train(recipe, data=data, out=out, resume=resume, device=device, score=score)


def try_recipe(recipe: Recipe | GeneratorRecipe, *, device: str | None = None) -> DryRun:
    """A few steps on noise: what a run of this recipe needs."""
    if isinstance(recipe, GeneratorRecipe):
        return try_generator(recipe, device=device)
    return dry_run(recipe, device=device)
