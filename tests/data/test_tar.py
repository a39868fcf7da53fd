"""Tar shards, webdataset's too: found as folders are, read in place."""

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_data import moving

from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.data.lists import write_list
from reeltok.data.tar import index_shard, unpack_shard
from reeltok.video.record import read, write


def pack(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def picture(red: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("film") / "a.mkv"
    write(moving(4), path, lossless=True)
    return path.read_bytes()


def test_videos_in_a_shard(film: bytes, tmp_path: Path) -> None:
    files = {"./x/0.mkv": film, "./x/._0.mkv": b"", "__MACOSX/0.mkv": b"", "x/0.json": b"{}"}
    shard = pack(tmp_path / "s.tar", files | {"y/0.mkv": film})
    found = find_clips(shard)
    assert [clip.name for clip in found] == ["s.tar/x/0.mkv", "s.tar/y/0.mkv"]
    assert [clip.stem for clip in found] == ["s/x/0", "s/y/0"]
    assert {clip.group for clip in found} == {"s"}
    (tmp_path / "a.mkv").write_bytes(film)
    assert torch.equal(found[1].read().frames, read(tmp_path / "a.mkv").frames)
    later = Clip(path=shard, member="./y/0.mkv")  # as a list names it, without its place
    assert torch.equal(later.read().frames, found[1].read().frames)
    with pytest.raises(FileNotFoundError, match=r"there is no z.mkv in .*s.tar"):
        Clip(path=shard, member="z.mkv").read()


def test_pictures_of_an_inner_folder_are_one_clip(tmp_path: Path) -> None:
    frames = {f"set/{c}/{i}.png": picture(10 * i) for c in "ba" for i in (10, 2, 0)}
    found = find_clips(pack(tmp_path / "s.tar", frames))
    assert [clip.name for clip in found] == ["s.tar/set/b", "s.tar/set/a"]  # as they lie there
    assert found[0].read().frames[:, 0, 0, 0].tolist() == [0, 20, 100]
    again = Clip(path=tmp_path / "s.tar", member="set/b")
    assert len(again.read()) == 3
    (top,) = find_clips(pack(tmp_path / "t.tar", {"./0.png": picture(1), "./1.png": picture(2)}))
    assert (top.name, top.stem, len(top.read())) == ("t.tar", "t", 2)
    assert len(Clip(path=top.path, member=top.member).read()) == 2


def test_samples_of_webdataset_are_clips_apart(film: bytes, tmp_path: Path) -> None:
    files = {"000.png": picture(1), "000.txt": b"red", "001.png": picture(2), "001.txt": b"r"}
    found = find_clips(pack(tmp_path / "p.tar", files))
    assert [(clip.name, len(clip.read())) for clip in found] == [
        ("p.tar/000.png", 1),
        ("p.tar/001.png", 1),
    ]
    files = {"000.mkv": film, "000.json": b"{}", "000.thumbnail.png": picture(1)}
    pack(tmp_path / "v-000.tar", files)
    pack(tmp_path / "v-001.tar", files)
    both = find_clips(f"{tmp_path}/v-{{000..001}}.tar")
    assert [clip.name for clip in both] == ["v-000.tar/000.mkv", "v-001.tar/000.mkv"]
    (tmp_path / "shards.txt").write_text("v-000.tar\nv-001.tar\n")
    assert [clip.name for clip in find_clips(tmp_path / "shards.txt")] == [c.name for c in both]


def test_links_in_a_shard_are_the_files_they_lead_to(film: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, kind, target in (
            ("x/.store/0", tarfile.REGTYPE, ""),
            ("./x/hard.mkv", tarfile.LNKTYPE, "x/.store/0"),
            ("x/soft.mkv", tarfile.SYMTYPE, "./hard.mkv"),
            ("y/soft.mkv", tarfile.SYMTYPE, "../x/soft.mkv"),
            ("y/gone.mkv", tarfile.SYMTYPE, "/elsewhere/0.mkv"),
            ("y/round.mkv", tarfile.SYMTYPE, "round.mkv"),
            ("y/gone.txt", tarfile.SYMTYPE, "0.txt"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, 0 if target else len(film)
            tar.addfile(entry, None if target else io.BytesIO(film))
    with pytest.warns(UserWarning, match=r"s.tar holds 2 links .* such as y/gone.mkv: left out"):
        found = find_clips(tmp_path / "s.tar")
    names = ["x/hard.mkv", "x/soft.mkv", "y/soft.mkv"]
    assert sorted(clip.member for clip in found) == names
    for clip in (*found, Clip(path=tmp_path / "s.tar", member="y/soft.mkv")):
        assert torch.equal(clip.read().frames, moving(4).frames)


def test_a_file_of_a_shard_is_copied_in_pieces(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000 + b"end"
    (part,) = index_shard(pack(tmp_path / "s.tar", {"x/0.mkv": data})).values()
    tracemalloc.start()
    unpack_shard(tmp_path / "s.tar", [part], tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "0.mkv").read_bytes() == data
    assert peak < len(data) / 2


def test_what_is_no_shard_is_said(film: bytes, tmp_path: Path) -> None:
    pack(tmp_path / "s.tar.gz", {"0.mkv": film}, "w:gz")
    with pytest.raises(ValueError, match="it is compressed: unpack it first"):
        find_clips(tmp_path / "s.tar.gz")
    (tmp_path / "s.tar.gz").rename(tmp_path / "s.tar")
    with pytest.raises(ValueError, match=r"s.tar is not a readable tar archive \(it is compressed"):
        find_clips(tmp_path)
    pack(tmp_path / "s.tar", {"readme.md": b""})
    with pytest.raises(ValueError, match=r"s.tar holds neither videos nor images"):
        find_clips(tmp_path / "s.tar")


def test_a_shard_that_cannot_be_read_leaves_the_others(film: bytes, tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"one.mp4": film})
    (tmp_path / "b.tar").write_bytes(b"no archive")
    (tmp_path / "list.txt").write_text("a.tar\nb.tar\n")
    for data in (tmp_path, tmp_path / "list.txt", str(tmp_path / "*.tar")):
        with pytest.warns(UserWarning, match="not a readable tar archive"):
            whole, broken = find_clips(data)
        assert len(whole.read()) > 0
        assert (broken.name, broken.group) == ("b.tar", "")
        with pytest.raises(ValueError, match=r"b\.tar is not a readable tar archive"):
            broken.read()
    with pytest.raises(ValueError, match="not a readable tar archive"):
        find_clips(str(tmp_path / "b.tar"))


def test_errors_name_the_member_and_not_its_temporary_file(tmp_path: Path) -> None:
    (clip,) = find_clips(pack(tmp_path / "s.tar", {"x/0.mp4": b"no video"}))
    with pytest.raises(ValueError, match=r"^s.tar/x/0.mp4 is not a video"):
        clip.read()


@pytest.mark.parametrize("kept", [100, 600, 1100, 1500])
def test_a_shard_that_is_cut_off_is_refused(film: bytes, tmp_path: Path, kept: int) -> None:
    whole = pack(tmp_path / "s.tar", {"a.mkv": film, "b.mkv": film}).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"s.tar (is|holds)") as caught:
        find_clips(tmp_path / "s.tar")
    assert "\n" not in str(caught.value)


def test_sizes_that_cannot_be_are_refused(film: bytes, tmp_path: Path) -> None:
    shard = bytearray(pack(tmp_path / "s.tar", {"a.mkv": film}).read_bytes())
    for size in (b"\xff" * 12, b"\x80" + bytes(5) + b"\xff" * 6):  # -1 and 2^48 - 1, in base 256
        shard[124:136] = size
        shard[148:156] = b" " * 8
        shard[148:156] = b"%06o\0 " % sum(shard[:512])
        (tmp_path / "s.tar").write_bytes(shard)
        with pytest.raises(ValueError, match=r"s.tar (is cut off|is not a readable tar)"):
            find_clips(tmp_path / "s.tar")


def test_a_sparse_member_is_refused(film: bytes, tmp_path: Path) -> None:
    """Its bytes are not there as the file has them: frames would be others."""
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("x/v.mkv")
        entry.type, entry.size = tarfile.GNUTYPE_SPARSE, len(film)
        tar.addfile(entry, io.BytesIO(film))
    with pytest.raises(ValueError, match=r"x/v\.mkv without its empty parts.*--sparse"):
        find_clips(path)


def test_pictures_beside_samples_are_no_frames(tmp_path: Path) -> None:
    """Of captioned pictures, those without a caption are no video together."""
    files = {f"x/{number}.png": picture(60 * number) for number in range(4)}
    files["x/1.txt"] = b"one of them has a caption"
    clips = find_clips(pack(tmp_path / "s.tar", files))
    assert [clip.member for clip in clips] == [f"x/{number}.png" for number in range(4)]
    assert [int(clip.read().frames[0, 0, 0, 0]) for clip in clips] == [0, 60, 120, 180]


def test_a_name_with_a_space_at_an_end_is_found_again(film: bytes, tmp_path: Path) -> None:
    shard = pack(tmp_path / "s.tar", {" a.mkv": film, "b.mkv": film})
    write_list(tmp_path / "clean.csv", find_clips(shard))
    found = find_clips(tmp_path / "clean.csv")
    assert [clip.member for clip in found] == [" a.mkv", "b.mkv"]
    assert [len(clip.read()) for clip in found] == [4, 4]
    (tmp_path / "by_hand.csv").write_text("file,member\ns.tar, b.mkv \n")
    assert [len(clip.read()) for clip in find_clips(tmp_path / "by_hand.csv")] == [4]


def test_notes_name_the_member_and_not_its_temporary_file(tmp_path: Path) -> None:
    shard = pack(tmp_path / "s.tar", {"x/v.yuv": bytes(8 * 8 * 3)})
    (clip,) = find_clips(shard)
    with clip.stream(raw="8x8:10:gray") as opened:
        assert opened.notes
        assert all(note.startswith("s.tar/x/v.yuv") for note in opened.notes)
