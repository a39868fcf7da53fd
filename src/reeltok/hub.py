"""Repositories of the hub: only the files that a model needs are asked for.

A name is "owner/name", or "owner/name@revision" for a branch, a tag or a commit.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reeltok.arguments import check_path
from reeltok.files.atomic import REASONS
from reeltok.files.checkpoints import VARIANTS, file_names, find_file
from reeltok.files.text import printable

PLACES = ("", "vae/")
"""Where a model lies in a repository: at its root, or in a pipeline of diffusers."""
UNWRITABLE = (*REASONS, errno.EACCES, errno.EPERM, errno.EROFS)
PARTLY, BROKEN = ("IncompleteSnapshotError",), ("XetDownloadError",)
"""Errors of newer versions of huggingface_hub: a part in the cache, and a download that broke."""


def is_repository(name: str) -> bool:
    """Whether a name can be that of a repository."""
    plain = name.partition("@")[0]
    return plain.count("/") == 1 and not plain.startswith((".", "/", "~")) and name.isprintable()


def check_source(name: Any, weights: Any, revision: str | None, variant: str | None) -> None:
    """ValueError for what no model or its weights are called, and for contradictory arguments.

    Those are a revision of no repository, and a variant beside weights.
    """
    check_path(name, "a tokenizer", "reeltok.presets() has those of presets")
    if weights is not None:
        check_path(weights, "a file of weights")
        if variant is not None:
            raise ValueError(
                f"`weights` {str(weights)!r} and `variant` {variant!r} both say which weights to "
                "take: give one of them"
            )
    if revision is not None and (not is_repository(str(name)) or Path(name).is_dir()):
        raise ValueError(
            f"{str(name)!r} is no repository of the hub, and only these have revisions: "
            "leave `revision` out"
        )


def model_folder(folder: Path) -> Path:
    """The folder that holds the model: `folder`, or the `vae` of a diffusers pipeline in it."""
    inner = folder / "vae"
    piped = not (folder / "config.json").is_file() and (inner / "config.json").is_file()
    return inner if piped else folder


def patterns(variant: str | None = None) -> list[str]:
    """What is asked for: configuration, weights of one precision, and the shards of these."""
    names = ["config.json", *(name for name in file_names(variant) if not name.endswith(".bin"))]
    inner = f".{variant}" if variant else ""
    for name in [name for name in names if name.endswith(f"{inner}.safetensors")]:
        stem = name.removesuffix(f"{inner}.safetensors")
        names += [f"{stem}{inner}-*-of-*.safetensors", f"{stem}-*-of-*{inner}.safetensors"]
    found = [name for name in names if ".bin." not in name]
    return [place + name for place in PLACES for name in dict.fromkeys(found)]


def pickled(variant: str | None = None) -> list[str]:
    """The same of repositories without safetensors."""
    return [name.replace("safetensors", "bin") for name in patterns(variant)]


def fetch_repository(name: str, *, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a repository's model, fetched or in the hub's cache.

    Weights of whole precision are asked for first, then `VARIANTS`, then pickles; `variant` asks
    for that one alone. OSError where the hub cannot be reached or has none of these files.
    """
    from huggingface_hub import model_info, snapshot_download

    name, _, named = name.partition("@")
    at = revision or named or None
    said = name if at is None else f"{name}@{at}"
    kinds = (variant,) if variant else (None, *VARIANTS)
    folder = None
    for wanted in (*map(patterns, kinds), *map(pickled, kinds)):
        fetch = lambda wanted=wanted: snapshot_download(name, revision=at, allow_patterns=wanted)
        folder = model_folder(Path(from_hub(fetch, said)))
        if has_weights(folder, variant):
            return folder
    try:  # without a network, what the cache holds was taken for all that there is
        from_hub(lambda: str(model_info(name, revision=at).sha), said)
    except OSError as error:
        raise OSError(incomplete(said)) from error
    raise FileNotFoundError(
        f"{said} on the hub has no config.json with weights beside it, nor a vae/ that has: name "
        "another repository, or give a folder"
    )


def incomplete(what: str) -> str:
    """What to do about a repository of which the cache holds a part, where there is no network."""
    return (
        f"the hub's cache holds only a part of {printable(what)}, and the hub cannot be reached: "
        "load it once with a network"
    )


def has_weights(folder: Path, variant: str | None = None) -> bool:
    """Whether a folder holds a model."""
    try:
        find_file(folder, variant)
    except OSError:
        return False
    return (folder / "config.json").is_file()


def from_hub(fetch: Callable[[], str], what: str) -> str:
    """What `fetch` returns; its many errors as one sentence."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it would tell the terminal of every attempt
    # Its HTTP library, which changes with its version, raises errors of the same base.
    of_http = (errors.HfHubHTTPError, *errors.HfHubHTTPError.__bases__)
    partly = tuple(getattr(errors, name) for name in PARTLY if hasattr(errors, name))
    broken = tuple(getattr(errors, name) for name in BROKEN if hasattr(errors, name))
    try:
        return fetch()
    except errors.RevisionNotFoundError as error:
        raise OSError(f"{printable(what)} is not a revision on the hub: check it") from error
    except partly as error:
        raise OSError(incomplete(what)) from error
    except (*of_http, *broken, errors.HFValidationError, OSError) as error:
        number = getattr(error, "errno", None)
        if number in UNWRITABLE:
            raise OSError(
                f"{printable(what)} cannot be kept in the hub's cache, {constants.HF_HUB_CACHE} "
                f"({os.strerror(number)}): free some space, or set HF_HOME to another folder"
            ) from error
        raise OSError(
            f"{printable(what)} could not be fetched ({type(error).__name__}): check the name and "
            "the network, or give a folder"
        ) from error
