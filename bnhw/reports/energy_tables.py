"""Tables of the energy model: constants, node scales, validation points, and what a trace costs."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnhw.hardware.energy import Energy, EnergyRange
from bnhw.hardware.technology import RULES, Technology, named
from bnhw.hardware.validation import ValidationResult

CONSTANT_COLUMNS = ("constant", "what it is the energy of", "low", "nominal", "high", "unit", "at", "scaled", "source")
VALIDATION_COLUMNS = (
    "point",
    "at",
    "published",
    "of",
    "compared",
    "model",
    "low to high",
    "ratio",
    "accepted",
    "verdict",
)


def constant_rows(technology: Technology) -> list[tuple[str, ...]]:
    """Every constant of a technology as it stands in its file, not scaled."""
    return [
        (
            f"`{name}`",
            RULES[name].meaning,
            f"{constant.low:g}",
            f"{constant.nominal:g}",
            f"{constant.high:g}",
            constant.unit,
            f"{constant.node_nm:g} nm, {constant.voltage_v:g} V",
            "yes" if RULES[name].scaled else "no",
            constant.source,
        )
        for name, constant in named(technology.constants)
    ]


def node_rows(technologies: Sequence[Technology]) -> list[tuple[str, ...]]:
    """Every technology with its voltages and its node scale against 45 nm."""
    return [
        (
            technology.name,
            f"{technology.voltage_v:g}",
            f"{technology.nominal_voltage_v:g}",
            technology.sram_cell.value,
            f"{technology.node_scale(45):.3f}",
            technology.source,
        )
        for technology in technologies
    ]


def validation_rows(results: Sequence[ValidationResult]) -> list[tuple[str, ...]]:
    """Every validation point."""
    return [
        (
            result.point.name + (" (held out)" if result.point.held_out else ""),
            f"{result.point.technology}, {result.point.voltage_v:g} V",
            f"{result.point.published:.2f} {result.point.figure.value}",
            result.point.published_covers,
            ", ".join(group.value for group in result.point.covers),
            f"{result.nominal:.2f}",
            f"{result.low:.2f} to {result.high:.2f}",
            f"{result.ratio:.2f}",
            "must warn" if result.point.must_warn else "{:.2f} to {:.2f}".format(*result.point.band),
            verdict(result),
        )
        for result in results
    ]


def verdict(result: ValidationResult) -> str:
    """What became of a point, in a word or two."""
    if result.point.must_warn:
        return "warns" if result.holds else "DOES NOT WARN"
    return "in the band" if result.holds else "OUT OF THE BAND"


def validation_table(results: Sequence[ValidationResult]) -> RenderableType:
    """All points, their sources and their warnings."""
    table = Table(title="Energy model against published chips", title_justify="left", header_style="bold", box=None)
    for column in VALIDATION_COLUMNS:
        table.add_column(column, justify="right" if column in ("published", "model", "ratio") else "left")
    for row in validation_rows(results):
        table.add_row(*row)
    sources = [f"{result.point.name}: {result.point.source}" for result in results]
    warnings = [f"{result.point.name}: {warning}" for result in results for warning in result.warnings]
    claim = "Claimed: a factor of 2 for a MAC, 2.5 for a frame. Ratios between two designs on one node are better."
    return Group(table, "", *map(Text, sources), "", *map(Text, warnings), "", Text(claim))


def energy_table(energy: Energy) -> RenderableType:
    """Energy by component and group, in pJ an image, with the warnings."""
    title = f"Energy per image, {energy.technology} at {energy.voltage_v:g} V, {energy.sram_cell.value} memories, pJ"
    table = Table(header_style="bold", box=None)
    table.add_column("component")
    for column in ("low", "nominal", "high"):
        table.add_column(column, justify="right")
    for part, energy_range in energy.parts.items():
        table.add_row(part.value, *_cells(energy_range))
    for group, energy_range in energy.groups.items():
        table.add_row(f"group {group.value}", *_cells(energy_range))
    table.add_row("total", *_cells(energy.total))
    return Group(Text(title, style="italic"), table, *(Text(f"warning: {warning}") for warning in energy.warnings))


def _cells(energy: EnergyRange) -> tuple[str, ...]:
    return tuple(f"{float(value):,.1f}" for value in (energy.low, energy.nominal, energy.high))
