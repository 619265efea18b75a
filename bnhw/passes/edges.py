"""The requantise steps that a graph will have: for every quantise point, the integers before it and the gains on them.

A scale is free where nothing but its range fixes it, and each step's ratio is gain * scale before / scale behind. So
scales can be chosen such that ratios become powers of two; `bnhw.passes.scales` does, from these edges. A Quantise of
the model's own makes a group whose coding is given; its number is negative.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bnhw.dtypes import Array, Quantisation
from bnhw.graph import Graph, Node, Shape
from bnhw.ops import (
    Affine,
    AveragePool,
    ChannelPad,
    Concatenate,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Product,
    Quantise,
    QuantisePoint,
    Role,
    Sign,
    pool_divisors,
)
from bnhw.verify import check_graph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """What one unit of the integers behind a value is worth: real = gains * scales of the sources * integer + shift.

    sources: the groups whose scales those are, two for a product, none for the image, whose scale is 1. gains:
    float64 (divisors, channels or 1). shares: of all pixels, how many have each divisor, (divisors,). is_image: no
    integer but the image's own lies before, so that the step is a lookup.
    """

    sources: tuple[int, ...] = ()
    gains: Array
    shares: Array
    is_image: bool = False
    is_sign: bool = False

    def scaled(self, factors: Array) -> "Unit":
        """The same integers worth `factors` (divisors or 1, channels or 1) times as much."""
        return replace(self, gains=self.gains * factors)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edge:
    """A step from the integers that `unit` describes to the codes of `group`; `size` of them an image."""

    point: str
    group: int
    role: Role
    unit: Unit
    size: int

    @property
    def common_gains(self) -> tuple[float, ...]:
        """The gain of each divisor, where one positive gain serves all channels; else nothing."""
        gains = self.unit.gains
        same = bool((gains == gains[:, :1]).all() and gains[0, 0] > 0)
        return tuple(float(gain) for gain in gains[:, 0]) if same else ()

    def scale_before(self, codings: Mapping[int, Quantisation]) -> float:
        """The scale of the integers before the step, where all their groups have a coding."""
        return math.prod(codings[source].scale for source in self.unit.sources)

    @property
    def is_step(self) -> bool:
        """Whether a line is computed: neither a lookup nor a sign, whose threshold holds any ratio."""
        return not (self.unit.is_image or self.unit.is_sign)


ONE = np.ones((1, 1))
ALL = np.ones(1)


def find_edges(graph: Graph) -> tuple[tuple[Edge, ...], Mapping[int, Quantisation]]:
    """The step in front of every quantise point, in the order of the graph, and the codings that the model gives."""
    shapes = check_graph(graph)
    units: dict[str, Unit] = {entry.name: Unit(gains=ONE, shares=ALL, is_image=True) for entry in graph.inputs}
    edges: list[Edge] = []
    given: dict[int, Quantisation] = {}
    for node in graph.nodes:
        unit = units[node.inputs[0]]
        match node.attributes:
            case QuantisePoint(group=group, role=role):
                pass
            case Quantise(role=role, quantisation=quantisation):
                group = -1 - len(given)
                given[group] = quantisation
            case _:
                others = [units[name] for name in node.inputs[1:]]
                units[node.output] = _unit_behind(node, unit, others, shapes)
                continue
        size = int(np.prod(shapes[node.output]))
        edges.append(Edge(point=node.output, group=group, role=role, unit=unit, size=size))
        units[node.output] = Unit(sources=(group,), gains=ONE, shares=ALL)
    return tuple(edges), given


def _unit_behind(node: Node, unit: Unit, others: Sequence[Unit], shapes: Mapping[str, Shape]) -> Unit:
    match node.attributes:
        case Convolution():
            return replace(unit, is_image=False)
        case Product():
            sources = (*unit.sources, *others[0].sources)
            return Unit(sources=sources, gains=unit.gains * others[0].gains, shares=ALL)
        case Affine(scale=scale):
            return unit.scaled(scale[None, :])
        case Sign():
            return replace(unit, is_sign=True)
        case AveragePool(window=window, count_padding=counts):
            _, height, width = shapes[node.inputs[0]]
            divisors = pool_divisors(window, height, width, count_padding=counts)
            distinct, counted = np.unique(np.maximum(divisors, 1), return_counts=True)
            pooled = replace(unit, shares=counted / counted.sum(), is_image=False)
            return pooled.scaled(1.0 / distinct[:, None])
        case GlobalAveragePool():
            _, height, width = shapes[node.inputs[0]]
            return replace(unit, is_image=False).scaled(ONE / (height * width))
        case MaxPool() | ChannelPad() | Concatenate():
            return replace(unit, is_image=False)
        case _:
            return unit
