"""Technology files: TOML, checked completely, every problem named at once."""

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from bnhw.errors import BadInput
from bnhw.files import read_file
from bnhw.hardware.technology import (
    FACTOR_VOLTAGE_V,
    RULES,
    VOLTAGES_V,
    Constant,
    ConstantRule,
    Constants,
    EnergyFactor,
    SramCell,
    Technology,
)

MAX_BYTES = 1 << 20
REFERENCE = "reference"
"""The shipped file with constants at 45 nm; the only value of the field `reference`."""

TOP = {"name", "node_nm", "voltage_v", "nominal_voltage_v", "sram_cell", "source", "reference", "constants"} | {
    "energy_factors"
}
NODES_NM = (1.0, 1000.0)
POSITIVE = (0.0, 1e9)
"""Limits of constants: above 0."""
EXPONENTS = (-2.0, 2.0)
COEFFICIENTS = (-1e6, 1e6)
LEAST_FACTOR = 1e-6

Table = Mapping[str, Any]


def shipped_technologies() -> tuple[str, ...]:
    """Names that `load_technology` takes."""
    folder = files("bnhw.hardware") / "technologies"
    names = (entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(name for name in names if name != REFERENCE))


def load_technology(name_or_path: str | Path) -> Technology:
    """The shipped technology of that name, or what a TOML file says.

    Raises BadInput where there is no such file, or with every problem of its content.
    """
    if str(name_or_path) in shipped_technologies():
        return parse_technology(_shipped(str(name_or_path)), origin=str(name_or_path))
    path = Path(name_or_path)
    missing = f"give a TOML file or one of {', '.join(shipped_technologies())}"
    data = read_file(path, missing=missing, max_bytes=MAX_BYTES)
    try:
        return parse_technology(data.decode(), origin=str(path))
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: no UTF-8 text at byte {error.start}; is this a TOML file?") from error


def parse_technology(text: str, *, origin: str) -> Technology:
    """A technology from the text of its file. Raises BadInput with every problem; `origin` names the file in it."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise BadInput(f"{origin}: no TOML: {error or 'nested too deeply'}") from error
    reader = _Reader()
    technology = reader.technology(table)
    if reader.problems or technology is None:
        count = len(reader.problems)
        listing = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(reader.problems, start=1))
        raise BadInput(f"{origin}: {count} {'problem' if count == 1 else 'problems'} in this technology:\n{listing}")
    return technology


def _shipped(name: str) -> str:
    return (files("bnhw.hardware") / "technologies" / f"{name}.toml").read_text(encoding="utf-8")


class _Reader:
    """Takes values out of tables and gathers what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def technology(self, table: Table) -> Technology | None:
        """The whole file; None where `problems` is not empty."""
        self._unknown(table, TOP, "")
        base: Table = {}
        if "reference" in table and self._choice(table, "reference", (REFERENCE,)):
            base = tomllib.loads(_shipped(REFERENCE))
        name = self._text(table, "name")
        node = self._number(table, "node_nm", NODES_NM)
        voltage = self._number(table, "voltage_v", VOLTAGES_V)
        nominal = self._number(table, "nominal_voltage_v", VOLTAGES_V)
        cell = self._choice(table, "sram_cell", [cell.value for cell in SramCell])
        source = self._text(table, "source")
        factors = self._factors(table.get("energy_factors", base.get("energy_factors")))
        constants = self._constants({**base.get("constants", {}), **self._table(table, "constants")})
        self._nodes_within(factors, {"node_nm": node, **{f"constants.{n}.node_nm": c.node_nm for n, c in constants}})
        if self.problems:
            return None
        return Technology(
            name=name,
            node_nm=node,
            voltage_v=voltage,
            nominal_voltage_v=nominal,
            sram_cell=SramCell(cell),
            source=source,
            constants=Constants(**dict(constants)),
            energy_factors=factors,
        )

    def _constants(self, table: Table) -> list[tuple[str, Constant]]:
        """Every constant that is complete, by its name."""
        self._unknown(table, RULES, "constants.")
        found = []
        for name, rule in RULES.items():
            count = len(self.problems)
            constant = self._constant(self._table(table, name, "constants.", required=True), name, rule)
            if len(self.problems) == count:
                found.append((name, constant))
        return found

    def _constant(self, table: Table, name: str, rule: ConstantRule) -> Constant:
        if not table:
            return Constant(low=0, nominal=0, high=0, unit="", node_nm=0, voltage_v=0, source="")  # a problem is noted
        where = f"constants.{name}."
        self._unknown(table, [field.name for field in fields(Constant)], where)
        limits = EXPONENTS if rule.exact else POSITIVE
        low, nominal, high = (self._number(table, level, limits, where) for level in ("low", "nominal", "high"))
        if low > nominal or nominal > high:
            self.problems.append(f"{where}nominal: found {nominal:g}, expected {low:g} (low) to {high:g} (high)")
        elif rule.exact and low < high:
            self.problems.append(f"{where}high: found {high:g}, expected {low:g} as for low: it has no range")
        return Constant(
            low=low,
            nominal=nominal,
            high=high,
            unit=self._choice(table, "unit", (rule.unit,), where),
            node_nm=self._number(table, "node_nm", NODES_NM, where),
            voltage_v=self._number(table, "voltage_v", VOLTAGES_V, where),
            source=self._text(table, "source", where),
        )

    def _factors(self, entries: object) -> tuple[EnergyFactor, ...]:
        if not isinstance(entries, list) or len(entries) < 2 or not all(isinstance(entry, dict) for entry in entries):
            self.problems.append('energy_factors: expected at least two tables; or set reference = "reference"')
            return ()
        return tuple(self._factor(entry, f"energy_factors[{number}].") for number, entry in enumerate(entries))

    def _factor(self, entry: Table, where: str) -> EnergyFactor:
        self._unknown(entry, [field.name for field in fields(EnergyFactor)], where)
        factor = EnergyFactor(
            node_nm=self._number(entry, "node_nm", NODES_NM, where),
            a2=self._number(entry, "a2", COEFFICIENTS, where),
            a1=self._number(entry, "a1", COEFFICIENTS, where),
            a0=self._number(entry, "a0", COEFFICIENTS, where),
            source=self._text(entry, "source", where),
        )
        if factor.at(FACTOR_VOLTAGE_V) < LEAST_FACTOR:
            self.problems.append(
                f"{where}a2, a1, a0: found the factor {factor.at(FACTOR_VOLTAGE_V):g} at {FACTOR_VOLTAGE_V} V, "
                f"expected at least {LEAST_FACTOR:g}"
            )
        return factor

    def _nodes_within(self, factors: tuple[EnergyFactor, ...], nodes: Mapping[str, float]) -> None:
        """Every node must lie between two different nodes of the factors. Silent where something is wrong already."""
        if self.problems:
            return
        known = [factor.node_nm for factor in factors]
        if len(set(known)) < len(known):
            self.problems.append("energy_factors: expected every node_nm once")
        for place, node in nodes.items():
            if not min(known) <= node <= max(known):
                self.problems.append(
                    f"{place}: found {node:g}, expected {min(known):g} to {max(known):g}, the nodes of energy_factors"
                )

    def _unknown(self, table: Table, known: Iterable[str], where: str) -> None:
        for key in table:
            if key not in known:
                self.problems.append(f"{where}{key}: not known; expected {', '.join(sorted(known))}")

    def _missing(self, table: Table, key: str, where: str, expected: str) -> bool:
        if key not in table:
            self.problems.append(f"{where}{key}: missing, expected {expected}")
        return key not in table

    def _table(self, table: Table, key: str, where: str = "", *, required: bool = False) -> Table:
        expected = f"a table with {', '.join(field.name for field in fields(Constant))}" if required else "a table"
        if required and self._missing(table, key, where, expected):
            return {}
        value = table.get(key, {})
        if not isinstance(value, dict) or (required and not value):
            self.problems.append(f"{where}{key}: found {_shown(value)}, expected {expected}")
            return {}
        return value

    def _number(self, table: Table, key: str, limits: tuple[float, float], where: str = "") -> float:
        """A finite number within the limits, which belong to it; above 0 where the lower one is 0."""
        low, high = limits
        expected = f"{low:g} to {high:g}" if low else f"a number above 0, at most {high:g}"
        if self._missing(table, key, where, expected):
            return math.nan
        value = table[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and low <= value <= high and (low or value > 0):
            return float(value)
        self.problems.append(f"{where}{key}: found {_shown(value)}, expected {expected}")
        return math.nan

    def _text(self, table: Table, key: str, where: str = "") -> str:
        if self._missing(table, key, where, "text"):
            return ""
        value = table[key]
        if not isinstance(value, str) or not value.strip():
            self.problems.append(f"{where}{key}: found {_shown(value)}, expected text")
            return ""
        return value

    def _choice(self, table: Table, key: str, allowed: Iterable[str], where: str = "") -> str:
        expected = " or ".join(repr(choice) for choice in allowed)
        if self._missing(table, key, where, expected):
            return ""
        value = table[key]
        if value not in allowed:
            self.problems.append(f"{where}{key}: found {_shown(value)}, expected {expected}")
            return ""
        return str(value)


def _shown(value: object) -> str:
    """A value in a message, not longer than a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
