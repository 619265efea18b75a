"""Requantise constants against exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnhw.dtypes import Array
from bnhw.options import Requantisation, RequantiseMode
from bnhw.requantise_constants import (
    MAX_SHIFT,
    Constants,
    _reduced,
    count_signed_digits,
    find_constants,
    find_sign_constants,
)

SHIFT = Requantisation(mode=RequantiseMode.SHIFT)
EXAMPLES = settings(deadline=None, max_examples=300)


def multiply(bits: int) -> Requantisation:
    return Requantisation(mode=RequantiseMode.MULTIPLY, number=bits)


def column(*numbers: float) -> Array:
    return np.array([numbers], np.float64)


def codes(constants: Constants, acc: int) -> list[int]:
    """(acc M + B) >> S of every channel, in Python integers."""
    tables = (constants.multiplier, constants.offset, constants.shift)
    return [(acc * int(m) + int(b)) >> int(s) for m, b, s in zip(*(t.flat for t in tables), strict=True)]


def exact(ratio: float, offset: float, acc: int) -> int:
    """floor(ratio acc + offset)."""
    return math.floor(Fraction(ratio) * acc + Fraction(offset))


def ratio_of(constants: Constants) -> Fraction:
    return Fraction(int(constants.multiplier[0, 0]), 1 << int(constants.shift[0, 0]))


SIGNS = st.sampled_from((1, -1))
MANTISSAS = st.floats(1, 2, exclude_max=True)


@EXAMPLES
@given(st.integers(2, 24), MANTISSAS, st.integers(-60, 22), SIGNS)
@example(bits=2, mantissa=1.0, exponent=0, sign=-1)
@example(bits=16, mantissa=1.9999, exponent=13, sign=1)
def test_multiplier_is_as_near_as_its_width_allows(bits: int, mantissa: float, exponent: int, sign: int) -> None:
    limit = (1 << (bits - 1)) - 1
    ratio = sign * min(math.ldexp(mantissa, exponent), float(limit))
    constants = find_constants(column(ratio), column(0.5), multiply(bits))
    error = abs(ratio_of(constants) - Fraction(ratio))
    assert abs(int(constants.multiplier[0, 0])) <= limit
    assert 0 <= int(constants.shift[0, 0]) <= MAX_SHIFT
    assert error <= max(abs(Fraction(ratio)) / limit, Fraction(1, 1 << (MAX_SHIFT + 1)))
    assert constants.worst_error == pytest.approx(float(error / abs(Fraction(ratio))), rel=1e-6, abs=1e-15)


@EXAMPLES
@given(MANTISSAS, st.integers(-39, 23))
def test_shift_is_the_nearest_power_of_two(mantissa: float, exponent: int) -> None:
    ratio = math.ldexp(mantissa, exponent)
    constants = find_constants(column(ratio), column(0.5), SHIFT)
    found = float(ratio_of(constants))
    assert constants.mode is RequantiseMode.SHIFT
    assert math.log2(found).is_integer()
    assert abs(math.log2(found / ratio)) <= 0.5 + 1e-9


@EXAMPLES
@given(
    st.integers(8, 24),
    st.floats(2**-20, 100).filter(lambda x: x > 0),
    SIGNS,
    st.floats(-300, 300),
    st.lists(st.floats(-1, 1), min_size=5, max_size=5),
)
def test_result_is_within_one_code_of_the_exact_one(
    bits: int, magnitude: float, sign: int, offset: float, places: list[float]
) -> None:
    """Over every sum that gives at most as many codes as the multiplier has steps."""
    ratio = sign * magnitude
    constants = find_constants(column(ratio), column(offset), multiply(bits))
    largest = int(((1 << (bits - 2)) - 1) / magnitude)
    for acc in (0, largest, -largest, *(int(place * largest) for place in places)):
        (found,) = codes(constants, acc)
        assert abs(found - exact(ratio, offset, acc)) <= 1


OFFSETS = st.one_of(st.floats(-1000, 1000), st.integers(-4000, 4000).map(lambda n: n / 4))


@EXAMPLES
@given(st.sampled_from((SHIFT, multiply(4), multiply(8), multiply(16), multiply(24))), st.data())
def test_result_is_exact_where_the_ratio_is_a_power_of_two(mode: Requantisation, data: st.DataObject) -> None:
    top = 20 if mode.mode is RequantiseMode.SHIFT else mode.number - 2
    exponent = data.draw(st.integers(-16, top))
    offset = data.draw(OFFSETS)
    ratio = math.ldexp(1, exponent)
    constants = find_constants(column(ratio), column(offset), mode)
    assert constants.worst_error == 0
    assert ratio_of(constants) == Fraction(ratio)
    for acc in (*range(-9, 10), *data.draw(st.lists(st.integers(-(2**31), 2**31), min_size=5, max_size=5))):
        assert codes(constants, acc) == [exact(ratio, offset, acc)]


@pytest.mark.parametrize("mode", [SHIFT, multiply(8)])
def test_rounding_half_up_does_not_shift_whole_codes(mode: Requantisation) -> None:
    """Ratio 1 and the half of rounding: every sum is its own code."""
    constants = find_constants(column(1.0), column(0.5), mode)
    assert [codes(constants, acc)[0] for acc in range(-3, 4)] == list(range(-3, 4))


@EXAMPLES
@given(st.integers(-(2**23), 2**23), st.integers(-(2**50), 2**50), st.integers(0, 40), st.integers(-(2**31), 2**31))
def test_reduced_constants_are_the_same_function(multiplier: int, offset: int, shift: int, acc: int) -> None:
    arrays = [np.array([[number]], np.int64) for number in (multiplier, shift)]
    less, places = (int(array[0, 0]) for array in _reduced(*arrays))
    assert (acc * multiplier + offset) >> shift == (acc * less + (offset >> (shift - places))) >> places
    assert places == 0 or less % 2 == 1 or less == 0
    assert [int(array[0, 0]) for array in arrays] == [multiplier, shift]


def digits_of(number: int) -> list[int]:
    """The canonical signed-digit form, least place first, by its definition: no two digits side by side."""
    digits = []
    while number:
        digit = (2 - number % 4) if number % 2 else 0
        digits.append(digit)
        number = (number - digit) // 2
    return digits


def csd(digits: int) -> Requantisation:
    return Requantisation(mode=RequantiseMode.CSD, number=digits)


@EXAMPLES
@given(st.integers(-(2**40), 2**40))
def test_signed_digits_are_counted_as_the_canonical_form_has_them(number: int) -> None:
    expected = sum(digit != 0 for digit in digits_of(number))
    assert int(count_signed_digits(np.array([number]))[0]) == expected


SUMS = {n: sorted(m for m in range(1 << 16) if sum(d != 0 for d in digits_of(m)) <= n) for n in (1, 2, 3, 4)}


@EXAMPLES
@given(st.sampled_from((1, 2, 3, 4)), MANTISSAS, st.integers(-24, 20), SIGNS)
def test_no_sum_of_so_many_signed_powers_of_two_is_nearer(
    digits: int, mantissa: float, exponent: int, sign: int
) -> None:
    ratio = sign * math.ldexp(mantissa, exponent)
    constants = find_constants(column(ratio), column(0.5), csd(digits))
    assert int(count_signed_digits(constants.multiplier).max()) <= digits
    unit = Fraction(2) ** (exponent - 14)
    nearest = min(abs(abs(Fraction(ratio)) - m * unit) for m in SUMS[digits])
    assert abs(ratio_of(constants) - Fraction(ratio)) == nearest


def test_largest_relative_errors_of_signed_digits() -> None:
    """1 digit: a third off between two powers of two; each further digit divides the gap by about 4."""
    worst = {}
    for digits in (1, 2, 3):
        ratios = np.linspace(1, 2, 4001)[None, :]
        worst[digits] = find_constants(ratios, np.zeros_like(ratios), csd(digits)).worst_error
    assert worst[1] == pytest.approx(1 / 3, rel=1e-3)
    assert worst[2] == pytest.approx(1 / 11, rel=1e-2)
    assert worst[3] == pytest.approx(1 / 43, rel=1e-2)


def test_one_positive_digit_for_all_channels_is_mode_shift() -> None:
    assert find_constants(column(0.5, 0.125), column(0.5, 0.5), csd(3)).mode is RequantiseMode.SHIFT
    assert find_constants(column(0.5, -0.125), column(0.5, 0.5), csd(3)).mode is RequantiseMode.CSD


def test_a_ratio_beyond_signed_digits_is_refused() -> None:
    with pytest.raises(ValueError, match="too large for signed digits; use multiply"):
        find_constants(column(2.0**24), column(0.5), csd(2))


def test_each_channel_has_constants_of_its_own() -> None:
    ratio, offset = column(0.3, -0.7, 1.0, 0.0), column(0.5, 7.0, -3.0, 12.25)
    together = find_constants(ratio, offset, multiply(16))
    alone = [find_constants(column(r), column(o), multiply(16)) for r, o in zip(ratio[0], offset[0], strict=True)]
    for acc in (-1000, -1, 0, 5, 999):
        assert codes(together, acc) == [codes(one, acc)[0] for one in alone]
    assert not together.uniform
    assert find_constants(column(0.3, 0.3), column(1.0, 1.0), multiply(16)).uniform


def test_ratio_of_zero_is_a_constant_code() -> None:
    for mode in (SHIFT, multiply(16)):
        constants = find_constants(column(0.0), column(17.5), mode)
        assert {codes(constants, acc)[0] for acc in (-(2**31), -1, 0, 1, 2**31)} == {17}
        assert constants.worst_error == 0


def test_powers_of_two_need_no_multiplier_in_mode_multiply_either() -> None:
    assert find_constants(column(0.25, 8.0, 0.0), column(0.5, 0.5, 0.5), multiply(8)).mode is RequantiseMode.SHIFT
    assert find_constants(column(0.25, 3.0), column(0.5, 0.5), multiply(8)).mode is RequantiseMode.MULTIPLY
    assert find_constants(column(-0.25), column(0.5), multiply(8)).mode is RequantiseMode.MULTIPLY


@pytest.mark.parametrize(
    ("ratio", "offset", "mode", "fragment"),
    [
        (-0.5, 0.5, SHIFT, "1 channels have a negative gain, which a shift cannot give; use csd or multiply"),
        (2.0**26, 0.5, SHIFT, "too large for a shift"),
        (128.0, 0.5, multiply(8), "needs more than 8 multiplier bits; use a wider multiply:M"),
        (-200.0, 0.5, multiply(8), "needs more than 8 multiplier bits"),
        (0.001, 1e15, multiply(16), "beyond 63-bit sums"),
    ],
)
def test_what_a_mode_cannot_hold_is_refused(ratio: float, offset: float, mode: Requantisation, fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment):
        find_constants(column(ratio), column(offset), mode)


# Signs: exact at both neighbours of every boundary.


def exact_sign(slope: float, intercept: float, acc: int) -> int:
    return int(Fraction(slope) * acc + Fraction(intercept) >= 0)


def found_sign(constants: Constants, acc: int) -> int:
    return min(max(codes(constants, acc)[0], 0), 1)


SLOPES = st.one_of(st.just(0.0), st.floats(-1e3, 1e3), st.floats(-1e-30, 1e-30), st.integers(-99, 99).map(float))


@EXAMPLES
@given(SLOPES, st.one_of(st.just(0.0), st.just(-0.0), st.floats(-1e6, 1e6)), st.integers(-600, 0), st.integers(0, 600))
@example(slope=0.1, intercept=-0.3, low=-5, high=5)  # 0.1 * 3 rounds to more than 0.3
@example(slope=-0.1, intercept=0.3, low=-5, high=5)
def test_sign_is_exact_over_the_whole_range(slope: float, intercept: float, low: int, high: int) -> None:
    constants = find_sign_constants(column(slope), column(intercept), low, high)
    for acc in range(low, high + 1):
        assert found_sign(constants, acc) == exact_sign(slope, intercept, acc)


@EXAMPLES
@given(SLOPES.filter(bool), st.integers(-(2**29), 2**29), st.integers(-3, 3))
def test_sign_is_exact_at_both_neighbours_of_the_boundary(slope: float, boundary: int, nudge: int) -> None:
    intercept = -slope * boundary
    for _ in range(abs(nudge)):
        intercept = math.nextafter(intercept, math.copysign(math.inf, nudge))
    constants = find_sign_constants(column(slope), column(intercept), -(2**30), 2**30)
    for acc in (boundary - 2, boundary - 1, boundary, boundary + 1, boundary + 2, -(2**30), 2**30):
        assert found_sign(constants, acc) == exact_sign(slope, intercept, acc)


def test_sign_of_a_constant_channel_never_changes() -> None:
    for intercept, code in ((0.0, 1), (-0.0, 1), (3.0, 1), (-1e-300, 0)):
        constants = find_sign_constants(column(0.0), column(intercept), -7, 9)
        assert {found_sign(constants, acc) for acc in range(-7, 10)} == {code}


def test_rising_signs_need_no_multiplier() -> None:
    assert find_sign_constants(column(0.3, 2.0), column(1.0, -7.0), -9, 9).mode is RequantiseMode.SHIFT
    assert find_sign_constants(column(0.3, -2.0), column(1.0, -7.0), -9, 9).mode is RequantiseMode.MULTIPLY
