"""What the engine's probes show for the tensors of a program, and the tensors for what the probes showed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.hardware.folding import RawSums, raw_sums
from bnhw.hardware.steps import EngineProgram, Step
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    LookUp,
    PadChannels,
    Program,
    Requantise,
    Threshold,
)

NO_SUM = -(1 << 60)
"""In place of a raw sum that no accumulator stands for: no type holds it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepProbes:
    """Raw sums, post results and stored numbers of one step: int64 (rows, columns, channels of the step)."""

    raw: Array
    q: Array
    number: Array


def instruction_of(program: Program, output: str) -> Instruction:
    """The instruction that writes a tensor."""
    return next(instruction for instruction in program.instructions if instruction.output == output)


def step_tensors(engine: EngineProgram, step: Step, probes: StepProbes) -> Mapping[str, Array]:
    """The tensors of a step's instructions, by name; of a `Join` the channels that the step writes."""
    *inner, last = step.instructions
    tensors = {}
    for name in inner:
        match instruction_of(engine.program, name):
            case Requantise() | Threshold() | LookUp():
                tensors[name] = probes.q
            case Convolve() as convolve:
                tensors[name] = _accumulators(_raw_sums(engine, step, convolve), probes.raw)
            case _:
                tensors[name] = probes.raw
    return {**tensors, last: probes.number + step.result.low}


def step_probes(engine: EngineProgram, step: Step, tensors: Mapping[str, Array]) -> StepProbes:
    """What the probes show where the program's tensors are (rows, columns, channels) each."""
    program = engine.program
    instructions = [instruction_of(program, name) for name in step.instructions]
    first_channel = step.first_block * engine.arch.pe
    part = slice(first_channel, first_channel + step.channels)
    raw = q = _raw(engine, step, instructions[0], tensors)[:, :, part]
    for instruction in instructions:
        if isinstance(instruction, Convolve | Requantise | Threshold | LookUp):
            q = tensors[instruction.output]
    return StepProbes(raw=raw, q=q, number=tensors[step.name][:, :, part] - step.result.low)


def _raw(engine: EngineProgram, step: Step, first: Instruction, tensors: Mapping[str, Array]) -> Array:
    """The sums of main: all channels of the result."""
    source = engine.program.tensor[step.source.place.tensor]
    match first:
        case Convolve():
            raw = _raw_sums(engine, step, first)
            return (tensors[first.output] << raw.doublings) - raw.constant
        case Requantise() | Threshold() | AddSaturating():
            return tensors[source.name]
        case LookUp():
            return tensors[source.name] - source.dtype.low
        case PadChannels() | Join():
            return tensors[first.output] - source.zero_point
        case _:
            return tensors[first.output]


def _raw_sums(engine: EngineProgram, step: Step, convolve: Convolve) -> RawSums:
    assert step.convolve is not None
    return raw_sums(engine.program, engine.arch, convolve, step.convolve.phases, step.source.place.planes)


def _accumulators(raw: RawSums, sums: Array) -> Array:
    """acc of raw = acc * 2^h - c."""
    scaled = sums + raw.constant
    return np.where(scaled % (1 << raw.doublings), NO_SUM, scaled >> raw.doublings)
