"""Whether memory that tensors free stays with the process, for the next tensors, or goes back.

Networks free and take the same large blocks in every layer. By default glibc asks the system anew
for each block above 32 MiB, and the system clears it page by page: 1.1 to 1.3 times the processor
time of VidTok in float32. Kept memory costs up to a third more at the peak, since blocks of other
sizes leave gaps. Without torch: the setting is for the whole process, from its first block on.
"""

import ctypes
import os

SETTING = "REELTOK_FREED"  # keep or return: what commands do, whatever suits them
# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 2**30  # bytes of a block; larger ones are rare, and go back in any case
LARGEST_LAYER = 2**23  # bytes of a block of a network that works in strips; frames are larger
UNTRIMMED = -1
USUAL_LARGEST, USUAL_TRIM = 2**25, 2**26  # what glibc comes to by itself once blocks were freed


def keep_freed() -> bool:
    """Keep freed blocks of up to 1 GiB; whether the process can (it has glibc)."""
    return _set(LARGEST_KEPT, UNTRIMMED)


def return_freed() -> bool:
    """Give freed blocks of more than 32 MiB back at once, as usual; whether the process can."""
    done = _set(USUAL_LARGEST, USUAL_TRIM)
    if done:
        ctypes.CDLL(None).malloc_trim(0)
    return done


def return_frames() -> bool:
    """Keep what layers free in strips, and give back frames; whether the process can."""
    return _set(LARGEST_LAYER, USUAL_TRIM)


def release_freed() -> bool:
    """Give back, once, all pages that hold nothing; whether the process can.

    What is freed goes on as it was set.
    """
    return has_glibc() and bool(ctypes.CDLL(None).malloc_trim(0))


def suit_commands() -> bool:
    """Keep what is freed unless `REELTOK_FREED=return` says otherwise; whether it is kept.

    ValueError for another value.
    """
    asked = os.environ.get(SETTING) or "keep"
    if asked not in ("keep", "return"):
        raise ValueError(f"{SETTING}={asked} is not known: give keep or return")
    return asked == "keep" and keep_freed()


def has_glibc() -> bool:
    """Whether the process has the allocator that these settings are of."""
    try:
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 - others have a mallopt that does less
        ctypes.CDLL(None).mallopt  # noqa: B018
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows has no CDLL(None)
        return False
    return True


def _set(largest: int, trim: int) -> bool:
    if not has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, largest)) and bool(mallopt(M_TRIM_THRESHOLD, trim))
