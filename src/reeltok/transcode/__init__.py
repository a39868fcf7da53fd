"""Files to tokens and back, in memory that does not grow with them.

>>> from reeltok.transcode import decode_file, encode_file
>>> encode_file(tok, "clip.mp4", "clip.reel", on_progress=lambda done, total: print(done, total))
>>> decode_file(tok, "clip.reel", "again.mp4")

Names are fetched when first used, as in the package's own `__init__`.
"""

from typing import TYPE_CHECKING

from reeltok.lazy import fetch_from

_HOME = {
    "Coding": "options",
    "Cut": "options",
    "Writing": "options",
    "EncodedFile": "encode",
    "encode_file": "encode",
    "DecodedFile": "decode",
    "decode_file": "decode",
    "decode_frames": "decode",
    "ReelModels": "models",
    "Demonstration": "demonstration",
    "demonstrate": "demonstration",
    "ReconstructedFile": "reconstruct",
    "reconstruct_file": "reconstruct",
}
__all__ = list(_HOME)

if TYPE_CHECKING:
    from reeltok.transcode.decode import DecodedFile as DecodedFile
    from reeltok.transcode.decode import decode_file as decode_file
    from reeltok.transcode.decode import decode_frames as decode_frames
    from reeltok.transcode.demonstration import Demonstration as Demonstration
    from reeltok.transcode.demonstration import demonstrate as demonstrate
    from reeltok.transcode.encode import EncodedFile as EncodedFile
    from reeltok.transcode.encode import encode_file as encode_file
    from reeltok.transcode.models import ReelModels as ReelModels
    from reeltok.transcode.options import Coding as Coding
    from reeltok.transcode.options import Cut as Cut
    from reeltok.transcode.options import Writing as Writing
    from reeltok.transcode.reconstruct import ReconstructedFile as ReconstructedFile
    from reeltok.transcode.reconstruct import reconstruct_file as reconstruct_file

__getattr__ = fetch_from("reeltok.transcode", _HOME)
