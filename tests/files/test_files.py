"""Files: whole or not at all, nothing left of killed processes, errors that name the file."""

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from reeltok.files import atomic as files
from reeltok.files import rename
from reeltok.files.hashes import hash_files, hash_parts, hash_text

HOLD = """
import sys, time
from reeltok.files.atomic import replacing
with replacing(sys.argv[1], folder=sys.argv[2] == "folder") as part:
    (part / "a.png" if part.is_dir() else part).write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def holding(target: Path, kind: str = "file") -> subprocess.Popen[str]:
    """A process that has written half of `target`."""
    command = [sys.executable, "-c", HOLD, str(target), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def write_half(target: Path, error: BaseException) -> None:
    """Write something, then fail; "{inside}" as the error's file is what was being written."""
    with files.replacing(target) as part:
        part.write_text("half")
        if isinstance(error, OSError) and error.filename:
            error.filename = str(part)
        raise error


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file.txt"
    with files.replacing(target) as part:
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(KeyboardInterrupt):
        write_half(target, KeyboardInterrupt())
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["file.txt"]


def test_folders_made_for_nothing_go_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "a" / "b" / "c"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    target.mkdir()
    (target / "old.png").touch()
    with files.replacing(target, folder=True) as part:
        (part / "new.png").touch()
    assert os.listdir(target) == ["new.png"]
    assert os.listdir(tmp_path) == ["frames"]


def test_a_link_is_written_through_and_other_things_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.txt").touch()
    (tmp_path / "link.txt").symlink_to("real.txt")
    files.write_file(tmp_path / "link.txt", "x")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    for name, folder in (("pipe", False), ("", False), ("real.txt", True), ("pipe", True)):
        with pytest.raises(ValueError, match="exists and is not a"):
            files.Unfinished(tmp_path / name, folder=folder)
    (tmp_path / "pipe").unlink()
    assert sorted(os.listdir(tmp_path)) == ["link.txt", "real.txt"]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    files.write_file(tmp_path / ("n" * 251 + ".txt"), "x")


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with files.replacing(target) as part:
        part.touch(0o600)
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    end(holding(target, kind))
    assert len(os.listdir(tmp_path)) == 1  # the leftover, hidden
    with files.replacing(target, folder=kind == "folder") as part:
        part.touch()
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_process_left_can_be_swept(tmp_path: Path) -> None:
    for name in ("one", "two"):
        end(holding(tmp_path / name))
    (tmp_path / "mine.part").touch()
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["mine.part"]
    files.sweep(tmp_path / "nothing")


def test_what_is_on_its_way_elsewhere_stays(tmp_path: Path) -> None:
    process = holding(tmp_path / "out")
    try:
        files.sweep(tmp_path)
        assert len(os.listdir(tmp_path)) == 1
        files.write_file(tmp_path / "out", "mine")
        assert len(os.listdir(tmp_path)) == 2
    finally:
        end(process)


def test_another_machine_is_told_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock may be unseen across machines: what one of them wrote is left for a day."""
    end(holding(tmp_path / "out"))
    (held,) = tmp_path.iterdir()
    (held / files.LOCK).write_text("another machine")
    files.sweep(tmp_path)
    assert held.exists()
    monkeypatch.setattr(files, "DAY", -1.0)
    files.sweep(tmp_path)
    assert not held.exists()


def test_what_has_no_lock_is_told_by_age(tmp_path: Path) -> None:
    names = [".0123456789ab.part", ".0123456789cd.part", ".000000000000.part"]
    (tmp_path / names[0]).mkdir()
    (tmp_path / names[1]).touch()
    (tmp_path / names[2]).touch()
    past = time.time() - 2 * files.HOUR
    for name in names[:2]:
        os.utime(tmp_path / name, (past, past))
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == names[2:]


@pytest.mark.parametrize("locked", [False, True])
def test_what_was_killed_as_it_began_or_ended_goes(tmp_path: Path, locked: bool) -> None:
    """Between its folder and its lock, or between its lock and what stands in that."""
    end(holding(tmp_path / "out"))
    (held,) = tmp_path.iterdir()
    for entry in held.iterdir():
        entry.unlink()
    if locked:
        (held / files.LOCK).touch()
    files.write_file(tmp_path / "out", "mine")
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_another_process_locked_first_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for dead before its lock, and made anew: the lock of either may be the first there."""
    folders: list[Path] = []
    lock = files._lock

    def late(folder: Path) -> IO[str] | None:
        folders.append(folder)
        if len(folders) == 1:
            folder.joinpath("new").write_text("theirs")
            folder.joinpath(files.LOCK).touch()
        return lock(folder)

    monkeypatch.setattr(files, "_lock", late)
    files.write_file(tmp_path / "out", "mine")
    assert (tmp_path / "out").read_text() == "mine"
    assert len(set(folders)) == 2
    assert folders[0].joinpath("new").read_text() == "theirs"


def test_a_folder_may_go_while_its_age_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    scan = os.scandir

    def late(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if gone.exists() and Path(path) == gone:
            gone.rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", late)
    assert abs(files._idle(gone)) < 60
    assert not gone.exists()


def test_the_lock_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    remove = files._remove
    monkeypatch.setattr(files, "_remove", lambda path: (gone.append(path.name), remove(path)))
    with files.Unfinished(tmp_path / "out") as part:
        part.path.touch()
        (part.path.parent / "more").mkdir()
    assert sorted(gone) == ["more", "new"]
    assert not os.listdir(tmp_path)


def test_temporary_folders_of_killed_processes_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "reeltok-of-mine").mkdir()
    with files.scratch() as first, files.scratch() as second:
        assert first != second
        os.link(first.parent / files.LOCK, tmp_path / "keep")
    left = tmp_path / "reeltok-0123456789ab"
    left.mkdir()
    (tmp_path / "keep").rename(left / files.LOCK)
    with files.scratch() as folder:
        folder.joinpath("x").touch()
    assert os.listdir(tmp_path) == ["reeltok-of-mine"]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSPC, "No space left on device", "{inside}"),
        RuntimeError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_the_file(tmp_path: Path, error: Exception) -> None:
    target = tmp_path / "file.txt"
    with pytest.raises(OSError, match=r"file\.txt: the disk is full; free") as caught:
        write_half(target, error)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_errors_of_other_files_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"source\.mp4"), files.replacing(tmp_path / "x"):
        (tmp_path / "source.mp4").read_bytes()
    said = OSError("cannot write another: the disk is full")
    said.errno = errno.ENOSPC
    with pytest.raises(OSError, match="another"), files.replacing(tmp_path / "x"):
        raise said


def test_numpy_cut_short_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"cannot write .*x\.npy"),
        files.replacing(tmp_path / "x.npy"),
    ):
        raise OSError("8192 requested and 512 written")


def test_folders_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/x"):
        files.write_file(tmp_path / "file" / "x", "")


# ---------------------------------------------------------------- the same, hashes, the cache


def test_the_same_file_under_other_names(tmp_path: Path) -> None:
    one = tmp_path / "one.mp4"
    one.touch()
    (tmp_path / "soft.mp4").symlink_to(one)
    os.link(one, tmp_path / "hard.mp4")
    (tmp_path / "other.mp4").touch()
    spelled = tmp_path / "." / ".." / tmp_path.name / "one.mp4"
    for name in (one, tmp_path / "soft.mp4", tmp_path / "hard.mp4", spelled):
        assert files.same_file(one, name)
    assert not files.same_file(one, tmp_path / "other.mp4")
    assert not files.same_file(one, tmp_path / "new.mp4")
    assert files.same_file(tmp_path / "new.mp4", tmp_path / "x" / ".." / "new.mp4")


def test_hashes_are_sha256(tmp_path: Path) -> None:
    for name, text in (("one", "a"), ("two", "bc")):
        (tmp_path / name).write_text(text)
    whole = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2: "abc"
    assert hash_files(tmp_path / "one", tmp_path / "two") == whole
    assert hash_text("abc") == whole == hash_parts(["a", b"bc"])
    assert hash_text("abc", 8) == whole[:8]


def test_one_rule_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("REELTOK_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder() == Path("/home/me/.cache/reeltok")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert files.cache_folder("decoded") == Path("/x/reeltok/decoded")
    monkeypatch.setenv("REELTOK_CACHE", "/y")
    assert files.cache_folder("decoded") == Path("/y/decoded")


def test_closed_pipes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OSError, match="standard input is closed"):
        files.standard_input()
    with pytest.raises(OSError, match="standard output is closed"):
        files.standard_output()


# ---------------------------------------------------------------- several at once, interrupted


def filled(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    folder.joinpath("it").write_text(text)
    return folder


@pytest.mark.parametrize("exchanges", [True, False])
def test_an_old_folder_stands_until_the_new_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """Whatever stops it: an interrupt or a full disk."""
    target = filled(tmp_path / "out", "old")
    if not exchanges:
        monkeypatch.setattr(rename, "_exchange", lambda one, other: False)
    for stop in (KeyboardInterrupt(), OSError(errno.ENOSPC, "full")):
        stopped = Stopping(stop)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopped.replace)
            patch.setattr(rename, "_exchange", stopped.exchange if exchanges else rename._exchange)
            with pytest.raises((KeyboardInterrupt, OSError)):
                renew(target)
        assert target.joinpath("it").read_text() == "old"
        assert os.listdir(tmp_path) == ["out"]
    renew(target)
    assert target.joinpath("it").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_folders_are_exchanged_in_one_step_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = filled(tmp_path / "one", "1"), filled(tmp_path / "two", "2")
    if not rename._exchange(one, two):
        pytest.skip("this system cannot")
    assert (one.joinpath("it").read_text(), two.joinpath("it").read_text()) == ("2", "1")
    monkeypatch.delattr(rename, "_replace_folder")
    renew(one)
    assert one.joinpath("it").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
    with pytest.raises(FileNotFoundError):
        rename._exchange(one, tmp_path / "three")


def renew(target: Path) -> None:
    with files.replacing(target, folder=True) as part:
        filled(part, "new")


class Stopping:
    """What ends the rename of what is new, and nothing else."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.real = error, os.replace

    def replace(self, one: Path, other: Path) -> None:
        if Path(one).name == "new":
            raise self.error
        self.real(one, other)

    def exchange(self, one: Path, other: Path) -> bool:
        raise self.error


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_two_processes_replace_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, there: bool
) -> None:
    """The other one is done between what this one sees and what it does."""
    if not exchanges:
        monkeypatch.setattr(rename, "_exchange", lambda one, other: False)
    target = filled(tmp_path / "out", "old") if there else tmp_path / "out"
    real = rename._rename
    with files.Unfinished(target, folder=True) as mine:
        filled(mine.path, "mine")

        def late(new: Path, place: Path) -> None:
            monkeypatch.setattr(rename, "_rename", real)
            looked = place.is_dir()
            with files.replacing(target, folder=True) as part:
                filled(part, "theirs")
            if not looked:
                os.replace(new, place)  # as if there were none
            real(new, place)

        monkeypatch.setattr(rename, "_rename", late)
        mine.finish()
    assert target.joinpath("it").read_text() == "mine"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_above_that_another_writer_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, hold = files.Unfinished(tmp_path / "out" / "a"), files._hold

    def late(names: list[Path], **options: int) -> AbstractContextManager[Path]:
        monkeypatch.setattr(files, "_hold", hold)
        failing.__exit__()  # the other one has come to nothing
        return hold(names, **options)

    monkeypatch.setattr(files, "_hold", late)
    files.write_file(tmp_path / "out" / "b", "b")
    assert os.listdir(tmp_path / "out") == ["b"]


def test_the_mask_of_the_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of all threads: to read it is to change it."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")
            with files.replacing(tmp_path / "private") as part:
                part.touch(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE(tmp_path.joinpath("private").stat().st_mode) == 0o640


@pytest.mark.parametrize("links", [True, False])
def test_one_of_two_writes_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    assert files.write_new(tmp_path / "x", "one")
    assert not files.write_new(tmp_path / "x", "two")
    assert tmp_path.joinpath("x").read_text() == "one"
    assert os.listdir(tmp_path) == ["x"]
