"""VidTok: a video autoencoder of 2-D and 1-D convolutions, with 3-D ones where they count.

    frames ─ patch ─ conv_in ─ levels (blocks, then halve space and time) ─ middle ─ conv_out ─ z
    z ─ conv_in ─ middle ─ levels (blocks, then double space and time) ─ conv_out ─ unpatch ─ frames

Tang et al. 2024, "VidTok: A Versatile and Open-Source Video Tokenizer", section 3 and figure 2.
Everything a published configuration or an ablation of table 2 changes is a value of
`VidTokConfig` (stages.py, with the parts); `edge` alone decides causality.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from reeltok.models.vidtok.stages import (
    BOTH,
    Down,
    Patch,
    Up,
    VidTokConfig,
    level_block,
    middle_stages,
)
from reeltok.nn.layers import Conv, Norm
from reeltok.nn.past import Layer, Past
from reeltok.nn.quantizers import Quantized
from reeltok.tokenizer.contract import Reconstruction, Tokenizer
from reeltok.tokenizer.inputs import check_sample, drawing, forward_input, record_tokens
from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.steps import require_all
from reeltok.tokenizer.streaming import FrameRun, to_input_type
from reeltok.tokenizer.strips import FrameSource, Strips
from reeltok.tokens.ids import require_gridded
from reeltok.tokens.record import Tokens
from reeltok.video.record import Video, unit_frames


class Encoder(Layer):
    """Frames in [-1, 1] to what the quantizer reads."""

    def __init__(self, config: VidTokConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        self.zeros_first = config.edge == "past-zeros"
        self.factor = config.factors[0]
        self.patch = Patch(config)
        self.conv_in = Conv(self.patch.channels, config.width, BOTH, edge=config.edge)
        self.levels = nn.ModuleList()
        before = config.width
        for level, width in enumerate(widths):
            stages = nn.ModuleList()
            for _ in range(config.blocks[level]):
                stages.append(level_block(before, width, config))
                before = width
            if level in config.space_down:
                after = widths[level + 1 :][:1] if config.sampler == "fold" else []
                before = after[0] if after else width
                down = Down(width, before, time=level in config.time_down, config=config)
                stages.append(nn.ModuleList([down]))
            self.levels.append(stages)
        self.middle = middle_stages(before, config)
        self.norm = Norm(before, groups=config.groups, kernel=BOTH, edge=config.edge)
        self.conv_out = Conv(before, config.quantizer.features, BOTH, edge=config.edge)

    def forward(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        if self.zeros_first and (past is None or past.begin(self)):
            # Parity: v1.0 fills the first group with copies of frame 0.
            x = torch.cat([x[:, :1].expand(-1, self.factor - 1, -1, -1, -1), x], dim=1)
        x = self.conv_in(self.patch(x, past), past)
        for stage in running_order(self):
            x = stage(x, past)
        return self.conv_out(self.norm(x), past)


class Decoder(Layer):
    """What the quantizer gives to frames, not clamped."""

    def __init__(self, config: VidTokConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        self.zeros_first = config.edge == "past-zeros"
        self.factor = config.factors[0]
        before = widths[-1]
        self.conv_in = Conv(config.quantizer.channels, before, BOTH, edge=config.edge)
        self.middle = middle_stages(before, config)
        self.levels = nn.ModuleList()
        for level in reversed(range(len(widths))):
            stages = nn.ModuleList()
            for _ in range(config.blocks[level] + 1):
                stages.append(level_block(before, widths[level], config))
                before = widths[level]
            if level in config.space_up:
                after = widths[max(level - 1, 0)] if config.sampler == "fold" else before
                up = Up(before, after, time=level in config.time_up, config=config)
                before = after
                stages.append(nn.ModuleList([up]))
            self.levels.append(stages)
        self.norm = Norm(before, groups=config.groups, kernel=BOTH, edge=config.edge)
        self.patch = Patch(config)
        self.conv_out = Conv(before, self.patch.channels, BOTH, edge=config.edge)

    def forward(
        self, z: Float[Tensor, "b t h w d"], past: Past | None = None
    ) -> Float[Tensor, "b t2 h2 w2 c"]:
        return self.finish(self.begin(z, past), past)

    def begin(
        self, z: Float[Tensor, "b t h w d"], past: Past | None = None
    ) -> Float[Tensor, "b t h2 w c"]:
        """Up to the levels: as many steps, rows and columns as tokens have."""
        x = self.conv_in(z, past)
        for stage in self.middle:
            x = stage(x, past)
        return x

    def finish(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None
    ) -> Float[Tensor, "b t2 h2 w2 c2"]:
        """From there to frames."""
        first = past is None or past.begin(self)
        for stage in flatten_stages(self.levels):
            x = stage(x, past)
        x = self.patch.inverse(self.conv_out(self.norm(x), past), past)
        # Parity: v1.0 drops what it made of the copies of frame 0.
        return x[:, self.factor - 1 :] if self.zeros_first and first else x


def flatten_stages(stage: nn.Module) -> list[nn.Module]:
    """What lists of lists of modules hold, in order."""
    if not isinstance(stage, nn.ModuleList):
        return [stage]
    return [part for each in stage for part in flatten_stages(each)]


def running_order(network: Encoder | Decoder) -> list[nn.Module]:
    """The stages between a network's first and last convolution, in the order they run."""
    levels, after = flatten_stages(network.levels), isinstance(network, Encoder)
    return [*levels, *network.middle] if after else [*network.middle, *levels]


WAITING = "waiting"  # where a decoder that looks ahead keeps the step whose frames it holds back


class VidTok(Tokenizer):
    """The tokenizer of section 3: encoder, quantizer, decoder."""

    family = "vidtok"
    refines = True

    def __init__(self, config: VidTokConfig, name: str = "vidtok") -> None:
        super().__init__(config, name)
        self.encoder = Encoder(config)
        self.quantizer = config.quantizer.build()
        self.decoder = Decoder(config)

    @property
    def spec(self) -> Spec:
        config, (t, h, w) = self.config, self.config.factors
        return Spec(
            name=self.name,
            family=self.family,
            factors=(t, h, w),
            causal=config.causal,
            first_frames=1 if config.causal else t,
            frames_per_group=t,
            channels=config.quantizer.channels,
            vocabulary=config.quantizer.vocabulary,
            parameters=self.parameter_count(),
            receptive_steps=receptive_steps(self.decoder),
            lookahead_steps=int(self.looks_ahead),
            strips=config.groups is None,
            widest=config.widest,
            used=self.used,
        )

    @property
    def looks_ahead(self) -> bool:
        """Whether frames depend on the step after their own."""
        return self.config.causal and self.config.upsampling == "trilinear"

    def last_weight(self) -> nn.Parameter:
        return self.get_parameter("decoder.conv_out.weight")

    def encode_part(
        self,
        x: Float[Tensor, "b c t h w"],
        past: Past | None = None,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
    ) -> Quantized:
        begun = past is not None and past.has_begun(self.encoder.conv_in)
        z = self.encoder(rearrange(x, "b c t h w -> b t h w c").contiguous(), past)
        if self.refine:
            z = self._refined_groups(z, x, past or Past(), begun=begun)
        return channels_first(self.quantizer(z, sample=sample))

    def _refined_groups(
        self,
        z: Float[Tensor, "b t h w d"],
        x: Float[Tensor, "b c t2 h2 w2"],
        past: Past,
        *,
        begun: bool,
    ) -> Float[Tensor, "b t h w d"]:
        """What the quantizer reads, refined: each group by its own frames, after those before it.

        So tokens do not depend on how a stream is cut. Windows are refined as a whole.
        """
        spec, found, at = self.spec, list[Tensor](), 0

        def decode(tried: Tensor, past: Past | None) -> Tensor:
            return self.decode_part(channels_first(self.quantizer(tried)).z, past)

        if not spec.causal:
            return self.refined(z, x, lambda tried: decode(tried, None))
        for step in z.split(1, dim=1):
            count = spec.frames_per_group if begun else spec.first_frames
            group, begun, at = x[:, :, at : at + count], True, at + count
            made = lambda tried, own=count: decode(tried, past.copy())[:, :, -own:]
            found.append(self.refined(step, group, made, past))
            with self.held_codebook():
                coded = channels_first(self.quantizer(found[-1]))
            self.keep_ids(past, coded.ids)
            self.decode_part(coded.z, past, last=False)
        return torch.cat(found, dim=1)

    def decode_part(
        self, z: Float[Tensor, "b d t h w"], past: Past | None = None, *, last: bool = True
    ) -> Float[Tensor, "b c t2 h2 w2"]:
        z = rearrange(z, "b d t h w -> b t h w d").contiguous()
        if past is None or not self.looks_ahead:
            return rearrange(self.decoder(z, past), "b t h w c -> b c t h w")
        z = self._take_waiting(z, past, last)
        if not z.shape[1]:
            return self._no_frames(z)
        x = self._decode_ahead(self.decoder, z, past, last)
        return rearrange(x, "b t h w c -> b c t h w")

    def encode_strips(
        self,
        x: FrameSource,
        strips: Strips,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
    ) -> Quantized:
        """What `encode_part` makes of the frames; attention sees all strips at once."""
        made = []
        for cells, past in strips.walk("encoder", x.cells):
            rows = rearrange(x.rows(cells), "b c t h w -> b t h w c").contiguous()
            made.append(self.encoder(rows, past))
        return channels_first(self.quantizer(torch.cat(made, dim=2), sample=sample))

    def decode_strips(
        self, z: Float[Tensor, "b d t h w"], strips: Strips, *, last: bool = True
    ) -> Iterator[Tensor]:
        """What `decode_part` makes of the tokens, in rows; attention sees all strips at once."""
        whole, ahead = strips.whole("middle"), self.looks_ahead
        y = rearrange(z, "b d t h w -> b t h w d").contiguous()
        if ahead:
            y = self._take_waiting(y, whole, last)
            if not y.shape[1]:
                yield self._no_frames(y)
                return
        network: Callable[[Tensor, Past], Tensor] = self.decoder
        if len(self.decoder.middle):
            whole.lookahead = int(ahead and not last)
            y, network = self.decoder.begin(y, whole), self.decoder.finish
        for cells, past in strips.walk("decoder", y.shape[2]):
            rows = y[:, :, cells]
            x = self._decode_ahead(network, rows, past, last) if ahead else network(rows, past)
            yield rearrange(x, "b t h w c -> b c t h w")

    def _take_waiting(self, z: Tensor, past: Past, last: bool) -> Tensor:
        """The steps that can be decoded, with one to look at unless they are the `last`.

        A single one that is not waits alone.
        """
        z = torch.cat([past.kept[WAITING], z], dim=1) if WAITING in past.kept else z
        if not last:
            past.kept[WAITING] = z[:, -1:].clone()
        return z if last or z.shape[1] > 1 else z[:, :0]

    def _no_frames(self, z: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b c 0 h2 w2"]:
        b, _, h, w, _ = z.shape
        _, fh, fw = self.config.factors
        return z.new_zeros(b, self.config.colours, 0, h * fh, w * fw)

    def _decode_ahead(
        self, network: Callable[[Tensor, Past], Tensor], z: Tensor, past: Past, last: bool
    ) -> Tensor:
        """Frames of all steps but the one that is looked at."""
        past.lookahead = 0 if last else 1
        x = network(z, past)
        past.lookahead = 0
        return x if last else x[:, : -self.config.factors[0]]

    def encode_front(self, x: Video | Tensor, *, sample: torch.Generator | None = None) -> Tokens:
        """Tokens with copies of frame 0 in front that make the frames a multiple of the factor.

        # Parity: what the public v1.1 does for a frame count other than 1 mod the factor. Its first
        group then mixes copies and frames, so no frame stands alone, and every layer repeats its
        own first frame as the past.
        """
        if self.config.edge != "past-first":
            raise ValueError(f"{self.name} pads clips at the end only: leave pad='end'")
        check_sample(sample, self)
        given, past = unit_frames(x), Past()
        past.whole = True
        copies = given[:, :, :1].expand(-1, -1, -given.shape[2] % self.config.factors[0], -1, -1)
        with self.gradient(given):
            entered = self.network_input(torch.cat([copies, given], dim=2))
            quantized = self.encode_part(entered, past, sample=sample)
        moments = (x.times, x.last) if isinstance(x, Video) else ()
        tokens = record_tokens(self, quantized, FrameRun(given, given.shape[2], *moments), x, None)
        return tokens.with_(settings={**tokens.settings, "pad": "front"})

    def decode_front(self, tokens: Tokens) -> Video | Tensor:
        """What `encode_front` was given: the first frame fills its group, the last frames count."""
        z = self.find_latents(tokens)
        with self.gradient(z):
            x = self.decode_part(z.to(device=self.device, dtype=self.dtype))
        first = x[:, :, :1].expand(-1, -1, self.config.factors[0] - 1, -1, -1)
        x = torch.cat([first, x], dim=2)[:, :, -tokens.frames :]
        require_all(tokens.frames - x.shape[2])
        return to_input_type(
            x[..., : tokens.height, : tokens.width], tokens, tokens.times, tokens.last
        )

    def lookup(self, ids: Int[Tensor, "b t h w"]) -> Float[Tensor, "b d t h w"]:
        require_gridded(ids, "batch steps rows columns")
        return rearrange(self.quantizer.lookup(ids), "b t h w d -> b d t h w")

    def forward(
        self,
        x: Shaped[Tensor, "b c t h w"],
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """The differentiable path of training: whole groups of frames, no padding, no records."""
        z = self.encoder(rearrange(forward_input(x, self), "b c t h w -> b t h w c").contiguous())
        quantized = self.quantizer(z, step=step, sample=drawing(self, generator))
        frames = rearrange(self.decoder(quantized.z), "b t h w c -> b c t h w")
        return Reconstruction(x=frames, quantized=channels_first(quantized))


def channels_first(quantized: Quantized) -> Quantized:
    """The same record with z as `b d t h w`, as public tensors are."""
    turn = lambda x: rearrange(x, "b t h w d -> b d t h w")
    logvar = None if quantized.logvar is None else turn(quantized.logvar)
    return replace(quantized, z=turn(quantized.z), logvar=logvar)


def receptive_steps(decoder: Decoder) -> int:
    """How many latent steps before its own a frame depends on: kernels summed at their scales."""
    steps, scale = 0.0, 1
    convs = {id(m): m for m in [decoder.conv_in, *running_order(decoder), decoder.conv_out]}
    for stage in convs.values():
        if isinstance(stage, Up) and stage.doubles:
            steps += stage.linear / scale
            scale *= 2
        for conv in (m for m in stage.modules() if isinstance(m, Conv)):
            steps += (conv.kernel[0] - 1) / scale
    return math.ceil(steps) + 1
