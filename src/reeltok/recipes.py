"""A recipe by its name: those of tokenizers (`train`) and those of generators (`generate`).

>>> recipe = find_recipe("prior_cpu")
"""

from pathlib import Path

from reeltok.configuration import parse
from reeltok.files.parsing import read_object
from reeltok.generate.recipes import GENERATORS, GeneratorRecipe
from reeltok.train.recipe import Recipe, unknown_recipe
from reeltok.train.recipes import RECIPES


def find_recipe(name: str | Path) -> Recipe | GeneratorRecipe:
    """The recipe of that name, of a tokenizer or a generator, or of a run's `recipe.json`.

    ValueError names the nearest.
    """
    path = Path(name) / "recipe.json" if Path(name).is_dir() else Path(name)
    if path.suffix == ".json" and path.is_file():
        tree = read_object(path)
        if "generator" in tree:
            return parse(tree, str(path), GeneratorRecipe)
        return parse(tree, str(path), Recipe)
    if str(name) in GENERATORS:
        return GENERATORS[str(name)]()
    if str(name) not in RECIPES:
        raise unknown_recipe(str(name), [*RECIPES, *GENERATORS])
    return RECIPES[str(name)]()
