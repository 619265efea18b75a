"""Where the figures of a page come from: program, engine, technology, and how far energies can be trusted."""

from collections.abc import Mapping, Sequence

from bnhw.hardware.technology import Technology
from bnhw.hardware.validation import validate
from bnhw.reports.energy_tables import CONSTANT_COLUMNS, VALIDATION_COLUMNS, constant_rows, validation_rows
from bnhw.reports.engine import EngineRun
from bnhw.reports.html.elements import Content, Markup, element
from bnhw.reports.html.page import note, plain_text, section, table
from bnhw.reports.report import Report
from bnhw.version import __version__


def provenance_sections(report: Report) -> list[Markup]:
    """Program, engine, technology, validation: those that the report has."""
    sections = [_program_section(report)]
    run = report.engine
    if run is not None:
        sections.append(_engine_section(run))
    if run is not None and run.technology is not None:
        sections += [_technology_section(run.technology), _validation_section()]
    return sections


def comparison_provenance(reports: Sequence[Report], labels: Sequence[str]) -> list[Markup]:
    """Every program and every engine once, then technology and validation where there is one."""
    sections = [_program_section(report, f" of {label}") for report, label in zip(reports, labels, strict=True)]
    runs = [report.engine for report in reports if report.engine is not None]
    sections += [_engine_section(run) for run in {run.arch.name: run for run in runs}.values()]
    technologies = {run.technology.name: run.technology for run in runs if run.technology is not None}
    sections += map(_technology_section, technologies.values())
    return [*sections, _validation_section()] if technologies else sections


def _program_section(report: Report, of: str = "") -> Markup:
    origin = report.program.provenance
    entries: list[tuple[str, str]] = [
        ("model", origin.source_name),
        ("SHA-256 of the model", origin.source_sha256),
        ("compiled by", origin.producer),
        ("reported by", f"bnhw {__version__}"),
        *((f"option {name}", value) for name, value in origin.options.items()),
        *(("note", text) for text in origin.notes),
    ]
    return section(f"Provenance{of}", _pairs(entries))


def _engine_section(run: EngineRun) -> Markup:
    entries: list[tuple[str, str]] = []
    for name, value in run.arch.values().items():
        if isinstance(value, Mapping):
            entries += [(f"{name}: {inner}", _inner_text(content)) for inner, content in value.items()]
        elif value is not None:
            entries.append((name, plain_text(value)))
    return section(f"Engine {run.arch.name}", note("Parameters: docs/engine.md."), _pairs(entries, class_="pairs two"))


def _inner_text(content: object) -> str:
    """A value of a table inside the description: `8,192 words`, and what is not 1 besides."""
    if not isinstance(content, Mapping):
        return plain_text(content)
    parts = [f"{number:,} {name.replace('_', ' ')}" for name, number in content.items() if number != 1]
    return ", ".join(parts)


def _pairs(entries: list[tuple[str, str]], class_: str = "pairs") -> Markup:
    rows = (element("div", element("dt", name), element("dd", element("code", value))) for name, value in entries)
    return element("dl", *rows, class_=class_)


def _technology_section(technology: Technology) -> Markup:
    text = (
        f"{technology.node_nm:g} nm, {technology.voltage_v:g} V (nominal {technology.nominal_voltage_v:g} V), cells: "
        f"{technology.sram_cell.value.replace('_', ' ')}; {technology.source}. Constants stand as in their sources and "
        "are scaled by node and voltage: docs/energy.md."
    )
    body = [[name.strip("`"), *cells] for name, *cells in constant_rows(technology)]
    return section(f"Technology {technology.name}", note(text), table(CONSTANT_COLUMNS, body, wrap=(1, 8)))


def _validation_section() -> Markup:
    """The model at published chips, computed anew for this page."""
    results = validate()
    text = (
        "The energy model at published chips. A factor of 2 a MAC and 2.5 a frame is claimed, nothing tighter; ratios "
        "of two designs on one node are much better than absolute figures. Held out: not looked at when the constants "
        "were chosen."
    )
    body: list[list[Content]] = [
        [*row, element("small", result.point.source)]
        for row, result in zip(validation_rows(results), results, strict=True)
    ]
    head = [*VALIDATION_COLUMNS, "source"]
    return section("How far the energies can be trusted", note(text), table(head, body, wrap=(len(head) - 1,)))
