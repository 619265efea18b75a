"""Energy constants of a process: each with its range, unit, node, voltage and source, and how they scale.

A constant given at one node and voltage holds at another as `node_scale * (voltage ratio) ** 2`. The node scale is the
ratio of the energy factors of Stillmaker & Baas 2017 at 0.9 V (their curves at low voltage are not used: the one of
65 nm rises again below 0.59 V). docs/energy.md has all constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from itertools import pairwise
from typing import Generic, TypeVar

from bnhw.errors import BadInput

FACTOR_VOLTAGE_V = 0.9
"""The voltage at which energy factors of two nodes are compared."""

LOWEST_VALIDATED_V = 0.6
"""Published chips below this voltage are far from the model; see `bnhw.hardware.validation`."""

VALIDATED_NM = (22, 65)
"""Smallest and largest node with published chips among the validation points."""

VOLTAGES_V = (0.1, 5.0)
"""What a voltage may be at all."""

Value = TypeVar("Value")


class Level(Enum):
    """Which end of a constant's range."""

    LOW = "low"
    NOMINAL = "nominal"
    HIGH = "high"


class SramCell(Enum):
    """Kind of transistor in memory cells: it decides how much they leak, by a factor of some hundred."""

    LOW_STANDBY_POWER = "low_standby_power"
    HIGH_PERFORMANCE = "high_performance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One constant and its range, in `unit`, at a node and a voltage. `source` says where each number is from."""

    low: float
    nominal: float
    high: float
    unit: str
    node_nm: float
    voltage_v: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants(Generic[Value]):
    """All constants: with their origin (`Constants[Constant]`), or scaled and of one level (`Constants[float]`)."""

    full_adder_fj_per_bit: Value
    select_fj_per_bit: Value
    and_gate_fj_per_bit: Value
    flip_flop_fj_per_bit: Value
    flip_flop_bits_per_mac: Value
    multiplier_fj_per_bit_product: Value
    comparator_fj_per_bit: Value
    sram_fj_per_bit: Value
    sram_capacity_exponent: Value
    sram_port_exponent: Value
    sram_write_factor: Value
    dram_pj_per_bit: Value
    low_standby_power_leakage_uw_per_kib: Value
    high_performance_leakage_uw_per_kib: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantRule:
    """What holds for a constant in any file. `scaled`: by node and voltage; `exact`: its range must be one number."""

    unit: str
    meaning: str
    scaled: bool = True
    exact: bool = False


RULES: Mapping[str, ConstantRule] = {
    "full_adder_fj_per_bit": ConstantRule(unit="fJ/bit", meaning="addition, for each bit of the sum"),
    "select_fj_per_bit": ConstantRule(unit="fJ/bit", meaning="multiplexer or XNOR, for each bit"),
    "and_gate_fj_per_bit": ConstantRule(unit="fJ/bit", meaning="AND, for each bit"),
    "flip_flop_fj_per_bit": ConstantRule(unit="fJ/bit", meaning="bit clocked into a register"),
    "flip_flop_bits_per_mac": ConstantRule(
        unit="bit/MAC", meaning="bits clocked for each MAC with a 1-bit weight", scaled=False
    ),
    "multiplier_fj_per_bit_product": ConstantRule(
        unit="fJ/bit2", meaning="multiplication, over the product of both widths"
    ),
    "comparator_fj_per_bit": ConstantRule(unit="fJ/bit", meaning="comparison, for each bit"),
    "sram_fj_per_bit": ConstantRule(unit="fJ/bit", meaning="bit read from 8 KiB through a port of 64 bits"),
    "sram_capacity_exponent": ConstantRule(
        unit="1", meaning="exponent of the capacity over 8 KiB", scaled=False, exact=True
    ),
    "sram_port_exponent": ConstantRule(
        unit="1", meaning="exponent of the port's width over 64 bits", scaled=False, exact=True
    ),
    "sram_write_factor": ConstantRule(unit="1", meaning="a write over a read", scaled=False),
    "dram_pj_per_bit": ConstantRule(unit="pJ/bit", meaning="bit read from or written to DRAM", scaled=False),
    "low_standby_power_leakage_uw_per_kib": ConstantRule(
        unit="uW/KiB", meaning="leakage of memories of low standby power cells"
    ),
    "high_performance_leakage_uw_per_kib": ConstantRule(
        unit="uW/KiB", meaning="leakage of memories of high performance cells"
    ),
}
"""The rule of every field of `Constants`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyFactor:
    """A node's energy relative to other nodes: a2 V^2 + a1 V + a0 (Stillmaker & Baas 2017)."""

    node_nm: float
    a2: float
    a1: float
    a0: float
    source: str

    def at(self, voltage_v: float) -> float:
        """The factor at a voltage."""
        return self.a2 * voltage_v**2 + self.a1 * voltage_v + self.a0


@dataclass(frozen=True, slots=True, kw_only=True)
class Technology:
    """A process at a supply voltage.

    nominal_voltage_v: the process's usual supply. sram_cell: which leakage counts. source: where the voltages are from.
    energy_factors: by falling node.
    """

    name: str
    node_nm: float
    voltage_v: float
    nominal_voltage_v: float
    sram_cell: SramCell
    source: str
    constants: Constants[Constant]
    energy_factors: tuple[EnergyFactor, ...]

    def scaled(self, level: Level) -> Constants[float]:
        """Every constant at this node and voltage, of one end of its range."""
        return Constants(
            **{
                name: getattr(constant, level.value) * (self._scale(constant) if RULES[name].scaled else 1.0)
                for name, constant in named(self.constants)
            }
        )

    def node_scale(self, from_nm: float) -> float:
        """Energy at this node over that at another, at equal voltage. Raises BadInput for a node beyond the table."""
        return node_factor(self.energy_factors, self.node_nm) / node_factor(self.energy_factors, from_nm)

    def _scale(self, constant: Constant) -> float:
        return self.node_scale(constant.node_nm) * (self.voltage_v / constant.voltage_v) ** 2

    def with_voltage(self, voltage_v: float) -> "Technology":
        """The same process at another supply. Raises BadInput outside `VOLTAGES_V`."""
        if not VOLTAGES_V[0] <= voltage_v <= VOLTAGES_V[1]:
            raise BadInput(f"voltage_v: found {voltage_v}, expected {VOLTAGES_V[0]} to {VOLTAGES_V[1]} V")
        return replace(self, voltage_v=voltage_v)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the energies at this node and voltage lie outside what published chips confirm; empty if they do not."""
        found = []
        if self.voltage_v < LOWEST_VALIDATED_V:
            found.append(
                f"{self.voltage_v:g} V is below {LOWEST_VALIDATED_V:g} V: published chips at 0.4 V take 4 to 25 times "
                "the energy that the model gives"
            )
        if self.voltage_v > self.nominal_voltage_v:
            found.append(
                f"{self.voltage_v:g} V is above the nominal {self.nominal_voltage_v:g} V of {self.name}: "
                "no chip confirms the model there"
            )
        if not VALIDATED_NM[0] <= self.node_nm <= VALIDATED_NM[1]:
            found.append(
                f"{self.node_nm:g} nm is outside {VALIDATED_NM[0]} to {VALIDATED_NM[1]} nm: "
                "no chip confirms the model there"
            )
        return tuple(found)


def named(constants: Constants[Value]) -> tuple[tuple[str, Value], ...]:
    """Every constant by its name."""
    return tuple((field.name, getattr(constants, field.name)) for field in fields(constants))


def node_factor(factors: tuple[EnergyFactor, ...], node_nm: float) -> float:
    """The energy factor of a node at 0.9 V; between two nodes of the table on a straight line.

    Raises BadInput for a node beyond the table.
    """
    ordered = sorted(factors, key=lambda factor: factor.node_nm)
    for below, above in pairwise(ordered):
        if below.node_nm <= node_nm <= above.node_nm:
            part = (node_nm - below.node_nm) / (above.node_nm - below.node_nm)
            return (1 - part) * below.at(FACTOR_VOLTAGE_V) + part * above.at(FACTOR_VOLTAGE_V)
    raise BadInput(
        f"node_nm: found {node_nm:g}, expected {ordered[0].node_nm:g} to {ordered[-1].node_nm:g}, "
        "the nodes of energy_factors"
    )
