"""The demo's outcome as a table: one column a requantise mode."""

from collections.abc import Callable

from rich.table import Table

from bnhw.demo.flow import ENGINE, TECHNOLOGY, DemoOutcome, Outcome
from bnhw.reports.engine import EngineRun
from bnhw.reports.numbers import format_energy_range
from bnhw.reports.tables import format_bits

ROWS: tuple[tuple[str, Callable[[Outcome], str]], ...] = (
    ("float accuracy", lambda o: _percent(o.fidelity.float_accuracy)),
    ("integer accuracy", lambda o: _percent(o.fidelity.integer_accuracy)),
    ("classes equal to the float model's", lambda o: _percent(o.fidelity.agreement)),
    ("bit-exact: reference = kernels", lambda o: f"{o.integers:,} integers"),
    ("MACs per image", lambda o: f"{o.report.totals.macs_full:,}"),
    ("multiplications in the array", lambda o: f"{o.report.array_multiplications:,}"),
    ("multiplications in all", lambda o: f"{o.report.totals.multipliers:,}"),
    ("weights", lambda o: format_bits(o.report.totals.weight_bits)),
    ("requantise constants and lookups", lambda o: format_bits(o.report.totals.constant_bits)),
    ("peak live activations", lambda o: format_bits(o.report.peak_activation_bits)),
    (f"cycles per image, {ENGINE}", lambda o: _of_run(o, lambda run: f"{run.trace.cycles.total:,}")),
    (f"energy per image, {TECHNOLOGY}", lambda o: _of_run(o, _energy)),
    ("images per second, one thread", lambda o: f"{len(o.result.logits) / o.result.seconds:,.0f}"),
    ("program", lambda o: str(o.path)),
)


def demo_table(outcome: DemoOutcome) -> Table:
    """A table for a terminal."""
    images = len(outcome.outcomes[0].result.logits)
    table = Table(
        title=f"Handwritten digits: 1-bit weights, shifted ReLU, no batch norm; {images} test images",
        caption=f"{outcome.seconds:.1f} s in all",
        title_justify="left",
        caption_justify="left",
        box=None,
        header_style="bold",
    )
    table.add_column("requantise")
    for column in outcome.outcomes:
        table.add_column(column.mode, justify="right")
    for name, value in ROWS:
        table.add_row(name, *map(value, outcome.outcomes))
    return table


def _of_run(outcome: Outcome, value: Callable[[EngineRun], str]) -> str:
    return "" if outcome.report.engine is None else value(outcome.report.engine)


def _energy(run: EngineRun) -> str:
    whole = run.work.energy_total
    return "" if whole is None else format_energy_range(float(whole.low), float(whole.nominal), float(whole.high))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
