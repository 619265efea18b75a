"""How each requantise step is built, and what that costs in noise and operations.

The noise of a step whose mode cannot hold its ratios: a channel's line is exact at the mean of what calibration saw
there (`Moments.mean`), and off by the relative error of its ratio times the distance from it.

Mode `auto` gives each channel as few signed digits as its step's budget allows: constants may add so much noise to a
step that the whole network loses no more than the budget's decibels. Where thresholds take no more comparisons than
the digits take operations, the step has thresholds; where 4 digits are not enough, it has the narrowest multiplier
that is, if multipliers are allowed. A Quantise of the model's own, whose codes the float model has too, keeps every one
of them: in digits where these are the ratio exactly, else in thresholds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array, Quantisation
from bnhw.ops import Role
from bnhw.options import (
    DEFAULT_MULTIPLIER_BITS,
    EXACT_DIGITS,
    MOST_DIGITS,
    CompileOptions,
    Requantisation,
    RequantiseMode,
)
from bnhw.passes.calibrate import Calibration, Moments
from bnhw.passes.edges import Edge
from bnhw.requantise_constants import count_signed_digits, round_ratios

LEAST_MULTIPLIER_BITS = 4
CLAMP_COMPARISONS = 2

COHERENCE = 9.0
"""How much more the noise of constants counts than that of rounding: a channel's line is off by the same everywhere, so
its errors add up over the 3x3 taps of the next window, where rounding errors average out."""

SCORED = Requantisation(mode=RequantiseMode.CSD, number=3)
"""What mode `auto` judges a scale by, before it is known how many digits each channel gets. With 2 digits the noise of
constants, which later digits take away, would choose the scales: 0.5 to 1 dB were lost on 4-bit networks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """How a step is built; the fields are those of `bnhw.ops.Quantise`."""

    requantisation: Requantisation
    centre: Array | None = None
    digits: Array | None = None


def known_mode(role: Role, options: CompileOptions) -> Requantisation:
    """The mode that the options give to steps of a role; in `auto` the one that digits are saved from."""
    wanted = options.requantisation
    if wanted.mode is RequantiseMode.THRESHOLD and role is not Role.ACTIVATION:
        return EXACT_DIGITS
    return wanted


def step_noise(edge: Edge, ratios: Array, calibration: Calibration, options: CompileOptions) -> tuple[float, float]:
    """The noise that the constants for `ratios` (divisors, channels or 1) add, a mean square, and the operations.

    Operations: additions beyond that of B, or multiplications, an image. Infinite where the mode cannot hold a ratio.
    """
    mode = known_mode(edge.role, options)
    if mode.mode is RequantiseMode.THRESHOLD:
        return 0.0, 0.0
    if options.auto_budget_db is not None:
        mode = SCORED
    try:
        multiplier, shift = round_ratios(ratios, mode)
    except ValueError:
        return np.inf, np.inf
    noise = _channel_noise(edge, ratios, multiplier, shift, calibration.points[edge.point])
    digits = count_signed_digits(multiplier)
    beyond_wires = digits - 1 if mode.mode is RequantiseMode.CSD else (digits > 1) | (multiplier < 0)
    return float(noise.mean()), float(np.maximum(beyond_wires, 0).mean()) * edge.size


def _channel_noise(edge: Edge, ratios: Array, multiplier: Array, shift: Array, moments: Moments) -> Array:
    """The mean square error of each channel, (channels,), over all its values, times `COHERENCE`.

    In a residual stream all channels count alike, whatever their own spread: the batch norms that read it make them so.
    """
    spread = moments.variance * moments.share
    if edge.role is Role.RESIDUAL:
        spread = np.full_like(spread, spread.mean())
    wanted = np.where(ratios != 0, ratios, 1.0)
    errors = np.where(ratios != 0, multiplier / np.exp2(shift) / wanted - 1, 0.0)
    return np.asarray(COHERENCE * (edge.unit.shares @ errors**2) * spread)


def choose_step(
    edge: Edge, codings: Mapping[int, Quantisation], calibration: Calibration, options: CompileOptions
) -> Step:
    """How the step in front of a point is built."""
    moments = calibration.points.get(edge.point)
    mode = known_mode(edge.role, options)
    if not edge.is_step:
        return Step(requantisation=mode)
    if moments is None:  # the model's own step, which is exact in the float model, so here too
        exact = options.auto_budget_db is None or edge.role is not Role.ACTIVATION or _holds(edge, codings, mode)
        return Step(requantisation=mode if exact else Requantisation(mode=RequantiseMode.THRESHOLD))
    if options.auto_budget_db is None:
        return Step(requantisation=mode, centre=None if mode.mode is RequantiseMode.THRESHOLD else moments.mean)
    return _cheapest_step(edge, codings, calibration, options, options.auto_budget_db)


def _holds(edge: Edge, codings: Mapping[int, Quantisation], mode: Requantisation) -> bool:
    """Whether the constants of a mode are the ratios of a step, to the last bit."""
    ratios = edge.unit.gains * (edge.scale_before(codings) / codings[edge.group].scale)
    multiplier, shift = round_ratios(ratios, mode)
    return bool((multiplier / np.exp2(shift) == ratios).all())


def _cheapest_step(
    edge: Edge, codings: Mapping[int, Quantisation], calibration: Calibration, options: CompileOptions, budget_db: float
) -> Step:
    moments, coding = calibration.points[edge.point], codings[edge.group]
    channels = len(moments.mean)
    ratios = np.broadcast_to(
        edge.unit.gains * (edge.scale_before(codings) / coding.scale), (len(edge.unit.shares), channels)
    )
    budget = (10 ** (budget_db / 10) - 1) * _code_noise(edge, codings, calibration)
    digits, noise = _fewest_digits(edge, ratios, moments, budget)
    levels = coding.dtype.high - coding.dtype.low
    if edge.role is Role.ACTIVATION and levels <= digits.mean() + CLAMP_COMPARISONS:
        return Step(requantisation=Requantisation(mode=RequantiseMode.THRESHOLD))
    if noise > budget and options.multipliers:
        for bits in range(LEAST_MULTIPLIER_BITS, DEFAULT_MULTIPLIER_BITS + 1):
            mode = Requantisation(mode=RequantiseMode.MULTIPLY, number=bits)
            if _mean_noise(edge, ratios, mode, moments) <= budget or bits == DEFAULT_MULTIPLIER_BITS:
                return Step(requantisation=mode, centre=moments.mean)
    mode = Requantisation(mode=RequantiseMode.CSD, number=int(digits.max()))
    return Step(requantisation=mode, centre=moments.mean, digits=digits)


def _mean_noise(edge: Edge, ratios: Array, mode: Requantisation, moments: Moments) -> float:
    try:
        multiplier, shift = round_ratios(ratios, mode)
    except ValueError:
        return np.inf
    return float(_channel_noise(edge, ratios, multiplier, shift, moments).mean())


def _code_noise(edge: Edge, codings: Mapping[int, Quantisation], calibration: Calibration) -> float:
    """The noise that the constants of a step are measured by: of its codes, or of the codes that it is made from."""
    moments = calibration.points[edge.point]
    relative = [
        observed.histogram.noise(codings[group]) / max(observed.histogram.power, 1e-300)
        for group in (edge.group, *edge.unit.sources)
        if (observed := calibration.groups.get(group)) is not None
    ]
    power = float((moments.share * (moments.variance + moments.mean**2)).mean())
    return max(relative, default=0.0) * power


def _fewest_digits(edge: Edge, ratios: Array, moments: Moments, budget: float) -> tuple[Array, float]:
    """Digits of each channel, int64 (channels,), that keep the mean noise within `budget`, and that noise.

    From one digit each, the channel that gains most is given another until the budget holds or all have 4.
    """
    modes = [Requantisation(mode=RequantiseMode.CSD, number=number) for number in range(1, MOST_DIGITS + 1)]
    rows = []
    for mode in modes:
        multiplier, shift = round_ratios(ratios, mode)
        rows.append(_channel_noise(edge, ratios, multiplier, shift, moments))
    noise = np.minimum.accumulate(np.stack(rows))  # (digits, channels)
    gains = noise[:-1] - noise[1:]
    gains = np.minimum.accumulate(gains, axis=0)  # a channel's digits come one after the other
    order = np.argsort(-gains, axis=None, kind="stable")
    left = noise[0].sum() - np.cumsum((noise[:-1] - noise[1:]).reshape(-1)[order])
    channels = noise.shape[1]
    if noise[0].sum() <= budget * channels:
        return np.ones(channels, np.int64), float(noise[0].mean())
    within = np.flatnonzero(left <= budget * channels)
    count = int(within[0]) + 1 if len(within) else len(order)
    given = np.zeros(gains.size, np.int64)
    given[order[:count]] = 1
    return 1 + given.reshape(gains.shape).sum(axis=0), float(left[count - 1] / channels)
