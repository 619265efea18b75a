"""What a trace costs in energy: counts times constants, per step and component. It prices and never simulates.

All sums are exact: a price is a binary fraction, a count an integer. The formulas are those of docs/energy.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, TypeVar

from bnhw.count import Action
from bnhw.errors import BadInput
from bnhw.hardware.technology import Level, SramCell, Technology
from bnhw.hardware.trace import MemoryKind, StepTrace, Trace
from bnhw.hardware.unit_energy import (
    FJ_PER_PJ,
    action_fj,
    dram_fj,
    fit_warnings,
    leakage_fj_per_cycle,
    mac_fj,
    read_fj,
    write_fj,
)


class Component(Enum):
    """What takes energy besides memories."""

    ARRAY = "array"
    POST = "post"
    LEAKAGE = "leakage"


class Group(Enum):
    """What a published figure covers or does not."""

    CORE = "core"
    ON_CHIP_MEMORIES = "on_chip_memories"
    DRAM = "dram"
    LEAKAGE = "leakage"


Part = Component | MemoryKind
PARTS: tuple[Part, ...] = (Component.ARRAY, Component.POST, *MemoryKind, Component.LEAKAGE)
"""All of them, in the order of results."""
Key = TypeVar("Key")


def group_of(part: Part) -> Group:
    """The group that a component or memory belongs to."""
    match part:
        case Component.ARRAY | Component.POST:
            return Group.CORE
        case Component.LEAKAGE:
            return Group.LEAKAGE
        case MemoryKind.DRAM:
            return Group.DRAM
        case _:
            return Group.ON_CHIP_MEMORIES


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyRange:
    """Picojoules for one image, with the low, nominal and high ends of all constants."""

    low: Fraction = Fraction(0)
    nominal: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    def __add__(self, other: "EnergyRange") -> "EnergyRange":
        return EnergyRange(low=self.low + other.low, nominal=self.nominal + other.nominal, high=self.high + other.high)

    def __mul__(self, count: int | Fraction) -> "EnergyRange":
        return EnergyRange(low=self.low * count, nominal=self.nominal * count, high=self.high * count)

    def as_json(self) -> Mapping[str, float]:
        """Picojoules as floats."""
        return {level.value: float(getattr(self, level.value)) for level in Level}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnergy:
    """The energy of one step, by component; what a step does not use is left out."""

    name: str
    parts: Mapping[Part, EnergyRange]

    @property
    def total(self) -> EnergyRange:
        """All components."""
        return sum(self.parts.values(), EnergyRange())

    @property
    def groups(self) -> Mapping[Group, EnergyRange]:
        """By group; every group is there."""
        return _by_group(self.parts)

    def as_json(self) -> Mapping[str, Any]:
        """Plain values, in pJ."""
        return _parts_json(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The energy of one image.

    `warnings` say what lies outside of what the constants were made for: repeat them wherever a figure is shown.
    """

    technology: str
    node_nm: float
    voltage_v: float
    sram_cell: SramCell
    steps: tuple[StepEnergy, ...]
    warnings: tuple[str, ...]

    @property
    def parts(self) -> Mapping[Part, EnergyRange]:
        """By component, over all steps; in the order of `PARTS`, without what nothing uses."""
        found = add_ranges(step.parts for step in self.steps)
        return {part: found[part] for part in PARTS if part in found}

    @property
    def groups(self) -> Mapping[Group, EnergyRange]:
        """By group, over all steps; every group is there."""
        return _by_group(self.parts)

    @property
    def total(self) -> EnergyRange:
        """Everything."""
        return sum((step.total for step in self.steps), EnergyRange())

    def as_json(self) -> Mapping[str, Any]:
        """Plain values, in pJ, for an image."""
        return {
            "technology": self.technology,
            "node_nm": self.node_nm,
            "voltage_v": self.voltage_v,
            "sram_cell": self.sram_cell.value,
            "warnings": list(self.warnings),
            **_parts_json(self.parts),
            "steps": [{"name": step.name, **step.as_json()} for step in self.steps],
        }


def price(trace: Trace, technology: Technology) -> Energy:
    """The energy of the image that a trace tells of.

    The array is charged in full for every MAC that it executes (`macs_executed`), lanes behind the last channel, padded
    taps and planes included: they are clocked, even where they carry zeros and switch less.
    Raises BadInput for a datapath without a price, and for traffic at an on-chip memory without a shape.
    """
    _check_memories(trace)
    rates = _rates(trace, technology)
    return Energy(
        technology=technology.name,
        node_nm=technology.node_nm,
        voltage_v=technology.voltage_v,
        sram_cell=technology.sram_cell,
        steps=tuple(_price_step(step, rates) for step in trace.steps),
        warnings=technology.warnings + fit_warnings(trace),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """Picojoules of one MAC, cycle of leakage, bit and operation."""

    mac: EnergyRange
    cycle: EnergyRange
    read: Mapping[MemoryKind, EnergyRange]
    write: Mapping[MemoryKind, EnergyRange]
    action: Mapping[Action, EnergyRange]


def _rates(trace: Trace, technology: Technology) -> _Rates:
    prices = [technology.scaled(level) for level in Level]
    actions = {action for step in trace.steps for action in step.post_actions}
    dram = {MemoryKind.DRAM: _from_fj(dram_fj(p) for p in prices)}
    on_chip = [(kind, shape) for kind, shape in trace.memories.items() if kind is not MemoryKind.DRAM]
    return _Rates(
        mac=_from_fj(mac_fj(p, trace) for p in prices),
        cycle=_from_fj(leakage_fj_per_cycle(p, technology.sram_cell, trace) for p in prices),
        read=dram | {kind: _from_fj(read_fj(p, shape) for p in prices) for kind, shape in on_chip},
        write=dram | {kind: _from_fj(write_fj(p, shape) for p in prices) for kind, shape in on_chip},
        action={action: _from_fj(action_fj(p, action) for p in prices) for action in actions},
    )


def _from_fj(femtojoules: Iterable[float]) -> EnergyRange:
    """From the energies at the low, nominal and high ends of the constants."""
    low, nominal, high = (Fraction(energy / FJ_PER_PJ) for energy in femtojoules)
    return EnergyRange(low=low, nominal=nominal, high=high)


def _price_step(step: StepTrace, rates: _Rates) -> StepEnergy:
    counted: tuple[tuple[Part, EnergyRange, int], ...] = (
        (Component.ARRAY, rates.mac, step.macs_executed),
        *((Component.POST, rates.action[action], count) for action, count in step.post_actions.items()),
        *((memory, rates.read[memory], bits) for memory, bits in step.reads_bits.items()),
        *((memory, rates.write[memory], bits) for memory, bits in step.writes_bits.items()),
        (Component.LEAKAGE, rates.cycle, step.cycles.total),
    )
    return StepEnergy(name=step.name, parts=add_ranges({part: rate * count} for part, rate, count in counted if count))


def _check_memories(trace: Trace) -> None:
    used = {memory for step in trace.steps for memory in (*step.reads_bits, *step.writes_bits)}
    missing = sorted(memory.value for memory in used - set(trace.memories) - {MemoryKind.DRAM})
    if missing:
        raise BadInput(f"{trace.arch}: bits pass memories that its trace does not describe: {', '.join(missing)}")


def add_ranges(ranges: Iterable[Mapping[Key, EnergyRange]]) -> dict[Key, EnergyRange]:
    """The sum of several energies, key by key."""
    result: dict[Key, EnergyRange] = {}
    for energies in ranges:
        for key, energy in energies.items():
            result[key] = result.get(key, EnergyRange()) + energy
    return result


def _by_group(parts: Mapping[Part, EnergyRange]) -> Mapping[Group, EnergyRange]:
    empty = {group: EnergyRange() for group in Group}
    return add_ranges([empty, *({group_of(part): energy} for part, energy in parts.items())])


def _parts_json(parts: Mapping[Part, EnergyRange]) -> Mapping[str, Any]:
    return {
        "total": sum(parts.values(), EnergyRange()).as_json(),
        "groups": {group.value: energy.as_json() for group, energy in _by_group(parts).items()},
        "components": {part.value: energy.as_json() for part, energy in parts.items()},
    }
