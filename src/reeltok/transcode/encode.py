"""A video to a .reel file, in memory that does not grow with it."""

import time
import warnings
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reeltok import zoo
from reeltok.data.clip import Clip
from reeltok.devices import matmul
from reeltok.files.places import PIPE
from reeltok.models.presets import PRESETS
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import SETTINGS, settings_of
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.inputs import made_by
from reeltok.tokenizer.packing import packing_for
from reeltok.tokenizer.refinement import REFINEMENT
from reeltok.tokenizer.streaming import aspect_of
from reeltok.tokens.reel import Reel, ReelWriter
from reeltok.transcode.facts import ReelFacts, reel_facts
from reeltok.transcode.memory import bounded, whole_groups_of
from reeltok.transcode.need import Workload
from reeltok.transcode.options import USUAL, WHOLE, Coding, Cut, OnProgress
from reeltok.video.record import Stream, stream

UNSAID = ("quality", "cuts", "refresh")
"""Of how the weights of a RefTok are used, what its tokens do not say: `encode_file` does."""
DECIDING = ("tile", "dtype", "window", "fingerprint", "raw", *REFINEMENT, *SETTINGS, *UNSAID)
"""Settings of a file that was made otherwise where they are others."""


@dataclass(frozen=True, kw_only=True)
class EncodedFile:
    """What `encode_file` wrote, in how many seconds; `reel` is None for standard output.

    `damaged` frames could not be decoded and are left out.
    """

    source: str
    target: str
    frames: int
    damaged: int
    reel: ReelFacts | None
    seconds: float

    @property
    def rate(self) -> float:
        """Frames per second of work."""
        return self.frames / self.seconds


def encode_file(
    tokenizer: Tokenizer,
    source: str | Path | Clip,
    target: str | Path,
    *,
    cut: Cut = WHOLE,
    coding: Coding = USUAL,
    on_progress: OnProgress | None = None,
) -> EncodedFile:
    """Write the tokens of a video to the .reel file `target`; a few frames are in memory at a time.

    `source` is whatever `video.stream` opens ("-": standard input), or a clip that was found.
    `target` "-" is standard output; a file stands there when it is whole, and one that was there
    is replaced. `cut` says which frames are taken, `coding` how many at a time, and how tokens
    are stored. Notes on the video are warnings.

    Raises FileNotFoundError or ValueError for what is not a video, ValueError if it is damaged (and
    `cut` does not say to go on) or the tokenizer does not take its frames, OSError where nothing
    can be written.
    """
    began = time.monotonic()
    settings = {**own_settings(tokenizer, coding), **matmul_setting(tokenizer)}
    packing = packing_for(tokenizer) if coding.pack else None
    with (
        open_video(source, cut) as video,
        ReelWriter(target, dtype=getattr(torch, coding.latents), packing=packing) as writer,
    ):
        job = Workload(work="encode", size=(video.height, video.width))
        bounds = bounded(tokenizer, coding, job)
        video.chunk, tile = bounds.chunk, bounds.tile
        settings |= source_settings(video, cut)
        warn_all(video.notes)
        if video.sound:
            warn_all(["sound is not part of tokens: `reeltok decode --audio-from VIDEO` copies it"])
        frames = whole_groups_of(video, tokenizer, tile)
        for part in tokenizer.stream_encode(frames, window=coding.chunk, tile=tile):
            writer.write(part.with_(settings={**part.settings, **settings}))
            if on_progress is not None:
                on_progress(writer.frames, video.frames)
    seconds = time.monotonic() - began
    return EncodedFile(
        source=name_of(source),
        target=str(target),
        frames=writer.frames,
        damaged=video.damaged,
        reel=None if str(target) == PIPE else reel_facts(target),
        seconds=seconds,
    )


def open_video(source: str | Path | Clip, cut: Cut) -> AbstractContextManager[Stream]:
    """A video, opened as by `video.stream`; the errors are those."""
    if isinstance(source, Clip):
        return source.stream(**asdict(cut))
    return stream(source, **asdict(cut))


def name_of(source: str | Path | Clip) -> str:
    """What a source is called in records."""
    return source.place if isinstance(source, Clip) else str(source)


def warn_all(notes: "tuple[str, ...] | list[str]") -> None:
    """Say each of these on the way."""
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=3)


def own_settings(tokenizer: Tokenizer, coding: Coding) -> dict[str, Any]:
    """What is added to the settings of tokens, where it is not the default."""
    dtype = str(tokenizer.dtype).removeprefix("torch.")
    settings = tokenizer.used | unsaid_use(tokenizer)
    settings |= {} if coding.tile is None else {"tile": coding.tile}
    return settings if dtype == "float32" else {**settings, "dtype": dtype}


def unsaid_use(tokenizer: Tokenizer) -> dict[str, Any]:
    """The values of UNSAID that tokens are made with, but for those of a preset as it comes."""
    used = tokenizer.spec.used
    found = {name: used[name] for name in UNSAID if used.get(name) is not None}
    if found and tokenizer.name in PRESETS:
        _, usual = zoo.described(zoo.preset_folder(tokenizer.name) or tokenizer.name)
        found = {} if all(used[name] == getattr(usual, name) for name in UNSAID) else found
    return found


def matmul_setting(tokenizer: Tokenizer) -> dict[str, str]:
    """How products were computed, where it is not the usual way: rounding may decide an id."""
    usual = tokenizer.device.type != "cpu" or tokenizer.dtype != torch.float32
    return {} if usual or matmul() == "mkl" else {"matmul": matmul()}


def source_settings(video: Stream, cut: Cut) -> dict[str, str]:
    """What the settings of tokens say of what they are made of, so that it is told from others."""
    raw = {} if cut.raw is None else {"raw": cut.raw}
    return {"fingerprint": video.fingerprint(), **raw}


def same_moments(reel: Reel, video: Stream) -> bool:
    """Whether the frames of a file are shown when those of a video are."""
    if reel.times is None or video.times is None:
        return reel.times is None and video.times is None
    alike = reel.times.shape == video.times.shape and reel.last == video.last
    return alike and torch.allclose(reel.times, video.times.double(), atol=1e-6)


def deciding_settings(
    tokenizer: Tokenizer, reel: Reel, video: Stream, *, cut: Cut, coding: Coding
) -> dict[str, Any]:
    """The settings of DECIDING that `encode_file` would give tokens, as far as `reel` is of a
    version that says them."""
    spec, said = tokenizer.spec, reel.settings
    window = spec.window_for(coding.chunk or (16 if spec.streams else video.frames))
    found = own_settings(tokenizer, coding) | ({"window": window} if window else {})
    found |= source_settings(video, cut) if "fingerprint" in said else {}
    if isinstance(tokenizer, RefTok) and "policy" in said:
        found |= settings_of(tokenizer.config)
    unknown = "cuts" not in said and tokenizer.name not in PRESETS
    return {name: value for name, value in found.items() if not (unknown and name in UNSAID)}


def is_encoded(
    tokenizer: Tokenizer,
    source: str | Path | Clip,
    target: str | Path,
    *,
    cut: Cut = WHOLE,
    coding: Coding = USUAL,
) -> bool:
    """Whether `target` is a whole .reel file that `encode_file` would make again.

    A file of an earlier version does not say what it is made of, and may be of any source. Raises
    FileNotFoundError where there is no `target`.
    """
    try:
        with Reel(target) as reel, open_video(source, cut) as video:
            deciding = {name: reel.settings[name] for name in DECIDING if name in reel.settings}
            packed = reel.about.packing and reel.about.packing.model
            return (
                deciding == deciding_settings(tokenizer, reel, video, cut=cut, coding=coding)
                and packed == (packing_for(tokenizer).hash if coding.pack else None)
                and (reel.vocabulary is not None or reel.dtype == getattr(torch, coding.latents))
                and reel.model == tokenizer.name
                and made_by(reel.weights, tokenizer)
                and (reel.frames, reel.fps) == (video.frames, video.fps)
                and same_moments(reel, video)
                and (reel.height, reel.width) == (video.height, video.width)
                and aspect_of(reel.settings) == video.aspect
                and reel.damaged == video.damaged
                and reel.settings.get("start", 0.0) == video.start
            )
    except ValueError:  # not a .reel file, or damaged
        return False
