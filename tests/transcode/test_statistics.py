"""Mean and deviation of latents over clips, from Python."""

from dataclasses import dataclass, replace
from functools import partial
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
    first = torch.cat([each[:, :, :1].transpose(0, 1).flatten(1) for each in latents], dim=1)
    later = torch.cat([each[:, :, 1:].transpose(0, 1).flatten(1) for each in latents], dim=1)
    record = found.record()
    assert record["mean"] == found.moments.mean.tolist()
    for name, part in (("first", first.double()), ("later", later.double())):
        close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
        close(torch.tensor(record[name]["mean"]).double(), part.mean(1))
        close(torch.tensor(record[name]["std"]).double(), part.std(1, correction=0))


def test_steps_are_told_apart_where_the_first_stands_alone(tmp_path: Path) -> None:
    tok = VidTok(replace(KL, edge="both"), "kl").eval()
    reeltok.write(moving(8, 32, 32), tmp_path / "0.mkv", lossless=True)
    record = measure_latents(tok, find_clips(str(tmp_path))).record()
    assert sorted(record) == ["mean", "std"]
    single = tmp_path / "single"
    reeltok.write(moving(1, 32, 32), single / "0.mkv", lossless=True)
    record = measure_latents(VidTok(KL, "kl").eval(), find_clips(str(single))).record()
    assert sorted(record) == ["first", "mean", "std"]
    assert record["first"]["mean"] == record["mean"]


def test_ids_have_no_statistics() -> None:
    tok = VidTok(replace(COMPACT, width=8, multipliers=(1, 1), blocks=(1, 1)), "small")
    with pytest.raises(ValueError, match="small is discrete"):
        measure_latents(tok, [])
