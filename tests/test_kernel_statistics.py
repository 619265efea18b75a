"""Calibration statistics: the compiled pass equals the numpy reference at awkward sizes and numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bnhw.kernels.statistics import BLOCK, Statistics, observe, observe_reference

Values = npt.NDArray[np.float32]

NUMBERS = st.one_of(
    st.sampled_from((0.0, -0.0, 1.0, -1.0, 0.5, 0.25, float("inf"), float("-inf"), float("nan"))),
    st.floats(-4, 4, width=32),
)


def expect_equal(found: Statistics, expected: Statistics) -> None:
    assert (found.minimum, found.maximum) == (expected.minimum, expected.maximum)
    assert (found.below, found.above, found.non_finite) == (expected.below, expected.above, expected.non_finite)
    np.testing.assert_array_equal(found.histogram, expected.histogram)
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_allclose(found.sums, expected.sums, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-12, atol=1e-12)


@st.composite
def batches(draw: st.DrawFn) -> Values:
    """Any shape; special numbers often, and planes around the size of a block."""
    if draw(st.booleans()):
        shape = draw(hnp.array_shapes(min_dims=4, max_dims=4, max_side=6))
        return draw(hnp.arrays(np.float32, shape, elements=NUMBERS))
    width = draw(st.sampled_from((1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.normal(0, 2, (2, 3, 1, width)).astype(np.float32)


@settings(deadline=None)
@given(batches(), st.floats(-4, 4), st.floats(0.01, 8), st.integers(1, 9), NUMBERS, NUMBERS)
def test_pass_equals_the_reference(
    values: Values, low: float, span: float, bins: int, floor: float, ceiling: float
) -> None:
    limits = (low, low + span, bins, floor, ceiling)
    expect_equal(observe(values, *limits), observe_reference(values, *limits))


@settings(deadline=None)
@given(batches())
def test_every_value_is_counted_once(values: Values) -> None:
    seen = observe(values, -1, 1, 7, -np.inf, np.inf)
    assert seen.histogram.sum() + seen.below + seen.above + seen.non_finite == values.size
    assert seen.counts.sum() + seen.non_finite == values.size


def test_joined_batches_are_one_batch() -> None:
    values = np.random.default_rng(0).normal(0, 1, (5, 3, 7, 4)).astype(np.float32)
    values[0, 0, 0, :2] = np.nan, -9
    limits = (-1.0, 2.0, 16, 0.0, 1.5)
    expect_equal(observe(values[:2], *limits).joined(observe(values[2:], *limits)), observe(values, *limits))


def test_an_example() -> None:
    values = np.array([0, 0.5, 1, 2, -1, np.nan, np.inf, 1.9375], np.float32).reshape(1, 2, 2, 2)
    seen = observe(values, 0, 2, 4, 0, 2)
    assert (seen.minimum, seen.maximum, seen.below, seen.above, seen.non_finite) == (-1, 2, 1, 1, 2)
    assert seen.histogram.tolist() == [1, 1, 1, 1]
    assert seen.counts.tolist() == [2, 1]
    assert seen.sums.tolist() == [1.5, 1.9375]
    assert seen.squares.tolist() == [1.25, 1.9375**2]


def test_no_finite_value_leaves_the_extremes_empty() -> None:
    seen = observe(np.full((1, 1, 1, 2), np.nan, np.float32), 0, 1, 1, 0, 1)
    assert (seen.minimum, seen.maximum, seen.non_finite) == (np.inf, -np.inf, 2)


def test_arrays_in_another_layout_are_read_too() -> None:
    values = np.random.default_rng(0).normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
    limits = (-1.0, 1.0, 8, -np.inf, np.inf)
    expect_equal(
        observe(values.transpose(0, 3, 1, 2), *limits), observe_reference(values.transpose(0, 3, 1, 2), *limits)
    )


ZEROS = np.zeros((1, 1, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("values", "limits", "message"),
    [
        (ZEROS.astype(np.float64), (0, 1, 1), r"found float64 \(1, 1, 1, 1\), expected float32 of 4 axes"),
        (ZEROS[0], (0, 1, 1), r"found float32 \(1, 1, 1\), expected float32"),
        (ZEROS, (1, 1, 1), r"\[1, 1\) is no range"),
        (ZEROS, (0, np.inf, 1), r"\[0, inf\) is no range"),
        (ZEROS, (0, 1, 0), "0 bins, expected at least 1"),
    ],
)
def test_what_cannot_be_counted_is_refused(values: npt.NDArray[Any], limits: Any, message: str) -> None:
    functions: tuple[Any, ...] = (observe, observe_reference)
    for function in functions:
        with pytest.raises(ValueError, match=message):
            function(values, *limits, 0.0, 1.0)
