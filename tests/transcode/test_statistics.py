"""Mean and deviation of latents over clips, from Python."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from moving_clips import moving

import reeltok
from reeltok.data.find import find_clips
from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.vidtok.network import VidTok
from reeltok.transcode.options import OnProgress
from reeltok.transcode.statistics import measure_latents

KL = replace(
    VIDTOK["vidtok_kl_causal_488_4chn"], width=8, multipliers=(1, 1, 1, 1), blocks=(1, 1, 1, 1)
)


@dataclass
class Seen:
    """Notes the ends of files: (0, 0)."""

    seen: list[tuple[int, int]]

    def of_file(self) -> OnProgress:
        return lambda *at: self.seen.append(at)

    def finish_file(self) -> None:
        self.seen.append((0, 0))


def test_moments_are_those_of_all_clips(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tok = VidTok(KL, "kl").eval()
    for number, frames in enumerate((5, 9)):
        video = moving(frames, 32, 32 + 16 * number)
        reeltok.write(video, tmp_path / f"{number}.mkv", lossless=True)
    (tmp_path / "2.mkv").write_text("not a video")
    seen: list[tuple[int, int]] = []
    clips = find_clips(str(tmp_path))
    with pytest.warns(UserWarning, match=r"2\.mkv left out"):
        found = measure_latents(tok, clips, watcher=Seen(seen))
    assert (found.clips, found.broken) == (2, ["2.mkv"])
    latents = [tok.encode(reeltok.read(tmp_path / f"{n}.mkv")).latents for n in range(2)]
    values = torch.cat([each.transpose(0, 1).flatten(1) for each in latents], dim=1).double()
    wanted = {"mean": values.mean(1), "std": values.std(1, correction=0)}
    for name, value in wanted.items():
        torch.testing.assert_close(
            torch.as_tensor(getattr(found.moments, name)).double(), value, rtol=1e-4, atol=1e-5
        )
    assert seen == [(5, 5), (0, 0), (9, 9), (0, 0), (0, 0)]


def test_ids_have_no_statistics() -> None:
    tok = VidTok(replace(COMPACT, width=8, multipliers=(1, 1), blocks=(1, 1)), "small")
    with pytest.raises(ValueError, match="small is discrete"):
        measure_latents(tok, [])
