"""What the README names is there; tests/test_docs.py runs its code."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_targets_exist() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    makefile = (README.parent / "Makefile").read_text()
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)


def test_every_link_leads_somewhere() -> None:
    pages = [README, README.parent / "CONTRIBUTING.md", *README.parent.glob("docs/**/*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
