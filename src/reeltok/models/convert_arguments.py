"""The arguments of VidTok's public classes, and of diffusers', as a configuration of ours.

What they have and we do not is refused, unless it is of training alone (`dropout`, `use_checkpoint`
and the like).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from reeltok.configuration import parse
from reeltok.files.parsing import first_error
from reeltok.models.vidtok.network import VidTokConfig
from reeltok.nn.quantizers import FSQConfig, GaussianConfig

WHAT = "the arguments of VidTok"
FORBID = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Strict(), Field(ge=1, le=2**16)]
Places = tuple[Annotated[int, Strict()], ...]
Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict()]
CODES = 8  # levels of each channel in diffusers


@dataclass(frozen=True, kw_only=True, config=FORBID)
class VidTokShape:
    """What the public classes and diffusers' have in common."""

    in_channels: Count
    ch: Count
    ch_mult: Annotated[tuple[Count, ...], Field(min_length=1)]
    z_channels: Count
    num_res_blocks: Annotated[int, Strict(), Field(ge=0, le=256)]
    spatial_ds: Places | None = None
    spatial_us: Places | None = None
    tempo_ds: Places | None = None
    tempo_us: Places | None = None
    dropout: Number = 0.0


@dataclass(frozen=True, kw_only=True, config=FORBID)
class VidTokArguments(VidTokShape):
    """The arguments of the public encoder and decoder, which have the same."""

    out_ch: Count | None = None
    double_z: Flag | None = None
    norm_type: Literal["layernorm", "groupnorm"] = "groupnorm"
    interpolation_mode: Literal["nearest", "trilinear"] = "nearest"
    init_pad_mode: Literal["replicate"] = "replicate"
    time_downsample_factor: Count | None = None
    resamp_with_conv: Literal[True] = True
    tanh_out: Literal[False] = False
    give_pre_end: Literal[False] = False
    use_checkpoint: Flag = False
    fix_encoder: Flag = False
    fix_decoder: Flag = False


@dataclass(frozen=True, kw_only=True, config=FORBID)
class DiffusersArguments(VidTokShape):
    """The config.json of diffusers' `AutoencoderVidTok`."""

    out_channels: Count | None = None
    double_z: Flag = True
    regularizer: Literal["kl", "fsq"]
    codebook_size: Annotated[int, Strict()] = 262144
    is_causal: Flag


@dataclass(frozen=True, kw_only=True, config=FORBID)
class GaussianArguments:
    """The arguments of the public `DiagonalGaussianRegularizer`; encoding here gives the mode."""

    sample: Flag = True


@dataclass(frozen=True, kw_only=True, config=FORBID)
class FSQArguments:
    """The arguments of the public `FSQRegularizer`."""

    levels: Annotated[tuple[Annotated[int, Strict()], ...], Field(min_length=1)]
    dim: Count | None = None
    num_codebooks: Literal[1] = 1
    keep_num_codebooks_dim: Literal[False] | None = None
    scale: Number | None = None
    entropy_loss_weight: Number = 0.1
    entropy_loss_annealing_steps: Annotated[int, Strict()] = 2000
    entropy_loss_annealing_factor: Number = 3
    commitment_loss_weight: Number = 0.25
    diversity_gamma: Number = 1.0


@dataclass(frozen=True, kw_only=True, config=FORBID)
class Part:
    """A class and its arguments; in a file that is not resolved, text that points to others."""

    target: str
    params: dict[str, Any] | str | None = None


@dataclass(frozen=True, kw_only=True, config=FORBID)
class Parts:
    """What the public YAML files say of a network; a decoder has the encoder's arguments."""

    encoder: Part
    decoder: Part | str | None = None
    regularizer: Part
    engine: str | None = None


def vidtok_config(arguments: Mapping[str, Any]) -> VidTokConfig:
    """The configuration that the public constructor's arguments describe.

    Either the three parts of the public YAML files (`encoder`, `decoder`, `regularizer`, each with
    `target` and `params`), or the flat config.json of diffusers' `AutoencoderVidTok`. ValueError in
    one sentence for what they do not have, and for what no network of ours has.
    """
    try:
        return (_from_yaml if "encoder" in arguments else _from_diffusers)(arguments)
    except ValueError as error:
        said = first_error(error)
        raise ValueError(said if said.startswith(WHAT) else f"{WHAT}: {said}") from error


def _from_yaml(arguments: Mapping[str, Any]) -> VidTokConfig:
    parts = parse(dict(arguments), WHAT, Parts)
    target = parts.encoder.target
    if target.rpartition(".")[2] not in ("EncoderCausal3DPadding", "Encoder3D"):
        raise ValueError(
            f"encoder.target={target!r} is unknown: give EncoderCausal3DPadding or Encoder3D"
        )
    given = parse(_both(parts), WHAT, VidTokArguments)
    causal, second = "Causal" in target, "_v1_1" in target
    if given.interpolation_mode == "trilinear" and not (causal and second):
        raise ValueError(
            f"interpolation_mode='trilinear' is of model_3dcausal_v1_1 alone, found {target!r}"
        )
    quantizer = _quantizer(parts.regularizer, given.z_channels)
    _require_same(given.in_channels, given.out_ch, given.double_z, quantizer)
    config = _values(
        given,
        edge="both" if not causal else "past-first" if second else "past-zeros",
        upsampling=given.interpolation_mode,
        groups=32 if given.norm_type == "groupnorm" else None,
        quantizer=quantizer,
    )
    if given.time_downsample_factor not in (None, config.factors[0]):
        raise ValueError(
            f"time_downsample_factor={given.time_downsample_factor}, but tempo_ds and spatial_ds "
            f"make {config.factors[0]}: give both the same"
        )
    return config


def _both(parts: Parts) -> dict[str, Any]:
    """The arguments of the encoder and the decoder, which must agree where both have one."""
    encoder, decoder = parts.encoder, parts.decoder
    if not isinstance(encoder.params, dict):
        raise ValueError(f"encoder.params={encoder.params!r}: give the arguments themselves")
    if decoder is None or isinstance(decoder, str):
        decoder = Part(target=decoder or encoder.target.replace("Encoder", "Decoder"))
    if decoder.target != encoder.target.replace("Encoder", "Decoder"):
        raise ValueError(
            f"decoder.target={decoder.target!r} is no decoder for {encoder.target!r}: give the one "
            "of the same release"
        )
    more = decoder.params or {}
    if isinstance(more, str):
        if not more.startswith("${"):
            raise ValueError(f"decoder.params={more!r}: give the arguments themselves")
        more = {}
    for name, value in more.items():
        if name in encoder.params and encoder.params[name] != value:
            raise ValueError(
                f"{name}={encoder.params[name]!r} of the encoder, but {value!r} of the decoder: "
                "give both the same"
            )
    return encoder.params | more


def _quantizer(regularizer: Part, channels: int) -> GaussianConfig | FSQConfig:
    target, what = regularizer.target, f"{WHAT}: regularizer"
    params = {} if regularizer.params is None else regularizer.params
    if not isinstance(params, dict):
        raise ValueError(f"regularizer.params={params!r}: give the arguments themselves")
    if target.endswith("DiagonalGaussianRegularizer"):
        parse(params, what, GaussianArguments)
        return GaussianConfig(channels=channels)
    if not target.endswith("FSQRegularizer"):
        raise ValueError(
            f"regularizer.target={target!r} is unknown: give DiagonalGaussianRegularizer or "
            "FSQRegularizer"
        )
    given = parse(params, what, FSQArguments)
    if len(given.levels) != channels or given.dim not in (None, channels):
        raise ValueError(
            f"z_channels={channels}, but the regularizer has levels={given.levels} and "
            f"dim={given.dim}: give a level for each channel"
        )
    return FSQConfig(
        levels=given.levels,
        entropy=given.entropy_loss_weight,
        entropy_steps=given.entropy_loss_annealing_steps,
        entropy_start=given.entropy_loss_annealing_factor,
        commitment=given.commitment_loss_weight,
    )


def _from_diffusers(arguments: Mapping[str, Any]) -> VidTokConfig:
    own = {key: value for key, value in arguments.items() if not str(key).startswith("_")}
    given = parse(own, WHAT, DiffusersArguments)
    channels, fsq = given.z_channels, given.regularizer == "fsq"
    # diffusers rounds the logarithm down.
    if fsq and not CODES**channels <= given.codebook_size < CODES ** (channels + 1):
        raise ValueError(
            f"codebook_size={given.codebook_size}, but z_channels={channels} of {CODES} levels "
            f"make {CODES ** min(channels, 20)}: give both the same"
        )
    quantizer = FSQConfig(levels=(CODES,) * channels) if fsq else GaussianConfig(channels=channels)
    _require_same(given.in_channels, given.out_channels, given.double_z, quantizer)
    return _values(
        given,
        # diffusers' causal class is the second release: it repeats frame 0 and interpolates.
        edge="past-first" if given.is_causal else "both",
        upsampling="trilinear" if given.is_causal else "nearest",
        quantizer=quantizer,
    )


def _require_same(
    colours: int, out: int | None, double: bool | None, quantizer: GaussianConfig | FSQConfig
) -> None:
    """ValueError for frames of other channels than the clip, and a spread that nothing reads."""
    if out not in (None, colours):
        raise ValueError(f"{out} channels of frames made from {colours}: give both the same")
    gaussian = isinstance(quantizer, GaussianConfig)
    if double not in (None, gaussian):
        raise ValueError(
            f"double_z={double}, but a {quantizer.kind} regularizer needs {gaussian}: give that"
        )


def _values(given: VidTokShape, **ours: Any) -> VidTokConfig:
    levels = len(given.ch_mult)
    space_down = tuple(range(levels - 1)) if given.spatial_ds is None else given.spatial_ds
    space_up = tuple(range(1, levels)) if given.spatial_us is None else given.spatial_us
    time_down = (levels - 2, levels - 3) if given.tempo_ds is None else given.tempo_ds
    time_up = (1, 2) if given.tempo_us is None else given.tempo_us
    return VidTokConfig(
        width=given.ch,
        multipliers=given.ch_mult,
        blocks=(given.num_res_blocks,) * levels,
        space_down=space_down,
        space_up=space_up,
        time_down=tuple(sorted(set(time_down) & set(space_down))),
        time_up=tuple(sorted(set(time_up) & set(space_up))),
        colours=given.in_channels,
        **ours,
    )
