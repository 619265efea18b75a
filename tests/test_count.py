"""Counts against loops over every tap, published figures, and a simulation of the memory."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program_builder import BIT, Builder
from program_strategies import programs

from bnhw.compiler import compile_model
from bnhw.count import (
    Action,
    ActionKind,
    array_multiplications,
    channel_digits,
    count_program,
    digit_additions,
    total,
)
from bnhw.demo.digits import ONNX
from bnhw.dtypes import IntegerType
from bnhw.errors import InvalidProgram
from bnhw.ops import Window
from bnhw.options import CompileOptions, RequantiseMode
from bnhw.program import (
    AddSaturating,
    Convolve,
    Multiply,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Tensor,
    Threshold,
)
from bnhw.program_check import check_program

ANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def taps_inside(window: Window, shape: tuple[int, int, int], rows: int, columns: int) -> int:
    """Taps of all windows that lie inside the image, counted one by one."""
    return sum(
        0 <= row * window.stride[0] - window.pads[0] + y < shape[0]
        and 0 <= column * window.stride[1] - window.pads[1] + x < shape[1]
        for row in range(rows)
        for column in range(columns)
        for y in range(window.kernel[0])
        for x in range(window.kernel[1])
    )


@ANY
@given(programs())
def test_macs_are_the_taps_counted_one_by_one(program: Program) -> None:
    for layer in count_program(program):
        convolve = layer.instruction
        if not isinstance(convolve, Convolve):
            assert layer.counts.macs_full == layer.counts.macs_trimmed == layer.counts.weight_bits == 0
            continue
        source, result = (program.tensor[name] for name in (convolve.inputs[0], convolve.output))
        rows, columns, channels = result.shape
        per_tap = channels * (source.shape[2] // convolve.groups)
        kernel = convolve.window.kernel
        assert layer.counts.macs_full == rows * columns * kernel[0] * kernel[1] * per_tap
        inside = taps_inside(convolve.window, source.shape, rows, columns)
        assert layer.counts.macs_trimmed == inside * per_tap
        assert layer.counts.weight_bits == kernel[0] * kernel[1] * per_tap * convolve.weight_bits


@ANY
@given(programs())
def test_one_bit_weights_need_no_multiplier_and_wider_ones_one_a_mac(program: Program) -> None:
    layers = count_program(program)
    for layer in layers:
        convolve, counts = layer.instruction, layer.counts
        if not isinstance(convolve, Convolve):
            continue
        source, result = (program.tensor[name] for name in (convolve.inputs[0], convolve.output))
        macs = counts.macs_full if source.zero_point else counts.macs_trimmed
        bits, sum_bits = source.dtype.bits, result.dtype.bits
        names = {action.name: count for action, count in counts.actions.items()}
        if convolve.weight_bits > 1:
            assert names == {f"multiply_{bits}x{convolve.weight_bits}": macs, f"add_{sum_bits}": macs}
            assert counts.multipliers == macs
        elif source.bipolar:
            assert names == {"xnor": macs, "popcount": macs}
        else:
            assert names == {f"mux_{bits}": macs, f"add_{sum_bits}": macs}
    wide = [layer for layer in layers if isinstance(layer.instruction, Convolve) and layer.instruction.weight_bits > 1]
    assert array_multiplications(layers) == sum(
        layer.counts.macs_full if program.tensor[layer.instruction.inputs[0]].zero_point else layer.counts.macs_trimmed
        for layer in wide
    )


@ANY
@given(programs())
def test_other_operations_are_those_of_their_outputs(program: Program) -> None:
    for layer in count_program(program):
        instruction, actions = layer.instruction, layer.counts.actions
        source, result = (program.tensor[name] for name in (instruction.inputs[0], instruction.output))
        kinds = Counter(dict.fromkeys(ActionKind, 0))
        for action, count in actions.items():
            kinds[action.kind] += count
        match instruction:
            case PoolSum(window=window) | PoolMaximum(window=window):
                rows, columns, channels = result.shape
                extra = channels * (taps_inside(window, source.shape, rows, columns) - rows * columns)
                constants = result.size if source.zero_point and isinstance(instruction, PoolSum) else 0
                kind = ActionKind.ADD if isinstance(instruction, PoolSum) else ActionKind.COMPARE
                assert kinds[kind] == extra + constants
            case SumGlobal():
                assert kinds[ActionKind.ADD] == source.size - result.size + (result.size if source.zero_point else 0)
            case AddSaturating():
                assert (kinds[ActionKind.ADD], kinds[ActionKind.COMPARE]) == (result.size, 2 * result.size)
            case Multiply(inputs=names):
                factors = [program.tensor[name] for name in names]
                assert kinds[ActionKind.MULTIPLY] == layer.counts.multipliers == result.size
                assert kinds[ActionKind.ADD] == sum(factor.size for factor in factors if factor.zero_point)
            case Threshold(thresholds=thresholds):
                levels = program.constants[thresholds].shape[2]
                assert actions == {Action(kind=ActionKind.COMPARE, widths=(source.dtype.bits,)): levels * result.size}
            case Requantise():
                assert kinds[ActionKind.COMPARE] in (
                    (result.size, 2 * result.size) if result.bipolar else (2 * result.size,)
                )
                assert kinds[ActionKind.MULTIPLY] in (0, result.size)
                if instruction.mode is RequantiseMode.SHIFT:
                    assert kinds[ActionKind.MULTIPLY] == 0


@ANY
@given(programs())
def test_totals_are_sums_over_layers(program: Program) -> None:
    layers = count_program(program)
    totals = total(layers)
    assert [layer.instruction for layer in layers] == list(program.instructions)
    for name in ("macs_full", "macs_trimmed", "weight_bits", "constant_bits", "multipliers"):
        assert getattr(totals, name) == sum(getattr(layer.counts, name) for layer in layers)
    for action in {action for layer in layers for action in layer.counts.actions}:
        assert totals.actions[action] == sum(layer.counts.actions.get(action, 0) for layer in layers)
    assert totals.macs_trimmed <= totals.macs_full


# Requantise steps.


@pytest.mark.parametrize(
    ("multiplier", "offset", "shift", "expected"),
    [
        (None, [0, 0], [3, 3], {"compare_10": 4}),
        (None, [0, 0], [3, 4], {"shift_10": 2, "compare_10": 4}),
        (None, [0, 5], [3, 3], {"add_11": 2, "compare_10": 4}),
        (None, [0, -(2**19)], [0, 0], {"add_21": 2, "compare_10": 4}),
        ([1, -1], [0, 0], [0, 0], {"compare_11": 4}),
        ([8, 8], [0, 0], [0, 0], {"compare_13": 4}),
        ([2, 8], [0, 0], [0, 0], {"shift_13": 2, "compare_13": 4}),
        ([3, -5], [1, 1], [2, 2], {"multiply_10x6": 2, "add_13": 2, "compare_13": 4}),
    ],
)
def test_a_requantise_step_costs_what_its_constants_need(
    multiplier: list[int] | None, offset: list[int], shift: list[int], expected: dict[str, int]
) -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, 2))
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=10, signed=True), scale=1.0)
    source = builder.look_up(builder.tensors["image"], wide, per_channel=False)
    program = builder.program(builder.requantise(source, wide, multiplier_bits=6))
    constants = dict(program.constants)
    for name, values in (("offset", offset), ("shift", shift), ("multiplier", multiplier)):
        if values is not None:
            constants[f"t1/{name}"] = np.array([values])
    step = program.instructions[1]
    assert isinstance(step, Requantise)
    wires = multiplier is None or all(number > 0 and number & (number - 1) == 0 for number in multiplier)
    mode = RequantiseMode.SHIFT if wires else RequantiseMode.MULTIPLY
    step = replace(step, mode=mode, multiplier="t1/multiplier" if multiplier else "")
    program = replace(program, instructions=(program.instructions[0], step), constants=constants)
    check_program(program)
    (_, layer) = count_program(program)
    found = {action.name: count for action, count in layer.counts.actions.items()}
    assert found == expected


def signed_digit_step(multiplier: list[int], digits: int) -> Program:
    """A step of mode csd on two channels of 10 bits; both shift by 2."""
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, 2))
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=10, signed=True), scale=1.0)
    source = builder.look_up(builder.tensors["image"], wide, per_channel=False)
    program = builder.program(builder.requantise(source, wide, multiplier_bits=6))
    step = program.instructions[1]
    assert isinstance(step, Requantise)
    step = replace(step, mode=RequantiseMode.CSD, digits=digits)
    constants = dict(program.constants) | {
        step.multiplier: np.array([multiplier]),
        step.offset: np.array([[1, 1]]),
        step.shift: np.array([[2, 2]]),
    }
    return replace(program, instructions=(program.instructions[0], step), constants=constants)


def test_signed_digits_cost_adders_and_shifters_and_no_multiplier() -> None:
    program = signed_digit_step([7, -5], digits=2)
    check_program(program)
    (_, layer) = count_program(program)
    found = {action.name: count for action, count in layer.counts.actions.items()}
    assert found == {"add_13": 2 + 2, "shift_13": 2 * 2, "compare_13": 4}
    assert layer.counts.multipliers == 0


def test_signed_digits_in_the_same_places_are_wires() -> None:
    (_, layer) = count_program(signed_digit_step([7, 7], digits=2))
    assert {action.kind for action in layer.counts.actions} == {ActionKind.ADD, ActionKind.COMPARE}


def test_each_channel_is_counted_with_its_own_signed_digits() -> None:
    program = signed_digit_step([11, 4], digits=3)  # 8 + 2 + 1, and wires
    check_program(program)
    (_, layer) = count_program(program)
    found = {action.name: count for action, count in layer.counts.actions.items()}
    assert found == {"add_14": 2 + 2, "shift_14": 3 + 1, "compare_14": 4}


def test_a_channel_is_counted_with_the_most_digits_of_its_divisors() -> None:
    program = signed_digit_step([1, 1], digits=3)
    step = program.instructions[1]
    assert isinstance(step, Requantise)
    rows = {
        step.multiplier: np.array([[1, 0], [11, 0]]),
        step.offset: np.array([[1, 1]] * 2),
        step.shift: np.array([[2, 2]] * 2),
    }
    program = replace(program, constants=dict(program.constants) | rows)
    assert channel_digits(program, step).tolist() == [3, 0]
    assert digit_additions(program, step) == 2


def test_a_multiplier_of_more_signed_digits_than_declared_is_refused() -> None:
    with pytest.raises(InvalidProgram, match="multipliers of more than 2 signed digits"):
        check_program(signed_digit_step([7, 11], digits=2))


@pytest.mark.parametrize(
    ("classes", "per_channel", "expected"),
    [(1, True, 5 * 7 * 8 + 5), (1, False, 7 * 8 + 1), (3, True, 3 * 5 * 7 * 8 + 5 + 6 * 2)],
)
def test_thresholds_take_their_own_bits_and_one_a_channel_for_the_slope(
    classes: int, per_channel: bool, expected: int
) -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(3, 2, 5))
    builder.spans["image"] = (-100, 100)  # thresholds of 8 bits
    coding = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=3, signed=False), scale=1.0)
    image = builder.tensors["image"]
    step = builder.threshold(image, coding, levels=7, classes=classes, per_channel=per_channel)
    falling = np.ones(5 if per_channel else 1, np.int8)
    name = builder.constant(f"{step.name}/falling", falling)
    made = builder.instructions[-1]
    assert isinstance(made, Threshold)
    builder.instructions[-1] = replace(made, falling=name)
    (layer,) = count_program(builder.program(step))
    assert layer.counts.constant_bits == expected
    assert layer.counts.actions == {Action(kind=ActionKind.COMPARE, widths=(8,)): 7 * 30}


def test_actions_are_named_by_kind_and_operand_bits() -> None:
    assert Action(kind=ActionKind.MULTIPLY, widths=(20, 16)).name == "multiply_20x16"
    assert Action(kind=ActionKind.XNOR).name == "xnor"
    assert Action(kind=ActionKind.LOOKUP).name == "lookup"


# Figures of others.


def bipolar_network(*, thermometer_channels: int = 256) -> Program:
    """The CIFAR-10 network of BinarEye: 2x2 convolutions of 256 channels without padding, two max pools.

    Outputs of 31, 30, 29, 28 pixels a side, a pool to 14, then 13 and 12, a pool to 6, then 5 and 4, and a dense layer
    from 4096 to 10 (B. Moons et al., BinarEye, CICC 2018).
    """
    builder = Builder(random=np.random.default_rng(0), shape=(32, 32, thermometer_channels))
    bit = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
    current = builder.look_up(builder.tensors["image"], bit, per_channel=False)
    pool = Window(kernel=(2, 2), stride=(2, 2))
    for convolutions in (4, 2, 2):
        if convolutions == 2:
            half = (current.shape[0] // 2, current.shape[1] // 2, current.shape[2])
            step = PoolMaximum(inputs=(current.name,), output=builder.name(), window=pool)
            current = builder.same_coding(step, (current,), half)
        for _ in range(convolutions):
            sums = builder.convolve(current, Window(kernel=(2, 2)), groups=1, out_channels=256, bits=1)
            current = builder.requantise(sums, bit, multiplier_bits=0)
    return builder.program(builder.convolve(current, Window(kernel=(4, 4)), groups=1, out_channels=10, bits=1))


def test_macs_and_weights_of_bineareye_are_the_published_ones() -> None:
    program = bipolar_network()
    check_program(program)
    convolutions = [i for i in program.instructions if isinstance(i, Convolve)]
    assert [program.tensor[c.output].shape[0] for c in convolutions] == [31, 30, 29, 28, 13, 12, 5, 4, 1]
    totals = total(count_program(program))
    assert totals.macs_full == totals.macs_trimmed == 1_006_673_920
    assert totals.weight_bits == 2_138_112
    assert totals.multipliers == 0
    named = {action.name: count for action, count in totals.actions.items()}
    assert named["xnor"] == named["popcount"] == 1_006_673_920
    assert not [name for name in named if name.startswith("mux")]


def test_a_convolution_of_qtools_has_the_macs_of_its_energy_figure() -> None:
    """3x3, 16 to 16 channels, 32x32 pixels: 2,359,296 MACs with padded taps."""
    builder = Builder(random=np.random.default_rng(0), shape=(32, 32, 16))
    sums = builder.convolve(
        builder.tensors["image"], Window(kernel=(3, 3), pads=(1, 1, 1, 1)), groups=1, out_channels=16, bits=1
    )
    (layer,) = count_program(builder.program(sums))
    assert layer.counts.macs_full == 2_359_296
    assert layer.counts.macs_trimmed == (3 * 32 - 2) ** 2 * 16 * 16


def dense_network(sizes: tuple[int, ...]) -> Program:
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, sizes[0]))
    bit = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
    current = builder.look_up(builder.tensors["image"], bit, per_channel=False)
    for size in sizes[1:]:
        sums = builder.convolve(current, Window(kernel=(1, 1)), groups=1, out_channels=size, bits=1)
        current = builder.requantise(sums, bit, multiplier_bits=0)
    return builder.program(current)


def test_macs_and_weights_of_tfc_are_those_of_the_model_zoo() -> None:
    totals = total(count_program(dense_network((784, 64, 64, 64, 10))))
    assert totals.macs_full == totals.macs_trimmed == totals.weight_bits == 59_008


@pytest.mark.parametrize(("width", "millions"), [(4, 4.3), (10, 26.8)])
def test_weights_of_the_wide_residual_networks_are_the_published_ones(width: int, millions: float) -> None:
    pytest.importorskip("torch", reason="the configurations are in bnhw.export, which needs torch")
    from bnhw.export.zoo import WideResNetConfig

    assert WideResNetConfig(depth=20, width=width).weight_count == pytest.approx(1e6 * millions, abs=1e5)


@pytest.fixture(scope="module")
def digits() -> dict[str, Program]:
    noise = np.random.default_rng(0).integers(0, 17, (8, 8, 8, 1)).astype(np.uint8)
    return {mode: compile_model(ONNX, noise, CompileOptions(requantise=mode)) for mode in ("multiply:16", "shift")}


@pytest.mark.parametrize("mode", ["multiply:16", "shift"])
def test_the_demo_has_268048_weight_bits_and_no_multiplier_in_its_array(mode: str, digits: dict[str, Program]) -> None:
    layers = count_program(digits[mode])
    totals = total(layers)
    assert totals.weight_bits == 268_048
    assert totals.macs_full == 2_518_528
    assert array_multiplications(layers) == 0


def test_mode_shift_leaves_no_multiplier_anywhere(digits: dict[str, Program]) -> None:
    assert total(count_program(digits["shift"])).multipliers == 0
    assert total(count_program(digits["multiply:16"])).multipliers > 0


@given(st.integers(2, 8))
@settings(max_examples=7, deadline=None)
def test_k_bit_weights_are_counted_as_multiplications(bits: int) -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(3, 3, 4))
    sums = builder.convolve(builder.tensors["image"], Window(kernel=(3, 3)), groups=2, out_channels=6, bits=bits)
    layers = count_program(builder.program(sums))
    assert array_multiplications(layers) == 9 * 2 * 6
    assert layers[0].counts.weight_bits == 9 * 2 * 6 * bits
