"""Programs and engines side by side: every figure by the stage it belongs to, with differences and ratios.

The first column is the base of all ratios.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from bnhw.count import Action, ActionKind, LayerCounts
from bnhw.hardware.energy import Component, EnergyRange, Group
from bnhw.hardware.trace import MemoryKind
from bnhw.program import Convolve
from bnhw.reports.definitions import DEFINITIONS
from bnhw.reports.engine import CAUSES
from bnhw.reports.numbers import ratio
from bnhw.reports.report import FORMAT_VERSION, Report


class Stage(Enum):
    """What a figure speaks of: all, convolutions, all other instructions, storage and its traffic, the engine."""

    WHOLE = "whole"
    ARRAY = "array"
    POST = "post"
    MEMORIES = "memories"
    ENGINE = "engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One program, on one engine where one is named; `label` tells it from the others."""

    label: str
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of every column. `low`, `high`: the range of energies, else empty; None: a column has no such figure.

    key: unique, its stage in front. definition: the key in DEFINITIONS.
    """

    key: str
    stage: Stage
    name: str
    unit: str
    values: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    definition: str

    @property
    def ratios(self) -> tuple[float | None, ...]:
        """Each value over the first; None where one is missing or the first is 0."""
        return tuple(ratio(value, self.values[0]) for value in self.values)

    @property
    def differences(self) -> tuple[float | None, ...]:
        """Each value minus the first; None where one is missing."""
        base = self.values[0]
        return tuple(None if value is None or base is None else value - base for value in self.values)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        values: dict[str, Any] = {"key": self.key, "stage": self.stage.value, "name": self.name, "unit": self.unit}
        values |= {"values": list(self.values), "differences": list(self.differences), "ratios": list(self.ratios)}
        return values | ({"low": list(self.low), "high": list(self.high)} if self.low else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Columns and the figures of each; the first column is the base."""

    columns: tuple[Column, ...]
    figures: tuple[Figure, ...]

    def of(self, stage: Stage) -> tuple[Figure, ...]:
        """The figures of one stage."""
        return tuple(figure for figure in self.figures if figure.stage is stage)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`: figures side by side, and the whole report of every column."""
        return {
            "format_version": FORMAT_VERSION,
            "columns": [column.label for column in self.columns],
            "figures": [figure.as_json() for figure in self.figures],
            "reports": [column.report.as_json() for column in self.columns],
        }


def compare_reports(columns: Sequence[Column]) -> Comparison:
    """All figures that any column has; those that are 0 in every column are left out, the totals stay."""
    reports = [column.report for column in columns]
    found = (*_whole(reports), *_operations(reports), *_memories(reports), *_energies(reports))
    kept = tuple(figure for figure in found if figure.definition in ALWAYS or any(figure.values))
    order = list(Stage)
    return Comparison(columns=tuple(columns), figures=tuple(sorted(kept, key=lambda f: order.index(f.stage))))


ALWAYS = (
    "macs_trimmed",
    "multipliers_per_image",
    "cycles_total",
    "weight_bits",
    "constant_bits",
    "peak_activation_bits",
)
"""Figures that are shown though they are 0 everywhere."""


def _defined(key: str, stage: Stage, values: Iterable[float | None]) -> Figure:
    definition = DEFINITIONS[key]
    return Figure(
        key=f"{stage.value}.{key}",
        stage=stage,
        name=definition.name,
        unit=definition.unit,
        values=tuple(values),
        definition=key,
    )


def _whole(reports: Sequence[Report]) -> list[Figure]:
    whole = Stage.WHOLE
    figures = [
        _defined("macs_full", whole, (r.totals.macs_full for r in reports)),
        _defined("macs_trimmed", whole, (r.totals.macs_trimmed for r in reports)),
        _defined("multipliers_per_image", whole, (r.totals.multipliers for r in reports)),
    ]
    runs = [report.engine for report in reports]
    if not any(runs):
        return figures
    works = [None if run is None else run.work for run in runs]
    figures.append(_defined("cycles_total", whole, (None if w is None else w.cycles.total for w in works)))
    for cause in CAUSES:
        figures.append(_defined(cause, whole, (None if w is None else getattr(w.cycles, cause) for w in works)))
    return [
        *figures,
        _defined("latency_us", whole, (None if run is None else run.latency_us for run in runs)),
        _defined("images_per_second", whole, (None if run is None else run.images_per_second for run in runs)),
        _defined("utilisation", whole, (None if w is None else 100 * w.utilisation for w in works)),
        _defined("tops_per_watt", whole, (None if run is None else run.tops_per_watt() for run in runs)),
    ]


OPERATIONS = (
    ActionKind.MULTIPLY,
    ActionKind.ADD,
    ActionKind.MUX,
    ActionKind.XNOR,
    ActionKind.POPCOUNT,
    ActionKind.SHIFT,
    ActionKind.COMPARE,
    ActionKind.LOOKUP,
)
"""Kinds of operation in the order of reports; each has a definition of its name."""

OPERATORS = {
    ActionKind.MULTIPLY: "multipliers",
    ActionKind.ADD: "adders",
    ActionKind.MUX: "multiplexers",
    ActionKind.XNOR: "XNOR gates",
    ActionKind.POPCOUNT: "popcount inputs",
    ActionKind.SHIFT: "shifters",
    ActionKind.COMPARE: "comparators",
    ActionKind.LOOKUP: "lookup memories",
}
"""What an engine has to execute them."""


def _operations(reports: Sequence[Report]) -> list[Figure]:
    """Operations of convolutions, of all other instructions, and operators that the engine has."""

    def in_array(layer: LayerCounts) -> bool:
        return isinstance(layer.instruction, Convolve)

    stages: tuple[tuple[Stage, Callable[[LayerCounts], bool]], ...] = (
        (Stage.ARRAY, in_array),
        (Stage.POST, lambda layer: not in_array(layer)),
    )
    figures = [
        _defined(kind.value, stage, (_count(filter(belongs, report.layers), kind) for report in reports))
        for stage, belongs in stages
        for kind in OPERATIONS
    ]
    runs = [report.engine for report in reports]
    if not any(runs):
        return figures
    works = [None if run is None else run.work for run in runs]
    for key in ("macs_executed", "border_macs", "repeated_macs", "idle_macs"):
        figures.append(_defined(key, Stage.ARRAY, (None if work is None else getattr(work, key) for work in works)))
    for kind in OPERATIONS:
        values = (None if run is None else _of_kind(run.hardware, kind) for run in runs)
        figures.append(replace(_defined(kind.value, Stage.ENGINE, values), name=OPERATORS[kind]))
    return figures


def _count(layers: Iterable[LayerCounts], kind: ActionKind) -> int:
    return sum(_of_kind(layer.counts.actions, kind) for layer in layers)


def _of_kind(actions: Mapping[Action, int], kind: ActionKind) -> int:
    return sum(number for action, number in actions.items() if action.kind is kind)


def _memories(reports: Sequence[Report]) -> list[Figure]:
    memories = Stage.MEMORIES
    figures = [
        _defined("weight_bits", memories, (r.totals.weight_bits for r in reports)),
        _defined("constant_bits", memories, (r.totals.constant_bits for r in reports)),
        _defined("peak_activation_bits", memories, (r.peak_activation_bits for r in reports)),
    ]
    runs = [report.engine for report in reports]
    for key in ("reads_bits", "writes_bits") if any(runs) else ():
        for kind in MemoryKind:
            values = tuple(None if run is None else run.trace.bits(key).get(kind, 0) for run in runs)
            name = f"{DEFINITIONS[key].name}, {kind.value.replace('_', ' ')}"
            figures.append(
                Figure(
                    key=f"{memories.value}.{key}.{kind.value}",
                    stage=memories,
                    name=name,
                    unit="bits",
                    values=values,
                    definition=key,
                )
            )
    return figures


ENERGY_STAGES = {Component.ARRAY: Stage.ARRAY, Component.POST: Stage.POST, Component.LEAKAGE: Stage.WHOLE}
"""Where the energy of a component stands; that of all memories stands with the memories."""


def _energies(reports: Sequence[Report]) -> list[Figure]:
    """The energy of the whole, of each component, and of the on-chip memories together, in nJ."""
    energies = [None if r.engine is None else r.engine.energy for r in reports]
    if not any(energies):
        return []
    figures = [_energy("whole.energy", Stage.WHOLE, "energy", [None if e is None else e.total for e in energies])]
    figures.append(
        _energy(
            "memories.energy",
            Stage.MEMORIES,
            "energy, on-chip memories",
            [None if e is None else e.groups[Group.ON_CHIP_MEMORIES] for e in energies],
        )
    )
    for part in (*Component, *MemoryKind):
        stage = ENERGY_STAGES[part] if isinstance(part, Component) else Stage.MEMORIES
        name = f"energy, {part.value.replace('_', ' ')}"
        values = [None if e is None else e.parts.get(part, EnergyRange()) for e in energies]
        figures.append(_energy(f"{stage.value}.energy.{part.value}", stage, name, values))
    return figures


def _energy(key: str, stage: Stage, name: str, energies: Sequence[EnergyRange | None]) -> Figure:
    def in_nanojoules(end: str) -> tuple[float | None, ...]:
        return tuple(None if energy is None else float(getattr(energy, end)) / 1e3 for energy in energies)

    return Figure(
        key=key,
        stage=stage,
        name=name,
        unit="nJ",
        values=in_nanojoules("nominal"),
        low=in_nanojoules("low"),
        high=in_nanojoules("high"),
        definition="energy_pj",
    )


def comparison_warnings(comparison: Comparison) -> tuple[str, ...]:
    """What the energies lie outside of, each once, with the columns that it holds for."""
    found: dict[str, list[str]] = {}
    for column in comparison.columns:
        engine = column.report.engine
        for warning in () if engine is None or engine.energy is None else engine.energy.warnings:
            found.setdefault(warning, []).append(column.label)
    everywhere = len(comparison.columns)
    return tuple(
        warning if len(labels) == everywhere else f"{warning} ({', '.join(labels)})"
        for warning, labels in found.items()
    )


def column_labels(models: Sequence[str], archs: Sequence[str]) -> tuple[str, ...]:
    """A label for each column: the model's name, with the engine's where models repeat, a number where both do.

    Where all columns are of one model, the engine's name alone.
    """
    names = list(models)
    if len(set(models)) == 1 and len(set(archs)) > 1:
        names = list(archs)
    elif len(set(models)) < len(models) and len(set(archs)) > 1:
        names = [f"{model} on {arch}" for model, arch in zip(models, archs, strict=True)]
    counts = {name: names.count(name) for name in names}
    return tuple(
        name if counts[name] == 1 else f"{name} ({names[: at + 1].count(name)})" for at, name in enumerate(names)
    )
