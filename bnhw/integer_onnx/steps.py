"""From accumulators to codes: requantise and threshold steps, and lookups."""

import numpy as np
from onnx import TensorProto

from bnhw.dtypes import Array, IntegerType
from bnhw.integer_onnx.builder import GraphBuilder, Span
from bnhw.program import LookUp, Requantise, Threshold

LIFT = 1 << 62
"""A well-formed sum lies between -LIFT and LIFT, so that sum + LIFT is not negative: ONNX shifts unsigned integers."""

NEVER = np.iinfo(np.int64).max
"""A threshold that no accumulator reaches."""


def requantise(builder: GraphBuilder, instruction: Requantise) -> None:
    """clamp((acc * M + B) >> S) in 64 bits: floor(x / 2^S) = ((x + LIFT) >> S) - (LIFT >> S), as S is at most 62."""
    constants, classes = builder.program.constants, instruction.position_classes
    offset, shift = (constants[name].astype(np.int64) for name in (instruction.offset, instruction.shift))
    multiplier = constants[instruction.multiplier].astype(np.int64) if instruction.multiplier else np.ones_like(offset)
    value = builder.cast(builder.operand(instruction), TensorProto.INT64)
    if instruction.multiplier:
        value = builder.add("Mul", value, builder.per_pixel(multiplier, classes, "multiplier"))
    value = builder.add("Add", value, builder.per_pixel(offset + LIFT, classes, "offset"))
    places = builder.per_pixel(shift.astype(np.uint64), classes, "shift")
    shifted = builder.add("BitShift", builder.cast(value, TensorProto.UINT64), places, direction="RIGHT")
    value = builder.cast(shifted, TensorProto.INT64)
    value = builder.add("Sub", value, builder.per_pixel(np.int64(LIFT) >> shift, classes, "lift"))
    span = _shifted_span(builder.source(instruction).dtype, multiplier, offset, shift)
    builder.clamp(value, span, instruction.low, instruction.high, instruction.output)


def _shifted_span(dtype: IntegerType, multiplier: Array, offset: Array, shift: Array) -> Span:
    """The range of (acc * M + B) >> S for accumulators of `dtype`; Python integers, which never wrap."""
    factor, addend, places = (array.astype(object) for array in (multiplier, offset, shift))
    ends = [(bound * factor + addend) >> places for bound in (dtype.low, dtype.high)]
    return int(min(end.min() for end in ends)), int(max(end.max() for end in ends))


def threshold(builder: GraphBuilder, instruction: Threshold) -> None:
    """low + the number of thresholds that are reached, by binary search in ascending rows of 2^rounds - 1.

    A falling channel counts acc <= t, which is all thresholds but those with acc >= t + 1.
    """
    stored = builder.program.constants[instruction.thresholds].astype(np.int64)
    classes, channels, levels = stored.shape
    falling = np.zeros(1, bool)
    if instruction.falling:
        falling = builder.program.constants[instruction.falling].astype(bool)
        channels = max(channels, len(falling))
    rounds = max(levels.bit_length(), 1)
    rows = np.full((classes, channels, 1 << rounds), NEVER)
    rows[..., :levels] = stored + np.where((stored < NEVER) & falling[:, np.newaxis], 1, 0)
    first = np.arange(classes * channels, dtype=np.int64).reshape(classes, channels) << rounds
    table = builder.constant(rows.reshape(-1), "thresholds")
    start = builder.per_pixel(first, instruction.position_classes, "row")
    reached = _search(builder, builder.operand(instruction), table, start, rounds)
    lowest = np.where(falling, instruction.low + levels, instruction.low).astype(np.int64).reshape(1, -1, 1, 1)
    if falling.any():
        sign = np.where(falling, -1, 1).astype(np.int64).reshape(1, -1, 1, 1)
        reached = builder.add("Mul", reached, builder.constant(sign, "sign"))
    total = builder.add("Add", reached, builder.constant(lowest, "lowest"))
    builder.cast(total, TensorProto.INT32, instruction.output)


def _search(builder: GraphBuilder, codes: str, table: str, start: str, rounds: int) -> str:
    """How many of the 2^rounds - 1 entries of `table` from `start` on are at most the code, int64."""
    acc = builder.cast(codes, TensorProto.INT64)
    reached = ""
    for step in (1 << number for number in reversed(range(rounds))):
        at = builder.add("Add", start, builder.scalar(step - 1, np.int64, "half"))
        if reached:
            at = builder.add("Add", at, reached)
        found = builder.add("GreaterOrEqual", acc, builder.add("Gather", table, at))
        part = builder.add("Mul", builder.cast(found, TensorProto.INT64), builder.scalar(step, np.int64, "step"))
        reached = builder.add("Add", reached, part) if reached else part
    return reached


def look_up(builder: GraphBuilder, instruction: LookUp) -> None:
    """table[channel][code], the rows one behind the other."""
    table: Array = builder.program.constants[instruction.table].astype(np.int32)
    code = builder.operand(instruction)
    if len(table) > 1:
        first = np.arange(len(table), dtype=np.int32).reshape(1, -1, 1, 1) * table.shape[1]
        code = builder.add("Add", code, builder.constant(first.astype(np.int32), "row"))
    builder.add("Gather", builder.constant(table.reshape(-1), "table"), code, output=instruction.output)
