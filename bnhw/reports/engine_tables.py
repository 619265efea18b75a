"""What an engine makes of a program, as tables for a terminal."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bnhw.hardware.trace import MemoryKind
from bnhw.reports.energy_tables import energy_table
from bnhw.reports.engine import CAUSES, EngineRun, StepFigures
from bnhw.reports.numbers import (
    format_count,
    format_energy,
    format_energy_range,
    format_percent,
    format_seconds,
    ratio,
    significant,
)


def engine_rows(run: EngineRun) -> list[tuple[str, str]]:
    """The lines that an engine adds to a report's summary."""
    work, trace = run.work, run.trace
    rows = [
        ("engine", f"{run.arch.name}: {trace.pe} x {trace.simd} lanes, {trace.clock_mhz:g} MHz"),
        ("cycles", f"{work.cycles.total:,} per image: {_causes(run)}"),
        (
            "latency",
            f"{format_seconds(run.latency_us)}, {format_count(round(run.images_per_second))} images per second",
        ),
        ("utilisation", f"{format_percent(work.utilisation)} of the array's MACs in all cycles are real"),
        (
            "padding waste",
            f"{work.border_macs:,} MACs on padding, {work.repeated_macs:,} repeated, {work.idle_macs:,} of idle lanes "
            f"({format_percent(trace.padding_waste)}), of {work.macs_executed:,} executed",
        ),
    ]
    whole = work.energy_total
    if whole is not None and run.technology is not None:
        low, nominal, high = (run.tops_per_watt(end) or 0.0 for end in ("high", "nominal", "low"))
        rows += [
            ("technology", f"{run.technology.name}, {run.technology.voltage_v:g} V"),
            ("energy per image", format_energy_range(float(whole.low), float(whole.nominal), float(whole.high))),
            (
                "efficiency",
                f"{significant(nominal)} TOPS/W ({significant(low)} to {significant(high)}), 1 MAC = 2 operations",
            ),
        ]
    return rows


def _causes(run: EngineRun) -> str:
    cycles = run.work.cycles
    found = [(cause, getattr(cycles, cause)) for cause in CAUSES]
    return ", ".join(f"{number:,} {cause.replace('_', ' ')}" for cause, number in found if number)


def engine_tables(run: EngineRun, steps: Sequence[StepFigures]) -> list[RenderableType]:
    """Steps, memories, energy by component, what is instantiated, and warnings."""
    parts: list[RenderableType] = [step_table(run, steps), Text(), memory_table(run)]
    if run.energy is not None:
        parts += [Text(), energy_table(run.energy)]
    return [*parts, Text(), hardware_table(run)]


def _table(title: str, *left: str, right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=None)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def step_table(run: EngineRun, steps: Sequence[StepFigures]) -> Table:
    """One row a step: cycles by cause, utilisation, energy."""
    causes = [cause for cause in CAUSES if any(getattr(step.work.cycles, cause) for step in steps)]
    energy = ["energy"] if run.energy is not None else []
    table = _table(
        "Per step of the engine and image: cycles by cause",
        "kind",
        "result",
        right=["cycles", *(cause.replace("_", " ") for cause in causes), "used", *energy],
    )
    for step in steps:
        work = step.work
        whole = work.energy_total
        table.add_row(
            step.kind,
            step.name,
            f"{work.cycles.total:,}",
            *(format_count(getattr(work.cycles, cause) or None) for cause in causes),
            format_percent(work.utilisation) if work.macs_trimmed else "",
            *([] if whole is None else [format_energy(float(whole.nominal))]),
        )
    return table


def memory_table(run: EngineRun) -> Table:
    """One row a memory: what the program needs of it, and what passes its ports."""
    table = _table(
        "Memories, in bits: whole words",
        "memory",
        right=["needed", "there", "share", "read an image", "written an image"],
    )
    reads, writes = run.trace.bits("reads_bits"), run.trace.bits("writes_bits")
    for kind in used_memories(run):
        shape = run.trace.memories.get(kind)
        needed, capacity = run.needed_bits.get(kind), None if shape is None else shape.capacity_bits
        table.add_row(
            kind.value.replace("_", " "),
            format_count(needed),
            format_count(capacity),
            format_percent(ratio(needed, capacity)),
            format_count(reads.get(kind) or None),
            format_count(writes.get(kind) or None),
        )
    return table


def used_memories(run: EngineRun) -> list[MemoryKind]:
    """The memories that are there or that something passes."""
    known = {*run.trace.memories, *run.needed_bits, *run.trace.bits("reads_bits"), *run.trace.bits("writes_bits")}
    return [kind for kind in MemoryKind if kind in known]


def hardware_table(run: EngineRun) -> Table:
    """The operators that the engine has."""
    table = _table("Operators of the engine", "operator and operand bits", right=["instances"])
    for action in sorted(run.hardware, key=lambda a: (a.kind.value, a.widths)):
        table.add_row(action.name, f"{run.hardware[action]:,}")
    return table
