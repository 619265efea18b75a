"""Quantisers written in the model become Quantise nodes, so that its codes are the program's codes.

A quantiser is floor, then a clamp between two integers, then at most a few scales and shifts that are one number for
all channels: what frameworks write as scale * (clamp(floor(x / scale + zero_point + 0.5), low, high) - zero_point).
Cases:
1. low = -2^(k-1), high = 2^(k-1) - 1: signed codes of k bits. Any other 2^k codes in a row: unsigned ones, counted from
   `low`, so that the floor -1 of shifted ReLU is code 0.
2. What stands in front of the floor is any function of x: where it is x / scale + zero_point + 0.5, round half up,
   nothing of it is left; else the difference stays in front of the codes as scale and shift.
3. Scales and shifts behind the clamp belong to the codes as far as 0 is one of these; what follows stays where it is.
4. The role: INPUT where only pointwise nodes stand between the image and codes of at most 12 bits, else ACTIVATION up
   to 8 bits, which convolutions read, else RESIDUAL.
Refused: a floor that anything but one clamp reads; clamps whose bounds are no integers or whose codes are no power of
two, 4 at the least; codes of which none is 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Graph, Node, Shape, remove_dead, unique_name
from bnhw.ops import Affine, Clamp, Floor, Quantise, Role, Sign, freeze
from bnhw.options import DEFAULT_REQUANTISATION, Requantisation
from bnhw.verify import check_graph

MAX_ACTIVATION_BITS = 8
MAX_INPUT_BITS = 12
MAX_BITS = 24

RECIPROCAL_ERROR = 2.0**-52
"""How far (1 / scale) * scale is from 1 at the most, in float64."""

PRODUCT_ERROR = 2.0**-50
"""How far scale * zero point is from their product at the most, relatively, after a few float64 operations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecogniseQuantisers:
    """See the module's list of cases. `requantisation`: how the steps that make these codes are to be built."""

    requantisation: Requantisation = DEFAULT_REQUANTISATION

    def run(self, graph: Graph) -> Graph:
        """Every Floor becomes part of a Quantise; raises PassFailed, with what was expected, where it cannot."""
        shapes = check_graph(graph)
        from_image = _pointwise_of_image(graph)
        for node in graph.nodes:
            if isinstance(node.attributes, Floor):
                graph = self._recognise(graph, node, shapes[node.output], node.output in from_image)
        return remove_dead(graph)

    def _recognise(self, graph: Graph, floor: Node, shape: Shape, from_image: bool) -> Graph:
        clamp, low, high = _clamp_behind(graph, floor)
        last, scale, zero = _coding_behind(graph, floor, clamp, low, high)
        quantisation = _quantisation(low, high, scale, zero)
        attributes = Quantise(
            role=_role(quantisation.dtype.bits, from_image),
            quantisation=quantisation,
            requantisation=self.requantisation,
        )
        codes = replace(last, attributes=attributes, source=floor.source)
        operand = _rounded_operand(graph, floor, scale, zero)
        if operand is not None:
            replacement: tuple[Node, ...] = (replace(codes, inputs=(operand,)),)
        else:
            name = unique_name(f"{last.output}/aligned", (node.output for node in graph.nodes))
            aligned = _aligned(scale, zero, channels=shape[0])
            replacement = (
                replace(floor, name=name, output=name, attributes=aligned),
                replace(codes, inputs=(name,)),
            )
        nodes: list[Node] = []
        for node in graph.nodes:
            nodes.extend(replacement if node is last else (node,))
        return graph.with_nodes(nodes)


def _pointwise_of_image(graph: Graph) -> frozenset[str]:
    """The image and every value that pointwise nodes alone make of it."""
    values = {value.name for value in graph.inputs}
    for node in graph.nodes:
        if isinstance(node.attributes, Affine | Clamp | Sign | Floor) and values.issuperset(node.inputs):
            values.add(node.output)
    return frozenset(values)


def _role(bits: int, from_image: bool) -> Role:
    if from_image and bits <= MAX_INPUT_BITS:
        return Role.INPUT
    return Role.ACTIVATION if bits <= MAX_ACTIVATION_BITS else Role.RESIDUAL


def _clamp_behind(graph: Graph, floor: Node) -> tuple[Node, int, int]:
    """The clamp that alone reads `floor` (the last one, where a Max and a Min are written), and the bounds."""
    last, low, high = floor, -np.inf, np.inf
    while (reader := graph.sole_consumer(last.output)) is not None and isinstance(reader.attributes, Clamp):
        clamp, last = reader.attributes, reader
        low, high = (float(np.clip(bound, clamp.low, clamp.high)) for bound in (low, high))
    if last is floor:
        readers = ", ".join(f"{node.op} {node.place}" for node in graph.consumers.get(floor.output, ()))
        raise PassFailed(
            f"Floor {floor.place} is read by {readers or 'the output'}; only the floor of a quantiser, which one clamp "
            "to integer bounds alone reads, can become codes: scale * (clip(floor(x / scale + 0.5), low, high))"
        )
    count = high - low + 1
    sizes = [float(1 << bits) for bits in range(2, MAX_BITS + 1)]
    if not (low.is_integer() and high.is_integer() and count in sizes):
        raise PassFailed(
            f"Clamp {last.place} of the quantiser {floor.place} keeps floors from {low:g} to {high:g}; integers that "
            f"give 2^k codes with k of 2..{MAX_BITS} are expected, like -8 and 7 or 0 and 15"
        )
    return last, int(low), int(high)


def _coding_behind(graph: Graph, floor: Node, clamp: Node, low: int, high: int) -> tuple[Node, float, int]:
    """The last node of the quantiser, the scale, and the floor that stands for 0 (case 3)."""
    found: tuple[Node, float, int] | None = None
    for node, scale, shift in _scaled(graph, clamp):
        zero = round(-shift / scale)
        if abs(shift + zero * scale) <= abs(shift) * PRODUCT_ERROR and low <= zero <= high:
            found = (node, scale, zero)
    if found is None:
        raise PassFailed(
            f"none of the {high - low + 1} codes of the quantiser {floor.place} stands for 0, which padding needs; "
            f"clamp to bounds with 0 between them, not {low} and {high}, or subtract an integer zero point"
        )
    return found


def _scaled(graph: Graph, clamp: Node) -> Iterator[tuple[Node, float, float]]:
    """The clamp and the uniform Affine nodes behind it, each with scale and shift of the floors so far."""
    node: Node | None = clamp
    scale, shift = 1.0, 0.0
    while node is not None:
        yield node, scale, shift
        node = graph.sole_consumer(node.output)
        line = _line(node)
        if line is None:
            return
        scale, shift = scale * line[0], shift * line[0] + line[1]


def _line(node: Node | None) -> tuple[float, float] | None:
    """Scale and shift of an Affine that rises alike in all channels."""
    match node and node.attributes:
        case Affine(scale=scale, shift=shift) if (scale == scale[0]).all() and (shift == shift[0]).all():
            return (float(scale[0]), float(shift[0])) if scale[0] > 0 else None
    return None


def _rounded_operand(graph: Graph, floor: Node, scale: float, zero: int) -> str | None:
    """x where the quantiser takes the floor of x / scale + zero + 0.5; None where it takes that of something else."""
    value = floor.inputs[0]
    gain, offset = 1.0, 0.0
    while (line := _line(graph.producers.get(value))) is not None:
        gain, offset = gain * line[0], offset + gain * line[1]
        value = graph.producers[value].inputs[0]
        if offset == zero + 0.5 and abs(gain * scale - 1) <= RECIPROCAL_ERROR:
            return value
    return None


def _aligned(scale: float, zero: int, *, channels: int) -> Affine:
    """What turns y into the real value whose code is floor(y)."""
    numbers = (scale, -scale * (zero + 0.5))
    return Affine(scale=freeze(np.full(channels, numbers[0])), shift=freeze(np.full(channels, numbers[1])))


def _quantisation(low: int, high: int, scale: float, zero: int) -> Quantisation:
    bits = (high - low).bit_length()
    if low == -high - 1:
        return Quantisation(dtype=IntegerType(bits=bits, signed=True), scale=scale, zero_point=zero)
    return Quantisation(dtype=IntegerType(bits=bits, signed=False), scale=scale, zero_point=zero - low)
