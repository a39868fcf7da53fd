"""Work that may hang, such as asking a server: given up after a time, with a sentence."""

import io
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


class UnansweredError(OSError):
    """Something did not answer in time."""


def answer_within(seconds: float, work: Callable[[], Result], name: str) -> Result:
    """What `work` gives, or the error that it raises. UnansweredError for `name` if it hangs.

    It runs in a thread of its own, which is left behind where it hangs.
    """
    held: dict[str, Any] = {}

    def run() -> None:
        try:
            held["result"] = work()
        except BaseException as error:
            held["error"] = error

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise UnansweredError(f"{name} does not answer within {seconds:.0f} s: run it again later")
    if "error" in held:
        raise held["error"]
    return held["result"]


class PatientFile(io.RawIOBase):
    """A binary file open for reading whose every read is given up after `seconds`."""

    def __init__(self, file: Any, seconds: float, name: str) -> None:
        super().__init__()
        self.file, self.seconds, self.name = file, seconds, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self.file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = answer_within(self.seconds, lambda: self.file.read(len(view)), self.name)
        view[: len(data)] = data
        return len(data)
