"""Headers of .reel files by someone who knows the format: one sentence that names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reeltok.tokens.header import description_hash
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import ReelWriter, load_tokens, save_tokens

Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "clip.reel"
    tokens = Tokens(
        ids=torch.arange(24).reshape(1, 2, 3, 4),
        frames=5,
        height=24,
        width=32,
        fps=10.0,
        vocabulary=100,
        times=torch.arange(5).double(),
        extras={"more": torch.ones(3)},
    )
    save_tokens(tokens, path)
    return path


def refused(path: Path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        load_tokens(path)
    assert type(caught.value) is ValueError
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_as_it_is(path: Path) -> None:
    assert load_tokens(path).frames == 5


@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__":5,"a":{"data_offsets":[0,0]}}',
        b'{"__metadata__":{"format":"reel","version":1},"a":{"data_offsets":[0,0]}}',
        b'{"__metadata__":{"format":"reel","version":"1"},"a":{"data_offsets":[0,Infinity]}}',
        b'{"__metadata__":{"format":"reel","version":"1"},"a":{"data_offsets":[0,1e400]}}',
        b'{"a":' + b"[" * 50_000,
        b'{"a":[0],"a":[0]}',
        b'{"a":"\xff"}',
        b'{"__metadata__":{"format":"reel","version":"1"}}',
        b'{"__metadata__":{"format":"reel","version":"1"},"a":5}',
        b"{}",
    ],
)
def test_a_header_that_is_none(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    refused(path)


def rewrite(path: Path, change: Change) -> None:
    """Change what is said about the tokens or where they lie, with right hashes."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:end])
    metadata = table.pop("__metadata__")
    about = json.loads(metadata["about"])
    change(about, table)
    metadata["about"] = json.dumps(about)
    metadata["sha256"] = description_hash(metadata["about"], table)
    raw = json.dumps({"__metadata__": metadata, **table}).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[end:])


ABOUT: dict[str, Change] = {
    **{f"fps {fps}": lambda a, t, fps=fps: a.update(fps=fps) for fps in (1e308, 0, -1, 1e-300)},
    "fps NaN": lambda a, t: a.update(fps=float("nan")),
    "no payload": lambda a, t: a.pop("payload"),
    "payload elsewhere": lambda a, t: a["payload"].update(name="latents"),
    "payload of no tensor": lambda a, t: (t.update(x=t.pop("ids")), a["payload"].update(name="x")),
    "other blocks": lambda a, t: a["payload"].update(block=17),
    "no hash of blocks": lambda a, t: a["tensors"].pop("blocks"),
    "no hashes": lambda a, t: a.update(tensors={}),
    "more bits": lambda a, t: a.update(bits=8),
    "a vocabulary of none": lambda a, t: a.update(vocabulary=None),
    "a vocabulary too large": lambda a, t: a.update(vocabulary=2**100),
    "channels of ids": lambda a, t: a.update(channels=1),
    "a grid too large": lambda a, t: a.update(grid=[0, 2**40, 2**40]),
    "a grid of texts": lambda a, t: a.update(grid=["2", 3, 4]),
    "another grid": lambda a, t: a.update(grid=[3, 3, 4]),
    "no grid": lambda a, t: a.update(grid=[]),
    "a huge frame": lambda a, t: a.update(height=2**40),
    "a frame of text": lambda a, t: a.update(height="24"),
    "fewer frames than times": lambda a, t: a.update(frames=4),
    "odd colour": lambda a, t: a.update(colour={"matrix": []}),
    "a negative colour": lambda a, t: a.update(colour={"primaries": -1}),
    "a colour of no standard": lambda a, t: a.update(colour={"matrix": 2**40}),
    "a start past all time": lambda a, t: a["settings"].update(start=1e12),
    "unknown colour": lambda a, t: a.update(colour={"hue": 1}),
    "given as what torch has": lambda a, t: a["settings"].update(given="load"),
    "a start of text": lambda a, t: a["settings"].update(start="x"),
    "a window of text": lambda a, t: a["settings"].update(window="8"),
    "no slices": lambda a, t: a["settings"].update(slices=0),
    "unknown key": lambda a, t: a.update(more=1),
    "a type of none": lambda a, t: t["times"].update(dtype="F128"),
    "another type": lambda a, t: t["blocks"].update(dtype="I8"),
    "a shape of text": lambda a, t: t["ids"].update(shape="21"),
    "another shape": lambda a, t: t["extras.more"].update(shape=[4]),
    "a negative shape": lambda a, t: t["ids"].update(shape=[-1, -21]),
    "half an entry": lambda a, t: t["ids"].pop("data_offsets"),
    "one in another": lambda a, t: t["ids"].update(data_offsets=[0, 21]),
}


@pytest.mark.parametrize("change", ABOUT.values(), ids=[*ABOUT])
def test_a_wrong_description_with_right_hashes(path: Path, change: Change) -> None:
    rewrite(path, change)
    assert "was altered" in refused(path)


def test_a_description_that_only_looks_odd_is_read(path: Path) -> None:
    rewrite(path, lambda a, t: a["settings"].update(own=[1, {"x": None}], start=-0.5))
    assert load_tokens(path).settings["own"] == [1, {"x": None}]


def test_declared_sizes_take_no_memory(path: Path) -> None:
    """Nothing is made by a size that is only said: the bytes must be there first."""
    rewrite(path, lambda a, t: a.update(frames=2**40, batch=2**30))
    refused(path)
    rewrite(path, lambda a, t: (a.update(batch=1), t["extras.more"].update(shape=[2**40])))
    refused(path)


def test_tokens_that_could_not_be_read_are_not_written(tmp_path: Path) -> None:
    ids = torch.zeros(1, 2, 3, 4, dtype=torch.int64)
    given = {"ids": ids, "frames": 5, "height": 24, "width": 32, "vocabulary": 9}
    with pytest.raises(ValueError, match=r"cannot be saved.*window"):
        save_tokens(Tokens(**given, settings={"window": "8"}), tmp_path / "clip.reel")
    with pytest.raises(ValueError, match="fps lies between"):
        Tokens(**given, fps=1e300)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [{"settings": {"window": "8"}}, {"settings": {"x": {1}}}, {"height": 2**25}],
)
def test_a_stream_that_no_file_can_hold_ends_at_its_first_part(
    tmp_path: Path, path: Path, change: dict[str, Any]
) -> None:
    part = load_tokens(path)
    with ReelWriter(tmp_path / "other.reel") as writer:
        with pytest.raises(ValueError, match=r"cannot be saved|must be JSON values"):
            writer.write(part.with_(**change))
        writer.write(part)
    assert torch.equal(load_tokens(tmp_path / "other.reel").ids, part.ids)


def test_a_lone_surrogate_is_no_text(path: Path) -> None:
    rewrite(path, lambda a, t: a.update(model="\ud800"))
    refused(path)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e300, -1e12])
def test_times_that_no_video_holds_are_refused(path: Path, time: float) -> None:
    save_tokens(
        load_tokens(path).with_(times=torch.tensor([0.0, 1.0, 2.0, 3.0, time]).double()), path
    )
    assert "its times" in refused(path)
