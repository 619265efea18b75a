"""Products of two tensors: both sets of kernels against the definition."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_strategies import tensors

from bnhw.kernels import portable, reference

WIDE = 2**15
"""Products of numbers up to this, less a zero point of up to this, take 32 bits with their sign."""


@settings(deadline=None, max_examples=60)
@given(tensors(-WIDE, WIDE - 1), st.integers(-1, 1), st.integers(0, 99), st.booleans())
def test_multiply_equals_reference_and_definition(
    first: npt.NDArray[np.int32], sign: int, second_zero: int, whole_channels: bool
) -> None:
    second = np.roll(first, 7) >> 3
    if whole_channels:
        second = np.ascontiguousarray(second[:, :1, :1])
    first_zero = sign * WIDE
    result = portable.multiply(first, second, first_zero, second_zero)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, reference.multiply(first, second, first_zero, second_zero))
    for n, y, x, c in np.ndindex(first.shape):
        other = second[n, 0, 0, c] if whole_channels else second[n, y, x, c]
        assert result[n, y, x, c] == (int(first[n, y, x, c]) - first_zero) * (int(other) - second_zero)


def test_each_image_has_factors_of_its_own() -> None:
    first = np.ones((2, 2, 1, 2), np.int32)
    second = np.array([[1, 2], [3, 4]], np.int32).reshape(2, 1, 1, 2)
    assert portable.multiply(first, second, 0, 0).reshape(2, -1).tolist() == [[1, 2, 1, 2], [3, 4, 3, 4]]


@pytest.mark.parametrize("module", [reference, portable])
@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 1, 3), (2, 1, 1, 1), (2, 3, 1, 4)])
def test_factors_of_other_shapes_are_refused(module: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"multiply: shapes .*, expected one, or \(2, 1, 1, 4\)"):
        module.multiply(np.zeros((2, 3, 2, 4), np.int32), np.zeros(shape, np.int32), 0, 0)


def test_zero_points_beyond_32_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="second_zero = 2147483648 does not fit 32 bits signed"):
        portable.multiply(np.zeros((1, 1, 1, 1), np.int32), np.zeros((1, 1, 1, 1), np.int32), 0, 2**31)
