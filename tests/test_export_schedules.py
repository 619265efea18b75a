"""Learning-rate schedules and gradient clipping: their formulas at the places that the papers name."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.recipes import RECIPES  # noqa: E402
from bnhw.export.schedules import (  # noqa: E402
    Constant,
    ConstantClipping,
    ConstantThen,
    Cosine,
    Drops,
    LogarithmicClipping,
    Schedule,
    Triangles,
    WarmUp,
    clip_gradients,
)

SCHEDULES = [recipe.schedule for recipe in RECIPES.values()]
parts = st.floats(0, 1)


def test_cosine_falls_from_its_first_to_its_last_rate_and_halves_in_between() -> None:
    schedule = Cosine(0.1, 1e-5)
    assert [schedule.rate(p) for p in (0, 0.5, 1)] == pytest.approx([0.1, (0.1 + 1e-5) / 2, 1e-5])
    assert schedule.rate(1 / 3) == pytest.approx(1e-5 + (0.1 - 1e-5) * 0.75)


def test_monotone_decay_is_a_tenth_after_each_thirty_of_ninety_epochs() -> None:
    rates = [Drops(0.01).rate(epoch / 90) for epoch in range(90)]
    assert rates == pytest.approx([0.01] * 30 + [0.001] * 30 + [0.0001] * 30)


def test_step_decay_is_constant_first_and_then_the_standard_decay() -> None:
    rates = [ConstantThen(1 / 3, Drops(0.01)).rate(epoch / 90) for epoch in range(90)]
    assert rates == pytest.approx([0.01] * 50 + [0.001] * 20 + [0.0001] * 20)


def test_warm_up_rises_in_equal_steps_and_leaves_the_rest_of_the_curve_alone() -> None:
    rest = Drops(0.1, drops=(1 / 3, 2 / 3, 8 / 9))
    schedule = WarmUp(5 / 90, 0.0, rest)
    assert [schedule.rate(epoch / 90) for epoch in range(6)] == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert [schedule.rate(p / 90) for p in range(5, 90)] == [rest.rate(p / 90) for p in range(5, 90)]


def test_triangles_are_lowest_at_both_ends_of_a_cycle_and_highest_between() -> None:
    schedule = Triangles(0.001, 0.01, 3)
    assert [schedule.rate(k / 6) for k in range(7)] == pytest.approx([0.001, 0.01] * 3 + [0.001])
    assert schedule.rate(1 / 12) == pytest.approx(0.0055)


@given(st.sampled_from(SCHEDULES), parts)
def test_no_rate_is_above_the_peak_or_below_zero(schedule: Schedule, progress: float) -> None:
    assert 0 <= schedule.rate(progress) <= schedule.peak * (1 + 1e-12)


@given(st.sampled_from(SCHEDULES), parts, st.floats(1e-4, 10))
def test_another_peak_scales_the_whole_curve(schedule: Schedule, progress: float, peak: float) -> None:
    scaled = schedule.with_peak(peak)
    assert scaled.peak == pytest.approx(peak)
    assert scaled.rate(progress) == pytest.approx(schedule.rate(progress) * peak / schedule.peak, rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_recipe_reaches_its_peak(schedule: Schedule) -> None:
    assert max(schedule.rate(k / 720) for k in range(720)) == pytest.approx(schedule.peak)


def test_logarithmic_threshold_starts_at_its_start_and_adds_less_and_less() -> None:
    thresholds = [LogarithmicClipping(5.0).threshold(epoch) for epoch in range(90)]
    steps = [b - a for a, b in itertools.pairwise(thresholds)]
    assert thresholds[0] == 5
    assert thresholds[-1] == pytest.approx(5 * (1 + math.log(90)))
    assert all(a > b > 0 for a, b in itertools.pairwise(steps))
    assert [LogarithmicClipping(10.0).threshold(e) for e in range(90)] == pytest.approx([2 * t for t in thresholds])


def test_constant_threshold_stays() -> None:
    assert {ConstantClipping(3.0).threshold(epoch) for epoch in range(90)} == {3.0}


def test_clipping_scales_all_gradients_together_and_only_where_they_are_too_long() -> None:
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)]
    for scale, expected in ((2.0, 5.0), (0.25, 3.25)):
        for parameter, gradient in zip(parameters, (torch.tensor([3.0, 4.0]), torch.tensor(12.0)), strict=True):
            parameter.grad = gradient * scale
        assert float(clip_gradients(parameters, ConstantClipping(5.0), 0)) == pytest.approx(13 * scale)
        gradients = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        assert float(gradients.norm()) == pytest.approx(expected, rel=1e-5)
        assert gradients[1] / gradients[0] == pytest.approx(4 / 3)
        assert gradients[2] / gradients[0] == pytest.approx(4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0.0), "peak is 0.0, expected above 0"),
        (lambda: Cosine(0.1, 0.2), "last is 0.2, expected from 0 to the peak 0.1"),
        (lambda: Drops(0.1, factor=1.0), "factor is 1.0, expected between 0 and 1"),
        (lambda: Drops(0.1, drops=(0.5, 0.5)), "drops is .*, expected rising parts"),
        (lambda: ConstantThen(1.0, Constant(1.0)), "part is 1.0, expected from 0, below 1"),
        (lambda: WarmUp(0.0, 0.0, Constant(1.0)), "part is 0.0, expected between 0 and 1"),
        (lambda: WarmUp(0.5, 2.0, Constant(1.0)), "start is 2.0, expected from 0 to 1"),
        (lambda: Triangles(0.1, 0.2, 0), "cycles is 0, expected at least 1"),
        (lambda: Constant(1.0).with_peak(-1.0), "peak is -1.0, expected above 0"),
        (lambda: ConstantClipping(0.0), "start is 0.0, expected above 0"),
        (lambda: LogarithmicClipping(-5.0), "start is -5.0, expected above 0"),
    ],
)
def test_impossible_values_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(BadInput, match=message):
        make()
