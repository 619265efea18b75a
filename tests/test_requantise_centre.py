"""Lines that are exact where the values lie, instead of at an accumulator of 0."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnhw.options import Requantisation
from bnhw.requantise_constants import Constants, count_signed_digits, find_constants

COARSE = [Requantisation.parse(text) for text in ("shift", "csd:1", "csd:2", "multiply:4")]
MODES = [*COARSE, *map(Requantisation.parse, ("csd:4", "multiply:16"))]


def code(constants: Constants, acc: int, channel: int = 0) -> int:
    table = (constants.multiplier, constants.offset, constants.shift)
    multiplier, offset, shift = (int(numbers[0, channel]) for numbers in table)
    return (acc * multiplier + offset) >> shift


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(MODES), st.floats(1e-3, 4), st.floats(-300, 300), st.integers(-100, 300))
def test_the_line_is_exact_at_the_centre(mode: Requantisation, ratio: float, offset: float, centre: int) -> None:
    constants = find_constants(np.array([[ratio]]), np.array([[offset]]), mode, np.array([float(centre)]))
    acc = round((centre + 0.5 - offset) / ratio)
    wanted = math.floor(Fraction(ratio) * acc + Fraction(offset))
    assert abs(code(constants, acc) - wanted) <= 1
    unit = Fraction(1, 1 << int(constants.shift[0, 0]))
    middle = (centre + Fraction(1, 2) - Fraction(offset)) / Fraction(ratio)  # where the wanted line gives this code
    found = (middle * int(constants.multiplier[0, 0]) + int(constants.offset[0, 0])) * unit
    assert abs(found - centre - Fraction(1, 2)) <= unit + Fraction(1, 10**6)


@pytest.mark.parametrize("mode", COARSE, ids=str)
def test_the_mean_error_of_normal_values_is_smaller_than_without_a_centre(mode: Requantisation) -> None:
    random = np.random.default_rng(0)
    for ratio in (0.0123, 0.3, 0.0877):
        mean, deviation = 60.0, 20.0  # codes
        accs = np.rint(random.normal(mean, deviation, 4000) / ratio).astype(int)
        tables = np.array([[ratio]]), np.array([[0.5]])
        wanted = np.floor(accs * ratio + 0.5)
        errors = [
            np.abs([code(constants, int(acc)) for acc in accs] - wanted).mean()
            for constants in (find_constants(*tables, mode), find_constants(*tables, mode, np.array([mean])))
        ]
        assert errors[1] <= errors[0]
        if errors[0] > 1:
            assert errors[1] < 0.7 * errors[0]


@given(st.sampled_from(MODES), st.integers(-10, 2), st.floats(-300, 300), st.floats(-100, 300))
def test_a_ratio_that_the_mode_holds_has_the_same_line_wherever_its_centre(
    mode: Requantisation, exponent: int, offset: float, centre: float
) -> None:
    tables = np.array([[2.0**exponent]]), np.array([[offset]])
    with_centre, without = find_constants(*tables, mode, np.array([centre])), find_constants(*tables, mode)
    assert int(with_centre.offset[0, 0]) == int(without.offset[0, 0])


def test_channels_with_fewer_digits_have_them() -> None:
    ratio = np.array([[0.7123, 0.7123, 0.7123, 0.7123]])
    digits = np.array([1, 2, 3, 4])
    found = find_constants(ratio, np.zeros((1, 4)), Requantisation.parse("csd:4"), digits=digits)
    assert count_signed_digits(found.multiplier)[0].tolist() == [1, 2, 3, 4]
    for channel, number in enumerate(digits):
        alone = find_constants(ratio[:, :1], np.zeros((1, 1)), Requantisation.parse(f"csd:{number}"))
        assert alone.multiplier[0, 0] == found.multiplier[0, channel]


def test_a_ratio_too_small_for_the_mode_becomes_the_centre() -> None:
    found = find_constants(
        np.array([[2.0**-60]]), np.array([[0.5]]), Requantisation.parse("multiply:4"), np.array([17.0])
    )
    assert [code(found, acc) for acc in (-1000, 0, 1000)] == [17, 17, 17]
