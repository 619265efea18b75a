"""The form of codes and the range of scales, by role, floor and what was seen; cases as in the module."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.ops import Role
from bnhw.options import CompileOptions
from bnhw.passes.calibrate import Observed
from bnhw.passes.codings import LOGIT_BITS, RESIDUAL_HEADROOM, Form, fewest_bits, find_form, on_grid
from bnhw.passes.histogram import BINS, Histogram, reach_of

WHOLE = CompileOptions(ranges="min-max")
GRID = 1 + 2.0**-7
"""A range is widened to 8 significant bits."""


def observed(values: Array) -> Observed:
    reach = reach_of(float(np.abs(values).max()))
    counts, _ = np.histogram(values, BINS, (-reach, reach))
    return Observed(low=float(values.min()), high=float(values.max()), histogram=Histogram(reach=reach, counts=counts))


def normal(seed: int = 0, count: int = 20000) -> Array:
    return np.random.default_rng(seed).normal(0, 1, count)


def form_of(
    values: Array,
    *,
    role: Role = Role.ACTIVATION,
    floor: float = -math.inf,
    options: CompileOptions = WHOLE,
    bits: int = 8,
    finest: float = 0.0,
) -> Form:
    return find_form(role, floor, observed(values), options, bits, finest)


def test_codings_case_2_residual_codes_have_room() -> None:
    values = normal()
    form = form_of(values, role=Role.RESIDUAL)
    largest = np.abs(values).max() * RESIDUAL_HEADROOM
    assert (form.dtype, form.floor) == (IntegerType(bits=16, signed=True), 0)
    assert largest <= form.least * form.dtype.high <= largest * GRID
    assert form.most == 2 * form.least


def test_codings_case_3_values_that_are_never_negative_are_unsigned() -> None:
    values = np.abs(normal())
    form = form_of(values, floor=0.0, bits=5)
    assert (form.dtype, form.floor) == (IntegerType(bits=5, signed=False), 0)
    assert values.max() <= form.least * 31 <= values.max() * GRID


def test_codings_case_4_code_0_lies_at_the_floor() -> None:
    form = form_of(np.maximum(normal(), -1), floor=-1.0, bits=6)
    assert not form.dtype.signed
    assert form.at(0.1).zero_point == 10
    assert form.at(1e-6).zero_point == form.dtype.high  # never beyond the codes
    assert (np.max(normal()) + 1) / 63 == pytest.approx(form.least, rel=GRID - 1)


@pytest.mark.parametrize(("floor", "signed"), [(-100.0, True), (-1.8, False)])
def test_codings_case_5_a_floor_far_below_is_none(floor: float, signed: bool) -> None:
    form = form_of(np.clip(normal(), max(floor, -1.9), 1.9), floor=floor)
    assert (form.dtype.signed, form.floor == 0) == (signed, signed)


def test_codings_case_4_a_floor_of_less_than_one_code_is_zero() -> None:
    form = form_of(np.maximum(1000 * normal(), -1), floor=-1.0, bits=4)
    assert (form.dtype.signed, form.floor) == (False, 0)


def test_codings_case_6_arguments_hold_the_whole_range_whatever_the_method() -> None:
    values = normal() + 1
    for ranges in ("min-max", "mse", "percentile:60"):
        form = form_of(values, role=Role.ARGUMENT, options=CompileOptions(ranges=ranges))
        coding = form.at(form.least)
        assert form.most == form.least
        assert coding.scale * coding.low_value <= values.min() + coding.scale
        assert values.max() - coding.scale <= coding.scale * (coding.dtype.high - coding.zero_point)


def test_codings_case_7_logits_are_wide() -> None:
    form = form_of(normal(), role=Role.LOGITS, options=CompileOptions(ranges="mse"))
    assert form.dtype == IntegerType(bits=LOGIT_BITS, signed=True)


def test_the_image_has_the_width_of_the_input() -> None:
    assert form_of(normal(), role=Role.INPUT, options=CompileOptions(input_bits=9)).dtype.bits == 9


def floored_at_minus_1(share: float, above: Array) -> Array:
    """-1 for this share of the values, `above` for the others."""
    return np.where(np.random.default_rng(1).random(len(above)) < share, -1.0, above)


def test_codings_case_4_a_floor_that_most_values_have_is_kept_and_the_tail_clipped() -> None:
    values = floored_at_minus_1(0.85, np.random.default_rng(0).exponential(3.5, 50000))
    assert values.max() > 2 * 15
    whole, clipped = (
        form_of(values, floor=-1.0, options=CompileOptions(ranges=ranges), bits=4) for ranges in ("min-max", "mse")
    )
    histogram = observed(values).histogram
    assert (whole.floor, clipped.floor, clipped.at(clipped.least).zero_point) == (0, -1, 1)
    assert histogram.noise(clipped.at(clipped.least)) < histogram.noise(whole.at(whole.least)) / 5


def test_codings_case_4_a_floor_is_not_kept_for_less_than_3_db_nor_where_little_was_seen() -> None:
    mse, random = CompileOptions(ranges="mse"), np.random.default_rng(0)
    few, many = (floored_at_minus_1(share, random.exponential(3.5, 50000)) for share in (0.1, 0.85))
    assert form_of(few, floor=-1.0, options=mse, bits=4).floor == 0
    noise = observed(few).histogram.noise
    assert noise(Quantisation(dtype=IntegerType(bits=4, signed=False), scale=1.5, zero_point=1)) < noise(
        form_of(few, floor=-1.0, options=mse, bits=4).plain
    )
    assert form_of(many, floor=-1.0, options=mse, bits=4).floor == -1
    assert find_form(Role.ACTIVATION, -1.0, observed(many), mse, 4, 0.0, is_rare=True).floor == 0


coarse = st.tuples(st.integers(2, 8), st.floats(1.02, 1.95), st.floats(0.3, 0.95), st.integers(0, 99))
"""Bits; how much coarser than the floor codes are that hold the range; the share of values at the floor; a seed."""


def coarse_values(bits: int, step: float, share: float, seed: int) -> Array:
    """Values from -1 to `step` times all codes above 1."""
    high = step * (2**bits - 2)
    values = floored_at_minus_1(share, high * np.random.default_rng(seed).beta(1, 8, 3000))
    values[0] = high
    return values


@settings(deadline=None, max_examples=60)
@given(coarse, st.sampled_from((1.0, 0.25, 3.0)))
def test_codings_case_4_a_floor_of_most_of_a_code_is_kept_in_part_and_the_range_whole(
    drawn: tuple[int, float, float, int], unit: float
) -> None:
    """Codes from 0 on would be wrong by all of the floor, and hold no more."""
    values = unit * coarse_values(*drawn)
    form = form_of(values, floor=-unit, bits=drawn[0])
    coding = form.plain
    from_zero = Quantisation(dtype=form.dtype, scale=on_grid(observed(values))[1] / form.dtype.high)
    noise = observed(values).histogram.noise
    assert noise(coding) <= noise(from_zero)
    assert coding.scale * coding.high_value >= values.max() * (1 - 1e-5)
    if drawn[0] >= 4 and drawn[1] < 1.6:  # else one code less for the range, or a bin's width, may outweigh the floor
        assert coding.zero_point == 1
        assert abs(coding.scale * coding.low_value + unit) <= (drawn[1] * GRID - 1) * unit * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(coarse, st.sampled_from(("min-max", "mse")))
@example((4, 1.05, 0.95, 0), "mse")  # an exact floor between two steps of the search
def test_codings_case_4_no_zero_point_has_less_noise_for_the_range(
    drawn: tuple[int, float, float, int], ranges: str
) -> None:
    """Against the scales that each zero point needs for the range, and where clipping is allowed against any."""
    values = coarse_values(*drawn)
    form = form_of(values, floor=-1.0, options=CompileOptions(ranges=ranges), bits=drawn[0])
    noise, high = observed(values).histogram.noise, on_grid(observed(values))[1]
    slack = 1.05 if ranges == "mse" else 1 + 1e-9  # an exact floor is taken for one that is nearly so
    for zero_point in (0, 1):
        whole = high / (form.dtype.high - zero_point)
        scales = [*(whole * 2.0 ** -np.arange(0, 3, 1 / 16)), 1.0] if ranges == "mse" else [whole]
        for scale in scales:
            if zero_point == 0 or scale >= 1:
                other = Quantisation(dtype=form.dtype, scale=float(scale), zero_point=zero_point)
                assert noise(form.plain) <= noise(other) * slack


def test_codings_case_4_a_floor_that_few_values_have_gives_way_to_the_tail() -> None:
    values = np.maximum(np.random.default_rng(0).normal(0, 400, 50000), -1)
    assert form_of(values, floor=-1.0, options=CompileOptions(ranges="mse")).floor == 0


@pytest.mark.parametrize("ranges", ["min-max", "mse", "percentile"])
@pytest.mark.parametrize("floor", [-math.inf, -1.0, 0.0])
def test_no_scale_is_below_the_finest(ranges: str, floor: float) -> None:
    values = np.maximum(normal(), floor)
    form = form_of(values, floor=floor, options=CompileOptions(ranges=ranges), finest=3.0)
    assert 3.0 <= form.least <= form.most


@settings(deadline=None, max_examples=60)
@given(st.floats(50, 100), st.sampled_from((-math.inf, -1.0, 0.0)), st.integers(0, 99), st.integers(2, 8))
def test_a_percentile_holds_so_many_of_all_values(percent: float, floor: float, seed: int, bits: int) -> None:
    values = np.maximum(normal(seed, 2000) ** 3, floor)
    form = form_of(values, floor=floor, options=CompileOptions(ranges=f"percentile:{percent}"), bits=bits)
    coding = form.at(form.least)
    highest = form.least * coding.dtype.high + (form.floor or 0.0)
    lowest = (
        min(form.floor, coding.scale * coding.low_value) - 2 * form.least
    )  # a floor of about a code is zero, case 4
    held = (values <= highest * (1 + 1e-9)) & (values >= lowest)
    assert held.mean() >= percent / 100 - 1e-9
    whole = form_of(values, floor=floor, bits=bits)
    assert form.least <= whole.least * GRID


def test_a_percentile_is_finer_than_the_whole_range() -> None:
    values = normal(3, 100_000)
    one, whole = (form_of(values, options=CompileOptions(ranges=name)) for name in ("percentile:99", "min-max"))
    assert one.least * 127 == pytest.approx(2.576, rel=0.02)
    assert one.least < 0.7 * whole.least


def least_noise(seen: Observed, form: Form, finest_octave: float = -6.0) -> float:
    """By brute force over scales 1/50 of an octave apart."""
    scales = form.least * 2.0 ** np.arange(finest_octave, 1.0, 0.02)
    return min(seen.histogram.noise(form.at(float(scale))) for scale in scales)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.integers(2, 8), st.sampled_from((-math.inf, 0.0)), st.integers(1, 5))
def test_mse_has_nearly_the_least_error_of_all_scales(seed: int, bits: int, floor: float, power: int) -> None:
    values = np.maximum(normal(seed, 3000), floor)
    values = np.sign(values) * np.abs(values) ** power  # the larger the power, the longer the tail
    form = form_of(values, floor=floor, options=CompileOptions(ranges="mse"), bits=bits)
    seen, whole = observed(values), form_of(values, floor=floor, bits=bits)
    assert seen.histogram.noise(form.at(form.least)) <= 1.1 * least_noise(seen, whole)
    assert form.most == pytest.approx(2 * form.least)  # so that a ratio that is a power of two is always among them


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.floats(3, 45), st.sampled_from((-math.inf, -1.0, 0.0)))
def test_the_fewest_bits_reach_what_is_wanted_and_fewer_do_not(seed: int, wanted_db: float, floor: float) -> None:
    values = np.maximum(normal(seed, 3000), floor)
    seen, options = observed(values), CompileOptions(ranges="mse")
    found = fewest_bits(Role.ACTIVATION, floor, seen, options, wanted_db)
    allowed = seen.histogram.power * 10 ** (-wanted_db / 10)

    def least(bits: int) -> float:
        kept = form_of(values, floor=floor, options=options, bits=bits)  # may have a floor that the other gave up
        whole = form_of(values, floor=floor, bits=bits)
        return min(least_noise(seen, whole), seen.histogram.noise(kept.at(kept.least)))

    assert found == 8 or least(found) <= allowed
    assert found == 2 or least(found - 1) > allowed / 1.1


def test_more_decibels_never_need_fewer_bits() -> None:
    seen = observed(normal())
    found = [fewest_bits(Role.ACTIVATION, -math.inf, seen, CompileOptions(), wanted) for wanted in range(1, 60)]
    assert found == sorted(found)
    assert set(found) == set(range(2, 9))
