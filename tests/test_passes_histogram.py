"""Histograms that grow: no value is lost, and what they say about ranges is near the values' own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.kernels.statistics import observe
from bnhw.ops import quantise
from bnhw.passes.histogram import BINS, Histogram, reach_of

SEEDS = st.integers(0, 2**32 - 1)


def histogram_of(values: Array) -> Histogram:
    """As calibration makes one."""
    reach = reach_of(float(np.abs(values).max(initial=0.0)))
    batch = values.astype(np.float32).reshape(1, 1, 1, -1)
    return Histogram(reach=reach, counts=observe(batch, -reach, reach, BINS, -np.inf, np.inf).histogram)


def values_of(seed: int, exponent: int, count: int = 999) -> Array:
    """Values of one size, also 0 and powers of two, where bins meet."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 1, count) * 2.0**exponent
    values[:: count // 9] = random.choice([0.0, -1.0, 1.0, 0.5, -0.25], len(values[:: count // 9])) * 2.0**exponent
    return np.asarray(values, np.float32)


def expect_equal(found: Histogram, expected: Histogram) -> None:
    assert found.reach == expected.reach
    np.testing.assert_array_equal(found.counts, expected.counts)


@given(st.floats(0, 2.0**127, width=32))
def test_the_reach_is_a_power_of_two_beyond_the_value(largest: float) -> None:
    reach = reach_of(largest)
    assert np.frexp(reach)[0] == 0.5
    assert largest < reach <= 2 * largest or largest == 0


@settings(deadline=None)
@given(st.lists(st.tuples(SEEDS, st.integers(-8, 8)), min_size=1, max_size=6))
def test_counts_survive_growth(parts: list[tuple[int, int]]) -> None:
    """Whatever the order of small and large values, as one histogram of all."""
    batches = [values_of(*part) for part in parts]
    joined = histogram_of(batches[0])
    for batch in batches[1:]:
        joined = joined.joined(histogram_of(batch))
    expect_equal(joined, histogram_of(np.concatenate(batches)))


@settings(deadline=None)
@given(SEEDS, SEEDS, st.integers(-40, 40))
def test_joining_commutes(first: int, second: int, exponent: int) -> None:
    one, other = histogram_of(values_of(first, 0)), histogram_of(values_of(second, exponent))
    expect_equal(one.joined(other), other.joined(one))
    assert one.joined(other).counts.sum() == 2 * 999


@pytest.mark.parametrize("doublings", [1, 12, 13, 14, 100])
def test_far_growth_keeps_the_sign_of_every_value(doublings: int) -> None:
    """From 12 doublings on all counts lie in the two bins beside 0."""
    values = np.concatenate([-np.linspace(0.5, 1, 10), np.linspace(0.5, 1, 30)])
    wide = histogram_of(values).reaching(2.0 ** (1 + doublings))
    assert (wide.counts[: BINS // 2].sum(), wide.counts[BINS // 2 :].sum()) == (10, 30)
    assert (np.flatnonzero(wide.counts).tolist() == [BINS // 2 - 1, BINS // 2]) == (doublings >= 12)


@settings(deadline=None)
@given(SEEDS, st.integers(2, 8), st.booleans(), st.floats(-3, 1), st.integers(0, 3))
def test_noise_is_near_the_true_mean_square_error(
    seed: int, bits: int, signed: bool, octaves: float, zero_point: int
) -> None:
    values = values_of(seed, 0)
    dtype = IntegerType(bits=bits, signed=signed)
    scale = float(np.abs(values).max()) / dtype.high * 2.0**octaves
    coding = Quantisation(dtype=dtype, scale=scale, zero_point=0 if signed else zero_point)
    reals = (quantise(values.astype(np.float64), coding) - coding.zero_point) * scale
    true = float(((reals - values) ** 2).mean())
    half_bin = reach_of(float(np.abs(values).max())) / BINS
    # each value is off by half a bin at the most, the more so where its error is large
    assert abs(histogram_of(values).noise(coding) - true) <= 2 * half_bin * (np.sqrt(true) + scale) + half_bin**2


@given(st.floats(-100, 100, width=32))
def test_a_value_lies_in_its_bin(value: float) -> None:
    histogram = histogram_of(np.array([value]))
    (centre,), (share,) = histogram.filled
    assert abs(centre - value) <= histogram.reach / BINS
    assert share == 1


@given(SEEDS)
def test_power_is_the_mean_square(seed: int) -> None:
    values = values_of(seed, 3)
    assert histogram_of(values).power == pytest.approx(float((values.astype(np.float64) ** 2).mean()), rel=1e-3)


@settings(deadline=None)
@given(SEEDS, st.floats(0.5, 1))
def test_no_more_than_the_rest_lies_beyond_a_quantile(seed: int, share: float) -> None:
    values = np.abs(values_of(seed, 0))
    histogram = histogram_of(values_of(seed, 0))
    bound, width = histogram.quantile(share), 2 * histogram.reach / BINS
    assert (values > bound).mean() <= 1 - share + 1e-12
    assert (values >= bound - width).mean() >= 1 - share - 1e-12  # and it is the least such bin
    assert histogram.quantile(1.0) >= values.max() >= histogram.quantile(1.0) - width


def test_zeros_alone_have_almost_no_noise() -> None:
    coding = Quantisation(dtype=IntegerType(bits=8, signed=True), scale=1.0)
    assert histogram_of(np.zeros(7)).noise(coding) < 1e-70
    assert histogram_of(np.zeros(7)).quantile(0.99) < 1e-35


def test_bipolar_codes_hold_signs_without_noise() -> None:
    """Else mode auto would allow constants behind 1-bit activations the noise of a rounding that does not happen."""
    signs = Histogram(reach=2.0, counts=np.bincount([BINS // 4, 3 * BINS // 4], minlength=BINS))
    assert signs.noise(Quantisation(dtype=IntegerType(bits=1, signed=False), scale=1.0, bipolar=True)) == 0.0
