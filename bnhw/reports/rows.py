"""The rows of a report's table: steps of the engine where there is one, else instructions; and the table's columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bnhw.count import Counts
from bnhw.reports.definitions import DEFINITIONS, Definition
from bnhw.reports.engine import Work
from bnhw.reports.numbers import format_count, format_energy_range, format_percent
from bnhw.reports.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step or instruction. `detail`: the instructions that a step executes; `work`: None without an engine."""

    name: str
    kind: str
    detail: str
    shape: tuple[int, int, int]
    counts: Counts
    live_bits: int
    work: Work | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One figure of every row: the key of its definition, its value for sorting, its text. None: not there."""

    key: str
    value: Callable[[Row], float | None]
    text: Callable[[Row], str]

    @property
    def definition(self) -> Definition:
        """What the figure means."""
        return DEFINITIONS[self.key]


def rows(report: Report) -> tuple[Row, ...]:
    """The steps of the report's engine in the order of execution, or the program's instructions."""
    shapes = {name: tensor.shape for name, tensor in report.program.tensor.items()}
    if report.engine is None:
        return tuple(
            Row(
                name=layer.instruction.output,
                kind=layer.instruction.kind,
                detail="",
                shape=shapes[layer.instruction.output],
                counts=layer.counts,
                live_bits=live,
                work=None,
            )
            for layer, live in zip(report.layers, report.live_activation_bits, strict=True)
        )
    kinds = {layer.instruction.output: layer.instruction.kind for layer in report.layers}
    return tuple(
        Row(
            name=step.name,
            kind=step.kind,
            detail=" + ".join(kinds[name] for name in step.instructions),
            shape=shapes[step.name],
            counts=step.counts,
            live_bits=step.live_bits,
            work=step.work,
        )
        for step in report.steps
    )


def columns(report: Report) -> tuple[Column, ...]:
    """The columns that a report has: those of counts, and with an engine or a technology more."""
    chosen = list(COUNT_COLUMNS)
    if report.engine is not None:
        chosen[2:2] = ENGINE_COLUMNS
        if report.engine.energy is not None:
            chosen[4:4] = ENERGY_COLUMNS
    return tuple(chosen)


def total_row(report: Report) -> Row:
    """The sums of all rows; live activations are the most over all instructions."""
    return Row(
        name="total",
        kind="",
        detail="",
        shape=(0, 0, 0),
        counts=report.totals,
        live_bits=report.peak_activation_bits,
        work=None if report.engine is None else report.engine.work,
    )


def _counted(key: str, value: Callable[[Row], int]) -> Column:
    """A count; 0 is left empty."""
    return Column(key=key, value=value, text=lambda row: format_count(value(row) or None))


COUNT_COLUMNS: Sequence[Column] = (
    _counted("macs_trimmed", lambda row: row.counts.macs_trimmed),
    _counted("multipliers_per_image", lambda row: row.counts.multipliers),
    _counted("weight_bits", lambda row: row.counts.weight_bits),
    _counted("constant_bits", lambda row: row.counts.constant_bits),
    _counted("peak_activation_bits", lambda row: row.live_bits),
)


def _utilisation(row: Row) -> float | None:
    return row.work.utilisation if row.work and row.work.macs_trimmed else None


def _energy(row: Row) -> float | None:
    whole = row.work.energy_total if row.work else None
    return None if whole is None else float(whole.nominal)


def _energy_text(row: Row) -> str:
    whole = row.work.energy_total if row.work else None
    return "" if whole is None else format_energy_range(float(whole.low), float(whole.nominal), float(whole.high))


ENGINE_COLUMNS: Sequence[Column] = (
    _counted("cycles_total", lambda row: row.work.cycles.total if row.work else 0),
    Column(key="utilisation", value=_utilisation, text=lambda row: format_percent(_utilisation(row))),
)

ENERGY_COLUMNS: Sequence[Column] = (Column(key="energy_pj", value=_energy, text=_energy_text),)
