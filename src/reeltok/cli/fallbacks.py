"""What a command does in another way than elsewhere, since this machine lacks something."""

import sys

from reeltok.allocator import has_glibc


def fallbacks() -> list[str]:
    """A line for each: what is missing, and what is done instead.

    Of torch and of what needs it only where the command has loaded it.
    """
    found = []
    if not has_glibc():
        found.append(
            "no glibc here: whether freed memory stays with the process is up to its allocator"
        )
    if "torch" not in sys.modules:
        return found
    from reeltok.devices import slower_ways
    from reeltok.tokens.packing.coder import can_pack

    found += slower_ways()
    if not can_pack():
        found.append("constriction is not installed: comparisons leave out the size of packed ids")
    return found
