"""Folders, lists and records: what is found in them, before anything is decoded."""

from pathlib import Path

import pytest

from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.evaluate.clips import boxes_of
from reeltok.evaluate.metrics import Box


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
