"""Estimates of other hardware than the engine as values and tables: streaming pipelines and systolic arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnhw.hardware.streaming import FoldedUnit, StreamingDesign, fold_for_budget, fold_for_rate
from bnhw.hardware.streaming_latency import StreamingLatency, streaming_latency
from bnhw.hardware.systolic import Stationary, SystolicLayer, systolic_cycles
from bnhw.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingEstimate:
    """A pipeline with one unit a layer; latency is that of one image in an empty pipeline."""

    program: Program
    design: StreamingDesign
    latency: StreamingLatency
    clock_mhz: float

    @classmethod
    def of(cls, program: Program, *, fps: float | None, lanes: int | None, clock_mhz: float) -> Self:
        """The fewest lanes for a rate, or the highest rate for a budget of lanes. Raises BadInput for neither."""
        if fps is not None:
            design = fold_for_rate(program, frames_per_second=fps, clock_mhz=clock_mhz)
        else:
            design = fold_for_budget(program, lanes=lanes or 0)
        return cls(program=program, design=design, latency=streaming_latency(program, design), clock_mhz=clock_mhz)

    @property
    def buffer_bits(self) -> int:
        """Bits of all line buffers and skip connections."""
        return sum(buffer.bits for buffer in self.latency.buffers)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "model": self.program.name,
            "clock_mhz": self.clock_mhz,
            "interval_cycles": self.design.interval,
            "latency_cycles": self.latency.cycles,
            "images_per_second": self.design.frames_per_second(self.clock_mhz),
            "lanes": self.design.lanes,
            "other_lanes": self.design.other_lanes,
            "weight_words": self.design.weight_words,
            "buffer_bits": self.buffer_bits,
            "units": [
                {
                    "name": one.unit.name,
                    "kind": one.unit.kind,
                    "pe": one.pe,
                    "simd": one.simd,
                    "cycles": one.cycles,
                    "first_cycle": self.latency.first[one.unit.name],
                    "weight_words": one.weight_words,
                }
                for one in self.design.units
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SystolicEstimate:
    """All convolutions of a program on an array of rows x columns; nothing else is counted, nor memories waited for."""

    program: Program
    rows: int
    columns: int
    stationary: Stationary
    layers: tuple[SystolicLayer, ...]
    clock_mhz: float

    @classmethod
    def of(cls, program: Program, rows: int, columns: int, stationary: str, clock_mhz: float) -> Self:
        """stationary: output, weight or input. Raises BadInput for an array without processing elements."""
        kind = Stationary(stationary)
        layers = systolic_cycles(program, rows, columns, kind)
        return cls(program=program, rows=rows, columns=columns, stationary=kind, layers=layers, clock_mhz=clock_mhz)

    @property
    def cycles(self) -> int:
        """Of all layers, one behind the other."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def utilisation(self) -> float:
        """MACs, padded taps counted, over what all processing elements could do in all cycles."""
        macs = sum(layer.product.macs for layer in self.layers)
        return macs / (self.cycles * self.rows * self.columns) if macs else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "model": self.program.name,
            "rows": self.rows,
            "columns": self.columns,
            "stationary": self.stationary.value,
            "clock_mhz": self.clock_mhz,
            "cycles_total": self.cycles,
            "utilisation": self.utilisation,
            "layers": [
                {
                    "name": layer.name,
                    "macs": layer.product.macs,
                    "cycles": layer.cycles,
                    "utilisation": layer.utilisation,
                }
                for layer in self.layers
            ],
        }


def streaming_tables(estimate: StreamingEstimate) -> RenderableType:
    """What the pipeline takes in all, and a row a unit."""
    design, latency = estimate.design, estimate.latency
    facts = {
        "interval": f"{design.interval:,} cycles between two images",
        "rate": f"{design.frames_per_second(estimate.clock_mhz):,.1f} images a second at {estimate.clock_mhz:g} MHz",
        "latency": f"{latency.cycles:,} cycles, {latency.cycles / estimate.clock_mhz / 1e3:,.3f} ms, of one image",
        "lanes": f"{design.lanes:,} of convolutions, {design.other_lanes:,} of other units",
        "weight memories": f"{design.weight_words:,} words",
        "buffers": f"{estimate.buffer_bits:,} bits: lines of windows, skip connections",
    }
    rows = [_unit_row(one, latency.first[one.unit.name]) for one in design.units]
    heading = ("kind", "result", "pe", "simd", "cycles", "first pixel", "weight words")
    return Group(_facts(f"Streaming pipeline of {estimate.program.name}", facts), Text(), _table(heading, rows))


def _unit_row(folded: FoldedUnit, first: int) -> tuple[str, ...]:
    words = f"{folded.weight_words:,}" if folded.weight_words else ""
    numbers = (folded.pe, folded.simd, folded.cycles, first)
    return (folded.unit.kind, folded.unit.name, *(f"{number:,}" for number in numbers), words)


def systolic_tables(estimate: SystolicEstimate) -> RenderableType:
    """What the array takes in all, and a row a convolution."""
    facts = {
        "array": f"{estimate.rows} x {estimate.columns}, {estimate.stationary.value}-stationary",
        "cycles": f"{estimate.cycles:,}, {estimate.cycles / estimate.clock_mhz / 1e3:,.3f} ms at "
        f"{estimate.clock_mhz:g} MHz",
        "utilisation": f"{100 * estimate.utilisation:.1f} %, padded taps counted as work",
    }
    rows = [
        (layer.name, f"{layer.product.macs:,}", f"{layer.cycles:,}", f"{100 * layer.utilisation:.1f} %")
        for layer in estimate.layers
    ]
    heading = ("convolution", "MACs", "cycles", "used")
    return Group(_facts(f"Systolic array for {estimate.program.name}", facts), Text(), _table(heading, rows, left=1))


def _facts(title: str, facts: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    for name, text in facts.items():
        table.add_row(name, text)
    return table


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]], left: int = 2) -> Table:
    table = Table(header_style="bold", box=None)
    for number, name in enumerate(heading):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=number >= left)
    for row in rows:
        table.add_row(*row)
    return table
