"""The README's first screen does what it says."""

import re
from pathlib import Path

import pytest
import torch

import reeltok
from reeltok import zoo
from reeltok.video.record import Video

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_python_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "default" not in zoo.bundled():
        pytest.skip("no trained default is bundled")
    monkeypatch.chdir(tmp_path)
    frames = torch.randint(0, 256, (19, 36, 50, 3), dtype=torch.uint8)
    reeltok.write(Video(frames, fps=24.0), "clip.mp4")
    for code in blocks("python"):
        exec(code, {})
    assert len(reeltok.read("again.mp4")) == 17


def test_the_commands_exist() -> None:
    from reeltok.cli.main import COMMANDS

    lines = [line for block in blocks("bash") for line in block.splitlines()]
    named = {line.split()[1] for line in lines if line.startswith("reeltok ")}
    assert named
    assert named <= set(COMMANDS)
    makefile = (README.parent / "Makefile").read_text()
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert all(f"\n{target}:" in makefile for target in targets)


def test_every_link_leads_somewhere() -> None:
    pages = [README, README.parent / "CONTRIBUTING.md", *README.parent.glob("docs/**/*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
