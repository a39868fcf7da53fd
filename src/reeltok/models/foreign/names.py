"""The names of foreign tokenizers, which only a user gives: one parser for every command.

diffusers:FOLDER       an autoencoder that diffusers saved (a pipeline's `vae` too), or OWNER/NAME
diffusers:CLASS        that class of diffusers with random weights; CLASS=FOLDER with a folder's
cosmos:FOLDER          encoder.jit and decoder.jit, as Cosmos has them; so does FOLDER alone
cosmos:FILE,FILE       the two by their names
module:function        any function, or anything with `encode` and `decode`
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PAIR = ("encoder.jit", "decoder.jit")
FUNCTION = re.compile(r"([^\W\d]\w*\.)*[^\W\d]\w*:[^\W\d]\w*")
HOW = (
    "give diffusers:FOLDER, diffusers:CLASS or diffusers:CLASS=FOLDER, cosmos:FOLDER, "
    "cosmos:ENCODER.jit,DECODER.jit, or module:function"
)


@dataclass(frozen=True, kw_only=True)
class ForeignName:
    """What a name asks for: a class of diffusers and a place, two files, or a function."""

    kind: Literal["diffusers", "torchscript", "function"]
    text: str
    cls: str | None = None
    place: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def runs_code(self) -> bool:
        """Whether to open it runs what its author wrote."""
        return self.kind != "diffusers"


def parse_foreign(name: str) -> ForeignName | None:
    """What `name` asks for; None where it is not a name of a foreign tokenizer.

    ValueError for one that begins as such a name and is not whole, FileNotFoundError for a folder
    or file that is not there.
    """
    if is_pair(Path(name)):
        return ForeignName(kind="torchscript", text=name, files=pair_in(Path(name)))
    kind, colon, rest = name.partition(":")
    if not colon or Path(name).is_dir():
        return None
    if kind in ("diffusers", "cosmos") and not rest.strip():
        raise ValueError(f"{name!r} names no tokenizer: {HOW}")
    if kind == "diffusers":
        return parse_diffusers(name, rest)
    if kind == "cosmos":
        return ForeignName(kind="torchscript", text=name, files=parse_pair(rest))
    return ForeignName(kind="function", text=name) if FUNCTION.fullmatch(name) else None


def parse_diffusers(name: str, rest: str) -> ForeignName:
    """CLASS, CLASS=PLACE or PLACE; a lone word that is not a folder is a class."""
    cls, equals, place = rest.partition("=")
    if equals and cls.isidentifier():
        if not place:
            raise ValueError(f"{name!r} names no folder behind the =: {HOW}")
        return ForeignName(kind="diffusers", text=name, cls=cls, place=place)
    if rest.isidentifier() and not Path(rest).is_dir():
        return ForeignName(kind="diffusers", text=name, cls=rest)
    return ForeignName(kind="diffusers", text=name, place=rest)


def parse_pair(rest: str) -> tuple[Path, ...]:
    """The files of "ENCODER,DECODER" or of a folder."""
    folder = Path(rest)
    files = pair_in(folder) if folder.is_dir() else tuple(map(Path, rest.split(",")))
    if len(files) != 2:
        raise FileNotFoundError(
            f"there is no folder {rest}: give one with {' and '.join(PAIR)}, or the two files as "
            "cosmos:ENCODER.jit,DECODER.jit"
        )
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}: give an encoder and a decoder")
    return files


def is_pair(folder: Path) -> bool:
    """Whether a folder holds an encoder and a decoder of TorchScript."""
    return (folder / PAIR[0]).is_file()


def pair_in(folder: Path) -> tuple[Path, ...]:
    """The two files of a folder."""
    return tuple(folder / file for file in PAIR)
