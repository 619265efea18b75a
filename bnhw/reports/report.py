"""A report as a value: counts and storage of a program, per instruction and in total, and what an engine makes of it.

The JSON keys are a contract: within one `FORMAT_VERSION` a key never changes its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnhw.count import (
    Action,
    Counts,
    LayerCounts,
    array_multiplications,
    count_program,
    total,
)
from bnhw.hardware.technology import named
from bnhw.program import Program
from bnhw.reports.engine import EngineRun, StepFigures, memories_json, step_figures
from bnhw.reports.headlines import Headlines, headlines
from bnhw.storage import Storage

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts per image. `live_activation_bits`: stored bits alive during each instruction.

    engine: what happens on an engine; None where none is named.
    """

    program: Program
    layers: tuple[LayerCounts, ...]
    totals: Counts
    live_activation_bits: tuple[int, ...]
    peak_activation_bits: int
    array_multiplications: int
    engine: EngineRun | None = None

    @property
    def steps(self) -> tuple[StepFigures, ...]:
        """The engine's steps; none where no engine is named."""
        return () if self.engine is None else step_figures(self.engine, self.layers, self.live_activation_bits)

    @property
    def headlines(self) -> Headlines:
        """What the program does without, against 8-bit weights and a batch norm."""
        return headlines(self.program, self.layers)

    def as_json(self) -> Mapping[str, Any]:
        """Plain values for `json.dumps`; docs/reports.md describes the keys."""
        run = self.engine
        layers = [
            {
                "name": layer.instruction.output,
                "kind": layer.instruction.kind,
                "source": layer.instruction.source,
                "output_shape": list(self.program.tensor[layer.instruction.output].shape),
                "output_type": str(self.program.tensor[layer.instruction.output].dtype),
                **_counts_json(layer.counts),
                "peak_activation_bits": live,
                **({} if run is None else _layer_json(run, layer.instruction.output)),
            }
            for layer, live in zip(self.layers, self.live_activation_bits, strict=True)
        ]
        totals = {
            **_counts_json(self.totals),
            "multipliers_in_array_per_image": self.array_multiplications,
            "peak_activation_bits": self.peak_activation_bits,
            **({} if run is None else _engine_totals_json(run, self.headlines)),
        }
        return {
            "format_version": FORMAT_VERSION,
            "model": self.program.name,
            "arch": None if run is None else run.arch.name,
            "tech": None if run is None or run.technology is None else run.technology.name,
            "totals": totals,
            "layers": layers,
            **({} if run is None else self._engine_json(run)),
        }

    def _engine_json(self, run: EngineRun) -> dict[str, Any]:
        """What is there only with an engine, beside the totals and layers."""
        steps = [
            {
                "name": step.name,
                "kind": step.kind,
                "instructions": list(step.instructions),
                **_counts_json(step.counts),
                "peak_activation_bits": step.live_bits,
                **step.work.as_json(),
                "hardware": _actions_json(run.used_hardware([traced])),
            }
            for step, traced in zip(self.steps, run.trace.steps, strict=True)
        ]
        return {
            "steps": steps,
            "engine": run.arch.values(),
            "technology": _technology_json(run),
            "warnings": [] if run.energy is None else list(run.energy.warnings),
        }


def _counts_json(counts: Counts) -> dict[str, Any]:
    return {
        "macs_full": counts.macs_full,
        "macs_trimmed": counts.macs_trimmed,
        "actions": _actions_json(counts.actions),
        "multipliers_per_image": counts.multipliers,
        "weight_bits": counts.weight_bits,
        "constant_bits": counts.constant_bits,
    }


def _actions_json(actions: Mapping[Action, int]) -> dict[str, int]:
    return {action.name: actions[action] for action in sorted(actions, key=lambda a: (a.kind.value, a.widths))}


def _layer_json(run: EngineRun, instruction: str) -> dict[str, Any]:
    own = [run.trace.steps[number] for number in run.layer_steps(instruction)]
    return {
        "steps": list(run.steps_of(instruction)),
        **run.layer_work(instruction).as_json(),
        "hardware": _actions_json(run.used_hardware(own)),
    }


def _engine_totals_json(run: EngineRun, found: Headlines) -> dict[str, Any]:
    capacities = {kind: shape.capacity_bits for kind, shape in run.trace.memories.items()}
    values: dict[str, Any] = {
        **run.work.as_json(),
        "latency_us": run.latency_us,
        "images_per_second": run.images_per_second,
        "hardware": _actions_json(run.hardware),
        "memory_capacity_bits": memories_json(capacities),
        "memory_needed_bits": memories_json(run.needed_bits),
        "multiplications_baseline": found.multiplications_baseline,
        "weight_bits_baseline": found.weight_bits_baseline,
    }
    if run.energy is not None:
        ends = {
            "low": "high",
            "nominal": "nominal",
            "high": "low",
        }  # the least energy gives the most operations a joule
        values["energy_groups_pj"] = {group.value: energy.as_json() for group, energy in run.energy.groups.items()}
        values["tops_per_watt"] = {name: run.tops_per_watt(end) for name, end in ends.items()}
    return values


def _technology_json(run: EngineRun) -> Mapping[str, Any] | None:
    technology = run.technology
    if technology is None:
        return None
    constants = {
        name: {
            "low": constant.low,
            "nominal": constant.nominal,
            "high": constant.high,
            "unit": constant.unit,
            "node_nm": constant.node_nm,
            "voltage_v": constant.voltage_v,
            "source": constant.source,
        }
        for name, constant in named(technology.constants)
    }
    return {
        "name": technology.name,
        "node_nm": technology.node_nm,
        "voltage_v": technology.voltage_v,
        "nominal_voltage_v": technology.nominal_voltage_v,
        "sram_cell": technology.sram_cell.value,
        "source": technology.source,
        "constants": constants,
    }


def build_report(program: Program, engine: EngineRun | None = None) -> Report:
    """Count what one image takes, and add what happens on an engine where one is given."""
    layers = count_program(program)
    storage = Storage(program=program)
    return Report(
        program=program,
        layers=layers,
        totals=total(layers),
        live_activation_bits=storage.live_bits,
        peak_activation_bits=storage.peak_bits,
        array_multiplications=array_multiplications(layers),
        engine=engine,
    )
