"""`view`: a page in the browser to try tokenizers on."""

import os
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.drive import open_drive
from reeltok.cli.report import Report
from reeltok.cli.serving import prepare_serving, say_address

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
            metavar="NAME",
            help="Tokenizer to offer besides the bundled ones, a name, a folder or LABEL=FOLDER; "
            "may be repeated; by default none.",
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Prior with actions to drive on a page of its own, /drive; by default none.",
        ),
    ] = None,
    starts: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Episodes of `reeltok data push` that a drive begins with; by default the frames "
            "that come along with the prior, or else some are simulated.",
        ),
    ] = None,
    host: given.HostOption = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=65535,
            help="Port to listen on; by default the first free one from 7860.",
        ),
    ] = None,
    max_seconds: Annotated[
        float,
        typer.Option(metavar="N", help="Length in seconds of the longest clip that is accepted."),
    ] = 20.0,
    max_megabytes: Annotated[
        float,
        typer.Option(metavar="N", help="Size in megabytes of the largest file that is accepted."),
    ] = 200.0,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
) -> Report:
    """Open a web page to try tokenizers on.

    Drop a video to see its tokens, its reconstruction and its scores; save it as a .reel file, or
    open one. The page offers the bundled tokenizers and those of --model. It is served to this
    machine alone unless --host says otherwise. Ctrl-C ends it.
    """
    from reeltok import zoo
    from reeltok.viewer import app, page, work

    if prior is None:
        given.require_use("--prior", starts=starts)
    limits = work.Limits(seconds=max_seconds, megabytes=max_megabytes)
    for name in model or ():
        zoo.check_name(name)

    def load(name: str) -> Any:
        return given.open_model(name, weights=None, device=device, dtype=dtype)

    offer = work.Offer([*(model or ()), *zoo.bundled()], load)
    prepare_serving(host)
    drive = None if prior is None else open_drive(prior, starts, None, {}, 0, device)
    try:
        shown = page.Page(offer, limits)
        app.serve(shown, host=host, port=port, ready=say_address, drive=drive)
    finally:
        end_soon()
    return Report(data={"closed": True}, text="")
