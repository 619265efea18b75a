"""Sixteen sums to codes in 32 bits."""

from typing import Any

from bnhw.kernels.fused.vectors import add, both, largest, multiply, shift_right, smallest, spread
from bnhw.kernels.jit import inline


@inline
def requantise(sums: Any, low: Any, high: Any, factor: Any, offset: Any, shift: Any, low_bits: int) -> Any:
    """Clamp sums to where codes change, multiply, add, shift.

    With low bits l of a sum s = 2^l h + l', (s M + B) >> S is (h M + ((l' M + B) >> l)) >> (S - l), and `shift` is
    S - l.
    """
    bounded = smallest(largest(sums, low), high)
    if low_bits == 0:
        return shift_right(add(multiply(bounded, factor), offset), shift)
    places = spread(low_bits)
    apart = both(bounded, spread((1 << low_bits) - 1))
    carried = shift_right(add(multiply(apart, factor), offset), places)
    return shift_right(add(multiply(shift_right(bounded, places), factor), carried), shift)
