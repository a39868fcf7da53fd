"""`view`: a page in the browser to try tokenizers on."""

import os
import signal
import sys
import threading
from typing import Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.report import Report, note

GRACE = 5.0  # seconds after the page was closed, for work that is under way


def end_soon(seconds: float = GRACE) -> None:
    """End the process even where a thread still works for a visitor: its files are gone."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True  # it keeps nothing waiting that ends by itself
    timer.start()


def view(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A further tokenizer to offer, by name or folder; may be repeated."
        ),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Who can reach it.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=65535, help="By default the first free from 7860."),
    ] = None,
    max_seconds: Annotated[float, typer.Option(metavar="N", help="Longest clip.")] = 20.0,
    max_megabytes: Annotated[float, typer.Option(metavar="N", help="Largest file.")] = 200.0,
    device: given.Device = "auto",
    dtype: given.Dtype = "fp32",
) -> Report:
    """Show a page in the browser to try tokenizers on.

    Drop a video and see its tokens, what they give back, and numbers; keep it as a .reel file, or
    open one. The page offers the tokenizers that come with reeltok and those of --model. It is for
    this machine alone unless --host says otherwise (0.0.0.0: all who reach it). Ctrl-C ends it.
    """
    from reeltok import zoo
    from reeltok.viewer import app, page, work

    limits = work.Limits(seconds=max_seconds, megabytes=max_megabytes)
    for name in model or ():
        zoo.find_folder(name)

    def load(name: str) -> Any:
        return given.open_model(name, weights=None, device=device, dtype=dtype)

    offer = work.Offer([*(model or ()), *zoo.bundled()], load)
    if host not in ("127.0.0.1", "localhost", "::1"):
        note(f"whoever reaches {host} can use this page, and this machine's time")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up when told to end, too

    def ready(address: str) -> None:
        print(f"reeltok: the page is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)

    try:
        app.serve(page.Page(offer, limits), host=host, port=port, ready=ready)
    finally:
        end_soon()
    return Report(data={"closed": True}, text="")
