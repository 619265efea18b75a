"""Bounds that no image goes below: where they are 0, codes need no sign."""

import math
from collections.abc import Mapping

from bnhw.graph import Graph
from bnhw.ops import (
    Activation,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    GlobalAveragePool,
    MaxPool,
    Product,
    Quantise,
    QuantisePoint,
)


def find_floors(graph: Graph) -> Mapping[int, float]:
    """For each group of points the largest known bound from below; -inf where none is known."""
    groups: dict[int, float] = {}
    floors: dict[str, float] = {value.name: 0.0 for value in graph.inputs}
    for node in graph.nodes:
        floor = min(floors[name] for name in node.inputs)
        match node.attributes:
            case Clamp(low=low, high=high):
                floor = min(max(floor, low), high)
            case Activation() as activation:
                floor = activation.floor
            case Affine(scale=scale, shift=shift):
                floor = floor if floor == 0 and (scale >= 0).all() and (shift >= 0).all() else -math.inf
            case Product():
                floor = 0.0 if floor >= 0 else -math.inf
            case ChannelPad() | AveragePool():
                floor = min(floor, 0.0)
            case Quantise(quantisation=quantisation):
                floor = max(floor, quantisation.scale * quantisation.low_value)
            case QuantisePoint(group=group):
                groups[group] = min(floor, groups.get(group, math.inf))
            case MaxPool() | GlobalAveragePool() | Concatenate():
                pass
            case _:
                floor = -math.inf
        floors[node.output] = floor
    return groups
