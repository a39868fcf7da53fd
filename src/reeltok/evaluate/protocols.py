"""How clips are made of videos before anyone is judged on them: the protocols, as data.

Published numbers disagree because protocols do (docs/protocols.md). So each is one frozen record
here; `clips` follows it to the letter, and a result holds it whole.
"""

from dataclasses import replace
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

PAPER_METRICS = ("psnr", "psnr-uint8", "ssim", "lpips-vgg", "lpips-alex", "fvd-i3d")
DEFAULT = "shared-eval"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Protocol:
    """Everything that decides what a number means: two results compare only under one protocol."""

    name: str
    version: int = 1
    data: str  # the set that numbers under this name are from
    source: str  # where the definition is published
    clips: int | None = None  # of the set; a larger set is sampled with seed 0; None: all
    frames: int | None = None  # of a clip; None: the whole video
    noncausal_frames: int | None = None  # of a clip for a tokenizer that is not causal
    seconds: float | None = None  # of a clip, at most
    fps: float | None = None  # None: native
    rate: Literal["resample", "stride"] = "resample"  # or every round(native / fps)-th frame
    window: Literal["first", "consecutive", "spread", "every", "whole"] = "first"
    windows: int = 1  # of each video, where they are spread over it
    groups_of: int | None = None  # a whole video is cut to 1 + k x this many frames
    short: Literal["fill", "skip"] = "fill"  # fewer frames: repeat the last one, or leave out
    size: int | None = None  # short side that frames are resized to; None: native
    enlarge: bool = True  # False: smaller frames stay as they are
    kernel: Literal["bilinear", "bicubic"] = "bilinear"  # antialiased
    crop: int | None = None  # centre crop of at most so many pixels a side; None: whole frames
    crops: int = 1  # of each window, spread along the long side
    smallest: int = 1  # pixels of the native short side below which a video is left out
    latent: Literal["mode", "sample"] = "mode"
    via_mp4: bool = False  # score what is read back from a uint8 mp4, not the tensors
    metrics: tuple[str, ...] = PAPER_METRICS
    fvd_frames: int | None = None  # parts that FVD cuts a clip into; None: the whole clip
    context_frames: int = 0  # that a generator sees; 0: reconstruction, or from nothing
    scored_size: int | None = None  # pixels a side that clips are resized to before features
    samples: int = 1  # predictions of each clip, the best of which counts
    repeats: int = 1  # of the whole measurement, for a mean and a deviation

    @property
    def of_made(self) -> "Protocol":
        """The same for videos that were generated: each is one clip, from its first frame on.

        A generator's frames are the clip's, whatever the rate of its file.
        """
        window: Literal["whole", "first"] = "whole" if self.window == "whole" else "first"
        return replace(self, window=window, windows=1, crops=1, fps=None)

    def is_rate(self, fps: float | None) -> bool:
        """Whether a rate in Hz is the one that is asked for; an unknown one is not doubted."""
        return not (fps and self.fps) or abs(fps - self.fps) <= 0.01 * self.fps

    def clip_frames(self, *, causal: bool = True) -> int | None:
        """Frames of a clip for a tokenizer of this kind; None for whole videos."""
        return self.frames if causal or self.noncausal_frames is None else self.noncausal_frames


_SHARED = Protocol(
    name="shared-eval",
    data="any videos of 17 frames and 240 pixels or more",
    source="this project",
    frames=17,
    short="skip",
    crop=256,
    smallest=240,
    metrics=(
        *("psnr", "psnr-uint8", "ssim", "ms-ssim", "lpips-alex", "detail", "flicker"),
        *("appearance", "fvd-i3d"),
    ),
)
_VIDTOK = Protocol(
    name="vidtok",
    data="MCL-JCV, 30 videos; WebVid-Val",
    source="VidTok, tables 1, 3 and 5; its script samples the KL latent (latent='sample')",
    frames=17,
    noncausal_frames=16,
    fps=30,
    rate="stride",
    window="consecutive",
    size=256,
    crop=256,
)
_UCF = Protocol(
    name="coordtok",
    data="UCF-101, 10,000 clips",
    source="CoordTok, table 1 and appendix B.1",
    clips=10_000,
    frames=128,
    size=128,
    kernel="bicubic",
    crop=128,
)
_BAIR = Protocol(
    name="bair",
    data="BAIR robot pushing, 256 test videos of 30 frames",
    source="MAGVIT, appendix: 25,600 predictions of 256 beginnings",
    clips=256,
    frames=16,
    fps=10,
    short="skip",
    context_frames=1,
    samples=100,
    repeats=4,
    metrics=("psnr", "ssim-grey", "lpips-vgg", "fvd-i3d", "fvd-styleganv"),
)
_ALL = (
    _SHARED,
    replace(
        _SHARED,
        name="shared-eval-whole",
        data="any videos",
        frames=None,
        window="whole",
        short="fill",
        crop=None,
        smallest=1,
    ),
    _VIDTOK,
    replace(
        _VIDTOK,
        name="vidtok-long",
        data="MCL-JCV",
        source="VidTok, table of its v1.1 models",
        frames=None,
        noncausal_frames=None,
        window="whole",
        groups_of=16,
        short="skip",
    ),
    _UCF,
    _BAIR,
    replace(
        _BAIR,
        name="bair-debiased",
        source="MAGVIT, its debiased BAIR protocol: all windows of a video, one prediction each",
        window="every",
        samples=1,
    ),
    replace(
        _UCF,
        name="ucf-cg",
        data="UCF-101, 10,000 generated clips, four times",
        source="MAGVIT and TATS, class-conditional generation; FVD and inception score",
        frames=16,
        repeats=4,
        metrics=("fvd-i3d", "fvd-styleganv"),
    ),
    Protocol(
        name="k600-fp",
        data="Kinetics-600, 50,000 clips, four times",
        source="MAGVIT, frame prediction",
        clips=50_000,
        frames=16,
        fps=25,
        window="spread",
        windows=2,
        size=128,
        crop=128,
        crops=3,
        context_frames=5,
        scored_size=64,
        repeats=4,
        metrics=("fvd-i3d", "fvd-styleganv"),
    ),
    Protocol(
        name="davis",
        data="DAVIS, 90 sequences of 24 fps, 480p",
        source="this project: no common protocol is published",
        clips=90,
        window="whole",
        size=480,
        enlarge=False,
    ),
    Protocol(
        name="davis-240",
        data="DAVIS, 90 sequences of 24 fps, at 240 pixels",
        source="this project: no common protocol is published",
        clips=90,
        window="whole",
        size=240,
        enlarge=False,
    ),
    Protocol(
        name="tokenbench",
        data="TokenBench, 500 videos",
        source="NVIDIA TokenBench",
        clips=500,
        seconds=10,
        window="whole",
        size=1080,
        enlarge=False,
        via_mp4=True,
        metrics=("psnr-uint8", "ssim-uniform7", "lpips-alex", "fvd-i3d"),
    ),
    replace(
        _UCF,
        name="ucf-128",
        data="UCF-101, 2,048 clips against 2,048",
        source="StyleGAN-V's FVD, as in CoordTok's table 2",
        clips=2048,
        metrics=("fvd-styleganv", "fvd-i3d"),
    ),
)
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name; ValueError lists the names there are."""
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
