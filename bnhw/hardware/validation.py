"""Published chips priced with the model: what it says for each, and the band in which that must lie.

Every point of `validation_points` is a trace that `price` prices like any other. docs/energy.md has the table,
tests/test_hardware_energy_validation.py asserts it.
"""

from dataclasses import dataclass, replace
from typing import Any

from bnhw.hardware.energy import EnergyRange, price
from bnhw.hardware.technology import Constant, Technology
from bnhw.hardware.technology_file import load_technology
from bnhw.hardware.validation_points import VALIDATION_POINTS, Figure, ValidationPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """What the model gives for a point, in the point's unit."""

    point: ValidationPoint
    low: float
    nominal: float
    high: float
    warnings: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """The model over the published figure."""
        return self.nominal / self.point.published

    @property
    def holds(self) -> bool:
        """In the band without a warning; for a point that must warn, that it does."""
        if self.point.must_warn:
            return bool(self.warnings)
        return self.point.band[0] <= self.nominal <= self.point.band[1] and not self.warnings

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        point = self.point
        return {
            "name": point.name,
            "technology": point.technology,
            "voltage_v": point.voltage_v,
            "unit": point.figure.value,
            "published": point.published,
            "published_covers": point.published_covers,
            "source": point.source,
            "compared_groups": [group.value for group in point.covers],
            "model": {"low": self.low, "nominal": self.nominal, "high": self.high},
            "ratio": self.ratio,
            "accepted": None if point.must_warn else {"lowest": point.band[0], "highest": point.band[1]},
            "held_out": point.held_out,
            "must_warn": point.must_warn,
            "warnings": list(self.warnings),
            "holds": self.holds,
        }


def validate() -> tuple[ValidationResult, ...]:
    """The model at every point, with the shipped constants."""
    return tuple(evaluate(point) for point in VALIDATION_POINTS)


def evaluate(point: ValidationPoint) -> ValidationResult:
    """The model at one point."""
    technology = load_technology(point.technology).with_voltage(point.voltage_v)
    energy = price(point.trace, _with_logic_factor(technology, point.logic_factor))
    covered = sum((energy.groups[group] for group in point.covers), EnergyRange())
    scale = 1e-6 if point.figure is Figure.UJ_PER_FRAME else 1e3 / sum(s.macs_executed for s in point.trace.steps)
    return ValidationResult(
        point=point,
        low=float(covered.low) * scale,
        nominal=float(covered.nominal) * scale,
        high=float(covered.high) * scale,
        warnings=energy.warnings,
    )


def _with_logic_factor(technology: Technology, factor: float) -> Technology:
    """The technology with cheaper adders and multiplexers."""
    constants = technology.constants
    return replace(
        technology,
        constants=replace(
            constants,
            full_adder_fj_per_bit=_times(constants.full_adder_fj_per_bit, factor),
            select_fj_per_bit=_times(constants.select_fj_per_bit, factor),
        ),
    )


def _times(constant: Constant, factor: float) -> Constant:
    return replace(constant, low=constant.low * factor, nominal=constant.nominal * factor, high=constant.high * factor)
