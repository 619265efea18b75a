"""Observed ranges: the float graph runs on calibration images under onnxruntime, batch by batch.

Nothing but the minimum and maximum of each group of quantise points is kept, so memory does not grow with the
number of images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import PassFailed
from bnhw.graph import Graph, Node
from bnhw.graph_onnx import GraphRunner
from bnhw.ops import Add, ChannelPad, MaxPool, QuantisePoint

BATCH = 8
"""Images run at once: enough for onnxruntime's full speed; a wide network's values stay near 100 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The smallest and largest real value seen."""

    low: float
    high: float

    def joined(self, other: "Range") -> "Range":
        """The range that contains both."""
        return Range(low=min(self.low, other.low), high=max(self.high, other.high))


Ranges = Mapping[int, Range]
"""From group to range."""


def observe_ranges(graph: Graph, images: Array, progress: Callable[[int], None] | None = None) -> Ranges:
    """Run `images` (float32, (images, channels, height, width)) and return the range of every group.

    `progress` is called with the number of images done. Raises PassFailed if a value is not finite.
    """
    watched = _group_of_values(graph)
    ranges: dict[int, Range] = {}
    runner = GraphRunner(graph, watched)
    for start in range(0, len(images), BATCH):
        for name, value in runner.run(images[start : start + BATCH]).items():
            group, seen = watched[name], _range_of(name, value)
            ranges[group] = ranges[group].joined(seen) if group in ranges else seen
        if progress is not None:
            progress(min(start + BATCH, len(images)))
    return ranges


def _range_of(name: str, value: Array) -> Range:
    seen = Range(low=float(value.min()), high=float(value.max()))
    if not np.isfinite((seen.low, seen.high)).all():
        raise PassFailed(
            f"value {name!r} is not finite on the calibration images; check the weights and the image scale"
        )
    return seen


def _group_of_values(graph: Graph) -> Mapping[str, int]:
    """Every value that a group's scale must hold: what its points read, and the sums of its residual adds."""
    groups: dict[str, int] = {}
    for node in graph.nodes:
        match node.attributes:
            case QuantisePoint(group=group):
                groups[node.output] = group
            case Add() | ChannelPad() | MaxPool():
                inherited = _inherited(groups, node)
                if inherited is not None:
                    groups[node.output] = inherited
    return groups


def _inherited(groups: Mapping[str, int], node: Node) -> int | None:
    return next((groups[name] for name in node.inputs if name in groups), None)
