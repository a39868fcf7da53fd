"""Reference frames outside the network: kept as pictures, told apart by hashes, renewed at cuts.

A reference that is stored or given is an 8-bit picture on both sides, so that encoder and decoder
see the same values whatever the device.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from reeltok.files.hashes import hash_parts
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.tokenizer.streaming import SideInformation
from reeltok.tokens.record import Tokens
from reeltok.video.frames import unit_values
from reeltok.video.record import to_bytes, to_unit

START = "start"
SKIPS = ("skip", "skip_margin", "skip_after")
SETTINGS = {"policy": "policy", "reference_start": "start"} | {key: key for key in SKIPS}
"""Settings of tokens, and those of RefTokConfig."""
CUT, JUMP = 0.2, 2.5
"""A cut moves 16x16 thumbnails by more than CUT (mean difference, in [-1, 1]) from one frame to the
next, and JUMP times as far as any other step nearby. Of 276 pairs of 23 clips the nearest are 0.27
apart; fast motion reaches 0.39 within four frames, but evenly."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A frame "b c 1 h w" in [-1, 1] that encoder and decoder both know before they go on.

    It counts for those `clips` ("b", bool) of the batch, which forget what came before;
    `frame=None` leaves them without a reference. `start`: the clip itself begins with it.
    """

    frame: Tensor | None
    clips: Tensor
    start: bool = False

    def crop(self, rows: slice, columns: slice) -> "Reference":
        """The same for one tile of pixels."""
        if self.frame is None:
            return self
        return replace(self, frame=self.frame[..., rows, columns])


References = Mapping[int, Reference]
"""References by the frame (encoding) or step (decoding) before which they come."""
NO_REFERENCES: References = {}


def cut_references(references: References, cut: int) -> tuple[References, References]:
    """Those before position `cut`, and those from it on, counted from there."""
    early = {at: each for at, each in references.items() if at < cut}
    return early, {at - cut: each for at, each in references.items() if at >= cut}


def store_picture(x: Float[Tensor, "1 c 1 h w"], *, quality: int | None) -> UInt8[Tensor, " bytes"]:
    """A frame in [-1, 1] as the bytes of a WebP picture of `quality` 0 to 100; None is lossless."""
    picture = Image.fromarray(to_bytes(x)[0].cpu().numpy())
    buffer = io.BytesIO()
    lossless = quality is None
    picture.save(buffer, "WEBP", lossless=lossless, quality=75 if lossless else quality, method=6)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def restore_picture(
    data: Shaped[Tensor, "..."], size: tuple[int, int]
) -> Float[Tensor, "1 c 1 h w"]:
    """The frame of `store_picture`; ValueError for bytes of anything but such a picture."""
    try:
        raw = io.BytesIO(data.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        with Image.open(raw, formats=["WEBP"]) as picture:
            if (picture.height, picture.width) != size:  # before its pixels take memory
                raise ValueError(
                    f"it has {picture.height}x{picture.width} pixels where the clip has "
                    f"{size[0]}x{size[1]}"
                )
            frame = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"a stored reference frame is damaged, or another clip's ({error}): encode the clip "
            "again"
        ) from error
    return to_unit(frame.view(1, *size, 3))


def on_bytes(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
    """The same frames on the 256 levels of a picture, float32."""
    return torch.cat([to_unit(to_bytes(one[None])) for one in x.cpu()]).to(x.device)


def hash_frame(x: Float[Tensor, "b c 1 h w"]) -> str:
    """SHA-256, hex, of a frame's 8-bit values and shape."""
    pixels = (to_bytes(one[None]).cpu().contiguous().numpy().data for one in x)
    return hash_parts(chain([str(tuple(x.shape))], pixels))


def require_fit(reference: Tensor, x: Shaped[Tensor, "b c t h w"]) -> None:
    """ValueError unless `reference` is one frame, of the size and batch of `x`."""
    if reference.shape[2] != 1:
        raise ValueError(f"a reference is one frame, found {reference.shape[2]}: give x[:, :, :1]")
    if reference.shape[3:] != x.shape[3:]:
        raise ValueError(
            f"the reference has {reference.shape[3]}x{reference.shape[4]} pixels and the clip "
            f"{x.shape[3]}x{x.shape[4]}: give one of that size"
        )
    if len(reference) not in (1, len(x)):
        raise ValueError(f"{len(reference)} references were given for {len(x)} clips: give as many")


def find_cuts(
    before: Shaped[Tensor, "b c 1 h w"], block: Shaped[Tensor, "b c t h w"]
) -> Bool[Tensor, " b"]:
    """Which clips jump to another scene before or in the first half of `block`."""
    shown = torch.cat([thumbnails(before), thumbnails(block)], dim=1)
    moved = (shown[:, 1:] - shown[:, :-1]).abs().mean(dim=(2, 3, 4))
    early = moved[:, : -(-moved.shape[1] // 2)]
    jump, at = early.max(dim=1)
    others = moved.scatter(1, at[:, None], 0.0).amax(dim=1)
    return (jump > CUT) & (jump > JUMP * others)


def thumbnails(x: Shaped[Tensor, "b c t h w"]) -> Float[Tensor, "b t c 16 16"]:
    """Means over 16 x 16 areas of every frame, of bytes or values; few rows are read at once."""
    height, bands = x.shape[3], []
    for i in range(16):
        rows = unit_values(x[..., i * height // 16 : -(-(i + 1) * height // 16), :]).float()
        bands.append(F.adaptive_avg_pool3d(rows, (rows.shape[2], 1, 16)))
    return torch.cat(bands, dim=3).transpose(1, 2)


# What tokens keep: tensors named `reference.WHERE.CLIP`, WHERE being "start" or a token step.


@dataclass(frozen=True)
class StoredReference:
    """A reference as both sides will know it, and the tensors by which they do."""

    reference: Reference
    extras: Mapping[str, Tensor] = field(default_factory=dict)


def store_reference(
    x: Float[Tensor, "b c 1 h w"],
    clips: Bool[Tensor, " b"],
    where: str,
    *,
    quality: int | None,
) -> StoredReference:
    """A frame of each of `clips`, stored as a WebP picture of `quality` (None: lossless)."""
    frames, extras = torch.zeros_like(x, dtype=torch.float32), {}
    for clip in clips.nonzero().flatten().tolist():
        data = store_picture(x[clip : clip + 1], quality=quality)
        extras[f"reference.{where}.{clip}"] = data
        frames[clip] = restore_picture(data, (x.shape[3], x.shape[4]))[0]
    return StoredReference(Reference(frames, clips, start=where == START), extras)


def store_reset(clips: Bool[Tensor, " b"], where: str) -> StoredReference:
    """For clips that are reset and have no reference: pictures without bytes."""
    names = [f"reference.{where}.{clip}" for clip in clips.nonzero().flatten().tolist()]
    return StoredReference(
        Reference(None, clips), {name: torch.empty(0, dtype=torch.uint8) for name in names}
    )


def stored_clips(extras: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The clips of which something is kept, by WHERE."""
    found: dict[str, list[int]] = {}
    for name in extras:
        if name.startswith("reference."):
            place = re.fullmatch(rf"reference\.({START}|\d{{1,9}})\.(\d{{1,9}})", name)
            if place is None:
                raise ValueError(f"the tensor {name!r} is not a reference frame: leave it out")
            found.setdefault(place[1], []).append(int(place[2]))
    return found


def restore_reference(tokens: Tokens, where: str, clips: list[int]) -> Reference:
    """What `store_reference` or `store_reset` kept. ValueError for a picture that is damaged."""
    whole = where != START or {*clips} == {*range(tokens.batch)}
    if not whole or max(clips) >= tokens.batch:
        raise ValueError(
            f"reference frames are kept for clips {clips} of {tokens.batch}: the file is damaged, "
            "encode the clips again"
        )
    mask = torch.zeros(tokens.batch, dtype=torch.bool)
    mask[clips] = True
    kept = {clip: tokens.extras[f"reference.{where}.{clip}"] for clip in clips}
    if not any(data.numel() for data in kept.values()):
        return Reference(None, mask)
    size = (tokens.height, tokens.width)
    pictures = {clip: restore_picture(data, size)[0] for clip, data in kept.items()}
    frames = torch.zeros(tokens.batch, 3, 1, *size)  # only now: the size is that of pictures
    for clip, picture in pictures.items():
        frames[clip] = picture
    return Reference(frames, mask, start=where == START)


# Which references a clip has.


def settings_of(config: RefTokConfig) -> dict[str, str]:
    """What tokens say of how they are coded."""
    settings = {key: str(getattr(config, name)) for key, name in SETTINGS.items()}
    for key in SKIPS:
        if not (config.skip and getattr(config, key)):  # nor did files say so before there was one
            del settings[key]
    return settings


def choose_references(
    config: RefTokConfig,
    x: Shaped[Tensor, "b c t h w"],
    step: int,
    before: Shaped[Tensor, "b c 1 h w"] | None,
    reference: Tensor | None,
) -> SideInformation:
    """References for the frames of a run whose first token step is `step`, by the frame's number.

    Frames are bytes or values; large ones are not converted where no picture is made of them.
    `before` is the frame before the run, None where the clip begins. ValueError where a reference
    is needed and was not given, or does not fit.
    """
    settings = settings_of(config)
    kept: dict[int, StoredReference] = {}
    if config.start == "given":
        fits, settings["reference"] = given_reference(reference, x)
        kept = {0: StoredReference(Reference(fits, everyone(x), start=True))}
    elif before is None and config.start != "plain":
        quality = None if config.start == "lossless" else config.quality
        kept = {0: store_reference(unit_values(x[:, :, :1]), everyone(x), START, quality=quality)}
    alone = before is None and config.start != "given"  # frame 0 lies in no block
    blocks = range(int(alone), x.shape[2], config.block)
    where = step + int(alone and config.start == "plain")
    for number, at in enumerate(blocks):
        last, here = x[:, :, at - 1 : at] if at else before, where + number * config.steps
        if last is not None and here > 0:  # a block at step 0 follows a stored or given frame
            new = renew_reference(config, last, x[:, :, at : at + config.block], here)
            kept |= {} if new is None else {at: new}
    extras = {name: data for each in kept.values() for name, data in each.extras.items()}
    modes = len(x) * len(blocks) if config.cuts != "ignore" or config.refresh else 0
    return SideInformation(
        options={"references": {at: each.reference for at, each in kept.items()}},
        extras=extras,
        bits=modes + 8 * sum(data.numel() for data in extras.values()),
        settings=settings,
    )


def renew_reference(
    config: RefTokConfig,
    last: Shaped[Tensor, "b c 1 h w"],
    block: Shaped[Tensor, "b c t h w"],
    step: int,
) -> StoredReference | None:
    """What a block at token step `step` is reset to: where it is its turn, or after a cut."""
    where, number = f"{step:06d}", (step - config.opening) // config.steps
    if config.refresh and number > 0 and number % config.refresh == 0:
        return store_reset(everyone(block), where)
    if config.cuts == "ignore" or config.policy == "none":
        return None
    cut = find_cuts(last, block)
    if not cut.any():
        return None
    if config.cuts == "plain":
        return store_reset(cut, where)
    quality = None if config.start == "lossless" else config.quality
    return store_reference(unit_values(block[:, :, :1]), cut, where, quality=quality)


def recall_references(
    config: RefTokConfig,
    part: Tokens,
    reference: Float[Tensor, "b c 1 h w"] | None,
    *,
    begun: bool,
) -> dict[int, Reference]:
    """The references that `choose_references` chose, by the step of `part` before which they come.

    `begun`: other tokens came before, maybe of no step, since a stored first frame has none.
    ValueError where another reference is given than the tokens were made with, or none.
    """
    found: dict[int, Reference] = {}
    opens = part.step == 0 and not begun
    if config.start == "given":
        require_given_reference(reference, part)
        like = torch.empty(part.batch, 3, 1, part.height, part.width, device="meta")
        frame, _ = given_reference(reference, like)
        found[0] = Reference(frame, torch.ones(part.batch, dtype=torch.bool), start=True)
    elif reference is not None:
        raise ValueError(
            f"these tokens of {part.model!r} need no reference: leave reference=None, or encode "
            f"with one"
        )
    for where, clips in stored_clips(part.extras).items():
        at = 0 if where == START else int(where) - part.step
        if opens if where == START else 0 <= at < part.grid[0]:
            found[at] = restore_reference(part, where, clips)
    if config.start in ("lossless", "webp") and opens and 0 not in found:
        raise ValueError(
            f"these tokens of {part.model!r} lack the picture that their clip begins with "
            "(extras): keep it with them, or encode with under(start='plain')"
        )
    return found


def given_reference(reference: Tensor | None, x: Shaped[Tensor, "b c t h w"]) -> tuple[Tensor, str]:
    """The caller's reference on 8-bit levels for each clip of `x`, and its hash."""
    if reference is None:
        raise ValueError(
            "start='given' codes a clip after a frame that both sides have: give reference="
        )
    require_fit(reference, x)
    frame = on_bytes(reference)
    return frame.expand(len(x), -1, -1, -1, -1), hash_frame(reference)


def require_given_reference(reference: Tensor | None, part: Tokens) -> None:
    """ValueError unless `reference` is the one that the tokens were made with."""
    wanted = str(part.settings.get("reference", ""))
    if reference is None:
        raise ValueError(
            f"these tokens need a reference frame that they do not hold (SHA-256 "
            f"{wanted[:12]}): give reference="
        )
    found = hash_frame(reference)
    if found != wanted:
        raise ValueError(
            f"this is not the reference frame that these tokens were made with (SHA-256 "
            f"{found[:12]}, they need {wanted[:12]}): give that one"
        )


def everyone(x: Tensor) -> Bool[Tensor, " b"]:
    return torch.ones(len(x), dtype=torch.bool)


# Streams of tokens, in whole blocks.


def whole_blocks(parts: Iterable[Tokens], opening: int, steps: int) -> Iterator[Tokens]:
    """The parts of a stream cut again, so that each holds whole blocks of `steps` steps.

    ValueError where the last block is not complete.
    """
    held: Tokens | None = None
    for part in parts:
        held = part if held is None else Tokens.join([held, part])
        count, lead = held.grid[0], opening if held.step == 0 else 0
        whole = lead + (count - lead) // steps * steps
        if count and whole == count:
            yield held
            held = None
        elif 0 < whole < count:
            yield held.part(0, whole)
            held = held.part(whole, count)
    if held is not None and held.grid[0]:
        raise ValueError(
            f"these tokens end within a block of {steps} steps ({held.grid[0]} are left): give the "
            "whole clip"
        )
    if held is not None:
        yield held
