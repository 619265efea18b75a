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
from bnhw.plan_storage import Form, code_form
from bnhw.plan_tabulated import (
    Portion,
    Tabulation,
    choose_tabulated,
    list_channel_pairs,
    list_runs,
    order_indices,
    parts_of,
    steps_of,
    table_groups_of,
    tabulate,
)
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


@pytest.mark.parametrize("highest", [1, 2, 3, 7, 15, 254, 255])
def test_sixteen_bits_hold_the_sums_of_as_many_steps(highest: int) -> None:
    centre = plan_tabulated.centre_of(highest)
    largest = plan_tabulated.GROUP_CHANNELS * max(centre, highest - centre)
    steps = steps_of(highest)
    assert 1 <= steps <= fields.MOST_STEPS
    assert steps * largest < 1 << 15
    if steps < fields.MOST_STEPS or highest == 255:
        assert (steps + 1) * largest >= 1 << 15, "one more would not fit"


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


@pytest.mark.parametrize("pairs", range(1, 50))
def test_pairs_of_chunks_look_up_in_few_parts(pairs: int) -> None:
    parts = parts_of(32 * pairs)
    assert sum(parts) == max(2, pairs)
    assert set(parts) <= {2, 3, 4, 5}
    assert len(parts) == -(-max(2, pairs) // 5) or min(parts) >= 4


@pytest.mark.parametrize(("groups", "taps", "steps"), [(11, 9, 42), (54, 9, 42), (43, 1, 42), (3, 49, 42), (1, 1, 1)])
def test_tables_that_are_built_at_once_fill_sixteen_bits_equally(groups: int, taps: int, steps: int) -> None:
    at_once = table_groups_of(groups, taps, steps)
    most = max(1, steps // taps)
    assert 1 <= at_once <= most
    assert -(-groups // at_once) == -(-groups // most)


def test_indices_hold_every_weight_once() -> None:
    random = np.random.default_rng(3)
    weights = np.where(random.integers(0, 2, (70, 3, 2, 10)), 1, -1).astype(np.int8)
    form = code_form(replace(BYTE, shape=(9, 9, 10)), (0, 0, 0, 0))
    window = Window(kernel=(3, 2), stride=(1, 1), pads=(0, 0, 0, 0))
    plan = tabulate(form, 255, window, (7, 8, 70), 1)
    assert (plan.groups, plan.parts) == (2, (3,))
    indices = order_indices(plan, weights)
    assert not indices[-8:].any(), "what the last one reads beyond"
    bits = np.unpackbits(indices[:-8], bitorder="little").reshape(-1, 3, 32, 6)
    steps = [step for first, end in list_runs(plan, 6) for step in range(first, end)]
    assert sorted(steps) == list(range(12))
    for position, step in enumerate(steps):
        group, (row, column) = step // 6, divmod(step % 6, 2)
        for output in range(70):
            lane = output % 16 * 2 + output // 16 % 2
            index = bits[position, output // 32, lane]
            expected = weights[output, row, column, 6 * group : 6 * group + 6] > 0
            assert list(index[: expected.size]) == list(expected)


def geometry() -> st.SearchStrategy[tuple[Form, Window, tuple[int, int, int], int]]:
    """A form with borders at least as wide as a window's, and what comes out."""
    side = st.integers(0, 2)
    return st.builds(
        lambda size, kernel, stride, pads, more, outputs, images: (
            Form(
                shape=(*size, 64),
                size=1,
                bias=0,
                shift=0,
                fill=(0,),
                pads=(pads[0] + more[0], pads[1] + more[1], pads[2] + more[2], pads[3] + more[3]),
            ),
            Window(kernel=kernel, stride=stride, pads=pads),
            (
                (size[0] + pads[0] + pads[2] - kernel[0]) // stride[0] + 1,
                (size[1] + pads[1] + pads[3] - kernel[1]) // stride[1] + 1,
                outputs,
            ),
            images,
        ),
        size=st.tuples(st.integers(1, 40), st.integers(1, 60)),
        kernel=st.sampled_from(KERNELS),
        stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        pads=st.tuples(side, side, side, side),
        more=st.tuples(side, side, side, side),
        outputs=st.integers(1, 300),
        images=st.integers(1, 8),
    ).filter(lambda drawn: drawn[2][0] >= 1 and drawn[2][1] >= 1)


@settings(max_examples=300, deadline=None)
@given(drawn=geometry(), cache_bytes=st.sampled_from((1, 1 << 14, 1 << 16, 1 << 19)))
def test_quads_cover_every_pixel_once_and_stay_in_their_memory(
    drawn: tuple[Form, Window, tuple[int, int, int], int], cache_bytes: int
) -> None:
    form, window, shape, images = drawn
    with patch.object(plan_tabulated, "CACHE_BYTES", cache_bytes):
        plan = tabulate(form, 255, window, shape, images)
    covered = np.zeros(shape[0] * shape[1], int)
    for portion in plan.portions:
        check_memory(plan, portion, form, window)
        slots = {slot: pixel for pixel, slot in reversed(portion.quads)}
        for number, (_, row, column, count) in enumerate(portion.tiles):
            first = row * shape[1] + column
            covered[first : first + count] += 1
            for pixel in range(first, first + count):
                place = pixel - first
                slot = number // 2 * fields.SLOT_BYTES + number % 2 * 2 * fields.TILE_BYTES + place // 4 * 256
                corner = portion.pixel + slots[slot] + place % 4 * window.stride[1]
                row_of, column_of = divmod(pixel, shape[1])
                start = form.origin - window.pads[0] * form.row_pixels - window.pads[1]
                down, across = window.stride
                assert corner == start + row_of * down * form.row_pixels + column_of * across
    assert (covered == 1).all()


def check_memory(plan: Tabulation, portion: Portion, form: Form, window: Window) -> None:
    """What a portion reads and writes lies where it may."""
    assert portion.pixel >= 0
    assert portion.pixel + portion.pixels <= form.pixels, "pixels"
    assert (portion.pixels | 1) * fields.TABLE_BYTES <= plan.tables_bytes, "tables"
    assert len(portion.quads) % 2 == 0
    assert len(portion.tiles) % 2 == 0
    slots = len(portion.tiles) // 2 * fields.SLOT_BYTES
    assert plan.images * slots <= plan.pair_bytes
    assert max(slot for _, slot in portion.quads) + fields.TILE_BYTES + 64 * fields.QUAD <= slots, "sums"
    tap = (window.kernel[0] - 1) * form.row_pixels + window.kernel[1] - 1
    furthest = max(pixel for pixel, _ in portion.quads) + (fields.QUAD - 1) * window.stride[1] + tap
    read = fields.CELL_BYTES + fields.INDICES_BYTES + (furthest + 1) * fields.TABLE_BYTES
    read += (plan.images * plan.table_groups - 1) * plan.tables_bytes
    assert read <= plan.scratch_bytes, "tables of pixels that do not count"


@pytest.mark.parametrize("channels", [1, 2, 6, 63, 64, 65, 70, 130, 160])
def test_pairs_of_channels_are_those_of_the_form(channels: int) -> None:
    form = code_form(replace(BYTE, shape=(5, 7, channels)), (1, 1, 1, 1))
    places = np.arange(form.size_bytes)
    pairs = list_channel_pairs(form, channels)
    assert len(pairs) % 3 == 0
    for number, (offset, pitch) in enumerate(pairs):
        block, channel = divmod(2 * number, 64)
        if 2 * number >= channels:
            assert pitch == 0
            continue
        start, of_pixel = form.block(block)
        assert pitch == of_pixel
        assert offset == places[start:][channel]
        assert offset + (form.pixels - 1) * pitch + 1 < form.size_bytes


def test_one_bit_weights_stay_one_bit_where_they_are_tabulated() -> None:
    layer = Layer(size=(16, 16), channels=256, outputs=256)
    plain = make_plan(layer.program()).constants.size
    assert make_plan(layer.program(), Interpreter(tabulates=True)).constants.size < 1.05 * plain


@pytest.mark.parametrize("features", [{"sse4a"}, set()], ids=str)
def test_tables_are_used_only_on_processors_that_finish_a_look_up_with_every_cycle(features: set[str]) -> None:
    with patch.object(select, "host_features", lambda: frozenset(features)):
        assert select.tabulates("vnni") == ("sse4a" in features)
        assert not select.tabulates("avx2")
