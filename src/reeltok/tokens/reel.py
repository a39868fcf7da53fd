"""The `.reel` file: tokens on disk. `save_tokens` and `load_tokens`: a whole clip; streams, ranges.

docs/tokens.md describes the bytes; payload.py writes and checks them.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reeltok.arguments import float_type, is_count, require_kind, said
from reeltok.tokens.dtypes import DTYPES, NAMES
from reeltok.tokens.header import SEGMENT, describe_start
from reeltok.tokens.ids import check_ids, check_latents, require_step
from reeltok.tokens.joining import require_same
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.packing.segments import Packer, Unpacker, open_packed
from reeltok.tokens.payload import ReelSink, pack_ids, tensor_bytes, unpack_ids
from reeltok.tokens.record import Tokens
from reeltok.tokens.source import ReelSource


def save_tokens(
    tokens: Tokens,
    path: str | Path,
    *,
    dtype: torch.dtype | str = torch.float16,
    packing: PackingModel | None = None,
) -> None:
    """Write a .reel file ("-": standard output): the ids, or where there are none, the latents.

    Latents are stored as `dtype`: float16, bfloat16 or float32, or its name. Ids are packed where
    there is a model for it. For errors see `ReelWriter`.
    """
    with ReelWriter(path, dtype=dtype, packing=packing) as writer:
        writer.write(tokens)


def load_tokens(path: str | Path, *, packing: str | Path | None = None) -> Tokens:
    """Read a whole .reel file ("-": standard input). For `packing` and errors see `Reel`."""
    with Reel(path, packing=packing) as reel:
        return reel.tokens()


class ReelWriter:
    """Writes the parts of one clip, of unknown total length, to a .reel file.

    >>> with ReelWriter("clip.reel") as writer:
    ...     for part in tok.stream_encode(frames):
    ...         writer.write(part)

    `packing` packs ids without loss. A folder that is missing is made. Nothing is written under the
    final name before the block ends well. Raises OSError where nothing can be written, ValueError
    for parts that do not belong together, and for ids that `packing` is not for.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: torch.dtype | str = torch.float16,
        packing: PackingModel | None = None,
    ) -> None:
        self.dtype = float_type(dtype)
        if packing is not None and not isinstance(packing, PackingModel):
            raise ValueError(
                f"packing= is a model that packs ids, found {type(packing).__name__}: give what "
                "reeltok.tokenizer.packing.packing_for(tokenizer) finds"
            )
        self.packer = None if packing is None else Packer(packing)
        self.sink = ReelSink(path)
        self.first: Tokens | None = None
        self.about: dict[str, Any] = {}  # what the file will say by that part
        self.steps = self.frames = self.reference_bits = 0
        self.times: list[Tensor] = []
        self.last: float | None = None
        self.waiting = np.empty(0, dtype=np.int64)  # fewer than 8 ids: 8 always fill whole bytes

    def write(self, part: Tokens) -> None:
        """Append the next part. ValueError for what is no `Tokens`, or can never be saved."""
        require_kind(part, Tokens, "parts of a clip are Tokens")
        if part.ids is not None and part.vocabulary is None:
            raise ValueError("ids are saved with their vocabulary, and none is known; give one")
        if self.first is None:
            self.about = describe_start(part, 8 * self.dtype.itemsize)
            self.first = part
        else:
            require_same(self.first, part)
            require_step(part.step, self.first.step + self.steps)
        if part.ids is None:
            check_latents(part.first_tensor)
            self.sink.add(tensor_bytes(narrow(part.first_tensor, self.dtype).movedim(2, 0)))
        else:
            check_ids(part.ids, part.vocabulary)
            self.put_ids(part.ids, part)
        for name in part.extras:
            if f"extras.{name}" not in self.sink.entries:
                self.sink.add_tensor(f"extras.{name}", part.extras[name])
        self.times += [] if part.times is None else [part.times]
        self.last = part.last if part.frames else self.last
        self.steps += part.grid[0]
        self.frames += part.frames
        self.reference_bits += part.reference_bits

    def put_ids(self, ids: Tensor, part: Tokens) -> None:
        """Append ids, packed or bit by bit."""
        if self.packer is None:
            flat = ids.movedim(1, 0).reshape(-1).cpu().numpy()
            return self.put(np.concatenate([self.waiting, flat]), part.bits, whole=False)
        made_for = self.packer.model.config.vocabulary
        if part.vocabulary != made_for:
            raise ValueError(
                f"the packing model is for ids below {made_for}, these are below "
                f"{part.vocabulary}: give the one of their tokenizer"
            )
        self.sink.add(self.packer.add(ids))

    def put(self, ids: np.ndarray, bits: int, *, whole: bool) -> None:
        count = len(ids) if whole else len(ids) - len(ids) % 8
        self.waiting = ids[count:]
        self.sink.add(pack_ids(ids[:count], bits).data)

    def finish(self) -> None:
        """Make the file. ValueError when nothing was written."""
        first = self.first
        if first is None or self.frames == 0:
            raise ValueError(f"no tokens were written to {self.sink.target}, so it was not made")
        packed = None if first.ids is None else self.packer
        if packed is not None:
            self.sink.add(packed.finish())
            self.sink.add_tensor("segments", torch.tensor(packed.ends, dtype=torch.int64))
        elif first.ids is not None:
            self.put(self.waiting, first.bits, whole=True)
        if self.times:
            self.sink.add_tensor("times", torch.cat(self.times).double())
        about = self.about | {
            "weights": first.weights,
            "frames": self.frames,
            "grid": [self.steps, *first.grid[1:]],
            "reference_bits": self.reference_bits,
        }
        about |= {"last": self.last} if self.times and self.last else {}
        if packed is not None:
            about["packing"] = {"model": packed.model.hash, "steps": SEGMENT}
        if first.ids is not None:
            self.sink.finish("ids", "U8", (self.sink.length,), about)
        else:
            shape = (self.steps, first.batch, about["channels"], *first.grid[1:])
            self.sink.finish("latents", NAMES[self.dtype], shape, about)

    def __enter__(self) -> "ReelWriter":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.sink.close()


class ExtraTensors(Mapping[str, Tensor]):
    """Further tensors of a file, each read and checked when it is asked for."""

    def __init__(self, source: ReelSource) -> None:
        self.source = source
        self.names = [
            name.removeprefix("extras.") for name in source.entries if name.startswith("extras.")
        ]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.source.tensor(f"extras.{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Reel:
    """An open .reel file ("-": standard input), of which any range of steps can be read.

    It answers as `Tokens` does, but `part`, `parts` and `tokens` read its tokens; `info` is the
    record of the whole clip with tensors on the meta device: shapes without values. Raises
    FileNotFoundError, and ValueError in one sentence for a file that is not a .reel, is cut off,
    was altered, or has a newer version. What is not read is not checked either.

    Packed ids are read with the packing model that packed them: the one in the file `packing`, or
    of a model that comes with this package or was downloaded.
    """

    def __init__(self, path: str | Path, *, packing: str | Path | None = None) -> None:
        self.packing = None if packing is None else Path(packing)
        self.source = ReelSource(path)
        with ExitStack() as stack:  # closes the file where something is wrong with it
            stack.callback(self.close)
            self.about = self.source.about
            self.info = self.describe()
            stack.pop_all()

    def describe(self) -> Tokens:
        about = self.about
        shape = (about.batch, *about.grid)
        ids = latents = None
        if about.channels is None:
            ids = torch.empty(shape, dtype=torch.int64, device="meta")
        else:
            shape = (about.batch, about.channels, *about.grid)
            latents = torch.empty(shape, dtype=self.dtype, device="meta")
        times = self.source.times
        return Tokens(
            ids=ids,
            latents=latents,
            frames=about.frames,
            height=about.height,
            width=about.width,
            fps=about.fps,
            model=about.model,
            weights=about.weights,
            settings=about.settings,
            vocabulary=about.vocabulary,
            reference_bits=about.reference_bits,
            latent_bits=about.bits if about.channels else 16,
            times=None if times is None else torch.tensor(times, dtype=torch.float64),
            last=about.last,
            damaged=about.damaged,
            step=about.step,
            colour=None if about.colour is None else asdict(about.colour),
            extras=ExtraTensors(self.source),
        )

    @property
    def grid(self) -> tuple[int, ...]:
        return self.info.grid

    @property
    def frames(self) -> int:
        return self.info.frames

    @property
    def height(self) -> int:
        return self.info.height

    @property
    def width(self) -> int:
        return self.info.width

    @property
    def fps(self) -> float | None:
        return self.info.fps

    @property
    def times(self) -> Tensor | None:
        return self.info.times

    @property
    def last(self) -> float | None:
        return self.info.last

    @property
    def step(self) -> int:
        return self.info.step

    @property
    def damaged(self) -> int:
        return self.info.damaged

    @property
    def model(self) -> str:
        return self.info.model

    @property
    def weights(self) -> str | None:
        return self.info.weights

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.info.settings

    @property
    def vocabulary(self) -> int | None:
        return self.info.vocabulary

    @property
    def bits_per_pixel(self) -> float:
        return self.info.bits_per_pixel

    @property
    def stored_bits(self) -> int:
        """Bits of what the file holds of tokens and references: fewer where ids are packed."""
        return self.about.stored_bits

    @property
    def packed(self) -> bool:
        """Whether ids are packed."""
        return self.about.packing is not None

    @property
    def batch(self) -> int:
        return self.info.batch

    @property
    def extras(self) -> Mapping[str, Tensor]:
        return self.info.extras

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.source.payload.dtype]

    def part(self, start: int, stop: int, *, frames: tuple[int, int] | None = None) -> Tokens:
        """Steps start..stop as `Tokens.part` gives them; reads and checks only their bytes."""
        part = self.info.part(start, stop, frames=frames)
        about = self.about
        if about.packing is not None:
            return part.with_(ids=self.unpacker.steps(start, stop))
        each = about.batch * math.prod(about.grid[1:]) * (about.channels or 1) * about.bits
        data = self.source.read(start * each // 8, -(-stop * each // 8))
        shape = (stop - start, about.batch, *about.grid[1:])
        if about.channels is None:
            packed = np.frombuffer(data, dtype=np.uint8)
            ids = unpack_ids(packed, about.bits, math.prod(shape), skip=start * each % 8)
            return part.with_(ids=torch.from_numpy(ids).reshape(shape).movedim(0, 1).contiguous())
        empty = torch.empty(0, dtype=self.dtype)
        values = torch.frombuffer(bytearray(data), dtype=self.dtype) if data else empty
        values = values.reshape(stop - start, about.batch, about.channels, *about.grid[1:])
        return part.with_(latents=values.movedim(0, 2).contiguous())

    @cached_property
    def unpacker(self) -> Unpacker:
        """Reads packed ids. ValueError where constriction or the packing model is not here."""
        return open_packed(self.source, self.packing)

    def parts(self, steps: int) -> Iterator[Tokens]:
        """All tokens in order, `steps` steps of the streaming axis at a time."""
        if not is_count(steps):
            raise ValueError(f"steps={said(steps)} is not a number of steps: give 1 or more")
        for start in range(0, max(1, self.about.grid[0]), steps):
            yield self.part(start, min(start + steps, self.about.grid[0]))

    def tokens(self) -> Tokens:
        """All tokens, with the extras read too: the file can be closed."""
        whole = self.part(0, self.about.grid[0])
        return whole.with_(extras=dict(self.info.extras))

    def close(self) -> None:
        """Close the file."""
        self.source.close()

    def __enter__(self) -> "Reel":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        self.close()


def narrow(latents: Tensor, dtype: torch.dtype) -> Tensor:
    """Latents as `dtype`. ValueError where a value is not finite or does not fit."""
    stored = latents.to(dtype)
    if not stored.isfinite().all():
        reach = latents.abs().max().item()
        raise ValueError(
            f"latents reach {reach:g}, which {dtype} cannot hold; save with dtype=torch.float32"
        )
    return stored
