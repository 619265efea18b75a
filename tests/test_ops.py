"""The table of operations against plain loops."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from graph_helpers import affine
from hypothesis import given, settings
from hypothesis import strategies as st
from model_strategies import Model, models, windows

from bnhw import ops
from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.graph import Attributes
from bnhw.importer import import_onnx
from bnhw.ops import (
    OPS,
    AveragePool,
    ChannelPad,
    Clamp,
    Convolution,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Product,
    Quantise,
    Role,
    Sign,
    Window,
    ZeroPad,
    freeze,
    pool_divisors,
    quantise,
)
from bnhw.verify import check_graph, evaluate

EXAMPLES = settings(deadline=None, max_examples=40)
SIZES = st.integers(1, 6)


@st.composite
def pooled(draw: st.DrawFn) -> tuple[Array, Window]:
    """A batch of two channels and a window that fits it."""
    height, width = draw(SIZES), draw(SIZES)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.normal(0, 1, (2, 2, height, width)).astype(np.float32), draw(windows(height, width))


def taps(window: Window, batch: Array, row: int, column: int) -> list[tuple[int, int, int, int]]:
    """(kernel row, kernel column, y, x) of the taps of one window that lie inside the image."""
    found = []
    height, width = batch.shape[2:]
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            y, x = row * window.stride[0] - window.pads[0] + i, column * window.stride[1] - window.pads[1] + j
            if 0 <= y < height and 0 <= x < width:
                found.append((i, j, y, x))
    return found


def apply(attributes: Attributes, *inputs: Array) -> Array:
    """Shape rule and evaluation agree; the result."""
    spec = OPS[type(attributes)]
    result = spec.evaluate(attributes, inputs)
    assert result.shape == (len(inputs[0]), *spec.shape(attributes, [x.shape[1:] for x in inputs]))
    return result


@EXAMPLES
@given(pooled(), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_convolution_is_the_sum_over_taps(case: tuple[Array, Window], groups: int, out: int, seed: int) -> None:
    x, window = case
    shape = (out * groups, 2 // groups, *window.kernel)
    weights = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    result = apply(Convolution(weights=weights, window=window, groups=groups), x)
    for image, channel, row, column in np.ndindex(result.shape):
        first = channel // out * (2 // groups)
        expected = sum(
            float(weights[channel, c, i, j]) * float(x[image, first + c, y, z])
            for c in range(2 // groups)
            for i, j, y, z in taps(window, x, row, column)
        )
        assert result[image, channel, row, column] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@EXAMPLES
@given(pooled(), st.booleans())
def test_average_divides_by_what_counts(case: tuple[Array, Window], counts: bool) -> None:
    x, window = case
    result = apply(AveragePool(window=window, count_padding=counts), x)
    divisors = pool_divisors(window, *x.shape[2:], count_padding=counts)
    for image, channel, row, column in np.ndindex(result.shape):
        inside = taps(window, x, row, column)
        divisor = math.prod(window.kernel) if counts else len(inside)
        assert divisors[row, column] == divisor
        total = sum(float(x[image, channel, y, z]) for _, _, y, z in inside)
        assert result[image, channel, row, column] == pytest.approx(total / max(divisor, 1), rel=1e-4, abs=1e-5)


@EXAMPLES
@given(pooled())
def test_padding_never_wins_a_maximum(case: tuple[Array, Window]) -> None:
    x, window = case
    lowered = x - 100  # a padded zero would win
    result = apply(MaxPool(window=window), lowered)
    for image, channel, row, column in np.ndindex(result.shape):
        inside = [lowered[image, channel, y, z] for _, _, y, z in taps(window, x, row, column)]
        assert result[image, channel, row, column] == max(inside, default=-np.inf)


@EXAMPLES
@given(models())
def test_shape_rules_predict_every_value(model: Model) -> None:
    graph = import_onnx(model.onnx)
    shapes = check_graph(graph)
    for name, value in evaluate(graph, model.images):
        assert value.shape == (len(model.images), *shapes[name])
        assert value.dtype == np.float32


def test_every_kind_of_node_is_in_the_table() -> None:
    kinds = {k for k in vars(ops).values() if isinstance(k, type) and issubclass(k, Attributes) and k is not Attributes}
    assert kinds == set(OPS)


def test_sign_of_zero_is_plus_one() -> None:
    x = np.array([-1e-30, -0.0, 0.0, 2.0], np.float32).reshape(1, 4, 1, 1)
    np.testing.assert_array_equal(apply(Sign(), x).reshape(-1), [-1, 1, 1, 1])


def test_pointwise_operations_by_example() -> None:
    x = np.arange(-3, 3, dtype=np.float32).reshape(1, 2, 1, 3)
    np.testing.assert_array_equal(apply(Clamp(low=-1), x).reshape(-1), [-1, -1, -1, 0, 1, 2])
    np.testing.assert_array_equal(apply(affine([2, -1], [1, 0.5]), x).reshape(-1), [-5, -3, -1, 0.5, -0.5, -1.5])
    np.testing.assert_array_equal(apply(GlobalAveragePool(), x).reshape(-1), [-2, 1])
    np.testing.assert_array_equal(apply(Flatten(), x).reshape(-1), x.reshape(-1))
    np.testing.assert_array_equal(apply(ChannelPad(before=1, after=2), x)[0, :, 0, 2], [0, -1, 2, 0, 0])
    padded = apply(ZeroPad(pads=(1, 2, 3, 4)), x)
    assert padded.shape == (1, 2, 5, 9)
    assert padded.sum() == x.sum()
    np.testing.assert_array_equal(padded[0, :, 1, 2:5], x[0, :, 0])


@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (2, 2, 1, 1)])
def test_a_gate_multiplies_numbers_or_channels(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    x, gate = (random.normal(0, 1, size).astype(np.float32) for size in ((2, 2, 3, 4), shape))
    result = apply(Product(), x, gate)
    for n, c, row, column in np.ndindex(result.shape):
        assert result[n, c, row, column] == x[n, c, row, column] * gate[n, c, row % shape[2], column % shape[3]]


TYPES = st.builds(lambda bits, signed: IntegerType(bits=bits, signed=signed), st.integers(1, 16), st.booleans())


@given(TYPES, st.floats(-1e4, 1e4), st.integers(0, 4), st.data())
def test_quantise_rounds_half_up_and_saturates(
    dtype: IntegerType, real: float, exponent: int, data: st.DataObject
) -> None:
    zero_point = data.draw(st.integers(dtype.low, dtype.high))
    scale = 2.0**-exponent
    code = int(quantise(np.array(real), Quantisation(dtype=dtype, scale=scale, zero_point=zero_point)))
    exact = math.floor(real / scale + zero_point + 0.5)
    assert code == min(max(exact, dtype.low), dtype.high)


def test_half_a_code_rounds_up_on_both_sides_of_zero() -> None:
    quantisation = Quantisation(dtype=IntegerType(bits=8, signed=True), scale=2.0)
    np.testing.assert_array_equal(quantise(np.array([-3.0, -1.0, 1.0, 3.0]), quantisation), [-1, 0, 1, 2])


@given(TYPES, st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_quantised_codes_are_fixed_points(dtype: IntegerType, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    quantisation = Quantisation(dtype=dtype, scale=scale, zero_point=int(random.integers(dtype.low, dtype.high + 1)))
    codes = random.integers(dtype.low, dtype.high + 1, 20)
    reals = codes * quantisation.slope + quantisation.intercept
    np.testing.assert_array_equal(quantise(reals, quantisation), codes)


def test_quantise_node_gives_the_real_value_of_the_code() -> None:
    quantisation = Quantisation(dtype=IntegerType(bits=4, signed=False), scale=0.5, zero_point=2)
    x = np.array([-9, -1, -0.3, 0.25, 1.1, 99], np.float32).reshape(1, 1, 1, 6)
    result = apply(Quantise(role=Role.ACTIVATION, quantisation=quantisation), x)
    np.testing.assert_array_equal(result.reshape(-1), [-1, -1, -0.5, 0.5, 1, 6.5])


def test_bipolar_quantise_is_the_sign_times_the_scale() -> None:
    quantisation = Quantisation(dtype=IntegerType(bits=1, signed=False), scale=0.5, bipolar=True)
    x = np.array([-9, 0, 3], np.float32).reshape(1, 1, 1, 3)
    result = apply(Quantise(role=Role.ACTIVATION, quantisation=quantisation), x)
    np.testing.assert_array_equal(result.reshape(-1), [-0.5, 0.5, 0.5])


def test_frozen_array_is_a_read_only_copy() -> None:
    array = np.arange(6).reshape(2, 3).T
    frozen = freeze(array)
    array[0, 0] = 7
    assert frozen[0, 0] == 0
    assert not frozen.flags.writeable
    assert frozen.flags.c_contiguous
    assert freeze(frozen) is frozen


def test_attributes_are_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        Clamp(low=0.0).low = 1.0  # type: ignore[misc]  # that is the point
