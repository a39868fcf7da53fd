"""Lists of clips in every form, and one sentence for each that is none."""

import json
import re
import tarfile
from pathlib import Path

import pytest
import torch

from reeltok.data.clip import Clip
from reeltok.data.find import find_clips, folder_of
from reeltok.data.lists import COLUMNS, read_list, write_list
from reeltok.video.record import Video, write


def listed(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("column", [*COLUMNS, "Video", "FILE_NAME"])
def test_every_column_of_files_is_known(tmp_path: Path, column: str) -> None:
    (clip,) = find_clips(listed(tmp_path / "l.csv", f"id,{column},group\n7,x/a.wmv,dogs\n"))
    assert (clip.path, clip.name, clip.group) == (tmp_path / "x/a.wmv", "x/a.wmv", "dogs")
    assert clip.row["id"] == "7"


FORMS = {
    "l.csv": "video,start,group\na.mp4,1.5,x\nb.mp4,,y\n",
    "bom.csv": "\ufeffvideo,start,group\r\na.mp4,1.5,x\r\nb.mp4,,y\r\n",
    "semicolons.csv": "group;video;start\nx;a.mp4;1.5\ny;b.mp4;\n",
    "l.tsv": "video\tstart\tgroup\na.mp4\t1.5\tx\nb.mp4\t\ty\n",
    "l.jsonl": '{"video": "a.mp4", "start": 1.5, "group": "x"}\n\n{"video":"b.mp4","group":"y"}\n',
    "l.json": '[{"path": "a.mp4", "start": 1.5, "group": "x"}, {"path": "b.mp4", "group": "y"}]',
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(tmp_path: Path, name: str) -> None:
    found = find_clips(listed(tmp_path / name, FORMS[name]))
    assert [(clip.path.name, clip.start, clip.group) for clip in found] == [
        ("a.mp4", 1.5, "x"),
        ("b.mp4", 0.0, "y"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "# mine\na b.mp4\n\nc.mp4\n"),
        ("l.lst", "a b.mp4\nc.mp4"),
        ("l.jsonl", '"a b.mp4"\n"c.mp4"\n'),
        ("l.json", '["a b.mp4", "c.mp4"]'),
    ],
)
def test_plain_names_are_a_list(tmp_path: Path, name: str, text: str) -> None:
    found = find_clips(listed(tmp_path / name, text))
    assert [clip.path for clip in found] == [tmp_path / "a b.mp4", tmp_path / "c.mp4"]


def test_absolute_names_are_named_within_their_common_folder(tmp_path: Path) -> None:
    text = "file\n/data/x/a.mp4\n/data/y/b.mp4\nc.mp4\n"
    found = find_clips(listed(tmp_path / "l.csv", text))
    assert [clip.name for clip in found] == ["x/a.mp4", "y/b.mp4", "c.mp4"]
    assert [clip.path for clip in found][1:] == [Path("/data/y/b.mp4"), tmp_path / "c.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.csv", "a,b\n1,2\n", r"l.csv has the columns a, b: one of file, filename"),
        ("l.csv", "a,b\n", r"l.csv has the columns a, b: one of file"),
        ("l.jsonl", '{"a": 1, "b": 2}\n', r"l.jsonl has the columns a, b: one of file"),
        ("l.csv", "file\n", "names no videos"),
        ("l.csv", "", "names no videos"),
        ("l.txt", "# nothing\n", "names no videos"),
        ("l.csv", "file,x\na.mp4,1\n,2\n", "row 2: the column file is empty"),
        (
            "l.csv",
            "file,caption,group\na.mp4,a cup, red,x\n",
            "row 1: it has more values .* ',' in",
        ),
        ("l.csv", "file,start\na.mp4,soon\n", "row 1: `start` is in seconds, not 'soon'"),
        ("l.csv", "file,start\na.mp4,-1\n", "row 1: `start` is in seconds, not '-1'"),
        ("l.jsonl", '{"file": "a.mp4"}\n{"file": \n', "line 2 of the list .* is not JSON"),
        ("l.jsonl", "7\n", "is 7: give objects or names"),
        ("l.json", '{"a.mp4": 1}', "is not a list of clips"),
        ("l.csv", "youtube_id,time_start,time_end\nx,soon,3\n", "are seconds"),
    ],
)
def test_what_is_no_list_is_said_in_one_sentence(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        find_clips(listed(tmp_path / name, text))
    assert "\n" not in str(caught.value)


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("file\nc\xe4t.mp4\n".encode("latin-1"))
    with pytest.raises(ValueError, match="csv is not UTF-8 text"):
        find_clips(tmp_path / "l.csv")


def test_a_missing_clip_is_named_when_it_is_opened(tmp_path: Path) -> None:
    (clip,) = find_clips(listed(tmp_path / "l.csv", "file\ngone.mp4\n"))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*/gone.mp4$"):
        clip.read()


def test_a_list_that_was_written_is_read_back(tmp_path: Path) -> None:
    clips = [
        Clip(path=tmp_path / "deep" / "a.mp4", name="deep/a.mp4", group="x", source="s", start=1.5),
        Clip(path=tmp_path / "s.tar", name="s.tar/b/c.mkv", member="b/c.mkv", source="s.tar/b"),
        Clip(path=tmp_path / "push.tfrecords", name="push.tfrecords#84", record=84, source="p"),
        Clip(path=tmp_path, name=tmp_path.name, source="."),
    ]
    write_list(tmp_path / "new" / "l.csv", clips)
    (tmp_path / "new").rename(tmp_path / "moved")  # the files lie elsewhere: by absolute names
    assert [c.path for c in find_clips(tmp_path / "moved" / "l.csv")] == [c.path for c in clips]
    write_list(tmp_path / "l.csv", clips)
    assert find_clips(tmp_path / "l.csv") == clips


def test_capitals_of_columns_do_not_matter(tmp_path: Path) -> None:
    text = "File,Start,End,Group,Repo,Path,Mood\na.mp4,1,2,g,r,p,glad\n"
    (clip,) = find_clips(listed(tmp_path / "l.csv", text))
    assert (clip.start, clip.end, clip.group, clip.source) == (1, 2, "g", "r/p")
    (clip,) = find_clips(tmp_path / "l.csv", column="mood")
    assert clip.group == "glad"


def test_a_column_that_a_list_lacks_is_named(tmp_path: Path) -> None:
    path = listed(tmp_path / "l.csv", "file,mood\na.mp4,glad\n")
    with pytest.raises(ValueError, match=r"no column 'moood' of groups: did you mean 'mood'\?"):
        find_clips(path, column="moood")
    assert [clip.group for clip in find_clips(path)] == [""]  # it need have none


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Video,mood,Caption\na.mp4,glad,a cat\n", {"mood": "glad", "Caption": "a cat"}),
        ("file,repo,path\na.mp4,r,p\n", {"repo": "r", "path": "p"}),
        ("youtube_id,time_start,time_end\nabc,1,2\n", {"youtube_id": "abc", "time_start": "1"}),
    ],
)
def test_a_written_list_keeps_further_columns(
    tmp_path: Path, text: str, kept: dict[str, str]
) -> None:
    clips = find_clips(listed(tmp_path / "l.csv", text))
    write_list(tmp_path / "clean.csv", clips)
    (again,) = find_clips(tmp_path / "clean.csv")
    assert (again.path, again.source) == (clips[0].path, clips[0].source)
    assert kept.items() <= again.row.items()
    write_list(tmp_path / "twice.csv", [again])
    assert (tmp_path / "twice.csv").read_text() == (tmp_path / "clean.csv").read_text()


def test_lists_go_beside_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    assert folder_of(tmp_path) == folder_of(tmp_path / "a.csv") == tmp_path
    assert folder_of(f"{tmp_path}/*/x*.mp4") == tmp_path
    assert folder_of("https://example.org/a.mp4") == Path()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("l.json", b"[" * 100_000),
        ("l.json", b'[{"file": "a\\u0000.mp4"}]'),
        ("l.jsonl", b'{"file": "\\ud800.mp4"}'),
        ("l.jsonl", b'{"file": "a.mp4", "start": NaN}'),
        ("l.jsonl", b'{"youtube_id": "x", "time_start": 1}\n{"time_end": 1}'),
        ("l.csv", b"file\n\x00\n"),
        ("l.csv", b"file\n" + b"a" * 5000 + b".mp4\n"),
        ("l.txt", b"\x00\x01\x02"),
    ],
)
def test_hostile_lists_end_in_one_sentence(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((ValueError, OSError)) as caught:
        find_clips(tmp_path / name)[0].read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\x1b[31mfilm,\x85start\nx,1\n"),
        ("a.csv", "youtube_id,time_start,time_end\nx,1,soon\n"),
        ("a.csv", "youtube_id,time_start,time_end\nx,1,1e999\n"),
        ("a.jsonl", '{"file": "a.mp4"}\n{"file": \x1b[31m\n'),
        ("a.jsonl", "[" * 5000 + "\n"),
        ("a.json", '{"file": "\x1b[31m"}'),
    ],
)
def test_odd_lists_are_one_printable_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        read_list(tmp_path / name, root=tmp_path, column="group")
    assert type(caught.value) is ValueError
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(0.99, 2.0, 25, 49), (2.0, 3.0, 50, 74), (0.37, 1.0, 10, 24), (1.01, 1.05, 26, 26)],
)
@pytest.mark.parametrize("stamped", [False, True])
def test_a_part_ends_before_its_end(
    tmp_path: Path, start: float, end: float, first: int, last: int, stamped: bool
) -> None:
    """Also where it begins between two frames: the one at its end had been in both parts."""
    values = torch.arange(80, dtype=torch.uint8)[:, None, None, None].expand(-1, 16, 16, 3)
    times = torch.arange(80).double() / 25
    if stamped:
        times[1::2] += 0.004
    video = Video(frames=values.contiguous(), fps=25.0, times=times if stamped else None)
    write(video, tmp_path / "a.mkv", lossless=True)
    clip = Clip(path=tmp_path / "a.mkv", start=start, end=end)
    shown = clip.read().frames[:, 0, 0, 0].tolist()
    assert (shown[0], shown[-1]) == (first, last)
    at_rate = clip.read(fps=25).frames[:, 0, 0, 0].tolist()
    assert at_rate[-1] <= last


def test_a_part_of_a_varying_rate_is_what_it_says(tmp_path: Path) -> None:
    times = torch.cumsum(torch.tensor([0.0] + [0.03, 0.05, 0.08] * 13).double(), 0)
    frames = torch.zeros(40, 16, 16, 3, dtype=torch.uint8)
    write(Video(frames=frames, fps=18.0, times=times), tmp_path / "a.mkv", lossless=True)
    with Clip(path=tmp_path / "a.mkv", start=0.08, end=0.9).stream() as opened:
        assert opened.times is not None
        assert opened.seconds is not None
        shown = times[(times > 0.079) & (times < 0.9)]
        assert torch.allclose(opened.times, shown - shown[0], atol=1e-3)
        assert opened.frames == len(opened.times)
        assert opened.seconds == pytest.approx(float(times[len(shown) + 2] - shown[0]), abs=2e-3)
        assert opened.fps == pytest.approx(opened.frames / opened.seconds)
        video = opened.whole()
        assert (video.fps, video.seconds, video.last) == (opened.fps, opened.seconds, opened.last)


@pytest.mark.parametrize("start", [0.5, 1.9])
def test_a_part_in_which_no_frame_begins_is_refused(tmp_path: Path, start: float) -> None:
    frames = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)
    times = torch.tensor([0.0, 2.0, 2.1]).double()
    write(Video(frames=frames, fps=1.0, times=times), tmp_path / "a.mkv", lossless=True)
    clip = Clip(path=tmp_path / "a.mkv", start=start, end=2.0)
    said = f"a.mkv: no frame begins between {start} and 2 s (the next at 2 s): widen start and end"
    with pytest.raises(ValueError, match=re.escape(said)):
        clip.read(frames=4)


def test_a_part_that_becomes_faster_is_read_to_its_end(tmp_path: Path) -> None:
    """As many frames as the first ones suggest are too few there."""
    times = torch.cat([torch.arange(20) * 0.2, 4 + torch.arange(100) * 0.02]).double()
    frames = torch.zeros(120, 16, 16, 3, dtype=torch.uint8)
    write(Video(frames=frames, fps=20.0, times=times), tmp_path / "a.mkv", lossless=True)
    video = Clip(path=tmp_path / "a.mkv", end=5.5).read()
    assert len(video) == int((times < 5.499).sum())


def test_pictures_without_a_rate_have_no_end(tmp_path: Path) -> None:
    write(Video(torch.zeros(10, 16, 16, 3, dtype=torch.uint8), 5.0), tmp_path / "pictures")
    clip = Clip(path=tmp_path / "pictures", end=1.5)
    with pytest.raises(ValueError, match="no time stamps: end needs fps as well"):
        clip.read()
    assert len(clip.read(fps=5)) == 8


def test_what_is_made_from_parts_is_named_apart(tmp_path: Path) -> None:
    """The embedding of a caption is found by this name."""
    for name in ("a.mp4", "x.tfrecords"):
        (tmp_path / name).write_bytes(b"")
    stems = [
        Clip(path=tmp_path / "a.mp4", name=name).stem
        for name in ("a.mp4", "a.mp4 (2)", "b/a.mp4 (12)", "a (2).mp4", "a.b")
    ]
    assert stems == ["a", "a (2)", "b/a (12)", "a (2)", "a"]
    assert Clip(path=tmp_path / "x.tfrecords", name="x.tfrecords#3", record=9).stem == "x#3"


def test_a_record_that_is_no_number_is_refused(tmp_path: Path) -> None:
    for text in ("26.0", "-5", "x"):
        with pytest.raises(ValueError, match=r"row 1: `record` is the byte .* not '"):
            find_clips(listed(tmp_path / "a.csv", f"file,record\na.tfrecord,{text}\n"))


def test_empty_origins_tell_clips_apart(tmp_path: Path) -> None:
    text = "file,repo,path\na.mp4,,\nb.mp4,,\nc.mp4,r,\nd.mp4,r,p\n"
    clips = find_clips(listed(tmp_path / "a.csv", text))
    assert [clip.source for clip in clips] == ["a.mp4", "b.mp4", "r", "r/p"]


def test_a_file_that_is_named_in_three_ways_is_one_clip(tmp_path: Path) -> None:
    names = ("x.mp4", str(tmp_path / "x.mp4"), "../" + tmp_path.name + "/x.mp4")
    with pytest.warns(UserWarning, match="taken once"):
        clips = find_clips(listed(tmp_path / "a.csv", "\n".join(("file", *names)) + "\n"))
    assert len(clips) == 1


def test_an_address_with_a_query_is_no_pattern(tmp_path: Path) -> None:
    address = "https://host/a/x.mp4?token=[1]"
    (clip,) = find_clips(address)
    assert clip.address == address
    write_list(tmp_path / "a.csv", [clip])
    assert f"{address}," in (tmp_path / "a.csv").read_text()


def test_lists_look_into_linked_folders(tmp_path: Path) -> None:
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "videos" / "deep" / "x.mp4").touch()
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "link").symlink_to(tmp_path / "videos")
    (clip,) = find_clips(listed(tmp_path / "l" / "train.txt", "x.mp4\n"))
    assert clip.path == tmp_path / "l" / "link" / "deep" / "x.mp4"


def test_groups_of_kinetics_may_be_of_another_column(tmp_path: Path) -> None:
    text = "label,youtube_id,time_start,time_end,split\ndance,abc,1,11,train\n"
    path = listed(tmp_path / "k.csv", text)
    assert [clip.group for clip in find_clips(path)] == ["dance"]
    assert [clip.group for clip in find_clips(path, column="Split")] == ["train"]
    with pytest.raises(ValueError, match="has no column 'nothere' of groups"):
        find_clips(path, column="nothere")


def test_a_list_says_of_shards_what_it_says_of_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        shard.addfile(tarfile.TarInfo("q/x.mp4"))
    text = "file,group,source\ns.tar,cats,studio\n"
    (clip,) = find_clips(listed(tmp_path / "a.csv", text))
    assert (clip.group, clip.source, clip.member) == ("cats", "studio", "q/x.mp4")
    (clip,) = find_clips(listed(tmp_path / "b.csv", "file\ns.tar\n"))
    assert (clip.group, clip.source) == ("s", "s.tar/q/x.mp4")


def test_names_may_begin_with_a_space(tmp_path: Path) -> None:
    (tmp_path / " lead.mp4").touch()
    clips = find_clips(listed(tmp_path / "a.csv", "file\n lead.mp4\n other.mp4\n"))
    assert [clip.path.name for clip in clips] == [" lead.mp4", "other.mp4"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", 'file,caption\n1.mp4,"not closed\n2.mp4,a cat\n'),
        ("l.tsv", 'file\tcaption\n1.mp4\t"Happy" she says\n2.mp4\ta cat\n'),
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"not a CSV file .*close each quote"):
        find_clips(listed(tmp_path / name, text))


def test_columns_of_tsv_are_parted_by_tabs_alone(tmp_path: Path) -> None:
    text = "file\tcaption (who, what, where)\na.mp4\tone, two, three\n"
    (clip,) = find_clips(listed(tmp_path / "l.tsv", text))
    assert clip.row["caption (who, what, where)"] == "one, two, three"


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_json_lines_may_hold_other_line_breaks(tmp_path: Path, mark: str) -> None:
    rows = [{"file": "a.mp4", "caption": f"one{mark}two"}, {"file": "b.mp4"}]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    first, second = find_clips(listed(tmp_path / "l.jsonl", text))
    assert (first.row["caption"], second.path.name) == (f"one{mark}two", "b.mp4")
