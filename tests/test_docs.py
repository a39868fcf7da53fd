"""Every snippet of README, CONTRIBUTING and docs/ runs, or says in SKIPPED why not.

The blocks of a page run in order, Python in one namespace and our commands in one folder, where
the clips that the pages speak of lie. A command that is skipped is still parsed.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from thorough import slow_but

import reeltok
from reeltok import zoo
from reeltok.cli.main import command_of, find_command, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)

# What a command or a block of Python holds, and why it does not run in this test.
SKIPPED = {
    r"diffusers:\w|cosmos:": "networks that are not here (tests/models/test_foreign.py)",
    r"https://|s3://|reeltok download": "needs a network",
    r"torchrun": "starts several processes (tests/train/test_parallel.py)",
    r"ffmpeg|ffplay": "needs another program",
    r"\.ckpt|\.pth|coordtok/|my_model/|vidtok_kl|vidtok_fsq\w+ ": "weights that are not here",
    r"corpus (build|export).* wan": "networks that are not here (tests/corpus)",
    r"reeltok export": "minutes of tracing (tests/export/test_graphs.py)",
    r"reeltok (view|drive)": "serves until it is stopped (tests/viewer)",
    r"runs/(prior|sit|robot|planes|one|two|a|adapted|kl|frames|centres|levels|mine|big|pair_)": (
        "hours of training (tests/cli/test_cli_generate.py, test_cli_train_generators.py)"
    ),
    r"default_gpu|vidtok_stage|coordtok_|finetune --data|train small --data clips/ --out": "hours",
    r'steps": "1000"|first/model|reconstruct .*runs/first|^reeltok runs runs/first\s+#|--resume': (
        "minutes of training (docs/tutorial.md does the same with 20 steps)"
    ),
    r"^reeltok compare .*--peer|--out default.json|compare runs/a|mine=": (
        "a minute each (docs/tutorial.md runs both commands)"
    ),
    r"^reeltok demo|train small --dry-run  ": "half a minute (tests/cli)",
    r"data push|reeltok\[sim\]": "needs OpenGL (tests/worlds)",
    r"reeltok push .*held/": "episodes of `data push` (tests/cli/test_cli_push.py)",
    r"bair|robots/|ucf101/|fvd": "data sets that are not here (tests/cli/test_cli_bair.py)",
    r"one\.json two\.json|my_run/model|manifest\.csv:group": "results and models of other runs",
    r"foreman|recording\.ts|more\.mkv|clean\.csv tokens/ +#": "files of other kinds (tests/cli)",
    r"coordtok_s_1280": "a network of 90 M weights (tests/models/test_coordtok.py)",
    r"masked\.|shared-eval\"": "needs a trained generator, or the clips of the protocol",
    r"policy=\"first\"": "tests/models/test_reftok.py",
}
SEQUENCES = ("README.md", "tutorial.md", "api.md")
"""Pages that a reader follows from top to bottom; others show commands that share file names."""


def blocks(page: Path, *languages: str) -> Iterator[tuple[str, str]]:
    for language, text in BLOCK.findall(page.read_text()):
        if language in languages:
            yield language, text


def lines(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def commands(line: str) -> Iterator[list[str]]:
    """The words of each of our commands in a line of a shell."""
    line = re.sub(r"<\([^)]*\)", "-", line)  # the output of a command, handed over as a file
    for part in re.split(r"\s[|]\s", line):
        words = shlex.split(part, comments=True)
        if "reeltok" in words and words[0] in ("reeltok", "torchrun", "python"):
            yield words[words.index("reeltok") + 1 :]


def again(words: list[str]) -> list[str]:
    """The option that lets a command replace what the one before has written, if it has one."""
    options = [name for each in command_of(find_command(words)).params for name in each.opts]
    return ["--force"] if "--force" in options and "--force" not in words else []


def why_not(text: str) -> str | None:
    return next((why for what, why in SKIPPED.items() if re.search(what, text)), None)


def names(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def place(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the clips that the pages speak of: a picture that moves."""
    if "default" not in zoo.bundled():
        pytest.skip("no trained default is bundled")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path))  # no weights of LPIPS, which take long
    coarse = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wide = torch.nn.functional.interpolate(coarse, size=(240, 240), mode="bilinear")
    side = 240 if page.name == "tutorial.md" else 72  # what `evaluate` asks for, or quick
    for name, frames, size in [
        ("clip.mp4", 72, 40),
        ("long.mp4", 48, 40),
        *((f"clips/{i}.mp4", 17, side) for i in range(4)),
    ]:
        Path(name).parent.mkdir(exist_ok=True)
        moved = torch.stack([wide.roll(2 * t, -1)[..., :size, :size] for t in range(frames)], 2)
        reeltok.write(reeltok.Video.of(moved, fps=24.0), name)
    return tmp_path


QUICK = [page for page in PAGES if page.name not in ("tutorial.md", "corpus.md")]
"""Those that neither train nor make eight corpora."""


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", slow_but(QUICK, PAGES), ids=names)
def test_a_page_runs(page: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held: dict[str, object] = {"video": reeltok.read("clip.mp4")}
    for language, text in blocks(page, "python", "bash", "sh"):
        if language == "python":
            code = compile(text, str(page), "exec")
            if why_not(text) is None:
                exec(code, held)
            continue
        for line in lines(text):
            ours = list(commands(line))
            if len(ours) == 1 and why_not(line) is None:
                words = ours[0] + ([] if page.name in SEQUENCES else again(ours[0]))
                assert main(words) == 0, f"{line}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_the_commands_of_a_page_are_taken(page: Path) -> None:
    for _, text in blocks(page, "bash", "sh"):
        for line in lines(text):
            for words in commands(line):
                if words[0] not in ("--help", "--version"):
                    name = find_command(words)
                    rest = words[len(name.split()) :]
                    command_of(name).make_context(f"reeltok {name}", list(rest))


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs" / p for p in SEQUENCES[1:])])
def test_where_a_reader_begins_all_runs(page: Path) -> None:
    assert not [text for _, text in blocks(page, "python") if why_not(text)]
    said = [line for _, text in blocks(page, "bash") for line in lines(text) if why_not(line)]
    assert said in ([], ["reeltok train finetune --data clips/clean.csv --out runs/mine"])


def test_no_page_and_no_record_names_a_folder_of_the_machine_it_was_made_on() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.json")]
    pages += (ROOT / "src" / "reeltok" / "weights").rglob("README.md")
    own = re.compile(r"(?<![\w./~}-])/(tmp|root|home|work|Users|var/tmp)/")
    assert [str(p.relative_to(ROOT)) for p in pages if own.search(p.read_text())] == []
