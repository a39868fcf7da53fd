"""The report: its files, and its page in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import DISCRETE, NONCAUSAL

from reeltok.evaluate.candidates.candidate import TIMING, TokenizerCandidate
from reeltok.evaluate.candidates.codecs import RateTarget, Resize, open_codecs
from reeltok.evaluate.candidates.functions import Reconstructor
from reeltok.evaluate.protocols import PROTOCOLS
from reeltok.evaluate.report.build import (
    Media,
    distinct_names,
    model_data,
    page_data,
    slug,
    slug_of,
    write_report,
)
from reeltok.evaluate.results import Result
from reeltok.evaluate.run import evaluate
from reeltok.evaluate.scores import Scorer
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.flow import MotionConfig
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig
from reeltok.tokenizer.contract import Tokenizer
from reeltok.video.record import Video, read, write

PLAN = replace(
    PROTOCOLS["shared-eval"], frames=9, crop=64, smallest=16, metrics=("psnr", "psnr-uint8", "ssim")
)
PATIENCE = 120_000  # milliseconds; the machine may be busy
SECOND = '</script><img src=x onerror="window.hurt=1">'  # a name that means harm


def counter(frames: int, colour: int) -> torch.Tensor:
    """Frame i is marked by i in binary: eight squares, black or white, in the top row."""
    pixels = torch.full((frames, 64, 64, 3), 90, dtype=torch.uint8)
    pixels[..., colour] = 150
    for i in range(frames):
        for bit in range(8):
            pixels[i, :16, 8 * bit : 8 * bit + 8] = 255 * (i >> bit & 1)
    return pixels


def halve(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A peer with ids."""
    frames, high, wide = x.shape[2:]
    grid = 1 + -(-(frames - 1) // 4), high // 8, wide // 8
    return x * 0.8, torch.arange(grid[0] * grid[1] * grid[2]).reshape(1, *grid)[0]


halve.vocabulary = 256  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    """A report of two clips and five candidates."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out") / "report"
    for i, name in enumerate(("one", "two")):
        write(Video.of(counter(9, i), fps=10), data / f"{name}.mkv", lossless=True)
    write(Video.of(counter(5, 2), fps=10), data / "short.mkv", lossless=True)
    scorer, media = Scorer(metrics=PLAN.metrics), Media(out)
    first = Reconstructor(name="halve", function=halve)
    candidates = [first, Reconstructor(name=SECOND, function=lambda x: x * 0.9), Resize()]
    like = RateTarget(bits={"one.mkv": 4000, "two.mkv": 4000})
    candidates += [codec for codec in open_codecs("h264", like) if codec.role != "set"][:3]
    results = [
        evaluate(
            candidate,
            data,
            protocol=PLAN,
            scorer=scorer,
            keep=media.keep(candidate),
            kept=media.kept(candidate),
        )
        for candidate in candidates
    ]
    write_report(out, results, media, title="test")
    return out, results


def report_of(model: Tokenizer, clip: torch.Tensor, folder: Path) -> tuple[Path, Result]:
    """A report of one tokenizer and one clip."""
    write(Video.of(clip, fps=10), folder / "data" / "one.mkv", lossless=True)
    candidate, out = TokenizerCandidate(tokenizer=model.eval(), name="tiny"), folder / "report"
    media, scorer = Media(out), Scorer(metrics=("psnr",))
    kept: dict[str, Any] = {"keep": media.keep(candidate), "kept": media.kept(candidate)}
    plan = replace(PLAN, metrics=("psnr",), noncausal_frames=8)
    result = evaluate(candidate, folder / "data", protocol=plan, scorer=scorer, **kept)
    write_report(out, [result], media, title="test")
    return out, result


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A report of one clip by a RefTok with motion and SKIP."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out") / "report"
    write(Video.of(counter(9, 0)[:, :, :60], fps=10), data / "one.mkv", lossless=True)
    quantizer = FSQConfig(levels=(8, 8, 5), regularization=False)
    body = replace(COMPACT, width=8, blocks=(1, 1), quantizer=quantizer)
    config = RefTokConfig(body=body, width=4, motion=MotionConfig(width=8), skip=1.0)
    candidate = TokenizerCandidate(tokenizer=RefTok(config).eval(), name="moves")
    media, scorer = Media(out), Scorer(metrics=PLAN.metrics)
    kept: dict[str, Any] = {"keep": media.keep(candidate), "kept": media.kept(candidate)}
    result = evaluate(candidate, data, protocol=replace(PLAN, crop=60), scorer=scorer, **kept)
    write_report(out, [result], media, title="test")
    return out, result


def test_the_folder_is_whole_and_needs_no_network(made: tuple[Path, list[Result]]) -> None:
    folder, results = made
    page = (folder / "index.html").read_text()
    found = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert [model["name"] for model in data["models"]] == [result.model for result in results]
    for file in folder.glob("*.*"):
        assert not re.search(r"https?://(?!www\.w3\.org)", file.read_text())
    for model in data["models"]:
        for name in model["videos"]:
            clip = next(clip for clip in data["clips"] if clip["name"] == name)
            assert len(read(folder / "media" / model["slug"] / f"{clip['slug']}.mp4")) == 9
    ours = data["models"][0]
    assert ours["maps"] == []
    assert sum(ours["counts"]) == 2 * 3 * 64
    assert ours["class"] == "discrete"
    assert data["paired"][SECOND]["psnr"]["mean"] > 0
    assert (
        Result.load(folder / "results" / f"{slug_of(results[0])}.json").summary
        == results[0].summary
    )


def test_it_says_what_was_judged_and_what_left_out(made: tuple[Path, list[Result]]) -> None:
    folder, results = made
    data = page_data(results, Media(folder), "test")
    assert data["judged"] == f"2 clips in {results[0].data}"
    assert results[0].data.startswith("data")
    assert data["left_out"] == {"short.mkv": "5 frames, but 9 are asked for"}
    assert "data/eval" not in (folder / "index.html").read_text()


def test_a_reftok_shows_its_motion(moving: tuple[Path, Result], made: Any) -> None:
    """As a further video, of the clip's frames and size; others have none."""
    found = page_data([moving[1]], Media(moving[0]), "test")["models"][0]
    assert found["motions"] == found["videos"] == ["one.mkv"]
    (path,) = (moving[0] / "media" / found["slug"]).glob("*-motion.mp4")
    assert read(path).frames.shape == (9, 60, 60, 3)
    assert all(not model["motions"] for model in page_data(made[1], Media(made[0]), "")["models"])


def test_codecs_have_one_name_in_table_and_chart(made: tuple[Path, list[Result]]) -> None:
    codecs = [model_data(r, r.model, {}, Media(made[0]))["codec"] for r in made[1]]
    assert codecs == ["", "", "", "h264", "h264", "h264"][: len(codecs)]


def test_results_of_two_protocols_do_not_share_a_page(
    made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    results = made[1]
    other = replace(results[1], protocol=replace(PLAN, name="other", frames=5))
    with pytest.raises(ValueError, match=r"do not compare, they differ in name .*frames"):
        page_data([results[0], other], Media(tmp_path), "mixed")


def test_two_of_one_name_are_told_apart(made: tuple[Path, list[Result]], tmp_path: Path) -> None:
    first = made[1][0]
    twins = [first, replace(first, weights="abcdef0123456789"), first]
    assert distinct_names(twins) == ["halve", "halve (abcdef01)", "halve #2"]
    named = [replace(first, model=label, weights=None) for label in ("a", "a", "a #2", "a #2")]
    assert distinct_names(named) == ["a", "a #2", "a #2 #2", "a #2 #3"]
    index = write_report(tmp_path, twins[:2], Media(made[0]))
    assert "halve (abcdef01)" in index.read_text()
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_equal_results_have_files_of_their_own(
    made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    """Of one model, weights and settings, such as one judged on two machines."""
    first = made[1][0]
    twins = [replace(first, machine={"cpu": str(i)}) for i in range(3)]
    write_report(tmp_path, twins, Media(made[0]))
    files = sorted((tmp_path / "results").iterdir(), key=lambda file: (len(file.stem), file.stem))
    assert [file.stem for file in files] == [slug_of(first) + end for end in ("", "-2", "-3")]
    assert [Result.load(file) for file in files] == twins


def test_names_become_safe_and_stay_apart() -> None:
    assert slug("../a b") != slug("a-b")
    assert re.fullmatch(r"[a-z0-9-]+", slug(SECOND))


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def page(browser: Any, made: tuple[Path, list[Result]]) -> Iterator[Any]:
    """The report, opened as a file; whatever it complains of fails the test."""
    yield from opened(browser, made[0])


def opened(browser: Any, report: Path) -> Iterator[Any]:
    said: list[str] = []
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto((report / "index.html").as_uri())
    tab.wait_for_function("Player.state.shown === 0")
    yield tab
    assert tab.evaluate("window.hurt") is None
    tab.close()
    assert said == []


@pytest.mark.browser
def test_a_clip_that_failed_for_several_is_named_once(page: Any) -> None:
    said = page.evaluate(
        """() => {
          DATA.models.forEach((m) => { m.broken = { x: "cut off" }; });
          DATA.models[0].broken.y = "NaN";
          return [brokenClips(), DATA.models[0].name];
        }"""
    )
    assert said[0] == ["x is left out for all: cut off", f"y is left out for {said[1]}: NaN"]


BOTH = "Player.state.sides.map(s => Math.floor(s.video.currentTime * Player.state.clip.fps))"


def same_frame(page: Any) -> int:
    """The frame that both videos stand at, by their clocks."""
    left, right = page.evaluate(BOTH)
    assert left == right == page.evaluate("Player.state.shown")
    return left


@pytest.mark.browser
def test_it_steps_both_videos_together(page: Any) -> None:
    for i in range(1, 6):
        page.click("#forth")
        page.wait_for_function(f"Player.state.shown === {i}")
        assert same_frame(page) == i
    page.click("#back")
    page.wait_for_function("Player.state.shown === 4")
    assert same_frame(page) == 4
    page.focus("#stage")
    page.keyboard.press(".")
    page.wait_for_function("Player.state.shown === 5")
    assert "6 / 9" in page.inner_text("#frame")


@pytest.mark.browser
def test_the_pictures_are_of_the_frame_that_is_named(page: Any) -> None:
    """The number that is drawn into each frame is read from the screen, left and right."""
    from io import BytesIO

    page.evaluate("Player.show(5)")
    page.wait_for_function("Player.state.shown === 5")
    page.evaluate("document.querySelectorAll('.tag, #handle').forEach(e => e.style.opacity = 0)")
    for split in (1, 0):
        page.evaluate(f"Player.split({split})")
        shot = Image.open(BytesIO(page.locator("#screen").screenshot())).convert("L")
        bits = [shot.getpixel(((2 * b + 1) * shot.width // 16, shot.height // 8)) for b in range(8)]
        assert sum((value > 127) << b for b, value in enumerate(bits)) == 5


@pytest.mark.browser
def test_it_plays_and_pauses(page: Any) -> None:
    page.click("#play")
    page.wait_for_function("Player.state.shown >= 3")
    page.click("#play")
    assert page.get_attribute("#play", "aria-pressed") == "false"
    page.wait_for_function("Player.state.shown === Player.state.frame")
    still = page.evaluate("Player.state.shown")
    assert same_frame(page) == still
    page.wait_for_timeout(300)
    assert page.evaluate("Player.state.shown") == still
    page.focus("#stage")
    page.keyboard.press(" ")
    page.wait_for_function(f"Player.state.shown !== {still}")


@pytest.mark.browser
def test_the_divider_is_dragged_and_moved_by_keys(page: Any) -> None:
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle, steps=4)
    page.mouse.up()
    assert page.evaluate("Player.state.split") == pytest.approx(0.25, abs=0.02)
    page.focus("#handle")
    page.keyboard.press("ArrowRight")
    assert int(page.get_attribute("#handle", "aria-valuenow")) == pytest.approx(30, abs=2)


@pytest.mark.browser
def test_models_clips_and_views_are_chosen(page: Any) -> None:
    page.select_option("#left", "halve")
    page.select_option("#right", "resize")
    page.wait_for_function("Player.state.names.join() === 'halve,resize'")
    page.select_option("#clip", "two.mkv")
    page.wait_for_function("Player.state.clip.name === 'two.mkv' && Player.state.shown === 0")
    same_frame(page)
    page.wait_for_selector("#tokens-said >> text=Neither of the two has a map of ids.")
    assert page.evaluate("el('tokens').hidden")
    assert "384 ids of halve" in page.inner_text("#histogram-said")
    page.select_option("#view", "heat")
    assert page.get_attribute("#screen", "class") == "heat"
    page.focus("#stage")
    page.keyboard.press("z")
    assert page.evaluate("Player.state.zoom") == [24, 24, 16, 16]
    page.keyboard.press("2")
    page.wait_for_function("Player.state.names[1] === 'halve'")


@pytest.mark.browser
def test_motion_is_chosen_like_a_model(browser: Any, moving: tuple[Path, Result]) -> None:
    for page in opened(browser, moving[0]):
        page.select_option("#right", "moves: motion")
        page.wait_for_function("Player.state.names[1] === 'moves: motion'")
        page.wait_for_selector("#said >> text=dim cells were skipped")
        page.click("#forth")
        page.wait_for_function("Player.state.shown === 1")
        assert same_frame(page) == 1
        assert page.evaluate("Player.state.sides[1].address").endswith("-motion.mp4")
        page.wait_for_selector("#tokens-said >> text=Ids of moves, step 2 of 3")


@pytest.mark.browser
def test_models_may_be_named_as_the_page_names_its_own(
    browser: Any, moving: tuple[Path, Result], tmp_path: Path
) -> None:
    """One called "original", one as a model's motion: each shows its own videos."""
    report, result = tmp_path / "report", moving[1]
    shutil.copytree(moving[0], report)
    models = [result, *(replace(result, model=name) for name in ("original", "moves: motion"))]
    for model in models[1:]:
        shutil.copytree(report / "media" / slug_of(result), report / "media" / slug_of(model))
    write_report(report, models, Media(report), title="test")
    for page in opened(browser, report):
        texts = page.locator("#left option").all_inner_texts()
        assert texts[:5] == [
            "original clip",
            "moves",
            "moves: motion",
            "original",
            "original: motion",
        ]
        folders = ["original", slug_of(result), slug_of(result), slug_of(models[1])]
        for place, folder in enumerate([*folders, slug_of(models[1]), slug_of(models[2])]):
            page.select_option("#right", index=place)
            page.wait_for_function(f"Player.state.sides[1].address.includes('/{folder}/')")
            assert "/original/" in page.evaluate("Player.state.sides[0].address")
        page.select_option("#of", index=1)
        page.click("#worst button")
        page.wait_for_function(f"Player.state.sides[1].address.includes('/{folders[3]}/')")
        assert page.evaluate("Player.state.names") == ["original clip", "original"]


@pytest.mark.browser
def test_a_step_of_ids_is_as_wide_as_its_grid(browser: Any, tmp_path: Path) -> None:
    """Also where cells are cut by more rows than there are rows of cells."""
    model = VidTok(DISCRETE, "tiny")
    report, _ = report_of(model, counter(9, 0)[:, :18], tmp_path)
    for page in opened(browser, report):
        page.select_option("#right", "tiny")
        page.wait_for_selector("#tokens-said >> text=step 1 of 3, 8 by 3")


@pytest.mark.browser
def test_the_step_of_ids_is_that_of_the_frame(browser: Any, tmp_path: Path) -> None:
    model = VidTok(replace(NONCAUSAL, quantizer=DISCRETE.quantizer), "tiny")
    report, result = report_of(model, counter(9, 0), tmp_path)
    for page in opened(browser, report):
        page.select_option("#right", "tiny")
        for frame, step in ((0, 1), (1, 1), (3, 1), (4, 2), (7, 2)):
            page.evaluate(f"Player.show({frame})")
            page.wait_for_function(f"Player.state.shown === {frame}")
            page.wait_for_selector(f"#tokens-said >> text=step {step} of 2, 8 by 8")
        for spec, steps in (
            ((1, 1, 4, 1, None), [0, 1, 1, 1, 1, 2, 2]),
            ((1, 0, 4, 1, None), [None, 0, 0, 0, 0, 1, 1]),  # of a first frame that is given
            ((4, 2, 4, 2, None), [0, 0, 1, 1, 2, 2, 3]),
            ((1, 1, 2, 1, 5), [0, 1, 1, 2, 2, 3, 4]),  # clips of their own
        ):
            timing = dict(zip((*TIMING, "window"), spec, strict=True))
            found = page.evaluate("(t) => [...Array(7).keys()].map((i) => stepOf(i, t))", timing)
            assert found == steps
            assert page.evaluate("(t) => stepsOf(7, t)", timing) == max(filter(None, steps)) + 1
    assert result.settings["timing"]["first_frames"] == 4


@pytest.mark.browser
@pytest.mark.parametrize(("first_steps", "said"), [(1, "step 1 of 3"), (0, "does not say which")])
def test_a_map_of_before_is_shown_where_it_can_be_told(
    browser: Any, moving: tuple[Path, Result], tmp_path: Path, first_steps: int, said: str
) -> None:
    """Results did not say what their steps are of."""
    report, result = tmp_path / "report", moving[1]
    shutil.copytree(moving[0], report)
    old = {key: value for key, value in result.settings.items() if key != "timing"}
    before = replace(result, settings=old)
    shutil.copytree(report / "media" / slug_of(result), report / "media" / slug_of(before))
    (strip,) = (report / "media" / slug_of(before)).glob("*.png")
    with Image.open(strip) as whole:
        part = whole.crop(((1 - first_steps) * whole.width // 3, 0, whole.width, whole.height))
    part.save(strip)
    write_report(report, [before], Media(report), title="test")
    for page in opened(browser, report):
        page.select_option("#right", "moves")
        page.wait_for_selector(f"#tokens-said >> text={said}")
        assert page.evaluate("el('tokens').hidden") is not bool(first_steps)


@pytest.mark.browser
def test_a_token_map_that_comes_late_is_not_shown(
    browser: Any, moving: tuple[Path, Result]
) -> None:
    for page in opened(browser, moving[0]):
        page.select_option("#right", "moves")
        page.wait_for_selector("#tokens-said >> text=Ids of moves, step 1")
        page.evaluate(
            "window.late = strips.held[strips.wanted] = new Image(); showTokens(Player.state)"
        )
        page.evaluate("DATA.models[0].maps = []; showTokens(Player.state)")  # another model's
        page.evaluate("late.onload()")
        assert page.inner_text("#tokens-said") == "Neither of the two has a map of ids."


@pytest.mark.browser
def test_the_table_sorts(page: Any) -> None:
    names = "[...document.querySelectorAll('#table tbody th')].map(e => e.textContent)"
    psnr = page.locator("#table thead button", has_text=re.compile("^psnr$"))
    psnr.click()
    column = page.evaluate("[...el('table').tHead.rows[0].cells].findIndex(c => c.ariaSort)")
    cells = f"[...el('table').tBodies[0].rows].map(r => parseFloat(r.cells[{column}].textContent))"
    found = page.evaluate(cells)
    assert found == sorted(found, reverse=True)
    first = page.evaluate(names)
    page.keyboard.press("Enter")  # the heading keeps the focus
    assert page.evaluate(names) == first[::-1]
    assert "h264 crf 26" not in first  # points of curves stand in the plot only
    assert page.locator("#rate circle").count() == 5  # one peer has no bits


@pytest.mark.browser
def test_it_fits_a_phone_and_opens_at_once(browser: Any, made: tuple[Path, list[Result]]) -> None:
    tab = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    tab.set_default_timeout(PATIENCE)
    tab.goto((made[0] / "index.html").as_uri())
    tab.wait_for_function("Player.state.shown === 0")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    small = (
        "[...document.querySelectorAll('button, select')].filter(e => e.offsetHeight < 24).length"
    )
    assert tab.evaluate(small) == 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 25)"
    unnamed = (
        "[...document.querySelectorAll('button, select, input')].filter(e => "
        "!e.textContent.trim() && !e.labels?.length && !e.ariaLabel).length"
    )
    assert tab.evaluate(unnamed) == 0
    tab.close()


def labels_of(page: Any) -> list[dict[str, float]]:
    """Where the chart's labels stand."""
    script = """() => [...document.querySelectorAll("#rate text")].map((t) => {
      const {x, y, width, height} = t.getBBox();
      return {text: t.textContent, x, y, width, height};
    })"""
    return page.evaluate(script)


@pytest.mark.browser
def test_labels_of_the_chart_do_not_overlap(page: Any) -> None:
    page.wait_for_selector("#rate text")
    found = labels_of(page)
    texts = [label["text"] for label in found]
    assert "bits per pixel (logarithmic)" in texts
    assert any(text.endswith("higher is better") for text in texts)
    assert not any("libx264" in text for text in texts)
    assert "h264 at fixed qualities" in texts
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            apart = (
                a["x"] + a["width"] <= b["x"] + 1
                or b["x"] + b["width"] <= a["x"] + 1
                or a["y"] + a["height"] <= b["y"] + 4  # boxes are higher than their letters
                or b["y"] + b["height"] <= a["y"] + 4
            )
            assert apart, (a, b)


@pytest.mark.browser
def test_every_row_has_a_colour_of_its_own(page: Any) -> None:
    colours = page.evaluate("() => rows.map(colourOf)")
    assert len(set(colours)) == len(colours)
    many = page.evaluate(
        "() => { while (rows.length < 40) rows.push({}); return rows.map(colourOf); }"
    )
    assert len(set(many)) == 40


@pytest.mark.browser
def test_equal_printed_values_are_bold_together(page: Any) -> None:
    script = """() => {
      rows[0].values.psnr.mean = 90.001; rows[1].values.psnr.mean = 90.004; fillTable();
      const place = columns.indexOf("psnr") + 1;
      return [...document.querySelectorAll("#table tbody tr")].map((r) => r.cells[place])
        .map((c) => [c.firstChild.textContent, c.className]);
    }"""
    found = page.evaluate(script)
    assert found[0] == found[1] == ["90.00", "best"]


@pytest.mark.browser
def test_slow_speeds_are_not_zero(page: Any) -> None:
    assert page.evaluate("() => said('encode_fps', 0.0312)") == "0.031"
    assert page.evaluate("() => said('encode_fps', 31.24)") == "31.2"


@pytest.mark.browser
def test_wide_tables_use_the_window(page: Any) -> None:
    script = """() => {
      const wide = document.getElementById("table").parentElement;
      return [wide.clientWidth, wide.scrollWidth, window.innerWidth];
    }"""
    page.set_viewport_size({"width": 1800, "height": 900})
    shown, needed, window = page.evaluate(script)
    assert shown >= min(needed, window - 120)
