"""Raw pictures without a header (.yuv): what the file does not say has to be said beside it."""

import re
from dataclasses import dataclass

import av
from av.container import InputContainer

from reeltok.video.formats import open_container
from reeltok.video.images import kind_of
from reeltok.video.inputs import Input

# Names that such files go by; whatever has another name may be raw as well, if it is said so.
RAW = (
    ".yuv",
    ".rgb",
    ".bgr",
    ".raw",
    ".i420",
    ".yv12",
    ".nv12",
    ".nv21",
    ".uyvy",
    ".yuyv",
    ".gray",
)
_CONTAINERS = (b"\x1a\x45\xdf\xa3", b"RIFF", b"GIF8", b"OggS", b"FLV\1", b"YUV4MPEG2")
_FORM = re.compile(r"(\d+)x(\d+):(\d+(?:\.\d+)?|\d+/0*[1-9]\d*):(\w+)")
_NAMED = re.compile(r"(?<!\d)(\d{2,5})x(\d{2,5})(?!\d)(?:[_-](\d{1,3})(?!\d|x))?")


@dataclass(frozen=True, kw_only=True)
class Raw:
    """How raw pictures are laid out: pixels, pictures per second, and FFmpeg's pixel format."""

    width: int
    height: int
    fps: str
    layout: str

    @classmethod
    def of(cls, text: str) -> "Raw":
        """What "96x64:25:yuv420p" says: width x height, as in names of such files."""
        found = _FORM.fullmatch(text) if isinstance(text, str) else None
        if not found or not (int(found[1]) and int(found[2])) or not re.search("[1-9]", found[3]):
            raise ValueError(
                f"raw={text!r} is not understood: write WIDTHxHEIGHT:FPS:LAYOUT, "
                "such as 1920x1080:25:yuv420p"
            )
        if not _is_layout(found[4]):
            raise ValueError(
                f"raw={text!r} names no pixel format of FFmpeg: usual ones are yuv420p, yuv422p, "
                "yuv444p, yuv420p10le, nv12, rgb24, gray"
            )
        width, height, fps, layout = found.groups()
        return cls(width=int(width), height=int(height), fps=fps, layout=layout)

    def open(self, taken: Input) -> InputContainer:
        """The input as FFmpeg's raw video. ValueError unless it is a whole number of pictures."""
        head = taken.head()
        if kind_of(head) or head.startswith(_CONTAINERS) or head[4:8] in (b"ftyp", b"moov"):
            raise ValueError(f"{taken.name} is a video or a picture, not raw: leave out raw")
        options = {
            "video_size": f"{self.width}x{self.height}",
            "pixel_format": self.layout,
            "framerate": self.fps,
        }
        try:
            container = open_container(taken.file, taken.name, form="rawvideo", options=options)
        except ValueError as error:
            raise ValueError(
                f"{taken.name} cannot be read as raw pictures of {self.width}x{self.height} in "
                f"{self.layout}: check raw"
            ) from error
        each = next(container.demux(video=0)).size
        if not each or taken.size() % each:
            container.close()
            raise ValueError(
                f"{taken.name} has {taken.size():,} bytes, which is not a whole number of pictures "
                f"of {self.width}x{self.height} in {self.layout}: check raw"
            )
        container.seek(0)
        return container


def _is_layout(name: str) -> bool:
    try:
        return bool(av.VideoFormat(name).components)  # those of graphics cards have none
    except ValueError:
        return False


def check_named(taken: Input) -> None:
    """ValueError that says what is missing, where a name says that pictures are raw."""
    if taken.suffix not in RAW:
        return
    found = _NAMED.search(taken.name.rpartition("/")[2])
    example = (
        f"{found[1]}x{found[2]}:{found[3] or 25}:yuv420p" if found else "WIDTHxHEIGHT:FPS:yuv420p"
    )
    raise ValueError(
        f"{taken.name} is raw video, which does not say its size, rate and pixel format: "
        f"give `raw={example!r}`"
    )
