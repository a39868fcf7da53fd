"""A complete file or folder gets its name, in the place of what has that name."""

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)  # systems that cannot exchange
MEANWHILE = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)  # another process came or went
TRIES = 64


def give_name(new: Path, target: Path) -> None:
    """Rename `new` to `target`. An old folder of that name stands at `new` afterwards.

    It is exchanged in one step, where the system can: whatever is killed, one of the two stands at
    `target` at any time. OSError where it cannot be renamed; `target` is as it was then.
    """
    for _ in range(TRIES):
        try:
            return _rename(new, target)
        except OSError as error:
            if error.errno not in MEANWHILE:
                raise
    _rename(new, target)


def _rename(new: Path, target: Path) -> None:
    if not (new.is_dir() and target.is_dir()):
        os.replace(new, target)
    elif not _exchange(new, target):
        _replace_folder(new, target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders; False where the system has no such call."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
    if rename(*paths, RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _replace_folder(new: Path, target: Path) -> None:
    """The same in two steps; after an error the old folder has its name again."""
    aside = new.with_name("old")
    os.replace(target, aside)
    try:
        os.replace(new, target)
    except BaseException:
        with suppress(OSError):  # the name is another's by now
            os.rename(aside, target)
        raise
