"""The checker of types that jaxtyping's import hook puts around functions while tests run."""

from typing import BinaryIO

from beartype import BeartypeConf, FrozenDict, beartype

# An int may stand for a float. A BinaryIO is whatever is read like a file: beartype asks for all of
# its methods and `mode`, which io.BytesIO has not.
checked = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({BinaryIO: object}))
)
