"""Opening an encoder that does more to the process than it is asked for."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

TASKS = Path("/proc/self/task")  # the threads of this process, on Linux


def open_svt_av1(context: Any) -> None:
    """Open the `CodecContext` of a libsvtav1: it says errors alone, and schedules nothing anew.

    Where it may, as root may, it makes the calling thread and its own real-time ones: whatever else
    runs on their processors would wait for them, for good where there is but one.
    """
    os.environ.setdefault("SVT_LOG", "1")  # to the terminal, past FFmpeg
    if not TASKS.is_dir():
        context.open()
        return
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    known = set(os.listdir(TASKS)) - {str(threading.get_native_id())}
    try:
        context.open()
    finally:
        for task in set(os.listdir(TASKS)) - known:
            with suppress(OSError):  # it has ended
                os.sched_setscheduler(int(task), policy, param)
