"""Sentences for people: one frame, a time in its unit, a name once."""

import pytest

from reeltok.wording import as_options, count, duration, explain, left_out
from reeltok.zoo import missing_weights


def test_numbers_of_things() -> None:
    assert [count(n, "frame") for n in (0, 1, 2, 1200)] == [
        "0 frames",
        "1 frame",
        "2 frames",
        "1,200 frames",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 seconds"),
        (0.2, "a second"),
        (36, "36 seconds"),
        (150, "2.5 minutes"),
        (7200, "2.0 hours"),
        (864000, "10.0 days"),
    ],
)
def test_times_are_in_the_unit_that_shows_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("name", "why", "said"),
    [
        ("c/a.mp4", "c/a.mp4 is not a video", "c/a.mp4 left out: it is not a video"),
        ("a.mp4", "/x/c/a.mp4 is not a video", "a.mp4 left out: it is not a video"),
        ("c/a.mp4", "there is no file c/a.mp4", "c/a.mp4 left out: there is no such file"),
        ("c/a.mp4", "the first of c/a.mp4 is bad", "left out: the first of c/a.mp4 is bad"),
        ("a.mp4", "24 frames are needed", "a.mp4 left out: 24 frames are needed"),
    ],
)
def test_no_name_is_said_twice(name: str, why: str, said: str) -> None:
    assert left_out(name, why) == said


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("more than `max_broken` 5 broke", "more than --max-broken 5 broke"),
        ("give `raw='4x4:25:gray'`", "give --raw 4x4:25:gray"),
        ("change it by `changes`", "change it by --set"),
        ("give `tokens`, or `reeltok models`", "give `tokens`, or `reeltok models`"),
        ("the file `x` or `raw`, `raw=`", "the file `x` or --raw, --raw"),
    ],
)
def test_arguments_are_said_as_the_options_of_a_command(sentence: str, said: str) -> None:
    flags = {"max_broken": "--max-broken", "raw": "--raw", "changes": "--set"}
    assert as_options(sentence, flags) == said


@pytest.mark.parametrize("name", ["vidtok_kl_causal_488_4chn", "reftok-none"])
def test_missing_weights_are_told_of_in_python_and_at_a_command(name: str) -> None:
    said = missing_weights(name)
    assert "`weights=FILE`" in said
    assert "`weights='random'`" in said
    there = as_options(said, {"weights": "--weights"})
    assert "--weights FILE" in there
    assert "--weights random" in there
    assert "=" not in there


def test_memory_that_says_what_to_do_is_left_to_say_it() -> None:
    said = "memory ran out in strips of 8 pixels: give a lower `memory`"
    assert explain(MemoryError(said), ["chunk", "memory"]) == said
    assert explain(MemoryError(), ["chunk", "memory"]) == (
        "out of memory: give a smaller `chunk`, or a lower `memory`"
    )
