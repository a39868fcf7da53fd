"""What a checkpoint says that it holds, read so that nothing in it runs.

torch's distributed checkpoint keeps that in `.metadata`, a pickle: reading a pickle of others with
`pickle.load` runs whatever they wrote. This reads the few classes that torch writes, and checks all
values before torch sees them.
"""

import os
import pickle
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PosixPath, WindowsPath
from typing import Any, ClassVar

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata as written
from torch.distributed.checkpoint.filesystem import _StorageInfo

from reeltok.files.text import printable

METADATA = ".metadata"
PLACE = "torch.distributed.checkpoint"
ALLOWED: dict[tuple[str, str], Any] = {
    (f"{PLACE}.metadata", "Metadata"): written.Metadata,
    (f"{PLACE}.metadata", "TensorStorageMetadata"): written.TensorStorageMetadata,
    (f"{PLACE}.metadata", "TensorProperties"): written.TensorProperties,
    (f"{PLACE}.metadata", "ChunkStorageMetadata"): written.ChunkStorageMetadata,
    (f"{PLACE}.metadata", "MetadataIndex"): written.MetadataIndex,
    (f"{PLACE}.metadata", "StorageMeta"): written.StorageMeta,
    (f"{PLACE}.metadata", "_MEM_FORMAT_ENCODING"): written._MEM_FORMAT_ENCODING,
    (f"{PLACE}.filesystem", "_StorageInfo"): _StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("pathlib", "PosixPath"): PosixPath,
    ("pathlib", "WindowsPath"): WindowsPath,
    ("pathlib._local", "PosixPath"): PosixPath,  # Python 3.13's
    ("pathlib._local", "WindowsPath"): WindowsPath,
}
"""All that torch's pickle names, beside the types of tensors."""

FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(
        MemoryError,
        OSError,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        struct.error,
    ),
)
"""What a damaged pickle may raise."""


class Unpickler(pickle._Unpickler):
    """Reads what torch writes, and no other name.

    It is Python's own one in Python, since only that lets BUILD be stopped from changing classes.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]  # takes memory for as many bytes as it names

    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        kind = vars(torch).get(name) if module == "torch" else None
        if isinstance(kind, torch.dtype):
            return kind
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")

    def load_build(self) -> None:
        if callable(self.stack[-2]):
            raise pickle.UnpicklingError("it changes a class, which no checkpoint needs")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def read_metadata(folder: Path) -> written.Metadata:
    """What the files of a checkpoint hold. ValueError where the record is damaged or forged."""
    path = folder / METADATA
    try:
        found = Unpickler(BytesIO(path.read_bytes())).load()
        reason = next(wrong(found, folder), None)
    except FAILURES as error:
        reason = printable(error) or type(error).__name__
    if reason is not None:
        raise ValueError(
            f"{path} is damaged or was made by others ({printable(reason)}): resume from another "
            "checkpoint"
        )
    return found


def wrong(found: Any, folder: Path) -> Iterator[str]:
    """What is odd about a record: values of other types, files that are not the checkpoint's."""
    if not isinstance(found, written.Metadata):
        yield f"it holds a {type(found).__name__}"
        return
    for name, tensor in found.state_dict_metadata.items():
        if not isinstance(name, str) or not isinstance(tensor, written.TensorStorageMetadata):
            yield f"{name!r} is not a tensor"
            return
        if type(tensor.size) is not torch.Size or any(side < 0 for side in tensor.size):
            yield f"{name} has no size"
        if type(tensor.properties.dtype) is not torch.dtype:
            yield f"{name} has no type"
        for chunk in tensor.chunks:
            if not len(chunk.sizes) == len(chunk.offsets) == len(tensor.size):
                yield f"a part of {name} lies outside it"
    for index, info in found.storage_data.items():
        if type(index) is not written.MetadataIndex or type(info) is not _StorageInfo:
            yield "the place of a tensor is unknown"
        if Path(info.relative_path).name != info.relative_path:
            yield f"it leads to {info.relative_path!r}, outside the checkpoint"
        if getattr(info, "transform_descriptors", None):
            yield f"{info.relative_path} is transformed"
        end = os.stat(folder / info.relative_path).st_size
        if not (info.offset >= 0 and info.length >= 0 and info.offset + info.length <= end):
            yield f"a tensor lies beyond the end of {info.relative_path}"


class Reader(dcp.FileSystemReader):
    """torch's reader of a checkpoint, but for the record of what it holds."""

    def read_metadata(self, *args: Any, **options: Any) -> written.Metadata:
        found = read_metadata(Path(self.path))
        found.storage_meta = found.storage_meta or written.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found
