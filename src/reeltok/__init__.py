"""Video to tokens and tokens to video: VidTok, CoordTok and RefTok behind one API.

>>> tok = reeltok.load("default")
>>> tokens = tok.encode(reeltok.read("clip.mp4"))
>>> reeltok.write(tok.decode(tokens), "again.mp4")

Names are fetched when first used (PEP 562), so that importing the package is quick.
"""

from typing import TYPE_CHECKING

from reeltok.lazy import fetch_from
from reeltok.version import __version__ as __version__

_HOME = {
    "Video": "video.record",
    "read": "video.record",
    "write": "video.record",
    "Tokens": "tokens.record",
    "Tokenizer": "tokenizer.contract",
    "load": "zoo",
    "presets": "zoo",
    "to_diffusers": "export",
}
__all__ = [*_HOME, "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from reeltok.export import to_diffusers as to_diffusers
    from reeltok.tokenizer.contract import Tokenizer as Tokenizer
    from reeltok.tokens.record import Tokens as Tokens
    from reeltok.video.record import Video as Video
    from reeltok.video.record import read as read
    from reeltok.video.record import write as write
    from reeltok.zoo import load as load
    from reeltok.zoo import presets as presets

__getattr__ = fetch_from("reeltok", _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
