"""What each step costs and why it is not cheaper: every reason is reached, and the figures are those of the counts."""

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from program_builder import BIT, Builder, one_of_each
from program_strategies import programs
from rich.console import Console

import bnhw
from bnhw.cli.console import MIN_WIDTH
from bnhw.count import ActionKind, count_program, total
from bnhw.demo.digits import ONNX, load_digits
from bnhw.dtypes import IntegerType
from bnhw.ops import Window
from bnhw.options import RequantiseMode
from bnhw.program import Program, Requantise, Tensor, Threshold
from bnhw.program_check import check_program
from bnhw.reports.steps import OPERATIONS, CodeStep, code_steps, summarise_costs, summarise_modes
from bnhw.reports.tables import program_tables

WIDE = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=20, signed=True), scale=1.0)
CODE = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=4, signed=False), scale=1.0)
SIGN = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
POOL = Window(kernel=(3, 3), pads=(1, 1, 1, 1))


def step_of(program: Program) -> CodeStep:
    """The last step that makes codes."""
    return code_steps(program)[-1]


def requantise(
    mode: RequantiseMode,
    multiplier: Any,
    shift: Any,
    *,
    channels: int = 2,
    coding: Tensor = WIDE,
    offset: int = 1,
    asked: str = "",
    pooled: bool = False,
) -> Program:
    """A program whose last step has these constants, (classes, channels or 1), on 3x3 pixels."""
    builder = Builder(random=np.random.default_rng(0), shape=(3, 3, channels))
    source = builder.look_up(builder.tensors["image"], CODE, per_channel=False)
    if pooled:
        source = builder.pool_sum(source, POOL)
    multiplier = np.array(multiplier, np.int64)
    shift = np.broadcast_to(np.array(shift, np.int64), multiplier.shape)
    built = builder.requantise(source, coding, multiplier_bits=8, classes=len(multiplier))
    program = builder.program(builder.sum_global(built))
    step = program.instructions[-2]
    assert isinstance(step, Requantise)
    digits = 4 if mode is RequantiseMode.CSD else 0
    step = replace(step, mode=mode, digits=digits, multiplier_bits=24, low=coding.dtype.low, high=coding.dtype.high)
    constants = dict(program.constants) | {
        step.multiplier: multiplier,
        step.offset: np.full(multiplier.shape, offset, np.int64),
        step.shift: shift,
    }
    if pooled:
        constants[step.position_classes] = np.array([[2, 1, 2], [1, 0, 1], [2, 1, 2]])
    program = replace(
        program,
        instructions=(*program.instructions[:-2], step, program.instructions[-1]),
        constants=constants,
        provenance=replace(program.provenance, options={"requantise": asked} if asked else {}),
    )
    check_program(program)
    return program


SHIFT, CSD, MULTIPLY = RequantiseMode.SHIFT, RequantiseMode.CSD, RequantiseMode.MULTIPLY

REASONS: tuple[tuple[Program, str], ...] = (
    (requantise(SHIFT, [[1]], 3), "wires and one adder: nothing is cheaper"),
    (requantise(SHIFT, [[1]], 3, offset=0), "wires alone: nothing is cheaper"),
    (
        requantise(SHIFT, [[1, 2, 1]], [[3, 0, 3]], channels=3),
        "channels shift by 2 different numbers of places: a shifter instead of wires",
    ),
    (
        requantise(SHIFT, [[1], [1], [1]], [[3], [2], [1]], pooled=True),
        "divisors shift by 3 different numbers of places: a shifter instead of wires",
    ),
    (
        requantise(SHIFT, [[1, 0, 0]], [[3, 0, 0]], channels=3),
        "2 channels are constant, the others shift alike: a shifter",
    ),
    (requantise(CSD, [[1, -1]], 3), "a channel falls (negative gain): a shift cannot negate"),
    (requantise(MULTIPLY, [[-2, -1]], 3), "2 channels fall (negative gain): a shift cannot negate"),
    (requantise(CSD, [[9]], 3), "one gain for all channels, 1.125: needs 2 digits; csd:1 would be off by 11 %"),
    (
        requantise(CSD, [[3], [9], [9]], [[4], [5], [4]], pooled=True),
        "3 divisors (9, 6, 4 pixels): ratio 3/16 needs 2 digits; csd:1 would be off by 33 %",
    ),
    (
        requantise(CSD, [[3], [9]], [[4], [5]]),
        "2 divisors: ratio 3/16 needs 2 digits; csd:1 would be off by 33 %",
    ),
    (
        requantise(CSD, [[3, 7, 11]], 4, channels=3),
        "each of 3 channels has a gain of its own (a batch norm, weight scales): no common power of two; csd:2 would "
        "be off by 9.1 %",
    ),
    (
        requantise(CSD, [[3, 7, 3]], 4, channels=3),  # both have 2 digits
        "3 channels have 2 different ratios (a batch norm, weight scales): no common power of two; csd:1 would "
        "be off by 33 %",
    ),
    (
        requantise(CSD, [[32, 33, 33]], 5, channels=3),
        "channels with equally many digits have one ratio, 1 to 1.03125; csd:1 would be off by 3 %",
    ),
    (
        requantise(MULTIPLY, [[201]], 3, asked="multiply:16"),
        "one gain for all channels, 25.125: needs 4 digits; mode multiply:16 was asked for: csd:3 would hold them to "
        "0.5 %",
    ),
    (
        requantise(MULTIPLY, [[5, 3]], 3, asked="multiply:16"),
        "each of 2 channels has a gain of its own (a batch norm, weight scales): no common power of two; mode "
        "multiply:16 was asked for: csd:2 would hold them exactly",
    ),
    (
        requantise(MULTIPLY, [[0b1010101010101010101]], 3, asked="auto:0.5"),
        "one gain for all channels, 43690.6: needs 10 digits; multiplier of 24 bits, because the ratios need more than "
        "4 signed digits at the precision asked for: csd:4 would hold them to 0.39 %",
    ),
    (
        requantise(MULTIPLY, [[5]], 3),
        "one gain for all channels, 0.625: needs 2 digits; multiplier of 24 bits: csd:2 would hold them exactly",
    ),
    (requantise(SHIFT, [[1]], 0, coding=SIGN), "one comparison, exact: nothing is cheaper"),
    (requantise(MULTIPLY, [[1, -1]], 0, coding=SIGN), "one comparison, exact: nothing is cheaper"),
)


@pytest.mark.parametrize(("program", "reason"), REASONS, ids=[reason[:40] for _, reason in REASONS])
def test_a_requantise_step_says_why_it_is_not_cheaper(program: Program, reason: str) -> None:
    assert step_of(program).reason == reason


def test_a_lookup_and_an_addition_say_why_they_are_not_cheaper() -> None:
    found = {step.instruction.output: step for step in code_steps(one_of_each())}
    assert found["t0"].reason == "lookup of 256 entries in 2 tables: exact"
    assert found["t6"].reason == "codes of one scale, one adder and a clamp: nothing is cheaper"
    assert (found["t0"].kind, found["t6"].kind) == ("lookup", "add")


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        (15, "thresholds: exact, no adder; 15 comparators because the codes have 4 bits"),
        (6, "thresholds: exact, no adder; 6 comparators for the codes in reach of 16"),
        (1, "one threshold, exact: nothing is cheaper"),
    ],
)
def test_thresholds_say_how_many_comparators_they_need(levels: int, reason: str) -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(2, 2, 3))
    source = builder.look_up(builder.tensors["image"], WIDE, per_channel=False)
    step = step_of(builder.program(builder.threshold(source, CODE, levels=levels)))
    assert isinstance(step.instruction, Threshold)
    assert step.reason == reason
    assert step.for_one("comparators") == levels


def test_operations_are_those_for_one_number() -> None:
    step = step_of(requantise(CSD, [[11, 4, 3]], [[2, 2, 2]], channels=3))
    assert step.digits == {1: 1, 2: 1, 3: 1}
    assert step.digits_text == "digits: 1 in 1 channel, 2 in 1, 3 in 1"
    assert step.digit_additions == 9 * (2 + 0 + 1)
    assert step.for_one("additions") == 1 + (2 + 0 + 1) / 3
    assert step.for_one("shifters") == 2
    assert (step.for_one("comparators"), step.for_one("multiplications")) == (2, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_every_step_that_makes_codes_is_there_with_the_counts_of_its_layer(program: Program) -> None:
    steps = {step.instruction.output: step for step in code_steps(program)}
    kinds = {"LookUp", "Requantise", "Threshold", "AddSaturating"}
    layers = [layer for layer in count_program(program) if layer.instruction.kind in kinds]
    assert list(steps) == [layer.instruction.output for layer in layers]
    for layer in layers:
        step = steps[layer.instruction.output]
        size = program.tensor[layer.instruction.output].size
        for name, kind in OPERATIONS.items():
            counted = sum(count for action, count in layer.counts.actions.items() if action.kind is kind)
            assert round(step.for_one(name) * size) == counted
        assert step.reason
        entry = json.loads(json.dumps(step.as_json(), allow_nan=False))
        assert entry["result"] == layer.instruction.output
        assert entry["constant_bits"] == layer.counts.constant_bits
        if step.kind == "csd":
            assert sum(step.digits.values()) == program.tensor[layer.instruction.output].shape[2]


def test_errors_of_fewer_digits_are_those_of_the_nearest_sums() -> None:
    """Beside 11/16 lie 8/16 of one digit and 10/16 and 12/16 of two."""
    step = step_of(requantise(CSD, [[11]], 4))
    one, two, three, four = step.errors
    assert one == pytest.approx(abs(8 / 11 - 1))
    assert two == pytest.approx(1 / 11)
    assert (three, four) == (0, 0)


def test_the_closing_line_sums_up_all_steps() -> None:
    csd = code_steps(requantise(CSD, [[11, 3]], 4))
    multiply = code_steps(requantise(MULTIPLY, [[11, 3]], 4))
    sign = code_steps(requantise(SHIFT, [[1]], 0, coding=SIGN))
    steps = [*csd, *multiply, *sign]
    assert summarise_modes(steps) == "0 shift, 1 csd (mean 2.5 digits), 1 multiply, 1 threshold"
    assert summarise_modes(sign) == "0 shift, 0 csd, 0 multiply, 1 threshold"
    assert summarise_costs(steps).endswith("for an image 18 multiplications, 27 additions of csd digits")


def test_the_table_holds_every_step_and_its_reason_on_a_narrow_terminal() -> None:
    program = requantise(CSD, [[3], [9], [9]], [[4], [5], [4]], pooled=True)
    buffer = io.StringIO()
    Console(file=buffer, width=MIN_WIDTH).print(program_tables(program))
    assert max(map(len, buffer.getvalue().splitlines())) <= MIN_WIDTH
    text = " ".join(buffer.getvalue().split())
    assert "3 divisors (9, 6, 4 pixels): ratio 3/16 needs 2 digits" in text
    assert "digits: 2 in 2 channels" in text
    assert "in all: 0 shift, 1 csd (mean 2.0 digits)" in text


def test_the_demo_in_mode_shift_has_no_step_with_more_than_a_shift() -> None:
    pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")
    images = load_digits().train_images[:50]
    program = bnhw.compile(ONNX, images, bnhw.CompileOptions(requantise="shift"))
    steps = code_steps(program)
    assert {step.kind for step in steps} == {"lookup", "shift", "add"}
    assert "0 csd, 0 multiply, 0 threshold" in summarise_modes(steps)
    multiplied = total(count_program(program)).multipliers
    assert multiplied == sum(step.counts.multipliers for step in steps) == 0
    assert all(ActionKind.MULTIPLY not in {action.kind for action in step.counts.actions} for step in steps)
