"""What can be asked of a generator by name."""

from collections.abc import Sequence

from reeltok.files.text import nearest


def find_class(classes: Sequence[str], name: str) -> int:
    """The number of a class. ValueError that names the nearest one for an unknown name."""
    if name in classes:
        return list(classes).index(name)
    if not classes:
        raise ValueError(f"class {name!r} was given, but the model is unconditional: leave it out")
    if near := nearest(name, classes, cutoff=0.6):
        raise ValueError(f"there is no class {name!r}: did you mean {near!r}?")
    few = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    raise ValueError(f"there is no class {name!r}: name one of {few}")
