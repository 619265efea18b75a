"""A program as a streaming pipeline in the manner of FINN: one unit a layer, each with its own width.

Not the engine of `docs/engine.md`, on which every layer runs in turn: here all layers exist at once and numbers flow
from each into the next. A convolution's unit multiplies a matrix of MH = output channels by MW = kernel height * kernel
width * input channels (of a group) with a vector for every output pixel; `pe` output channels and `simd` of MW are done
a cycle, so that a pixel takes (MH / pe) * (MW / simd) cycles (Umuroglu et al., FINN, FPGA 2017, equation of section 4).
`pe` divides MH, `simd` the input channels, or MW where one window covers the whole image and nothing slides.

Where FINN has a unit of its own kind for depthwise convolutions, grouped ones here are the same form with MW of one
group: pe lanes that serve different groups read the channels of their own. Pools, additions and other instructions have
units as well, with `pe` lanes and simd 1: one number a lane and cycle. A Requantise, Threshold or LookUp that alone
reads what a unit makes belongs to that unit and takes no cycles of its own.

A pipeline starts an image every `interval` cycles, those of its slowest unit; how long one image takes on its way is in
`bnhw.hardware.streaming_latency`, and is no sum of the units' cycles.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bnhw.errors import BadInput
from bnhw.ops import Window
from bnhw.program import (
    Convolve,
    Instruction,
    LookUp,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Threshold,
)

WHOLE_PIXEL = Window(kernel=(1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingUnit:
    """The hardware of one layer, not yet folded.

    name: the tensor it writes. sources: the tensors it reads. pixels: steps of an image, one an output pixel; where
    `accumulates`, one a pixel of the source, and the last one gives the only output pixel (a global sum).
    window: what a step needs of the first source, and of all that are as large. simd_of: the number that `simd`
    divides. weight_count: 0 where there are no weights.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    window: Window
    pixels: int
    matrix_height: int
    matrix_width: int
    simd_of: int
    weight_count: int = 0
    accumulates: bool = False

    @property
    def is_convolution(self) -> bool:
        """Whether its lanes multiply by weights."""
        return self.weight_count > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedUnit:
    """A unit with its widths."""

    unit: StreamingUnit
    pe: int
    simd: int

    @property
    def cycles_per_pixel(self) -> int:
        """(MH / pe) * (MW / simd)."""
        return (self.unit.matrix_height // self.pe) * (self.unit.matrix_width // self.simd)

    @property
    def cycles(self) -> int:
        """For all pixels of an image."""
        return self.unit.pixels * self.cycles_per_pixel

    @property
    def lanes(self) -> int:
        """pe * simd."""
        return self.pe * self.simd

    @property
    def weight_words(self) -> int:
        """Words of the weight memory, each of pe * simd weights."""
        return self.unit.weight_count // self.lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingDesign:
    """A pipeline: its units in the order of the program, all folded."""

    units: tuple[FoldedUnit, ...]

    @property
    def interval(self) -> int:
        """Cycles between the starts of two images: those of the slowest unit."""
        return max(unit.cycles for unit in self.units)

    @property
    def lanes(self) -> int:
        """Sum of pe * simd over the units of convolutions."""
        return sum(unit.lanes for unit in self.units if unit.unit.is_convolution)

    @property
    def other_lanes(self) -> int:
        """Sum of pe over all other units."""
        return sum(unit.lanes for unit in self.units if not unit.unit.is_convolution)

    @property
    def weight_words(self) -> int:
        """Words of all weight memories."""
        return sum(unit.weight_words for unit in self.units)

    def frames_per_second(self, clock_mhz: float) -> float:
        """Images a second at this clock."""
        return clock_mhz * 1e6 / self.interval


def streaming_units(program: Program) -> tuple[StreamingUnit, ...]:
    """The units of a program, in its order. Raises `BadInput` for a program without any layer."""
    readers: dict[str, list[int]] = {}
    for position, instruction in enumerate(program.instructions):
        for name in set(instruction.inputs):
            readers.setdefault(name, []).append(position)
    units, inside = [], set()
    for position, instruction in enumerate(program.instructions):
        if position in inside:
            continue
        last = instruction
        while len(behind := readers.get(last.output, [])) == 1 and last.output != program.output:
            if not isinstance(reader := program.instructions[behind[0]], Requantise | Threshold | LookUp):
                break
            inside.add(behind[0])
            last = reader
        units.append(_unit(program, instruction, last.output))
    if not units:
        raise BadInput(f"program {program.name!r} has no instruction; a pipeline needs at least one unit")
    return tuple(units)


def _unit(program: Program, instruction: Instruction, name: str) -> StreamingUnit:
    source = program.tensor[instruction.inputs[0]]
    height, width, channels = program.tensor[instruction.output].shape
    sums = isinstance(instruction, SumGlobal)
    window = instruction.window if isinstance(instruction, Convolve | PoolSum | PoolMaximum) else WHOLE_PIXEL
    taps = window.kernel[0] * window.kernel[1]
    depth, simd_of, weights = 1, 1, 0
    if isinstance(instruction, Convolve):
        depth, weights = instruction.weight_shape[3], math.prod(instruction.weight_shape)
        simd_of = taps * depth if height * width == 1 else depth
    return StreamingUnit(
        name=name,
        kind=instruction.kind,
        sources=instruction.inputs,
        window=window,
        pixels=source.shape[0] * source.shape[1] if sums else height * width,
        matrix_height=channels,
        matrix_width=taps * depth,
        simd_of=simd_of,
        weight_count=weights,
        accumulates=sums,
    )


def fold(units: Sequence[StreamingUnit], widths: Sequence[tuple[int, int]]) -> StreamingDesign:
    """Units with (pe, simd) each. Raises `BadInput` that lists every width that divides nothing."""
    if len(units) != len(widths):
        raise BadInput(f"{len(widths)} pairs of pe and simd for {len(units)} units; give one pair a unit")
    problems = []
    for unit, (pe, simd) in zip(units, widths, strict=True):
        for what, found, whole in (("pe", pe, unit.matrix_height), ("simd", simd, unit.simd_of)):
            if found < 1 or whole % found:
                problems.append(
                    f"{unit.name}: {what} is {found}, expected one of {', '.join(map(str, divisors(whole)))}"
                )
    if problems:
        raise BadInput("the units cannot be folded so:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return StreamingDesign(
        units=tuple(FoldedUnit(unit=u, pe=pe, simd=simd) for u, (pe, simd) in zip(units, widths, strict=True))
    )


def divisors(number: int) -> tuple[int, ...]:
    """All divisors of a positive number, ascending."""
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return (*low, *(number // d for d in reversed(low) if d * d != number))


def foldings(unit: StreamingUnit) -> tuple[FoldedUnit, ...]:
    """One folding for each number of lanes that a unit can have, ascending.

    Foldings of as many lanes take as many cycles and words; the one with the fewest pe has the fewest accumulators.
    """
    best: dict[int, FoldedUnit] = {}
    for pe in divisors(unit.matrix_height):
        for simd in divisors(unit.simd_of):
            best.setdefault(pe * simd, FoldedUnit(unit=unit, pe=pe, simd=simd))
    return tuple(best[lanes] for lanes in sorted(best))


MOST_CYCLES = 2**63
"""Between two images; no unit of any network takes so many."""


def fold_for_rate(program: Program, *, frames_per_second: float, clock_mhz: float) -> StreamingDesign:
    """The fewest lanes with which so many images a second pass at this clock.

    Exact, because units do not compete: each takes the fewest lanes that keep it within the interval. As many lanes
    always take as many weight words. Raises `BadInput` that lists the units that are too slow at full width.
    """
    if not (frames_per_second > 0 and clock_mhz > 0):
        raise BadInput(f"{frames_per_second} images a second at {clock_mhz} MHz; give numbers above 0")
    interval = math.floor(min(clock_mhz * 1e6 / frames_per_second, MOST_CYCLES))
    units = streaming_units(program)
    fastest = [(unit, foldings(unit)[-1].cycles) for unit in units]
    if slow := [f"  - {unit.name}: {cycles} cycles" for unit, cycles in fastest if cycles > interval]:
        raise BadInput(
            f"{frames_per_second:g} images a second at {clock_mhz:g} MHz leave {interval} cycles an image; units that "
            "take more at full width:\n" + "\n".join(slow) + "\nraise the clock or ask for fewer images a second"
        )
    return _fold_within(units, interval)


def fold_for_budget(program: Program, *, lanes: int) -> StreamingDesign:
    """The highest rate with at most so many lanes in the units of convolutions; of such, the one with fewest lanes.

    Exact: fewer cycles never take fewer lanes, so the shortest interval within the budget is found by bisection among
    all cycles that any unit can take. Raises `BadInput` where even one lane a unit is too much.
    """
    units = streaming_units(program)
    options = [foldings(unit) for unit in units]
    least = sum(unit.is_convolution for unit in units)
    if lanes < least:
        raise BadInput(f"a budget of {lanes} lanes for {least} units of convolutions; each needs one, give {least}")
    bound = max(folded[-1].cycles for folded in options)
    reachable = sorted({one.cycles for folded in options for one in folded if one.cycles >= bound})
    return _fold_within(units, _first(reachable, lambda interval: _fold_within(units, interval).lanes <= lanes))


def _fold_within(units: Sequence[StreamingUnit], interval: int) -> StreamingDesign:
    """Every unit with the fewest lanes that keep it within an interval that all of them can keep."""
    chosen = (next(one for one in foldings(unit) if one.cycles <= interval) for unit in units)
    return StreamingDesign(units=tuple(chosen))


def _first(ascending: Sequence[int], holds: Callable[[int], bool]) -> int:
    """The least number for which a condition holds that then holds for all larger ones; it holds for the last."""
    low, high = 0, len(ascending) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(ascending[middle]) else (middle + 1, high)
    return ascending[low]
