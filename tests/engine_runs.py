"""Engine runs made by hand: traces and energies of numbers that are easy to add up, whatever the program."""

from fractions import Fraction

import numpy as np

from bnhw.count import count_program, total
from bnhw.hardware.arch import Arch
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.energy import Component, Energy, EnergyRange, Part, StepEnergy
from bnhw.hardware.technology_file import load_technology
from bnhw.hardware.trace import Cycles, MemoryKind, StepTrace, Trace
from bnhw.program import Convolve, Join, Program
from bnhw.reports.engine import EngineRun


def run_by_hand(program: Program, *, seed: int = 0, priced: bool = True) -> EngineRun:
    """Steps of one or two instructions (two steps for some), with random cycles, bits and energies."""
    random = np.random.default_rng(seed)
    arch = load_arch("engine-16x64")
    technology = load_technology("28nm") if priced else None
    steps = tuple(_step(program, group, random) for group in _groups(program))
    trace = trace_of(program, arch, steps)
    energy = Energy(
        technology="28nm",
        node_nm=28,
        voltage_v=0.9,
        sram_cell=load_technology("28nm").sram_cell,
        steps=tuple(StepEnergy(name=step.name, parts=_parts(random)) for step in steps),
        warnings=("made by hand",),
    )
    return EngineRun(
        arch=arch,
        trace=trace,
        needed_bits={MemoryKind.WEIGHTS: 1024, MemoryKind.ACTIVATIONS: 128},
        technology=technology,
        energy=energy if priced else None,
    )


def trace_of(program: Program, arch: Arch, steps: tuple[StepTrace, ...]) -> Trace:
    """A trace on an engine."""
    return Trace(
        model=program.name,
        arch=arch.name,
        steps=steps,
        memories=arch.memory_shapes,
        datapath=arch.datapath.value,
        act_bits=arch.act_bits,
        weight_bits=arch.weight_bits,
        acc_bits=arch.acc_bits,
        pe=arch.pe,
        simd=arch.simd,
        clock_mhz=arch.clock_mhz,
    )


def _groups(program: Program) -> list[tuple[str, ...]]:
    """Every second instruction joins the one before it; a Join, and every fifth instruction, stands alone, twice."""
    groups: list[tuple[str, ...]] = []
    names = [instruction.output for instruction in program.instructions]
    alone = {instruction.output for instruction in program.instructions if isinstance(instruction, Join)} | {
        *names[::5]
    }
    for name in names:
        if name in alone:
            groups += [(name,), (name,)]
        elif groups and len(groups[-1]) == 1 and len(groups) % 2 and groups[-1][0] not in alone:
            groups[-1] = (*groups[-1], name)
        else:
            groups.append((name,))
    return groups


def _step(program: Program, group: tuple[str, ...], random: np.random.Generator) -> StepTrace:
    layers = {layer.instruction.output: layer for layer in count_program(program)}
    counts = total(tuple(layers[name] for name in group))
    post = total(tuple(layers[name] for name in group if not isinstance(layers[name].instruction, Convolve)))

    def number() -> int:
        return int(random.integers(0, 1000))

    idle = number()
    return StepTrace(
        name=group[-1],
        kind="sum",
        instructions=group,
        cycles=Cycles(
            compute=number(),
            weight_load=number(),
            activation_load=number(),
            writeback=number(),
            drain=8,
            stall=number(),
        ),
        actions=counts.actions,
        post_actions=post.actions,
        macs_full=counts.macs_full,
        macs_trimmed=counts.macs_trimmed,
        macs_executed=counts.macs_full + idle + number(),
        macs_idle=idle,
        reads_bits={MemoryKind.WEIGHTS: number(), MemoryKind.ACTIVATIONS: number()},
        writes_bits={MemoryKind.RESIDUALS: number()},
    )


def _parts(random: np.random.Generator) -> dict[Part, EnergyRange]:
    chosen: list[Part] = [Component.ARRAY, Component.POST, MemoryKind.WEIGHTS, Component.LEAKAGE]
    return {part: _range(random) for part in chosen if random.integers(0, 4)}


def _range(random: np.random.Generator) -> EnergyRange:
    low, nominal, high = sorted(Fraction(int(n), 1024) for n in random.integers(1, 10**6, 3))
    return EnergyRange(low=low, nominal=nominal, high=high)
