"""A comparison as a page."""

from collections.abc import Sequence

from bnhw.reports.comparison import Comparison, Figure, Stage, comparison_warnings
from bnhw.reports.comparison_tables import STAGE_TITLES, figure_text, in_handy_unit
from bnhw.reports.definitions import DEFINITIONS
from bnhw.reports.html.charts import Chart, coloured, stacked_bars
from bnhw.reports.html.elements import Content, Markup, element
from bnhw.reports.html.page import (
    explained,
    figures,
    glossary,
    headline,
    in_greek,
    page,
    scrolling,
    section,
    table,
    term,
    warning_box,
)
from bnhw.reports.html.provenance import comparison_provenance
from bnhw.reports.html.report_charts import cycle_chart, energy_chart
from bnhw.reports.numbers import format_difference, format_ratio

HEADLINES = ("whole.multipliers_per_image", "memories.weight_bits", "whole.energy", "whole.cycles_total")
"""The figures in large type where two columns are compared: the first three that are there."""


def comparison_page(comparison: Comparison) -> str:
    """A self-contained HTML file. Raises MissingDependency where plotly is not installed."""
    labels = [column.label for column in comparison.columns]
    base = labels[0]
    charts = _charts(comparison)
    title = " against ".join(labels) if len(labels) == 2 else f"{len(labels)} columns compared"
    keys = dict.fromkeys(figure.definition for figure in comparison.figures)
    warnings = comparison_warnings(comparison)
    content: list[Content] = [
        element("h1", title),
        element("p", f"All figures for one image. Ratios are to {base}.", class_="subtitle"),
        element("div", *_headlines(comparison), class_="headlines") if len(labels) == 2 else None,
        section("Side by side", figures(charts)),
        section("Columns", _column_table(comparison)),
        *(
            section(STAGE_TITLES[stage], _stage_table(comparison, comparison.of(stage)))
            for stage in Stage
            if comparison.of(stage)
        ),
        section("Warnings", warning_box(warnings)) if warnings else None,
        *comparison_provenance([column.report for column in comparison.columns], labels),
        glossary(tuple(keys)),
    ]
    return page(f"{title} - bnhw compare", content, charts)


def _headlines(comparison: Comparison) -> list[Markup]:
    by_key = {figure.key: figure for figure in comparison.figures}
    chosen = [by_key[key] for key in HEADLINES if key in by_key][:3]
    return [
        headline(
            _change(figure),
            term(figure.definition, figure.name),
            in_greek(f"{figure_text(figure, 1)} against {figure_text(figure, 0)} {figure.unit}".rstrip()),
        )
        for figure in map(in_handy_unit, chosen)
    ]


def _change(figure: Figure) -> str:
    """The second value over the first, in large type."""
    text = format_ratio(figure.values[1], figure.values[0])
    words = {"": "no figure", "=": "the same", "none": "none left"}
    return words.get(text, text.replace("x", "\N{MULTIPLICATION SIGN}"))


def _column_table(comparison: Comparison) -> Markup:
    body: list[list[Content]] = []
    for column in comparison.columns:
        run = column.report.engine
        options = column.report.program.provenance.options
        technology = "" if run is None or run.technology is None else run.technology.name
        body.append(
            [
                column.label,
                column.report.program.name,
                options.get("requantise", ""),
                "" if run is None else run.arch.name,
                technology,
            ]
        )
    head = [
        explained("column", "The name of the program's file."),
        explained("model", "The name of the network in the program."),
        explained("requantise", "The mode that the program was compiled with."),
        explained("engine", "The engine that executes it."),
        explained("technology", "The constants that price it."),
    ]
    return table(head, body)


def _stage_table(comparison: Comparison, listed: Sequence[Figure]) -> Markup:
    """One column a program; ratio and difference stand in small type below each value but the first."""
    head: list[Content] = [element("th", "figure", scope="col", class_="text")]
    head += [element("th", column.label, scope="col") for column in comparison.columns]
    body = []
    for figure in map(in_handy_unit, listed):
        cells: list[Markup] = [element("th", _name(figure), scope="row")]
        for number in range(len(figure.values)):
            change = ""
            if number:
                change = _small_change(figure, number)
            cells.append(element("td", figure_text(figure, number), element("small", change) if change else None))
        body.append(element("tr", *cells))
    return scrolling(element("table", element("thead", element("tr", *head)), element("tbody", *body)))


def _small_change(figure: Figure, number: int) -> str:
    """Ratio and difference to the first column; one of them where the other says nothing."""
    text = format_ratio(figure.values[number], figure.values[0]).replace("x ", "\N{MULTIPLICATION SIGN} ")
    difference = format_difference(figure.differences[number])
    return f"{text} ({difference})" if difference else text


def _name(figure: Figure) -> Content:
    text = f"{figure.name} ({figure.unit})" if figure.unit else figure.name
    return explained(
        text.replace("(uJ)", "(\N{MICRO SIGN}J)").replace("(us)", "(\N{MICRO SIGN}s)"),
        DEFINITIONS[figure.definition].text,
    )


def _charts(comparison: Comparison) -> tuple[Chart, ...]:
    labels = [column.label for column in comparison.columns]
    reports = [column.report for column in comparison.columns]
    charts = [
        stacked_bars(
            "chart-multiplications",
            "Multiplications",
            "Multiplications for one image: of convolutions, and of all other instructions.",
            labels,
            coloured(
                [
                    ("array", [report.array_multiplications for report in reports]),
                    ("post stage", [report.totals.multipliers - report.array_multiplications for report in reports]),
                ]
            ),
            axis="multiplications",
        ),
        stacked_bars(
            "chart-storage",
            "Storage",
            "Weights, constants, and the most tensors alive at once, in kbit, without padding to words.",
            labels,
            coloured(
                [
                    ("weights", [report.totals.weight_bits / 1e3 for report in reports]),
                    ("constants", [report.totals.constant_bits / 1e3 for report in reports]),
                    ("live activations", [report.peak_activation_bits / 1e3 for report in reports]),
                ]
            ),
            axis="kbit",
            hover=",.3~f",
        ),
    ]
    return (*charts, *_engine_charts(comparison, labels))


def _engine_charts(comparison: Comparison, labels: Sequence[str]) -> list[Chart]:
    """Cycles and energy; both only where every column has them."""
    runs = [column.report.engine for column in comparison.columns]
    works = [run.work for run in runs if run is not None]
    if len(works) < len(runs):
        return []
    charts = [cycle_chart(works, labels, "Clock cycles")]
    if all(work.energy for work in works):
        charts.append(energy_chart(works, labels, "Energy"))
    return charts
