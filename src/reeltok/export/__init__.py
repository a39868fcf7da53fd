"""Tokenizers where others look for them: a class of diffusers, graphs of torch.export and ONNX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reeltok.tokenizer.contract import Tokenizer


def to_diffusers(tokenizer: "Tokenizer") -> Any:
    """The tokenizer as an autoencoder of diffusers, which its pipelines take as `vae`.

    It shares the weights. An autoencoder of diffusers itself comes back as its own class; all
    others as `reeltok.export.diffusers.AutoencoderReeltok`. Latents are raw, and `latents_mean` and
    `latents_std` are the tokenizer's statistics. ValueError for a tokenizer that has no latent
    volume of its own: RefTok, whose blocks need reference frames, and CoordTok.
    """
    from reeltok.export.diffusers import as_autoencoder

    return as_autoencoder(tokenizer)
