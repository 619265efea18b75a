"""The integers of a requantise step, from real ratios and offsets.

Wanted: q = clamp(floor(ratio * acc + offset)), where `offset` already holds the zero point and the half of
rounding. Given: q = clamp((acc * M + B) >> S). All arrays have the shape (classes, channels).
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from bnhw.dtypes import Array
from bnhw.options import Requantisation, RequantiseMode

MAX_SHIFT = 40
"""Finer than 2^-40 of a code is never visible for sums of at most 32 bits times multipliers of at most 24."""

HELD = 2.0**-44
"""A ratio this near is the wanted one but for float64 rounding."""

MAX_SUM = 1 << 62
"""No intermediate sum of a requantise step may reach this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """M, B, S as int64 and the largest relative error of M / 2^S against the wanted ratio."""

    mode: RequantiseMode
    multiplier: Array
    offset: Array
    shift: Array
    worst_error: float

    @property
    def uniform(self) -> bool:
        """Whether one set of constants serves all channels."""
        tables = (self.multiplier, self.offset, self.shift)
        return all(bool((table == table[:, :1]).all()) for table in tables)


def find_constants(
    ratio: Array,
    offset: Array,
    requantisation: Requantisation,
    centre: Array | None = None,
    digits: Array | None = None,
) -> Constants:
    """Constants for the wanted `ratio` and `offset` (float64) under a mode.

    centre: codes, float64 (channels,). Where a mode cannot hold the ratio, B is such that the line is exact where the
    wanted one gives this code, instead of at acc = 0. digits: int64 (channels,), in mode csd the digits of each
    channel where they are fewer than the mode's.
    Raises ValueError with the reason when the mode cannot hold them (a negative ratio in mode `shift`, a ratio
    beyond the multiplier's width).
    """
    multiplier, shift = round_ratios(ratio, requantisation, digits)
    found = multiplier / np.exp2(shift)
    if centre is not None:
        turned = np.where(ratio != 0, found / np.where(ratio != 0, ratio, 1.0), 1.0) - 1.0
        held = np.abs(turned) < HELD  # else rounding in float64 would move an offset that lies on an integer
        offset = np.where(held, offset, offset - turned * (centre + 0.5 - offset))
    added = np.floor(offset * np.exp2(shift))  # not rounded: acc M is whole, so what is less than 1 never counts
    if (np.abs(added) >= MAX_SUM).any():
        raise ValueError(f"an offset of {np.abs(offset).max():.3g} codes is beyond 63-bit sums")
    nonzero = ratio != 0
    errors = np.abs(found[nonzero] / ratio[nonzero] - 1)
    wires = (multiplier >= 0) & ((multiplier & (multiplier - 1)) == 0)
    return Constants(
        mode=RequantiseMode.SHIFT if wires.all() else requantisation.mode,
        multiplier=multiplier,
        offset=added.astype(np.int64),
        shift=shift,
        worst_error=float(errors.max(initial=0.0)),
    )


def round_ratios(ratio: Array, requantisation: Requantisation, digits: Array | None = None) -> tuple[Array, Array]:
    """M and S (int64, the shape of `ratio`) of the nearest M / 2^S that the mode has, M as small as it can be.

    Errors as in `find_constants`.
    """
    match requantisation.mode:
        case RequantiseMode.SHIFT:
            multiplier, shift = _powers_of_two(ratio)
        case RequantiseMode.CSD:
            multiplier, shift = _signed_digit_sums(ratio, requantisation.number)
            for fewer in range(1, requantisation.number) if digits is not None else ():
                columns = np.flatnonzero(digits == fewer)
                multiplier[:, columns], shift[:, columns] = _signed_digit_sums(ratio[:, columns], fewer)
        case RequantiseMode.MULTIPLY:
            multiplier, shift = _multipliers(ratio, requantisation.number)
        case RequantiseMode.THRESHOLD:
            raise AssertionError("thresholds have no ratio; bnhw.threshold_constants finds them")
    return _reduced(multiplier, shift)


def count_signed_digits(numbers: Array) -> Array:
    """How many signed powers of two each integer is the sum of, at the least.

    That is the number of digits that are not 0 in its canonical signed-digit form: n and 3 n differ in just these
    places (Reitwiesner, "Binary Arithmetic", Advances in Computers 1, 1960).
    """
    magnitude = np.abs(numbers.astype(np.int64))
    return np.asarray(np.bitwise_count(magnitude ^ (3 * magnitude))).astype(np.int64)


@cache
def sums_of_digits(digits: int) -> tuple[float, ...]:
    """The sums of at most `digits` signed powers of two in [1, 2), to 6 places."""
    table = np.arange(64, 128)
    return tuple(float(number) / 64 for number in table[count_signed_digits(table) <= digits])


def _signed_digit_sums(ratio: Array, digits: int) -> tuple[Array, Array]:
    """The nearest sum of at most `digits` signed powers of two, with 16 places at the most."""
    places = 16
    table = np.arange(1 << places)
    table = table[count_signed_digits(table) <= digits]
    magnitude = np.abs(ratio)
    if magnitude.max(initial=0.0) >= 1 << 24:
        raise ValueError(f"a ratio of {magnitude.max():.3g} is too large for signed digits; use multiply")
    exponent = np.floor(np.log2(np.where(magnitude > 0, magnitude, 1.0))).astype(np.int64)
    shift = np.minimum(places - 2 - exponent, MAX_SHIFT)
    target = magnitude * np.exp2(shift)
    above = np.minimum(np.searchsorted(table, target), len(table) - 1)
    below = np.maximum(above - 1, 0)
    nearest = np.where(target - table[below] <= table[above] - target, table[below], table[above])
    multiplier = np.sign(ratio).astype(np.int64) * (nearest << np.maximum(-shift, 0))
    return multiplier, np.maximum(shift, 0)


def _powers_of_two(ratio: Array) -> tuple[Array, Array]:
    """The nearest power of two: M = 2^k for ratios of 1 and more, S = -k below; M = 0 for a ratio of 0."""
    if (ratio < 0).any():
        raise ValueError(
            f"{int((ratio < 0).sum())} channels have a negative gain, which a shift cannot give; use csd or multiply"
        )
    exponent = np.rint(np.log2(np.where(ratio > 0, ratio, 1.0))).astype(np.int64)
    if exponent.max() > 24:
        raise ValueError(f"a ratio of {ratio.max():.3g} is too large for a shift; use csd or multiply")
    multiplier = np.where(ratio > 0, np.int64(1) << np.maximum(exponent, 0), 0)
    return multiplier, np.minimum(np.maximum(-exponent, 0), MAX_SHIFT)


def _multipliers(ratio: Array, bits: int) -> tuple[Array, Array]:
    """The largest shift at which M still has `bits` bits with its sign."""
    limit = (1 << (bits - 1)) - 1
    magnitude = np.abs(ratio)
    if magnitude.max() > limit:
        raise ValueError(
            f"a ratio of {magnitude.max():.3g} needs more than {bits} multiplier bits; use a wider multiply:M"
        )
    safe = np.where(magnitude > 0, magnitude, 1.0)
    shift = np.clip(np.floor(np.log2(limit / safe)), 0, MAX_SHIFT).astype(np.int64)
    shift = np.where(np.rint(magnitude * np.exp2(shift)) > limit, shift - 1, shift)
    return np.rint(ratio * np.exp2(shift)).astype(np.int64), np.maximum(shift, 0)


def _reduced(multiplier: Array, shift: Array) -> tuple[Array, Array]:
    """The same ratio with the smallest M: (2 M x + B) >> (S + 1) = (M x + (B >> 1)) >> S, exactly."""
    multiplier, shift = multiplier.copy(), shift.copy()
    while (halve := (shift > 0) & (multiplier % 2 == 0)).any():
        multiplier[halve] //= 2
        shift[halve] -= 1
    return multiplier, shift


def find_sign_constants(slope: Array, intercept: Array, low: int, high: int) -> Constants:
    """Constants for q = 1 where slope * acc + intercept >= 0, else 0, with acc in [low, high].

    The threshold is found with exact rational arithmetic of the float64 constants, so q is never wrong by one.
    Rising channels have M = 1, falling ones M = -1; a constant channel gets a threshold outside the range.
    """
    multiplier = np.where(slope < 0, -1, 1).astype(np.int64)
    offset = np.empty(slope.shape, np.int64)
    for place in np.ndindex(slope.shape):
        a, b = Fraction(float(slope[place])), Fraction(float(intercept[place]))
        if a == 0:
            threshold = low if b >= 0 else high + 1
        elif a > 0:
            threshold = min(max(-((b / a) // 1), low), high + 1)  # ceil(-b / a)
        else:
            threshold = min(max((-b / a) // 1, low - 1), high)  # the largest acc that still gives 1
        offset[place] = 1 - threshold if a >= 0 else threshold + 1
    return Constants(
        mode=RequantiseMode.SHIFT if (multiplier == 1).all() else RequantiseMode.MULTIPLY,
        multiplier=multiplier,
        offset=offset,
        shift=np.zeros(slope.shape, np.int64),
        worst_error=0.0,
    )
