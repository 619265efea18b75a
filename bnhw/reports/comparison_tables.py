"""A comparison as a table for a terminal."""

from dataclasses import replace

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnhw.reports.comparison import Comparison, Figure, Stage, comparison_warnings
from bnhw.reports.numbers import format_count, format_ratio, significant

STAGE_TITLES = {
    Stage.WHOLE: "Whole network",
    Stage.ARRAY: "Array: convolutions",
    Stage.POST: "Post stage: all other instructions",
    Stage.MEMORIES: "Memories",
    Stage.ENGINE: "Engine: operators instantiated",
}

SIDE_BY_SIDE = 4
"""Columns of one table on a terminal, the first included."""

ENERGY_UNITS = ((1e7, 1e6, "mJ"), (1e4, 1e3, "uJ"))
"""From so many nJ on: divided by what, in which unit."""


def comparison_tables(comparison: Comparison) -> RenderableType:
    """One table a stage, or several with `SIDE_BY_SIDE` columns each: figures, and ratios to the first column."""
    parts: list[RenderableType] = [Text(f"Ratios: to {comparison.columns[0].label}. Figures are for one image.")]
    for stage in Stage:
        figures = comparison.of(stage)
        if figures:
            for others in _groups(len(comparison.columns)):
                parts += [Text(), _stage_table(comparison, STAGE_TITLES[stage], figures, others)]
    return Group(*parts, *(Text(f"warning: {warning}") for warning in comparison_warnings(comparison)))


def _groups(count: int) -> list[range]:
    """The columns behind the first, so many at a time as a terminal holds."""
    step = SIDE_BY_SIDE - 1
    return [range(first, min(first + step, count)) for first in range(1, count, step)]


def _stage_table(comparison: Comparison, title: str, figures: tuple[Figure, ...], others: range) -> Table:
    """The first column and some others."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None)
    table.add_column("figure", overflow="fold", min_width=24)
    table.add_column(comparison.columns[0].label, justify="right", overflow="fold")
    for number in others:
        table.add_column(comparison.columns[number].label, justify="right", overflow="fold")
        table.add_column("ratio", justify="right", no_wrap=True)
    for figure in map(in_handy_unit, figures):
        cells = [figure_text(figure, 0)]
        for number in others:
            cells += [figure_text(figure, number), format_ratio(figure.values[number], figure.values[0])]
        table.add_row(f"{figure.name} ({figure.unit})" if figure.unit else figure.name, *cells)
    return table


def in_handy_unit(figure: Figure) -> Figure:
    """Energies of more than ten thousand nJ in uJ, of more than ten million in mJ; everything else as it is."""
    largest = max((value for value in figure.values if value is not None), default=0)
    scale, unit = next(((s, u) for least, s, u in ENERGY_UNITS if largest >= least), (1.0, "nJ"))
    if figure.unit != "nJ" or scale == 1:
        return figure

    def scaled(values: tuple[float | None, ...]) -> tuple[float | None, ...]:
        return tuple(None if value is None else value / scale for value in values)

    return replace(figure, unit=unit, values=scaled(figure.values), low=scaled(figure.low), high=scaled(figure.high))


def figure_text(figure: Figure, number: int) -> str:
    """One value; with its range where it has one."""
    value = figure.values[number]
    text = format_count(value)
    if not figure.low or value is None:
        return text
    low, high = figure.low[number], figure.high[number]
    return f"{text} ({significant(low or 0.0)}..{significant(high or 0.0)})"
