"""Pools and sums, by slices: ONNX's own pools take no wide integers."""

import numpy as np

from bnhw.integer_onnx.builder import GraphBuilder
from bnhw.ops import Window
from bnhw.program import PoolMaximum, PoolSum, SumGlobal

LOWEST = int(np.iinfo(np.int32).min)


def pool_sum(builder: GraphBuilder, instruction: PoolSum) -> None:
    """The sum of code - zero point over each window."""
    source = builder.source(instruction)
    values = builder.minus_zero_point(builder.operand(instruction), source.zero_point)
    padded = _pad(builder, values, instruction.window, 0)
    _slide(builder, padded, instruction.window, source.shape[:2], ("Add", "ReduceSum"), instruction.output)


def pool_maximum(builder: GraphBuilder, instruction: PoolMaximum) -> None:
    """The largest code of each window; no code is below the padding."""
    source = builder.source(instruction)
    padded = _pad(builder, builder.operand(instruction), instruction.window, LOWEST)
    _slide(builder, padded, instruction.window, source.shape[:2], ("Max", "ReduceMax"), instruction.output)


def sum_global(builder: GraphBuilder, instruction: SumGlobal) -> None:
    """The sum of code - zero point over all pixels."""
    source = builder.source(instruction)
    values = builder.minus_zero_point(builder.operand(instruction), source.zero_point)
    builder.add("ReduceSum", values, builder.indices([2, 3], "axes"), keepdims=1, output=instruction.output)


def _pad(builder: GraphBuilder, value: str, window: Window, number: int) -> str:
    if not any(window.pads):
        return value
    top, left, bottom, right = window.pads
    pads = builder.indices([0, 0, top, left, 0, 0, bottom, right], "pads")
    return builder.add("Pad", value, pads, builder.scalar(number, np.int32, "padding"))


def _slide(
    builder: GraphBuilder, value: str, window: Window, size: tuple[int, int], ops: tuple[str, str], output: str
) -> None:
    """Join the taps along the rows, then along the columns: height + width steps rather than their product.

    ops: the operation of two tensors, and of a whole axis where one window covers it.
    """
    joining, reducing = ops
    top, left, bottom, right = window.pads
    padded = (size[0] + top + bottom, size[1] + left + right)
    results = window.output_size(*size)
    for axis, (length, kernel, stride, count) in enumerate(
        zip(padded, window.kernel, window.stride, results, strict=True), start=2
    ):
        if kernel == length:
            value = builder.add(reducing, value, builder.indices([axis], "axes"), keepdims=1)
            continue
        taps = (_tap(builder, value, axis, first, count, stride) for first in range(kernel))
        joined = next(taps)
        for tap in taps:
            joined = builder.add(joining, joined, tap)
        value = joined
    builder.add("Identity", value, output=output)


def _tap(builder: GraphBuilder, value: str, axis: int, first: int, count: int, stride: int) -> str:
    """The elements first, first + stride, ...: what one place of the kernel sees, `count` of them."""
    ends = first + (count - 1) * stride + 1
    bounds = (("start", first), ("end", ends), ("axis", axis), ("stride", stride))
    return builder.add("Slice", value, *(builder.indices([number], what) for what, number in bounds))
