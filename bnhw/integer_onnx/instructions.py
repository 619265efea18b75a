"""What each instruction becomes: one case for every kind."""

import numpy as np
from onnx import TensorProto

from bnhw.integer_onnx.builder import GraphBuilder, fits_int32
from bnhw.integer_onnx.convolution import convolve
from bnhw.integer_onnx.pooling import pool_maximum, pool_sum, sum_global
from bnhw.integer_onnx.steps import look_up, requantise, threshold
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    LookUp,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Requantise,
    SumGlobal,
    Threshold,
)


def write_instruction(builder: GraphBuilder, instruction: Instruction) -> None:
    """Add the nodes that compute an instruction's result, under the name of that tensor."""
    builder.begin(instruction)
    match instruction:
        case LookUp():
            look_up(builder, instruction)
        case Convolve():
            convolve(builder, instruction)
        case Requantise():
            requantise(builder, instruction)
        case Threshold():
            threshold(builder, instruction)
        case AddSaturating():
            _add(builder, instruction)
        case Multiply():
            _multiply(builder, instruction)
        case PoolSum():
            pool_sum(builder, instruction)
        case PoolMaximum():
            pool_maximum(builder, instruction)
        case PadChannels():
            _pad_channels(builder, instruction)
        case Join():
            _join(builder, instruction)
        case SumGlobal():
            sum_global(builder, instruction)
        case _:
            raise AssertionError(f"no ONNX for {instruction.kind}")


def _join(builder: GraphBuilder, instruction: Join) -> None:
    operands = (builder.operand(instruction, index) for index in range(len(instruction.inputs)))
    builder.add("Concat", *operands, axis=1, output=instruction.output)


def _add(builder: GraphBuilder, instruction: AddSaturating) -> None:
    """In int64 where the sum before it is clamped can have 33 bits."""
    dtype = builder.source(instruction).dtype
    first, second = (builder.operand(instruction, index) for index in (0, 1))
    span, low, high = (2 * dtype.low, 2 * dtype.high), instruction.low, instruction.high
    if fits_int32(span):
        builder.clip(builder.add("Add", first, second), low, high, instruction.output)
        return
    wide = (builder.cast(operand, TensorProto.INT64) for operand in (first, second))
    builder.clamp(builder.add("Add", *wide), span, low, high, instruction.output)


def _multiply(builder: GraphBuilder, instruction: Multiply) -> None:
    """ONNX repeats one number a channel over the pixels by itself."""
    tensors = (builder.program.tensor[name] for name in instruction.inputs)
    factors = (
        builder.minus_zero_point(builder.operand(instruction, index), tensor.zero_point)
        for index, tensor in enumerate(tensors)
    )
    builder.add("Mul", *factors, output=instruction.output)


def _pad_channels(builder: GraphBuilder, instruction: PadChannels) -> None:
    pads = builder.indices([0, instruction.before, 0, 0, 0, instruction.after, 0, 0], "pads")
    number = builder.scalar(builder.source(instruction).zero_point, np.int32, "padding")
    builder.add("Pad", builder.operand(instruction), pads, number, output=instruction.output)
