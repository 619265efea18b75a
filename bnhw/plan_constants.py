"""Constants of the operations of a tail, in the order that the interpreter reads them.

A requantise step takes 32-bit arithmetic where that is exact for every sum that its input's type holds, decided
here, and 64-bit arithmetic elsewhere.
"""

from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array, IntegerType
from bnhw.kernels.fused.fields import LANES, REQUANTISE, REQUANTISE_WIDE, THRESHOLD
from bnhw.kernels.threshold_limits import threshold_limits
from bnhw.program import AddSaturating, Program, Requantise, Tensor, Threshold

INT32 = np.iinfo(np.int32)
MOST_LOW_BITS = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shifts:
    """A requantise step to codes from `low`, 0 or more, to `high` that adds and shifts alone, in 32 bits for any sum,
    and has no channels that fill a chunk up. tables: as those of `Constants`, of which offset and shift count."""

    tables: Array
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constants:
    """Of one operation: its kind, bytes (classes, chunks, bytes of a chunk), the class of each pixel, `O_LEVELS`.

    shifts: of a requantise step that can do without clamping sums.
    """

    kind: int
    tables: Array
    classes: Array | None
    levels: int = 0
    shifts: Shifts | None = None


def requantise_constants(program: Program, instruction: Requantise) -> Constants:
    """As `REQUANTISE_BYTES` or `REQUANTISE_WIDE_BYTES` says; channels that fill a chunk up give the zero point."""
    source, result = program.tensor[instruction.inputs[0]], program.tensor[instruction.output]
    offset = program.constants[instruction.offset].astype(np.int64)
    multiplier = program.constants[instruction.multiplier] if instruction.multiplier else np.ones_like(offset)
    tables = [multiplier.astype(np.int64), offset, program.constants[instruction.shift].astype(np.int64)]
    channels = source.shape[2]
    factor, addend, shift = (np.broadcast_to(table, (len(offset), channels)) for table in tables)
    classes = _classes(program, instruction.position_classes)
    narrow = narrow_requantise(factor, addend, shift, source.dtype, instruction.low, instruction.high)
    if narrow is not None and INT32.min <= result.zero_point << narrow[-1] <= INT32.max:
        *narrow_tables, low_bits = narrow
        fillers = (0, 0, 0, result.zero_point << low_bits, 0)
        parts = [_chunks(table, filler, np.int32) for table, filler in zip(narrow_tables, fillers, strict=True)]
        joined = _interleave(parts)
        if channels % LANES or not only_shifts(factor, addend, source.dtype, instruction.low):
            return Constants(kind=REQUANTISE, tables=joined, classes=classes, levels=low_bits)
        parts[3:] = [_chunks(table, 0, np.int32) for table in (addend, shift)]
        shifts = Shifts(tables=_interleave(parts), low=instruction.low, high=instruction.high)
        return Constants(kind=REQUANTISE, tables=joined, classes=classes, levels=low_bits, shifts=shifts)
    low, high = (np.full(factor.shape, bound, np.int64) for bound in (instruction.low, instruction.high))
    zero = result.zero_point
    parts = [_chunks(factor, 0, np.int32), _chunks(addend, zero, np.int64), _chunks(shift, 0, np.int64)]
    parts += [_chunks(low, zero, np.int32), _chunks(high, zero, np.int32)]
    return Constants(kind=REQUANTISE_WIDE, tables=_interleave(parts), classes=classes)


def narrow_requantise(
    factor: Array, addend: Array, shift: Array, source: IntegerType, low: int, high: int
) -> tuple[Array, Array, Array, Array, Array, int] | None:
    """What 32-bit arithmetic takes where it is exact, or None where it is not, for all channels together.

    Lowest and highest sum, multiplier, offset, shift; and how many low bits of a sum are multiplied apart, so that
    the rest of the product fits. Clamping the sums to where codes still change makes the codes stay in low..high, as
    long as one more in a sum is at most one more in the code (|M| <= 2^S).
    """
    if shift.max() >= 31 or (np.abs(factor) > np.left_shift(np.int64(1), shift)).any():
        return None
    bottom, top = (np.int64(low) << shift) - addend, (np.int64(high + 1) << shift) - 1 - addend
    divisor = np.where(factor == 0, 1, factor)
    least = np.where(factor > 0, -((-bottom) // divisor), -((-top) // divisor))
    most = np.where(factor > 0, top // divisor, bottom // divisor)
    never = (least > source.high) | (most < source.low)  # every sum is clamped to the same bound
    bound = np.where((factor > 0) == (most < source.low), high, low)
    constant = np.where(never & (factor != 0), bound, np.clip(addend >> shift, low, high))
    is_constant = never | (factor == 0)
    least, most = (np.where(is_constant, 0, np.clip(limit, source.low, source.high)) for limit in (least, most))
    factor = np.where(is_constant, 0, factor)
    for low_bits in range(MOST_LOW_BITS + 1):
        if (shift[~is_constant] < low_bits).any():
            return None
        offset = np.where(is_constant, constant << low_bits, addend)
        totals = np.stack([least * factor + offset, most * factor + offset]) >> low_bits
        apart = np.abs(factor) * ((1 << low_bits) - 1) + np.abs(offset)
        if totals.min() >= INT32.min and totals.max() <= INT32.max and (low_bits == 0 or apart.max() <= INT32.max):
            return least, most, factor, offset, np.where(is_constant, 0, shift - low_bits), low_bits
    return None


def only_shifts(factor: Array, addend: Array, source: IntegerType, low: int) -> bool:
    """Whether a step multiplies by 1, to codes of 0 or more, and needs no more than 32 bits for any sum."""
    ends = np.stack([addend + source.low, addend + source.high])
    return bool(low >= 0 and (factor == 1).all() and ends.min() >= INT32.min and ends.max() <= INT32.max)


def threshold_constants(program: Program, instruction: Threshold) -> Constants:
    """Base, flip and limits (levels, 16) of each chunk, see `bnhw.kernels.threshold_limits`."""
    channels = program.tensor[instruction.inputs[0]].shape[2]
    result = program.tensor[instruction.output]
    stored = program.constants[instruction.thresholds].astype(np.int64)
    table = np.broadcast_to(stored, (len(stored), channels, stored.shape[2]))
    falling = program.constants[instruction.falling] if instruction.falling else np.zeros(1, np.int8)
    falls = np.broadcast_to(falling.astype(np.bool_), (channels,))
    base, limits, flip = threshold_limits(table, falls, instruction.low)
    missing = -channels % LANES
    padded = np.pad(limits, ((0, 0), (0, missing), (0, 0)), constant_values=INT32.max)
    by_level = padded.reshape(len(base), -1, LANES, limits.shape[2]).swapaxes(2, 3)
    limit_bytes = np.ascontiguousarray(by_level).reshape(len(base), -1, LANES * limits.shape[2]).view(np.uint8)
    flips = np.broadcast_to(flip, base.shape)
    parts = [_chunks(base, result.zero_point, np.int32), _chunks(flips, 0, np.int32), limit_bytes]
    classes = _classes(program, instruction.position_classes)
    return Constants(kind=THRESHOLD, tables=_interleave(parts), classes=classes, levels=limits.shape[2])


def add_constants(instruction: AddSaturating, result: Tensor) -> Array:
    """Lowest and highest sum of each chunk, (1, chunks, bytes)."""
    bounds = [np.full((1, result.shape[2]), bound, np.int64) for bound in (instruction.low, instruction.high)]
    parts = [_chunks(bounds[0], INT32.min, np.int32), _chunks(bounds[1], INT32.max, np.int32)]
    return _interleave(parts)


def _classes(program: Program, name: str) -> Array | None:
    return program.constants[name].astype(np.int64).reshape(-1) if name else None


def _chunks(table: Array, filler: int, dtype: type) -> Array:
    """(classes, channels) -> bytes (classes, chunks, bytes of 16 elements)."""
    filled: Array = np.pad(table.astype(dtype), ((0, 0), (0, -table.shape[1] % LANES)), constant_values=filler)
    return np.ascontiguousarray(filled).reshape(len(table), -1, LANES).view(np.uint8)


def _interleave(parts: list[Array]) -> Array:
    return np.concatenate(parts, axis=2)
