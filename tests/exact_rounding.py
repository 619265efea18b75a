"""The code of a real number by definition: in fractions, or with enough digits where a function is irrational."""

from decimal import Decimal, localcontext
from fractions import Fraction
from math import floor

from bnhw.monotone import Function
from bnhw.ops import Activation
from bnhw.threshold_constants import Rounding


def real_value(activation: Activation | None, x: Fraction) -> Fraction:
    """gain * function(x); where it is irrational, to 80 digits of what it differs from its limit by."""
    if activation is None:
        return x
    alpha, gain = Fraction(activation.alpha), Fraction(activation.gain)
    with localcontext() as context:
        context.prec = 80 + int(abs(x))  # exp(-2 |x|) has |x| * 0.87 zeros behind the point
        power = (Decimal(x.numerator) / Decimal(x.denominator)).exp()
        match activation.function:
            case Function.ELU:
                value = x if x >= 0 else alpha * Fraction(power - 1)
            case Function.LEAKY_RELU:
                value = max(x, alpha * x) if alpha <= 1 else min(x, alpha * x)
            case Function.SIGMOID:
                value = Fraction(power / (power + 1)) if x else Fraction(1, 2)
            case Function.SOFTPLUS:
                value = Fraction((power + 1).ln())
            case Function.TANH:
                value = Fraction((power * power - 1) / (power * power + 1))
    return gain * value


def expected_code(rounding: Rounding, x: Fraction) -> int:
    """clamp(floor(real / scale + zero_point + 1/2)) of the clamped value."""
    value = real_value(rounding.activation, x)
    for bound, choose in ((rounding.low, max), (rounding.high, min)):
        if abs(bound) != float("inf"):
            value = choose(value, Fraction(bound))
    coding = rounding.quantisation
    code = floor(value / Fraction(coding.scale) + coding.zero_point + Fraction(1, 2))
    return min(max(code, coding.dtype.low), coding.dtype.high)
