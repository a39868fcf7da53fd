"""Driving in a real browser: keys move the picture, dragging too, and the drive can be kept."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from push_episodes import write_episodes

import reeltok

sys.path.append(str(Path(__file__).parents[1] / "cli"))
from small_generators import make_prior, make_tokenizers

pytestmark = pytest.mark.browser
PATIENCE = 120_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, tokenizer = tmp_path_factory.mktemp("drive"), make_tokenizers()["leaning"]
    make_prior(tokenizer, folder / "prior" / "model", frames=4, size=(32, 32), actions=4)
    tokenizer.save_pretrained(folder / "prior" / "tokenizer")
    write_episodes(folder / "held", 2, 2)
    words = ["drive", str(folder / "prior" / "model"), "--starts", str(folder / "held")]
    # Where these tests run in the background, a shell has them ignore Ctrl-C, and what they start.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"from reeltok.cli.main import main; sys.exit(main({[*words, '--device', 'cpu']!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "the page is at " in line:
            break
    else:
        pytest.fail(f"the page did not start: {process.wait()}")
    yield line.split("the page is at ")[1].split()[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE / 1000) == 0
    process.stderr.close()


def until(page: Any, truth: str) -> None:
    """Wait for an expression of the page; `wait_for_function` needs an eval, which is forbidden."""
    for _ in range(PATIENCE // 50):
        if page.evaluate(truth):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"in vain: {truth}; {page.inner_text('#said')}")


READY = "document.getElementById('said').textContent.startsWith('ready')"
SHOWN = "Number(document.getElementById('view').dataset.shown)"


def test_keys_and_drags_move_the_picture(browser: Any, address: str, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page, elsewhere, errors = context.new_page(), [], []
    page.set_default_timeout(PATIENCE)
    page.on(
        "request",
        lambda r: None if r.url.startswith((address, "data:")) else elsewhere.append(r.url),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    until(page, READY)
    assert page.locator("#starts option").count() == 2
    look = "document.getElementById('view').toDataURL()"
    first = page.evaluate(look)
    page.keyboard.down("ArrowRight")
    until(page, f"{SHOWN} >= 9")
    page.keyboard.up("ArrowRight")
    assert page.evaluate(look) != first
    page.wait_for_timeout(1500)  # what was asked for before the key went up is shown
    rest = page.evaluate(SHOWN)
    page.wait_for_timeout(500)
    assert page.evaluate(SHOWN) == rest
    box = page.locator("#view").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 60)
    until(page, f"{SHOWN} > {rest}")
    page.mouse.up()
    with page.expect_download() as saved:
        page.click("#save")
    saved.value.save_as(tmp_path / "drive.mp4")
    assert len(reeltok.read(tmp_path / "drive.mp4")) >= 9
    page.select_option("#starts", "1")
    until(page, READY)
    assert page.evaluate(SHOWN) == 1
    assert (elsewhere, errors) == ([], [])
    context.close()
