"""A report as a value: counts and storage of a program, per instruction and in total.

The JSON keys are a contract: within one `FORMAT_VERSION` a key never changes its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnhw.count import (
    Counts,
    LayerCounts,
    array_multiplications,
    count_program,
    total,
)
from bnhw.program import Program
from bnhw.storage import Storage

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts per image. `live_activation_bits`: stored bits alive during each instruction."""

    program: Program
    layers: tuple[LayerCounts, ...]
    totals: Counts
    live_activation_bits: tuple[int, ...]
    peak_activation_bits: int
    array_multiplications: int

    def as_json(self) -> Mapping[str, Any]:
        """Plain values for `json.dumps`."""
        layers = [
            {
                "name": layer.instruction.output,
                "kind": layer.instruction.kind,
                "source": layer.instruction.source,
                "output_shape": list(self.program.tensor[layer.instruction.output].shape),
                "output_type": str(self.program.tensor[layer.instruction.output].dtype),
                **_counts_json(layer.counts),
                "peak_activation_bits": live,
            }
            for layer, live in zip(self.layers, self.live_activation_bits, strict=True)
        ]
        totals = {
            **_counts_json(self.totals),
            "multipliers_in_array_per_image": self.array_multiplications,
            "peak_activation_bits": self.peak_activation_bits,
        }
        return {
            "format_version": FORMAT_VERSION,
            "model": self.program.name,
            "arch": None,
            "tech": None,
            "totals": totals,
            "layers": layers,
        }


def _counts_json(counts: Counts) -> dict[str, Any]:
    return {
        "macs_full": counts.macs_full,
        "macs_trimmed": counts.macs_trimmed,
        "actions": {a.name: counts.actions[a] for a in sorted(counts.actions, key=lambda a: (a.kind.value, a.widths))},
        "multipliers_per_image": counts.multipliers,
        "weight_bits": counts.weight_bits,
        "constant_bits": counts.constant_bits,
    }


def build_report(program: Program) -> Report:
    """Count everything that needs no hardware description."""
    layers = count_program(program)
    storage = Storage(program=program)
    return Report(
        program=program,
        layers=layers,
        totals=total(layers),
        live_activation_bits=storage.live_bits,
        peak_activation_bits=storage.peak_bits,
        array_multiplications=array_multiplications(layers),
    )
