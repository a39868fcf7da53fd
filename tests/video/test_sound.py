"""Sound is copied packet by packet, from where the video starts to where it ends."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from small_clips import pattern

from reeltok.video.record import read, stream, write
from reeltok.video.sound import Sound

RATE = 48000


def with_sound(
    path: Path, codec: str, seconds: float = 2.0, *, channels: int = 1, ahead: int = 0
) -> Path:
    """A video of 25 frames per second whose tone rises by 200 Hz every quarter of a second.

    The sound begins `ahead` frames before the pictures.
    """
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    frames = pattern(int(seconds * 25)).numpy()
    t = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * math.pi * np.cumsum(400 + 200 * np.floor(t / 0.25)) / RATE)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        sound = out.add_stream(codec, rate=RATE, layout=layout)
        for number, picture in enumerate(frames):
            shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
            shown.pts, shown.time_base = number + ahead, Fraction(1, 25)
            out.mux(video.encode(shown))
        out.mux(video.encode(None))
        for at in range(0, len(tone), 960):
            block = (tone[None, at : at + 960] * 20000).astype(np.int16)
            block = np.ascontiguousarray(block.repeat(channels, axis=1))
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
            frame.sample_rate, frame.pts = RATE, at
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def heard(path: Path) -> tuple[np.ndarray, float] | None:
    """The samples and when they begin, in seconds after the first picture."""
    with av.open(str(path)) as source:
        if not source.streams.audio:
            return None
        blocks = [frame for frame in source.decode(audio=0) if frame.time >= 0]
        zero = float(source.streams.video[0].start_time * source.streams.video[0].time_base)
        samples = np.concatenate([block.to_ndarray().astype(float)[0] for block in blocks])
        return samples, blocks[0].time - zero


def pitch(samples: np.ndarray, begin: float, at: float) -> float:
    """The loudest frequency in the tenth of a second around `at`, in Hz."""
    middle = round((at - begin) * RATE)
    part = samples[middle - 2400 : middle + 2400]
    return float(np.abs(np.fft.rfft(part * np.hanning(len(part)))).argmax() * RATE / len(part))


@pytest.mark.parametrize(
    ("source", "codec", "target"),
    [
        ("a.mp4", "aac", "b.mp4"),
        ("a.mp4", "aac", "b.mkv"),
        ("a.mkv", "libopus", "b.webm"),
        ("a.mkv", "libopus", "b.mp4"),
        ("a.mov", "pcm_s16le", "b.avi"),
        ("a.mp4", "aac", "b.ts"),
    ],
)
def test_the_whole_sound_is_copied(tmp_path: Path, source: str, codec: str, target: str) -> None:
    path = with_sound(tmp_path / source, codec)
    assert write(read(path), tmp_path / target, audio_from=path).notes == ()
    original, copied = heard(path), heard(tmp_path / target)
    assert original is not None
    assert copied is not None
    assert abs(copied[1] - original[1]) < 0.03
    assert abs(len(copied[0]) - len(original[0])) < 0.07 * RATE
    for at in (0.125, 0.875, 1.625):
        assert pitch(*copied, at) == pytest.approx(400 + 800 * (at - 0.125), abs=20)


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_a_span_has_the_sound_of_that_span(tmp_path: Path, name: str) -> None:
    path = with_sound(tmp_path / "a.mp4", "aac")
    parts = stream(path, start=1.0, frames=15, chunk=4)
    write(parts, tmp_path / name, audio_from=path)
    copied = heard(tmp_path / name)
    assert copied is not None
    assert 0 <= copied[1] < 0.03
    assert abs(len(copied[0]) / RATE - 0.6) < 0.05
    assert pitch(*copied, 0.125) == pytest.approx(1200, abs=20)
    assert pitch(*copied, 0.375) == pytest.approx(1400, abs=20)


@pytest.mark.filterwarnings("ignore:.*does not say where it ends")
@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.webm"])
def test_joined_recordings_keep_their_sound(tmp_path: Path, name: str) -> None:
    one, two = (with_sound(tmp_path / f"{n}.ts", "aac", n).read_bytes() for n in (1.0, 2.0))
    (path := tmp_path / "joined.ts").write_bytes(one + two)
    for start in (0.0, 1.5):
        write(read(path, start=start), tmp_path / name, audio_from=path)
        copied = heard(tmp_path / name)
        assert copied is not None
        assert abs(len(copied[0]) / RATE - (3 - start)) < 0.15
        for at in (0.125, 0.625, 1.375, 2.125):
            if at > start:
                wanted = 400 + 800 * (at - 0.125 - (at > 1))
                assert pitch(*copied, at - start) == pytest.approx(wanted, abs=25)


@pytest.mark.parametrize(
    ("source", "codec", "target", "note"),
    [
        ("a.mp4", "aac", "b.webm", "aac sound does not go into .webm: written as Opus"),
        ("a.mkv", "libmp3lame", "b.webm", "mp3 sound does not go into .webm: written as Opus"),
        ("a.mkv", "libopus", "b.mov", "opus sound does not go into .mov: written as AAC"),
        ("a.mkv", "libopus", "b.avi", "opus sound does not go into .avi: written as MP3"),
        ("a.mkv", "flac", "b.ts", "flac sound does not go into .ts: written as AAC"),
    ],
)
def test_sound_that_does_not_fit_is_coded_anew(
    tmp_path: Path, source: str, codec: str, target: str, note: str
) -> None:
    path = with_sound(tmp_path / source, codec)
    assert write(read(path), tmp_path / target, audio_from=path).notes == (note,)
    coded = heard(tmp_path / target)
    assert coded is not None
    assert abs(coded[1]) < 0.06
    assert abs(len(coded[0]) / RATE - 2) < 0.1
    for at in (0.125, 0.875, 1.625):
        assert pitch(*coded, at) == pytest.approx(400 + 800 * (at - 0.125), abs=25)
    write(stream(path, start=1.0, frames=15), tmp_path / f"part-{target}", audio_from=path)
    part = heard(tmp_path / f"part-{target}")
    assert part is not None
    assert pitch(*part, 0.125) == pytest.approx(1200, abs=25)
    assert abs(len(part[0]) / RATE - 0.6) < 0.1


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])  # coded anew in .avi, and copied
@pytest.mark.parametrize("silent", [(0.0, 0.5), (0.8, 1.3)])
def test_a_pause_that_the_file_cannot_keep_is_said(
    tmp_path: Path, codec: str, silent: tuple[float, float]
) -> None:
    whole, holed = with_sound(tmp_path / "whole.mov", codec), tmp_path / "holed.mkv"
    with av.open(str(whole)) as source, av.open(str(holed), "w") as out:
        tracks = [out.add_stream_from_template(track) for track in source.streams]
        for packet in source.demux():
            sounds = packet.stream.type == "audio" and packet.size
            if packet.size and not (
                sounds and silent[0] <= packet.pts * packet.time_base < silent[1]
            ):
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
    said = write(read(holed), tmp_path / "b.avi", audio_from=holed).notes[-1]
    assert "the sound begins late or pauses for 0.5 s" in said
    assert write(read(holed), tmp_path / "b.mkv", audio_from=holed).notes == ()


@pytest.mark.parametrize(
    ("source", "codec", "channels", "target", "note"),
    [
        ("a.mkv", "pcm_s16le", 2, "b.mp4", "written as AAC"),
        ("a.mkv", "aac", 6, "b.webm", "written as Opus (stereo instead of 5.1)"),
    ],
)
def test_sound_that_fits_only_in_part(
    tmp_path: Path, source: str, codec: str, channels: int, target: str, note: str
) -> None:
    path = with_sound(tmp_path / source, codec, channels=channels)
    written = write(read(path), tmp_path / target, audio_from=path)
    said = f"{codec} sound does not go into {Path(target).suffix}: {note}"
    assert written.notes == (said,)
    with av.open(str(tmp_path / target)) as opened:
        samples = sum(frame.samples for frame in opened.decode(audio=0))
    assert abs(samples / RATE - 2) < 0.15


def test_packets_shorter_than_a_unit_of_avi_follow_one_another(tmp_path: Path) -> None:
    """As of ADPCM, whose bytes a second FFmpeg rounds."""
    sound, muxed = Sound(with_sound(tmp_path / "a.mkv", "aac", 0.4)), list[av.Packet]()
    sound._muxer, sound._track = "avi", SimpleNamespace(time_base=Fraction(1, 10))
    target: Any = SimpleNamespace(start_encoding=lambda: None, mux=muxed.append)
    sound._target = target
    for number in range(4):
        packet = av.Packet(b"x")
        packet.pts = packet.dts = number
        packet.time_base = Fraction(1, 25)
        sound._put(packet)
    sound.close()
    assert [round(packet.dts * packet.time_base * 10) for packet in muxed] == [0, 1, 2, 3]


def test_more_samples_a_second_than_a_codec_has_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "RATE", 96_000)
    path = with_sound(tmp_path / "a.mkv", "flac", 0.4)
    said = "flac sound does not go into .ts: written as AAC (48 instead of 96 kHz)"
    assert write(read(path), tmp_path / "b.ts", audio_from=path).notes == (said,)


def test_sound_that_begins_before_the_pictures_goes_into_avi(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mkv", "aac", ahead=12)
    write(read(path), tmp_path / "b.avi", audio_from=path)
    copied = heard(tmp_path / "b.avi")
    assert copied is not None
    assert pitch(*copied, 0.125 + 0.02) == pytest.approx(800, abs=20)


@pytest.mark.parametrize("name", ["b.mp4", "b.webm"])  # copied, and coded anew
def test_damaged_sound_is_left_out_and_said(tmp_path: Path, name: str) -> None:
    path = with_sound(tmp_path / "a.mkv", "aac")
    with av.open(str(path)) as source:
        packets = [bytes(packet) for packet in source.demux(audio=0) if packet.size]
    data = path.read_bytes()
    for packet in packets[40:43]:
        data = data.replace(packet, bytes(255 - value for value in packet))
    path.write_bytes(data)
    written = write(read(path), tmp_path / name, audio_from=path)
    said = f"the sound of {path} is damaged: 3 packets left out"
    assert [note for note in written.notes if "damaged" in note] == [said] * (name == "b.webm")
    assert (tmp_path / name).exists()


def test_sound_that_breaks_off_names_its_source(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mkv", "aac", 0.4)
    sound = Sound(path)
    source: Any = sound._source

    def broken(track: Any) -> Iterator[Any]:
        yield from islice(source.demux(track), 9)
        raise av.InvalidDataError(1094995529, "Invalid data")

    sound._source = SimpleNamespace(demux=broken, streams=source.streams)  # type: ignore[assignment]
    assert len(list(sound._demuxed())) == 9
    assert sound.end(1.0) == [f"the sound of {path} cannot be read after 0.15 s"]
    source.close()


def test_sound_that_goes_nowhere_is_said(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mp4", "aac", 0.4)
    written = write(read(path), tmp_path / "b.gif", audio_from=path)
    assert written.notes == ("aac sound does not go into .gif: left out",)
    assert "no sound" in write(read(path), tmp_path / "folder", audio_from=path).notes[0]


def test_sound_that_nobody_asked_for_is_said(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mp4", "aac", 0.4)
    with stream(path) as parts:
        assert parts.sound == "aac"
        written = write(parts, tmp_path / "b.mp4")
    assert written.notes == (f"the aac sound of {path} is left out: `audio_from` copies it",)
    assert write(read(path), tmp_path / "c.mp4").notes == written.notes
    assert write(read(tmp_path / "c.mp4"), tmp_path / "d.mp4").notes == ()


def test_sound_is_copied_from_bytes_too(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mp4", "aac", 0.4)
    write(read(path), tmp_path / "b.mp4", audio_from=path.read_bytes())
    assert heard(tmp_path / "b.mp4") is not None


def test_a_silent_original_is_no_news(tmp_path: Path) -> None:
    write(read(with_sound(tmp_path / "a.mp4", "aac", 0.4)), tmp_path / "silent.mp4")
    path = tmp_path / "silent.mp4"
    assert write(read(path), tmp_path / "b.mp4", audio_from=path).notes == ()


def test_pictures_at_another_speed_than_their_sound_are_told(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mp4", "aac", seconds=1.0)
    written = write(read(path), tmp_path / "b.mp4", audio_from=path, fps=50)
    assert written.notes == (
        "the pictures play at 50 instead of 25 a second, the sound at its own speed: they do not "
        "stay together",
    )
    assert write(read(path), tmp_path / "c.mp4", audio_from=path, fps=25).notes == ()
    silent = write(read(path), tmp_path / "d.mp4", fps=50)
    assert silent.notes == (f"the aac sound of {path} is left out: `audio_from` copies it",)
