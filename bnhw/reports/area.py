"""Measured areas as tables, for a terminal and as Markdown."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnhw.rtl.area import Area, AreaReport, Target

Columns = Sequence[tuple[str, Callable[[Area], str]]]
"""Heading, and what stands below it for one area."""

FPGAS = {Target.XILINX7: "Xilinx 7", Target.ICE40: "iCE40", Target.ECP5: "ECP5"}

COMPARISONS = (
    ("multiplexer against multiplier: mux8, mul8x8", "mux8", "mul8x8"),
    ("the same, in whole engines without memories", "engine, mux8", "engine, mul8x8"),
    ("the same, weight masking: and8, mul8x8", "and8", "mul8x8"),
    ("shifted ReLU against batch norm: fixed shift, multiply:8", "fixed shift", "multiply:8"),
    ("shifted ReLU against batch norm: fixed shift, multiply:16", "fixed shift", "multiply:16"),
    ("the same, shift an input: barrel shift, multiply:16", "barrel shift", "multiply:16"),
    ("two signed digits against batch norm: csd:2, multiply:8", "csd:2", "multiply:8"),
)
"""What the two papers argue with: title, the design without a multiplier, the one with."""

SIZES: tuple[tuple[str, Target, bool, Callable[[Area], float]], ...] = (
    ("um2", Target.LIBERTY, True, lambda area: area.least),
    ("transistors", Target.GENERIC, True, lambda area: area.transistors),
    *((f"LUT, {name}", target, False, lambda area: area.resources["lut"]) for target, name in FPGAS.items()),
)
"""What two designs are compared by: heading, target, whether multiplier blocks are used, size."""


def area_sections(report: AreaReport, groups: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[str, list[list[str]]]]:
    """(title, rows of text with the heading first) of each table; groups: title and names of designs."""
    sections = [(title, _rows(report, names)) for title, names in groups]
    comparisons = _comparison_rows(report)
    if len(comparisons) > 1:
        sections.append(
            ("How many times larger the one with a multiplier is (on FPGAs without their blocks)", comparisons)
        )
    return [(title, rows) for title, rows in sections if len(rows) > 1]


def area_tables(report: AreaReport, groups: Sequence[tuple[str, Sequence[str]]]) -> RenderableType:
    """For a terminal; arguments as in `area_sections`."""
    parts: list[RenderableType] = []
    for title, (heading, *rows) in area_sections(report, groups):
        table = Table(title=title, title_justify="left", header_style="bold", box=None)
        for number, name in enumerate(heading):
            table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number > 0)
        for row in rows:
            table.add_row(*row)
        parts += [table, Text()]
    return Group(*parts, Text(measured_with(report)))


def area_markdown(report: AreaReport, groups: Sequence[tuple[str, Sequence[str]]]) -> str:
    """For a document; arguments as in `area_sections`."""
    lines = [measured_with(report)]
    for title, (heading, *rows) in area_sections(report, groups):
        lines += ["", f"{title}:", ""]
        heading = [name.replace("\n", ": ") for name in heading]
        lines += ["| " + " | ".join(row) + " |" for row in (heading, ["---"] + ["---:"] * (len(heading) - 1), *rows)]
    return "\n".join([*lines, ""])


def measured_with(report: AreaReport) -> str:
    """One sentence."""
    cells = f", standard cells: {report.liberty}" if report.liberty else ""
    return f"Measured with {report.yosys}{cells}."


def _rows(report: AreaReport, names: Sequence[str]) -> list[list[str]]:
    present = [target for target in Target if any(area.target is target for area in report.areas)]
    heading = ["part"]
    for target in present:
        heading += {Target.LIBERTY: ["um2", "range"], Target.GENERIC: ["transistors"]}.get(target, [])
        heading += [f"{FPGAS[target]}\nLUT / carry / DSP"] if target in FPGAS else []
    rows = [heading]
    for name in names:
        for dsp in (True, False):
            found = [report.find(name, target, dsp=dsp) for target in present]
            if any(found):
                label = next(area.title for area in found if area)
                text = f"{name}: {label}" if dsp else f"{name}, no DSP"
                rows.append([text, *(cell for t, area in zip(present, found, strict=True) for cell in _cells(t, area))])
    return rows


def _cells(target: Target, area: Area | None) -> list[str]:
    match target:
        case Target.LIBERTY:
            return [f"{area.least:,.0f}", f"+{area.spread:.0%}"] if area else ["", ""]
        case Target.GENERIC:
            return [f"{area.transistors:,}" if area else ""]
        case _:
            return [" / ".join(f"{area.resources[name]:,}" for name in ("lut", "carry", "dsp")) if area else ""]


def _comparison_rows(report: AreaReport) -> list[list[str]]:
    measured = [size for size in SIZES if any(area.target is size[1] for area in report.areas)]
    rows = [["compared", *(heading for heading, *_ in measured)]]
    for title, plain, multiplying in COMPARISONS:
        cells = []
        for _, target, dsp, size in measured:
            small, large = report.find(plain, target), report.find(multiplying, target, dsp=dsp)
            cells.append(f"{size(large) / size(small):.1f}" if small and large else "")
        if any(cells):
            rows.append([title, *cells])
    return rows
