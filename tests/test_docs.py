"""The Python code in docs/tokens.md runs as it stands, block after block."""

import re
from pathlib import Path

import pytest
import torch

import reeltok
from reeltok import zoo
from reeltok.video.record import Video

PAGE = Path(__file__).parents[1] / "docs" / "tokens.md"


def test_the_code_about_tokens_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "default" not in zoo.bundled():
        pytest.skip("no trained default is bundled")
    monkeypatch.chdir(tmp_path)
    for name, frames in (("clip.mp4", 17), ("long.mp4", 48)):
        pictures = torch.randint(0, 256, (frames, 32, 48, 3), dtype=torch.uint8)
        reeltok.write(Video(pictures, fps=24.0), name)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        before = names.get("tokens")
        exec(compile(code, str(PAGE), "exec"), names)
    assert len(names["video"]) == 17
    assert names["frames"].shape == (1, 3, 9, 32, 48)
    assert torch.equal(torch.from_numpy(names["ids"]), before.ids)
