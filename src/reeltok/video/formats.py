"""Which kinds of file FFmpeg may open, and opening one of them.

Some of FFmpeg's formats are texts that name other files (ffconcat, HLS, DASH, SDP, numbered
pictures), others draw any text as a terminal. A file's content decides which format it is taken
for, whatever its name says, so what may be opened is listed here and nothing else is.
"""

import errno
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

# Containers and bare streams of video, by the names of FFmpeg's demuxers.
_VIDEOS = (
    *("mov", "matroska", "avi", "gif", "apng", "mpegts", "mpegtsraw", "mpeg", "ogg", "flv"),
    *("live_flv", "kux", "asf", "asf_o", "nut", "mxf", "gxf", "rm", "ivr", "wtv", "nsv", "nuv"),
    *("dv", "dhav", "ty", "lxf", "swf", "amv", "xmv", "dxa", "film_cpk", "ea", "thp", "vivo"),
    *("yuv4mpegpipe", "ivf", "obu", "av1", "h261", "h263", "h264", "hevc", "vvc", "evc", "m4v"),
    *("mpegvideo", "mjpeg", "mjpeg_2000", "smjpeg", "mpjpeg", "vc1", "vc1test", "dirac", "apv"),
    *("cavsvideo", "avs2", "avs3", "dnxhd", "roq", "smk", "bink", "flic", "fits", "ser", "cine"),
    *("jpegxl_anim", "r3d", "3dostr", "4xm", "mv", "mvi", "nistsphere", "pva", "rl2", "idcin"),
)
# Single pictures; each of these demuxers reads one file as it is given.
_PICTURES = tuple(
    f"{kind}_pipe"
    for kind in (
        *("png", "jpeg", "webp", "bmp", "tiff", "gif", "jpegxl", "jpegxs", "j2k", "jpegls", "qoi"),
        *("ppm", "pgm", "pbm", "pam", "pfm", "phm", "pgmyuv", "pgx", "dpx", "exr", "hdr", "psd"),
        *("pcx", "dds", "sgi", "sunrast", "xwd", "cri", "gem", "pictor", "qdraw", "vbn"),
    )
)
# Files of sound alone, from which a track may be copied.
_SOUNDS = (
    *("wav", "w64", "mp3", "flac", "aac", "aiff", "caf", "au", "ac3", "eac3", "dts", "amr", "ape"),
    *("tta", "wv", "tak", "truehd", "mlp", "loas", "latm", "opus", "spx", "voc", "oma", "dsf"),
)
FORMATS = (*_VIDEOS, *_PICTURES, *_SOUNDS)
LOSSLESS = ("ffv1", "ffvhuff", "huffyuv", "utvideo", "rawvideo", "png", "apng", "bmp", "tiff")
"""FFmpeg's names of codecs that keep every value."""
# What texts that name other files begin with.
_LISTS = (b"ffconcat", b"#EXTM3U", b"v=0", b"<MPD", b"<?xml", b"[playlist]", b"[Reference]")


def open_container(
    file: str | BinaryIO | BytesIO,
    name: str,
    *,
    form: str | None = None,
    options: Mapping[str, str] | None = None,
) -> InputContainer:
    """Open a "file:PATH" or a binary file from its beginning, if it is of a known format.

    `form` names a demuxer instead of leaving it to the content. No other file and no address is
    ever opened. Raises OSError for what the system does not allow, ValueError for the rest.
    """
    if not isinstance(file, str):
        file.seek(0)
    allowed = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(FORMATS) if form is None else form,
    }
    try:
        return av.open(
            file,
            "r",
            format=form,
            options={**(options or {}), **allowed},
            metadata_errors="replace",  # titles of old files are not UTF-8
        )
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EIO:  # a Matroska header cut off
            raise OSError(f"{name} cannot be read: {error.strerror}") from error
        if form is None and _is_transport_stream(file):  # too short for FFmpeg to be sure
            return open_container(file, name, form="mpegts", options=options)
        if _is_list(file):
            raise ValueError(
                f"{name} is a text that names other files (a playlist): give the video itself"
            ) from error
        raise ValueError(f"{name} is not a video, or its header is cut off or damaged") from error


def codec_named_in(path: Path) -> str:
    """FFmpeg's name of the codec of a file's pictures. OSError or ValueError where it has none."""
    with open_container(f"file:{path}", str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no pictures: give a video")
        return container.streams.video[0].codec_context.name


def _is_transport_stream(file: str | BinaryIO | BytesIO) -> bool:
    """Whether packets of 188 bytes begin as those of MPEG-TS do."""
    head = _head(file, 5 * 188)
    return len(head) > 188 and set(head[::188]) == {0x47}


def _is_list(file: str | BinaryIO | BytesIO) -> bool:
    return _head(file, 64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_LISTS)


def _head(file: str | BinaryIO | BytesIO, count: int) -> bytes:
    """The first bytes of a file."""
    if isinstance(file, str):
        with open(file.removeprefix("file:"), "rb") as opened:
            return opened.read(count)
    file.seek(0)
    return file.read(count)
