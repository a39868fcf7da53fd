"""The colour tags that travel with a video, by their codes in ITU-T H.273 (FFmpeg's are the same).

Without FFmpeg, so that the header of a .reel file is read in a moment.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import av

UNTAGGED = 2  # "unspecified", in all three tables
RGB = 0  # matrix "identity": the samples are red, green and blue already
RANGES = {"limited": 1, "full": 2}  # FFmpeg's AVCOL_RANGE_MPEG and AVCOL_RANGE_JPEG
BT601 = {5: "BT.601 (625 lines)", 6: "BT.601 (525 lines)"}
NAMES: dict[str, dict[int, str]] = {
    "matrix": {RGB: "RGB", 1: "BT.709", 9: "BT.2020", **BT601},
    "primaries": {1: "BT.709", 9: "BT.2020", 12: "Display P3", **BT601},
    "transfer": {1: "BT.709", 6: "BT.601", 8: "linear", 13: "sRGB", 14: "BT.2020 (10 bits)"}
    | {16: "PQ (HDR)", 18: "HLG (HDR)"},
}
"""What people call the codes that they meet (H.273, tables 2 to 4)."""


def name_code(tag: str, code: int) -> str | None:
    """A code of `tag`, one of NAMES, for people; None where it means "not tagged"."""
    if code == UNTAGGED:
        return None
    name = NAMES[tag].get(code)
    return f"code {code} of H.273" if name is None else f"{name}, code {code}"


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Colour tags by their ITU-T H.273 codes (2 = not tagged); None = range not tagged."""

    matrix: int = UNTAGGED
    primaries: int = UNTAGGED
    transfer: int = UNTAGGED
    range: Literal["limited", "full"] | None = None

    @classmethod
    def of(cls, frame: "av.VideoFrame") -> "Colour":
        """The tags of a decoded frame."""
        named = {code: name for name, code in RANGES.items()}
        rgb = frame.format.is_rgb or frame.format.has_palette
        return cls(
            matrix=RGB if rgb else int(frame.colorspace),
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            range=named.get(int(frame.color_range)),  # type: ignore[arg-type]
        )

    def matrix_for(self, height: int) -> int:
        """The YUV matrix to convert with: the tagged one, else BT.601 below 720 lines or BT.709."""
        if self.matrix in (RGB, UNTAGGED):
            return 6 if height < 720 else 1
        return self.matrix

    def as_yuv(self) -> "Colour":
        """The tags to write on YUV: pictures that came as RGB get those of HD video."""
        if self.matrix != RGB:
            return self
        return replace(
            self,
            matrix=1,
            primaries=1 if self.primaries == UNTAGGED else self.primaries,
            transfer=1 if self.transfer == UNTAGGED else self.transfer,
            range="limited",
        )


MADE = Colour(matrix=RGB, range="full")  # pictures that came as numbers, not out of a file
