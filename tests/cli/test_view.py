"""The server of the page ends with its folder, whatever its threads still do."""

import subprocess
import sys

WORKING = """
import threading, time
from reeltok.cli.view import end_soon
threading.Thread(target=time.sleep, args=(60,)).start()
end_soon(0.2)
"""


def test_a_thread_at_work_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", WORKING], timeout=30, check=False)
    assert done.returncode == 0
