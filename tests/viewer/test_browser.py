"""The page in a real browser: code, look, keep, open; two visitors; nothing from elsewhere."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from waves import waves

import reeltok
from reeltok.tokens.reel import load_tokens

pytestmark = pytest.mark.browser
PATIENCE = 300  # seconds; the machine may be busy


@dataclass(frozen=True)
class Server:
    """A page that runs: its address, and the folder in which its own lies."""

    process: Any
    address: str
    folder: Path

    @property
    def rooms(self) -> list[Path]:
        return [*self.folder.glob("reeltok-view-*/room-*")]


@dataclass
class Visit:
    """A visitor's page, and what the browser said on the way."""

    page: Any
    elsewhere: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def start(models: dict[str, Path], folder: Path) -> Server:
    """Run the command until it says where the page is."""
    words = [word for model in models.values() for word in ("--model", str(model))]
    # Where these tests run in the background, a shell has them ignore Ctrl-C, and what they start.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"from reeltok.cli.main import main; sys.exit(main({['view', *words]!r} + "
    code += "['--max-megabytes', '0.1', '--max-seconds', '3', '--device', 'cpu']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        cwd=folder,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "the page is at " in line:
            return Server(process, line.split("the page is at ")[1].split()[0], folder)
    pytest.fail(f"the page did not start: {process.wait()}")


@pytest.fixture(scope="module")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="needs gradio (extra ui)")
    server = start(models, tmp_path_factory.mktemp("server"))
    yield server
    server.process.send_signal(signal.SIGINT)
    code = server.process.wait(PATIENCE)
    server.process.stderr.close()
    assert code == 0
    assert not [*server.folder.glob("reeltok-view-*")]


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[[], Visit]]:
    """Open the page as a new visitor; in the end nothing came from elsewhere, without errors."""
    visits = []

    def open_page() -> Visit:
        context = browser.new_context(viewport={"width": 1100, "height": 1600})
        visit = Visit(context.new_page())
        visit.page.set_default_timeout(1000 * PATIENCE)
        visit.page.on("request", lambda request: note_request(visit, request.url))
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on("console", lambda said: note_console(visit, said))
        visit.page.goto(server.address, wait_until="domcontentloaded")
        visit.page.wait_for_selector("#start")
        visits.append(visit)
        return visit

    def note_request(visit: Visit, url: str) -> None:
        if not url.startswith((server.address, "data:", "blob:")):
            visit.elsewhere.append(url)

    yield open_page
    for visit in visits:
        visit.page.context.close()
        assert visit.elsewhere == []
        assert visit.errors == []


def note_console(visit: Visit, said: Any) -> None:
    if said.type == "error":
        visit.errors.append(said.text)


def bring(visit: Visit, where: str, path: Path) -> None:
    visit.page.set_input_files(f"{where} input[type=file]", str(path))


def look(visit: Visit, name: str) -> None:
    """Keep a picture of the page where REELTOK_SCREENSHOTS names a folder."""
    if folder := os.environ.get("REELTOK_SCREENSHOTS"):
        visit.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_clip_to_tokens_and_back(visit: Callable[[], Visit], clip: Path, tmp_path: Path) -> None:
    first = visit()
    page = first.page
    bring(first, "#clip", clip)
    page.wait_for_selector("#clip >> text=waves")
    page.get_by_label("latent").check()
    page.click("#start")
    page.wait_for_selector("#numbers table")
    assert page.locator("#numbers tbody tr").count() == 2
    assert "0.0781" in page.inner_text("#numbers")
    assert "ids are used" in page.inner_text("#histogram")
    video = page.wait_for_selector("#video video")
    page.wait_for_function("document.querySelector('#video video').readyState >= 2")
    assert video.evaluate("v => v.videoWidth") == 64
    video.evaluate("v => {v.muted = true; return v.play()}")
    page.wait_for_function("document.querySelector('#video video').currentTime > 0.05")
    # Another step of the tokens, by keyboard.
    picture = page.get_attribute("#map img", "src")
    page.locator("#step input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.querySelector('#map img').src != {picture!r}")
    look(first, "coded")
    # The other tokenizer.
    page.locator("#choice").get_by_label("latent").check()
    page.wait_for_selector("#histogram >> text=no codebook")
    look(first, "chosen")
    # Keep it, and open it as another visitor.
    with page.expect_download() as download:
        page.locator("#files a[download]").first.click()
    kept = tmp_path / "kept.reel"
    download.value.save_as(kept)
    assert load_tokens(kept).frames == 9
    second = visit()
    bring(second, "#reel", kept)
    second.page.wait_for_selector("#numbers table")
    assert second.page.locator("#numbers tbody tr").count() == 1
    assert "latent" in second.page.inner_text("#numbers")
    assert page.locator("#numbers tbody tr").count() == 2
    look(second, "opened")


def test_two_visitors_do_not_mix(
    visit: Callable[[], Visit], server: Server, tmp_path: Path
) -> None:
    visits = [visit(), visit()]
    for number, each in enumerate(visits, 1):
        path = tmp_path / f"clip-{number}.mkv"
        reeltok.write(waves(4 + number, speed=number), path, lossless=True)
        bring(each, "#clip", path)
        each.page.wait_for_selector(f"#clip >> text=clip-{number}")
    for each in visits:
        each.page.click("#start")
    for number, each in enumerate(visits, 1):
        each.page.wait_for_selector(f"#results >> text={4 + number} frames of 48x64")
        assert f"clip-{number}-discrete" in each.page.inner_text("#files")
    rooms = len(server.rooms)
    visits[0].page.close()
    wait_until(lambda: len(server.rooms) < rooms)


def test_bad_files_are_told_in_a_sentence(visit: Callable[[], Visit], tmp_path: Path) -> None:
    text, long, large = (tmp_path / name for name in ("text.mp4", "long.mkv", "large.mkv"))
    text.write_text("not a video")
    reeltok.write(waves(31, 16, 16), long, lossless=True)
    large.write_bytes(bytes(300_000))
    each = visit()
    for path, said in [
        (None, "there is no video yet: drop one first"),
        (text, "text.mp4 is not a video"),
        (long, "long.mkv lasts 3.1 seconds (31 frames), and this page takes up to 3"),
    ]:
        if path is not None:
            bring(each, "#clip", path)
            each.page.wait_for_selector(f"#clip >> text={path.stem}")
        each.page.click("#start")
        each.page.wait_for_selector(f"text={said}")
        look(each, f"bad-{path and path.stem}")
        if path is not None:
            each.page.get_by_label("Clear").first.click()
    bring(each, "#clip", large)
    each.page.wait_for_selector("text=/maximum allowed size/i")
    each.errors.clear()  # the browser notes the server's refusal


def test_nothing_else_is_served(server: Server, clip: Path) -> None:
    for path in (str(clip), "/etc/hostname", "pyproject.toml", "http://127.0.0.1:1/x"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{server.address}/gradio_api/file={path}")
        assert refused.value.code == 403
        refused.value.close()


def test_an_address_is_not_taken_for_a_file(server: Server) -> None:
    """A request that no page sends: gradio would fetch the address."""
    file = {"path": "http://127.0.0.1:1/x.mkv", "meta": {"_type": "gradio.FileData"}}
    asked = {"data": [file, None, ["discrete"], "256"], "fn_index": 0, "session_hash": "crafted"}
    join = urllib.request.Request(
        f"{server.address}/gradio_api/queue/join",
        json.dumps(asked).encode(),
        {"content-type": "application/json"},
    )
    urllib.request.urlopen(join).close()
    said = f"{server.address}/gradio_api/queue/data?session_hash=crafted"
    with urllib.request.urlopen(said, timeout=PATIENCE) as events:
        last = next(line for line in events if b"process_completed" in line)
    assert b"takes files, not addresses" in last
