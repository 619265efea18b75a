"""Convolutions: ConvInteger on unsigned bytes.

Both operands are uint8 with a zero point. Products of an unsigned and a signed byte are summed in 16 bits, which
saturate, by onnxruntime's kernels for x86 processors without VNNI, and older versions do not take signed weights;
products of two unsigned bytes are exact everywhere. Sums are taken modulo 2^32, as ONNX allows, so that a result
that fits int32 is right whatever its partial sums do.
"""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from bnhw.dtypes import Array, IntegerType
from bnhw.integer_onnx.builder import GraphBuilder
from bnhw.program import Convolve, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Digit:
    """A part of a tensor as uint8 values: code - zero point is the sum over all digits of factor * (value - zero)."""

    value: str
    zero: int
    factor: int


def convolve(builder: GraphBuilder, instruction: Convolve) -> None:
    """Write one convolution; codes that need more than 8 bits are split, and the sums joined again in int64."""
    weights = builder.program.weights_of(instruction).transpose(0, 3, 1, 2)
    stored = _store_weights(builder, weights, instruction.weight_bits)
    codes, source = builder.operand(instruction), builder.source(instruction)
    digits = _digits(builder, codes, source, _digit_bits(weights))
    if len(digits) == 1:
        _sum_products(builder, instruction, digits[0], stored, output=instruction.output)
        return
    total = ""
    for digit in digits:
        part = builder.cast(_sum_products(builder, instruction, digit, stored), TensorProto.INT64)
        if digit.factor > 1:
            part = builder.add("Mul", part, builder.scalar(digit.factor, np.int64, "factor"))
        total = builder.add("Add", total, part) if total else part
    builder.cast(total, TensorProto.INT32, instruction.output)


def _store_weights(builder: GraphBuilder, weights: Array, bits: int) -> tuple[str, str]:
    """Names of the weights and their zero point: +1 and -1 are 2 and 0 about 1, others lie about 128."""
    zero = 1 if bits == 1 else 128
    unsigned = (weights.astype(np.int16) + zero).astype(np.uint8)
    return builder.constant(unsigned, "weights"), builder.scalar(zero, np.uint8, "weight_zero")


def _sum_products(
    builder: GraphBuilder, instruction: Convolve, digit: Digit, weights: tuple[str, str], output: str = ""
) -> str:
    window = instruction.window
    return builder.add(
        "ConvInteger",
        digit.value,
        weights[0],
        builder.scalar(digit.zero, np.uint8, "zero"),
        weights[1],
        output=output,
        kernel_shape=list(window.kernel),
        strides=list(window.stride),
        pads=list(window.pads),
        group=instruction.groups,
    )


def _digit_bits(weights: Array) -> int:
    """The widest digit, at most 8 bits, whose sums fit int32."""
    largest = int(np.abs(weights.astype(np.int64)).sum(axis=(1, 2, 3)).max())
    return next((bits for bits in range(8, 1, -1) if ((1 << bits) - 1) * largest < 1 << 31), 1)


def _digits(builder: GraphBuilder, codes: str, source: Tensor, digit_bits: int) -> list[Digit]:
    """Codes of at most 8 bits as they are, bipolar ones as 0 and 2; wider ones split."""
    if source.bipolar:
        doubled = builder.add("Mul", codes, builder.scalar(2, np.int32, "two"))
        return [Digit(value=builder.cast(doubled, TensorProto.UINT8), zero=1, factor=1)]
    if source.dtype.bits > 8:
        return _split(builder, codes, source, digit_bits)
    shift = 128 if source.dtype.signed else 0
    if shift:
        codes = builder.add("Add", codes, builder.scalar(shift, np.int32, "shift"))
    return [Digit(value=builder.cast(codes, TensorProto.UINT8), zero=source.zero_point + shift, factor=1)]


def _split(builder: GraphBuilder, codes: str, source: Tensor, digit_bits: int) -> list[Digit]:
    """code - zero point plus half of the digits' range, which is not negative, digit by digit."""
    low, high = source.dtype.low - source.zero_point, source.dtype.high - source.zero_point
    signed_bits = IntegerType.containing(min(low, -1), max(high, 0)).bits
    count = -(-signed_bits // digit_bits)
    half = 1 << (count * digit_bits - 1)
    wide = builder.cast(codes, TensorProto.INT64)
    above = builder.add("Add", wide, builder.scalar(half - source.zero_point, np.int64, "half"))
    rest = builder.cast(above, TensorProto.UINT64)
    mask = builder.scalar((1 << digit_bits) - 1, np.uint64, "mask")
    places = builder.scalar(digit_bits, np.uint64, "digit_bits")
    digits = []
    for number in range(count):
        value = builder.cast(builder.add("BitwiseAnd", rest, mask), TensorProto.UINT8)
        zero = 1 << (digit_bits - 1) if number == count - 1 else 0
        digits.append(Digit(value=value, zero=zero, factor=1 << (number * digit_bits)))
        if number < count - 1:
            rest = builder.add("BitShift", rest, places, direction="RIGHT")
    return digits
