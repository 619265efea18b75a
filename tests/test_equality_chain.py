"""Reference = every kernel = integer ONNX, on every tensor of random programs; and each link can fail."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from program_builder import Builder, one_of_each
from program_strategies import programs, programs_with_images

from bnhw.compare import Executor, first_difference
from bnhw.dtypes import Array, IntegerType
from bnhw.integer_onnx import program_to_onnx
from bnhw.kernels.packing import pack_bits, unpack_bits
from bnhw.kernels.select import runnable_choices
from bnhw.machine import Machine
from bnhw.onnx_machine import OnnxMachine, onnx_logits
from bnhw.ops import Window
from bnhw.program import (
    INSTRUCTIONS,
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    Tensor,
    Threshold,
)
from bnhw.program_check import check_program

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def tensors_of(executor: Executor, images: Array) -> dict[str, Array]:
    """Every tensor of a batch by name."""
    return {step.instruction.output: step.value for step in executor.steps(images)}


def assert_one_result(program: Program, images: Array) -> None:
    """Every executor gives the same integers, and every one of them a result of its own."""
    check_program(program)
    expected = tensors_of(Machine(program, "reference"), images)
    assert expected.keys() == {instruction.output for instruction in program.instructions}
    others: list[Executor] = [Machine(program, choice) for choice in runnable_choices() if choice != "reference"]
    others.append(OnnxMachine(program))
    for executor in others:
        found = tensors_of(executor, images)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{name} by {executor.name}")
    logits = onnx_logits(program_to_onnx(program).SerializeToString(), images)
    np.testing.assert_array_equal(logits, expected[program.output].reshape(len(images), -1))


@settings(UNHURRIED, max_examples=200)
@given(programs_with_images())
def test_every_executor_gives_the_reference_s_integers(case: tuple[Program, Array]) -> None:
    assert_one_result(*case)


@pytest.mark.slow
@settings(UNHURRIED, max_examples=2000)
@given(programs_with_images())
def test_every_executor_gives_the_reference_s_integers_on_2000_programs(case: tuple[Program, Array]) -> None:
    assert_one_result(*case)


# What the random programs hold.


def features(program: Program) -> set[str]:
    """What a program has of all that programs can have."""
    found = set()
    for instruction in program.instructions:
        source, result = program.tensor[instruction.inputs[0]], program.tensor[instruction.output]
        found |= {instruction.kind, *_own_features(program, instruction, source)}
        if isinstance(instruction, AddSaturating):
            found.add("residual of more than 16 bits" if result.dtype.bits > 16 else "residual")
    return found


def _own_features(program: Program, instruction: Instruction, source: Tensor) -> set[str]:
    found = set()
    window = getattr(instruction, "window", None)
    if window is not None:
        kind = instruction.kind
        found |= {f"strided {kind}"} if max(window.stride) > 1 else set()
        found |= {f"padded {kind}"} if any(window.pads) else set()
        found |= {f"unevenly padded {kind}"} if len(set(window.pads)) > 1 else set()
    if isinstance(instruction, Convolve):
        found |= {f"weights of {instruction.weight_bits} bits", _coding(source)}
        found |= {"grouped"} if 1 < instruction.groups < source.shape[2] else set()
        found |= {"depthwise"} if instruction.groups == source.shape[2] > 1 else set()
        found |= {"padded by a zero point"} if any(instruction.window.pads) and source.zero_point else set()
    if isinstance(instruction, Requantise):
        found |= {f"mode {instruction.mode.value}"}
        found |= {"position classes"} if instruction.position_classes else set()
        rows = program.constants[instruction.offset].shape[1]
        found |= {"one constant a channel" if rows > 1 else "one constant for all"}
    if isinstance(instruction, Multiply):
        second = program.tensor[instruction.inputs[1]]
        found.add("one factor a channel" if second.shape[:2] != source.shape[:2] else "one factor a number")
        found |= {"zero points of both factors"} if source.zero_point and second.zero_point else set()
    return found


def _coding(source: Tensor) -> str:
    if source.bipolar:
        return "convolved bipolar codes"
    if source.dtype.bits > 8:
        return f"convolved {'signed' if source.dtype.signed else 'unsigned'} codes of more than 8 bits"
    return f"convolved {source.dtype}"


def test_random_programs_hold_all_that_programs_can_hold() -> None:
    counts: Counter[str] = Counter()

    @settings(UNHURRIED, max_examples=600, derandomize=True, database=None, phases=[Phase.generate])
    @given(programs())
    def collect(program: Program) -> None:
        counts.update(features(program))

    collect()
    expected = {instruction.kind for instruction in one_of_each().instructions}
    expected |= {f"weights of {bits} bits" for bits in range(1, 9)}
    expected |= {f"convolved {sign}{bits}" for sign in ("int", "uint") for bits in range(1, 9)}
    expected |= {f"convolved {sign} codes of more than 8 bits" for sign in ("signed", "unsigned")}
    expected |= {f"{how} {kind}" for how in ("strided", "padded") for kind in ("Convolve", "PoolSum", "PoolMaximum")}
    expected |= {f"mode {mode}" for mode in ("shift", "csd", "multiply")}
    expected |= {
        "grouped",
        "depthwise",
        "unevenly padded Convolve",
        "padded by a zero point",
        "convolved bipolar codes",
    }
    expected |= {"position classes", "one constant a channel", "one constant for all"}
    expected |= {"residual", "residual of more than 16 bits"}
    expected |= {"one factor a channel", "one factor a number", "zero points of both factors"}
    assert expected <= counts.keys(), sorted(expected - counts.keys())


# Each link can fail: one alteration of the program that the second executor runs, and where it must be seen.


def chain() -> Program:
    """A fixed program of every kind of instruction but Threshold, every bound of which some image reaches."""
    builder = Builder(random=np.random.default_rng(3), shape=(5, 4, 2))
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=4, signed=False), scale=0.5, zero_point=3)
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=10, signed=True), scale=0.5)
    pool = Window(kernel=(2, 2), stride=(2, 2), pads=(0, 0, 1, 0))
    start = builder.look_up(builder.tensors["image"], code, per_channel=True)  # t0
    padded = PadChannels(inputs=("t0",), output="t1", before=1, after=1)
    taps = builder.same_coding(padded, (start,), (5, 4, 4))
    same = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    first = builder.convolve(taps, same, groups=1, out_channels=4, bits=1)  # t2
    left = builder.requantise(first, wide, multiplier_bits=8)  # t3
    second = builder.convolve(taps, same, groups=1, out_channels=4, bits=5)  # t4
    right = builder.requantise(second, wide, multiplier_bits=1)  # t5
    residual = builder.add(left, right, -150, 150)  # t6
    codes = builder.requantise(residual, code, multiplier_bits=0)  # t7
    means = builder.requantise(builder.pool_sum(codes, pool), code, multiplier_bits=6, classes=2)  # t8, t9
    maximum = PoolMaximum(inputs=("t7",), output="t10", window=pool)
    largest = builder.same_coding(maximum, (codes,), (3, 2, 4))
    joined = builder.same_coding(Join(inputs=("t9", "t10"), output="t11"), (means, largest), (3, 2, 8))
    logits = builder.convolve(joined, Window(kernel=(1, 1)), groups=2, out_channels=6, bits=1)  # t12
    scores = builder.requantise(logits, wide, multiplier_bits=0)  # t13
    gate = builder.requantise(builder.sum_global(scores), code, multiplier_bits=4)  # t14, t15
    return builder.program(builder.sum_global(builder.multiply(scores, gate)))  # t16, t17


PROGRAM = chain()
IMAGES = np.random.default_rng(6).integers(0, 256, (24, 5, 4, 2)).astype(np.uint8)


def constant(name: str, change: Callable[[Array], Array]) -> Callable[[Program], Program]:
    """A change of one constant."""

    def apply(program: Program) -> Program:
        return replace(program, constants={**program.constants, name: change(program.constants[name].copy())})

    return apply


def instruction(output: str, change: Callable[[Instruction], Instruction]) -> Callable[[Program], Program]:
    """A change of one instruction."""

    def apply(program: Program) -> Program:
        instructions = tuple(change(i) if i.output == output else i for i in program.instructions)
        return replace(program, instructions=instructions)

    return apply


def attributes(output: str, **changes: Any) -> Callable[[Program], Program]:
    """Other attributes of one instruction."""
    return instruction(output, lambda found: replace(found, **changes))


def zero_point(name: str, change: int) -> Callable[[Program], Program]:
    """Another zero point of one tensor: the code that padding stands for."""

    def apply(program: Program) -> Program:
        tensors = (replace(t, zero_point=t.zero_point + change) if t.name == name else t for t in program.tensors)
        return replace(program, tensors=tuple(tensors))

    return apply


def flip_bit(words: Array) -> Array:
    bits = unpack_bits(words, 64 * len(words))
    bits[5] ^= True
    return pack_bits(bits)


def add_to(place: tuple[int, ...], number: int) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array[place] += number
        return array

    return change


def window_of(output: str) -> Callable[[Program], Program]:
    """The same size of result from other pixels: the padding above moves below."""

    def change(found: Instruction) -> Instruction:
        assert isinstance(found, PoolSum | PoolMaximum)
        top, left, bottom, right = found.window.pads
        return replace(found, window=replace(found.window, pads=(bottom, right, top, left)))

    return instruction(output, change)


MUTATIONS: dict[str, tuple[Callable[[Program], Program], str]] = {
    "an entry of a table": (constant("t0/table", lambda t: np.where(t == 7, 8, t).astype(t.dtype)), "t0"),
    "what padded channels hold": (zero_point("t0", 1), "t1"),
    "one 1-bit weight": (constant("t2/weights", flip_bit), "t2"),
    "what padded taps stand for": (zero_point("t1", -1), "t2"),
    "an offset": (constant("t3/offset", lambda offset: offset + 1), "t3"),
    "a multiplier": (constant("t3/multiplier", add_to((0, 2), 1)), "t3"),
    "a shift": (constant("t3/shift", add_to((0, 1), 1)), "t3"),
    "one 5-bit weight": (constant("t4/weights", add_to((3, 1, 1, 1), 1)), "t4"),
    "the upper bound of a sum": (attributes("t6", high=149), "t6"),
    "the lower bound of a sum": (attributes("t6", low=-149), "t6"),
    "the upper bound of codes": (attributes("t7", high=14), "t7"),
    "the lower bound of codes": (attributes("t7", low=2), "t7"),
    "the zero point of a pool": (zero_point("t7", 1), "t8"),
    "the padding of a sum": (window_of("t8"), "t8"),
    "the classes of pixels": (constant("t9/classes", lambda classes: 1 - classes), "t9"),
    "the padding of a maximum": (window_of("t10"), "t10"),
    "the order of joined tensors": (attributes("t11", inputs=("t10", "t9")), "t11"),
    "the bits of a grouped convolution": (constant("t12/weights", flip_bit), "t12"),
    "the zero point of a global sum": (zero_point("t13", 1), "t14"),
    "the zero point of a factor": (zero_point("t15", 1), "t16"),
}


@pytest.mark.parametrize("executor", ["auto", "onnx"])
@pytest.mark.parametrize("what", MUTATIONS)
def test_one_altered_number_is_seen_where_it_acts(what: str, executor: str) -> None:
    mutate, place = MUTATIONS[what]
    altered = mutate(PROGRAM)
    second: Executor = OnnxMachine(altered) if executor == "onnx" else Machine(altered, executor)
    found = first_difference(Machine(PROGRAM, "reference"), second, IMAGES).difference
    assert found is not None
    assert found.instruction.output == place
    assert (found.first_executor, found.second_executor) == ("reference", executor)


def test_every_kind_of_instruction_is_altered_once() -> None:
    check_program(PROGRAM)
    kinds = {i.output: i.kind for i in PROGRAM.instructions}
    assert {kinds[place] for _, place in MUTATIONS.values()} == set(INSTRUCTIONS) - {"Threshold"}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (constant("t3/thresholds", add_to((0, 1, 2), 1)), "t3"),
        (constant("t3/falling", lambda falling: 1 - falling), "t3"),
        (attributes("t3", low=-1), "t3"),
    ],
    ids=["a threshold", "the direction", "the lowest code"],
)
def test_an_altered_threshold_step_is_seen(change: Callable[[Program], Program], place: str) -> None:
    thresholds = np.sort(np.random.default_rng(0).integers(-20, 20, (1, 4, 7)), axis=2)
    steps = Threshold(
        inputs=("t2",), output="t3", thresholds="t3/thresholds", falling="t3/falling", position_classes="", low=0
    )
    program = replace(
        PROGRAM,
        instructions=tuple(steps if i.output == "t3" else i for i in PROGRAM.instructions),
        constants={**PROGRAM.constants, "t3/thresholds": thresholds, "t3/falling": np.array([0, 1, 0, 1], np.int8)},
    )
    assert first_difference(OnnxMachine(program), OnnxMachine(program), IMAGES).difference is None
    found = first_difference(OnnxMachine(program), OnnxMachine(change(program)), IMAGES).difference
    assert found is not None
    assert found.instruction.output == place
