"""What commands that serve a page say and do before it opens."""

import signal
import sys

from reeltok.cli.report import note

THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def prepare_serving(host: str) -> None:
    """Warn where others reach `host`, and let SIGTERM end the page as Ctrl-C does: cleaned up."""
    if host not in THIS_MACHINE:
        note(f"whoever reaches {host} can use this page, and this machine's time")
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def say_address(address: str) -> None:
    """Where the page is, on standard error."""
    print(f"reeltok: the page is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
