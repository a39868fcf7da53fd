"""What the buttons of the page do, for all visitors, who are told apart by their session."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Lock

from reeltok.viewer.pictures import draw_map, steps_of
from reeltok.viewer.rooms import Room, Rooms
from reeltok.viewer.work import (
    Limits,
    Offer,
    OnShare,
    RoundTrip,
    check_video,
    open_reel,
    round_trip,
)
from reeltok.wording import explain

SIDES = {"128": 128, "256": 256, "512": 512, "as it is": None}


@dataclass(frozen=True)
class Form:
    """What a visitor filled in: paths of uploads, names of tokenizers, one of `SIDES`."""

    video: str | None
    reel: str | None
    labels: list[str]
    side: str


Action = Callable[[Form, Room, OnShare], None]


class Page:
    """The tokenizers, limits and rooms of one page, and what can be done with them."""

    def __init__(self, offer: Offer, limits: Limits) -> None:
        self.offer, self.limits, self.rooms = offer, limits, Rooms()
        self.drawing = Lock()

    def code_upload(self, form: Form, room: Room, tell: OnShare) -> None:
        """The uploaded video through the chosen tokenizers."""
        self.code_clip(self.uploaded(form.video, "video"), form, room, tell)

    def code_demo(self, form: Form, room: Room, tell: OnShare) -> None:
        """The demonstration clip through the chosen tokenizers."""
        tell(0.0, "drawing")
        self.code_clip(self.draw_demo(), form, room, tell)

    def open_upload(self, form: Form, room: Room, tell: OnShare) -> None:
        """The uploaded .reel file as a video."""
        path = self.uploaded(form.reel, ".reel file")
        room.clear()
        result = open_reel(self.offer, path, self.limits, room, tell)
        room.results[result.label] = result

    def code_clip(self, source: Path, form: Form, room: Room, tell: OnShare) -> None:
        """A clip through all chosen tokenizers, one after the other, into the room."""
        if not form.labels:
            raise ValueError("no tokenizer is chosen: choose one or more")
        if form.side not in SIDES:
            raise ValueError(f"{form.side!r} is not a side: choose {', '.join(SIDES)}")
        cut = check_video(source, self.limits, SIDES[form.side])
        room.clear()
        labels = list(dict.fromkeys(form.labels))
        for number, label in enumerate(labels):

            def tell_share(done: float, what: str, number: int = number) -> None:
                tell((number + done) / len(labels), what)

            room.results[label] = round_trip(self.offer, label, source, cut, room, tell_share)

    def uploaded(self, path: str | None, what: str) -> Path:
        """A file that a visitor uploaded. ValueError for none, or one that lies elsewhere."""
        if not path:
            raise ValueError(f"there is no {what} yet: drop one first")
        if not self.rooms.holds(Path(path)):
            raise ValueError(f"{Path(path).name} was not uploaded here: drop it again")
        return Path(path)

    def draw_demo(self) -> Path:
        """The clip of `reeltok demo`, drawn when it is first asked for."""
        from reeltok.demo import render_clip
        from reeltok.video.record import write

        path = self.rooms.root / "demonstration" / "demo.mkv"
        with self.drawing:
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                write(render_clip(), path, lossless=True)
        return path

    def draw_step(self, result: RoundTrip, step: int, room: Room) -> Path | None:
        """A picture of the tokens of a step, counted from 1; None where there are no tokens."""
        from PIL import Image

        if not steps_of(result):
            return None
        path = room.place(f"tokens-{step}.png")
        Image.fromarray(draw_map(result, step - 1)).save(path)
        return path

    @contextmanager
    def complaints(self, complain: Callable[[str], Exception]) -> Iterator[None]:
        """Inside, what goes wrong is raised as `complain` of the command line's sentence, as HTML.

        Folders of this machine are left out of it.
        """
        try:
            yield
        except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
                sentence: str | None = "out of memory: choose a smaller side or a shorter clip"
            else:
                sentence = explain(error)
            if sentence is None:
                traceback.print_exc()
                sentence = "this went wrong inside reeltok: its terminal shows where"
            raise complain(escape(self.rooms.without_folders(sentence), quote=False)) from None
