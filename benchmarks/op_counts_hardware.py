"""Cycles and energy of the rows of `op_counts.py`, on an engine of one size with the units that each row needs."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bnhw.errors import BnhwError
from bnhw.hardware.arch import Arch
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.energy import price
from bnhw.hardware.mapping import map_program
from bnhw.hardware.schedule import schedule
from bnhw.hardware.technology import Technology
from bnhw.hardware.technology_file import load_technology
from bnhw.hardware.tiling import TILED
from bnhw.program import Multiply, Program, Threshold

PRODUCT_BITS = 13
"""Operands of products of two tensors: 12-bit codes and their zero points."""


def engine_for(base: Arch, program: Program, *, weight_bits: int, requantise: str) -> Arch:
    """The engine of this size that a program needs: multipliers only where its weights or its steps multiply.

    Memories that must hold all of a program (constants, thresholds, lookups, descriptors) are as large as it needs; the
    others stay, with DRAM behind them.
    """
    products = any(isinstance(instruction, Multiply) for instruction in program.instructions)
    thresholds = any(isinstance(instruction, Threshold) for instruction in program.instructions)
    multiplies = requantise.startswith("multiply")
    engine = base.with_options(
        datapath="mux" if weight_bits == 1 else "mul",
        weight_bits=weight_bits,
        post="multiply" if multiplies else "csd",
        csd_digits=0 if multiplies else 4,
        product_bits=PRODUCT_BITS if products else 0,
        comparators=max(base.comparators, 1) if thresholds else 0,
    )
    memories = {
        kind.value: {"words": max(needed, engine.memories[kind].words)}
        for kind, needed in map_program(program, engine).required_words.items()
        if kind not in TILED and kind in engine.memories
    }
    return engine.with_options(memories=memories)


def hardware_row(program: Program, row: dict[str, Any], arch: Arch, technology: Technology) -> dict[str, Any]:
    """Cycles by cause and energy in pJ of one image; `hardware_problem` says why there are none."""
    try:
        weight_bits = 1 if row["weights"] == "1bit" else 8
        engine = engine_for(arch, program, weight_bits=weight_bits, requantise=row["requantise"])
        trace = schedule(program, engine)
        energy = price(trace, technology)
    except BnhwError as error:
        return {"hardware_problem": " ".join(str(error).split())}
    causes = {cause.name: getattr(trace.cycles, cause.name) for cause in fields(trace.cycles)}
    return {
        "hardware_problem": "",
        "cycles": {**causes, "total": trace.cycles.total},
        "utilisation": round(trace.utilisation, 4),
        "energy_pj": {
            **{group.value: group_energy.as_json() for group, group_energy in energy.groups.items()},
            "total": energy.total.as_json(),
        },
        "warnings": list(energy.warnings),
    }


def run_hardware(
    folder: Path, rows: Sequence[tuple[dict[str, Any], Callable[[], Program]]], arch: str, technology: str
) -> dict[str, dict[str, Any]]:
    """What `hardware_row` says of every row that was compiled, by the row's key, kept in `hardware.jsonl`.

    Raises BadInput for an engine or a technology that is not there.
    """
    engine, prices = load_arch(arch), load_technology(technology)
    file = folder / "hardware.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    kept = [json.loads(line) for line in lines if line]
    found = {one["key"]: one for one in kept if (one["arch"], one["technology"]) == (arch, technology)}
    missing = [(row, program) for row, program in rows if not row["problem"] and row["key"] not in found]
    begin = time.monotonic()
    for number, (row, program) in enumerate(missing, start=1):
        one = {"key": row["key"], "arch": arch, "technology": technology}
        one |= hardware_row(program(), row, engine, prices)
        found[row["key"]] = one
        with file.open("a") as stream:
            stream.write(json.dumps(one) + "\n")
        left = (time.monotonic() - begin) / number * (len(missing) - number) / 60
        told = one["hardware_problem"] or f"{one['cycles']['total']:,} cycles"
        name = f"{row['network']}, {row['normalisation']}, {row['weights']}, {row['requantise']}"
        print(f"{number}/{len(missing)} {name} on {arch}: {told}, {left:.1f} min left", flush=True)
    return {key: {name: value for name, value in one.items() if name != "key"} for key, one in found.items()}
