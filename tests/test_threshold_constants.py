"""Thresholds are exact: on every accumulator, for both slopes, at ties, under clamps, for every function."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from exact_rounding import expected_code
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.monotone import FUNCTIONS, Function, enclose_inverse, enclose_value
from bnhw.ops import Activation
from bnhw.threshold_constants import (
    MAX_LEVELS,
    Line,
    Rounding,
    Thresholds,
    check_thresholds,
    codes_of,
    find_thresholds,
)

EXAMPLES = settings(deadline=None, max_examples=150)
SPAN = (-40, 37)
UINT4 = Quantisation(dtype=IntegerType(bits=4, signed=False), scale=0.25)
HALVES = st.integers(-40, 40).map(lambda n: Fraction(n, 8))
"""Boundaries of dyadic scales are hit exactly by these."""
REALS = st.floats(-8, 8, width=32).map(Fraction)


def code_by(found: Thresholds, acc: int, row: int, channel: int) -> int:
    """What the instruction computes."""
    limits: list[int] = found.values[row, channel % found.values.shape[1]].tolist()
    falls = bool(found.falling[channel % len(found.falling)])
    return found.low + sum(acc <= t if falls else acc >= t for t in limits)


@st.composite
def roundings(draw: st.DrawFn) -> Rounding:
    """Any coding, function and clamp; dyadic scales often, so that boundaries are hit."""
    dtype = IntegerType(bits=draw(st.integers(1, 6)), signed=draw(st.booleans()))
    scale = draw(st.one_of(st.sampled_from((0.125, 0.25, 0.5, 1.0, 2.0)), st.floats(0.05, 3)))
    coding = Quantisation(dtype=dtype, scale=scale, zero_point=draw(st.integers(dtype.low, dtype.high)))
    function = draw(st.sampled_from((None, *Function)))
    positive = st.one_of(st.sampled_from((0.25, 1.0, 2.0)), st.floats(0.01, 4))
    activation = None if function is None else Activation(function=function, alpha=draw(positive), gain=draw(positive))
    bounds = st.one_of(st.integers(-16, 16).map(lambda n: n / 8), st.floats(-3, 3))
    low, high = sorted((draw(bounds), draw(bounds)))
    kind = draw(st.integers(0, 3))
    return Rounding(
        quantisation=coding,
        activation=activation,
        low=low if kind & 1 else -np.inf,
        high=high if kind & 2 else np.inf,
    )


@st.composite
def many_lines(draw: st.DrawFn) -> list[list[Line]]:
    """(classes, channels) of both slopes, constant ones and shared ones; classes are divisors."""
    numbers = st.one_of(HALVES, REALS)
    slopes = st.one_of(st.just(Fraction(0)), numbers)
    lines = draw(st.lists(st.tuples(slopes, numbers), min_size=1, max_size=4))
    divisors = draw(st.sampled_from(((1,), (9,), (4, 6, 9))))
    return [[Line(slope=slope / n, intercept=shift) for slope, shift in lines] for n in divisors]


@EXAMPLES
@given(roundings(), many_lines())
@example(  # half of a sigmoid stays below a half, by exp(-185)
    Rounding(
        quantisation=Quantisation(dtype=IntegerType(bits=1, signed=False), scale=2.0),
        activation=Activation(function=Function.SIGMOID),
    ),
    [[Line(slope=Fraction(5), intercept=Fraction(0))]],
)
def test_every_accumulator_gets_its_exact_code(rounding: Rounding, lines: list[list[Line]]) -> None:
    found = find_thresholds(lines, rounding, SPAN)
    assert found.values.dtype == np.int64
    assert (found.values[..., 1:] >= found.values[..., :-1]).all()
    assert found.values.min() >= SPAN[0] - 1
    assert found.values.max() <= SPAN[1] + 1
    dtype = rounding.quantisation.dtype
    assert dtype.low <= found.low <= found.low + found.values.shape[2] <= dtype.high
    for row, many in enumerate(lines):
        for channel, line in enumerate(many):
            for acc in range(SPAN[0], SPAN[1] + 1):
                expected = expected_code(rounding, line.slope * acc + line.intercept)
                assert code_by(found, acc, row, channel) == expected, (row, channel, acc)


@EXAMPLES
@given(roundings(), many_lines())
def test_codes_with_a_float_filter_are_exact(rounding: Rounding, lines: list[list[Line]]) -> None:
    points = np.arange(SPAN[0], SPAN[1] + 1)
    line = lines[0][0]
    expected = [expected_code(rounding, line.slope * int(acc) + line.intercept) for acc in points]
    assert codes_of(line, rounding, points).tolist() == expected


@pytest.mark.parametrize("slope", [1, -1])
def test_an_accumulator_on_the_boundary_rounds_up(slope: int) -> None:
    line = Line(slope=Fraction(slope, 8), intercept=Fraction(0))
    found = find_thresholds([[line]], Rounding(quantisation=UINT4), (-200, 200))
    expected = [8 * (2 * code - 1) // 8 for code in range(1, 16)]  # real 0.25 (code - 1/2) is acc = 2 code - 1
    assert found.values[0, 0].tolist() == sorted(slope * acc for acc in expected)
    assert bool(found.falling[0]) is (slope < 0)


def test_a_float_that_is_almost_a_third_is_not_a_third() -> None:
    third = Line(slope=Fraction(1, 3), intercept=Fraction(0))
    almost = replace(third, slope=Fraction(1 / 3))  # below 1/3
    rounding = Rounding(quantisation=replace(UINT4, scale=2.0))
    found = find_thresholds([[third, almost]], rounding, (0, 10))
    assert found.values[0].tolist() == [[3, 9], [4, 10]]


@pytest.mark.parametrize("function", [Function.SIGMOID, Function.TANH])
def test_the_limit_of_a_function_is_never_reached(function: Function) -> None:
    rounding = Rounding(quantisation=replace(UINT4, scale=2.0), activation=Activation(function=function))
    assert rounding.code(Fraction(10**9)) == 0  # 1 / 2 + 1/2 would be code 1
    assert find_thresholds([[Line(slope=Fraction(10**6), intercept=Fraction(0))]], rounding, (0, 9)).low == 0


@pytest.mark.parametrize("function", list(Function))
def test_an_inverse_lies_where_the_function_says(function: Function) -> None:
    alpha = Fraction(3, 7)
    low, high = FUNCTIONS[function].limits(alpha)
    for numerator in range(-60, 60):
        for y in (Fraction(numerator, 8), Fraction(numerator, 10**9)):
            if (low is not None and y <= low) or (high is not None and y >= high):
                continue
            x = enclose_inverse(function, y, alpha, 30)
            assert x.high - x.low < Fraction(1, 10**18)
            below, above = (enclose_value(function, end, alpha, 60) for end in (x.low, x.high))
            if x.low == x.high:
                assert below == above
                assert below.low == y
            else:
                assert below.high < y < above.low


def test_channels_that_are_alike_share_one_set() -> None:
    line, other = (Line(slope=Fraction(1, n), intercept=Fraction(0)) for n in (8, 7))
    rounding = Rounding(quantisation=UINT4)
    assert find_thresholds([[line] * 5], rounding, SPAN).values.shape == (1, 1, 15)
    assert find_thresholds([[line] * 5], rounding, SPAN).falling.shape == (1,)
    assert find_thresholds([[line] * 4 + [other]], rounding, SPAN).values.shape == (1, 5, 15)
    mirrored = Line(slope=Fraction(0), intercept=Fraction(0))
    assert find_thresholds([[line, mirrored]], rounding, SPAN).values.shape[1] == 2


def test_codes_that_no_channel_reaches_have_no_threshold() -> None:
    line = Line(slope=Fraction(1, 8), intercept=Fraction(0))
    found = find_thresholds([[line]], Rounding(quantisation=UINT4), (8, 20))
    assert (found.low, found.values.tolist()) == (4, [[[9, 11, 13, 15, 17, 19]]])
    flat = Line(slope=Fraction(0), intercept=Fraction(1))
    assert find_thresholds([[flat]], Rounding(quantisation=UINT4), SPAN).values.tolist() == [[[SPAN[0]]]]
    lowest = find_thresholds([[replace(flat, intercept=Fraction(0))]], Rounding(quantisation=UINT4), SPAN)
    assert (lowest.low, lowest.values.tolist()) == (0, [[[SPAN[1] + 1]]])


def test_accumulators_of_32_bits_and_tiny_slopes_are_exact() -> None:
    span = (-(2**31), 2**31 - 1)
    lines = [[Line(slope=Fraction(sign * 3e-10), intercept=Fraction(0.1)) for sign in (1, -1)]]
    found = find_thresholds(lines, Rounding(quantisation=replace(UINT4, scale=0.01)), span)
    assert found.values.shape == (1, 2, 15)


@pytest.mark.parametrize("activation", [None, Activation(function=Function.ELU), Activation(function=Function.TANH)])
@pytest.mark.parametrize("slope", [0.017, -0.017])
def test_the_check_finds_every_threshold_that_is_off_by_one(activation: Activation | None, slope: float) -> None:
    lines = [[Line(slope=Fraction(slope), intercept=Fraction(0.3)), Line(slope=Fraction(0.02), intercept=Fraction(0))]]
    coding = Quantisation(dtype=IntegerType(bits=4, signed=True), scale=0.2)
    rounding, span = Rounding(quantisation=coding, activation=activation), (-99, 99)
    found = find_thresholds(lines, rounding, span)
    check_thresholds(found, lines, rounding, span)
    for channel, level in np.ndindex(found.values.shape[1:]):
        for change in (-1, 1):
            values = found.values.copy()
            values[0, channel, level] += change
            reached = {code_by(found, acc, 0, channel) for acc in range(span[0], span[1] + 1)}
            if len(reached) < found.values.shape[2] + 1 and not span[0] < values[0, channel, level] < span[1]:
                continue  # a code that this channel does not reach: its threshold lies beside the span
            with pytest.raises(AssertionError, match=f"thresholds of channel {channel} give code"):
                check_thresholds(replace(found, values=values), lines, rounding, span)


def test_too_many_levels_are_refused() -> None:
    wide = Quantisation(dtype=IntegerType(bits=16, signed=True), scale=0.001)
    line = Line(slope=Fraction(1), intercept=Fraction(0))
    with pytest.raises(ValueError, match=f"at most {MAX_LEVELS}, .* use multiply"):
        find_thresholds([[line]], Rounding(quantisation=wide), (-1000, 1000))


@pytest.mark.parametrize(("alpha", "gain"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (np.inf, 1.0), (1.0, np.nan)])
def test_an_activation_has_positive_parameters(alpha: float, gain: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        Activation(function=Function.ELU, alpha=alpha, gain=gain)
