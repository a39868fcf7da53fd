"""The packets of a video stream: which of them are pictures, and time stamps that run on.

The survey and the decoding go through the same packets, so that both see the same time stamps.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from reeltok.video.images import jpegs_are_whole
from reeltok.video.remarks import PROGRESSIVE

SEEKS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # these go to a keyframe and back exactly
_BROADCAST = {"mpegts", "mpeg"}  # recordings whose clock may be set anew at any packet
_PICTURE = b"\0\0\1\xb6"  # start code of a picture in MPEG-4
_UNCODED = 19  # bytes of such a picture at most that says nothing; FFmpeg's MAX_NVOP_SIZE
_LEAP = 10.0  # seconds forward that are a new clock, not a gap; FFmpeg's -dts_delta_threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A packet on its way, whose stamps were moved by `shift` of their units.

    `shown`: it is a picture that is to be shown. `joins`: it is the first of another recording that
    was appended.
    """

    packet: av.Packet
    shown: bool
    joins: bool
    shift: int


@dataclass(frozen=True, kw_only=True)
class Join:
    """Where another recording was appended, for what goes with the video.

    `at`: the byte of its first packet; `begins`: the stamp of that, in seconds, once its clock is
    moved by `shift` seconds.
    """

    at: int
    begins: float
    shift: float


def _is_shown(packet: av.Packet, before: av.Packet | None, stream: VideoStream) -> bool:
    if not packet.size or packet.is_discard:  # the end, a repeat in avi; cut away by an edit
        return False
    if stream.codec.name == "vp8":
        return bool(bytes(packet)[0] & 0x10)
    if stream.codec.name != "mpeg4" or packet.size > _UNCODED:
        return True
    # A packet of two pictures is followed by an empty one, for which FFmpeg gives the second.
    packed = before is not None and bytes(before).count(_PICTURE) > 1
    return packed or _is_coded(bytes(packet), stream.codec_context.extradata or b"")


def _is_coded(data: bytes, header: bytes) -> bool:
    """Whether a picture of MPEG-4 is more than "as the one before" (14496-2, vop_coded)."""
    found = re.search(rb"\x00\x00\x01[\x20-\x2f]", header)
    if found is None or _PICTURE not in data:
        return True
    layer = _bits(header[found.end() :])
    at = 9 + (8 if layer[9] == "1" else 1)  # kind of object; its version and priority
    version = layer[10:14] if layer[9] == "1" else ""
    at += 4 + 16 * (layer[at : at + 4] == "1111")  # shape of a pixel
    at += 1 + (4 + 79 * int(layer[at + 4]) if layer[at] == "1" else 0)  # what a decoder must hold
    at += 3 + 4 * (layer[at : at + 2] == "11" and version not in ("", "0001"))  # shape of pictures
    times = max(1, (int(layer[at : at + 16], 2) - 1).bit_length())
    picture = _bits(data.partition(_PICTURE)[2])
    seconds = picture.find("0", 2)  # ones, and the zero that ends them; then mark, time, mark
    return picture[seconds + 1 + 1 + times + 1 :][:1] != "0"


def _bits(data: bytes) -> str:
    return f"{int.from_bytes(data[:32].ljust(32, bytes(1))):0256b}"


def packets_from(container: InputContainer, stream: VideoStream) -> Iterator[Arrival]:
    """All packets from here, the flushing one included, with time stamps that run on.

    Where two recordings were joined the clock begins again: from there all stamps are moved, so
    that the second follows the first.
    """
    assert stream.time_base is not None
    leap = _LEAP / float(stream.time_base)
    moves = container.format.name not in SEEKS
    broadcast = container.format.name in _BROADCAST
    shift, step, last, before = 0, 0, None, None
    for packet in container.demux(stream):
        joins, shown = False, _is_shown(packet, before, stream)
        if packet.size and packet.dts is not None and moves:
            stamp = packet.dts + shift
            anew = broadcast and packet.is_keyframe and last is not None and stamp > last + leap
            if last is not None and (stamp < last or anew):
                shift += last + step - stamp
                stamp, joins = last + step, True
            step = packet.duration or (step if last is None or joins else stamp - last)
            last = stamp
        if shift and packet.size:
            packet.dts = None if packet.dts is None else packet.dts + shift
            packet.pts = None if packet.pts is None else packet.pts + shift
        yield Arrival(packet=packet, shown=shown, joins=joins, shift=shift)
        before = packet


def joins_in(container: InputContainer) -> list[Join]:
    """The recordings that were appended to the first, by the packets of the video.

    `container` is left at its end. Formats that say where each packet belongs have none.
    """
    if container.format.name in SEEKS or not container.streams.video:
        return []
    stream, found = container.streams.video[0], list[Join]()
    assert stream.time_base is not None
    tick = float(stream.time_base)
    with suppress(av.FFmpegError):  # the rest is damaged
        for arrival in packets_from(container, stream):
            packet = arrival.packet
            if arrival.joins and packet.dts is not None and packet.pos is not None:
                begins, shift = packet.dts * tick, arrival.shift * tick
                found.append(Join(at=packet.pos, begins=begins, shift=shift))
    return found


def is_whole(packet: av.Packet, stream: VideoStream) -> bool:
    """Whether a packet holds its picture to the end, as far as FFmpeg or the data say."""
    if packet.is_corrupt:
        return False
    if stream.codec.name == "mjpeg":  # a JPEG image ends with a marker
        return jpegs_are_whole(bytes(packet))
    return True


def two_fields(stream: VideoStream) -> float:
    """Ticks of a frame whose two fields may be packets of their own (H.264), or 0."""
    context: Any = stream.codec_context
    interlaced = (
        context.field_order > PROGRESSIVE and stream.codec.name == "h264" and context.framerate
    )
    assert stream.time_base is not None
    return float(1 / context.framerate / stream.time_base) if interlaced else 0.0


def declared_end(stream: VideoStream) -> float:
    """Seconds at which a Matroska track says that it ends, or 0."""
    said = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    hours, minutes, seconds = map(float, said.groups()) if said else (0.0, 0.0, 0.0)
    return 3600 * hours + 60 * minutes + seconds
