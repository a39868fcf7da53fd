"""Folders, lists and records: what is found in them, before anything is decoded."""

import os
from pathlib import Path

import pytest
from PIL import Image
from small_data import moving
from test_bair import write_bair

from reeltok.data.clip import Clip
from reeltok.data.find import expand_braces, find_clips, looks_into
from reeltok.evaluate.clips import boxes_of
from reeltok.metrics.paired import Box
from reeltok.video.record import write


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(found: list[Clip]) -> list[str]:
    return [item.name for item in found]


def test_a_folder_gives_its_videos_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "deep/er/a.MKV", "a.avi", "notes.txt", "deep/poster.jpg")
    assert names(find_clips(tmp_path)) == ["a.avi", "b.mp4", "deep/er/a.MKV"]
    assert find_clips(tmp_path)[2].path == tmp_path / "deep/er/a.MKV"
    assert names(find_clips(tmp_path / "b.mp4")) == ["b.mp4"]


def test_a_folder_of_frame_folders_gives_one_video_each(tmp_path: Path) -> None:
    touch(tmp_path, *(f"JPEGImages/480p/{s}/{i:05d}.jpg" for s in ("bear", "boat") for i in (0, 1)))
    assert names(find_clips(tmp_path)) == ["JPEGImages/480p/bear", "JPEGImages/480p/boat"]
    assert names(find_clips(tmp_path / "JPEGImages/480p/bear")) == ["bear"]


def test_nothing_to_take_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds neither videos nor images"):
        find_clips(touch(tmp_path, "readme.md"))
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        find_clips(tmp_path / "absent")
    (tmp_path / "empty.csv").write_text("file\n")
    with pytest.raises(ValueError, match="names no videos"):
        find_clips(tmp_path / "empty.csv")
    (tmp_path / "bad.csv").write_text("clip,seconds\na.mp4,3\n")
    with pytest.raises(ValueError, match=r"columns clip, seconds: one of file, filename"):
        find_clips(tmp_path / "bad.csv")


def test_a_csv_names_videos_starts_and_boxes(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "file,path,start,boxes,group\n"
        'a.mp4,elsewhere,1.5,"text:1,2,30,40; face:5,6,7,8",dogs\n'
        "a.mp4,elsewhere,,,cats\n"
    )
    first, second = find_clips(tmp_path / "list.csv")
    assert (first.name, first.path, first.start) == ("a.mp4", tmp_path / "a.mp4", 1.5)
    assert (second.name, second.start, boxes_of(second)) == ("a.mp4 (2)", 0, ())
    assert boxes_of(first) == (
        Box(name="text", left=1, top=2, width=30, height=40),
        Box(name="face", left=5, top=6, width=7, height=8),
    )
    assert first.row["group"] == "dogs"
    assert find_clips(tmp_path / "list.csv", root="/data")[0].path == Path("/data/a.mp4")


def test_a_wrong_number_in_a_csv_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('file,boxes\na.mp4,"text:1,2,x,4"\n')
    with pytest.raises(
        ValueError, match="name:left,top,width,height in pixels, not 'text:1,2,x,4'"
    ):
        boxes_of(find_clips(tmp_path / "a.csv")[0])
    (tmp_path / "b.csv").write_text("file,start\na.mp4,soon\n")
    with pytest.raises(ValueError, match="`start` is in seconds, not 'soon'"):
        find_clips(tmp_path / "b.csv")


def test_ucf_lists_find_videos_wherever_the_classes_lie(tmp_path: Path) -> None:
    touch(tmp_path, "UCF-101/Archery/v_Archery_g01_c01.avi")
    (tmp_path / "trainlist01.txt").write_text(
        "Archery/v_Archery_g01_c01.avi 3\nArchery/v_Archery_g99_c01.avi 3\n\n"
    )
    first, absent = find_clips(tmp_path / "trainlist01.txt")
    assert first.path == tmp_path / "UCF-101/Archery/v_Archery_g01_c01.avi"
    assert (first.name, first.row) == ("Archery/v_Archery_g01_c01.avi", {"label": "3"})
    assert not absent.path.exists()  # told when it is opened
    (tmp_path / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    assert find_clips(tmp_path / "testlist01.txt")[0].path == first.path


def test_kinetics_lists_find_videos_by_id_and_seconds(tmp_path: Path) -> None:
    touch(tmp_path, "val/abseiling/-3B32lodo2M_000059_000069.mp4")
    (tmp_path / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "abseiling,-3B32lodo2M,59,69,val\nabseiling,gone,1,11,val\n"
    )
    first, absent = find_clips(tmp_path / "val.csv")
    assert first.path == tmp_path / "val/abseiling/-3B32lodo2M_000059_000069.mp4"
    assert (first.name, first.row["label"]) == ("-3B32lodo2M_000059_000069", "abseiling")
    assert absent.name == "gone_000001_000011"


def test_a_name_in_a_text_list_never_stands_for_another_file(tmp_path: Path) -> None:
    touch(tmp_path, "test/clip.mp4", "x/two.mp4", "y/two.mp4", "z/two.mkv", "deep/one.mkv")
    (tmp_path / "l.txt").write_text("train/clip.mp4\nclip.mp4\ntwo.mp4\ntwo.mkv\none.mp4\none.b\n")
    found = {clip.name: clip.path for clip in find_clips(tmp_path / "l.txt")}
    assert found == {
        "train/clip.mp4": tmp_path / "train/clip.mp4",
        "clip.mp4": tmp_path / "test/clip.mp4",
        "two.mp4": tmp_path / "two.mp4",  # either of two: missing, as nobody knows
        "two.mkv": tmp_path / "z/two.mkv",
        "one.mp4": tmp_path / "deep/one.mkv",
        "one.b": tmp_path / "one.b",
    }


def test_a_number_in_a_name_that_is_there_is_no_label(tmp_path: Path) -> None:
    frames_in(tmp_path, "take 1/0.png", "take/0.png")
    (tmp_path / "l.txt").write_text("take 1\ntake 2\n")
    first, second = find_clips(tmp_path / "l.txt")
    assert (first.path, first.name, first.row) == (tmp_path / "take 1", "take 1", {})
    assert (second.path, second.row) == (tmp_path / "take", {"label": "2"})


def test_whole_videos_of_kinetics_are_cut_to_their_seconds(tmp_path: Path) -> None:
    touch(tmp_path, "val/a.mp4", "val/b.mp4", "val/b_000001_000011.mp4")
    rows = ["label,youtube_id,time_start,time_end", "x,a,59,69", "x,b,1,11", "x,c,1,11"]
    (tmp_path / "val.csv").write_text("\n".join(rows) + "\n")
    found = find_clips(tmp_path / "val.csv")
    assert [(clip.path.name, clip.start, clip.end) for clip in found] == [
        ("a.mp4", 59, 69),
        ("b_000001_000011.mp4", 0, None),
        ("c_000001_000011.mp4", 0, None),
    ]
    (tmp_path / "val.csv").write_text("\n".join([rows[0], "x,a,5,5"]) + "\n")
    with pytest.raises(ValueError, match="row 1: a cannot be cut from 5 to 5 s: let time_end"):
        find_clips(tmp_path / "val.csv")


def frames_in(folder: Path, *names: str) -> Path:
    """Pictures of 8x8, one under each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200, 0, 0)).save(folder / name)
    return folder


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "._a.mp4", ".ipynb_checkpoints/a-checkpoint.mp4", "__MACOSX/._a.mp4")
    touch(tmp_path, "deep/.cache/b.mkv", "deep/b.mkv", ".hidden.csv", "__MACOSX/c.mp4")
    assert names(find_clips(tmp_path)) == ["a.mp4", "deep/b.mkv"]
    assert names(find_clips(f"{tmp_path}/**/*")) == ["a.mp4", "deep/b.mkv"]
    inside = touch(tmp_path / ".data", "a.mp4")  # hidden itself, but asked for
    assert names(find_clips(inside)) == ["a.mp4"]
    frames_in(tmp_path / "mac", "f1.png", "f2.png", "._f1.png")
    (clip,) = find_clips(tmp_path / "mac")
    assert len(clip.read()) == 2


@pytest.mark.parametrize("suffix", ["wmv", "3gp", "y4m", "mts", "m2ts", "vob", "MOV", "yuv", "gif"])
def test_every_kind_of_video_is_found(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"a.{suffix}", "a.txt", "a.json", "a.py")
    assert names(find_clips(tmp_path)) == [f"a.{suffix}"]


@pytest.mark.parametrize("name", ["clip", "clip.bin", "clip.mp4.part", "a[1].mkv"])
def test_a_file_of_any_name_is_one_video(tmp_path: Path, name: str) -> None:
    write(moving(3), tmp_path / "a.mkv", lossless=True)
    (tmp_path / "a.mkv").rename(tmp_path / name)
    (clip,) = find_clips(tmp_path / name)
    assert (clip.name, clip.place) == (name, str(tmp_path / name))
    assert len(clip.read()) == 3


def test_folders_of_pictures_are_clips_beside_videos(tmp_path: Path) -> None:
    frames_in(tmp_path, "x/a/0.png", "x/a/1.png", "x/v1.0/0.png")
    touch(tmp_path, "y/b.mp4", "y/thumbnail.jpg", "readme.md")
    found = find_clips(tmp_path)
    assert names(found) == ["x/a", "x/v1.0", "y/b.mp4"]
    assert [clip.stem for clip in found] == ["x/a", "x/v1.0", "y/b"]
    assert [clip.group for clip in found] == ["x", "x", "y"]
    assert len(found[0].read()) == 2
    assert names(find_clips(f"{tmp_path}/x/*")) == ["a", "v1.0"]
    assert names(find_clips(f"{tmp_path}/x/a/*.png")) == ["0.png", "1.png"]  # each by itself


def moving_picture(path: Path) -> Path:
    """An animated WebP of three frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *more = (Image.new("RGB", (16, 16), (40 * n, 0, 90)) for n in range(3))
    first.save(path, save_all=True, append_images=more, duration=40)
    return path


def test_moving_pictures_beside_videos_are_clips(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "empty.webp")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.webp")
    for name in ("move.webp", "deep/move.webp"):
        moving_picture(tmp_path / name)
    moving = ["deep/move.webp", "move.webp"]
    assert names(find_clips(tmp_path)) == ["a.mp4", *moving]
    assert [len(clip.read()) for clip in find_clips(tmp_path)[1:]] == [3, 3]
    assert names(find_clips(f"{tmp_path}/**/*.*")) == ["a.mp4", *moving]
    (tmp_path / "a.mp4").unlink()  # with a still one, they are pictures like any
    assert names(find_clips(f"{tmp_path}/*.webp")) == ["a.webp", "empty.webp", "move.webp"]
    for name in ("a.webp", "empty.webp"):
        (tmp_path / name).unlink()
    assert names(find_clips(tmp_path)) == moving


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "far", "a.mp4")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "near").symlink_to(tmp_path / "far")
    (tmp_path / "clips" / "round").symlink_to(tmp_path / "clips")
    (tmp_path / "clips" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    gone, linked = find_clips(tmp_path / "clips")
    assert (gone.name, linked.name) == ("gone.mp4", "near/a.mp4")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone.mp4"):
        gone.read()


def test_patterns_keep_the_tree_below_them(tmp_path: Path) -> None:
    touch(tmp_path, "x/1/a.mp4", "x/2/a.mp4", "x/2/b.txt", "notes/c.md", "shard-0.mp4")
    touch(tmp_path, "shard-1.mp4")
    assert names(find_clips(f"{tmp_path}/x/*/a.mp4")) == ["1/a.mp4", "2/a.mp4"]
    assert names(find_clips(f"{tmp_path}/x/**")) == ["1/a.mp4", "2/a.mp4"]
    assert names(find_clips(f"{tmp_path}/x/**/*.mp4")) == ["1/a.mp4", "2/a.mp4"]
    assert names(find_clips(f"{tmp_path}/x/{{1,2}}/*")) == ["1/a.mp4", "2/a.mp4"]
    assert names(find_clips(f"{tmp_path}/shard-{{0..1}}.mp4")) == ["shard-0.mp4", "shard-1.mp4"]
    assert expand_braces("s-{08..11}.{tar,mp4}")[::3] == ["s-08.tar", "s-09.mp4", "s-11.tar"]
    with pytest.raises(FileNotFoundError, match=r"there is no .*shard-2.mp4, which a pattern in"):
        find_clips(f"{tmp_path}/shard-{{0..2}}.mp4")
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.avi"):
        find_clips(f"{tmp_path}/*.avi")
    with pytest.raises(FileNotFoundError, match="are folders without videos or images"):
        find_clips(f"{tmp_path}/notes*")


def test_a_manifest_says_what_is_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "set", "a.mp4", "deep/b.mp4", "c.mp4")
    (tmp_path / "set" / "manifest.csv").write_text(
        "group,file,source\ncat,a.mp4,s\ndog,deep/b.mp4,t\n"
    )
    found = find_clips(tmp_path / "set")
    assert [(c.name, c.group, c.source) for c in found] == [
        ("a.mp4", "cat", "s"),
        ("deep/b.mp4", "dog", "t"),
    ]
    assert names(find_clips(f"{tmp_path}/s*")) == ["set/a.mp4", "set/deep/b.mp4"]


def test_where_clips_are_looked_for(tmp_path: Path) -> None:
    place, reads = tmp_path / "clips" / "report", lambda data: looks_into(data, place)
    (tmp_path / "clips").mkdir()
    top, inner = str(tmp_path), str(tmp_path / "clips")
    assert all(
        map(reads, (top, inner, f"{top}/*", f"{inner}/r*", f"{inner}/*/*", f"{top}/**/*.mp4"))
    )
    assert reads(f"{top}/{{clips,other}}")
    assert not any(map(reads, (f"{inner}/*.mp4", f"{top}/x*", f"{inner}/a", f"{top}/other/*")))
    assert not looks_into(inner, tmp_path / "clips" / ".hidden" / "report")
    (tmp_path / "clips" / "manifest.csv").write_text("file\n")
    assert not reads(inner)  # which names its clips
    assert not reads(f"{inner}/manifest.csv")


def test_what_is_named_twice_is_taken_once_and_said(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "l.csv").write_text("file\na.mp4\nb.mp4\n./a.mp4\n")
    with pytest.warns(UserWarning, match=r"l.csv names 1 of 3 clips again, such as a.mp4: each is"):
        assert names(find_clips(tmp_path / "l.csv")) == ["a.mp4", "b.mp4"]


def test_an_address_is_a_clip_that_is_fetched(tmp_path: Path) -> None:
    write(moving(3), tmp_path / "a.mkv", lossless=True)
    (clip,) = find_clips((tmp_path / "a.mkv").as_uri())
    assert (clip.name, clip.stem, len(clip.read())) == ("a.mkv", "a", 3)
    (tmp_path / "l.csv").write_text(f"file\n{(tmp_path / 'a.mkv').as_uri()}\n")
    with pytest.raises(FileNotFoundError):  # a list is not the user's own word
        find_clips(tmp_path / "l.csv")[0].read()


def test_a_record_is_a_clip_for_all(tmp_path: Path) -> None:
    write_bair(tmp_path / "push.tfrecords", motions=2, frames=3)
    _, second = find_clips(tmp_path)
    assert second.name == "push.tfrecords#1"
    video = second.read(start=0.1)
    assert (len(video), video.fps) == (2, 10)


def test_a_changed_picture_makes_its_folder_newer(tmp_path: Path) -> None:
    (clip,) = find_clips(frames_in(tmp_path / "a", "0.png", "1.png"))
    before = clip.changed
    os.utime(tmp_path / "a" / "1.png", ns=(2 * before, 2 * before))
    assert clip.changed == 2 * before


def test_an_empty_name_is_not_the_folder_that_one_is_in() -> None:
    with pytest.raises(ValueError, match="a video, folder, pattern or list has a name"):
        find_clips("")
