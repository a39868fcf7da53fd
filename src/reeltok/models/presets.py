"""Every named configuration, as data: `PRESETS[name]` is (family, configuration).

VidTok's names, channels, factors and levels are those of its released checkpoints (README of
microsoft/VidTok); `_v1_1` names the second release. Ablations are table 2 of the paper.
"""

from dataclasses import dataclass, replace
from typing import Any

from reeltok.models.coordtok import sizes as coordtok
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.vidtok.stages import VidTokConfig
from reeltok.nn.quantizers import FSQConfig, GaussianConfig, LFQConfig, VQConfig

FACTORS: dict[str, dict[str, Any]] = {
    "488": {},
    "288": {"time_down": (1,), "time_up": (2,)},
    "444": {"space_down": (1, 2), "space_up": (1, 2)},
    "888": {"time_down": (0, 1, 2), "time_up": (1, 2, 3)},
    "41616": {
        "multipliers": (1, 2, 4, 4, 4),
        "blocks": (2, 2, 2, 2, 2),
        "space_down": (0, 1, 2, 3),
        "space_up": (1, 2, 3, 4),
        "time_down": (2, 3),
        "time_up": (1, 2),
    },
}
SECOND_RELEASE: dict[str, Any] = {"edge": "past-first", "upsampling": "trilinear"}


def _vidtok(quantizer: Any, factors: str, **values: Any) -> VidTokConfig:
    return VidTokConfig(quantizer=quantizer, **FACTORS[factors], **values)


def _kl(channels: int, factors: str = "488", **values: Any) -> VidTokConfig:
    return _vidtok(GaussianConfig(channels=channels), factors, **values)


def _fsq(digits: int, factors: str = "488", **values: Any) -> VidTokConfig:
    return _vidtok(FSQConfig(levels=(8,) * digits), factors, **values)


VIDTOK: dict[str, VidTokConfig] = {
    "vidtok_kl_causal_488_4chn": _kl(4),
    "vidtok_kl_causal_488_8chn": _kl(8),
    "vidtok_kl_causal_488_16chn": _kl(16),
    "vidtok_kl_causal_41616_4chn": _kl(4, "41616"),
    "vidtok_kl_causal_288_8chn": _kl(8, "288"),
    "vidtok_kl_causal_444_4chn": _kl(4, "444"),
    "vidtok_kl_noncausal_488_4chn": _kl(4, edge="both"),
    "vidtok_kl_noncausal_488_16chn": _kl(16, edge="both"),
    "vidtok_kl_noncausal_41616_4chn": _kl(4, "41616", edge="both"),
    "vidtok_kl_noncausal_41616_16chn": _kl(16, "41616", edge="both"),
    "vidtok_fsq_causal_488_262144": _fsq(6),
    "vidtok_fsq_causal_488_32768": _fsq(5),
    "vidtok_fsq_causal_488_4096": _fsq(4),
    "vidtok_fsq_causal_41616_262144": _fsq(6, "41616"),
    "vidtok_fsq_noncausal_488_262144": _fsq(6, edge="both"),
    "vidtok_fsq_noncausal_41616_262144": _fsq(6, "41616", edge="both"),
    "vidtok_kl_causal_488_4chn_v1_1": _kl(4, **SECOND_RELEASE),
    "vidtok_kl_causal_488_16chn_v1_1": _kl(16, **SECOND_RELEASE),
    "vidtok_kl_causal_41616_16chn_v1_1": _kl(16, "41616", **SECOND_RELEASE),
    "vidtok_kl_causal_288_8chn_v1_1": _kl(8, "288", **SECOND_RELEASE),
    "vidtok_fsq_causal_488_32768_v1_1": _fsq(5, **SECOND_RELEASE),
    "vidtok_fsq_causal_41616_262144_v1_1": _fsq(6, "41616", **SECOND_RELEASE),
    "vidtok_fsq_causal_888_32768_v1_1": _fsq(5, "888", **SECOND_RELEASE),
}
PUBLISHED: dict[str, str] = {
    name: f"checkpoints/{'vidtok_v1_1/' if name.endswith('_v1_1') else ''}{name}.ckpt"
    for name in VIDTOK
}
"""Released checkpoints, by their file in the hub repository microsoft/VidTok."""

BASE = VIDTOK["vidtok_kl_causal_488_4chn"]
VIDTOK |= {
    "vidtok_vq_causal_488_262144": _vidtok(VQConfig(codes=262144, width=4), "488"),
    "vidtok_lfq_causal_488_262144": _vidtok(LFQConfig(bits=18), "488"),
    "vidtok_variant_1": replace(BASE, block="full", sampler="joint"),
    "vidtok_variant_2": replace(BASE, sampler="plain"),
    "vidtok_variant_3": replace(BASE, middle="separable"),
}

FIFTEEN_BITS = FSQConfig(levels=(16, *(4,) * 3, *(2,) * 5), regularization=False, even=0.1)
COMPACT = VidTokConfig(
    quantizer=replace(FIFTEEN_BITS, rounding_from=300),
    patch=(2, 4, 4),
    transform="haar",
    width=128,
    multipliers=(1, 2),
    blocks=(1, 2),
    space_down=(0,),
    space_up=(1,),
    time_down=(0,),
    time_up=(1,),
    edge="past-first",
    block="light",
    sampler="fold",
    middle="none",
)
"""The default's network: 4x8x8, 15 bits a token, Haar front, no attention."""

LEANING = replace(COMPACT, quantizer=FIFTEEN_BITS)
ROBOT = replace(COMPACT, width=96, quantizer=replace(FIFTEEN_BITS, levels=(8, 5, 5, 5)))
PUSH = replace(ROBOT, width=64, quantizer=replace(FIFTEEN_BITS, levels=(8, 8, 8, 8), even=0.0))
REFTOK: dict[str, RefTokConfig] = {
    "reftok-default": RefTokConfig(body=LEANING),
    "reftok-robot": RefTokConfig(body=ROBOT, width=48),
    "reftok-push": RefTokConfig(body=PUSH, width=32, start="webp", quality=90),
    "reftok-41616": RefTokConfig(
        body=replace(
            LEANING,
            multipliers=(1, 2, 2),
            blocks=(1, 1, 2),
            space_down=(0, 1),
            space_up=(1, 2),
            time_down=(1,),
            time_up=(2,),
        )
    ),
}
"""The default and a 4x16x16 one on reference frames; for robot video of 64 pixels, 1,000 ids, and
for the simulated pushing world (worlds/), where most cells may have the same id."""
REFTOK |= {
    f"{name.removesuffix('-default')}-none": replace(config, policy="none")
    for name, config in REFTOK.items()
}
"""Their twins: the same networks, trained and used without a reference."""

CONTINUOUS = replace(COMPACT, quantizer=GaussianConfig(channels=16))
"""The default's network around 16 continuous channels."""

PRESETS: dict[str, tuple[str, Any]] = {
    "default": ("vidtok", COMPACT),
    "default-sharp": ("vidtok", COMPACT),
    "default-kl": ("vidtok", CONTINUOUS),
}
"""By name. `default-sharp` decodes the default's own ids, more sharply and less exactly."""
PRESETS |= {name: ("vidtok", config) for name, config in VIDTOK.items()}
PRESETS |= {name: ("coordtok", config) for name, config in coordtok.PRESETS.items()}
PRESETS["coordtok-default"] = ("coordtok", coordtok.COMPACT)
PRESETS["coordtok-push"] = ("coordtok", coordtok.PUSH)
PRESETS |= {name: ("reftok", config) for name, config in REFTOK.items()}


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """What a configuration says of its tokens; None for what only the built network knows.

    `factors` are frames, rows and columns of pixels for each token.
    """

    factors: tuple[int, int, int] | None
    causal: bool | None
    quantizer: str | None
    channels: int | None
    vocabulary: int | None


def token_facts(config: Any) -> TokenFacts:
    """What a preset's configuration says of its tokens, without building the network."""
    quantizer = getattr(config, "quantizer", None)
    return TokenFacts(
        factors=getattr(config, "factors", None),
        causal=getattr(config, "causal", None),
        quantizer=getattr(quantizer, "kind", None),
        channels=getattr(quantizer, "channels", getattr(config, "channels", None)),
        vocabulary=getattr(quantizer, "vocabulary", None),
    )
