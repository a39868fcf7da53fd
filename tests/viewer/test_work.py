"""What the page does, without a browser: coding, opening, limits, strangers' files, two at once."""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from waves import waves

import reeltok
from reeltok.tokens.reel import Reel, ReelWriter
from reeltok.transcode.clock import Clock
from reeltok.viewer import pictures
from reeltok.viewer.page import Form, Page
from reeltok.viewer.pictures import caption, cells, draw_histogram, draw_map, draw_table, steps_of
from reeltok.viewer.rooms import Room, Rooms, clean_name
from reeltok.viewer.work import Limits, Offer, check_video, open_reel, round_trip


def quiet(done: float, what: str) -> None:
    assert 0 <= done <= 1


@pytest.fixture
def offer(models: dict[str, Path]) -> Offer:
    return Offer([str(path) for path in models.values()], reeltok.load)


@pytest.fixture
def rooms() -> Iterator[Rooms]:
    rooms = Rooms()
    yield rooms
    rooms.close()
    assert not rooms.root.exists()


@pytest.fixture
def room(rooms: Rooms) -> Room:
    return rooms.of("visitor")


@pytest.fixture
def page(offer: Offer) -> Iterator[Page]:
    page = Page(offer, Limits(seconds=2, megabytes=0.5))
    yield page
    page.rooms.close()


def test_a_clip_is_coded_as_the_api_codes_it(offer: Offer, room: Room, clip: Path) -> None:
    said = []
    cut = check_video(clip, Limits(), 256)
    tell = lambda done, what: said.append((done, what))
    result = round_trip(offer, "discrete", clip, cut, room, tell)
    with offer.use("discrete") as tokenizer:
        video = reeltok.read(clip)
        tokens = tokenizer.encode(video)
        again = tokenizer.decode(tokens)
    with Reel(result.reel) as reel:
        assert torch.equal(reel.tokens().ids, tokens.ids)
    assert result.reel.name == "waves-discrete.reel"
    assert result.bits_per_pixel == pytest.approx(tokens.bits_per_pixel)
    assert (result.frames, result.size, result.grid) == (9, (48, 64), tokens.grid)
    mse = ((again.frames.double() - video.frames) / 255).square().mean((1, 2, 3))
    assert result.psnr == pytest.approx((-10 * mse.log10()).mean().item(), abs=0.01)
    assert 0 < result.ssim < 1
    assert reeltok.read(result.decoded).frames.shape == (9, 48, 64, 3)
    assert sum(result.bars) == result.tokens == tokens.ids.numel()
    assert result.used == len(tokens.ids.unique())
    each = 32_768 // len(result.bars)  # ids of a bar
    places = (tokens.ids.flatten() // each).bincount(minlength=len(result.bars))
    assert result.bars == tuple(places.tolist())
    assert sum(bar > 0 for bar in result.bars) > 1
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert said[-1] == (1.0, "discrete: decoding")


def test_seconds_are_those_of_each_stage(
    offer: Offer, room: Room, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known(Clock):
        """One that has found 1 second of encoding and 2 of decoding."""

        def around(self, stage: str, parts: Iterable[Any]) -> Iterator[Any]:
            yield from parts
            self.seconds[stage] = {"encode": 1.0, "decode": 2.0}.get(stage, 9.0)

    monkeypatch.setattr("reeltok.viewer.work.Clock", Known)
    cut = check_video(clip, Limits(), 32)
    result = round_trip(offer, "discrete", clip, cut, room, quiet)
    assert result.seconds == {"encode": 1.0, "decode": 2.0}
    assert open_reel(offer, result.reel, Limits(), room, quiet).seconds == {"decode": 2.0}
    assert cells(result)[-3:-1] == ["1.00 s", "2.00 s"]


def test_what_is_kept_opens_again(offer: Offer, rooms: Rooms, clip: Path) -> None:
    made = round_trip(offer, "latent", clip, check_video(clip, Limits(), 256), rooms.of("a"), quiet)
    opened = open_reel(offer, made.reel, Limits(), rooms.of("b"), quiet)
    assert (opened.label, opened.psnr, opened.grid) == ("latent", None, made.grid)
    assert opened.video == opened.decoded
    assert torch.equal(reeltok.read(opened.decoded).frames, reeltok.read(made.decoded).frames)


def test_pictures(offer: Offer, room: Room, clip: Path) -> None:
    cut = check_video(clip, Limits(), 32)
    results = [round_trip(offer, label, clip, cut, room, quiet) for label in ("discrete", "latent")]
    for result in results:
        assert result.size == (32, 42)
        maps = [draw_map(result, step) for step in range(steps_of(result))]
        assert len(maps) == result.grid[0] == 3
        assert maps[0].shape[0] % result.grid[1] == 0
        assert min(maps[0].shape[:2]) >= 256
        assert draw_histogram(result).count("<rect") > 1
    assert "of 32,768 ids are used" in draw_histogram(results[0])
    assert "no codebook" in draw_histogram(results[1])
    named = replace(results[0], label="<script>")
    assert "&lt;script&gt;" in draw_table([named])
    with pytest.raises(ValueError, match="step 9 was asked for, and there are 3"):
        draw_map(results[0], 8)


def test_tokens_in_a_row_make_a_square(offer: Offer, room: Room, clip: Path) -> None:
    result = round_trip(offer, "discrete", clip, check_video(clip, Limits(), 256), room, quiet)
    with Reel(result.reel) as reel:
        tokens = reel.tokens()
    flat = tokens.with_(ids=tokens.ids.flatten(1), grid=(tokens.ids.numel(),))
    with ReelWriter(result.reel) as writer:
        writer.write(flat)
    row = replace(result, grid=flat.grid)
    assert steps_of(row) == 1
    height, width = draw_map(row, 0).shape[:2]
    assert 0.8 < height / width <= 1


def test_each_part_of_a_long_row_is_drawn(
    offer: Offer, room: Room, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SIDE", 4)
    result = round_trip(offer, "discrete", clip, check_video(clip, Limits(), 256), room, quiet)
    with Reel(result.reel) as reel:
        tokens = reel.tokens()
    ids = torch.arange(48)[None] * 7
    with ReelWriter(result.reel) as writer:
        writer.write(tokens.with_(ids=ids, grid=(48,)))
    row = replace(result, grid=(48,))
    assert steps_of(row) == 3
    for step, part in enumerate(ids[0].split(4**2)):
        drawn = draw_map(row, step).reshape(-1, 3)
        assert (drawn == pictures.colours_of_ids(part)).all()


@pytest.mark.parametrize(
    ("size", "places"),
    [
        ((48, 64), ("above", "below")),
        ((64, 64), ("on the left", "on the right")),
        ((64, 48), ("on the left", "on the right")),
    ],
)
def test_a_caption_says_where_the_original_is(
    offer: Offer, room: Room, tmp_path: Path, size: tuple[int, int], places: tuple[str, str]
) -> None:
    """As `side_by_side` lays them."""
    path = tmp_path / "one.mkv"
    reeltok.write(waves(5, *size), path, lossless=True)
    cut = check_video(path, Limits(), 256)
    result = round_trip(offer, "discrete", path, cut, room, quiet)
    said = caption(result)
    assert f"the original {places[0]}, `discrete` {places[1]}." in said
    both, original = reeltok.read(result.video).frames, reeltok.read(path).frames
    rows, columns = both.shape[1] > size[0], both.shape[2] > size[1]
    assert (rows, columns) == (places[0] == "above", places[0] == "on the left")
    first = both[:, : size[0], : size[1]].double()
    last = both[:, -size[0] :, -size[1] :].double()
    away = [(part - original).abs().mean() for part in (first, last)]
    assert away[0] < away[1]
    assert caption(replace(result, video=result.decoded)).endswith("as `discrete` decodes them.")


def test_results_of_a_long_name_tell_tokenizers_apart(
    offer: Offer, room: Room, clip: Path, tmp_path: Path
) -> None:
    long = tmp_path / f"{'x' * 80}.mkv"
    long.write_bytes(clip.read_bytes())
    result = round_trip(offer, "discrete", long, check_video(long, Limits(), 32), room, quiet)
    names = [path.name for path in (result.reel, result.decoded, result.video)]
    assert [name.lstrip("x") for name in names] == [
        "-discrete.reel",
        "-discrete.mp4",
        "-discrete-side-by-side.mp4",
    ]
    assert open_reel(offer, result.reel, Limits(), room, quiet).video.name == (f"{'x' * 60}.mp4")


def test_two_at_once_do_not_mix(offer: Offer, rooms: Rooms, tmp_path: Path) -> None:
    paths = [tmp_path / "one.mkv", tmp_path / "two.mkv"]
    for speed, path in enumerate(paths, 1):
        reeltok.write(waves(9, speed=speed), path, lossless=True)

    def visit(number: int) -> Any:
        room, path = rooms.of(f"visitor {number}"), paths[number % 2]
        result = round_trip(offer, "discrete", path, check_video(path, Limits(), 256), room, quiet)
        return result, room

    with ThreadPoolExecutor(4) as pool:
        visits = list(pool.map(visit, range(4)))
    assert len({room.folder for _, room in visits}) == 4
    with offer.use("discrete") as tokenizer:
        wanted = [tokenizer.encode(reeltok.read(path)).ids for path in paths]
    for number, (result, room) in enumerate(visits):
        assert result.reel.is_relative_to(room.folder)
        with Reel(result.reel) as reel:
            assert torch.equal(reel.tokens().ids, wanted[number % 2])


# Rooms.


def test_a_room_goes_with_its_visitor(rooms: Rooms) -> None:
    room, other = rooms.of("a"), rooms.of("b")
    path = room.place("clip.reel")
    path.write_text("x")
    other.place("clip.reel").write_text("y")
    assert rooms.of("a") is room
    rooms.drop("a")
    assert not room.folder.exists()
    assert len([*other.folder.iterdir()]) == 1
    with pytest.raises(ValueError, match="this page was closed"):
        room.place("late.reel")
    assert rooms.of("a") is not room


def test_rooms_long_unused_are_removed() -> None:
    rooms = Rooms(patience=-1)
    first = rooms.of("a")
    rooms.of("b")
    assert not first.folder.exists()
    rooms.close()


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "passwd"),
        ("a b;c.mp4", "a-b-c.mp4"),
        (".hidden.mp4", "hidden.mp4"),
        ("..", "clip"),
        ("x" * 300 + ".mp4", "x" * 60 + ".mp4"),
    ],
)
def test_names_of_files_do_nothing(name: str, clean: str) -> None:
    assert clean_name(name) == clean


@pytest.mark.parametrize("stem", ["x" * 60, "x" * 300, "\u9f8d" * 80, "\U0001d4b3" * 60, "a.b"])
def test_long_names_keep_what_is_added(room: Room, stem: str) -> None:
    path = room.place(f"{stem}.mp4", "-a/b-side-by-side.mp4")
    path.touch()  # no system takes more than 255 bytes
    assert path.name.endswith("-a-b-side-by-side.mp4")
    assert path.name[:20] == f"{stem}-a-b-side-by-side.mp4"[:20]


# What strangers bring.


def bring(page: Page, name: str, data: bytes) -> str:
    path = page.rooms.root / "uploads" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return str(path)


def sentence(page: Page, work: Any, form: Form) -> str:
    """What the page says is wrong."""
    with pytest.raises(RuntimeError) as caught, page.complaints(RuntimeError):
        work(form, page.rooms.of("visitor"), quiet)
    return str(caught.value)


def test_bad_videos(page: Page, clip: Path, tmp_path: Path) -> None:
    whole = clip.read_bytes()
    reeltok.write(waves(25), tmp_path / "long.mkv", lossless=True)
    given = {
        "text.mp4": (b"not a video", "text.mp4 is not a video, or its header is cut off"),
        "list.m3u8": (b"#EXTM3U\n#EXTINF:1,\nfile:///x.ts\n", "list.m3u8 is not a video"),
        "list.mkv": (b"ffconcat version 1.0\nfile '/x.mkv'\n", "list.mkv is not a video"),
        "cut.mkv": (whole[:-3000], "cut.mkv is cut off"),
        "good.ts": (b"Good morning, " * 40, "good.ts is not a video"),
        "head.mkv": (whole[:40], "head.mkv is not a video"),
        "large.mkv": (whole + bytes(600_000), "megabytes, and this page takes up to 0.5"),
        "long.mkv": ((tmp_path / "long.mkv").read_bytes(), "lasts 2.5 seconds (25 frames)"),
        "<b>.mkv": (b"", "&lt;b&gt;.mkv is not a video"),
    }
    for name, (data, wanted) in given.items():
        form = Form(bring(page, name, data), None, ["discrete"], "256")
        said = sentence(page, page.code_upload, form)
        assert wanted in said, (name, said)
        assert "/" not in said.replace("of 10", ""), said
        assert "\n" not in said


def test_bad_forms(page: Page, clip: Path) -> None:
    good = bring(page, "good.mkv", clip.read_bytes())
    secret = page.rooms.root / "uploads" / "link.mkv"
    secret.symlink_to(clip)
    for form, wanted in [
        (Form(None, None, ["discrete"], "256"), "there is no video yet"),
        (Form(good, None, [], "256"), "no tokenizer is chosen"),
        (Form(good, None, ["/etc"], "256"), "is not offered here: choose discrete, latent"),
        (Form(good, None, ["discrete"], "1"), "is not a side"),
        (Form(str(clip), None, ["discrete"], "256"), "waves.mkv was not uploaded here"),
        (Form(str(secret), None, ["discrete"], "256"), "link.mkv was not uploaded here"),
    ]:
        assert wanted in sentence(page, page.code_upload, form)


def test_limits() -> None:
    with pytest.raises(ValueError, match="would be coded at 4000x2000"):
        Limits().check_clip("x.mkv", 1, 0.1, (2000, 4000))
    Limits().check_clip("x.mkv", 2400, 0.1, (16, 16))
    with pytest.raises(
        ValueError, match=r"x.mkv lasts 0.1 seconds \(2,401 frames\), and this page"
    ):
        Limits().check_clip("x.mkv", 2401, 0.1, (16, 16))  # a file may say any rate, or none
    with pytest.raises(ValueError, match="lets nothing in"):
        Limits(seconds=0)


def test_bad_reels(page: Page, models: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    tokenizer = reeltok.load(models["discrete"])
    tokens = tokenizer.encode(reeltok.read(clip))

    def saved(name: str, **changes: Any) -> bytes:
        with ReelWriter(tmp_path / name) as writer:
            writer.write(tokens.with_(**changes))
        return (tmp_path / name).read_bytes()

    good = saved("good.reel")
    given = {
        "text.reel": (b"not tokens, nor long enough", "text.reel is not a .reel file"),
        "cut.reel": (good[:-20], "cut.reel is cut off"),
        "altered.reel": (good[:-1] + bytes([good[-1] ^ 1]), "was altered"),
        "alien.reel": (
            saved("alien.reel", model="/etc/model", weights="0" * 64),
            "alien.reel was made by '/etc/model', which is not offered here",
        ),
        "other.reel": (saved("other.reel", weights="0" * 64), "with other weights"),
        "long.reel": (saved("long.reel", frames=900), "lasts 90.0 seconds (900 frames)"),
        "fast.reel": (saved("fast.reel", fps=1e6), "it was altered"),
        "wide.reel": (saved("wide.reel", width=10**6), "would be coded at 1000000x48"),
        "small.reel": (saved("small.reel", width=8), "but its frames have 3x6x1: it was altered"),
    }
    for name, (data, wanted) in given.items():
        form = Form(None, bring(page, name, data), [], "256")
        said = sentence(page, page.open_upload, form)
        assert wanted in said, (name, said)
        assert not re.search(r"reeltok-view|uploads", said)


def test_work_stops_when_the_visitor_leaves(offer: Offer, rooms: Rooms, clip: Path) -> None:
    room = rooms.of("a")

    def leave(done: float, what: str) -> None:
        rooms.drop("a")

    with pytest.raises((ValueError, OSError)):
        round_trip(offer, "discrete", clip, check_video(clip, Limits(), 256), room, leave)
    assert not room.folder.exists()


def test_tokenizers_are_called_by_their_runs(models: dict[str, Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "model").mkdir(parents=True)
    first, second = str(tmp_path / "first" / "model"), str(tmp_path / "second" / "model")
    offer = Offer(["default", first, second, f"mine={models['discrete']}"], reeltok.load)
    assert list(offer.places) == ["default", "first", "second", "mine"]
    (tmp_path / "second" / "best").mkdir()
    assert list(Offer([second, second[:-5] + "best"], reeltok.load).places) == [
        "second-model",
        "second-best",
    ]
    with pytest.raises(ValueError, match="are both called a: name one as LABEL="):
        Offer([f"a={first}", f"a={second}"], reeltok.load)


@pytest.mark.parametrize("kind", ["WEBP", "WAVE"])
def test_what_only_begins_like_an_avi_is_no_video(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(b"RIFF\x00\x00\x00\x00" + kind.encode() + bytes(64))
    with pytest.raises(ValueError, match="is not a video"):
        check_video(path, Limits(), 256)
