"""Arguments of diffusers' autoencoders so small that a clip takes a moment."""

from typing import Any

W = (8, 8, 8, 8)
TINY: dict[str, dict[str, Any]] = {
    "AutoencoderVidTok": {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "AutoencoderKLCosmos": {
        "encoder_block_out_channels": W,
        "decode_block_out_channels": W,
        "num_layers": 1,
        "attention_resolutions": (),
    },
    "AutoencoderKLWan": {"base_dim": 8, "num_res_blocks": 1},
    "AutoencoderKLCogVideoX": {
        "block_out_channels": W,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLHunyuanVideo": {
        "block_out_channels": W,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLLTXVideo": {
        "block_out_channels": W,
        "decoder_block_out_channels": W,
        "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 5,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": (1,) * 5,
        "add_attention_block": (False,) * 5,
    },
    "AutoencoderKLAllegro": {
        "block_out_channels": W,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLMagvit": {
        "block_out_channels": [*W],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLTemporalDecoder": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "block_out_channels": (32,) * 4,
    },
}
WAN_2_2 = {
    "decoder_base_dim": 8,
    "z_dim": 48,
    "dim_mult": [1, 1, 1, 1],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
