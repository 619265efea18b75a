"""Every instruction as ONNX at the edges of its numbers, against formulas in plain numpy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_builder import Builder

from bnhw.dtypes import Array, IntegerType
from bnhw.integer_onnx.convolution import _digit_bits
from bnhw.onnx_machine import OnnxMachine
from bnhw.ops import Window
from bnhw.options import RequantiseMode
from bnhw.program import AddSaturating, Convolve, LookUp, Multiply, PoolMaximum, PoolSum, Requantise, Tensor, Threshold

INT32 = IntegerType(bits=32, signed=True)
LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1


def coded(dtype: IntegerType, zero_point: int = 0, *, bipolar: bool = False) -> Tensor:
    return Tensor(name="", shape=(1, 1, 1), dtype=dtype, scale=1.0, zero_point=zero_point, bipolar=bipolar)


def pixels_as(numbers: Array, coding: Tensor) -> tuple[Builder, Tensor, Array]:
    """A program under construction whose first tensor holds `numbers` (height, width, channels), and an image."""
    distinct, image = np.unique(numbers, return_inverse=True)
    assert len(distinct) <= 256
    builder = Builder(random=np.random.default_rng(0), shape=numbers.shape)
    table = np.resize(distinct, 256).astype(np.int64).reshape(1, 256)
    instruction = LookUp(inputs=("image",), output="t0", table=builder.constant("t0/table", table))
    tensor = builder.append(instruction, replace(coding, shape=numbers.shape), (int(numbers.min()), int(numbers.max())))
    return builder, tensor, image.reshape(1, *numbers.shape).astype(np.uint8)


def run(builder: Builder, result: Tensor, images: Array) -> Array:
    """The tensor `result` of the first image under onnxruntime; the program ends in its sum."""
    steps = OnnxMachine(builder.program(builder.sum_global(result))).steps(images)
    return next(step.value[0] for step in steps if step.instruction.output == result.name)


# Thresholds.


def reached(acc: Array, thresholds: Array, falling: Array, classes: Array, low: int) -> Array:
    """low + #{t : acc >= t}, or #{t : acc <= t} where the channel falls; one element at a time."""
    result = np.zeros(acc.shape, np.int64)
    for y, x, c in np.ndindex(acc.shape):
        row = thresholds[classes[y, x], c % thresholds.shape[1]]
        falls = falling[c % len(falling)] if len(falling) else 0
        result[y, x, c] = low + sum(int(acc[y, x, c] <= t if falls else acc[y, x, c] >= t) for t in row)
    return result


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_thresholds_are_counted_as_defined(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5)))
    reach = data.draw(st.sampled_from((3, 100, HIGHEST)))
    acc = random.choice(random.integers(-reach - 1, reach + 1, 40), shape)
    acc[0, 0, 0], acc[-1, -1, -1] = -reach - 1, reach
    levels = data.draw(st.one_of(st.integers(1, 17), st.sampled_from((31, 32, 255))))
    rows = data.draw(st.integers(1, 3))
    per_channel = shape[2] if data.draw(st.booleans()) else 1
    thresholds = np.sort(random.integers(-reach - 1, reach + 1, (rows, per_channel, levels)), axis=2)
    if data.draw(st.booleans()):  # thresholds on the numbers themselves and beyond them all
        thresholds[..., : levels // 2 + 1] = np.sort(random.choice(acc.reshape(-1), levels // 2 + 1))
        thresholds.sort(axis=2)
        thresholds[..., -1] = data.draw(st.sampled_from((reach, np.iinfo(np.int64).max)))
    falling = random.integers(0, 2, data.draw(st.sampled_from((0, 1, shape[2])))).astype(np.int8)
    classes = random.integers(0, rows, shape[:2])
    low = data.draw(st.sampled_from((0, -8, 3)))
    builder, _, image = pixels_as(acc, coded(INT32))
    instruction = Threshold(
        inputs=("t0",),
        output="t1",
        thresholds=builder.constant("t1/thresholds", thresholds),
        falling=builder.constant("t1/falling", falling) if len(falling) else "",
        position_classes=builder.constant("t1/classes", classes) if rows > 1 else "",
        low=low,
    )
    result = builder.append(instruction, replace(coded(INT32), shape=shape), (low, low + levels))
    np.testing.assert_array_equal(run(builder, result, image), reached(acc, thresholds, falling, classes, low))


# Requantise.


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_requantise_is_exact_up_to_sums_of_62_bits(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits = data.draw(st.sampled_from((8, 20, 31, 32)))
    dtype = IntegerType(bits=bits, signed=True)
    acc = random.integers(dtype.low, dtype.high + 1, (4, 3, 2))
    acc.reshape(-1)[:5] = [dtype.low, dtype.high, 0, -1, 1]
    multiplier = random.integers(-(1 << 29), 1 << 29, (1, 2)) >> random.integers(0, 30, (1, 2))
    multiplied = data.draw(st.booleans())
    multiplier = multiplier if multiplied else np.ones_like(multiplier)
    largest = (1 << 62) - 1 - (np.abs(multiplier) << (bits - 1))
    offset = random.choice([-largest, largest, largest // 3, largest >> 20, -(largest >> 40)])
    shift = random.choice([0, 1, 7, 20, 29, 31, 32, 33, 45, 61, 62], (1, 2))
    low, high = data.draw(st.sampled_from(((LOWEST, HIGHEST), (0, 255), (-100, 100))))
    builder, _, image = pixels_as(acc, coded(dtype))
    instruction = Requantise(
        inputs=("t0",),
        output="t1",
        mode=RequantiseMode.MULTIPLY,
        multiplier=builder.constant("m", multiplier) if multiplied else "",
        offset=builder.constant("b", offset),
        shift=builder.constant("s", shift),
        position_classes="",
        multiplier_bits=31,
        digits=0,
        low=low,
        high=high,
    )
    result = builder.append(instruction, replace(coded(INT32), shape=acc.shape), (low, high))
    expected = [
        min(max((int(acc[at]) * int(multiplier[0, at[2]]) + int(offset[0, at[2]])) >> int(shift[0, at[2]]), low), high)
        for at in np.ndindex(acc.shape)
    ]
    assert run(builder, result, image).reshape(-1).tolist() == expected


@pytest.mark.parametrize("code", [2**32 - 2, -(2**32), 2**33 + 1, 2**40])
def test_numbers_that_onnxruntime_clips_wrong_are_clamped_right(code: int) -> None:
    """Found by these tests: Clip of the int64 4294967294 to [-100, 100] gives 4294967294 on x86."""
    builder, source, image = pixels_as(np.full((1, 1, 5), 1), coded(INT32))
    instruction = Requantise(
        inputs=("t0",),
        output="t1",
        mode=RequantiseMode.SHIFT,
        multiplier="",
        offset=builder.constant("b", np.array([[code - 1]])),
        shift=builder.constant("s", np.array([[0]])),
        position_classes="",
        multiplier_bits=1,
        digits=0,
        low=-100,
        high=100,
    )
    result = builder.append(instruction, source, (-100, 100))
    assert run(builder, result, image).reshape(-1).tolist() == [100 if code > 0 else -100] * 5


# Convolutions.


def convolve_1x1(builder: Builder, source: Tensor, weights: Array, span: tuple[int, int]) -> Tensor:
    stored = weights.reshape(len(weights), 1, 1, -1).astype(np.int8)
    instruction = Convolve(
        inputs=(source.name,),
        output="t1",
        weights=builder.constant("w", stored),
        weight_bits=8,
        weight_shape=stored.shape,
        window=Window(kernel=(1, 1)),
    )
    return builder.sums(instruction, (*source.shape[:2], len(weights)), span)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 7, 8, 9, 10, 15, 16, 17, 22])
def test_codes_of_any_width_are_multiplied_exactly_by_extreme_weights(bits: int, signed: bool) -> None:
    dtype = IntegerType(bits=bits, signed=signed)
    random = np.random.default_rng(bits)
    extremes = np.unique([dtype.low, dtype.high, (dtype.low + dtype.high) // 2, *dtype_edges(dtype)])
    numbers = random.choice(extremes, (2, 3, 3))
    weights = np.array([[-128, -128, -128], [127, 127, 127], [-128, 127, 1], [0, 0, 0]])
    for zero_point in {dtype.low, dtype.high, 0, max(dtype.low, -3), min(dtype.high, 5)}:
        builder, source, image = pixels_as(numbers, coded(dtype, zero_point))
        result = convolve_1x1(builder, source, weights, (LOWEST, HIGHEST))
        expected = (numbers - zero_point) @ weights.T
        assert LOWEST <= expected.min() <= expected.max() <= HIGHEST
        np.testing.assert_array_equal(run(builder, result, image), expected, err_msg=f"zero point {zero_point}")


def dtype_edges(dtype: IntegerType) -> list[int]:
    """Codes about the borders of bytes that the type holds."""
    return [n for n in (-257, -256, -129, -128, -1, 0, 1, 127, 128, 255, 256, 257) if dtype.low <= n <= dtype.high]


@pytest.mark.parametrize("code", [0, 255])
def test_accumulators_at_the_end_of_32_bits_are_exact(code: int) -> None:
    """The sum itself fits, the partial sums inside onnxruntime (of unsigned weights) do not."""
    channels = HIGHEST // (255 * 127)
    builder, source, image = pixels_as(np.full((1, 1, channels), code), coded(IntegerType(bits=8, signed=False)))
    weights = np.stack([np.full(channels, 127), np.full(channels, -127)])
    result = convolve_1x1(builder, source, weights, (LOWEST, HIGHEST))
    assert run(builder, result, image).reshape(-1).tolist() == [channels * 127 * code, -channels * 127 * code]
    assert channels * 127 * 255 > HIGHEST - 255 * 127


def test_digits_are_narrower_where_sums_of_bytes_would_not_fit() -> None:
    assert _digit_bits(np.full((2, 4, 3, 3), -1, np.int8)) == 8
    for weights, bits in (
        (np.full((1, 70000, 1, 1), 127, np.int8), 7),
        (np.full((1, 1 << 20, 1, 1), -128, np.int8), 4),
    ):
        assert _digit_bits(weights) == bits
        largest = int(np.abs(weights.astype(np.int64)).sum())
        assert ((1 << bits) - 1) * largest < 1 << 31 <= ((2 << bits) - 1) * largest
    assert _digit_bits(np.broadcast_to(np.int8(-128), (1, 1 << 24, 1, 1))) == 1


def test_narrow_digits_give_the_same_sums() -> None:
    channels = 70000
    numbers = np.resize(np.array([511, -512, 3, -4]), (1, 1, channels))
    numbers[..., 4:] = np.resize(np.array([1, -1, 0]), channels - 4)
    builder, source, image = pixels_as(numbers, coded(IntegerType(bits=10, signed=True)))
    weights = np.stack([np.full(channels, 127), np.resize([-128, 127], channels)])
    result = convolve_1x1(builder, source, weights, (LOWEST, HIGHEST))
    np.testing.assert_array_equal(run(builder, result, image), numbers @ weights.T)


@pytest.mark.parametrize("pads", [(2, 0, 0, 2), (0, 1, 2, 0)])
@pytest.mark.parametrize(
    "coding",
    [
        coded(IntegerType(bits=1, signed=False), bipolar=True),
        coded(IntegerType(bits=8, signed=True), -128),
        coded(IntegerType(bits=8, signed=False), 255),
        coded(IntegerType(bits=12, signed=True), -7),
    ],
    ids=["bipolar", "signed", "unsigned", "wide"],
)
def test_padding_contributes_nothing(coding: Tensor, pads: tuple[int, int, int, int]) -> None:
    dtype = coding.dtype
    numbers = np.random.default_rng(0).choice([dtype.low, dtype.high], (3, 4, 2))
    builder, source, image = pixels_as(numbers, coding)
    window = Window(kernel=(3, 3), pads=pads)
    result = builder.convolve(source, window, groups=1, out_channels=1, bits=1)
    weights = builder.program(result).weights_of(builder.instructions[-1])[0]  # type: ignore[arg-type]
    value = 2 * numbers - 1 if coding.bipolar else numbers - coding.zero_point
    top, left, bottom, right = pads
    padded = np.pad(value, ((top, bottom), (left, right), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    expected = np.einsum("yxckl,klc->yx", view, weights.astype(np.int64))
    np.testing.assert_array_equal(run(builder, result, image)[..., 0], expected)


# The others.


def test_pools_are_exact_for_codes_of_32_bits() -> None:
    numbers = np.array([LOWEST, HIGHEST, -1, 7, LOWEST, LOWEST]).reshape(3, 2, 1)
    window = Window(kernel=(2, 2), stride=(2, 1), pads=(1, 0, 0, 0))
    builder, _, image = pixels_as(numbers, coded(INT32))
    instruction = PoolMaximum(inputs=("t0",), output="t1", window=window)
    result = builder.append(instruction, replace(coded(INT32), shape=(2, 1, 1)), (LOWEST, HIGHEST))
    assert run(builder, result, image).reshape(-1).tolist() == [HIGHEST, 7]

    builder, _, image = pixels_as(numbers // 4, coded(INT32, zero_point=5))
    instruction_sum = PoolSum(inputs=("t0",), output="t1", window=window)
    result = builder.sums(instruction_sum, (2, 1, 1), (LOWEST, HIGHEST))
    quarter = numbers // 4 - 5
    assert run(builder, result, image).reshape(-1).tolist() == [int(quarter[0].sum()), int(quarter[1:].sum())]


def test_the_sum_of_32_bit_codes_is_clamped_not_wrapped() -> None:
    numbers = np.array([LOWEST, HIGHEST, 1, -1]).reshape(2, 2, 1)
    builder, source, image = pixels_as(numbers, coded(INT32))
    instruction = AddSaturating(inputs=("t0", "t0"), output="t1", low=LOWEST, high=HIGHEST)
    result = builder.append(instruction, source, (LOWEST, HIGHEST))
    assert run(builder, result, image).reshape(-1).tolist() == [LOWEST, HIGHEST, 2, -2]
    _, step, _ = OnnxMachine(builder.program(builder.tensors["t2"])).steps(image)
    assert step.saturations == 2


def test_the_sum_of_unsigned_31_bit_codes_is_clamped_not_wrapped() -> None:
    numbers = np.array([HIGHEST, HIGHEST - 1, 1, 0]).reshape(2, 2, 1)
    builder, source, image = pixels_as(numbers, coded(IntegerType(bits=31, signed=False)))
    instruction = AddSaturating(inputs=("t0", "t0"), output="t1", low=0, high=HIGHEST)
    result = builder.append(instruction, source, (0, HIGHEST))
    assert run(builder, result, image).reshape(-1).tolist() == [HIGHEST, HIGHEST, 2, 0]


@pytest.mark.parametrize(("other", "zero_point"), [(1, 0), (-1, -2), (2, 1)])
def test_products_reach_the_ends_of_32_bits(other: int, zero_point: int) -> None:
    numbers = np.array([LOWEST, HIGHEST, 46340, -3]).reshape(2, 2, 1)
    builder, source, image = pixels_as(numbers, coded(INT32))
    factor = coded(IntegerType(bits=3, signed=True), zero_point=zero_point)
    table = LookUp(inputs=("image",), output="t1", table=builder.constant("t1/table", np.full((1, 256), other)))
    one = builder.append(table, replace(factor, shape=numbers.shape), (other, other))
    instruction = Multiply(inputs=(source.name, one.name), output="t2")
    result = builder.sums(instruction, numbers.shape, (LOWEST, HIGHEST))
    assert other - zero_point == 1
    assert run(builder, result, image).reshape(-1).tolist() == numbers.reshape(-1).tolist()
