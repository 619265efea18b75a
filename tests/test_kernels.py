"""Every kernel against the reference, and the reference against plain Python loops."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_strategies import BIPOLAR, Convolution, codings, convolutions, geometries, tensors

from bnhw.kernels import jit, pointwise, portable, reference
from bnhw.kernels.packing import popcount_oracle
from bnhw.kernels.select import PREPARE
from bnhw.kernels.types import BinaryWeights, Coding, Geometry, IntegerWeights

Int32Array: TypeAlias = npt.NDArray[np.int32]

SAME = Geometry(kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1))
EXAMPLES = settings(deadline=None, max_examples=60)


def naive_convolution(case: Convolution) -> list[int]:
    """The definition, one Python integer at a time, in NHWC order."""
    weights, geometry, coding = case.weights.integers(), case.geometry, case.coding
    images, height, width, _ = case.codes.shape
    rows, columns = geometry.output_size(height, width)
    out_channels, kernel_height, kernel_width, per_group = weights.shape
    sums = []
    for image, row, column, out in np.ndindex(images, rows, columns, out_channels):
        first = out // (out_channels // geometry.groups) * per_group
        total = 0
        for tap_row, tap_column, channel in np.ndindex(kernel_height, kernel_width, per_group):
            y = row * geometry.stride[0] - geometry.pads[0] + tap_row
            x = column * geometry.stride[1] - geometry.pads[1] + tap_column
            if 0 <= y < height and 0 <= x < width:
                code = int(case.codes[image, y, x, first + channel])
                value = 2 * code - 1 if coding.bipolar else code - coding.zero_point
                total += int(weights[out, tap_row, tap_column, channel]) * value
        sums.append(total)
    return sums


def expect_equal_to_reference(kernel: str, case: Convolution) -> None:
    prepared = PREPARE[kernel](case.weights, case.geometry, case.coding)
    acc = prepared(case.codes)
    expected = reference.convolution(case.codes, case.weights.integers(), case.geometry, case.coding)
    assert prepared.kernel == kernel
    assert acc.dtype == np.int32
    np.testing.assert_array_equal(acc, expected)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_reference_convolution_is_the_definition(data: st.DataObject) -> None:
    binary = data.draw(st.booleans())
    case = data.draw(convolutions(st.one_of(codings(), st.just(BIPOLAR)), binary=binary, tiny=True))
    acc = reference.convolution(case.codes, case.weights.integers(), case.geometry, case.coding)
    assert acc.dtype == np.int64
    assert acc.reshape(-1).tolist() == naive_convolution(case)


@EXAMPLES
@given(convolutions(codings()))
def test_bit_serial_equals_reference(case: Convolution) -> None:
    expect_equal_to_reference("bit_serial", case)


@EXAMPLES
@given(convolutions(st.just(BIPOLAR)))
def test_xnor_equals_reference(case: Convolution) -> None:
    expect_equal_to_reference("xnor", case)


@EXAMPLES
@given(convolutions(st.one_of(codings(max_bits=16), st.just(BIPOLAR))))
def test_multiplexer_equals_reference(case: Convolution) -> None:
    expect_equal_to_reference("multiplexer", case)


@EXAMPLES
@given(convolutions(st.one_of(codings(max_bits=16), st.just(BIPOLAR)), binary=False))
def test_multiply_equals_reference(case: Convolution) -> None:
    expect_equal_to_reference("multiply", case)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kernel", ["bit_serial", "multiplexer"])
def test_extreme_codes_are_exact_at_every_width(kernel: str, bits: int, signed: bool) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    coding = Coding(bits=bits, signed=signed, zero_point=low)
    weights = BinaryWeights.from_signs(np.ones((9, 3, 3, 130), np.int8))
    for code in (coding.low, coding.high):
        codes = np.full((1, 5, 6, 130), code, np.int32)
        expect_equal_to_reference(kernel, Convolution(weights=weights, geometry=SAME, coding=coding, codes=codes))


@pytest.mark.parametrize(
    ("kernel", "coding"),
    [
        ("reference", Coding(bits=4, signed=False, zero_point=9)),
        ("bit_serial", Coding(bits=4, signed=False, zero_point=9)),
        ("bit_serial", Coding(bits=4, signed=True, zero_point=-8)),
        ("multiplexer", Coding(bits=4, signed=False, zero_point=9)),
        ("reference", BIPOLAR),
        ("xnor", BIPOLAR),
        ("multiplexer", BIPOLAR),
    ],
)
def test_padded_tap_contributes_zero(kernel: str, coding: Coding) -> None:
    """Highest code everywhere, weights +1: the sum counts the real taps only."""
    weights = BinaryWeights.from_signs(np.ones((1, 3, 3, 5), np.int8))
    acc = PREPARE[kernel](weights, SAME, coding)(np.full((1, 3, 3, 5), coding.high, np.int32))
    value = 1 if coding.bipolar else coding.high - coding.zero_point
    taps = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    np.testing.assert_array_equal(acc[0, :, :, 0], 5 * value * taps)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=200))
@settings(deadline=None)
def test_xnor_dot_is_length_minus_twice_the_oracles_popcount(lanes: list[tuple[int, int]]) -> None:
    weight_bits, code_bits = [lane[0] for lane in lanes], [lane[1] for lane in lanes]
    signs = np.array([2 * bit - 1 for bit in weight_bits], np.int8).reshape(1, 1, 1, -1)
    point = Geometry(kernel=(1, 1), stride=(1, 1), pads=(0, 0, 0, 0))
    dot = PREPARE["xnor"](BinaryWeights.from_signs(signs), point, BIPOLAR)(
        np.array(code_bits, np.int32).reshape(1, 1, 1, -1)
    )
    assert dot.item() == len(lanes) - 2 * popcount_oracle(weight_bits, code_bits, "xor")


def test_read_only_codes_are_accepted_and_left_alone() -> None:
    codes = np.arange(64, dtype=np.int32).reshape(1, 1, 1, 64) % 2
    codes.flags.writeable = False
    weights = BinaryWeights.from_signs(np.ones((1, 1, 1, 64), np.int8))
    point = Geometry(kernel=(1, 1), stride=(1, 1), pads=(0, 0, 0, 0))
    assert PREPARE["xnor"](weights, point, BIPOLAR)(codes).item() == 0
    assert portable.add(codes, codes, 0, 1)[1] == 32


@pytest.mark.parametrize("kernel", ["bit_serial", "multiplexer"])
def test_threads_share_one_prepared_convolution(kernel: str) -> None:
    random = np.random.default_rng(1)
    coding = Coding(bits=4, signed=False, zero_point=3)
    weights = BinaryWeights.from_signs(random.choice(np.array((-1, 1), np.int8), (20, 3, 3, 70)))
    prepared = PREPARE[kernel](weights, SAME, coding)
    batches = [random.integers(0, 16, (1, 9, 9, 70)).astype(np.int32) for _ in range(16)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(prepared, batches))
    for codes, acc in zip(batches, results, strict=True):
        np.testing.assert_array_equal(acc, reference.convolution(codes, weights.integers(), SAME, coding))


def test_several_images_give_what_each_gives_alone() -> None:
    random = np.random.default_rng(2)
    weights = BinaryWeights.from_signs(random.choice(np.array((-1, 1), np.int8), (9, 3, 3, 65)))
    codes = random.integers(0, 2, (3, 5, 4, 65)).astype(np.int32)
    prepared = PREPARE["xnor"](weights, SAME, BIPOLAR)
    alone = [prepared(codes[image : image + 1]) for image in range(3)]
    np.testing.assert_array_equal(prepared(codes), np.concatenate(alone))


def test_disk_cache_is_named_by_the_sources() -> None:
    """Else code that was inlined from an older version of another file would be loaded."""
    assert jit.SOURCES_DIGEST in pointwise.add_codes.__wrapped__.__qualname__  # type: ignore[attr-defined]


@pytest.mark.parametrize("kernel", ["bit_serial", "xnor"])
@pytest.mark.parametrize("code", [-1, 2])
def test_packed_kernels_refuse_a_code_outside_the_coding(kernel: str, code: int) -> None:
    coding = Coding(bits=1, signed=False, zero_point=0, bipolar=kernel == "xnor")
    prepared = PREPARE[kernel](BinaryWeights.from_signs(np.ones((2, 3, 3, 70), np.int8)), SAME, coding)
    codes = np.zeros((1, 4, 4, 70), np.int32)
    codes[0, 2, 1, 69] = code
    with pytest.raises(ValueError, match=r"1 codes lie outside \[0, 1\]"):
        prepared(codes)


def test_convolutions_refuse_codes_of_another_form() -> None:
    prepared = PREPARE["multiplexer"](BinaryWeights.from_signs(np.ones((2, 3, 3, 4), np.int8)), SAME, BIPOLAR)
    with pytest.raises(ValueError, match="6 channels, expected 4"):
        prepared(np.zeros((1, 4, 4, 6), np.int32))
    with pytest.raises(ValueError, match=r"int64 array .* expected int32 NHWC"):
        prepared(np.zeros((1, 4, 4, 4), np.int64))
    with pytest.raises(ValueError, match="found a strided int32"):
        prepared(np.zeros((1, 4, 4, 8), np.int32)[..., ::2])
    with pytest.raises(ValueError, match="holds no 3x3 window"):
        prepared(np.zeros((1, 0, 4, 4), np.int32))
    with pytest.raises(ValueError, match="do not fit codes"):
        reference.convolution(np.zeros((1, 4, 4, 6), np.int32), np.ones((2, 3, 3, 4)), SAME, BIPOLAR)


def test_kernels_refuse_codings_that_are_not_theirs() -> None:
    weights = BinaryWeights.from_signs(np.ones((2, 3, 3, 4), np.int8))
    with pytest.raises(ValueError, match=r"expected codes of 1\.\.8 bits"):
        PREPARE["bit_serial"](weights, SAME, Coding(bits=9, signed=False, zero_point=0))
    with pytest.raises(ValueError, match="not bipolar"):
        PREPARE["bit_serial"](weights, SAME, BIPOLAR)
    with pytest.raises(ValueError, match="expected bipolar codes"):
        PREPARE["xnor"](weights, SAME, Coding(bits=1, signed=False, zero_point=0))


@given(st.integers(1, 5), st.integers(1, 140), st.integers(0, 99))
def test_packed_weights_come_back_as_signs(out_channels: int, channels: int, seed: int) -> None:
    signs = np.random.default_rng(seed).choice(np.array((-1, 1), np.int8), (out_channels, 2, 3, channels))
    weights = BinaryWeights.from_signs(signs)
    assert weights.shape == signs.shape
    np.testing.assert_array_equal(weights.signs(), signs)
    np.testing.assert_array_equal(weights.integers(), signs)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Coding(bits=0, signed=False, zero_point=0), "0 bits"),
    (lambda: Coding(bits=4, signed=False, zero_point=16), r"zero point 16 outside \[0, 15\]"),
    (lambda: Coding(bits=4, signed=True, zero_point=8), r"zero point 8 outside \[-8, 7\]"),
    (lambda: Coding(bits=2, signed=False, zero_point=0, bipolar=True), "bipolar codes have 1 bit"),
    (lambda: Geometry(kernel=(0, 1), stride=(1, 1), pads=(0, 0, 0, 0)), "expected kernel"),
    (lambda: Geometry(kernel=(1, 1), stride=(1, 1), pads=(0, 0, 0, -1)), "pads >= 0"),
    (lambda: SAME.output_size(0, 5), "holds no 3x3 window"),
    (lambda: BinaryWeights.from_signs(np.zeros((1, 1, 1, 1), np.int8)), "of -1 and \\+1"),
    (lambda: BinaryWeights(words=np.zeros((1, 1, 1, 2), np.uint64), channels_per_group=64), "found 2 words"),
    (lambda: BinaryWeights(words=np.full((1, 1, 1, 1), 8, np.uint64), channels_per_group=3), "pad lanes"),
    (lambda: IntegerWeights(values=np.zeros((1, 1, 1), np.int8)), "expected int8"),
    (
        lambda: reference.max_pool(
            np.zeros((1, 3, 3, 1), np.int32), Geometry(kernel=(2, 2), stride=(1, 1), pads=(2, 0, 0, 0))
        ),
        "smaller than the kernel",
    ),
    (
        lambda: portable.max_pool(
            np.zeros((1, 3, 3, 1), np.int32), Geometry(kernel=(2, 2), stride=(1, 1), pads=(0, 0, 0, 2))
        ),
        "smaller than the kernel",
    ),
    (
        lambda: portable.add(np.zeros((1, 1, 1, 2), np.int32), np.zeros((1, 1, 1, 1), np.int32), 0, 1),
        "differ",
    ),
    (
        lambda: portable.add(np.zeros((1, 1, 1, 1), np.int32), np.zeros((1, 1, 1, 1), np.int32), 2, 1),
        "is empty",
    ),
    (lambda: portable.lookup(np.full((1, 1, 1, 2), 4, np.int32), [[1, 2, 3, 4]]), r"the table covers 0\.\.3"),
    (
        lambda: portable.lookup(np.full((1, 1, 1, 2), -1, np.int32), [[1, 2, 3, 4]]),
        r"the table covers 0\.\.3",
    ),
    (lambda: reference.lookup(np.full((1, 1, 1, 2), -1), [[1, 2, 3, 4]]), r"the table covers 0\.\.3"),
    (lambda: reference.lookup(np.zeros((1, 1, 1, 3), np.int64), [[1], [2]]), r"expected \(3 or 1, entries\)"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_misuse_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@EXAMPLES
@given(st.data())
def test_requantise_equals_reference(data: st.DataObject) -> None:
    acc = data.draw(tensors(-(2**24), 2**24))
    divisors = data.draw(st.integers(1, 3))
    channels = data.draw(st.sampled_from((1, acc.shape[3])))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shift_limit = data.draw(st.sampled_from((1, 8, 40, 62))) + 1
    multiplier, offset, shift = (
        random.integers(-(2**31), 2**31, (divisors, channels)),
        random.integers(-(2**60), 2**60, (divisors, channels)) >> data.draw(st.integers(0, 50)),
        random.integers(0, shift_limit, (divisors, channels)),
    )
    classes = None
    if divisors > 1 or data.draw(st.booleans()):
        classes = random.integers(0, divisors, acc.shape[1:3])
    low, high = sorted((data.draw(st.integers(-(2**31), 2**31 - 1)), data.draw(st.integers(-300, 300))))
    result = portable.requantise(acc, multiplier, offset, shift, classes, low, high)
    assert result.dtype == np.int32
    expected = reference.requantise(acc, multiplier, offset, shift, classes, low, high)
    np.testing.assert_array_equal(result, expected)


@given(st.integers(-(2**20), 2**20), st.integers(-99, 99), st.integers(-(2**20), 2**20), st.integers(0, 20))
@settings(deadline=None)
def test_requantise_floors_negatives_like_python(acc: int, multiplier: int, offset: int, shift: int) -> None:
    expected = min(max((acc * multiplier + offset) // 2**shift, -128), 127)
    tensor = np.full((1, 1, 1, 1), acc, np.int32)
    for requantise in (reference.requantise, portable.requantise):
        assert requantise(tensor, [[multiplier]], [[offset]], [[shift]], None, -128, 127).item() == expected


def test_each_pixel_uses_the_constants_of_its_class() -> None:
    acc = np.full((2, 2, 2, 1), 12, np.int32)
    classes = np.array([[0, 1], [1, 0]])
    for requantise in (reference.requantise, portable.requantise):
        result = requantise(acc, [[1], [2]], [[0], [0]], [[1], [0]], classes, -99, 99)
        assert result[1, :, :, 0].tolist() == [[6, 24], [24, 6]]


@pytest.mark.parametrize("module", [reference, portable])
def test_requantise_refuses_inconsistent_constants(module: Any) -> None:
    acc = np.zeros((1, 2, 2, 3), np.int32)
    one = [[1]]
    with pytest.raises(ValueError, match=r"offset \(1, 2\), expected \(1, 3 or 1\)"):
        module.requantise(acc, one, [[1, 2]], one, None, 0, 1)
    with pytest.raises(ValueError, match="no class per pixel"):
        module.requantise(acc, [[1], [1]], [[1], [1]], [[1], [1]], None, 0, 1)
    with pytest.raises(ValueError, match=r"expected 0\.\.62"):
        module.requantise(acc, one, one, [[63]], None, 0, 1)
    with pytest.raises(ValueError, match=r"expected \(2, 2\) of 0\.\.0"):
        module.requantise(acc, one, one, one, [[0, 0], [0, 1]], 0, 1)
    with pytest.raises(ValueError, match="does not fit 32 bits"):
        module.requantise(acc, [[2**31]], one, one, None, 0, 1)
    with pytest.raises(ValueError, match=r"clamp \[1, 0\] is empty"):
        module.requantise(acc, one, one, one, None, 1, 0)


@EXAMPLES
@given(st.data())
def test_lookup_equals_reference(data: st.DataObject) -> None:
    entries = data.draw(st.integers(1, 300))
    codes = data.draw(tensors(0, entries - 1))
    rows = data.draw(st.sampled_from((1, codes.shape[3])))
    table = np.random.default_rng(0).integers(-(2**31), 2**31, (rows, entries))
    result = portable.lookup(codes, table)
    np.testing.assert_array_equal(result, reference.lookup(codes, table))
    place = tuple(size - 1 for size in codes.shape)
    assert result[place] == table[(codes.shape[3] - 1) % rows, codes[place]]


@EXAMPLES
@given(tensors(-(2**31), 2**31 - 1), st.integers(-300, 0), st.integers(0, 2**31 - 1))
def test_add_equals_reference_and_counts_saturations(first: Int32Array, low: int, high: int) -> None:
    second = np.roll(first, 7)
    result, saturated = portable.add(first, second, low, high)
    expected, expected_saturated = reference.add(first, second, low, high)
    np.testing.assert_array_equal(result, expected)
    sums = [int(a) + int(b) for a, b in zip(first.reshape(-1), second.reshape(-1), strict=True)]
    assert result.reshape(-1).tolist() == [min(max(total, low), high) for total in sums]
    assert saturated == expected_saturated == sum(not low <= total <= high for total in sums)


def naive_windows(codes: Int32Array, geometry: Geometry) -> list[list[int]]:
    """The real taps of every window, in NHWC order."""
    images, height, width, channels = codes.shape
    windows = []
    for image, row, column, channel in np.ndindex(images, *geometry.output_size(height, width), channels):
        top = row * geometry.stride[0] - geometry.pads[0]
        left = column * geometry.stride[1] - geometry.pads[1]
        rows = range(max(top, 0), min(top + geometry.kernel[0], height))
        columns = range(max(left, 0), min(left + geometry.kernel[1], width))
        windows.append([int(codes[image, y, x, channel]) for y in rows for x in columns])
    return windows


@EXAMPLES
@given(tensors(), geometries(), st.integers(-128, 255))
def test_pools_equal_reference_and_definition(codes: Int32Array, geometry: Geometry, zero_point: int) -> None:
    try:
        geometry.output_size(*codes.shape[1:3])
    except ValueError:
        with pytest.raises(ValueError, match="window"):
            portable.sum_pool(codes, geometry, zero_point)
        return
    total, largest = portable.sum_pool(codes, geometry, zero_point), portable.max_pool(codes, geometry)
    np.testing.assert_array_equal(total, reference.sum_pool(codes, geometry, zero_point))
    np.testing.assert_array_equal(largest, reference.max_pool(codes, geometry))
    if codes.size < 500:
        windows = naive_windows(codes, geometry)
        assert total.reshape(-1).tolist() == [sum(taps) - zero_point * len(taps) for taps in windows]
        assert largest.reshape(-1).tolist() == [max(taps) for taps in windows]


@settings(deadline=None, max_examples=20)
@given(tensors(), st.integers(-128, 255), st.integers(0, 3), st.integers(0, 3))
def test_channel_operations_equal_reference(codes: Int32Array, value: int, before: int, after: int) -> None:
    total = portable.global_sum(codes, value)
    assert total.shape == (codes.shape[0], 1, 1, codes.shape[3])
    np.testing.assert_array_equal(total, reference.global_sum(codes, value))
    np.testing.assert_array_equal(total[0, 0, 0, 0], int(codes[0, :, :, 0].sum() - value * codes[0, :, :, 0].size))
    padded = portable.pad_channels(codes, before, after, value)
    np.testing.assert_array_equal(padded, reference.pad_channels(codes, before, after, value))
    np.testing.assert_array_equal(padded[..., before : padded.shape[3] - after], codes)
    assert padded.flags.c_contiguous
    joined = portable.concatenate([codes, padded])
    np.testing.assert_array_equal(joined, reference.concatenate([codes, padded]))
    np.testing.assert_array_equal(joined[..., : codes.shape[3]], codes)
    assert padded.dtype == joined.dtype == total.dtype == np.int32
