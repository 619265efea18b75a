"""Channels that fill a chunk up hold the zero point whatever wrote the tensor, so that convolutions may read them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from program_builder import Builder
from test_fused import CHOICES, assert_equal_to_reference
from test_fused_layers import BYTE, ONE, THREE, images_for
from test_tabulated import always_tabulated
from test_winograd import always_transformed, never_transformed

from bnhw import plan_steps
from bnhw.dtypes import IntegerType
from bnhw.ops import Window
from bnhw.plan import make_plan
from bnhw.program import Join, PoolMaximum, Program, Tensor
from bnhw.program_check import check_program

ODD = replace(THREE, zero_point=3)
HALVES = Window(kernel=(2, 2), stride=(2, 2), pads=(0, 0, 0, 0))


def start(channels: int, codes: Tensor) -> tuple[Builder, Tensor]:
    """8 x 8 codes of so many channels."""
    builder = Builder(random=np.random.default_rng(0), shape=(8, 8, channels))
    return builder, builder.look_up(builder.tensors["image"], codes, per_channel=True)


def convolved(channels: int) -> tuple[Builder, Tensor]:
    """The sums of a convolution, stored as they are."""
    builder, codes = start(3, ONE)
    window = Window(kernel=(1, 1), pads=(0, 0, 0, 0))
    return builder, builder.convolve(codes, window, groups=1, out_channels=channels, bits=1)


def pooled_sums(channels: int) -> tuple[Builder, Tensor]:
    builder, codes = start(channels, replace(ONE, zero_point=0))
    sums = builder.pool_sum(codes, HALVES)
    moved = replace(sums, zero_point=1)
    builder.tensors[sums.name] = moved
    return builder, moved


def pooled_codes(channels: int) -> tuple[Builder, Tensor]:
    builder, codes = start(channels, ODD)
    instruction = PoolMaximum(inputs=(codes.name,), output=builder.name(), window=HALVES)
    return builder, builder.same_coding(instruction, (codes,), (4, 4, channels))


def added(channels: int) -> tuple[Builder, Tensor]:
    """Sums that saturate above 0 where nothing is added."""
    builder, codes = start(channels, THREE)
    others = builder.look_up(builder.tensors["image"], THREE, per_channel=True)
    return builder, builder.add(codes, others, 2, 7)


def multiplied(channels: int) -> tuple[Builder, Tensor]:
    builder, codes = start(channels, ODD)
    others = builder.look_up(builder.tensors["image"], ODD, per_channel=True)
    return builder, builder.multiply(codes, others)


def joined(channels: int) -> tuple[Builder, Tensor]:
    builder, codes = start(channels, ODD)
    others = builder.look_up(builder.tensors["image"], ODD, per_channel=True)
    instruction = Join(inputs=(codes.name, others.name), output=builder.name())
    return builder, builder.same_coding(instruction, (codes, others), (8, 8, 2 * channels))


PRODUCERS = (convolved, pooled_sums, pooled_codes, added, multiplied, joined)
WAYS: tuple[Callable[[], AbstractContextManager[None]], ...] = (
    nullcontext,
    never_transformed,
    always_transformed,
    always_tabulated,
)


def program_of(producer: Callable[[int], tuple[Builder, Tensor]], channels: int) -> Program:
    """What writes a tensor of few bits, and a convolution that reads it."""
    builder, codes = producer(channels)
    assert codes.dtype.bits <= 8
    sums = builder.convolve(codes, Window(kernel=(3, 3), pads=(1, 1, 1, 1)), groups=1, out_channels=64, bits=1)
    wide = replace(sums, dtype=IntegerType(bits=20, signed=True))
    builder.tensors[sums.name] = wide
    program = builder.program(builder.sum_global(builder.requantise(wide, BYTE, multiplier_bits=12)))
    check_program(program)
    return program


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("channels", [14, 15, 16, 33])
@pytest.mark.parametrize("producer", PRODUCERS, ids=lambda producer: producer.__name__)
def test_a_convolution_reads_what_any_instruction_wrote(
    producer: Callable[[int], tuple[Builder, Tensor]],
    channels: int,
    way: Callable[[], AbstractContextManager[None]],
    kernels: str,
) -> None:
    program = program_of(producer, channels)
    with way():
        assert_equal_to_reference(program, images_for(program, 3), kernels)


@pytest.mark.parametrize("kernels", CHOICES)
def test_without_clearing_it_would_be_wrong(kernels: str) -> None:
    program = program_of(convolved, 15)
    with patch.object(plan_steps, "clear_fillers", lambda *_: None), pytest.raises(AssertionError):
        assert_equal_to_reference(program, images_for(program, 1), kernels)


def test_many_joined_tensors_have_room_for_the_positions_of_their_steps() -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(4, 4, 2))
    codes = [builder.look_up(builder.tensors["image"], THREE, per_channel=True)] * 30
    instruction = Join(inputs=tuple(code.name for code in codes), output=builder.name())
    both = builder.same_coding(instruction, tuple(codes), (4, 4, 2 * len(codes)))
    program = builder.program(builder.sum_global(both))
    assert make_plan(program).table.size
    for kernels in CHOICES:
        assert_equal_to_reference(program, images_for(program, 2), kernels)
