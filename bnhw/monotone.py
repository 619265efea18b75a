"""Activation functions that rise everywhere: in float for calibration, and exactly for thresholds and tables.

Exactly means: a function of a rational number is either rational, and then known as a fraction, or irrational, and
then known to as many decimal digits as a comparison with another fraction needs. Which is which: exp of a rational
number other than 0 is irrational, and so are ln, tanh, the sigmoid and ln(1 + exp x) of it (Lindemann-Weierstrass).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from enum import Enum
from fractions import Fraction

import numpy as np

from bnhw.dtypes import Array

Limits = tuple[Fraction | None, Fraction | None]
"""What the values of a function stay above and below without reaching it; None where there is no limit."""

GUARD_DIGITS = 4
"""Digits that the few roundings of one evaluation can cost, generously."""

LARGEST_EXPONENT = 10**9
"""So that exp of a large number is a small Decimal, not an overflow."""


class Function(Enum):
    """The activation functions; `alpha` is the parameter of some."""

    ELU = "elu"
    LEAKY_RELU = "leaky_relu"
    SIGMOID = "sigmoid"
    SOFTPLUS = "softplus"
    TANH = "tanh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Monotone:
    """One row of `FUNCTIONS`; every callable takes `alpha` last.

    evaluate: in the floats of an array. limits: see `Limits`. rational_value, rational_inverse: the fraction, or None
    where the result is irrational. value, inverse: Decimals in the current context, elsewhere; to
    `digits - GUARD_DIGITS` digits, of the larger of the result and 1.
    """

    evaluate: Callable[[Array, float], Array]
    limits: Callable[[Fraction], Limits]
    rational_value: Callable[[Fraction, Fraction], Fraction | None]
    rational_inverse: Callable[[Fraction, Fraction], Fraction | None]
    value: Callable[[Decimal, Decimal], Decimal]
    inverse: Callable[[Fraction, Fraction], Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclosure:
    """A number that lies in [low, high]; a rational one has low = high."""

    low: Fraction
    high: Fraction


def enclose_inverse(function: Function, y: Fraction, alpha: Fraction, digits: int) -> Enclosure:
    """The x with function(x) = y, for y between the function's limits, to about `digits` digits."""
    row = FUNCTIONS[function]
    exact = row.rational_inverse(y, alpha)
    if exact is not None:
        return Enclosure(low=exact, high=exact)
    with localcontext(_context(digits)):
        found = row.inverse(y, alpha)
    return _around(found, _error(found, digits))


def enclose_value(function: Function, x: Fraction, alpha: Fraction, digits: int) -> Enclosure:
    """function(x) to about `digits` digits."""
    row = FUNCTIONS[function]
    exact = row.rational_value(x, alpha)
    if exact is not None:
        return Enclosure(low=exact, high=exact)
    with localcontext(_context(digits)):
        found = row.value(decimal_of(x), decimal_of(alpha))
    # x itself is rounded, relatively; no function here is steeper than the larger of alpha and 1.
    steepness = max(alpha, Fraction(1)) * (1 + abs(x))
    return _around(found, _error(found, digits) * steepness)


def decimal_of(number: Fraction) -> Decimal:
    """A fraction rounded to the digits of the current context."""
    return Decimal(number.numerator) / Decimal(number.denominator)


def _context(digits: int) -> Context:
    return Context(prec=digits, Emax=LARGEST_EXPONENT, Emin=-LARGEST_EXPONENT, traps=[])


def _error(found: Decimal, digits: int) -> Fraction:
    return Fraction(1, 10 ** (digits - GUARD_DIGITS)) * (1 + abs(int(found)))


def _around(found: Decimal, error: Fraction) -> Enclosure:
    middle = Fraction(found)
    return Enclosure(low=middle - error, high=middle + error)


def _elu_value(x: Decimal, alpha: Decimal) -> Decimal:
    return alpha * (x.exp() - 1)


def _sigmoid_value(x: Decimal, _: Decimal) -> Decimal:
    small = (-abs(x)).exp()
    return 1 / (1 + small) if x > 0 else small / (1 + small)


def _tanh_value(x: Decimal, _: Decimal) -> Decimal:
    small = (-2 * abs(x)).exp()
    return ((1 - small) / (1 + small)).copy_sign(x)


def _softplus_value(x: Decimal, _: Decimal) -> Decimal:
    return max(x, Decimal(0)) + (1 + (-abs(x)).exp()).ln()


def _softplus_inverse(y: Fraction, _: Fraction) -> Decimal:
    with localcontext() as context:  # 1 - exp(-y) loses as many digits as y has zeros behind the point
        context.prec += max(0, -decimal_of(y).adjusted()) + 1
        small = decimal_of(-y).exp()
        return decimal_of(y) + (1 - small).ln()


def _rising_line(slope: Fraction, x: Fraction) -> Fraction:
    return x if x >= 0 else slope * x


FUNCTIONS: Mapping[Function, Monotone] = {
    Function.ELU: Monotone(
        evaluate=lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        limits=lambda alpha: (-alpha, None),
        rational_value=lambda x, alpha: x if x >= 0 else None,
        rational_inverse=lambda y, alpha: y if y >= 0 else None,
        value=_elu_value,
        inverse=lambda y, alpha: decimal_of(1 + y / alpha).ln(),
    ),
    Function.LEAKY_RELU: Monotone(
        evaluate=lambda x, alpha: np.where(x > 0, x, alpha * x),
        limits=lambda alpha: (None, None),
        rational_value=lambda x, alpha: _rising_line(alpha, x),
        rational_inverse=lambda y, alpha: _rising_line(1 / alpha, y),
        value=lambda x, alpha: x if x > 0 else alpha * x,
        inverse=lambda y, alpha: decimal_of(_rising_line(1 / alpha, y)),
    ),
    Function.SIGMOID: Monotone(
        evaluate=lambda x, alpha: 0.5 + 0.5 * np.tanh(0.5 * x),
        limits=lambda alpha: (Fraction(0), Fraction(1)),
        rational_value=lambda x, alpha: Fraction(1, 2) if x == 0 else None,
        rational_inverse=lambda y, alpha: Fraction(0) if y == Fraction(1, 2) else None,
        value=_sigmoid_value,
        inverse=lambda y, alpha: decimal_of(y / (1 - y)).ln(),
    ),
    Function.SOFTPLUS: Monotone(
        evaluate=lambda x, alpha: np.logaddexp(x, x.dtype.type(0)),
        limits=lambda alpha: (Fraction(0), None),
        rational_value=lambda x, alpha: None,
        rational_inverse=lambda y, alpha: None,
        value=_softplus_value,
        inverse=_softplus_inverse,
    ),
    Function.TANH: Monotone(
        evaluate=lambda x, alpha: np.tanh(x),
        limits=lambda alpha: (Fraction(-1), Fraction(1)),
        rational_value=lambda x, alpha: Fraction(0) if x == 0 else None,
        rational_inverse=lambda y, alpha: Fraction(0) if y == 0 else None,
        value=_tanh_value,
        inverse=lambda y, alpha: decimal_of((1 + y) / (1 - y)).ln() / 2,
    ),
}
"""Every activation function. SELU is the ELU with a gain; ReLU and its kin are clamps."""
