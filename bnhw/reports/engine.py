"""A program on an engine, step by step: counts, cycles, bits moved, and energy where a technology is given.

A step executes one instruction or several; only a Join takes several steps. What belongs to an instruction (counts,
storage) stands, in the list of steps, at the first step that executes it; what belongs to a step (cycles, bits moved,
energy) stands, in the list of instructions, at the first instruction that the step executes. So nothing is counted
twice, and both lists have the same sums.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bnhw.count import Action, Counts, LayerCounts, total
from bnhw.hardware.arch import Arch, Unit, instances, unit_instances
from bnhw.hardware.energy import Component, Energy, EnergyRange, Part, add_ranges
from bnhw.hardware.technology import Technology
from bnhw.hardware.trace import Cycles, MemoryKind, StepTrace, Trace, add_counts
from bnhw.reports.numbers import ratio

CAUSES = tuple(cause.name for cause in fields(Cycles))
"""The causes of cycles, in the order of reports."""

PARTS: tuple[Part, ...] = (Component.ARRAY, Component.POST, *MemoryKind, Component.LEAKAGE)
"""The components of energy, in the order of reports."""

KIND_UNITS: Mapping[str, Unit] = {
    "convolve": Unit.ARRAY,
    "sum": Unit.LANES,
    "maximum": Unit.LANES,
    "multiply": Unit.PRODUCTS,
    "arithmetic": Unit.ARITHMETIC,
    "threshold": Unit.THRESHOLDS,
    "lookup": Unit.LOOKUPS,
    "add": Unit.ADD,
}
"""The unit of each part of a step's kind, as in `convolve + arithmetic + add`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Cycles, bits moved and energy of one step or several. `energy`: empty where no technology is given.

    lanes: MACs that the array can do in a cycle.
    """

    cycles: Cycles
    macs_full: int
    macs_trimmed: int
    macs_executed: int
    idle_macs: int
    reads_bits: Mapping[MemoryKind, int]
    writes_bits: Mapping[MemoryKind, int]
    energy: Mapping[Part, EnergyRange]
    lanes: int

    @property
    def utilisation(self) -> float:
        """Real MACs over what the array could do in all cycles; 0 without any cycle."""
        return ratio(self.macs_trimmed, self.cycles.total * self.lanes) or 0.0

    @property
    def border_macs(self) -> int:
        """MACs of the array on taps outside the image."""
        return self.macs_full - self.macs_trimmed

    @property
    def repeated_macs(self) -> int:
        """MACs of further passes over the same taps: planes of wide activations, second phases."""
        return self.macs_executed - self.idle_macs - self.macs_full

    @property
    def energy_total(self) -> EnergyRange | None:
        """All components; None where no technology is given."""
        return sum(self.energy.values(), EnergyRange()) if self.energy else None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        values: dict[str, Any] = {
            "cycles": {cause: getattr(self.cycles, cause) for cause in CAUSES},
            "cycles_total": self.cycles.total,
            "utilisation": self.utilisation,
            "macs_executed": self.macs_executed,
            "border_macs": self.border_macs,
            "repeated_macs": self.repeated_macs,
            "idle_macs": self.idle_macs,
            "reads_bits": memories_json(self.reads_bits),
            "writes_bits": memories_json(self.writes_bits),
        }
        whole = self.energy_total
        if whole is not None:
            parts = {part.value: self.energy[part].as_json() for part in PARTS if part in self.energy}
            values["energy_pj"] = {**parts, "total": whole.as_json()}
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """One step of the engine.

    counts: those of the instructions that it is the first to execute. live_bits: the most over its instructions.
    """

    name: str
    kind: str
    instructions: tuple[str, ...]
    counts: Counts
    live_bits: int
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """What happens when one image of a program runs on an engine.

    needed_bits: what the program takes of each memory, whole words. technology, energy: None where no technology is
    given.
    """

    arch: Arch
    trace: Trace
    needed_bits: Mapping[MemoryKind, int]
    technology: Technology | None = None
    energy: Energy | None = None

    @property
    def hardware(self) -> Mapping[Action, int]:
        """The operators that the engine instantiates; all steps share them."""
        return instances(self.arch)

    def used_hardware(self, steps: Iterable[StepTrace]) -> Mapping[Action, int]:
        """Those of the units that work in any of these steps, each unit once."""
        used = {KIND_UNITS[part] for step in steps for part in step.kind.split(" + ")}
        return add_counts(found for unit, found in unit_instances(self.arch).items() if unit in used)

    @property
    def work(self) -> Work:
        """The sum over all steps."""
        return self.add(self.step_work(number) for number in range(len(self.trace.steps)))

    @property
    def latency_us(self) -> float:
        """Cycles for one image over the clock."""
        return self.trace.cycles.total / self.trace.clock_mhz

    @property
    def images_per_second(self) -> float:
        """The clock over the cycles for one image."""
        return 1e6 / self.latency_us

    def tops_per_watt(self, end: str = "nominal") -> float | None:
        """Two operations a real MAC over the energy for an image, at one end of the energies' range.

        None without a technology, or where no energy is spent.
        """
        macs = sum(step.macs_trimmed for step in self.trace.steps)
        return None if self.energy is None else ratio(2 * macs, float(getattr(self.energy.total, end)))

    def step_work(self, number: int) -> Work:
        """The work of the step of this number."""
        step: StepTrace = self.trace.steps[number]
        return Work(
            cycles=step.cycles,
            macs_full=step.macs_full,
            macs_trimmed=step.macs_trimmed,
            macs_executed=step.macs_executed,
            idle_macs=step.macs_idle,
            reads_bits=step.reads_bits,
            writes_bits=step.writes_bits,
            energy={} if self.energy is None else self.energy.steps[number].parts,
            lanes=self.trace.pe * self.trace.simd,
        )

    def add(self, works: Iterable[Work]) -> Work:
        """The sum of the work of several steps; all 0 for none."""
        listed = tuple(works)
        parts: Iterable[Part] = () if self.energy is None else self.energy.parts
        return Work(
            cycles=sum((work.cycles for work in listed), Cycles()),
            macs_full=sum(work.macs_full for work in listed),
            macs_trimmed=sum(work.macs_trimmed for work in listed),
            macs_executed=sum(work.macs_executed for work in listed),
            idle_macs=sum(work.idle_macs for work in listed),
            reads_bits=add_counts(work.reads_bits for work in listed),
            writes_bits=add_counts(work.writes_bits for work in listed),
            energy=dict.fromkeys(parts, EnergyRange()) | dict(add_ranges(work.energy for work in listed)),
            lanes=self.trace.pe * self.trace.simd,
        )

    def layer_steps(self, instruction: str) -> tuple[int, ...]:
        """The numbers of all steps that begin with this instruction."""
        return tuple(at for at, step in enumerate(self.trace.steps) if step.instructions[0] == instruction)

    def layer_work(self, instruction: str) -> Work:
        """The work of those steps."""
        return self.add(map(self.step_work, self.layer_steps(instruction)))

    def steps_of(self, instruction: str) -> tuple[str, ...]:
        """The names of the steps that execute an instruction."""
        return tuple(step.name for step in self.trace.steps if instruction in step.instructions)


def step_figures(run: EngineRun, layers: Sequence[LayerCounts], live_bits: Sequence[int]) -> tuple[StepFigures, ...]:
    """Every step in the order of execution. `live_bits`: of each layer."""
    by_name = {layer.instruction.output: (layer, live) for layer, live in zip(layers, live_bits, strict=True)}
    figures = []
    seen: set[str] = set()
    for number, step in enumerate(run.trace.steps):
        own = tuple(by_name[name][0] for name in step.instructions if name not in seen)
        seen.update(step.instructions)
        figures.append(
            StepFigures(
                name=step.name,
                kind=step.kind,
                instructions=step.instructions,
                counts=total(own),
                live_bits=max(by_name[name][1] for name in step.instructions),
                work=run.step_work(number),
            )
        )
    if seen != set(by_name):
        raise AssertionError(f"the trace leaves out {sorted(set(by_name) - seen)}")
    return tuple(figures)


def memories_json(bits: Mapping[MemoryKind, int]) -> dict[str, int]:
    """Bits by the name of the memory, in the order of `MemoryKind`."""
    return {kind.value: bits[kind] for kind in MemoryKind if kind in bits}
