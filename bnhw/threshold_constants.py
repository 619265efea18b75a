"""The thresholds of a requantise step, by exact arithmetic.

Wanted: code = clamp(floor(real / scale + zero_point + 1/2)) of real = clamp(gain * function(slope * acc + intercept)).
Given: code = low + the number of thresholds that acc reaches. Every float64 number is a fraction, so boundaries and
thresholds are found with Python integers; where a function's inverse is irrational, with as many digits as it takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import ceil, floor, inf, isfinite, lcm

import numpy as np

from bnhw.dtypes import Array, Quantisation
from bnhw.monotone import FUNCTIONS, Enclosure, enclose_inverse, enclose_value
from bnhw.ops import Activation

MAX_LEVELS = (1 << 12) - 1
"""More than codes of 12 bits need is no sensible number of comparators."""

FIRST_DIGITS = 40
"""Decimal digits of an irrational boundary at the first try; they double until every threshold is certain."""

FLOAT_ERROR = 1e-13
"""A thousand times the relative error of one float64 operation: far more than the few of a check can add up to."""

HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """real = slope * acc + intercept, exactly."""

    slope: Fraction
    intercept: Fraction


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """From a real number x to a code: clamp(activation(x), low, high), quantised; never a 1-bit sign."""

    quantisation: Quantisation
    activation: Activation | None = None
    low: float = -inf
    high: float = inf

    @cached_property
    def gain(self) -> Fraction:
        """Codes a unit of the function's value."""
        gain = 1.0 if self.activation is None else self.activation.gain
        return Fraction(gain) / Fraction(self.quantisation.scale)

    @cached_property
    def shift(self) -> Fraction:
        """What is added before rounding down."""
        return self.quantisation.zero_point + HALF

    @cached_property
    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code that any x gives."""
        low, high = (self._code_of_bound(bound) for bound in (self.low, self.high))
        least, most = self._limits
        return min(max(low, least), high), max(min(high, most), low)

    def _code_of_bound(self, bound: float) -> int:
        dtype = self.quantisation.dtype
        if not isfinite(bound):
            return dtype.low if bound < 0 else dtype.high
        code = floor(Fraction(bound) / Fraction(self.quantisation.scale) + self.shift)
        return min(max(code, dtype.low), dtype.high)

    @property
    def _limits(self) -> tuple[int, int]:
        """The smallest and the largest code strictly between the limits of the function."""
        least, most = self.quantisation.dtype.low, self.quantisation.dtype.high
        if self.activation is None:
            return least, most
        low, high = FUNCTIONS[self.activation.function].limits(Fraction(self.activation.alpha))
        if low is not None:
            least = max(least, floor(self.gain * low + self.shift))
        if high is not None:
            most = min(most, ceil(self.gain * high + self.shift) - 1)
        return least, most

    def code(self, x: Fraction) -> int:
        """The code of x, exactly."""
        least, most = self.code_range
        digits = FIRST_DIGITS
        while True:
            value = self._value(x, digits)
            low, high = (min(max(floor(self.gain * end + self.shift), least), most) for end in (value.low, value.high))
            if low == high:
                return low
            digits *= 2

    def _value(self, x: Fraction, digits: int) -> Enclosure:
        if self.activation is None:
            return Enclosure(low=x, high=x)
        return enclose_value(self.activation.function, x, Fraction(self.activation.alpha), digits)

    def boundary(self, code: int, digits: int) -> Enclosure:
        """The x from which on codes are `code` or more; `code` is beyond the smallest of `code_range`."""
        y = (code - self.shift) / self.gain
        if self.activation is None:
            return Enclosure(low=y, high=y)
        return enclose_inverse(self.activation.function, y, Fraction(self.activation.alpha), digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Constants of a `Threshold` step.

    values: int64 (classes, channels or 1, levels), ascending. falling: bool (channels or 1,). low: the code below
    all thresholds.
    """

    values: Array
    falling: Array
    low: int


def find_thresholds(lines: Sequence[Sequence[Line]], rounding: Rounding, span: tuple[int, int]) -> Thresholds:
    """Thresholds of `lines`, (classes, channels), for accumulators in `span`, checked with `check_thresholds`.

    Thresholds lie in the span or one beside it; codes that no channel reaches have none. Channels that are all alike
    share one set. The slopes of a channel have one sign in all classes. Raises ValueError with the reason where
    there are too many levels.
    """
    distinct = dict.fromkeys(line for row in lines for line in row)
    reached = {rounding.code(line.slope * acc + line.intercept) for line in distinct for acc in span}
    first, last = min(reached), max(reached)
    if last - first > MAX_LEVELS:
        raise ValueError(
            f"{last - first} thresholds a channel; at most {MAX_LEVELS}, for 12-bit codes, are supported; use multiply"
        )
    if first == last:
        return _constant_code(first, len(lines), rounding, span)
    boundaries = _Boundaries(rounding=rounding, codes=range(first + 1, last + 1))
    sets = {line: _channel_thresholds(line, boundaries, span) for line in distinct}
    values = np.array([[sets[line] for line in row] for row in lines], np.int64)
    falling = np.array([line.slope < 0 for line in lines[0]])
    if (values == values[:, :1]).all() and (falling == falling[0]).all():
        values, falling = values[:, :1], falling[:1]
    found = Thresholds(values=values, falling=falling, low=first)
    check_thresholds(found, lines, rounding, span)
    return found


def _constant_code(code: int, classes: int, rounding: Rounding, span: tuple[int, int]) -> Thresholds:
    """One threshold that all accumulators reach, or none where there is no smaller code."""
    smallest = code == rounding.quantisation.dtype.low
    values = np.full((classes, 1, 1), span[1] + 1 if smallest else span[0], np.int64)
    return Thresholds(values=values, falling=np.zeros(1, np.bool_), low=code if smallest else code - 1)


@dataclass(frozen=True, kw_only=True)
class _Boundaries:
    """The boundaries below consecutive codes, as integers over one denominator."""

    rounding: Rounding
    codes: range
    known: dict[int, tuple[list[list[int]], int]] = field(default_factory=dict)

    def ends(self, digits: int) -> tuple[list[list[int]], int]:
        """Lower ends and upper ends, or one list where all are rational; and their denominator."""
        if digits not in self.known:
            found = [self.rounding.boundary(code, digits) for code in self.codes]
            columns = [[enclosure.low for enclosure in found], [enclosure.high for enclosure in found]]
            unit = lcm(*(end.denominator for column in columns for end in column))
            numerators = [[end.numerator * (unit // end.denominator) for end in column] for column in columns]
            self.known[digits] = (numerators[:1] if numerators[0] == numerators[1] else numerators), unit
        return self.known[digits]


def _channel_thresholds(line: Line, boundaries: _Boundaries, span: tuple[int, int]) -> list[int]:
    """Ascending thresholds of one channel, one for each code of `boundaries`."""
    low, high = span
    if line.slope == 0:
        code = boundaries.rounding.code(line.intercept)
        return [low if level <= code else high + 1 for level in boundaries.codes]
    common = lcm(line.slope.denominator, line.intercept.denominator)
    a, b = (part.numerator * (common // part.denominator) for part in (line.slope, line.intercept))
    digits = FIRST_DIGITS
    while True:
        columns, unit = boundaries.ends(digits)
        step, start = a * unit, b * unit
        if a > 0:  # the smallest acc with a acc + b >= boundary
            found = [[min(max(-((start - end * common) // step), low), high + 1) for end in ends] for ends in columns]
        else:  # the largest acc
            found = [[min(max((end * common - start) // step, low - 1), high) for end in ends] for ends in columns]
        if found[0] == found[-1]:
            return found[0] if a > 0 else found[0][::-1]
        digits *= 2


def check_thresholds(
    found: Thresholds, lines: Sequence[Sequence[Line]], rounding: Rounding, span: tuple[int, int]
) -> None:
    """Raise AssertionError unless the codes at both neighbours of every threshold are those of the function.

    The function is evaluated forwards, independently of how thresholds are found. As codes rise (or fall) with the
    accumulators, this proves the thresholds right for every accumulator in `span`.
    """
    places = {line: (row, channel) for row, many in enumerate(lines) for channel, line in enumerate(many)}
    for line, (row, channel) in places.items():
        thresholds = found.values[row, channel % found.values.shape[1]]
        falls = bool(found.falling[channel % len(found.falling)])
        points = np.unique(np.clip(np.concatenate([thresholds - 1, thresholds, thresholds + 1]), *span))
        if falls:
            reached = len(thresholds) - np.searchsorted(thresholds, points, side="left")
        else:
            reached = np.searchsorted(thresholds, points, side="right")
        expected = codes_of(line, rounding, points)
        wrong = np.flatnonzero(found.low + reached != expected)
        if wrong.size:
            at = wrong[0]
            raise AssertionError(
                f"thresholds of channel {channel} give code {found.low + reached[at]} for accumulator {points[at]}, "
                f"the function gives {expected[at]}"
            )


def codes_of(line: Line, rounding: Rounding, points: Array) -> Array:
    """The exact codes, int64, of accumulators `points` (int64).

    Floats decide where their error, generously bounded, cannot change the code; exact arithmetic everywhere else.
    """
    least, most = rounding.code_range
    slope, intercept = float(line.slope), float(line.intercept)
    x = slope * points + intercept
    activation, steepness = rounding.activation, 1.0
    if activation is not None:
        steepness = max(1.0, activation.alpha)
        y = FUNCTIONS[activation.function].evaluate(x, activation.alpha)
    else:
        y = x
    gain, shift = float(rounding.gain), float(rounding.shift)
    code = gain * y + shift
    spread = gain * steepness * (1 + np.abs(slope * points) + abs(intercept))
    error = FLOAT_ERROR * (spread + np.abs(code) + abs(shift))
    codes, other = (np.clip(np.floor(ends), least, most).astype(np.int64) for ends in (code - error, code + error))
    for at in np.flatnonzero(codes != other):
        codes[at] = rounding.code(line.slope * int(points[at]) + line.intercept)
    return codes
