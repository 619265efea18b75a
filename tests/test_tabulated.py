"""Convolutions by tables of sums equal the reference, whatever their shape, codes and memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from program_builder import Builder
from test_fused import CHOICES, assert_equal_to_reference
from test_fused_layers import (
    BIPOLAR,
    BYTE,
    ONE,
    SIGNED,
    THREE,
    TWELVE,
    TWO,
    TWO_SIGNED,
    Layer,
    images_for,
    residual_network,
)
from test_winograd import extreme_program, kinds_of

from bnhw import fused, plan_tabulated
from bnhw.fused import FusedProgram
from bnhw.kernels import select
from bnhw.kernels.fused import fields
from bnhw.machine import Machine
from bnhw.ops import Window
from bnhw.plan import Plan, make_plan
from bnhw.plan_interpreter import Interpreter, interpreter_of
from bnhw.plan_tabulated import choose_tabulated
from bnhw.plan_winograd import choose_transformed
from bnhw.program import Program, Tensor

TABULATING = [choice for choice in CHOICES if choice in select.TABULATED_FEATURES]
"""Whether that is fast on this machine or not."""
PADS = ((0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0), (2, 2, 2, 2))
KERNELS = ((1, 1), (3, 3), (2, 5), (4, 1), (5, 5), (7, 7))
STRIDES = ((1, 1), (2, 2), (1, 2), (3, 1))


@contextmanager
def always_tabulated() -> Iterator[None]:
    """Whatever can be tabulated is, and bits are not counted."""

    def interpreter(kernels: str) -> Interpreter:
        return replace(interpreter_of(kernels), most_planes=0, tabulates=kernels in TABULATING)

    with (
        patch.object(plan_tabulated, "_tabulated_cycles", lambda *_: 0.0),
        patch.object(fused, "interpreter_of", interpreter),
    ):
        yield


def is_tabulated(program: Program) -> bool:
    """Whether a plan of the program tabulates a convolution."""
    return fields.TABULATE in kinds_of(make_plan(program, Interpreter(tabulates=True)))


def fits(size: tuple[int, int], kernel: tuple[int, int], pads: tuple[int, int, int, int]) -> bool:
    """Whether a kernel fits into a padded image."""
    return all(s + pads[i] + pads[i + 2] >= k for i, (s, k) in enumerate(zip(size, kernel, strict=True)))


@pytest.mark.parametrize("kernels", TABULATING)
@settings(max_examples=120, deadline=None)
@given(
    size=st.tuples(st.integers(1, 21), st.integers(1, 40)),
    channels=st.integers(1, 200),
    outputs=st.one_of(st.integers(1, 100), st.integers(1, 400)),
    kernel=st.sampled_from(KERNELS),
    stride=st.sampled_from(STRIDES),
    pads=st.sampled_from(PADS),
    codes=st.sampled_from((BYTE, SIGNED, TWO, ONE, THREE, TWO_SIGNED, TWELVE)),
    cache_bytes=st.sampled_from((1, 1 << 15, 1 << 17, 1 << 19)),
    images=st.integers(1, 11),
    seed=st.integers(0, 2**16),
)
def test_tabulated_layers_of_any_size_are_those_of_the_reference(
    kernels: str,
    size: tuple[int, int],
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    codes: Tensor,
    cache_bytes: int,
    images: int,
    seed: int,
) -> None:
    assume(fits(size, kernel, pads))
    layer = Layer(size=size, channels=channels, outputs=outputs, kernel=kernel, stride=stride, pads=pads, codes=codes)
    program = layer.program(seed)
    with always_tabulated(), patch.object(plan_tabulated, "CACHE_BYTES", cache_bytes):
        assert is_tabulated(program)
        assert_equal_to_reference(program, images_for(program, images, seed), kernels)


@pytest.mark.parametrize("kernels", TABULATING)
@pytest.mark.parametrize("channels", [5, 64, 1280])
@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("pattern", ["all", "none", "alternating"])
def test_the_largest_sums_are_those_of_the_reference(pattern: str, code: int, channels: int, kernels: str) -> None:
    signs = np.zeros((33, 3, 3, channels), bool)
    if pattern == "all":
        signs[:] = True
    elif pattern == "alternating":
        signs[:, :, :, ::2] = True
    program = extreme_program(channels, code, signs)
    with always_tabulated():
        assert is_tabulated(program)
        assert_equal_to_reference(program, images_for(program, 1), kernels)


@pytest.mark.parametrize("kernels", TABULATING)
def test_sums_of_one_step_more_would_be_wrong(kernels: str) -> None:
    program = extreme_program(64, 0, np.ones((32, 3, 3, 64), bool))
    with (
        always_tabulated(),
        patch.object(plan_tabulated, "steps_of", lambda _: 43),
        patch.object(plan_tabulated, "table_groups_of", lambda *_: 11),
        pytest.raises(AssertionError),
    ):
        assert_equal_to_reference(program, images_for(program, 1), kernels)


@pytest.mark.parametrize("kernels", TABULATING)
def test_one_wrong_weight_is_found(kernels: str) -> None:
    signs = np.random.default_rng(0).integers(0, 2, (96, 3, 3, 64)).astype(bool)
    other = signs.copy()
    other[77, 1, 2, 40] ^= True
    programs = [extreme_program(64, 7, of_one) for of_one in (signs, other)]
    images = images_for(programs[0], 1)
    with always_tabulated():
        values = [FusedProgram(program, kernels, store_all=True).tensor_values(images)[0] for program in programs]
    sums = programs[0].instructions[1].output
    differs = (values[0][sums] != values[1][sums]).any(axis=(0, 1, 2))
    assert list(np.flatnonzero(differs)) == [77]


@pytest.mark.parametrize("kernels", TABULATING)
@pytest.mark.parametrize(("size", "channels"), [((8, 8), 40), ((18, 17), 64), ((4, 32), 96), ((7, 7), 33)], ids=str)
@pytest.mark.parametrize("cache_bytes", [1, 1 << 17, 1 << 30])
def test_residual_networks_are_those_of_the_reference(
    cache_bytes: int, size: tuple[int, int], channels: int, kernels: str
) -> None:
    program = residual_network(size, channels)
    images = images_for(program, 11)
    with always_tabulated(), patch.object(plan_tabulated, "CACHE_BYTES", cache_bytes):
        assert_equal_to_reference(program, images, kernels)


@pytest.mark.parametrize("kernels", TABULATING)
def test_convolutions_of_all_sizes_share_their_scratch_memory(kernels: str) -> None:
    builder = Builder(random=np.random.default_rng(5), shape=(12, 18, 3))
    codes = builder.look_up(builder.tensors["image"], BYTE, per_channel=True)
    for outputs, kernel, codes_after in ((300, 5, SIGNED), (40, 3, TWELVE), (16, 3, BYTE), (70, 1, TWO)):
        window = Window(kernel=(kernel, kernel), pads=(kernel // 2,) * 4)
        sums = builder.convolve(codes, window, groups=1, out_channels=outputs, bits=1)
        codes = builder.requantise(sums, codes_after, multiplier_bits=12)
    program = builder.program(builder.sum_global(codes))
    with always_tabulated():
        assert_equal_to_reference(program, images_for(program, 3), kernels)
        plan = make_plan(program, replace(interpreter_of(kernels), most_planes=0, tabulates=True))
    assert list(plan.methods.values()) == ["tabulated"] * 4
    panel = min(at for at in (plan.arena_bytes, *(p.offset for p in plan.places.values())) if at > plan.panel)
    for at in steps_of_plan(plan, fields.TABULATE):
        tables = int(plan.table[at + fields.U_IMAGES : at + fields.U_IMAGES + 1].sum())
        tables *= int(plan.table[at + fields.U_TABLE_GROUPS] * plan.table[at + fields.U_TABLES_BYTES])
        parts = plan.table[plan.table[at + fields.U_PARTS] :][: plan.table[at + fields.U_PART_COUNT]]
        sums_bytes = int(parts.sum() * plan.table[at + fields.U_PAIR_BYTES])
        used = fields.CELL_BYTES + fields.INDICES_BYTES + tables + sums_bytes
        assert plan.panel + used <= panel - fields.SLACK_BYTES, "scratch memory, without what tiles may read behind it"


def steps_of_plan(plan: Plan, kind: int) -> list[int]:
    """The positions of a plan's steps of one kind."""
    starts = plan.table[fields.H_FIELDS :][: plan.table[fields.H_STEPS]]
    return [int(at) for at in starts if plan.table[at] == kind]


@pytest.mark.parametrize("kernels", TABULATING)
@pytest.mark.parametrize("codes", [BYTE, SIGNED, TWELVE], ids=lambda codes: str(codes.dtype))
@pytest.mark.parametrize("end", ["low", "high"])
def test_zero_points_may_lie_at_either_end(end: str, codes: Tensor, kernels: str) -> None:
    moved = replace(codes, zero_point=getattr(codes.dtype, end))
    program = Layer(size=(9, 20), channels=35, outputs=70, stride=(5, 4), pads=(2, 2, 2, 2), codes=moved).program()
    with always_tabulated():
        assert_equal_to_reference(program, images_for(program, 2), kernels)


def test_layers_are_tabulated_where_that_is_possible_and_faster() -> None:
    wide = Layer(size=(8, 8), channels=256, outputs=256)
    assert is_tabulated(wide.program())
    assert is_tabulated(replace(wide, stride=(2, 2)).program())
    assert is_tabulated(replace(wide, kernel=(5, 5), pads=(2, 2, 2, 2)).program())
    assert is_tabulated(replace(wide, codes=SIGNED).program())
    assert is_tabulated(replace(wide, codes=TWELVE).program())
    others = {
        "few outputs": replace(wide, outputs=16),
        "one tap": replace(wide, kernel=(1, 1), pads=(0, 0, 0, 0), outputs=64),
        "groups": replace(wide, groups=2),
        "weights of two bits": replace(wide, bits=2),
        "bipolar": replace(wide, codes=BIPOLAR),
    }
    assert [name for name, layer in others.items() if is_tabulated(layer.program())] == []
    assert fields.TABULATE not in kinds_of(make_plan(wide.program())), "only interpreters that know tables"


def test_what_takes_less_time_transformed_is_not_tabulated() -> None:
    program = Layer(size=(32, 32), channels=64, outputs=64).program()
    transformed = choose_transformed(program)
    assert len(transformed) == 1
    assert len(choose_tabulated(program, transformed)) == 0
    assert len(choose_tabulated(program, frozenset())) == 1


@pytest.mark.parametrize("kernels", TABULATING)
def test_a_run_says_how_each_convolution_was_done(kernels: str) -> None:
    layer = Layer(size=(8, 8), channels=256, outputs=256)
    result = Machine(layer.program(), kernels).run(images_for(layer.program(), 1))
    method = "tabulated" if select.tabulates(kernels) else "transformed"
    assert list(result.kernels.values()) == [f"{kernels} {method}"]
    assert list(make_plan(layer.program()).methods.values()) == ["multiplied"]


def test_few_planes_are_counted_rather_than_looked_up() -> None:
    layer = Layer(size=(8, 8), channels=256, outputs=256, codes=TWO)
    for planes, tabulated in ((2, False), (1, True)):
        interpreter = Interpreter(tabulates=True, tabulated_planes=planes, most_planes=4)
        assert (fields.TABULATE in kinds_of(make_plan(layer.program(), interpreter))) == tabulated


def test_one_bit_weights_stay_one_bit_where_they_are_tabulated() -> None:
    layer = Layer(size=(16, 16), channels=256, outputs=256)
    plain = make_plan(layer.program()).constants.size
    assert make_plan(layer.program(), Interpreter(tabulates=True)).constants.size < 1.05 * plain


@pytest.mark.parametrize("features", [{"sse4a"}, set()], ids=str)
def test_tables_are_used_only_on_processors_that_finish_a_look_up_with_every_cycle(features: set[str]) -> None:
    with patch.object(select, "host_features", lambda: frozenset(features)):
        assert select.tabulates("vnni") == ("sse4a" in features)
        assert not select.tabulates("avx2")
