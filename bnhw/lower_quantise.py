"""A chain of pointwise nodes behind an integer tensor, and the Quantise that ends it, become one instruction.

Which one: a lookup where the chain starts at the image, or where it applies a function to codes; a comparison for a
sign; else what the node's own requantise mode says, thresholds or a product, a sum and a shift.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Node
from bnhw.lowering_state import Lowering, Pending, RatioError
from bnhw.ops import Quantise, quantise
from bnhw.options import RequantiseMode
from bnhw.program import LookUp, Requantise, Tensor, Threshold
from bnhw.requantise_constants import (
    MAX_SUM,
    Constants,
    count_signed_digits,
    find_constants,
    find_sign_constants,
)
from bnhw.threshold_constants import Line, Rounding, codes_of, find_thresholds

MAX_TABLE_BITS = 12
"""A table of a code has at most 2^12 entries."""


def lower_quantise(state: Lowering, node: Node, wanted: Quantise) -> Tensor:
    """The codes of `node`, a Quantise with the attributes `wanted`.

    Raises PassFailed with the node's name where the mode cannot express the step.
    """
    chain = state.pending(node.inputs[0])
    base, mode = chain.base, wanted.requantisation.mode
    if base.name == state.image.name:
        return _lower_lookup(state, node, chain, wanted.quantisation)
    if mode is RequantiseMode.THRESHOLD and not chain.sign:
        return _lower_thresholds(state, node, chain, wanted.quantisation)
    if chain.activation is not None:
        assert not base.dtype.signed, f"{node.place}: a function of sums; a quantise point is missing"
        assert base.dtype.bits <= MAX_TABLE_BITS, f"{node.place}: a function of {base.dtype}; a point is missing"
        return _lower_lookup(state, node, chain, wanted.quantisation)
    return _lower_product(state, node, chain, wanted)


def _lines(state: Lowering, chain: Pending) -> list[list[Line]]:
    """The exact real values of the base's integers, (classes, channels), before any function."""
    unit = state.units[chain.base.name]
    slope, intercept = (2 * unit, -unit) if chain.base.bipolar else (unit, -unit * chain.base.zero_point)
    divisors, _ = chain.constants_shape()
    pairs = [(Fraction(scale), Fraction(shift)) for scale, shift in zip(chain.scale, chain.shift, strict=True)]
    return [
        [Line(slope=scale * slope / divisor, intercept=scale * intercept / divisor + shift) for scale, shift in pairs]
        for divisor in (int(number) for number in divisors[:, 0])
    ]


def _rounding(chain: Pending, quantisation: Quantisation) -> Rounding:
    return Rounding(quantisation=quantisation, activation=chain.activation, low=chain.low, high=chain.high)


def _lower_thresholds(state: Lowering, node: Node, chain: Pending, quantisation: Quantisation) -> Tensor:
    base, name = chain.base, node.output
    try:
        found = find_thresholds(_lines(state, chain), _rounding(chain, quantisation), state.ranges[base.name])
    except ValueError as error:
        raise PassFailed(f"requantise step of {node.place}: {error}") from error
    _, classes = chain.constants_shape()
    span = (found.low, found.low + found.values.shape[2])
    instruction = Threshold(
        inputs=(base.name,),
        output=name,
        source=node.source,
        thresholds=state.constant(f"{name}/thresholds", _narrow(found.values)),
        falling=state.constant(f"{name}/falling", found.falling.astype(np.int8)) if found.falling.any() else "",
        position_classes="" if chain.divisors is None else state.constant(f"{name}/classes", classes),
        low=span[0],
    )
    return state.store(node, instruction, quantisation, span)


def _narrow(numbers: Array) -> Array:
    """The same numbers in the narrowest of the types that a program stores thresholds in."""
    bits = IntegerType.containing(min(int(numbers.min()), -1), int(numbers.max())).bits
    return numbers.astype(np.int16 if bits <= 16 else np.int32 if bits <= 32 else np.int64)


def _lower_product(state: Lowering, node: Node, chain: Pending, wanted: Quantise) -> Tensor:
    quantisation = wanted.quantisation
    divisors, classes = chain.constants_shape()
    slope, intercept = _base_line(chain.base)
    ratio = chain.scale * slope / divisors
    offset = np.broadcast_to(chain.scale * intercept + chain.shift, ratio.shape)
    low, high = quantisation.dtype.low, quantisation.dtype.high
    try:
        if chain.sign:
            constants = find_sign_constants(ratio, offset, *state.ranges[chain.base.name])
        else:
            steps = offset / quantisation.scale + quantisation.zero_point + 0.5
            centre = None if wanted.centre is None else wanted.centre / quantisation.scale + quantisation.zero_point
            constants = find_constants(ratio / quantisation.scale, steps, wanted.requantisation, centre, wanted.digits)
            low, high = _clamp_codes(chain, quantisation)
            state.errors[node.output] = RatioError(
                relative=_visible_error(constants, ratio / quantisation.scale, state.ranges[chain.base.name]),
                requantisation=wanted.requantisation,
            )
    except ValueError as error:
        raise PassFailed(f"requantise step of {node.place}: {error}") from error
    _require_narrow_sums(node, constants, state.ranges[chain.base.name])
    instruction = _requantise(state, node, chain, constants, classes, (low, high))
    return state.store(node, instruction, quantisation, (low, high))


def _visible_error(constants: Constants, ratio: Array, span: tuple[int, int]) -> float:
    """The largest relative error of a channel's ratio, of the channels where it can move a result by half a code."""
    found = constants.multiplier / np.exp2(constants.shift)
    moved = np.abs(found - ratio) * max(abs(span[0]), abs(span[1]))
    visible = (moved > 0.5) & (ratio != 0)
    return float(np.abs(found[visible] / ratio[visible] - 1).max(initial=0.0))


def _base_line(base: Tensor) -> tuple[float, float]:
    """a and b of real = a * code + b."""
    if base.bipolar:
        return 2 * base.scale, -base.scale
    return base.scale, -base.scale * base.zero_point


def _clamp_codes(chain: Pending, quantisation: Quantisation) -> tuple[int, int]:
    low, high = quantisation.dtype.low, quantisation.dtype.high
    if np.isfinite(chain.low):
        low = int(quantise(np.asarray(chain.low), quantisation))
    if np.isfinite(chain.high):
        high = int(quantise(np.asarray(chain.high), quantisation))
    return low, high


def _requantise(
    state: Lowering,
    node: Node,
    chain: Pending,
    constants: Constants,
    classes: Array,
    bounds: tuple[int, int],
) -> Requantise:
    columns = slice(0, 1) if constants.uniform else slice(None)
    plain = bool((constants.multiplier == 1).all())
    name = node.output
    bits = IntegerType.containing(int(min(constants.multiplier.min(), -1)), int(constants.multiplier.max())).bits
    return Requantise(
        inputs=(chain.base.name,),
        output=name,
        source=node.source,
        mode=constants.mode,
        multiplier="" if plain else state.constant(f"{name}/multiplier", constants.multiplier[:, columns]),
        offset=state.constant(f"{name}/offset", constants.offset[:, columns]),
        shift=state.constant(f"{name}/shift", constants.shift[:, columns]),
        position_classes="" if chain.divisors is None else state.constant(f"{name}/classes", classes),
        multiplier_bits=bits,
        digits=int(count_signed_digits(constants.multiplier).max()) if constants.mode is RequantiseMode.CSD else 0,
        low=bounds[0],
        high=bounds[1],
    )


def _require_narrow_sums(node: Node, constants: Constants, span: tuple[int, int]) -> None:
    largest = max(abs(span[0]), abs(span[1])) * int(np.abs(constants.multiplier).max())
    if largest + int(np.abs(constants.offset).max()) >= MAX_SUM:
        raise PassFailed(f"requantise step of {node.place}: its sums exceed 63 bits; use a narrower multiply:M, or csd")


def _lower_lookup(state: Lowering, node: Node, chain: Pending, quantisation: Quantisation) -> Tensor:
    """Any function of a code: one table entry for each."""
    base = chain.base
    codes = np.arange(base.dtype.low, base.dtype.high + 1)
    table = _table(_lines(state, chain)[0], chain, quantisation, codes)
    if (table == table[:1]).all():
        table = table[:1]
    narrow = table.astype(np.int16 if quantisation.dtype.bits < 16 else np.int32)
    instruction = LookUp(
        inputs=(base.name,),
        output=node.output,
        source=node.source,
        table=state.constant(f"{node.output}/table", narrow),
    )
    span = (int(table.min()), int(table.max()))
    return state.store(node, instruction, quantisation, span)


def _table(lines: Sequence[Line], chain: Pending, quantisation: Quantisation, codes: Array) -> Array:
    """The exact results, int64 (channels, codes)."""
    if chain.sign:
        reals = [[line.slope * int(code) + line.intercept for code in codes] for line in lines]
        return np.array([[real >= 0 for real in row] for row in reals], np.int64)
    rounding = _rounding(chain, quantisation)
    rows = {line: codes_of(line, rounding, codes) for line in dict.fromkeys(lines)}
    return np.array([rows[line] for line in lines])
