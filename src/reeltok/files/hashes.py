"""Hashes of files, texts and pieces of memory: SHA-256, in hex."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def hash_files(*paths: str | Path) -> str:
    """The hash of a file's bytes; of several files' one after the other."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                whole.update(block)
    return whole.hexdigest()


def hash_text(text: str, digits: int = 64) -> str:
    """The first `digits` digits of the hash of a text; a few of them make a short name for it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def hash_parts(parts: Iterable[str | bytes | memoryview]) -> str:
    """The hash of texts and bytes, one after the other."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
    return whole.hexdigest()
