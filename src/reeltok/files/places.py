"""Names of outputs, checked before anything is made: nothing that is read may be replaced."""

import os
from collections.abc import Sequence
from pathlib import Path

from reeltok.files.atomic import same_file

PIPE = "-"  # standard input or output


def check_apart(source: str | Path, target: str | Path, *, inside: bool = False) -> None:
    """ValueError where writing `target` would replace `source`, whatever the two are called.

    `inside`: also where `source` is a folder and `target` would be in it.
    """
    if PIPE in (str(source), str(target)):
        return
    if same_file(source, target):
        raise ValueError(f"{target} is what is read ({source}): name another output")
    if inside and Path(source).is_dir():
        place = Path(target).resolve()
        if place.is_relative_to(Path(source).resolve()):
            raise ValueError(f"{target} lies in what is read ({source}): name another output")


def check_place(*outputs: str) -> None:
    """OSError unless something can be made under these names, with the folders above them."""
    for out in outputs:
        above = next(folder for folder in Path(out).absolute().parents if os.path.lexists(folder))
        if out != PIPE and not above.is_dir():
            raise NotADirectoryError(f"{above} is not a folder, so {out} cannot be made")
        if out != PIPE and not os.access(above, os.W_OK):
            raise PermissionError(f"the folder {above} is not writable: choose another")


def check_free(
    targets: Sequence[str], *, force: bool, inputs: Sequence[str | Path | None] = ()
) -> None:
    """FileExistsError where a named output is there already and is not to be replaced.

    ValueError where one would replace something that is read, `force` or not.
    """
    for target in targets:
        for source in inputs:
            if source is not None:
                check_apart(source, target)
        if not force and target != PIPE and os.path.lexists(target):
            raise FileExistsError(f"{target} exists already: give `force` to replace it")


def check_folder(out: str | Path, *, force: bool, inputs: Sequence[str | Path | None] = ()) -> None:
    """Errors of `check_place` for the folder of a model; FileExistsError where one is there.

    ValueError where the folder lies in what is read or would replace it, `force` or not.
    """
    config, weights = (str(Path(out) / name) for name in ("config.json", "model.safetensors"))
    check_place(config)
    for source in inputs:
        if source is not None:
            for place in (out, config, weights):
                check_apart(source, place, inside=True)
    check_free([config], force=force)


def check_replaced(
    out: str | Path, *, record: str, inputs: Sequence[str | Path | None] = ()
) -> None:
    """ValueError where to make the folder `out` anew would lose more than an earlier output.

    A folder that is there must be empty or hold the file `record`, which every output has, and
    nothing that is read may lie in it.
    """
    place = Path(out)
    if not place.is_dir():
        return
    for source in inputs:
        if source is None or not Path(source).exists():
            continue
        if Path(source).resolve().is_relative_to(place.resolve()):
            raise ValueError(f"{source}, which is read, lies in {out}: name another folder")
    if any(place.iterdir()) and not (place / record).is_file():
        raise ValueError(f"the folder {out} holds other files: name a new or an empty one")


def check_result(
    out: Path | None, *, force: bool, inputs: Sequence[str | Path | None] = ()
) -> None:
    """Errors of `check_free` and `check_place` for the file of a result; nothing without one.

    ValueError too where it would replace a file in a folder that is read, `force` or not.
    """
    if out is not None:
        for source in inputs:
            if source is not None and os.path.lexists(out):
                check_apart(source, out, inside=True)
        check_free([str(out)], force=force, inputs=inputs)
        check_place(str(out))
