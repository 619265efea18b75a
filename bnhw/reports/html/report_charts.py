"""The charts of one report."""

from collections.abc import Sequence
from dataclasses import dataclass

from bnhw.hardware.arch import Arch
from bnhw.hardware.trace import MemoryKind
from bnhw.reports.definitions import DEFINITIONS
from bnhw.reports.engine import CAUSES, PARTS, EngineRun, Work
from bnhw.reports.html.charts import COLOURS, Chart, Series, coloured, roofline, stacked_bars
from bnhw.reports.html.page import in_greek
from bnhw.reports.numbers import si_prefix
from bnhw.reports.report import Report
from bnhw.reports.rows import Row, rows

TENSOR_MEMORIES = (MemoryKind.ACTIVATIONS, MemoryKind.RESIDUALS)
"""The memories of the roofline."""

ARRAY_COLOURS = (COLOURS[0], COLOURS[1], COLOURS[3], COLOURS[-1])
"""Work, work on padding, repeated work, and grey for lanes without any."""


def report_charts(report: Report) -> tuple[Chart, ...]:
    """What the report can show: cycles, energy and the roofline only with an engine."""
    listed = rows(report)
    labels = [row.name for row in listed]
    if report.engine is None:
        return (_mac_chart(listed, labels), _storage_chart(listed, labels))
    works = [row.work for row in listed if row.work is not None]
    energy = () if report.engine.energy is None else (energy_chart(works, labels, "Energy of each step"),)
    return (
        cycle_chart(works, labels, "Clock cycles of each step"),
        *energy,
        _storage_chart(listed, labels),
        _array_chart(works, labels),
        *_roofline_charts(report.engine),
    )


def _mac_chart(listed: Sequence[Row], labels: Sequence[str]) -> Chart:
    return stacked_bars(
        "chart-macs",
        "MACs by instruction",
        "Multiply-accumulate operations of one image: real taps, and taps that lie on padding.",
        labels,
        coloured(
            [
                ("real taps", [row.counts.macs_trimmed for row in listed]),
                ("on padding", [row.counts.macs_full - row.counts.macs_trimmed for row in listed]),
            ]
        ),
        axis="MACs",
    )


def cycle_chart(works: Sequence[Work], labels: Sequence[str], what: str) -> Chart:
    """Cycles by cause; `what` begins the caption."""
    return stacked_bars(
        "chart-cycles",
        "Cycles by cause",
        f"{what} for one image.",
        labels,
        coloured(
            [(DEFINITIONS[cause].name, [getattr(work.cycles, cause) for work in works]) for cause in CAUSES],
        ),
        axis="cycles",
    )


def energy_chart(works: Sequence[Work], labels: Sequence[str], what: str) -> Chart:
    """Energy by component, of works that all have one; `what` begins the caption."""
    wholes = [whole for work in works if (whole := work.energy_total) is not None]
    scale, prefix = si_prefix(max(float(whole.nominal) for whole in wholes))
    parts = [
        (part.value, [float(work.energy[part].nominal) / scale if part in work.energy else 0.0 for work in works])
        for part in PARTS
    ]
    return stacked_bars(
        "chart-energy",
        "Energy by component",
        f"{what} for one image, nominal; the whisker spans the low and high ends of all constants.",
        labels,
        part_series(merged(parts)),
        axis=in_greek(f"{prefix}J"),
        hover=",.3~g",
        ranges=[(float(w.low) / scale, float(w.nominal) / scale, float(w.high) / scale) for w in wholes],
    )


PART_COLOURS = ("array", "activations", "residuals", "weights", "dram", "leakage", "other")
"""Components in the order of `COLOURS`, so that each looks the same on every page; others take what is free."""


def part_series(parts: Sequence[tuple[str, Sequence[float]]]) -> tuple[Series, ...]:
    """Components of energy in their colours; at most as many as there are colours."""
    present = {name for name, _ in parts}
    free = [colour for name, colour in zip(PART_COLOURS, COLOURS, strict=True) if name not in present]
    own = dict(zip(PART_COLOURS, COLOURS, strict=True))
    return tuple(
        Series(name=name, values=values, colour=own[name] if name in own else free.pop(0)) for name, values in parts
    )


def merged(series: Sequence[tuple[str, Sequence[float]]], most: int = 6) -> list[tuple[str, Sequence[float]]]:
    """The largest series by their own names and all others as one, so that no two share a colour."""
    present = [(name, values) for name, values in series if any(values)]
    if len(present) <= most:
        return present
    kept = {name for name, _ in sorted(present, key=lambda entry: -sum(entry[1]))[: most - 1]}
    others = [values for name, values in present if name not in kept]
    rest = [sum(column) for column in zip(*others, strict=True)]
    return [*((name, values) for name, values in present if name in kept), ("other", rest)]


def _storage_chart(listed: Sequence[Row], labels: Sequence[str]) -> Chart:
    return stacked_bars(
        "chart-memory",
        "Storage",
        "Weights and constants of each row, and the tensors alive while it runs, in kbit, without padding to words.",
        labels,
        coloured(
            [
                ("weights", [row.counts.weight_bits / 1e3 for row in listed]),
                ("constants", [row.counts.constant_bits / 1e3 for row in listed]),
                ("live activations", [row.live_bits / 1e3 for row in listed]),
            ]
        ),
        axis="kbit",
        hover=",.3~f",
    )


def _array_chart(works: Sequence[Work], labels: Sequence[str]) -> Chart:
    """What the array's lanes do in all cycles of a step, as shares of 1."""
    slots = [work.cycles.total * work.lanes for work in works]
    parts = (
        ("real MACs", [work.macs_trimmed for work in works]),
        ("on padding", [work.border_macs for work in works]),
        ("repeated", [work.repeated_macs for work in works]),
        ("idle lanes", [work.idle_macs for work in works]),
    )
    shares = [(name, [v / slot for v, slot in zip(values, slots, strict=True)]) for name, values in parts]
    return stacked_bars(
        "chart-array",
        "Use of the array",
        "What the array's lanes do in all cycles of a step: real MACs (this is the utilisation), taps on padding, "
        "further passes over the same taps, lanes without a weight. What is missing to 100 %: the array waits.",
        labels,
        coloured(shares, ARRAY_COLOURS),
        axis="share of all cycles",
        hover=".1%",
        share=True,
    )


def port_bits(arch: Arch, kind: MemoryKind) -> int:
    """Bits that can pass a tensor memory in a cycle: reads of all ports and banks, and a write to one bank."""
    return arch.read_bits(kind) + arch.write_bits(kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """points: name, operations a bit, billions of operations a second, of each step with MACs.

    peak: of the array, in the same unit. bandwidth: billions of bits a second through all ports of the tensor memories.
    """

    points: tuple[tuple[str, float, float], ...]
    peak: float
    bandwidth: float


def roofline_points(run: EngineRun) -> Roofline:
    """Where each convolution lies, and the bounds."""
    clock = run.trace.clock_mhz / 1e3  # billions of cycles a second
    points = []
    for step in run.trace.steps:
        moved = sum(bits.get(kind, 0) for bits in (step.reads_bits, step.writes_bits) for kind in TENSOR_MEMORIES)
        if step.macs_trimmed and moved:
            rate = 2 * step.macs_trimmed / step.cycles.total * clock
            points.append((step.name, 2 * step.macs_trimmed / moved, rate))
    ports = sum(port_bits(run.arch, kind) for kind in TENSOR_MEMORIES if kind in run.arch.memories)
    return Roofline(points=tuple(points), peak=2 * run.trace.pe * run.trace.simd * clock, bandwidth=ports * clock)


def _roofline_charts(run: EngineRun) -> tuple[Chart, ...]:
    """The roofline over the memories that hold tensors; none where no step has MACs."""
    roof = roofline_points(run)
    if not roof.points:
        return ()
    caption = (
        "Each convolution: two operations a real MAC in a second, over operations per bit that passes the ports of the "
        "activation and residual memories. The line is the bound: all ports at work in every cycle on the left, the "
        "array's peak on the right."
    )
    return (roofline("chart-roofline", caption, roof.points, peak=roof.peak, bandwidth=roof.bandwidth),)
