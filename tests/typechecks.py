"""The checker of types that jaxtyping's import hook puts around functions while tests run."""

from typing import IO, BinaryIO

from beartype import BeartypeConf, FrozenDict, beartype

# A binary file is whatever is read like one: beartype asks for all methods and for `mode`, which
# io.BytesIO has not.
FILES = FrozenDict({BinaryIO: object, IO[bytes]: object})
# An int may stand for a float.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FILES))
