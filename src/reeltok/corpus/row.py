"""One row of a corpus: a window of a clip in tokens, and how tensors are stored in it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from reeltok.corpus.packing import pack_row, unpack_row
from reeltok.records import register
from reeltok.tokens.header import bits_for
from reeltok.tokens.packing.coder import UnreadableSegmentError
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.payload import pack_ids, tensor_bytes, unpack_ids
from reeltok.tokens.record import Tokens

PLAIN = {
    "id": "string",
    "source": "string",
    "origin": "string",
    "group": "string",
    "start": "float64",
    "fps": "float64",
    "frames": "int32",
    "height": "int32",
    "width": "int32",
    "source_height": "int32",
    "source_width": "int32",
    "bucket": "string",
    "caption": "string",
    "settings": "string",
}
"""Columns that every shard has, and their types."""
PAYLOADS = {
    "ids": ("ids_bytes", "ids_shape"),
    "latents": ("latents_bytes", "latents_shape", "latents_dtype"),
    "moments": ("latents_bytes", "latents_shape", "latents_dtype", "log_variance_bytes"),
}
"""By what is kept: the columns of the tokens."""
ENDS = "ids_ends"  # of packed ids: after which byte each segment ends
TEXT = ("text_bytes", "text_shape", "text_dtype")
EXTRAS, BESIDE = "extras_bytes", "beside_bytes"
TAKEN = {*PLAIN, *TEXT, ENDS, EXTRAS, BESIDE}.union(*PAYLOADS.values())
"""Names of columns that no further column can have."""
ROW_TENSORS = ("ids", "latents", "log_variance", "text")  # fields of a row
FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """A window of `frames` frames of `height` x `width` pixels as ids or raw latents.

    It begins at `start` seconds of `source`; `fps` in Hz is None for a picture. `latents` are on
    the tokenizer's own scale and not normalised; with `log_variance` they are means. `text` is an
    embedding of the caption. `further` are the other columns of the manifest. Clips of one `origin`
    are held out together. `beside` are tensors that a generator has made of the window.
    """

    id: str
    source: str
    origin: str = ""
    group: str = ""
    start: float = 0.0
    fps: float | None = None
    frames: int
    height: int
    width: int
    source_height: int
    source_width: int
    caption: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    ids: Int64[Tensor, "*grid"] | None = None
    latents: Float[Tensor, "c *grid"] | None = None
    log_variance: Float[Tensor, "c *grid"] | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    text: Float[Tensor, "l d"] | None = None
    further: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def bucket(self) -> str:
        """Width, height and frames: rows of one bucket can be one batch."""
        return bucket_name(self.width, self.height, self.frames)

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        if self.ids is not None:
            return self.ids.numel()
        assert self.latents is not None
        return prod(self.latents.shape[1:])


def bucket_name(width: int, height: int, frames: int) -> str:
    """The name of a bucket: 448x256x17 is width x height x frames."""
    return f"{width}x{height}x{frames}"


# ---------------------------------------------------------------- to and from columns


def to_columns(
    row: Row, *, vocabulary: int | None, packing: PackingModel | None = None
) -> dict[str, Any]:
    """A row's values by column; ids in the bits of the vocabulary, or packed by a model."""
    values: dict[str, Any] = {name: getattr(row, name) for name in PLAIN}
    values["settings"] = json.dumps(dict(row.settings), sort_keys=True)
    if row.ids is not None:
        values |= _stored_ids(row.ids, vocabulary or 1, packing)
    if row.latents is not None:
        values |= _stored("latents", row.latents)
    if row.log_variance is not None:
        values["log_variance_bytes"] = tensor_bytes(row.log_variance)
    if row.text is not None:
        values |= _stored("text", row.text)
    for name, tensors in ((EXTRAS, row.extras), (BESIDE, row.beside)):
        if tensors:
            values[name] = save_tensors({k: v.contiguous() for k, v in tensors.items()})
    return values | dict(row.further)


def of_columns(
    values: Mapping[str, Any], *, vocabulary: int | None, packing: PackingModel | None = None
) -> Row:
    """The row of a record of columns; `packing` reads packed ids.

    ValueError where bytes and shapes disagree.
    """
    ids, latents = None, _loaded("latents", values)
    if values.get("ids_bytes") is not None:
        ids = _loaded_ids(values, vocabulary or 1, packing)
    variance = values.get("log_variance_bytes")
    extras, beside = values.get(EXTRAS), values.get(BESIDE)
    plain = {name: values[name] for name in PLAIN if name not in ("bucket", "settings")}
    return Row(
        **plain,
        settings=json.loads(values["settings"]),
        ids=ids,
        latents=latents,
        log_variance=None if variance is None else _floats(variance, values, "latents"),
        extras={} if extras is None else load_tensors(extras),
        beside={} if beside is None else load_tensors(beside),
        text=_loaded("text", values),
        further={name: value for name, value in values.items() if name not in TAKEN},
    )


def _stored(name: str, tensor: Tensor) -> dict[str, Any]:
    """Bytes, shape and dtype of a tensor of floats."""
    return {
        f"{name}_bytes": tensor_bytes(tensor),
        f"{name}_shape": list(tensor.shape),
        f"{name}_dtype": str(tensor.dtype).removeprefix("torch."),
    }


def _loaded(name: str, values: Mapping[str, Any]) -> Tensor | None:
    data = values.get(f"{name}_bytes")
    return None if data is None else _floats(data, values, name)


def _floats(data: bytes, values: Mapping[str, Any], name: str) -> Tensor:
    """A tensor of floats from its bytes; shape and dtype are those of the columns `name`."""
    shape, dtype = values[f"{name}_shape"], FLOATS.get(values[f"{name}_dtype"])
    if dtype is None or len(data) != prod(shape) * dtype.itemsize:
        raise ValueError(
            f"row {values.get('id')} was altered: its {name} are {len(data)} bytes for "
            f"{'x'.join(map(str, shape))} of {values[f'{name}_dtype']}; build its shard again"
        )
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(tuple(shape))


def _stored_ids(ids: Tensor, vocabulary: int, packing: PackingModel | None) -> dict[str, Any]:
    shape = {"ids_shape": list(ids.shape)}
    if packing is not None:
        return shape | pack_row(ids, packing)
    plain = pack_ids(ids.reshape(-1).numpy(), bits_for(vocabulary))
    return shape | {"ids_bytes": plain.tobytes()}


def _loaded_ids(values: Mapping[str, Any], vocabulary: int, packing: PackingModel | None) -> Tensor:
    shape, bits = values["ids_shape"], bits_for(vocabulary)
    if packing is not None:
        try:
            return unpack_row(values["ids_bytes"], tuple(shape), values[ENDS], packing)
        except UnreadableSegmentError as error:
            raise ValueError(
                f"row {values.get('id')} was altered ({error}): build its shard again"
            ) from error
    assert values.get(ENDS) is None, "packed ids are read with their packing model"
    count, packed = prod(shape), np.frombuffer(values["ids_bytes"], np.uint8)
    if len(packed) != -(-count * bits // 8):
        raise ValueError(
            f"row {values.get('id')} was altered: {len(packed)} bytes are not {count} ids of "
            f"{bits} bits; build its shard again"
        )
    return torch.from_numpy(unpack_ids(packed, bits, count)).reshape(tuple(shape))


# ---------------------------------------------------------------- to tokens


def tokens_of(row: Row, tokenizer: Mapping[str, Any], scale: Any = None) -> Tokens:
    """The tokens of a row, as the tokenizer made them; `scale` is that of a foreign tokenizer."""
    latents = None if row.latents is None else row.latents.float()[None]
    if latents is not None and scale is not None:
        latents = scale.apply(latents)
    return Tokens(
        ids=None if row.ids is None else row.ids[None],
        latents=latents,
        frames=row.frames,
        height=row.height,
        width=row.width,
        fps=row.fps,
        model=tokenizer["name"],
        weights=tokenizer["weights"],
        vocabulary=tokenizer["vocabulary"],
        settings={**row.settings, "start": row.start},
        extras=dict(row.extras),
    )


# ---------------------------------------------------------------- batches


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Rows of one bucket: ids "b *grid" or latents "b c *grid", and what is said of each row.

    Sent from a worker, it takes a few tensors, however many rows it has; the tensors of its rows
    are views of these.
    """

    ids: Int64[Tensor, "b *grid"] | None = None
    latents: Float[Tensor, "b c *grid"] | None = None
    log_variance: Float[Tensor, "b c *grid"] | None = None
    rows: tuple[Row, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bucket(self) -> str:
        """Width, height and frames of all its windows."""
        return self.rows[0].bucket

    @property
    def captions(self) -> list[str | None]:
        """The caption of each row."""
        return [row.caption for row in self.rows]

    @property
    def groups(self) -> list[str]:
        """The class of each row."""
        return [row.group for row in self.rows]

    @property
    def texts(self) -> list[Tensor | None]:
        """The embedding of each row's caption, each of its own length."""
        return [row.text for row in self.rows]

    def __getstate__(self) -> dict[str, Any]:
        none: dict[str, Any] = {**dict.fromkeys(ROW_TENSORS), "extras": {}, "beside": {}}
        rows, places = [], list[_SentTensor]()
        loose: dict[_Kind, list[Tensor]] = {}
        for number, row in enumerate(self.rows):
            rows.append(replace(row, **none))
            for name, key, tensor in _tensors_of(row):
                kind = None
                if not _is_row_of(vars(self).get(name), number, tensor):
                    kind = (tensor.dtype, tensor.device)
                    loose.setdefault(kind, []).append(tensor.flatten())
                places.append(_SentTensor(number, name, key, kind, tensor.shape))
        flat = {kind: torch.cat(some) for kind, some in loose.items()}
        return {**vars(self), "rows": rows, "loose": flat, "places": places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        places, loose, rows = state.pop("places"), state.pop("loose"), state.pop("rows")
        held = [dict[str, Any](extras={}, beside={}) for _ in rows]
        begins = dict.fromkeys(loose, 0)
        for row, name, key, kind, shape in places:
            if kind is None:
                tensor = state[name][row]
            else:
                begin, begins[kind] = begins[kind], begins[kind] + shape.numel()
                tensor = loose[kind][begin : begins[kind]].view(shape)
            if key is None:
                held[row][name] = tensor
            else:
                held[row][name][key] = tensor
        whole = tuple(replace(row, **given) for row, given in zip(rows, held, strict=True))
        vars(self).update(state, rows=whole)


_Kind = tuple[torch.dtype, torch.device]


class _SentTensor(NamedTuple):
    """Where a tensor of a row lies in a batch that is sent: in the stacked ones of its field.

    Or, where `kind` is given, among the other tensors of that kind, which lie end to end.
    """

    row: int
    field: str
    key: str | None
    kind: _Kind | None
    shape: torch.Size


def _tensors_of(row: Row) -> Iterator[tuple[str, str | None, Tensor]]:
    """The tensors of a row: its field, the key in it if it is a mapping, and the tensor."""
    for name in ROW_TENSORS:
        if (tensor := getattr(row, name)) is not None:
            yield name, None, tensor
    for name in ("extras", "beside"):
        yield from ((name, key, tensor) for key, tensor in getattr(row, name).items())


def _is_row_of(stacked: Any, number: int, tensor: Tensor) -> bool:
    """Whether a tensor is among the stacked ones at its number (None, or what a map made: no)."""
    if not isinstance(stacked, Tensor) or stacked.ndim == 0 or number >= len(stacked):
        return False
    about = lambda x: (x.dtype, x.device, x.shape)
    return about(stacked[number]) == about(tensor) and torch.equal(stacked[number], tensor)


def stack_rows(rows: Sequence[Row]) -> Batch:
    """One batch of rows. ValueError for rows of several buckets."""
    buckets = sorted({row.bucket for row in rows})
    if len(buckets) > 1:
        raise ValueError(
            f"rows of one batch have one bucket, found {' and '.join(buckets[:2])}: read them as "
            "`corpus.batches(...)`, or give collate_fn=list"
        )
    return Batch(
        ids=_stacked([row.ids for row in rows]),
        latents=_stacked([row.latents for row in rows]),
        log_variance=_stacked([row.log_variance for row in rows]),
        rows=tuple(rows),
    )


def _stacked(tensors: list[Tensor | None]) -> Tensor | None:
    found = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(found) if found else None


def _refuse_batches(batches: Sequence[Batch]) -> Batch:
    raise ValueError("a stream of a corpus gives whole batches: give the loader batch_size=None")


register(Row, *ROW_TENSORS, collate=stack_rows)
register(Batch, "ids", "latents", "log_variance", collate=_refuse_batches)
