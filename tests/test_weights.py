"""Finding 1-bit weights, and rounding the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnhw.dtypes import Array
from bnhw.weights import channel_magnitudes, to_integers, to_signs, zeros_among_two_values


@st.composite
def one_bit_weights(draw: st.DrawFn) -> tuple[Array, Array]:
    """Signs times one magnitude a channel (float32, some of them 0), and the magnitudes."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)))
    magnitudes = random.uniform(1e-3, 10, shape[0]).astype(np.float32)
    if draw(st.booleans()):
        magnitudes[random.integers(shape[0])] = 0
    signs = random.choice(np.array((-1, 1), np.float32), shape)
    return signs * magnitudes[:, None, None, None], magnitudes


@given(one_bit_weights())
def test_two_valued_channels_are_one_bit(case: tuple[Array, Array]) -> None:
    weights, magnitudes = case
    found = channel_magnitudes(weights)
    assert found is not None
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, magnitudes)
    np.testing.assert_array_equal(to_signs(weights) * found[:, None, None, None], weights)
    assert zeros_among_two_values(weights) == 0


@given(one_bit_weights(), st.lists(st.floats(-4, 4), min_size=5, max_size=5))
def test_fused_batch_norm_leaves_weights_one_bit(case: tuple[Array, Array], gains: list[float]) -> None:
    """An exporter multiplies each channel by a gain, negative or 0 too, in float32."""
    weights, magnitudes = case
    gain = np.array(gains[: len(weights)], np.float32)
    found = channel_magnitudes(weights * gain[:, None, None, None])
    assert found is not None
    np.testing.assert_array_equal(found, np.abs(magnitudes * gain))


@given(one_bit_weights(), st.booleans(), st.integers(0, 2**32 - 1))
def test_weight_one_ulp_off_is_not_one_bit(case: tuple[Array, Array], up: bool, seed: int) -> None:
    weights, _ = case
    if weights[0].size == 1:
        weights = np.repeat(weights, 2, axis=1)
    place = int(np.random.default_rng(seed).integers(weights.size))
    direction = np.float32(np.inf if up else -np.inf)
    weights.flat[place] = np.nextafter(weights.flat[place], direction)
    assert channel_magnitudes(weights) is None


@pytest.mark.parametrize(
    ("rows", "zeros"),
    [
        ([[1, -1, 0, 1]], 1),
        ([[1, 0, 0, 1], [-2, 2, 2, 0]], 3),
        ([[0, 0, 0, 0], [1, -1, 1, 1]], 0),  # a channel with gain 0
        ([[0, 0, 0, 0], [1, -1, 1, 0]], 1),
        ([[1, -1, 0, 2]], 0),  # not two-valued anyway
        ([[1, 2, 3, 4], [1, -1, 0, 1]], 0),
    ],
)
def test_zeros_are_counted_only_among_two_values(rows: list[list[float]], zeros: int) -> None:
    weights = np.array(rows, np.float32)[:, :, None, None]
    assert zeros_among_two_values(weights) == zeros
    assert (channel_magnitudes(weights) is None) == bool(zeros or max(map(max, rows)) > 2 or rows[0] == [1, -1, 0, 2])


def test_sign_of_zero_is_plus_one() -> None:
    np.testing.assert_array_equal(to_signs(np.array([0.0, -0.0, -1e-30, 2.0])), [1, 1, -1, 1])


@given(st.integers(2, 8), st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 20))
def test_integers_are_the_nearest_ones(bits: int, seed: int, channels: int, count: int) -> None:
    weights = np.random.default_rng(seed).normal(0, 1, (channels, count, 1, 1)).astype(np.float32)
    integers, scales = to_integers(weights, bits)
    limit = 2 ** (bits - 1) - 1
    assert integers.dtype == np.int8
    np.testing.assert_array_equal(np.abs(integers).reshape(channels, -1).max(axis=1), limit)
    error = np.abs(integers * scales[:, None, None, None] - weights)
    assert (error <= scales[:, None, None, None] * (0.5 + 1e-9)).all()


def test_channel_of_zeros_becomes_zeros() -> None:
    integers, scales = to_integers(np.zeros((2, 3, 1, 1), np.float32), 8)
    assert not integers.any()
    np.testing.assert_array_equal(scales, [1.0, 1.0])
