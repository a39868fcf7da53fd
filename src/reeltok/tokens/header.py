"""The header of a .reel file: where its tensors lie, and what it says about its tokens.

Everything that a file says is checked here, once, before anything is made of it. The layout is
described in docs/tokens.md. Without torch, which takes a second to load.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from reeltok.files.hashes import hash_text
from reeltok.files.parsing import parse_config, parse_json
from reeltok.video.tags import Colour

VERSION = 4  # the newest that is read; `version_of` says which one is written
SEGMENT = 16  # steps that are packed together
BLOCK = 2**16  # bytes of payload under one hash: what a range read checks beyond its own ends
LONGEST_HEADER = 2**25  # bytes: 100,000 stored references, and seconds to read
UNSAVED = "these tokens cannot be saved"  # how such an error begins
MOST_CELLS = 2**48  # of a tensor, empty axes counted as one: its strides fit an integer

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
WIDTHS = {**FLOATS, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a value, by safetensors' name of its type."""

HeaderCount = Annotated[int, Field(ge=0, le=2**40)]
Some = Annotated[int, Field(ge=1, le=2**40)]  # at least one
HeaderSide = Annotated[int, Field(ge=1, le=2**24)]  # pixels
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Ratio = Annotated[str, Field(pattern="^[1-9][0-9]{0,8}:[1-9][0-9]{0,8}$")]
LATEST = 1e9  # seconds: decades, in units that a video file counts in
Moment = Annotated[float, Field(ge=-LATEST, le=LATEST)]


# Where tensors lie.


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: safetensors' name of its dtype, its shape, and where its bytes lie."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Slot:
    """An entry of safetensors' table."""

    dtype: str
    shape: tuple[HeaderCount, ...]
    data_offsets: tuple[HeaderCount, HeaderCount]

    def __post_init__(self) -> None:
        if self.dtype not in WIDTHS:
            raise ValueError(f"there is no type {self.dtype!r}")
        if math.prod(max(1, side) for side in self.shape) > MOST_CELLS:
            raise ValueError("no tensor is as large")
        wanted = math.prod(self.shape) * WIDTHS[self.dtype]
        if self.data_offsets[1] - self.data_offsets[0] != wanted:
            raise ValueError(f"its shape takes {wanted} bytes")


def read_table(table: Any) -> dict[str, Entry]:
    """Safetensors' table of tensors. ValueError unless they lie one behind the other."""
    slots = parse_config(table, dict[str, Slot], "table", strict=True)
    at = 0
    for slot in sorted(slots.values(), key=lambda each: each.data_offsets):
        if slot.data_offsets[0] != at:
            raise ValueError("the tensors leave a gap, or one lies in another")
        at = slot.data_offsets[1]
    return {name: Entry(slot.dtype, slot.shape, *slot.data_offsets) for name, slot in slots.items()}


def header_bytes(entries: dict[str, Entry], about: dict[str, Any]) -> bytes:
    """The length and JSON with which a safetensors file begins; tensors lie in the given order."""
    table: dict[str, Any] = {}
    at = 0
    for name, entry in entries.items():
        end = at + entry.stop - entry.start
        table[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [at, end],
        }
        at = end
    said = json.dumps(about, sort_keys=True)
    metadata = {
        "format": "reel",
        "version": str(version_of(about)),
        "about": said,
        "sha256": description_hash(said, table),
    }
    raw = json.dumps({"__metadata__": metadata, **table}).encode()
    raw += b" " * (-len(raw) % 8)
    if len(raw) > LONGEST_HEADER:
        raise ValueError(
            f"{len(entries)} tensors make a header of {len(raw)} bytes, of which {LONGEST_HEADER} "
            "can be read: write several files"
        )
    return len(raw).to_bytes(8, "little") + raw


def version_of(about: Mapping[str, Any]) -> int:
    """The earliest version of the format that has what is said.

    2 has packed ids and damage, 3 parts from the middle of a clip, 4 tensors of bytes.
    """
    if about.get("settings", {}).get("given") == "uint8":
        return 4
    if about.get("step"):
        return 3
    return 2 if about.get("packing") or about.get("damaged") else 1


def description_hash(said: str, table: dict[str, Any]) -> str:
    """SHA-256, in hex, of what the header says about the tokens and about where tensors lie."""
    return hash_text(said + json.dumps(table, sort_keys=True))


# What is said about the tokens.


def bits_for(vocabulary: int) -> int:
    """Bits of one id: ceil(log2 vocabulary), at least 1."""
    return max(1, (vocabulary - 1).bit_length())


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Payload:
    """The bytes of the ids or latents, and how they are hashed."""

    name: Literal["ids", "latents"]
    bytes: HeaderCount
    block: Literal[65536]
    sha256: Hash


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Packing:
    """How ids were packed: by which model (its hash), in segments of how many steps."""

    model: Hash
    steps: Literal[16]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="allow"))
class Settings:
    """Of the settings of tokens, those that decoding acts on. Any others may stand beside them."""

    given: Literal["video", "uint8", "float16", "bfloat16", "float32", "float64"] | None = None
    start: Moment | None = None
    pixel_aspect: Ratio | None = None
    window: Some | None = None
    slices: Some | None = None
    pad: Literal["end", "front"] | None = None
    policy: str | None = None
    reference_start: str | None = None
    reference: str | None = None


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class About:
    """What a .reel file says about its tokens: the JSON under `about` in its metadata."""

    model: str
    weights: str | None
    settings: dict[str, Any]
    frames: Some
    height: HeaderSide
    width: HeaderSide
    fps: Annotated[float, Field(ge=1e-6, le=1e6)] | None
    colour: Colour | None
    batch: Some
    grid: Annotated[tuple[HeaderCount, ...], Field(min_length=1, max_length=8)]
    vocabulary: Annotated[int, Field(ge=1, le=2**62)] | None
    channels: Some | None
    bits: Annotated[int, Field(ge=1, le=64)]
    reference_bits: Annotated[int, Field(ge=0, le=2**62)]
    payload: Payload
    tensors: dict[str, Hash]
    last: Annotated[float, Field(gt=0, le=1e9)] | None = None
    damaged: HeaderCount = 0
    step: HeaderCount = 0
    packing: Packing | None = None

    def __post_init__(self) -> None:
        parse_config(self.settings, Settings, "settings", strict=True)
        colour = self.colour or Colour()
        if not all(0 <= code < 256 for code in (colour.matrix, colour.primaries, colour.transfer)):
            raise ValueError("its colour is of no standard")
        cells = (self.batch, *self.grid, self.channels or 1)
        if math.prod(max(1, side) for side in cells) > MOST_CELLS:
            raise ValueError("no tensor is as large as its grid")
        if (self.payload.name == "ids") != (self.channels is None):
            raise ValueError("latents have channels, ids have none")
        if self.channels is None and self.vocabulary is None:
            raise ValueError("ids have a vocabulary")
        if self.channels is None and self.bits != bits_for(self.vocabulary or 1):
            raise ValueError("its bits are not those of its vocabulary")
        if self.last is not None and "times" not in self.tensors:
            raise ValueError("its last frame has a duration of its own, but there are no times")
        if self.packing is not None and (self.channels is not None or len(self.grid) != 3):
            raise ValueError("ids of steps, rows and columns are packed, these are others")
        plain = -(-math.prod(cells) * self.bits // 8)
        most = plain + 2 * self.segments  # each says in a byte how it is packed, and is whole bytes
        if self.payload.bytes != plain if self.packing is None else self.payload.bytes > most:
            raise ValueError("its grid does not take its bytes")

    @property
    def segments(self) -> int:
        """How many segments packed ids have; 0 where they are not packed."""
        return 0 if self.packing is None else -(-self.grid[0] // self.packing.steps)

    @property
    def total_bits(self) -> int:
        """Nominal bits of all tokens and stored references."""
        cells = self.batch * math.prod(self.grid) * (self.channels or 1)
        return cells * self.bits + self.reference_bits

    @property
    def stored_bits(self) -> int:
        """Bits of what the file holds of tokens and references: fewer where ids are packed."""
        return 8 * self.payload.bytes + self.reference_bits

    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the payload's tensor."""
        if self.channels is None:
            return (self.payload.bytes,)
        return (self.grid[0], self.batch, self.channels, *self.grid[1:])

    def require_fit(self, entries: dict[str, Entry]) -> None:
        """ValueError unless the file's tensors are those that are spoken of."""
        if {*entries} != {self.payload.name, *self.tensors} or "blocks" not in self.tensors:
            raise ValueError("its tensors are others")
        names = (self.payload.name, "blocks", "times", "segments")
        payload, blocks, times, ends = (entries.get(name) for name in names)
        assert payload is not None
        assert blocks is not None
        fits = payload.dtype == "U8" if self.channels is None else payload.dtype in FLOATS
        width = self.bits if self.channels is None else 8 * WIDTHS[payload.dtype]
        if not fits or width != self.bits or payload.shape != self.stored_shape():
            raise ValueError("its payload is of another kind")
        if (blocks.dtype, blocks.shape) != ("U8", (-(-self.payload.bytes // BLOCK), 32)):
            raise ValueError("its hashes are not one a block")
        if times is not None and (times.dtype, times.shape) != ("F64", (self.frames,)):
            raise ValueError("its times are not one a frame")
        found = None if ends is None else (ends.dtype, ends.shape)
        if found != (("I64", (self.segments,)) if self.packing else None):
            raise ValueError("the ends of its segments are others")


def read_about(said: str) -> About:
    """What a file says about its tokens. ValueError where that is not such a record."""
    return parse_config(parse_json(said, "about"), About, "about", strict=True)


def describe_start(tokens: Any, width: int) -> dict[str, Any]:
    """What a file says of a clip by its first part `tokens`, its latents stored in `width` bits.

    What all parts add up to comes beside it. ValueError where no file can say so.
    """
    channels = None if tokens.ids is not None else tokens.first_tensor.shape[1]
    about: dict[str, Any] = {
        "model": tokens.model,
        "settings": json_values(tokens.settings, "settings"),
        "height": tokens.height,
        "width": tokens.width,
        "fps": tokens.fps,
        "colour": None if tokens.colour is None else json_values(tokens.colour, "colour"),
        "batch": tokens.batch,
        "vocabulary": tokens.vocabulary,
        "channels": channels,
        "bits": tokens.bits if channels is None else width,
    }
    # Of clips without these, files are what they were before there were any.
    about |= {name: getattr(tokens, name) for name in ("damaged", "step") if getattr(tokens, name)}
    rest = {
        "weights": None,  # not hashed before it must be
        "frames": 1,
        "grid": [0, *tokens.grid[1:]],
        "reference_bits": 0,
        "payload": {
            "name": "ids" if channels is None else "latents",
            "bytes": 0,
            "block": BLOCK,
            "sha256": "0" * 64,
        },
        "tensors": {},
    }
    parse_config(about | rest, About, UNSAVED, strict=True)
    return about


def json_values(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The mapping as JSON gives it back. ValueError for what JSON cannot hold."""
    try:
        return json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} of tokens must be JSON values: {error}") from None
