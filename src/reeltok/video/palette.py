"""RGB pictures in the 256 colours of a GIF."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph


class Palette:
    """RGB frames to frames of 256 colours, chosen for each picture by itself."""

    def __init__(self, encoder: Any, unit: Fraction) -> None:
        self._graph = graph = Graph()
        source = graph.add_buffer(
            width=encoder.width,
            height=encoder.height,
            format=av.VideoFormat("rgb24"),
            time_base=unit,
        )
        split = graph.add("split")
        make = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        use = graph.add("paletteuse", "new=1")
        source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(make, 1, 0)
        make.link_to(use, 0, 1)
        use.link_to(graph.add("buffersink"))
        graph.configure()

    def __call__(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """The frames that are ready after `frame`, or after the last (None)."""
        self._graph.push(frame)
        while True:
            try:
                yield self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
