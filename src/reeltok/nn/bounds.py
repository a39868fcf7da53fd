"""How large the numbers of a configuration may be.

Far beyond every network that was published, and small enough that a configuration of a stranger is
refused before anything is built by it. How many parameters they may make: `folder.build_empty`.
"""

from typing import Annotated

from pydantic import Field

Width = Annotated[int, Field(ge=1, le=2**16)]
"""Channels, or heads."""
Depth = Annotated[int, Field(ge=0, le=256)]
"""Blocks that follow one another."""
Side = Annotated[int, Field(ge=1, le=2**16)]
"""Pixels, frames or cells along an axis."""
Triple = tuple[Side, Side, Side]
LEVELS = 12
"""Resolutions of a network: 11 halvings."""
