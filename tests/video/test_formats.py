"""Texts that name other files are never followed, whatever they are called."""

import io
from pathlib import Path

import av
import pytest
from small_clips import Clip

from reeltok.video.record import read
from reeltok.video.sound import Sound

LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile 'secret.mp4'\n",
    "ffconcat-full": "ffconcat version 1.0\nfile 'file:{secret}'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{secret}\n#EXT-X-ENDLIST\n",
    "hls-address": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:1/a.ts\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    "<Period><BaseURL>{secret}</BaseURL></Period></MPD>\n",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".png", ".jpg", ".ts", ".m3u8", ".txt", ".wav", ""])
def test_texts_that_name_other_files_are_refused(
    clip: Clip, tmp_path: Path, kind: str, suffix: str
) -> None:
    secret = clip("secret.mp4")
    path = tmp_path / f"list{suffix}"
    path.write_text(LISTS[kind].format(secret=secret))
    for given in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ValueError, match="names other files"):
            read(given)
    with pytest.raises(ValueError, match="no sound that can be read"):
        Sound(path)


def test_numbered_names_are_one_file(clip: Clip, tmp_path: Path) -> None:
    """FFmpeg would take "a%d.png" for a pattern, and open a1.png, whatever stands there."""
    path = tmp_path / "a%d.png"
    clip().rename(path)
    (tmp_path / "a1.png").write_bytes(b"another")
    assert len(read(path)) == 10
    (tmp_path / "b[1].jpg").write_bytes(path.read_bytes())
    assert len(read(tmp_path / "b[1].jpg")) == 10


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_title_of_other_letters_is_no_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "TITLE"
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"TITLE" in data
    path.write_bytes(data.replace(b"TITLE", b"\xe4\xffTLE"))  # Latin-1
    assert len(read(path)) == 3
