"""Ranges become scales: every QuantisePoint turns into a Quantise with width, scale and zero point.

Cases, by what stands before the point:
1. Sign: one bipolar bit.
2. RESIDUAL group: signed, symmetric, with room for sums that calibration has not seen; exact (`exact_residual_scale`)
   where all operands are multiples of one power of two that the width holds.
3. Values that no image can make negative (ReLU, also behind a pool): unsigned, zero point 0.
4. Values with a negative floor (shifted ReLU, also behind a pool): unsigned with scale = -floor / zero point, so
   that code 0 is the floor and the clamp costs nothing; but case 5 where that is finer, because the floor lies far
   below what is seen.
5. Anything else: signed, symmetric, zero point 0.
6. ARGUMENT: unsigned of ARGUMENT_BITS, because its codes are places in a table; the zero point is where 0 falls.
Where a power-of-two ratio to the integer behind the point is wanted (mode `shift`; logits that differ by one
factor and a bias), the scale is the smallest such multiple that holds the range. No scale is so fine that the ratio
would not fit the multipliers. A Quantise of the model's own stays as it is; a point that would give its codes again
goes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Graph, Node, Shape, rename_inputs
from bnhw.ops import (
    Activation,
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Quantise,
    QuantisePoint,
    Role,
    Sign,
    pool_divisors,
)
from bnhw.options import DEFAULT_REQUANTISATION, CompileOptions, Requantisation, RequantiseMode
from bnhw.passes.calibrate import Range, Ranges
from bnhw.verify import check_graph

RESIDUAL_HEADROOM = 1.25
"""A sum on an unseen image may leave the calibrated range; at 16 bits a third of a bit is cheap for that."""

SHIFT_RATIO_BITS = 14
"""Finer than 2^-14 of the integer before it is no code in mode `shift`; 2^24 is what shifts can hold."""

ARGUMENT_BITS = 12
"""The largest table that a function of a code may have."""

LOGIT_BITS = 24
LOGIT_HEADROOM = 4.0
"""Logits leave the chip as they are; two more bits cost nothing there and a clipped logit is a wrong class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseScales:
    """See the module's list of cases. `ranges` come from `observe_ranges` of the same graph."""

    ranges: Ranges
    options: CompileOptions

    def run(self, graph: Graph) -> Graph:
        """Replace every QuantisePoint by a Quantise.

        The first round shows how fine each group's scale may be for all its points, the second keeps to it.
        """
        _, finest, operands = self.quantised(graph, {}, {})
        nodes, _, _ = self.quantised(graph, finest, operands)
        return _without_repeats(graph.with_nodes(nodes))

    def quantised(
        self, graph: Graph, finest: Mapping[int, float], operands: Mapping[int, Sequence[float | None]]
    ) -> tuple[list[Node], Mapping[int, float], Mapping[int, Sequence[float | None]]]:
        """The nodes with scales no finer than `finest` by group, the finest that every point can reach, and the steps
        of the integers in front of each group's points, of which `operands` is what an earlier round found.
        """
        found_steps: dict[int, list[float | None]] = {}
        shapes = check_graph(graph)
        reachable: dict[int, float] = {}
        floors = _floors(graph)
        chosen: dict[int, Quantisation] = {}
        steps: dict[str, float | None] = {value.name: 1.0 for value in graph.inputs}
        units: dict[str, float] = {value.name: 1.0 for value in graph.inputs}
        nodes: list[Node] = []
        for node in graph.nodes:
            if isinstance(node.attributes, QuantisePoint):
                point = node.attributes
                value, group = node.inputs[0], point.group
                found_steps.setdefault(group, []).append(steps[value])
                reachable[group] = max(units[value] / self.largest_ratio, reachable.get(group, 0.0))
                if group not in chosen:
                    least = finest.get(group, reachable[group])
                    exact = self.exact_residual(point, operands.get(group, (None,)))
                    chosen[group] = exact or self.quantisation(graph, node, steps[value], least, floors[group])
                _require_one_kind(graph, node, chosen[point.group])
                attributes = Quantise(
                    role=point.role, quantisation=chosen[point.group], requantisation=self.requantisation(point.role)
                )
                node = replace(node, attributes=attributes)
            steps[node.output] = _step(node, steps, shapes)
            units[node.output] = _largest_unit(node, units, shapes)
            nodes.append(node)
        return nodes, reachable, found_steps

    def exact_residual(self, point: QuantisePoint, operands: Sequence[float | None]) -> Quantisation | None:
        """The coding in which no operand of a residual group is rounded, if the width holds it."""
        scale = exact_residual_scale(operands) if point.role is Role.RESIDUAL else None
        dtype = IntegerType(bits=self.options.residual_bits, signed=True)
        seen = _on_grid(self.ranges[point.group])
        if scale is None or max(abs(seen.low), abs(seen.high)) * RESIDUAL_HEADROOM > scale * dtype.high:
            return None
        return Quantisation(dtype=dtype, scale=scale)

    def requantisation(self, role: Role) -> Requantisation:
        """Thresholds for activations alone: wider codes would need too many."""
        chosen = self.options.requantisation
        if chosen.mode is RequantiseMode.THRESHOLD and role is not Role.ACTIVATION:
            return DEFAULT_REQUANTISATION
        return chosen

    @property
    def largest_ratio(self) -> float:
        """The largest ratio of a requantise step that the mode holds with room to spare, a power of two."""
        requantisation = self.options.requantisation
        multiplies = requantisation.mode is RequantiseMode.MULTIPLY
        return float(1 << (requantisation.number - 2 if multiplies else SHIFT_RATIO_BITS))

    def quantisation(self, graph: Graph, node: Node, step: float | None, finest: float, floor: float) -> Quantisation:
        """The coding behind one point.

        `step`: the real size of one unit of the integer before it, if uniform. `finest`: no finer scale can be
        reached from that integer. `floor`: no image gives less.
        """
        point = node.attributes
        assert isinstance(point, QuantisePoint)
        source = graph.producers.get(node.inputs[0])
        if source is not None and isinstance(source.attributes, Sign):
            return Quantisation(dtype=IntegerType(bits=1, signed=False), scale=1.0, bipolar=True)
        seen = _on_grid(self.ranges[point.group])
        match point.role:
            case Role.RESIDUAL:
                return self.symmetric(self.options.residual_bits, seen, RESIDUAL_HEADROOM, step, finest)
            case Role.ARGUMENT:
                return _argument(seen, finest)
            case Role.LOGITS:
                return _logits(seen, step, finest, biased=not _has_one_shift(source))
            case Role.INPUT:
                bits = self.options.input_bits
            case Role.ACTIVATION:
                bits = self.options.act_bits
        if floor >= 0:
            dtype = IntegerType(bits=bits, signed=False)
            return Quantisation(dtype=dtype, scale=self.snapped(max(_positive(seen.high) / dtype.high, finest), step))
        symmetric = self.symmetric(bits, seen, 1.0, step, finest)
        if -math.inf < floor < 0:
            floored = self.floored(bits, floor, seen, step, finest)
            return floored if floored.scale <= symmetric.scale else symmetric
        return symmetric

    def symmetric(self, bits: int, seen: Range, headroom: float, step: float | None, finest: float) -> Quantisation:
        """Signed codes with zero point 0."""
        dtype = IntegerType(bits=bits, signed=True)
        largest = _positive(max(abs(seen.low), abs(seen.high))) * headroom
        return Quantisation(dtype=dtype, scale=self.snapped(max(largest / dtype.high, finest), step))

    def floored(self, bits: int, floor: float, seen: Range, step: float | None, finest: float) -> Quantisation:
        """Unsigned codes whose code 0 is `floor` (as nearly as an integer zero point allows).

        A floor that is less than one code beside the range is 0.
        """
        dtype = IntegerType(bits=bits, signed=False)
        zero_point = math.floor(-floor / max((max(seen.high, 0.0) - floor) / dtype.high, finest))
        if zero_point == 0:
            return Quantisation(dtype=dtype, scale=self.snapped(max(_positive(seen.high) / dtype.high, finest), step))
        scale = self.snapped(-floor / zero_point, step)
        zero_point = min(max(1, round(-floor / scale)), dtype.high)
        if self.options.requantisation.mode is not RequantiseMode.SHIFT:
            scale = -floor / zero_point
        return Quantisation(dtype=dtype, scale=scale, zero_point=zero_point)

    def snapped(self, scale: float, step: float | None) -> float:
        """In mode `shift`, the smallest power-of-two multiple of `step` that is not below `scale`."""
        if self.options.requantisation.mode is not RequantiseMode.SHIFT or step is None:
            return scale
        return _snap(scale, step, least_exponent=-math.inf)


def exact_residual_scale(steps: Sequence[float | None]) -> float | None:
    """The scale in which integers of these steps need a left shift at most: the finest step.

    None where a step is not known, or where their ratios are no powers of two.
    """
    known = [step for step in steps if step is not None]
    if len(known) < len(steps):
        return None
    finest = min(known)
    return finest if all(math.frexp(step / finest)[0] == 0.5 for step in known) else None


def _without_repeats(graph: Graph) -> Graph:
    """The graph without Quantise nodes that read codes of their own coding."""
    codings: dict[str, Quantisation] = {}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        (node,) = rename_inputs([node], names)
        match node.attributes:
            case Quantise(quantisation=coding) if codings.get(node.inputs[0]) == coding:
                names[node.output] = node.inputs[0]
                continue
            case Quantise(quantisation=coding):
                codings[node.output] = coding
            case ChannelPad() | MaxPool() if node.inputs[0] in codings:
                codings[node.output] = codings[node.inputs[0]]
        nodes.append(node)
    return graph.with_nodes(nodes, outputs=tuple(names.get(name, name) for name in graph.outputs))


def _floors(graph: Graph) -> Mapping[int, float]:
    """For each group of points a bound that no image goes below; -inf where none is known."""
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


def _on_grid(seen: Range) -> Range:
    """The range widened to 8 significant bits.

    Calibration sums floats in an order that differs between machines; on this grid the last bits do not matter, so
    that a model compiles to the same program everywhere.
    """
    return Range(low=-_round_up(-seen.low), high=_round_up(seen.high))


def _round_up(number: float) -> float:
    """The nearest number of 8 significant bits that is not smaller by more than float32 rounding."""
    if number == 0:
        return 0.0
    unit = 2.0 ** (math.frexp(number)[1] - 8)
    return math.ceil(number / unit - 1e-3) * unit


def _positive(number: float) -> float:
    """A usable range for a value that was 0 on every calibration image."""
    return number if number > 0 else 1.0


def _snap(scale: float, step: float, *, least_exponent: float) -> float:
    tolerance = 1e-9  # a ratio that is a power of two but for float rounding stays one
    exponent = max(math.ceil(math.log2(scale / step) - tolerance), least_exponent)
    return float(step * 2.0**exponent)


def _argument(seen: Range, finest: float) -> Quantisation:
    dtype = IntegerType(bits=ARGUMENT_BITS, signed=False)
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    scale = max(_positive(high - low) / dtype.high, finest)
    return Quantisation(dtype=dtype, scale=scale, zero_point=min(round(-low / scale), dtype.high))


def _logits(seen: Range, step: float | None, finest: float, *, biased: bool) -> Quantisation:
    """`biased`: the classes have biases of their own, which may lie between the integers of the last layer."""
    dtype = IntegerType(bits=LOGIT_BITS, signed=True)
    scale = max(_positive(max(abs(seen.low), abs(seen.high))) * LOGIT_HEADROOM / dtype.high, finest)
    if step is not None:  # without biases nothing is gained by logits finer than the integers they come from
        scale = _snap(scale, step, least_exponent=-math.inf if biased else 0)
    return Quantisation(dtype=dtype, scale=scale)


def _has_one_shift(source: Node | None) -> bool:
    match source and source.attributes:
        case Affine(shift=shift):
            return bool((shift == shift[0]).all())
    return False


def _require_one_kind(graph: Graph, node: Node, chosen: Quantisation) -> None:
    source = graph.producers.get(node.inputs[0])
    is_sign = source is not None and isinstance(source.attributes, Sign)
    if is_sign != chosen.bipolar:
        raise PassFailed(
            f"{node.place}: 1-bit and k-bit activations are concatenated, so that they cannot share a scale; "
            "concatenate values of one kind"
        )


def _step(node: Node, steps: Mapping[str, float | None], shapes: Mapping[str, Shape]) -> float | None:
    """The real size of one unit of the integer behind a value, if it is the same for all channels and pixels."""
    step = steps[node.inputs[0]]
    match node.attributes:
        case Quantise(quantisation=quantisation):
            return quantisation.scale
        case Affine(scale=scale):
            uniform = bool((scale == scale[0]).all()) and scale[0] > 0
            return step * float(scale[0]) if uniform and step is not None else None
        case AveragePool(window=window, count_padding=counts):
            _, height, width = shapes[node.inputs[0]]
            divisors = pool_divisors(window, height, width, count_padding=counts)
            same = bool((divisors == divisors[0, 0]).all())
            return step / int(divisors[0, 0]) if same and step is not None else None
        case GlobalAveragePool():
            _, height, width = shapes[node.inputs[0]]
            return step / (height * width) if step is not None else None
        case Convolution() | Clamp() | Add() | MaxPool() | ChannelPad() | Concatenate():
            return step
        case _:
            return None


def _largest_unit(node: Node, units: Mapping[str, float], shapes: Mapping[str, Shape]) -> float:
    """The real size of one unit of the integer behind a value, the largest of all channels and pixels."""
    unit = units[node.inputs[0]]
    match node.attributes:
        case Quantise(quantisation=quantisation):
            return quantisation.slope
        case Affine(scale=scale):
            return unit * float(np.abs(scale).max())
        case AveragePool(window=window, count_padding=counts):
            _, height, width = shapes[node.inputs[0]]
            return unit / max(int(pool_divisors(window, height, width, count_padding=counts).min()), 1)
        case GlobalAveragePool():
            _, height, width = shapes[node.inputs[0]]
            return unit / (height * width)
        case _:
            return unit
