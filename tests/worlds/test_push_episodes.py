"""Episodes as files, with pictures: skipped, with the package, where nothing draws."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import reeltok
from reeltok.cli.main import main
from reeltok.data.actions import read_actions
from reeltok.data.bair import FPS
from reeltok.data.find import find_clips
from reeltok.data.push import read_truth
from reeltok.worlds import episodes, pictures
from reeltok.worlds.episodes import PushPlan, make_episodes, write_episode
from reeltok.worlds.push import World, play
from reeltok.worlds.scene import HAND, draw_scene

Draws = Callable[[], None]


@pytest.fixture(scope="module", autouse=True)
def _drawing() -> None:
    pytest.importorskip("mujoco", reason="needs mujoco (extra sim)")
    try:
        pictures.Camera(16).close()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = PushPlan(folder=tmp_path_factory.mktemp("push"), episodes=3, frames=10)
    assert make_episodes(plan).written == 3
    return plan.folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_folder_is_what_bairs_is(made: Path) -> None:
    clips = find_clips(made)
    assert [clip.name for clip in clips] == [f"push-0-0000{n}.mkv" for n in range(3)]
    for clip in clips:
        video, truth = reeltok.read(clip.path), read_truth(clip.path)
        assert tuple(video.frames.shape) == (10, 64, 64, 3)
        assert video.fps == FPS
        assert read_actions(clip.path.with_suffix(".actions.npy")).shape == (1, 10, 4)
        assert clip.group == f"{len(truth.shapes)} objects"


def test_cameras_take_turns() -> None:
    """Each picture is its own camera's, also after another one was used and closed."""
    world = World(draw_scene(np.random.default_rng(0)), side=32)
    with pictures.Camera(32) as camera:
        alone = camera(world)
        with pictures.Camera(16) as other:
            other(World(draw_scene(np.random.default_rng(1)), side=16))
            np.testing.assert_array_equal(camera(world), alone)
        np.testing.assert_array_equal(camera(world), alone)


def test_the_gripper_is_where_the_truth_says(made: Path) -> None:
    """The middle of what has the palm's colour lies within 1.5 pixels of its projection."""
    for clip in find_clips(made):
        frames, truth = reeltok.read(clip.path).frames.numpy().astype(float), read_truth(clip.path)
        red = frames[..., 0] - frames[..., 1:].max(-1)
        weight = np.where(red > 80, red, 0.0)
        assert HAND[0] > 2 * max(HAND[1:])
        rows, columns = np.mgrid[:64, :64] + 0.5
        total = weight.sum((1, 2))
        found = [(weight * along).sum((1, 2)) / total for along in (columns, rows)]
        away = np.stack(found, -1) - truth.gripper_pixels
        assert np.hypot(*away.T).mean() < 1.5


def test_objects_are_where_the_truth_says_in_their_colours() -> None:
    """The pixel of an object's middle is nearest to its own colour, after some have moved."""
    unit = lambda colours: colours / np.linalg.norm(colours, axis=-1, keepdims=True)
    own = []
    with pictures.Camera(64) as camera:
        for number in range(8):
            found = play(5, number, frames=12, picture=camera)
            assert found.frames is not None
            columns, rows = found.truth.objects_pixels[-1].astype(int).T
            near = unit(found.frames[-1, rows, columns].astype(float)) @ unit(found.truth.colours).T
            own.append(near.argmax(1) == np.arange(len(near)))
    assert np.concatenate(own).mean() > 0.9  # the arm may hide one


def test_the_command_leaves_shadows_out(tmp_path: Path) -> None:
    words, shown = ["--episodes", "1", "--frames", "2", "--size", "64"], {}
    for name, more in (("with", []), ("without", ["--no-shadows"])):
        assert main(["data", "push", str(tmp_path / name), *words, *more]) == 0
        (clip,) = find_clips(tmp_path / name)
        shown[name] = reeltok.read(clip.path).frames.numpy().astype(int)
    lighter = shown["without"] - shown["with"]
    assert (lighter > 10).mean() > 0.005
    assert lighter.mean() > 0.1


def test_the_same_seed_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    make_episodes(PushPlan(folder=tmp_path, episodes=3, frames=10))
    assert files(tmp_path) == files(made)


def test_what_is_missing_is_made_and_nothing_else(made: Path, tmp_path: Path) -> None:
    plan, done = PushPlan(folder=tmp_path, episodes=2, frames=10), []
    make_episodes(plan)
    plan.clip(1).unlink()
    before = plan.clip(0).stat().st_mtime_ns
    found = make_episodes(
        PushPlan(folder=tmp_path, episodes=3, frames=10), on_episode=lambda: done.append(1)
    )
    assert (found.written, found.kept, len(done)) == (2, 1, 3)
    assert plan.clip(0).stat().st_mtime_ns == before
    assert files(tmp_path) == files(made)


def writing_until(stop: int) -> Callable[[PushPlan, int], int]:
    """Writes episodes, and is interrupted at number `stop`."""

    def write(plan: PushPlan, number: int) -> int:
        if number == stop:
            raise KeyboardInterrupt
        return write_episode(plan, number)

    return write


def test_an_interruption_leaves_a_list_of_all_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_episodes(PushPlan(folder=tmp_path, episodes=1, frames=2, size=16))
    monkeypatch.setattr(episodes, "write_episode", writing_until(3))
    with pytest.raises(KeyboardInterrupt):
        make_episodes(PushPlan(folder=tmp_path, episodes=5, frames=2, size=16))
    found = find_clips(tmp_path)
    assert [clip.name for clip in found] == [f"push-0-0000{n}.mkv" for n in range(3)]
    assert all(clip.group.endswith("objects") for clip in found)


def test_settings_do_not_mix(made: Path) -> None:
    with pytest.raises(ValueError, match=r"frames 10, size 64.*asked for .* frames 12.*`force`"):
        make_episodes(PushPlan(folder=made, episodes=3, frames=12))


def test_episodes_of_unknown_settings_are_not_kept(tmp_path: Path) -> None:
    plan = PushPlan(folder=tmp_path, episodes=2, frames=3, size=16)
    make_episodes(plan)
    (tmp_path / "push.json").unlink()
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"with unknown settings, asked for are .*frames 2"):
        make_episodes(replace(plan, frames=2))
    assert files(tmp_path) == before
    make_episodes(replace(plan, frames=2), replace=True)
    assert [len(reeltok.read(clip.path)) for clip in find_clips(tmp_path)] == [2, 2]


def test_where_nothing_draws_what_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PushPlan(folder=tmp_path, episodes=1, frames=3, size=16)
    make_episodes(plan)
    before = files(tmp_path)

    def absent(side: int) -> pictures.Camera:
        raise ImportError("no OpenGL")

    monkeypatch.setattr(episodes, "camera_of", absent)
    with pytest.raises(ImportError):
        make_episodes(replace(plan, frames=2), replace=True)
    assert files(tmp_path) == before
    assert make_episodes(plan).kept == 1  # which needs none


@pytest.mark.parametrize(
    "text",
    [
        "file,caption\na.mp4,a dog\n",
        "file,member,record,start,end,group,source,frames,fps,height,width\na.mp4" + "," * 10,
        "file,member,record,start,end,group,source,frames,fps,height,width\na/push-0-00000.mkv"
        + "," * 10,
    ],
)
def test_a_list_of_other_clips_is_not_replaced(tmp_path: Path, text: str) -> None:
    plan = PushPlan(folder=tmp_path, episodes=1, frames=2, size=16)
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.csv is a list of other clips, or was changed"):
        make_episodes(plan)
    assert (tmp_path / "manifest.csv").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]
    make_episodes(plan, replace=True)
    assert [clip.name for clip in find_clips(tmp_path)] == ["push-0-00000.mkv"]


def test_other_settings_replace_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No episode of earlier settings stays, nor is kept after an interruption."""
    old = PushPlan(folder=tmp_path, episodes=3, frames=3, size=16)
    make_episodes(old)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"push-0-00002\.mkv with frames 3, size 16.*delete it"):
        make_episodes(replace(old, episodes=2, frames=2), replace=True)
    assert files(tmp_path) == before
    new = replace(old, frames=2)

    with monkeypatch.context() as patched:
        patched.setattr(episodes, "write_episode", writing_until(1))
        with pytest.raises(KeyboardInterrupt):
            make_episodes(new, replace=True)
    found = make_episodes(new)
    assert (found.written, found.kept) == (2, 1)
    assert [len(reeltok.read(clip.path).frames) for clip in find_clips(tmp_path)] == [2, 2, 2]


def test_a_picture_is_of_the_positions_that_are_told() -> None:
    """mj_step leaves what is drawn where it was before the last step of physics."""
    world = World(draw_scene(np.random.default_rng(0)), side=32)
    with pictures.Camera(32) as camera:
        for _ in range(2):
            world.step(np.array([1.0, 0, 0, 0]))
        shown = camera(world)
        world.mujoco.mj_forward(world.model, world.data)
        np.testing.assert_array_equal(shown, camera(world))


@pytest.mark.slow
def test_two_processes_make_the_same(made: Path, tmp_path: Path) -> None:
    make_episodes(PushPlan(folder=tmp_path, episodes=3, frames=10), jobs=2)
    assert files(tmp_path) == files(made)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_and_loses_nothing(
    made: Path, tmp_path: Path
) -> None:
    def kill() -> None:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(OSError, match="was killed: fewer `jobs` take less memory; run it again"):
        make_episodes(PushPlan(folder=tmp_path, episodes=40, frames=10), jobs=2, on_episode=kill)
    make_episodes(PushPlan(folder=tmp_path, episodes=3, frames=10))
    again, wanted = files(tmp_path), files(made)
    for name in wanted.keys() - {"manifest.csv"}:  # it lists the others too
        assert again[name] == wanted[name], name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Those of a pool would wait for its next word for ever."""
    words = [sys.executable, "-m", "reeltok", "data", "push", str(tmp_path / "p")]
    words += ["--episodes", "2000", "--frames", "10", "--size", "16", "--jobs", "2"]
    parent = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("p/*.mkv")):
        assert parent.poll() is None, "it ended before it was killed"
        time.sleep(0.1)
    task = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    children = [int(number) for number in task.read_text().split()]
    assert len(children) >= 2
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while any(is_running(child) for child in children):
        assert time.monotonic() < until, "they are still there"
        time.sleep(0.1)


def test_no_episode_is_cut_short_by_the_end_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    gone = SimpleNamespace(join=lambda: None)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: gone)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    with episodes.WRITING:
        thread = threading.Thread(target=episodes._end_with_parent, daemon=True)
        thread.start()
        assert not ended.wait(0.2)
    assert ended.wait(60)


def is_running(number: int) -> bool:
    """Whether there is a process of this number that has not ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "push", str(tmp_path / "p"), "--episodes", "1", "--frames", "3", "--size"]
    assert main([*words, "32"]) == 0
    assert "1 episode written" in capsys.readouterr().out
    assert main([*words, "32"]) == 0
    assert "0 episodes written" in capsys.readouterr().out
    assert main([*words, "31"]) == 2
    assert "give an even number of pixels from 16 to 512" in capsys.readouterr().err
    assert main([*words, "64"]) == 2
    assert "give another folder" in capsys.readouterr().err
    assert main([*words, "32", "--jobs", "0"]) == 2
    assert "give 1 or more" in capsys.readouterr().err


def test_without_opengl_one_sentence_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(pictures.ctypes, "CDLL", absent)
    monkeypatch.setattr(pictures, "find_library", lambda name: None)
    with pytest.raises(ImportError, match=r"apt-get install libosmesa6"):
        pictures.find_backend()
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert pictures.find_backend() == "osmesa"
