"""Where the time goes in a chain of generators."""

import pytest

from reeltok.transcode.clock import Clock


def test_the_clock_gives_each_stage_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("reeltok.transcode.clock.monotonic", lambda: now[0])

    def work(parts: object, seconds: float) -> object:
        for part in parts:
            now[0] += seconds
            yield part

    clock = Clock("write")
    inner = clock.around("read", work(range(3), 1))
    for _ in clock.around("encode", work(inner, 10)):
        now[0] += 100
    clock.switch("done")
    assert clock.seconds == {"read": 3, "encode": 30, "write": 300}
