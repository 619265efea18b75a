"""The machine: every set of kernels gives the reference's integers, however a batch is split."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program_builder import Builder, one_of_each
from program_strategies import programs_with_images

from bnhw import machine as machine_module
from bnhw.dtypes import Array, IntegerType
from bnhw.errors import BadInput
from bnhw.kernels.select import runnable_choices
from bnhw.machine import Machine, fit_images
from bnhw.ops import Window
from bnhw.program import (
    INSTRUCTIONS,
    AddSaturating,
    Convolve,
    Join,
    LookUp,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Tensor,
    Threshold,
)
from bnhw.program_check import check_program

SLOW = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def tensors_of(machine: Machine, images: Array) -> dict[str, Array]:
    """Every tensor of a batch by name."""
    return {step.instruction.output: step.value for step in machine.steps(images)}


@SLOW
@given(programs_with_images())
def test_all_kernels_give_the_references_integers_on_every_tensor(case: tuple[Program, Array]) -> None:
    program, images = case
    check_program(program)
    expected = tensors_of(Machine(program, "reference"), images)
    assert expected.keys() == {instruction.output for instruction in program.instructions}
    for choice in ("auto", "multiplexer", "bit_serial"):
        found = tensors_of(Machine(program, choice), images)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{name} by {choice}")


@SLOW
@given(programs_with_images())
def test_integers_stay_within_their_declared_type_and_shape(case: tuple[Program, Array]) -> None:
    program, images = case
    for name, value in tensors_of(Machine(program, "reference"), images).items():
        tensor = program.tensor[name]
        assert value.shape == (len(images), *tensor.shape)
        assert tensor.dtype.low <= value.min() <= value.max() <= tensor.dtype.high


@SLOW
@given(programs_with_images())
def test_every_tensor_equals_the_loops_of_this_test(case: tuple[Program, Array]) -> None:
    program, images = case
    expected = evaluate(program, images[:1])
    for name, value in tensors_of(Machine(program, "auto"), images[:1]).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_the_fixed_program_holds_every_kind_of_instruction() -> None:
    assert {instruction.kind for instruction in one_of_each().instructions} == set(INSTRUCTIONS)


# An oracle that shares no code with the kernels: one output element at a time, Python integers.


def evaluate(program: Program, images: Array) -> dict[str, Array]:
    """Every tensor of a batch, int64, by loops over output elements."""
    values: dict[str, Array] = {program.input: images.astype(np.int64)}
    for instruction in program.instructions:
        inputs = [values[name] for name in instruction.inputs]
        source = program.tensor[instruction.inputs[0]]
        result = np.zeros((len(images), *program.tensor[instruction.output].shape), np.int64)
        for place in np.ndindex(result.shape):
            result[place] = element(program, instruction, inputs, source, place)
        values[instruction.output] = result
    return values


def element(program: Program, instruction: object, inputs: list[Array], source: Tensor, place: tuple[int, ...]) -> int:
    """One integer of an instruction's result at (image, row, column, channel)."""
    n, y, x, c = place
    codes, zero_point = inputs[0][n], source.zero_point
    match instruction:
        case Convolve():
            return convolution_element(program, instruction, codes, source, (y, x, c))
        case Requantise():
            tables = [program.constants[name] for name in (instruction.offset, instruction.shift)]
            row = int(program.constants[instruction.position_classes][y, x]) if instruction.position_classes else 0
            offset, shift = (int(table[row, c % table.shape[1]]) for table in tables)
            factor = 1
            if instruction.multiplier:
                table = program.constants[instruction.multiplier]
                factor = int(table[row, c % table.shape[1]])
            return min(max((int(codes[y, x, c]) * factor + offset) >> shift, instruction.low), instruction.high)
        case Threshold(thresholds=name, falling=falling, low=low):
            table, acc = program.constants[name], int(codes[y, x, c])
            row = int(program.constants[instruction.position_classes][y, x]) if instruction.position_classes else 0
            falls = falling and program.constants[falling][c % table.shape[1]]
            limits: list[int] = table[row, c % table.shape[1]].tolist()
            return low + sum(acc <= t if falls else acc >= t for t in limits)
        case LookUp(table=name):
            table = program.constants[name]
            return int(table[c % len(table), codes[y, x, c]])
        case AddSaturating(low=low, high=high):
            return min(max(int(inputs[0][place]) + int(inputs[1][place]), low), high)
        case Multiply(inputs=(_, name)):
            other = inputs[1][n]
            one = other[y % other.shape[0], x % other.shape[1], c]
            return (int(codes[y, x, c]) - zero_point) * (int(one) - program.tensor[name].zero_point)
        case PoolSum(window=window):
            return sum(int(codes[yy, xx, c]) - zero_point for yy, xx, _, _ in taps(window, codes, y, x))
        case PoolMaximum(window=window):
            return max(int(codes[yy, xx, c]) for yy, xx, _, _ in taps(window, codes, y, x))
        case PadChannels(before=before):
            inside = before <= c < before + codes.shape[2]
            return int(codes[y, x, c - before]) if inside else zero_point
        case Join():
            joined = [int(code) for operand in inputs for code in operand[n, y, x]]
            return joined[c]
        case SumGlobal():
            return sum(int(code) - zero_point for code in codes[..., c].flat)
    raise AssertionError(instruction)


def taps(window: Window, codes: Array, y: int, x: int) -> list[tuple[int, int, int, int]]:
    """(row, column, kernel row, kernel column) of the taps that lie inside the image."""
    return [
        (yy, xx, ky, kx)
        for ky in range(window.kernel[0])
        for kx in range(window.kernel[1])
        if 0 <= (yy := y * window.stride[0] - window.pads[0] + ky) < codes.shape[0]
        and 0 <= (xx := x * window.stride[1] - window.pads[1] + kx) < codes.shape[1]
    ]


def convolution_element(
    program: Program, convolve: Convolve, codes: Array, source: Tensor, place: tuple[int, int, int]
) -> int:
    """One accumulator; its weights are read from the stored words bit by bit."""
    y, x, out = place
    out_channels, height, width, per_group = convolve.weight_shape
    stored = program.constants[convolve.weights]
    first = out // (out_channels // convolve.groups) * per_group
    total = 0
    for yy, xx, ky, kx in taps(convolve.window, codes, y, x):
        for channel in range(per_group):
            if convolve.weight_bits == 1:
                position = ((out * height + ky) * width + kx) * per_group + channel
                weight = 1 if (int(stored[position // 64]) >> position % 64) & 1 else -1
            else:
                weight = int(stored[out, ky, kx, channel])
            code = int(codes[yy, xx, first + channel])
            total += weight * (2 * code - 1 if source.bipolar else code - source.zero_point)
    return total


# Splitting.


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs_with_images(max_images=7, max_steps=2), st.integers(1, 3), st.integers(1, 4))
def test_chunks_and_threads_do_not_change_the_result(case: tuple[Program, Array], threads: int, chunk: int) -> None:
    program, images = case
    whole = Machine(program, "reference").run(images)
    largest = 8 * max(tensor.size for tensor in program.tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_module, "CHUNK_BYTES", chunk * largest)
        split = Machine(program, "auto").run(images, threads=threads)
    np.testing.assert_array_equal(split.logits, whole.logits)
    assert split.logits.dtype == np.int64
    assert split.saturations == whole.saturations
    assert split.scale == program.tensor[program.output].scale


def test_one_image_at_a_time_gives_the_same_logits() -> None:
    program = one_of_each()
    images = np.random.default_rng(1).integers(0, 256, (11, 5, 4, 2)).astype(np.uint8)
    machine = Machine(program)
    together = machine.run(images, threads=3).logits
    alone = [machine.run(images[at : at + 1]).logits[0] for at in range(len(images))]
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(together)) > 6, "the logits must depend on the images"


def test_progress_counts_up_to_all_images() -> None:
    seen: list[int] = []
    images = np.zeros((5, 5, 4, 2), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_module, "CHUNK_BYTES", 1)
        Machine(one_of_each()).run(images, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5]


# Saturation.


def saturating_program(low: int, high: int) -> Program:
    """Residual sums 2 (q - 128) of the pixels themselves, clamped to [low, high]."""
    builder = Builder(random=np.random.default_rng(0), shape=(2, 2, 1))
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=9, signed=True), scale=1.0)
    pixels = builder.look_up(builder.tensors["image"], wide, per_channel=False)
    builder.constants["t0/table"] = (np.arange(256) - 128).reshape(1, 256).astype(np.int16)
    builder.spans["t0"] = (-128, 127)
    return builder.program(builder.sum_global(builder.add(pixels, pixels, low, high)))


@pytest.mark.parametrize("choice", runnable_choices())
def test_saturated_sums_are_counted_exactly(choice: str) -> None:
    images = np.array(
        [[[0, 64], [128, 192]], [[255, 128], [63, 65]]], np.uint8
    )  # sums -256 -128 0 128 | 254 0 -130 -126
    result = Machine(saturating_program(-128, 127), choice).run(images)
    assert result.saturations == {"t1": 4}
    np.testing.assert_array_equal(result.logits, [[-128 - 128 + 0 + 127], [127 + 0 - 128 - 126]])


def test_saturated_sums_of_all_chunks_are_added() -> None:
    images = np.zeros((5, 2, 2, 1), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_module, "CHUNK_BYTES", 1)
        assert Machine(saturating_program(-128, 127)).run(images, threads=2).saturations == {"t1": 5 * 4}


def test_no_saturation_is_reported_where_no_sum_leaves_the_range() -> None:
    images = np.array([[[0, 255], [128, 1]]], np.uint8)
    assert Machine(saturating_program(-256, 255)).run(images).saturations == {"t1": 0}


# Results.


def test_lowest_class_wins_a_tie() -> None:
    result = Machine(one_of_each()).run(np.zeros((2, 5, 4, 2), np.uint8))
    tied = replace(result, logits=np.array([[1, 3, 3], [2, 2, 1]]))
    assert tied.predictions.tolist() == [1, 0]


def test_kernels_of_each_convolution_are_named() -> None:
    program = one_of_each()
    convolutions = {i.output: i.weight_bits for i in program.instructions if isinstance(i, Convolve)}
    result = Machine(program, "bit_serial").run(np.zeros((1, 5, 4, 2), np.uint8))
    assert result.kernels == {name: "bit_serial" if bits == 1 else "multiply" for name, bits in convolutions.items()}
    assert set(Machine(program, "reference").run(np.zeros((1, 5, 4, 2), np.uint8)).kernels.values()) == {"reference"}


def test_a_tensor_is_dropped_after_its_last_use() -> None:
    program = one_of_each()
    uses = defaultdict(list)
    for at, instruction in enumerate(program.instructions):
        for name in instruction.inputs:
            uses[name].append(at)
    assert {name: max(places) for name, places in uses.items()} == {
        name: at for name, at in program.last_uses.items() if name != program.output
    }
    assert program.last_uses[program.output] == len(program.instructions)


# Images.


@pytest.mark.parametrize("choice", runnable_choices())
def test_images_in_any_memory_order_are_the_same_images(choice: str) -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)
    expected = Machine(one_of_each(), choice).run(images).logits
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    backwards = images[::-1, ::-1].copy()[::-1, ::-1]
    for same in (np.asfortranarray(images), channels_first, backwards, images[:, :, :, ::-1].copy()[..., ::-1]):
        np.testing.assert_array_equal(Machine(one_of_each(), choice).run(same, threads=2).logits, expected)


def test_images_of_one_channel_may_leave_the_axis_out() -> None:
    program = saturating_program(-10, 10)
    images = np.random.default_rng(3).integers(0, 256, (4, 2, 2)).astype(np.uint8)
    np.testing.assert_array_equal(
        Machine(program).run(images).logits, Machine(program).run(images[..., np.newaxis]).logits
    )


def test_images_are_not_changed() -> None:
    images = np.random.default_rng(4).integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)
    before = images.copy()
    images.setflags(write=False)
    Machine(one_of_each()).run(images)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 5, 4, 2), np.float32), "images are float32; uint8 pixels 0..255 are expected"),
        (np.zeros((1, 5, 4, 2), np.int64), "images are int64; uint8"),
        (np.zeros((1, 5, 4, 3), np.uint8), r"\(1, 5, 4, 3\); expected .* = \(N, 5, 4, 2\)$"),
        (np.zeros((1, 2, 5, 4), np.uint8), "the order of the axes is another"),
        (np.zeros((5, 4, 2), np.uint8), r"images have the shape \(5, 4, 2\)"),
        (np.zeros((0, 5, 4, 2), np.uint8), "there are no images"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Array, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fit_images(one_of_each(), images)


def test_unknown_kernels_and_no_threads_are_refused() -> None:
    with pytest.raises(BadInput, match=r"'fast' is no choice of kernels, expected one of auto, amx"):
        Machine(one_of_each(), "fast")
    with pytest.raises(BadInput, match="threads is 0; at least 1"):
        Machine(one_of_each()).run(np.zeros((1, 5, 4, 2), np.uint8), threads=0)
