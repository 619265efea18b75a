"""Cycles, operations and traffic of programs on engines: by hand, and laws that hold for all of them."""

import numpy as np
import pytest
from hardware_strategies import archs_for, engine_programs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from program_builder import Builder, one_of_each
from program_strategies import programs

from bnhw.count import ActionKind, count_program, total
from bnhw.dtypes import IntegerType
from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import DRAIN, FETCH, PARTIAL_SUM_LATENCY, WEIGHT_LOAD, Arch
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.mapping import map_program
from bnhw.hardware.schedule import schedule, schedule_engine
from bnhw.hardware.steps import EngineProgram, Step
from bnhw.hardware.trace import Cycles, MemoryKind, StepTrace, add_counts
from bnhw.ops import Window
from bnhw.program import Convolve, Program, Tensor

random_programs = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
EDGE = FETCH + DRAIN


def codes(bits: int, *, signed: bool = False) -> Tensor:
    return Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=bits, signed=signed), scale=0.5)


def engine(**options: object) -> Arch:
    small: dict[str, object] = {"pe": 4, "simd": 8, "lookups": 2, "act_bits": 4, "comparators": 3}
    return load_arch("engine-16x64").with_options(**(small | options))


def layer(*, post: str, out_channels: int = 6) -> Program:
    """A lookup to 5-bit codes of 12 channels, 6 x 5 pixels, and a padded 3x3 convolution."""
    b = Builder(random=np.random.default_rng(0), shape=(6, 5, 12))
    start = b.look_up(b.tensors["image"], codes(5), per_channel=False)
    window = Window(kernel=(3, 3), stride=(2, 1), pads=(1, 1, 1, 1))
    x = b.convolve(start, window, groups=1, out_channels=out_channels, bits=1)
    if post == "threshold":
        x = b.threshold(x, codes(4), levels=7)
    if post == "csd":
        x = b.requantise(x, codes(12, signed=True), multiplier_bits=0, digits=2)
    return b.program(b.sum_global(x))


def test_a_convolution_by_hand() -> None:
    trace = schedule(layer(post="threshold"), engine())
    step = trace.steps[1]
    # 3 x 5 pixels, 2 blocks; an interval reads 9 taps, 2 words, 2 planes; 7 levels take 3 cycles, the result 1 plane
    assert step.cycles == Cycles(compute=15 * 2 * 36, drain=EDGE + 2)
    assert step.macs_executed == 15 * 2 * 36 * 4 * 8
    assert step.macs_full == 15 * 9 * 12 * 6
    assert step.macs_idle == 15 * 2 * 36 * 32 - 2 * step.macs_full
    inside = (2 + 3 + 3) * (2 + 3 + 3 + 3 + 2)
    assert step.macs_trimmed == inside * 12 * 6
    assert step.reads_bits == {
        MemoryKind.ACTIVATIONS: inside * 2 * 2 * 2 * 8 * 4,  # blocks, words, planes, lanes, bits
        MemoryKind.WEIGHTS: 15 * 2 * 18 * 32,
        MemoryKind.THRESHOLDS: 15 * 2 * 3 * 4 * (3 * 33 + 1),
        MemoryKind.DESCRIPTORS: 1024,
    }
    assert step.writes_bits == {MemoryKind.ACTIVATIONS: 15 * 2 * 4 * 4}


def test_a_weight_stationary_convolution_by_hand() -> None:
    step = schedule(layer(post="csd"), engine(dataflow="weight-stationary", csd_digits=2)).steps[1]
    # 18 words of weights a block, 15 pixels of 2 planes each
    assert step.cycles == Cycles(compute=2 * 18 * 15 * 2, weight_load=2 * 18 * WEIGHT_LOAD, drain=EDGE)
    assert step.reads_bits[MemoryKind.WEIGHTS] == 2 * 18 * 32
    moved = 15 * 2 * 17 * 4 * 32
    assert step.reads_bits[MemoryKind.PARTIAL_SUMS] == step.writes_bits[MemoryKind.PARTIAL_SUMS] == moved


def test_one_pixel_waits_for_its_partial_sum() -> None:
    b = Builder(random=np.random.default_rng(0), shape=(3, 3, 8))
    start = b.look_up(b.tensors["image"], codes(4), per_channel=False)
    program = b.program(b.convolve(start, Window(kernel=(3, 3)), groups=1, out_channels=3, bits=1))
    step = schedule(program, engine(dataflow="weight-stationary")).steps[1]
    assert step.cycles.stall == 8 * (PARTIAL_SUM_LATENCY - WEIGHT_LOAD - 1)


def test_lane_steps_by_hand() -> None:
    trace = schedule(layer(post="csd"), engine(csd_digits=2))
    look_up, _, pool = trace.steps
    # the fullest block of 4 lanes takes 2 lookup memories 2 cycles, as many as 2 planes take to write
    assert look_up.cycles == Cycles(activation_load=30 * 3, writeback=30 * 3, drain=EDGE + 1 + 1)
    assert look_up.reads_bits[MemoryKind.LOOKUPS] == 30 * 12 * 16
    assert look_up.reads_bits[MemoryKind.RESIDUALS] == 30 * 3 * 64
    # 15 pixels of 12-bit numbers are summed
    assert pool.cycles == Cycles(activation_load=15 * 2, drain=EDGE)


def test_a_slow_post_unit_stalls_and_operand_b_waits_for_the_port() -> None:
    b = Builder(random=np.random.default_rng(0), shape=(2, 2, 4))
    wide = codes(12, signed=True)
    start = b.look_up(b.tensors["image"], codes(4), per_channel=False)
    stream = b.requantise(start, wide, multiplier_bits=1)
    branch = b.requantise(stream, wide, multiplier_bits=1)
    summed = b.add(stream, branch, -9, 9)
    program = b.program(b.sum_global(b.threshold(summed, codes(4), levels=7)))

    def cycles(**options: object) -> list[Cycles]:
        return [step.cycles for step in schedule(program, engine(**options)).steps]

    _, _, addition, threshold, _ = cycles()
    assert addition == Cycles(activation_load=4 * 2, drain=EDGE)
    assert threshold == Cycles(activation_load=4, stall=4 * 2, drain=EDGE + 2)
    ports = cycles(memories={"residuals": {"words": 16384, "read_ports": 2}})
    assert ports[2] == Cycles(activation_load=4, drain=EDGE)


@random_programs
@given(engine_programs())
def test_the_trace_adds_up(mapped: EngineProgram) -> None:
    trace = schedule_engine(mapped)
    assert [step.name for step in trace.steps] == [step.name for step in mapped.steps]
    assert trace.cycles.total == sum(step.cycles.total for step in trace.steps)
    assert all(min(getattr(s.cycles, name) for name in Cycles.__dataclass_fields__) >= 0 for s in trace.steps)
    counts = total(count_program(mapped.program))
    assert add_counts(step.actions for step in trace.steps) == dict(counts.actions)
    assert sum(step.macs_trimmed for step in trace.steps) == counts.macs_trimmed
    assert sum(step.macs_full for step in trace.steps) == counts.macs_full
    assert 0 <= trace.utilisation <= 1 > trace.padding_waste >= 0
    convolutions = [c for c in count_program(mapped.program) if isinstance(c.instruction, Convolve)]
    of_arrays = add_counts(c.counts.actions for c in convolutions)
    after = add_counts(step.post_actions for step in trace.steps)
    assert add_counts((after, of_arrays)) == dict(counts.actions)


@random_programs
@given(engine_programs())
def test_no_step_reads_less_than_it_needs_or_works_more_than_it_could(mapped: EngineProgram) -> None:
    for step, trace in zip(mapped.steps, schedule_engine(mapped).steps, strict=True):
        place = step.source.place
        touched = _touched_pixels(step)
        if step.convolve is not None:
            channels = {c for w in step.convolve.blocks for c in range(w.first, w.first + w.words)}
            least = touched * min(len(channels) * mapped.arch.simd, place.shape[2]) * place.bits
            assert trace.reads_bits.get(place.memory, 0) >= least
            convolve = next(i for i in mapped.program.instructions if i.output == step.convolve.instruction)
            assert isinstance(convolve, Convolve)
            assert trace.reads_bits[MemoryKind.WEIGHTS] >= mapped.program.weight_storage_bits(convolve)
            assert trace.macs_executed >= trace.macs_full * place.planes >= trace.macs_trimmed
        else:
            shared = max(0, min(place.shape[2], step.channels - step.source.first_block * mapped.arch.pe))
            assert trace.reads_bits.get(place.memory, 0) >= touched * shared * place.bits
        written = step.pixels * step.channels * step.result.bits
        assert trace.writes_bits[step.result.memory] >= written
        ports = trace.cycles.total
        for kind, bits in trace.reads_bits.items():
            width = mapped.arch.simd * mapped.arch.act_bits if kind is MemoryKind.ACTIVATIONS else 0
            width = max(width, mapped.arch.word_bits(kind) * _ports(mapped.arch, kind))
            assert bits <= ports * width


def _ports(arch: Arch, kind: MemoryKind) -> int:
    return arch.lookups if kind is MemoryKind.LOOKUPS else arch.memories[kind].read_ports


def _touched_pixels(step: Step) -> int:
    height, width, _ = step.source.place.shape
    touched = set()
    for y in range(step.rows):
        for x in range(step.columns):
            for i in range(step.window.kernel[0]):
                for j in range(step.window.kernel[1]):
                    row = y * step.window.stride[0] - step.window.pads[0] + i
                    column = x * step.window.stride[1] - step.window.pads[1] + j
                    if 0 <= row < height and 0 <= column < width:
                        touched.add((row, column))
    return len(touched)


@random_programs
@given(st.data())
def test_half_as_many_pes_are_never_faster(data: st.DataObject) -> None:
    """Without groups, whose blocks then read fewer words, and with one lookup memory a PE."""
    program = data.draw(programs(max_steps=3))
    assume(all(i.groups == 1 for i in program.instructions if isinstance(i, Convolve)))
    arch = data.draw(archs_for(program))
    assume(arch.pe % 2 == 0)
    arch = arch.with_options(lookups=arch.pe)
    half = arch.with_options(pe=arch.pe // 2, lookups=arch.pe // 2)
    assert schedule(program, half).cycles.total >= schedule(program, arch).cycles.total


@random_programs
@given(engine_programs())
def test_weights_held_are_read_once_and_results_stay_the_same_work(mapped: EngineProgram) -> None:
    held = map_program(mapped.program, mapped.arch.with_options(dataflow="weight-stationary"))
    for step, one, other in zip(mapped.steps, schedule_engine(mapped).steps, schedule_engine(held).steps, strict=True):
        assert one.cycles.compute == other.cycles.compute
        assert one.reads_bits.get(MemoryKind.ACTIVATIONS) == other.reads_bits.get(MemoryKind.ACTIVATIONS)
        if step.convolve is not None:
            once = one.reads_bits[MemoryKind.WEIGHTS]
            assert once == other.reads_bits[MemoryKind.WEIGHTS] * step.pixels
            assert other.cycles.weight_load * mapped.arch.word_bits(MemoryKind.WEIGHTS) * step.pixels == once
        else:
            assert one == other


def actions(step: StepTrace, kind: ActionKind) -> int:
    return sum(number for action, number in step.post_actions.items() if action.kind is kind)


def test_operations_follow_the_compiled_program() -> None:
    csd = schedule(layer(post="csd"), engine(csd_digits=2)).steps[1]
    digits = one_or_two_digits(layer(post="csd"))
    assert actions(csd, ActionKind.ADD) == 15 * (6 + digits)  # B, and the second digit where there is one
    assert actions(csd, ActionKind.MULTIPLY) == 0
    compared = schedule(layer(post="threshold"), engine()).steps[1]
    assert actions(compared, ActionKind.COMPARE) == 15 * 6 * 7
    assert actions(compared, ActionKind.ADD) == 0


def one_or_two_digits(program: Program) -> int:
    (multiplier,) = (array for name, array in program.constants.items() if name.endswith("multiplier"))
    return sum(bin(abs(int(m)) ^ abs(3 * int(m))).count("1") - 1 for m in multiplier.flat if m)


def test_channels_that_fill_no_block_are_waste() -> None:
    def waste(out_channels: int) -> float:
        return schedule(layer(post="csd", out_channels=out_channels), engine(csd_digits=2)).padding_waste

    assert waste(8) == pytest.approx(1 - 12 / 16)
    assert waste(5) == pytest.approx(1 - 12 / 16 * 5 / 8)


def test_every_kind_of_instruction_is_timed() -> None:
    arch = engine(datapath="mul", post="multiply", multiplier_bits=24, product_bits=16, pe=1, lookups=1, simd=4)
    trace = schedule(one_of_each(), arch)
    assert {step.kind for step in trace.steps} == {
        "sum + lookup",
        "sum",
        "convolve + arithmetic",
        "convolve + arithmetic + add",
        "sum + threshold",
        "sum + arithmetic",
        "maximum",
        "multiply",
    }
    assert trace.clock_mhz == 200


def test_a_program_that_does_not_run_is_refused() -> None:
    with pytest.raises(ArchMismatch, match="1-bit weights"):
        schedule(one_of_each(), engine(pe=1, lookups=1))
