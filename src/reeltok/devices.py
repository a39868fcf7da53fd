"""Where tensors live: a device from its name, or one sentence that says why not."""

from typing import Any

import torch

KINDS = ("cpu", "cuda", "mps", "xpu")  # that networks run on; torch knows more, such as meta


def pick_device(device: Any) -> torch.device:
    """A device by name; "auto" is cuda, mps or cpu, the first that is there.

    ValueError for a name that no device has, or whose device is not here.
    """
    mps = torch.backends.mps.is_available()
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise unknown(device) from error
    if found.type not in KINDS:
        raise unknown(device)
    counts = {"cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    here = counts.get(found.type, 1)
    if (found.index or 0) >= here:
        many = "1 device" if here == 1 else f"{here} devices"
        raise ValueError(
            f"device {device}: torch sees {many} of type {found.type} here; give cpu or auto"
        )
    if found.type == "mps" and not mps:
        raise ValueError(f"device {device}: there is no Metal device here; give cpu or auto")
    return found


def unknown(device: object) -> ValueError:
    """The error for what names no device."""
    return ValueError(f"there is no device {str(device)!r}: give auto, cpu, cuda, cuda:0 or mps")
