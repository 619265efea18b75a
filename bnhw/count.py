"""What one image costs in operations and storage, independent of any hardware's size or clock.

Counts are exact and per image. Two MAC figures: *full* counts padded taps as other tools do, *trimmed* only the
taps that lie inside the image. A convolution with 1-bit weights has no multipliers: each MAC is one multiplexer
(add or subtract) and one addition, or one XNOR and one popcount bit where activations are 1-bit too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from bnhw.dtypes import Array
from bnhw.ops import Window, pool_divisors
from bnhw.options import RequantiseMode
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    LookUp,
    Multiply,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Tensor,
    Threshold,
)
from bnhw.requantise_constants import count_signed_digits
from bnhw.widths import requantise_types


class ActionKind(Enum):
    """The kinds of operation that hardware instantiates."""

    XNOR = "xnor"
    POPCOUNT = "popcount"
    MUX = "mux"
    ADD = "add"
    MULTIPLY = "multiply"
    SHIFT = "shift"
    COMPARE = "compare"
    LOOKUP = "lookup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One kind of operation and its operand widths in bits."""

    kind: ActionKind
    widths: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The key in reports: `add_16`, `multiply_20x16`, ..."""
        return "_".join(filter(None, (self.kind.value, "x".join(map(str, self.widths)))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Per image. `weight_bits` and `constant_bits` are unique storage without padding to words."""

    macs_full: int = 0
    macs_trimmed: int = 0
    actions: Mapping[Action, int]
    weight_bits: int = 0
    constant_bits: int = 0

    @property
    def multipliers(self) -> int:
        """Multiplications a image."""
        return sum(count for action, count in self.actions.items() if action.kind is ActionKind.MULTIPLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCounts:
    """The counts of one instruction, by its position in the program."""

    instruction: Instruction
    counts: Counts


def count_program(program: Program) -> tuple[LayerCounts, ...]:
    """The counts of every instruction, in order."""
    return tuple(
        LayerCounts(instruction=instruction, counts=_count(program, instruction))
        for instruction in program.instructions
    )


def total(layers: tuple[LayerCounts, ...]) -> Counts:
    """The sum over all layers."""
    actions: Counter[Action] = Counter()
    for layer in layers:
        actions.update(layer.counts.actions)
    return Counts(
        macs_full=sum(layer.counts.macs_full for layer in layers),
        macs_trimmed=sum(layer.counts.macs_trimmed for layer in layers),
        actions=dict(actions),
        weight_bits=sum(layer.counts.weight_bits for layer in layers),
        constant_bits=sum(layer.counts.constant_bits for layer in layers),
    )


def array_multiplications(layers: tuple[LayerCounts, ...]) -> int:
    """Multiplications in the array alone: those of convolutions, without the requantise steps."""
    return sum(layer.counts.multipliers for layer in layers if isinstance(layer.instruction, Convolve))


def _count(program: Program, instruction: Instruction) -> Counts:
    source = program.tensor[instruction.inputs[0]]
    result = program.tensor[instruction.output]
    match instruction:
        case Convolve():
            return _count_convolve(program, instruction, source, result)
        case Requantise():
            return _count_requantise(program, instruction, source, result)
        case Threshold():
            return _count_threshold(program, instruction, source, result)
        case LookUp(table=table):
            entries = program.constants[table].size
            return Counts(
                actions={Action(kind=ActionKind.LOOKUP): result.size},
                constant_bits=entries * result.dtype.bits,
            )
        case AddSaturating():
            return Counts(
                actions={
                    Action(kind=ActionKind.ADD, widths=(result.dtype.bits,)): result.size,
                    Action(kind=ActionKind.COMPARE, widths=(result.dtype.bits + 1,)): 2 * result.size,
                }
            )
        case Multiply():
            return _count_multiply([program.tensor[name] for name in instruction.inputs], result)
        case PoolSum(window=window):
            additions = source.shape[2] * _taps_inside(window, source) - result.size
            additions += _zero_point_additions(source, result)
            return Counts(actions={Action(kind=ActionKind.ADD, widths=(result.dtype.bits,)): additions})
        case PoolMaximum(window=window):
            taps = _taps_inside(window, source)
            comparisons = source.shape[2] * (taps - result.shape[0] * result.shape[1])
            return Counts(actions={Action(kind=ActionKind.COMPARE, widths=(source.dtype.bits,)): comparisons})
        case SumGlobal():
            additions = source.size - result.size + _zero_point_additions(source, result)
            return Counts(actions={Action(kind=ActionKind.ADD, widths=(result.dtype.bits,)): additions})
        case _:
            return Counts(actions={})


def _count_multiply(factors: Sequence[Tensor], result: Tensor) -> Counts:
    """One multiplication for each number; a zero point is subtracted first, which takes one bit more."""
    actions: Counter[Action] = Counter()
    widths = []
    for factor in factors:
        bits = factor.dtype.bits + bool(factor.zero_point)
        widths.append(bits)
        if factor.zero_point:
            actions[Action(kind=ActionKind.ADD, widths=(bits,))] += factor.size
    actions[Action(kind=ActionKind.MULTIPLY, widths=tuple(widths))] += result.size
    return Counts(actions=dict(actions))


def _zero_point_additions(source: Tensor, result: Tensor) -> int:
    """A sum of codes with a zero point needs one more constant added for each result."""
    return result.size if source.zero_point else 0


def _taps_inside(window: Window, source: Tensor) -> int:
    """Taps of all windows that lie inside the image, for one channel."""
    return int(pool_divisors(window, source.shape[0], source.shape[1], count_padding=False).sum())


def _count_convolve(program: Program, convolve: Convolve, source: Tensor, result: Tensor) -> Counts:
    """One multiplexer, XNOR or multiplication and one addition a tap.

    Padded taps are skipped where they add nothing. Where codes have a zero point, an engine that sums codes must
    run padded taps too, with the zero point as their code, so that its constant sum of weights, which goes into the
    requantise step's B, is the same for all pixels: then every tap counts.
    """
    out_channels, height, width, per_group = convolve.weight_shape
    rows, columns, _ = result.shape
    full = rows * columns * height * width * out_channels * per_group
    trimmed = _taps_inside(convolve.window, source) * out_channels * per_group
    taps = full if source.zero_point else trimmed
    add = Action(kind=ActionKind.ADD, widths=(result.dtype.bits,))
    if convolve.weight_bits > 1:
        multiply = Action(kind=ActionKind.MULTIPLY, widths=(source.dtype.bits, convolve.weight_bits))
        actions = {multiply: taps, add: taps}
    elif source.bipolar:
        actions = {Action(kind=ActionKind.XNOR): taps, Action(kind=ActionKind.POPCOUNT): taps}
    else:
        actions = {Action(kind=ActionKind.MUX, widths=(source.dtype.bits,)): taps, add: taps}
    return Counts(
        macs_full=full,
        macs_trimmed=trimmed,
        actions=actions,
        weight_bits=program.weight_storage_bits(convolve),
    )


def _signed_bits(array: Array) -> int:
    """Bits of a two's complement number that holds every entry."""
    low, high = int(array.min()), int(array.max())
    return 1 + max((-low - 1).bit_length() if low < 0 else 0, high.bit_length() if high > 0 else 0)


def is_comparison(program: Program, requantise: Requantise) -> bool:
    """Whether a step is one comparison with a threshold for each number: a sign, where channels may fall."""
    plain = not requantise.multiplier or bool((np.abs(program.constants[requantise.multiplier]) == 1).all())
    return program.tensor[requantise.output].bipolar and plain and not program.constants[requantise.shift].any()


def channel_digits(program: Program, requantise: Requantise) -> Array:
    """The signed digits of each channel's M, int64 (channels,): the most over the rows of different divisors.

    0 where M is 0 and the channel constant.
    """
    channels = program.tensor[requantise.output].shape[2]
    if not requantise.multiplier:
        return np.ones(channels, np.int64)
    digits = count_signed_digits(program.constants[requantise.multiplier]).max(axis=0)
    return np.array(np.broadcast_to(digits, (channels,)))


def digit_additions(program: Program, requantise: Requantise) -> int:
    """Additions an image that join the signed digits of M in mode csd: one a digit but the first; 0 in other modes."""
    if requantise.mode is not RequantiseMode.CSD:
        return 0
    height, width, _ = program.tensor[requantise.output].shape
    return height * width * int(np.maximum(channel_digits(program, requantise) - 1, 0).sum())


def _count_requantise(program: Program, requantise: Requantise, source: Tensor, result: Tensor) -> Counts:
    """The product with M, the addition of B, the shift by S and the two comparisons of the clamp, for each number.

    The product is one multiplication in mode multiply, wires in mode shift, and in mode csd one addition a signed
    digit but the first. Digits are those of `channel_digits`: what is executed, channel by channel, not what the
    channel with the most digits would need everywhere; constants are stored with room for the most. Shifts are wires
    where every channel shifts alike; else there is one shifter, or one a signed digit. An addition of 0 for all
    channels is none. A 1-bit result without product or shift is one comparison with a threshold. A map of position
    classes counts as constants.
    """
    offset, shift = program.constants[requantise.offset], program.constants[requantise.shift]
    multiplier = program.constants[requantise.multiplier] if requantise.multiplier else np.ones_like(shift)
    types = requantise_types(program, requantise)
    width = types.product.bits
    constant_bits = offset.size * _signed_bits(offset) + shift.size * int(shift.max()).bit_length()
    constant_bits += _class_bits(program, requantise.position_classes, len(offset))
    if is_comparison(program, requantise):
        falling = multiplier.size if (multiplier < 0).any() else 0
        compare = Action(kind=ActionKind.COMPARE, widths=(source.dtype.bits,))
        return Counts(actions={compare: result.size}, constant_bits=constant_bits + falling)
    shifters = result.size * int((shift != shift.flat[0]).any() or (multiplier != multiplier.flat[0]).any())
    actions: Counter[Action] = Counter()
    match requantise.mode:
        case RequantiseMode.MULTIPLY:
            constant_bits += multiplier.size * requantise.multiplier_bits
            shifters = result.size * int((shift != shift.flat[0]).any())
            if (np.abs(multiplier) > 1).any():
                operands = (source.dtype.bits, requantise.multiplier_bits)
                actions[Action(kind=ActionKind.MULTIPLY, widths=operands)] += result.size
        case RequantiseMode.CSD:
            constant_bits += multiplier.size * requantise.digits * (1 + (requantise.multiplier_bits - 1).bit_length())
            digits = channel_digits(program, requantise)
            pixels = result.size // len(digits)
            shifters = pixels * int(np.maximum(digits, 1).sum()) if shifters else 0
            actions[Action(kind=ActionKind.ADD, widths=(width,))] += digit_additions(program, requantise)
        case RequantiseMode.SHIFT:
            constant_bits += multiplier.size * requantise.multiplier_bits if requantise.multiplier else 0
    if offset.any():
        actions[Action(kind=ActionKind.ADD, widths=(types.total.bits,))] += result.size
    actions[Action(kind=ActionKind.SHIFT, widths=(width,))] += shifters
    actions[Action(kind=ActionKind.COMPARE, widths=(width,))] += 2 * result.size
    return Counts(actions={action: n for action, n in actions.items() if n}, constant_bits=constant_bits)


def _count_threshold(program: Program, threshold: Threshold, source: Tensor, result: Tensor) -> Counts:
    """One comparator a level, all at once, for each number; how many agree is read off their outputs.

    A channel's slope is one more bit where some channels fall. A map of position classes counts as constants.
    """
    table = program.constants[threshold.thresholds]
    constant_bits = table.size * _signed_bits(table)
    constant_bits += program.constants[threshold.falling].size if threshold.falling else 0
    constant_bits += _class_bits(program, threshold.position_classes, len(table))
    compare = Action(kind=ActionKind.COMPARE, widths=(source.dtype.bits,))
    return Counts(actions={compare: table.shape[2] * result.size}, constant_bits=constant_bits)


def _class_bits(program: Program, position_classes: str, rows: int) -> int:
    """Bits of a map of position classes."""
    return program.constants[position_classes].size * (rows - 1).bit_length() if position_classes else 0
