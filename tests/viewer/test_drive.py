"""The page to drive on: what its requests are answered, by itself and below another page."""

import asyncio
import base64
import json
import shutil
import socket
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from push_episodes import draw_episode, write_episodes

import reeltok
from reeltok.cli.drive import find_starts, open_drive
from reeltok.cli.main import main
from reeltok.viewer.drive import world
from reeltok.viewer.drive.asgi import DriveRoutes
from reeltok.viewer.drive.server import Answer, Pages, open_server
from reeltok.viewer.drive.sessions import MOST

sys.path.append(str(Path(__file__).parents[1] / "cli"))
from small_generators import make_prior, make_tokenizers


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Priors with and without actions, of 32 pixels, and three episodes."""
    folder, tokenizer = tmp_path_factory.mktemp("drive"), make_tokenizers()["leaning"]
    for name, actions in (("driven", 4), ("still", 0), ("other", 7)):
        values = {"frames": 4, "size": (32, 32), "actions": actions}
        make_prior(tokenizer, folder / name / "model", **values)
        tokenizer.save_pretrained(folder / name / "tokenizer")
    write_episodes(folder / "held", 3, 2)
    return folder


@pytest.fixture
def pages(base: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Without a simulator: what these clips show is drawn by hand."""
    monkeypatch.setattr(world.Simulated, "__init__", no_simulator)
    found = open_page(base, "driven")
    yield found
    found.sessions.close()


def no_simulator(self: Any, seed: int, number: int, side: int) -> None:
    raise ImportError("there is no simulator")


def open_page(base: Path, name: str) -> Pages:
    folder = base / name / "model"
    return open_drive(folder, str(base / "held"), None, {"steps": 2}, 0, "cpu")


def post(pages: Pages, path: str, **value: Any) -> dict[str, Any]:
    return json.loads(pages.answer("POST", path, json.dumps(value).encode()).data)


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(address.split(",")[1]))))


def test_a_drive_begins_with_what_comes_along_with_the_prior(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.Simulated, "__init__", no_simulator)
    shutil.copytree(base / "driven", tmp_path / "driven")
    model = tmp_path / "driven" / "model"
    with pytest.raises(ImportError, match="or give --starts FOLDER"):
        open_drive(model, None, None, {"steps": 2}, 0, "cpu")
    shutil.copytree(base / "held", model / "starts")
    found = open_drive(model, None, None, {"steps": 2}, 0, "cpu")
    try:
        names = json.loads(found.answer("GET", "/starts").data)["starts"]
    finally:
        found.sessions.close()
    assert names == [f"push-0-0000{n}.mkv" for n in range(3)]


def test_a_drive(pages: Pages, base: Path, tmp_path: Path) -> None:
    found = json.loads(pages.answer("GET", "/starts").data)
    names = [f"push-0-0000{n}.mkv" for n in range(3)]
    assert found == {"starts": names, "side": 32, "fps": 10.0, "new": 4}
    begun = post(pages, "/begin", start=1)
    first = reeltok.read(base / "held" / names[1]).frames[0].numpy()
    np.testing.assert_array_equal(pixels(begun["frames"][0]), first)
    assert (begun["truths"], begun["why"]) == ([], "there is no simulator")
    moved = post(pages, "/move", session=begun["session"], action=[1, 0, -0.5, 0])
    assert len(moved["frames"]) == 4
    assert moved["seconds"] > 0
    again = post(pages, "/begin", start=1)
    same = post(pages, "/move", session=again["session"], action=[1, 0, -0.5, 0])
    assert same["frames"] == moved["frames"]
    further = post(pages, "/move", session=begun["session"], action=[1, 0, -0.5, 0])
    assert further["frames"] != moved["frames"]
    kept = pages.answer("GET", f"/video?session={begun['session']}")
    assert (kept.kind, kept.name) == ("video/mp4", "drive.mp4")
    (tmp_path / "drive.mp4").write_bytes(kept.data)
    video = reeltok.read(tmp_path / "drive.mp4")
    assert (len(video), video.height, video.width, video.fps) == (9, 128, 128, 10)


def test_a_drive_goes_on_from_its_last_frame_and_its_first(
    pages: Pages, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def roll_out(*args: Any, **options: Any) -> Any:
        asked.append({"x": args[2], **options})
        yield -asked[-1]["x"].expand(-1, -1, 4, -1, -1)

    monkeypatch.setattr("reeltok.viewer.drive.world.masked.roll_out", roll_out)
    key = post(pages, "/begin", start=1)["session"]
    for _ in range(2):
        post(pages, "/move", session=key, action=[0, 0, 0, 0])
    first, second = asked
    torch.testing.assert_close(first["start"], first["x"])
    torch.testing.assert_close(second["start"], first["x"])
    assert not torch.allclose(second["x"], first["x"], atol=0.1)


def test_what_a_request_must_be(pages: Pages) -> None:
    key = post(pages, "/begin")["session"]
    cases = {
        "four numbers": [1, 0, 0],
        "numbers from -1 to 1": [1, 0, 0, 1.5],
        "a list of numbers": "left",
        "4 numbers from -1": [1, 0, 0, float("nan")],
    }
    said = [post(pages, "/move", session=key, action=action)["error"] for action in cases.values()]
    assert "action is 4 numbers from -1 to 1" in said[0]
    assert "from -1 to 1" in said[1]
    assert "is a list of numbers" in said[2]
    assert said[3]
    assert "no longer kept" in post(pages, "/move", session="x", action=[0, 0, 0, 0])["error"]
    assert "there are 3, from 0" in post(pages, "/begin", start=3)["error"]
    assert "a start is a number" in post(pages, "/begin", start="a")["error"]
    for body in (b"", b"[1]", b"{", b"\xff"):
        answer = pages.answer("POST", "/move", body)
        assert (answer.status, "error" in json.loads(answer.data)) == (400, True)
    assert pages.answer("GET", "/elsewhere").status == 404
    assert pages.answer("GET", "/video?session=x").status == 400


def test_who_did_nothing_for_longest_goes(pages: Pages) -> None:
    keys = [post(pages, "/begin")["session"] for _ in range(MOST)]
    pages.sessions.session(keys[0])
    post(pages, "/begin")
    assert len(pages.sessions.held) == MOST
    assert keys[0] in pages.sessions.held
    assert keys[1] not in pages.sessions.held


def test_visitors_who_begin_at_once(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = set[str]()

    class Watched(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            owners.add(threading.current_thread().name)
            super().__setitem__(key, value)

    monkeypatch.setattr(pages.sessions, "held", Watched())
    with ThreadPoolExecutor(8) as visitors:
        keys = list(visitors.map(lambda number: pages.sessions.begin(0)[0], range(3 * MOST)))
    assert len(set(keys)) == 3 * MOST
    assert set(pages.sessions.held) <= set(keys)
    assert len(pages.sessions.held) == MOST
    assert {name.split("_")[0] for name in owners} == {"drive"}  # one thread, so none can race


def test_over_the_network(pages: Pages) -> None:
    server = open_server(pages, "127.0.0.1", None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with urllib.request.urlopen(place) as page:
            assert b"A world to drive" in page.read()
            assert page.headers["content-security-policy"].startswith("default-src 'none'")
        with urllib.request.urlopen(f"{place}/begin", data=b'{"start": 0}') as answer:
            assert json.load(answer)["session"]
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(f"{place}/begin", data=b"x" * 20_000)
        with pytest.raises(OSError, match="give another `port` or `host`"):
            open_server(pages, "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def served(pages: Pages) -> Iterator[tuple[str, int]]:
    """The host and port at which the pages are served."""
    server = open_server(pages, "127.0.0.1", None)
    server.daemon_threads = False  # so that closing waits for them
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[:2]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET http://[x HTTP/1.1", 400),
        ("POST /begin HTTP/1.1\r\ncontent-length: \u00b2", 413),
        (f"POST /begin HTTP/1.1\r\ncontent-length: {'1' * 5000}", 413),
        ("POST /begin HTTP/1.1\r\ncontent-length: -1", 413),
        ("POST /begin HTTP/1.1\r\norigin: https://elsewhere.org\r\ncontent-length: 2", 403),
        ("POST /begin HTTP/1.1\r\norigin: null\r\ncontent-length: 2", 403),
        ("POST /begin HTTP/1.1\r\norigin: http://here:1\r\ncontent-length: 2", 200),
        ("POST /begin HTTP/1.1\r\ncontent-length: 2", 200),
    ],
)
def test_requests_that_are_none_or_of_another_site(
    served: tuple[str, int], capfd: pytest.CaptureFixture[str], head: str, status: int
) -> None:
    with socket.create_connection(served) as browser:
        browser.sendall(
            f"{head}\r\nhost: here:1\r\nconnection: close\r\n\r\n{{}}".encode("latin-1")
        )
        with browser.makefile("rb") as answer:
            assert answer.readline().split()[1] == str(status).encode()
    assert capfd.readouterr().err == ""


def test_a_browser_that_leaves_is_no_fault(capfd: pytest.CaptureFixture[str]) -> None:
    gone = threading.Event()

    class Late(Pages):
        def __init__(self) -> None: ...

        def answer(self, method: str, path: str, body: bytes = b"") -> Answer:
            assert gone.wait(60)
            return Answer(data=bytes(10_000_000), kind="video/mp4")

    server = open_server(Late(), "127.0.0.1", None)
    server.daemon_threads = False  # so that closing waits for them
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with socket.create_connection(server.server_address[:2]) as browser:
        browser.sendall(b"GET /video HTTP/1.1\r\nhost: here\r\n\r\n")
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.2)
    gone.set()
    server.shutdown()
    thread.join()
    server.server_close()
    assert capfd.readouterr().err == ""


def test_a_recording_is_of_one_moment(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move may end while it is written."""
    key = post(pages, "/begin", start=0)["session"]
    session, stack = pages.sessions.session(key), np.stack
    session.truths = list(session.frames)

    def meanwhile(frames: list[np.ndarray]) -> np.ndarray:
        session.frames = session.frames * 2
        session.truths = session.truths * 2
        return stack(frames)

    monkeypatch.setattr("reeltok.viewer.drive.sessions.np.stack", meanwhile)
    found = reeltok.read(pages.sessions.record(key))
    assert found.frames.shape == (1, 4 * 32, 2 * 4 * 32, 3)


def test_the_truth_is_of_the_start_that_is_shown(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip may bear the name of an episode that it is not, or be lit otherwise."""

    class Drawn(world.Simulated):
        def __init__(self, seed: int, number: int, side: int) -> None:
            self.frame = draw_episode(1, number=number)[0][0]

    monkeypatch.setattr("reeltok.viewer.drive.sessions.Simulated", Drawn)
    frames = draw_episode(2)[0]
    shown = {"push-0-00000": frames, "push-0-00001": 255 - frames, "push-0-00004": frames - 12}
    shown["my-push-0-00000"] = frames
    for name, each in shown.items():
        video = reeltok.Video.of(each, fps=10.0)
        reeltok.write(video, tmp_path / f"{name}.mkv", lossless=True)
    reeltok.write(reeltok.Video.of(frames, fps=10.0), tmp_path / "push-0-00012.mp4")
    page = open_drive(base / "driven" / "model", str(tmp_path), None, {"steps": 2}, 0, "cpu")
    try:
        starts = [start.name for start in page.sessions.starts]
        why = {name: post(page, "/begin", start=n)["why"] for n, name in enumerate(starts)}
        begun = post(page, "/begin", start=starts.index("push-0-00000.mkv"))
    finally:
        page.sessions.close()
    assert begun["truths"] == begun["frames"]
    assert {name for name, said in why.items() if not said} == {
        "push-0-00000.mkv",
        "push-0-00012.mp4",
    }
    assert "is not named as an episode" in why["my-push-0-00000.mkv"]
    for name in ("push-0-00001.mkv", "push-0-00004.mkv"):
        assert why[name] == f"{name} does not begin as the episode of its name is simulated"


def test_below_another_page(pages: Pages) -> None:
    sent: list[dict[str, Any]] = []
    sender: list[tuple[bytes, bytes]] = [(b"host", b"here:7860"), (b"origin", b"http://here:7860")]

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "other"})

    async def ask(path: str, *parts: bytes, method: str = "GET") -> list[dict[str, Any]]:
        waiting = [{"body": part, "more_body": part is not parts[-1]} for part in parts] or [{}]

        async def receive() -> dict[str, Any]:
            return waiting.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        sent.clear()
        scope = {"type": "http", "path": path, "method": method, "query_string": b""}
        scope |= {"headers": sender}
        await DriveRoutes(other, pages)(scope, receive, send)
        return list(sent)

    run = lambda *words, **more: asyncio.run(ask(*words, **more))
    assert run("/elsewhere") == [{"type": "other"}]
    assert run("/driven") == [{"type": "other"}]
    assert run("/drive")[0]["status"] == 307
    assert b"A world to drive" in run("/drive/")[1]["body"]
    begun = run("/drive/begin", b'{"sta', b'rt": 2}', method="POST")
    assert json.loads(begun[1]["body"])["session"]
    assert run("/drive/begin", b"x" * 20_000, method="POST")[0]["status"] == 413
    sender[1] = (b"origin", b"https://elsewhere.org")
    assert run("/drive/begin", b'{"start": 2}', method="POST")[0]["status"] == 403
    assert run("/drive/starts")[0]["status"] == 200


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("still", "knows no actions"),
        ("other", "knows 7 numbers an action, the pushing world has 4"),
    ],
)
def test_priors_that_cannot_be_driven(
    base: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drive", str(base / name / "model"), "--starts", str(base / "held")]) == 2
    assert said in capsys.readouterr().err


def test_starts(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="this prior makes 64x64: make them by `reeltok data push OUT --size 64`"
    ):
        find_starts(str(base / "held"), 64)
    monkeypatch.setattr(world.Simulated, "__init__", no_simulator)
    with pytest.raises(ImportError, match="or give --starts FOLDER"):
        find_starts(None, 32)


def test_the_truth_beside_it(base: Path) -> None:
    """The simulator begins where the episode does, and does what the visitor does."""
    pytest.importorskip("mujoco", reason="needs mujoco (extra sim)")
    from reeltok.worlds import pictures
    from reeltok.worlds.push import first_draw

    try:
        pictures.Camera(32).close()
    except ImportError as error:
        pytest.skip(str(error))
    assert first_draw(0, 1) == first_draw(0, 1)
    page = open_page(base, "driven")
    try:
        page.sessions.starts = page.sessions.work(find_starts, None, 32)
        begun = post(page, "/begin", start=2)
        np.testing.assert_array_equal(pixels(begun["truths"][0]), pixels(begun["frames"][0]))
        still = post(page, "/move", session=begun["session"], action=[0, 0, 0, 0])
        lifted = post(page, "/move", session=begun["session"], action=[0, 0, 1, 0])
        assert (len(still["truths"]), len(lifted["truths"])) == (4, 4)
        change = lambda a, b: np.abs(pixels(a).astype(int) - pixels(b)).mean()
        assert change(still["truths"][3], lifted["truths"][3]) > 1
    finally:
        page.sessions.close()
