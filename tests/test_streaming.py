"""Streaming pipelines: foldings against brute force, latency and buffers against a simulation cycle by cycle."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from program_builder import BIT, Builder, one_of_each
from program_strategies import programs

from bnhw.dtypes import IntegerType
from bnhw.errors import BadInput
from bnhw.hardware.streaming import (
    FoldedUnit,
    StreamingDesign,
    StreamingUnit,
    divisors,
    fold,
    fold_for_budget,
    fold_for_rate,
    foldings,
    streaming_units,
)
from bnhw.hardware.streaming_latency import streaming_latency
from bnhw.ops import Window
from bnhw.program import Convolve, Program, Tensor

ANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
MHZ = 1e-6
"""A clock of one cycle a second: a rate of 1 / n images a second leaves n cycles."""


def small_network(seed: int, channels: tuple[int, int, int]) -> Program:
    """Two convolutions with a skip connection, a pool and a classifier."""
    builder = Builder(random=np.random.default_rng(seed), shape=(5, 4, channels[0]))
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=4, signed=False), scale=0.5)
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=10, signed=True), scale=0.5)
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    stem = builder.convolve(builder.tensors["image"], window, groups=1, out_channels=channels[1], bits=1)
    stream = builder.requantise(stem, wide, multiplier_bits=8)
    inner = builder.requantise(stream, code, multiplier_bits=8)
    branch = builder.requantise(
        builder.convolve(inner, window, groups=1, out_channels=channels[1], bits=1), wide, multiplier_bits=8
    )
    total = builder.requantise(builder.add(stream, branch, -400, 400), code, multiplier_bits=8)
    return builder.program(
        builder.sum_global(
            builder.requantise(
                builder.convolve(total, Window(kernel=(1, 1)), groups=1, out_channels=channels[2], bits=1),
                wide,
                multiplier_bits=8,
            )
        )
    )


CHANNELS = st.tuples(st.sampled_from((1, 2, 3)), st.sampled_from((1, 2, 4)), st.sampled_from((1, 3, 4)))


def every_design(program: Program) -> list[StreamingDesign]:
    """All foldings of all convolutions, with the widest other units, which cost no lanes of the budget."""
    units = streaming_units(program)
    options = [
        [(pe, simd) for pe in divisors(unit.matrix_height) for simd in divisors(unit.simd_of)]
        if unit.is_convolution
        else [(unit.matrix_height, 1)]
        for unit in units
    ]
    return [fold(units, widths) for widths in itertools.product(*options)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), CHANNELS, st.data())
def test_no_folding_reaches_a_rate_with_fewer_lanes(
    seed: int, channels: tuple[int, int, int], data: st.DataObject
) -> None:
    program = small_network(seed, channels)
    designs = every_design(program)
    interval = data.draw(st.integers(min(design.interval for design in designs), 2000))
    found = fold_for_rate(program, frames_per_second=1 / (interval + 0.5), clock_mhz=MHZ)
    assert found.interval <= interval
    able = [design for design in designs if design.interval <= interval]
    assert found.lanes == min(design.lanes for design in able)
    assert found.weight_words == max(design.weight_words for design in able)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), CHANNELS, st.data())
def test_no_folding_within_a_budget_is_faster(seed: int, channels: tuple[int, int, int], data: st.DataObject) -> None:
    program = small_network(seed, channels)
    designs = every_design(program)
    lanes = data.draw(st.sampled_from(sorted({design.lanes for design in designs}))) + data.draw(st.integers(0, 2))
    found = fold_for_budget(program, lanes=lanes)
    assert found.lanes <= lanes
    able = [design for design in designs if design.lanes <= lanes]
    assert found.interval == min(design.interval for design in able)
    assert found.lanes == min(design.lanes for design in able if design.interval == found.interval)


@ANY
@given(programs())
def test_pe_divides_output_channels_and_simd_input_channels(program: Program) -> None:
    for unit in streaming_units(program):
        for folded in foldings(unit):
            assert unit.matrix_height % folded.pe == 0
            assert unit.simd_of % folded.simd == 0
            assert folded.cycles * folded.lanes == unit.pixels * unit.matrix_height * unit.matrix_width
            assert folded.weight_words * folded.lanes == unit.weight_count


@ANY
@given(programs())
def test_units_hold_every_mac_and_every_instruction_once(program: Program) -> None:
    units = {unit.name: unit for unit in streaming_units(program)}
    assert set(units) <= {i.output for i in program.instructions}
    macs = sum(u.pixels * u.matrix_height * u.matrix_width for u in units.values() if u.is_convolution)
    weights = [(c, program.weights_of(c)) for c in program.instructions if isinstance(c, Convolve)]
    assert macs == sum(math.prod(program.tensor[c.output].shape[:2]) * array.size for c, array in weights)
    assert sum(u.weight_count for u in units.values()) == sum(array.size for _, array in weights)
    made = {program.input, *units}
    assert all(set(unit.sources) <= made for unit in units.values())
    assert program.output in units


class Pipeline:
    """The units cycle by cycle: each starts a step when it is idle and all pixels of the step's window are there."""

    def __init__(self, program: Program, design: StreamingDesign) -> None:
        self.program, self.design = program, design
        self.ready: dict[str, set[tuple[int, int]]] = {u.unit.name: set() for u in design.units}
        self.step = dict.fromkeys(self.ready, 0)
        self.left = dict.fromkeys(self.ready, 0)
        self.most: dict[tuple[str, str], int] = {}
        self.finish = dict.fromkeys(self.ready, 0)

    def shape(self, unit: StreamingUnit) -> tuple[int, int]:
        name = unit.sources[0] if unit.accumulates else unit.name
        return self.program.tensor[name].shape[:2]

    def needs(self, unit: StreamingUnit, name: str, step: int) -> set[tuple[int, int]]:
        height, width, _ = self.program.tensor[name].shape
        if (height, width) != self.program.tensor[unit.sources[0]].shape[:2]:
            return set(itertools.product(range(height), range(width)))
        row, column = divmod(step, self.shape(unit)[1])
        window = unit.window
        top, left = row * window.stride[0] - window.pads[0], column * window.stride[1] - window.pads[1]
        return {
            (y, x)
            for y in range(top, top + window.kernel[0])
            for x in range(left, left + window.kernel[1])
            if 0 <= y < height and 0 <= x < width
        }

    def run(self) -> int:
        """Cycles until the output is complete."""
        cycle = 0
        while self.step[self.program.output] < self.unit(self.program.output).unit.pixels:
            for folded in self.design.units:  # all start on what was there before this cycle
                if self.left[folded.unit.name] == 0 and self.can_start(folded):
                    self.left[folded.unit.name] = folded.cycles_per_pixel
            cycle += 1
            done = [f for f in self.design.units if self.left[f.unit.name] == 1]
            for name in self.left:
                self.left[name] = max(self.left[name] - 1, 0)
            for folded in done:
                self.complete(folded)
            for folded in done:
                self.watch(folded)
            for folded in done:
                self.step[folded.unit.name] += 1
        return cycle

    def unit(self, name: str) -> FoldedUnit:
        return next(folded for folded in self.design.units if folded.unit.name == name)

    def can_start(self, folded: FoldedUnit) -> bool:
        unit = folded.unit
        step = self.step[unit.name]
        return step < unit.pixels and all(
            self.needs(unit, name, step) <= self.ready[name] for name in unit.sources if name in self.ready
        )

    def complete(self, folded: FoldedUnit) -> None:
        unit = folded.unit
        if not unit.accumulates:
            self.ready[unit.name].add(divmod(self.step[unit.name], self.shape(unit)[1]))
        elif self.step[unit.name] == unit.pixels - 1:
            self.ready[unit.name].add((0, 0))

    def watch(self, folded: FoldedUnit) -> None:
        """What waits in front of a unit at the end of a step, before anything leaves."""
        unit = folded.unit
        for name in unit.sources:
            if name in self.ready:
                later = [self.needs(unit, name, step) for step in range(self.step[unit.name], unit.pixels)]
                first = min(min(needed) for needed in later if needed)
                key = (name, unit.name)
                self.most[key] = max(self.most.get(key, 0), sum(pixel >= first for pixel in self.ready[name]))


def drawn_design(data: st.DataObject, program: Program) -> StreamingDesign:
    return StreamingDesign(units=tuple(data.draw(st.sampled_from(foldings(unit))) for unit in streaming_units(program)))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(max_steps=4), st.data())
def test_latency_and_buffers_are_those_of_a_pipeline_stepped_cycle_by_cycle(
    program: Program, data: st.DataObject
) -> None:
    design = drawn_design(data, program)
    assume(sum(unit.cycles for unit in design.units) < 3000)
    pipeline = Pipeline(program, design)
    found = streaming_latency(program, design)
    assert found.cycles == pipeline.run()
    assert {(b.tensor, b.reader): b.pixels for b in found.buffers} == pipeline.most
    for buffer in found.buffers:
        tensor = program.tensor[buffer.tensor]
        assert buffer.bits == buffer.pixels * tensor.shape[2] * tensor.dtype.bits


@ANY
@given(programs(), st.data())
def test_latency_lies_between_the_slowest_unit_and_the_sum_of_all(program: Program, data: st.DataObject) -> None:
    design = drawn_design(data, program)
    found = streaming_latency(program, design)
    assert found.cycles <= sum(unit.cycles for unit in design.units)
    assert found.cycles >= next(u.cycles for u in design.units if u.unit.name == program.output)


def test_layers_overlap() -> None:
    """The skip connection of a residual block waits for the two lines that the convolution beside it needs."""
    program = small_network(0, (2, 4, 3))
    design = fold_for_budget(program, lanes=60)
    found = streaming_latency(program, design)
    every = [unit.cycles for unit in design.units]
    assert max(every) <= found.cycles < sum(every)
    (adder,) = (unit.unit for unit in design.units if unit.unit.kind == "AddSaturating")
    skip, _ = (buffer for buffer in found.buffers if buffer.reader == adder.name)
    assert skip.tensor == adder.sources[0]
    width = program.tensor[skip.tensor].shape[1]
    assert skip.pixels >= width + 2  # what the convolution beside it has taken in before its first pixel
    assert skip.bits == skip.pixels * 4 * 10


def tfc() -> Program:
    """The shape of TFC_1W1A: 784-64-64-64-10, 1-bit weights and activations."""
    builder = Builder(random=np.random.default_rng(0), shape=(28, 28, 1))
    bit = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
    current = builder.look_up(builder.tensors["image"], bit, per_channel=False)
    for at, size in enumerate((64, 64, 64, 10)):
        window = Window(kernel=(28, 28) if at == 0 else (1, 1))
        current = builder.convolve(current, window, groups=1, out_channels=size, bits=1)
        if at < 3:
            current = builder.requantise(current, bit, multiplier_bits=0)
    return builder.program(current)


def test_a_window_of_the_whole_image_slides_nowhere_and_takes_any_divisor_of_all_its_numbers() -> None:
    first = next(unit for unit in streaming_units(tfc()) if unit.is_convolution)
    assert (first.matrix_height, first.matrix_width, first.simd_of) == (64, 784, 784)
    assert foldings(first)[-1].cycles == 1


def test_depthwise_units_widen_over_channels() -> None:
    """FINN's depthwise unit: (channels / pe) * kernel * kernel cycles a pixel."""
    builder = Builder(random=np.random.default_rng(0), shape=(6, 6, 8))
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    program = builder.program(builder.convolve(builder.tensors["image"], window, groups=8, out_channels=8, bits=1))
    (unit,) = streaming_units(program)
    assert [(f.pe, f.simd, f.cycles) for f in foldings(unit)] == [(pe, 1, 36 * 9 * 8 // pe) for pe in (1, 2, 4, 8)]


def test_rate_follows_from_the_interval_and_the_clock() -> None:
    design = fold_for_rate(tfc(), frames_per_second=1000, clock_mhz=10)
    assert design.interval <= 10_000
    assert design.frames_per_second(10) == 10e6 / design.interval >= 1000


def test_widths_that_divide_nothing_are_all_named() -> None:
    units = streaming_units(tfc())
    widths = [(1, 1), (3, 5), (1, 1), (0, 2), (1, 1)]
    with pytest.raises(BadInput) as raised:
        fold(units, widths)
    message = str(raised.value)
    assert "pe is 3, expected one of 1, 2, 4, 8, 16, 32, 64" in message
    assert "simd is 5, expected one of 1, 2, 4, 7, 8, 14, 16, 28, 49, 56, 98, 112, 196, 392, 784" in message
    assert "pe is 0, expected one of 1, 2, 4, 8, 16, 32, 64" in message
    with pytest.raises(BadInput, match="2 pairs of pe and simd for 5 units; give one pair a unit"):
        fold(units, widths[:2])


def test_a_rate_out_of_reach_names_the_units_that_are_too_slow() -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(6, 6, 2))
    sums = builder.convolve(builder.tensors["image"], Window(kernel=(3, 3)), groups=1, out_channels=4, bits=1)
    program = builder.program(sums)
    with pytest.raises(
        BadInput, match=r"1e\+06 images a second at 100 MHz leave 100 cycles an image(.|\n)*t0: 144 cycles"
    ):
        fold_for_rate(program, frames_per_second=1e6, clock_mhz=100)
    with pytest.raises(BadInput, match="0 images a second at 1 MHz; give numbers above 0"):
        fold_for_rate(program, frames_per_second=0, clock_mhz=1)


def test_a_budget_below_one_lane_a_unit_is_refused() -> None:
    with pytest.raises(BadInput, match="a budget of 3 lanes for 4 units of convolutions; each needs one, give 4"):
        fold_for_budget(tfc(), lanes=3)
    assert fold_for_budget(tfc(), lanes=4).lanes == 4


def test_a_program_without_instructions_is_refused() -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(2, 2, 1))
    with pytest.raises(BadInput, match="program 'random' has no instruction; a pipeline needs at least one unit"):
        streaming_units(builder.program(builder.tensors["image"]))


def test_a_program_of_every_instruction_has_a_pipeline() -> None:
    program = one_of_each()
    design = fold_for_budget(program, lanes=20)
    assert streaming_latency(program, design).cycles > 0
