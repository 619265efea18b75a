"""Programs at the edges of what the file check lets through equal the reference in every tensor."""

from dataclasses import replace

import numpy as np
import pytest
from program_builder import Builder
from test_fused import CHOICES, assert_equal_to_reference
from test_fused_layers import BYTE, TWELVE, images_for

from bnhw.dtypes import IntegerType
from bnhw.ops import Window
from bnhw.options import RequantiseMode
from bnhw.plan import make_plan
from bnhw.plan_interpreter import interpreter_of
from bnhw.plan_memory import planes_name
from bnhw.plan_words import words_name
from bnhw.program import Program, Requantise, Tensor
from bnhw.program_check import MAX_WINDOW, check_program

THREE = Window(kernel=(3, 3), pads=(1, 1, 1, 1))


def renamed(program: Program, old: str, new: str) -> Program:
    """The same program, a tensor called otherwise."""

    def name(text: str) -> str:
        return new if text == old else text

    return replace(
        program,
        instructions=tuple(
            replace(i, inputs=tuple(map(name, i.inputs)), output=name(i.output)) for i in program.instructions
        ),
        tensors=tuple(replace(t, name=name(t.name)) for t in program.tensors),
    )


def test_what_plans_call_their_own_is_no_name_of_a_program() -> None:
    assert not planes_name("a").isprintable()
    assert not words_name("a").isprintable()


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.parametrize("name", ["t0 in planes", "t0 in words"])
def test_tensors_may_have_any_printable_name(kernels: str, name: str) -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(4, 4, 8))
    codes = builder.requantise(builder.tensors["image"], TWELVE, multiplier_bits=4)
    sums = builder.convolve(codes, THREE, groups=1, out_channels=32, bits=1)
    last = builder.requantise(sums, BYTE, multiplier_bits=4)
    program = renamed(builder.program(builder.sum_global(last)), last.name, name)
    check_program(program)
    assert_equal_to_reference(program, images_for(program, 3), kernels)


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.parametrize("groups", [64, 16, 1])
def test_strides_as_wide_as_allowed_read_inside_the_arena(kernels: str, groups: int) -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, 64))
    window = Window(kernel=(1, 1), stride=(MAX_WINDOW, MAX_WINDOW))
    sums = builder.convolve(builder.tensors["image"], window, groups=groups, out_channels=64, bits=1)
    program = builder.program(sums)
    check_program(program)
    # Sixteen pixels of 64 channels, a stride apart, of which one counts.
    arena_bytes = make_plan(program, interpreter_of(kernels)).arena_bytes
    assert groups == 1 or kernels == "amx" or arena_bytes >= 15 * MAX_WINDOW * 64
    assert_equal_to_reference(program, images_for(program, 9), kernels)


@pytest.mark.parametrize("kernels", CHOICES)
def test_a_zero_point_too_wide_to_be_shifted_is_added_in_64_bits(kernels: str) -> None:
    """Channels that fill a chunk up would hold it times a power of two in 32 bits."""
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, 3))
    wide = Tensor(name="", shape=(1, 1, 3), dtype=IntegerType(bits=28, signed=True), scale=1.0, zero_point=-(1 << 27))
    source = replace(wide, dtype=IntegerType(bits=25, signed=True), zero_point=0)

    def requantised(tensor: Tensor, result: Tensor, multiplier: int, shift: int) -> Tensor:
        name = builder.name()
        tables = {"multiplier": multiplier, "offset": 0, "shift": shift}
        constants = {key: builder.constant(f"{name}/{key}", np.full((1, 1), n, np.int64)) for key, n in tables.items()}
        low, high = result.dtype.low, result.dtype.high
        instruction = Requantise(
            inputs=(tensor.name,),
            output=name,
            mode=RequantiseMode.MULTIPLY,
            **constants,
            position_classes="",
            multiplier_bits=32,
            digits=0,
            low=low,
            high=high,
        )
        return builder.append(instruction, result, (low, high))

    large = requantised(builder.tensors["image"], source, 1 << 16, 0)
    program = builder.program(requantised(large, wide, (1 << 12) - 1, 12))
    check_program(program)
    assert_equal_to_reference(program, images_for(program, 3), kernels)
