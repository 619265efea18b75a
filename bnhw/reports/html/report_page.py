"""The report of one program as a page."""

from collections.abc import Sequence

from bnhw.hardware.energy import EnergyRange
from bnhw.hardware.trace import MemoryKind
from bnhw.reports.engine import PARTS, EngineRun
from bnhw.reports.html.elements import Content, Markup, breakable, element
from bnhw.reports.html.page import (
    explained,
    facts,
    figures,
    full_text,
    glossary,
    headline,
    in_greek,
    note,
    page,
    paragraph,
    scrolling,
    section,
    table,
    term,
    warning_box,
)
from bnhw.reports.html.provenance import provenance_sections
from bnhw.reports.html.report_charts import report_charts
from bnhw.reports.numbers import (
    format_avoided,
    format_count,
    format_energy,
    format_energy_range,
    format_percent,
    format_seconds,
    format_small_share,
    ratio,
    significant,
)
from bnhw.reports.report import Report
from bnhw.reports.rows import Column, Row, columns, rows, total_row
from bnhw.reports.tables import format_bits, format_shape

Fact = tuple[Content, str, str]

COUNT_TERMS = (
    "macs_trimmed",
    "macs_full",
    "multipliers_per_image",
    "multiplications_avoided",
    "weight_bits",
    "weight_memory_ratio",
    "constant_bits",
    "peak_activation_bits",
)
ENGINE_TERMS = (
    "cycles_total",
    "compute",
    "weight_load",
    "activation_load",
    "writeback",
    "drain",
    "stall",
    "utilisation",
    "border_macs",
    "repeated_macs",
    "idle_macs",
    "latency_us",
    "images_per_second",
    "reads_bits",
    "writes_bits",
    "operational_intensity",
)
ENERGY_TERMS = ("energy_pj", "post_share", "tops_per_watt")


def report_page(report: Report) -> str:
    """A self-contained HTML file. Raises MissingDependency where plotly is not installed."""
    charts = report_charts(report)
    content: list[Content] = [
        element("h1", report.program.name),
        element("p", _subtitle(report), class_="subtitle"),
        element("div", *_headlines(report), class_="headlines"),
        facts(_facts(report)),
        _warning_note(report.engine),
        section(
            "Layer by layer" if report.engine is None else "Step by step",
            note(_step_note(report)),
            figures(charts),
        ),
        section(
            "All figures",
            note("A click on a column's head sorts by it; the table scrolls sideways."),
            _figure_table(report),
        ),
    ]
    if report.engine is not None:
        content += [_memory_section(report.engine), *_energy_sections(report.engine)]
    content += [_operation_section(report), *provenance_sections(report), glossary(_terms(report))]
    return page(f"{report.program.name} - bnhw report", content, charts)


def _terms(report: Report) -> Sequence[str]:
    run = report.engine
    if run is None:
        return COUNT_TERMS
    return (*COUNT_TERMS, *ENGINE_TERMS, *(() if run.energy is None else ENERGY_TERMS))


def _subtitle(report: Report) -> str:
    run = report.engine
    if run is None:
        return "Operations and storage of the integer program, for one image."
    arch = run.arch
    where = f"On the engine {arch.name}: {arch.pe} x {arch.simd} lanes, {arch.clock_mhz:g} MHz"
    technology = run.technology
    if technology is None:
        return f"{where}. All figures for one image."
    return f"{where}; {technology.name}, {technology.voltage_v:g} V. All figures for one image."


def _step_note(report: Report) -> str:
    if report.engine is None:
        return "One bar an instruction of the program, in the order of execution."
    return (
        "One bar a step of the engine, in the order of execution. A step executes one instruction of the program or "
        "several that are fused: a convolution, the requantise step behind it, a residual addition."
    )


def _headlines(report: Report) -> list[Markup]:
    found = report.headlines
    smaller = found.weight_memory_ratio
    entries = [
        headline(
            format_avoided(found.multiplications_avoided),
            term("multiplications_avoided"),
            f"{found.multiplications:,} left of {found.multiplications_baseline:,} with wider weights and batch norm",
        ),
        headline(
            "none" if smaller is None else f"{significant(smaller)} \N{MULTIPLICATION SIGN} less",
            term("weight_memory_ratio"),
            f"{format_bits(found.weight_bits)}; with 8-bit weights {format_bits(found.weight_bits_baseline)}",
        ),
    ]
    return [*entries, _third_headline(report)]


def _third_headline(report: Report) -> Markup:
    """The energy share of the post stage; without a technology the utilisation, without an engine the activations."""
    run = report.engine
    if run is None:
        peak = report.peak_activation_bits
        return headline(f"{significant(peak / 8e3)} kB", term("peak_activation_bits"), format_bits(peak))
    whole = run.work.energy_total
    if whole is None:
        detail = f"{run.work.macs_trimmed:,} real MACs in {run.work.cycles.total:,} cycles"
        return headline(format_percent(run.work.utilisation), term("utilisation"), detail)
    post = next((energy for part, energy in run.work.energy.items() if part.value == "post"), EnergyRange())
    detail = in_greek(f"{format_energy(float(post.nominal))} of {format_energy(float(whole.nominal))}")
    share = ratio(float(post.nominal), float(whole.nominal))
    return headline(format_small_share(share), term("post_share"), detail)


def _facts(report: Report) -> list[Fact]:
    totals = report.totals
    entries: list[Fact] = [
        (term("macs_trimmed"), format_count(totals.macs_trimmed), f"{totals.macs_full:,} with padded taps"),
        (
            term("multipliers_per_image"),
            format_count(totals.multipliers),
            f"{report.array_multiplications:,} of them in the array",
        ),
        (term("weight_bits"), *_bits(totals.weight_bits)),
        (term("constant_bits"), *_bits(totals.constant_bits)),
        (term("peak_activation_bits"), *_bits(report.peak_activation_bits)),
    ]
    return [*(_engine_facts(report.engine) if report.engine is not None else ()), *entries]


def _bits(bits: int) -> tuple[str, str]:
    return f"{significant(bits / 8e3)} kB", f"{bits:,} bits"


def _engine_facts(run: EngineRun) -> list[Fact]:
    work = run.work
    entries: list[Fact] = [
        (term("latency_us"), in_greek(format_seconds(run.latency_us)), f"{work.cycles.total:,} cycles"),
        (term("images_per_second"), format_count(round(run.images_per_second)), f"at {run.trace.clock_mhz:g} MHz"),
        (
            term("utilisation"),
            format_percent(work.utilisation),
            f"{work.border_macs:,} MACs on padding, {work.idle_macs:,} of idle lanes",
        ),
    ]
    whole = work.energy_total
    if whole is not None:
        low, nominal, high = (run.tops_per_watt(end) or 0.0 for end in ("high", "nominal", "low"))
        text = format_energy_range(float(whole.low), float(whole.nominal), float(whole.high))
        value, _, span = in_greek(text).partition(" (")
        entries += [
            (term("energy_pj"), value, f"{span.rstrip(')')} {value.split()[1]}"),
            (term("tops_per_watt"), significant(nominal), f"{significant(low)} to {significant(high)}"),
        ]
    return entries


def _warning_note(run: EngineRun | None) -> Markup | None:
    """One line that leads to the warnings of the energies."""
    count = 0 if run is None or run.energy is None else len(run.energy.warnings)
    if not count:
        return None
    link = element("a", "warnings" if count > 1 else "warning", href="#energy")
    return element("p", f"Energies come with {count} ", link, ".", class_="note")


def _figure_table(report: Report) -> Markup:
    chosen = columns(report)
    listed = rows(report)
    head = [
        _sort_head("#", "Place in the order of execution.", "number"),
        _sort_head("step" if report.engine else "instruction", "The tensor that it writes.", "text"),
        _sort_head("kind", "What it does; the cells name the instructions that are fused.", "text"),
        element("th", explained("shape", "Height x width x channels of what it writes."), scope="col"),
        *(_sort_head(_head(column), full_text(column.definition), "number") for column in chosen),
    ]
    body = [element("tr", *_table_row(number, row, chosen)) for number, row in enumerate(listed, start=1)]
    last = total_row(report)
    foot = element(
        "tr",
        element("td"),
        element("th", "total", scope="row"),
        element("td", class_="text"),
        element("td"),
        *(element("td", in_greek(column.text(last)) or "0") for column in chosen),
        class_="total",
    )
    return scrolling(
        element(
            "table",
            element("thead", element("tr", *head)),
            element("tbody", *body),
            element("tfoot", foot),
            class_="sortable",
        )
    )


def _head(column: Column) -> str:
    unit = column.definition.unit
    return f"{column.definition.name} ({unit})" if unit == "bits" else column.definition.name


def _sort_head(name: str, definition: str, kind: str) -> Markup:
    button = element("button", name, type="button", class_="term", title=definition)
    return element("th", button, scope="col", data_kind=kind, class_="text" if kind == "text" else None)


def _table_row(number: int, row: Row, chosen: Sequence[Column]) -> list[Markup]:
    cells = [
        element("td", str(number), data_value=number),
        element("th", breakable(row.name), scope="row", data_value=row.name),
        element("td", row.kind, class_="text", title=row.detail or None, data_value=row.kind),
        element("td", format_shape(row.shape)),
    ]
    for column in chosen:
        value = column.value(row)
        cells.append(element("td", in_greek(column.text(row)), data_value=-1 if value is None else value))
    return cells


def _memory_section(run: EngineRun) -> Markup:
    reads, writes = run.trace.bits("reads_bits"), run.trace.bits("writes_bits")
    body = []
    for kind in MemoryKind:
        shape, needed = run.trace.memories.get(kind), run.needed_bits.get(kind, 0)
        if shape is None and not needed and not reads.get(kind) and not writes.get(kind):
            continue
        capacity = None if shape is None else shape.capacity_bits
        body.append(
            [
                kind.value.replace("_", " "),
                format_count(needed),
                format_count(capacity),
                format_percent(ratio(needed, capacity)),
                format_count(reads.get(kind, 0)),
                format_count(writes.get(kind, 0)),
            ]
        )
    head: list[Content] = [
        explained("memory", "The memory, by what it holds: docs/engine.md."),
        explained("needed (bits)", "What the program takes, in whole words."),
        explained("there (bits)", "The engine's capacity, all banks and copies."),
        explained("share", "What is needed over what is there."),
        term("reads_bits", "read (bits)"),
        term("writes_bits", "written (bits)"),
    ]
    return section("Memories", table(head, body))


def _energy_sections(run: EngineRun) -> list[Markup]:
    if run.energy is None:
        return []
    work = run.work
    whole = work.energy_total or EnergyRange()
    body = [
        [part.value.replace("_", " "), *_energy_cells(work.energy[part]), _share(work.energy[part], whole)]
        for part in PARTS
        if part in work.energy
    ]
    body.append(["total", *_energy_cells(whole), _share(whole, whole)])
    body += [
        [f"of it {group.value.replace('_', ' ')}", *_energy_cells(energy), _share(energy, whole)]
        for group, energy in run.energy.groups.items()
    ]
    head: list[Content] = [
        explained(
            "component",
            "The array, the post stage, each memory's reads and writes, leakage of all memories. Below the total: the "
            "same by group; core is array and post.",
        ),
        explained("low (nJ)", "With the low end of every constant."),
        explained("nominal (nJ)", "With the nominal value of every constant."),
        explained("high (nJ)", "With the high end of every constant."),
        explained("share", "Nominal energy over the nominal total."),
    ]
    return [section("Energy", warning_box(run.energy.warnings), table(head, body, narrow=True))]


def _energy_cells(energy: EnergyRange) -> list[str]:
    return [significant(float(value) / 1e3) for value in (energy.low, energy.nominal, energy.high)]


def _share(part: EnergyRange, whole: EnergyRange) -> str:
    return format_percent(ratio(float(part.nominal), float(whole.nominal)))


def _operation_section(report: Report) -> Markup:
    """Operations for one image, and beside them what the engine instantiates."""
    counted = report.totals.actions
    hardware = {} if report.engine is None else report.engine.hardware
    actions = sorted({*counted, *hardware}, key=lambda a: (a.kind.value, a.widths))
    body = [
        [action.name, format_count(counted.get(action)), format_count(hardware.get(action))][: 3 if hardware else 2]
        for action in actions
    ]
    head: list[Content] = [
        explained("operation", "Kind and widths of the operands in bits: multiply_20x16 multiplies 20 by 16 bits."),
        explained("for one image", "How often the program executes it."),
    ]
    text = "Each operation of the program with the widths of its operands, counted for one image."
    if hardware:
        head.append(explained("instantiated", "How many of them the engine has."))
        text += " Beside it: the operators that the engine has, shared by all steps, with the engine's own widths."
    return section("Operations", paragraph(text), table(head, body, narrow=True))
