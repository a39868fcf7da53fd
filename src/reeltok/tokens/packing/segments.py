"""Segments of packed ids in a file: made while steps come, and found again for any range."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from reeltok.files.atomic import cache_folder
from reeltok.tokens.header import SEGMENT, bits_for
from reeltok.tokens.packing.coder import (
    UnreadableSegmentError,
    pack_segment,
    require_coder,
    unpack_segment,
)
from reeltok.tokens.packing.model import NAME, PackingModel
from reeltok.tokens.source import ReelSource

BUNDLED = Path(__file__).parents[2] / "weights"


class Packer:
    """Takes ids step by step and gives bytes; `ends` says where each segment's end.

    Raises ValueError where constriction is not installed.
    """

    def __init__(self, model: PackingModel) -> None:
        require_coder("packing ids needs constriction")
        self.model, self.bits = model, bits_for(model.config.vocabulary)
        self.waiting: Tensor | None = None
        self.ends: list[int] = []

    def add(self, ids: Int[Tensor, "b t *grid"]) -> bytes:
        """The bytes of all segments that are whole with these steps."""
        if ids.ndim != 4:
            raise ValueError(
                f"ids of steps, rows and columns are packed, these are {ids.ndim - 1}-dimensional: "
                "save them without packing"
            )
        held = ids.movedim(1, 0).cpu()
        if self.waiting is not None:
            held = torch.cat([self.waiting, held])
        whole = len(held) - len(held) % SEGMENT
        self.waiting = held[whole:]
        return b"".join(map(self.pack, held[:whole].split(SEGMENT) if whole else ()))

    def finish(self) -> bytes:
        """The bytes of the last segment, which may be shorter."""
        left, self.waiting = self.waiting, None
        return b"" if left is None or not len(left) else self.pack(left)

    def pack(self, ids: Int[Tensor, "t b h w"]) -> bytes:
        data = pack_segment(ids, self.model, self.bits)
        self.ends.append((self.ends or [0])[-1] + len(data))
        return data


class Unpacker:
    """Gives any range of steps of packed ids. The segment that was read last is kept."""

    def __init__(self, source: ReelSource, model: PackingModel, ends: list[int]) -> None:
        self.source, self.model, self.ends = source, model, ends
        self.total, *cells = source.about.grid
        self.shape = (source.about.batch, *cells)
        self.kept: tuple[int, Tensor] | None = None

    def steps(self, start: int, stop: int) -> Int[Tensor, "b t h w"]:
        """Steps `start` to `stop`. ValueError where the file's bytes are not those of ids."""
        parts = []
        for number in range(start // SEGMENT, -(-stop // SEGMENT)):
            first = number * SEGMENT
            parts.append(self.segment(number)[max(0, start - first) : stop - first])
        empty = torch.empty((0, *self.shape), dtype=torch.int64)
        return torch.cat([empty, *parts]).movedim(0, 1).contiguous()

    def segment(self, number: int) -> Int[Tensor, "t b h w"]:
        """The ids of a whole segment."""
        if self.kept is None or self.kept[0] != number:
            data = self.source.read(self.ends[number - 1] if number else 0, self.ends[number])
            steps = min(SEGMENT, self.total - number * SEGMENT)
            try:
                ids = unpack_segment(data, (steps, *self.shape), self.model, self.source.about.bits)
            except UnreadableSegmentError:
                raise self.source.altered("its packed tokens") from None
            self.kept = number, ids
        return self.kept[1]


def open_packed(source: ReelSource, packing: Path | None) -> Unpacker:
    """What reads the packed ids of a file, by the model in the file `packing` or one that is here.

    ValueError where constriction or the model is not here, or the file contradicts itself.
    """
    about, path = source.about, source.path
    assert about.packing is not None, "plain ids need no model"
    require_coder(f"{path} is packed")
    ends = source.tensor("segments").tolist()
    steady = ends == sorted({*ends}) and min(ends, default=1) > 0
    if not steady or (ends or [0])[-1] != about.payload.bytes:
        raise source.altered("the ends of its segments")
    model = find_packing(about.packing.model, () if packing is None else (packing,))
    if model is None:
        raise ValueError(
            f"{path} was packed by a packing model ({about.packing.model[:12]}) that is not here: "
            f"it lies beside the weights of the {about.model!r} that made the tokens: give its "
            "folder (`model` FOLDER)"
        )
    if model.config.vocabulary != about.vocabulary:
        raise source.altered("its vocabulary")
    return Unpacker(source, model, ends)


@lru_cache(maxsize=16)
def load_once(path: Path, changed: int) -> PackingModel:
    """The packing model in a file that was changed at that time (ns)."""
    return PackingModel.load(path)


def load_packing(path: str | Path) -> PackingModel:
    """The packing model in a file, read once. FileNotFoundError, or ValueError for another file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no packing model at {path}")
    return load_once(Path(path).resolve(), Path(path).stat().st_mtime_ns)


def find_packing(wanted: str, places: Iterable[Path] = ()) -> PackingModel | None:
    """The packing model of that hash: in one of these files, bundled, or downloaded; or None."""
    for path in places:
        if path.is_file() and load_packing(path).hash == wanted:
            return load_packing(path)
    for folder in (BUNDLED, cache_folder()):
        for path in sorted(folder.glob(f"*/{NAME}")):
            try:
                if load_packing(path).hash == wanted:
                    return load_packing(path)
            except ValueError:  # damaged, and nobody named it
                continue
    return None
