"""The form of a group's codes, all but the scale: width, sign, where code 0 lies, and the scale that its range needs.

Cases, by what stands before the points:
1. Sign: one bipolar bit (`BIPOLAR`), which has no scale to choose.
2. RESIDUAL: signed, symmetric, with room for sums that calibration has not seen.
3. Values that no image can make negative (ReLU, also behind a pool): unsigned, zero point 0.
4. Values with a negative floor (shifted ReLU, also behind a pool): unsigned with code 0 as near the floor as an
   integer zero point allows, so that the clamp costs nothing; but case 5 where that is finer, because the floor lies
   far below what is seen. Where the floor is less than one code beside the range, no zero point has the floor exact
   and the range whole. Then 0 is wrong at the floor by all of it, and 1 by what a code is larger than the floor; but 1
   leaves the range one code less. That of less noise is taken. With ranges of the least error the highest values may be
   clipped for the floor; where a code is more than twice the floor, only if that makes half the noise.
5. Anything else: signed, symmetric, zero point 0.
6. ARGUMENT: unsigned of ARGUMENT_BITS, because its codes are places in a table; the zero point is where 0 falls.
7. LOGITS: signed, LOGIT_BITS.
8. FACTOR and GATE, the operands of a product: as 3 to 5, for the whole range, with FACTOR_BITS and GATE_BITS.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.ops import Role
from bnhw.options import LEAST_ACT_BITS, MOST_ACT_BITS, CompileOptions, RangeMethod, Ranges
from bnhw.passes.calibrate import Observed

BIPOLAR = Quantisation(dtype=IntegerType(bits=1, signed=False), scale=1.0, bipolar=True)

RESIDUAL_HEADROOM = 1.25
"""A sum on an unseen image may leave the calibrated range; at 16 bits a third of a bit is cheap for that."""

FEW_NUMBERS = 1024
"""Of a global average calibration sees one number a channel and image. With fewer than this many an unseen image is
likely to lie outside of what they span, and a clipped number costs more than rounding: 3 dB of logits on 16 images."""

FEW_HEADROOM = 1.25
"""How much wider the range of codes is made where calibration has seen few numbers."""

FLOOR_GAIN = 2.0
"""How many times less noise a floor must make that is kept at the price of clipping: 3 dB. Its scale is then fixed, or
nearly, so that steps around it may need more operations."""

ARGUMENT_BITS = 12
"""The largest table that a function of a code may have."""

FACTOR_BITS = 12
"""Values that a gate multiplies are requantised once more behind it: 4 bits more than the codes there cost 0.02 dB."""

GATE_BITS = 8
"""One number a channel: its rounding shifts a channel's scale by 0.2 % at most."""

LOGIT_BITS = 24
LOGIT_HEADROOM = 4.0
"""Logits leave the chip as they are; two more bits cost nothing there and a clipped logit is a wrong class."""

STEPS_PER_OCTAVE = 16
"""How finely scales are searched."""

OCTAVES = 6
"""The least mean square error of 2-bit codes is never found further below the largest value seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Codes of `dtype`; `floor`: the real value of code 0 where that is not 0. `least`, `most`: bounds of the scale."""

    dtype: IntegerType
    floor: float = 0.0
    least: float
    most: float

    def at(self, scale: float) -> Quantisation:
        """The coding with this scale."""
        zero_point = min(round(-self.floor / scale), self.dtype.high) if self.floor else 0
        return Quantisation(dtype=self.dtype, scale=scale, zero_point=zero_point)

    @property
    def exact_scales(self) -> tuple[float, ...]:
        """Those with the floor exactly at code 0, from fine to coarse."""
        return tuple(-self.floor / zero_point for zero_point in range(self.dtype.high, 0, -1)) if self.floor else ()

    @property
    def plain(self) -> Quantisation:
        """The coding for the range: that of `least`, or the nearest with an exact floor where code 1 is not above 0."""
        if self.least > -self.floor:
            return self.at(self.least)
        return self.at(min(self.exact_scales, key=lambda scale: abs(math.log(scale / self.least))))

    def within(self, least: float, most: float) -> "Form":
        """The same form with other bounds."""
        return Form(dtype=self.dtype, floor=self.floor, least=least, most=most)


def find_form(
    role: Role,
    floor: float,
    seen: Observed,
    options: CompileOptions,
    bits: int,
    finest: float,
    *,
    is_rare: bool = False,
) -> Form:
    """The form of a group. `bits`: of activations. `finest`: no finer scale can be reached by its steps.

    is_rare: whether calibration has seen few numbers, so that nothing that it has seen should be clipped.
    """
    low, high = on_grid(seen)
    largest = max(abs(low), abs(high))
    match role:
        case Role.RESIDUAL:
            return _symmetric(options.residual_bits, largest * RESIDUAL_HEADROOM, finest)
        case Role.LOGITS:
            return _symmetric(LOGIT_BITS, largest * LOGIT_HEADROOM, finest)
        case Role.ARGUMENT:
            dtype = IntegerType(bits=ARGUMENT_BITS, signed=False)
            least = max(_positive(max(high, 0.0) - min(low, 0.0)) / dtype.high, finest)
            return Form(dtype=dtype, floor=min(low, 0.0), least=least, most=least)
        case Role.INPUT:
            bits = options.input_bits
        case Role.FACTOR | Role.GATE:
            bits = FACTOR_BITS if role is Role.FACTOR else GATE_BITS
            return _quietest(_pointwise(bits, floor, low, high, finest), seen)
    return _of_method(Ranges.parse(options.ranges), bits, floor, seen, finest, is_rare=is_rare)


def _of_method(ranges: Ranges, bits: int, floor: float, seen: Observed, finest: float, *, is_rare: bool) -> Form:
    """Cases 3 to 5 for the range of a method."""
    low, high = on_grid(seen)
    if ranges.method is RangeMethod.PERCENTILE:
        held = seen.histogram.quantile(ranges.percent / 100)
        low, high = max(low, -held), min(high, held)
    forms = _pointwise(bits, floor, low, high, finest)
    if ranges.method is not RangeMethod.MSE:
        return _quietest(forms, seen)
    best = _quietest([_least_error(form, seen, finest) for form in forms], seen)
    if not is_rare and _can_keep(floor, best, finest):
        kept = _least_error(replace(best, floor=floor, least=-2 * floor, most=-4 * floor), seen, finest)
        best = kept if _noise(best, seen) >= FLOOR_GAIN * _noise(kept, seen) else best
    return best


def _quietest(forms: Sequence[Form], seen: Observed) -> Form:
    """The form of least noise, the first of those that have it."""
    return min(forms, key=lambda form: _noise(form, seen))


def _noise(form: Form, seen: Observed) -> float:
    return seen.histogram.noise(form.plain)


def _pointwise(bits: int, floor: float, low: float, high: float, finest: float) -> tuple[Form, ...]:
    """Cases 3 to 5 for the range [low, high]: one form, or in case 4 those with zero point 0 and 1."""
    unsigned = IntegerType(bits=bits, signed=False)
    from_zero = _ranging(unsigned, 0.0, _positive(high) / unsigned.high, finest)
    if floor >= 0:
        return (from_zero,)
    symmetric = _symmetric(bits, max(abs(low), abs(high)), finest)
    if floor == -math.inf:
        return (symmetric,)
    floored = _ranging(unsigned, floor, (max(high, 0.0) - floor) / unsigned.high, finest)
    if floored.least <= -floor:
        return (floored if floored.least <= symmetric.least else symmetric,)
    from_one = _ranging(unsigned, floor, _positive(high) / (unsigned.high - 1), finest)  # code 0 is below the floor
    return (from_zero, from_one) if from_one.least < -2 * floor else (from_zero,)  # but not by more than 0 is above


def _ranging(dtype: IntegerType, floor: float, scale: float, finest: float) -> Form:
    """Scales from this one, or the finest, up to twice that."""
    least = max(scale, finest)
    return Form(dtype=dtype, floor=floor, least=least, most=2 * least)


def _can_keep(floor: float, form: Form, finest: float) -> bool:
    """Whether a floor was given up for the range (case 4), and can be kept with code 1 at 0 where that is clipped."""
    return not form.floor and not form.dtype.signed and -math.inf < floor < 0 and -2 * floor >= finest


def _symmetric(bits: int, largest: float, finest: float) -> Form:
    dtype = IntegerType(bits=bits, signed=True)
    return _ranging(dtype, 0.0, _positive(largest) / dtype.high, finest)


def _least_error(form: Form, seen: Observed, finest: float) -> Form:
    """From the scale of the least mean square error up to twice that, where a power-of-two ratio is sure to lie.

    Not below: clipping more costs far more classes than rounding more, because what is clipped is what was telling.
    """
    scales = [form.least * 2.0 ** (-step / STEPS_PER_OCTAVE) for step in range(OCTAVES * STEPS_PER_OCTAVE)]
    if form.least > -form.floor > 0:  # the coarsest scale of an exact floor, which lies between two of these
        scales.append(-form.floor)
    best = min((scale for scale in scales if scale >= finest), key=lambda scale: seen.histogram.noise(form.at(scale)))
    return form.within(best, 2.0 * best)


def fewest_bits(role: Role, floor: float, seen: Observed, options: CompileOptions, wanted_db: float) -> int:
    """The fewest activation bits whose noise lies `wanted_db` decibels below the values."""
    for bits in range(LEAST_ACT_BITS, MOST_ACT_BITS):
        form = find_form(role, floor, seen, options, bits, 0.0)
        noise = min(seen.histogram.noise(form.at(scale)) for scale in (form.least, math.sqrt(form.least * form.most)))
        if noise * 10 ** (wanted_db / 10) <= seen.histogram.power:
            return bits
    return MOST_ACT_BITS


def on_grid(seen: Observed) -> tuple[float, float]:
    """The range widened to 8 significant bits.

    Calibration sums floats in an order that differs between machines; on this grid the last bits do not matter, so
    that a model compiles to the same program everywhere.
    """
    return -_round_up(-seen.low), _round_up(seen.high)


def _round_up(number: float) -> float:
    """The nearest number of 8 significant bits that is not smaller by more than float32 rounding."""
    if number == 0:
        return 0.0
    unit = 2.0 ** (math.frexp(number)[1] - 8)
    return math.ceil(number / unit - 1e-3) * unit


def _positive(number: float) -> float:
    """A usable range for a value that was 0 on every calibration image."""
    return number if number > 0 else 1.0
