"""Judging the pushing world: what is found by colour, each measure by a case, the command."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from push_episodes import COLOURS, draw_episode, write_episodes

from reeltok.data.find import find_clips
from reeltok.evaluate.push.candidates import (
    Coded,
    EpisodeBatch,
    Tiled,
    repeat_first,
    repeat_mean,
    tile,
    untile,
)
from reeltok.evaluate.push.judge import batches_of, judge_episodes, world_facts
from reeltok.evaluate.push.locate import find_gripper, find_objects
from reeltok.evaluate.push.measures import Real, measure
from reeltok.evaluate.push.seen import OTHER_HALF, measure_lpips
from reeltok.metrics.lpips import LPIPS, random_lpips
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.video.record import to_unit

pytestmark = pytest.mark.filterwarnings("ignore:gripper and objects are looked for")


@pytest.fixture
def real() -> Real:
    return Real.of(*draw_episode(10))


@pytest.fixture(scope="module")
def net() -> LPIPS:
    torch.manual_seed(0)
    return random_lpips("alex")


def test_what_is_drawn_is_found(real: Real) -> None:
    np.testing.assert_allclose(real.gripper, real.truth.gripper_pixels, atol=1e-6)
    np.testing.assert_allclose(real.objects, real.truth.objects_pixels, atol=1e-6)
    np.testing.assert_allclose(real.offsets, 0, atol=1e-6)
    empty = np.full((2, 8, 8, 3), 120, np.uint8)
    assert np.isnan(find_gripper(empty)).all()
    found = find_objects(empty, COLOURS.astype(float), np.array([[2.0, 2], [5, 5]]))
    assert np.isnan(found.places).all()
    assert found.pixels.sum() == 0


def test_an_object_that_the_table_resembles_is_not_judged() -> None:
    frames, truth = draw_episode(4)
    frames[:, :, 16:][frames[:, :, 16:] == 120] = 119
    frames[:, 16:, :8] = COLOURS[1]  # a whole corner of the second object's colour
    assert len(Real.of(frames, truth).colours) == 1


def test_an_object_that_is_found_elsewhere_is_not_judged() -> None:
    frames, truth = draw_episode(8)
    places = truth.objects_pixels.copy()
    places[6, 0] += [0, 3]
    assert len(Real.of(frames, replace(truth, objects_pixels=places)).colours) == 1
    assert len(Real.of(frames, truth).colours) == 2


def test_an_object_of_a_few_pixels_is_not_said_to_be_gone() -> None:
    frames, truth = draw_episode(6)
    whole = (frames[4] == COLOURS[1].astype(np.uint8)).all(-1)
    rows = whole.copy()
    rows[25] = False  # its middle row, of five pixels, stays
    frames[4][rows] = 120
    without = frames.copy()
    without[4][whole] = 120
    real = Real.of(frames, truth)
    assert (len(real.colours), real.pixels[4].tolist()) == (2, [25, 5])
    assert measure(real, without)["gone"][4] == 0


def test_what_is_red_elsewhere_is_not_the_gripper() -> None:
    frames, truth = draw_episode(6)
    frames[2, 20:30, 20:30] = [220, 20, 30]
    real = Real.of(frames, truth)
    assert np.isnan(real.gripper[:, 0]).tolist() == [False, False, True, False, False, False]
    found = measure(real, frames)
    assert np.isnan(found["gripper"]).tolist() == np.isnan(real.gripper[:, 0]).tolist()
    assert np.isnan(found["missing"][2])
    assert np.nanmax(found["gripper"]) == 0


def test_a_perfect_video(real: Real) -> None:
    found = measure(real, real.frames.copy())
    assert found["psnr"].min() == pytest.approx(80)
    for name in ("false", "gripper", "missing", "moved", "still", "gone", "twice"):
        assert np.nanmax(found[name]) == 0, name
    assert np.isnan(found["share"][:3]).all()  # nothing has moved by more than two pixels yet
    np.testing.assert_allclose(found["share"][3:], 1)


def test_a_still_picture(real: Real) -> None:
    found = measure(real, np.broadcast_to(real.frames[:1], real.frames.shape))
    np.testing.assert_allclose(found["gripper"], np.arange(10))
    np.testing.assert_allclose(found["moved"][3:], np.arange(3, 10))
    np.testing.assert_allclose(found["share"][3:], 0)
    assert found["false"].max() == 0
    assert found["changing"][9] < found["psnr"][9]
    assert np.isnan(found["changing"][0])  # no pixel has changed


def test_what_vanishes_doubles_or_changes_elsewhere(real: Real) -> None:
    gone = real.frames.copy()
    gone[5:][(gone[5:] == COLOURS[0].astype(np.uint8)).all(-1)] = 120
    found = measure(real, gone)
    np.testing.assert_allclose(found["gone"][[4, 5]], [0, 0.5])
    twice = real.frames.copy()
    twice[7, 26:31, 6:12] = COLOURS[0]
    twice[7, 2:6, 26:31] = COLOURS[0]
    found = measure(real, twice)
    np.testing.assert_allclose(found["twice"][[6, 7]], [0, 0.5])
    assert found["false"][6] == 0
    assert found["false"][7] == pytest.approx(50 / (~real.changed[7]).sum())
    without = real.frames.copy()
    without[3][(without[3] == [220, 20, 30]).all(-1)] = 120
    found = measure(real, without)
    assert (found["missing"][3], found["gripper"][3]) == (1, 16)
    with pytest.raises(ValueError, match="what was made is"):
        measure(real, real.frames[:4])


def test_tiles_come_apart_again_and_take_the_bits_asked_for() -> None:
    clips = np.stack([draw_episode(6, number=n)[0] for n in range(5)])
    assert tile(clips).shape == (6, 64, 96, 3)
    np.testing.assert_array_equal(untile(tile(clips), clips.shape), clips)
    batch = EpisodeBatch(frames=clips, actions=np.zeros((5, 6, 4), np.float32), truths=(), first=0)
    tiled = Tiled(bits={0: 16_000})
    made = tiled(batch)
    assert made.shape == clips.shape
    assert tiled.spent[0] == pytest.approx(16_000, rel=0.1)
    worse = Tiled(bits={0: 4_000})
    error = lambda x: float(((x.astype(float) - clips) ** 2).mean())
    assert error(worse(batch)) > error(made)
    free = Tiled(bits={0: 4_000}, given=True)  # frame 0 counts nothing: there is more for all
    assert error(free(batch)) < error(worse(batch))
    assert free.spent[0] == pytest.approx(4_000, rel=0.1)


def test_bits_that_h264_cannot_spend_are_told() -> None:
    clips = np.stack([draw_episode(3, number=n)[0] for n in range(2)])
    batch = EpisodeBatch(frames=clips, actions=np.zeros((2, 3, 4), np.float32), truths=(), first=0)
    with pytest.warns(UserWarning, match=r"on 2 episodes where 9,000,000 were asked, and has no"):
        Tiled(bits={0: 9_000_000})(batch)


def test_bits_of_a_stored_reference_count() -> None:
    tokenizer = RefTok(RefTokConfig(body=COMPACT, start="webp", quality=30)).eval()
    clips = np.stack([draw_episode(9, number=n)[0] for n in range(2)])
    batch = EpisodeBatch(frames=clips, actions=np.zeros((2, 9, 4), np.float32), truths=(), first=0)
    coded = Coded(tokenizer=tokenizer)
    coded(batch)
    tokens = tokenizer.encode(torch.cat([to_unit(torch.from_numpy(clip)) for clip in clips]))
    assert tokens.reference_bits > 0
    assert coded.bits[0] == tokens.total_bits


def test_refined_episodes_are_coded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they need as many times the memory of one; the frames and bits are the same."""
    plain = RefTok(RefTokConfig(body=COMPACT, start="webp", quality=30)).eval()
    clips = np.stack([draw_episode(5, number=n)[0] for n in range(3)])
    batch = EpisodeBatch(frames=clips, actions=np.zeros((3, 5, 4), np.float32), truths=(), first=0)
    sizes, encode = list[int](), RefTok.encode

    def counted(self: RefTok, x: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(x))
        return encode(self, x, **options)

    monkeypatch.setattr(RefTok, "encode", counted)
    apart = Coded(tokenizer=plain.under(refine=1))
    made, again = apart(batch), apart(batch)
    assert sizes == [1, 1, 1] * 2
    np.testing.assert_array_equal(made, again)
    tokens = encode(plain, torch.cat([to_unit(torch.from_numpy(clip)) for clip in clips]))
    assert apart.bits[0] == tokens.total_bits
    Coded(tokenizer=plain)(batch)
    assert sizes[6:] == [3]


def test_horizons_and_intervals(tmp_path: Path) -> None:
    clips = find_clips(write_episodes(tmp_path / "held", 5, 12))
    still = {"first": repeat_first, "mean": repeat_mean}
    found = judge_episodes(still, clips, frames=12)
    gripper = found.scores["first"]["gripper"]
    assert set(gripper) == {"1-7", "8-11", "11"}
    assert gripper["1-7"]["mean"] == pytest.approx(4)
    assert gripper["11"] == {"mean": 11.0, "low": 11.0, "high": 11.0, "clips": 5}
    assert found.by_frame["first"]["gripper"] == pytest.approx(list(range(12)))
    assert found.by_frame["first"]["share"][:3] == [None, None, None]
    gain = found.gains["mean"]["psnr"]["8-11"]
    both = [found.scores[name]["psnr"]["8-11"]["mean"] for name in still]
    assert gain["mean"] == pytest.approx(both[0] - both[1])
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert set(found.gains) == {"mean"}
    world = found.world
    assert (world.episodes, world.moving, world.followed, world.found) == (5, 1, 1, 1)
    assert world.changing > 0.03
    psnr = found.scores["mean"]["psnr"]["8-11"]
    assert psnr["low"] <= psnr["mean"] <= psnr["high"]
    with pytest.raises(ValueError, match="12 frames, 20 are to be judged"):
        list(batches_of(clips, 20))
    with pytest.raises(ValueError, match="needs two episodes"):
        judge_episodes(still, clips[:1], frames=4)
    np.save(tmp_path / "held" / "push-0-00003.actions.npy", np.zeros((12, 7), np.float32))
    with pytest.raises(ValueError, match="12 rows of 7 numbers: frames 0 to 12"):
        list(batches_of(clips, 12))


def test_no_batch_is_of_one_episode(tmp_path: Path) -> None:
    """Else the actions of another episode would be its own."""
    clips = find_clips(write_episodes(tmp_path / "held", 17, 2))
    assert [len(batch.frames) for batch in batches_of(clips, 2)] == [8, 9]
    assert [batch.first for batch in batches_of(clips, 2)] == [0, 8]


def test_a_gripper_that_is_never_found_has_no_scatter() -> None:
    frames, truth = draw_episode(4)
    frames[(frames == [220, 20, 30]).all(-1)] = 120
    world = world_facts([Real.of(frames, truth)] * 2)
    assert world.found == 0
    assert np.isnan([*world.offset, world.scatter]).all()


def test_all_batches_are_of_one_size(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "held", 17, 2)
    larger = write_episodes(tmp_path / "larger", 17, 2, side=48)
    for number in range(8, 17):  # the whole of the second batch
        name = f"push-0-{number:05d}"
        for path in larger.glob(f"{name}.*"):
            path.replace(folder / path.name)
    batches = batches_of(find_clips(folder), 2)
    assert len(next(batches).frames) == 8
    with pytest.raises(
        ValueError, match=r"00008\.mkv has 48x48 pixels, .*00000\.mkv has 32x32: give"
    ):
        next(batches)


def test_lpips_of_all_pixels_and_of_those_that_change(real: Real, net: LPIPS) -> None:
    same = measure_lpips(net, real, real.frames)
    assert same["lpips"].max() == 0
    assert np.isnan(same["lpips changing"][0])
    assert np.nanmax(same["lpips changing"]) == 0
    still = measure_lpips(net, real, np.broadcast_to(real.frames[:1], real.frames.shape))
    assert still["lpips"][9] > still["lpips"][1] > 0
    np.testing.assert_allclose(still["lpips"][1:], still["lpips changing"][1:], rtol=1e-5)
    spoiled = real.frames.copy()
    spoiled[:, 28:, :6] = 0  # where nothing changes
    found = measure_lpips(net, real, spoiled)
    assert found["lpips"].min() > 0
    assert np.nanmax(found["lpips changing"]) == 0


def test_sets_of_known_answer_stand_beside_the_candidates(tmp_path: Path, net: LPIPS) -> None:
    clips = find_clips(write_episodes(tmp_path / "held", 6, 8))
    makes = {"perfect": lambda batch: batch.frames, "first frame": repeat_first}
    found = judge_episodes(makes, clips, frames=8, lpips=net)
    far = found.distances
    assert set(far) == {OTHER_HALF, "frozen", "shuffled", "blurred", *makes}
    assert far["perfect"] == pytest.approx(far[OTHER_HALF])
    assert far["first frame"] == pytest.approx(far["frozen"])
    assert all(far[OTHER_HALF] < far[name] for name in ("frozen", "shuffled", "blurred"))
    assert found.scores["first frame"]["lpips changing"]["1-7"]["mean"] > 0
    assert judge_episodes(makes, clips, frames=8).distances == {}
    assert judge_episodes(makes, clips[:2], frames=2, lpips=net).distances == {}
