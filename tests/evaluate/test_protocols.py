"""Protocols are complete, frozen records."""

from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

import reeltok
from reeltok.evaluate import scores
from reeltok.evaluate.clips import clips
from reeltok.evaluate.protocols import DEFAULT, PROTOCOLS, Protocol, find_protocol
from reeltok.evaluate.published import PUBLISHED
from reeltok.video.record import Video


def test_every_protocol_of_the_page_is_here() -> None:
    assert set(PROTOCOLS) == {
        *("vidtok", "vidtok-long", "coordtok", "ucf-cg", "k600-fp", "davis", "davis-240"),
        *("bair", "bair-debiased", "tokenbench", "ucf-128", "shared-eval", "shared-eval-whole"),
    }
    assert PROTOCOLS[DEFAULT].frames == 17
    known = (*scores.FRAME_METRICS, "appearance", "lpips-alex", "lpips-vgg")
    for protocol in PROTOCOLS.values():
        for metric in protocol.metrics:
            assert metric in known or metric.removeprefix("fvd-") in scores.EXTRACTORS


def test_the_clip_length_depends_on_causality_where_the_paper_says_so() -> None:
    assert PROTOCOLS["vidtok"].clip_frames(causal=True) == 17
    assert PROTOCOLS["vidtok"].clip_frames(causal=False) == 16
    assert PROTOCOLS["coordtok"].clip_frames(causal=False) == 128
    assert PROTOCOLS["davis"].clip_frames(causal=False) is None


def test_protocols_are_frozen_and_survive_json() -> None:
    adapter = TypeAdapter(Protocol)
    for protocol in PROTOCOLS.values():
        assert adapter.validate_json(adapter.dump_json(protocol)) == protocol
    with pytest.raises(FrozenInstanceError):
        PROTOCOLS["vidtok"].frames = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Protocol(**asdict(PROTOCOLS["vidtok"]) | {"framez": 3})
    assert replace(PROTOCOLS["vidtok"], latent="sample").latent == "sample"


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no protocol 'vidtoc'; there are shared-eval, .*ucf-128"):
        find_protocol("vidtoc")


def test_the_page_names_every_protocol_and_metric() -> None:
    page = (Path(__file__).parents[2] / "docs/protocols.md").read_text()
    for name in (*PROTOCOLS, *scores.FRAME_METRICS, *scores.EXTRACTORS):
        assert f"`{name}`" in page, name


def test_published_tables_name_our_protocols_and_their_source() -> None:
    for table in PUBLISHED.values():
        assert table.protocol in PROTOCOLS
        assert table.source
        assert {key for row in table.rows for key in row.values} == set(table.columns)
        assert len({row.model for row in table.rows}) == len(table.rows)
    (best,) = [r for r in PUBLISHED["vidtok-1-mcl-jcv"].rows if r.model == "VidTok KL-16"]
    assert best.values == {"psnr": 35.04, "ssim": 0.942, "lpips": 0.047, "fvd": 78.9}


def test_a_made_video_is_one_clip(tmp_path: Path) -> None:
    """Also where the windows of a real one follow one another, or begin at each frame."""
    for protocol in PROTOCOLS.values():
        made = protocol.of_made
        assert made.window in ("first", "whole")
        assert (made.windows, made.crops) == (1, 1)
    frames = torch.zeros(20, 16, 16, 3, dtype=torch.uint8)
    reeltok.write(Video(frames=frames, fps=10), tmp_path / "a.mkv", lossless=True)
    debiased = PROTOCOLS["bair-debiased"]
    found = [len(list(clips(plan, tmp_path))) for plan in (debiased, debiased.of_made)]
    assert found == [5, 1]
