"""How tables, sums and indices of tabulated convolutions lie: everything once, and within its memory."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fused_layers import BYTE

from bnhw import plan_tabulated
from bnhw.kernels.fused import fields
from bnhw.ops import Window
from bnhw.plan_storage import Form, code_form
from bnhw.plan_tabulated import (
    Portion,
    Tabulation,
    list_channel_pairs,
    list_runs,
    order_indices,
    parts_of,
    steps_of,
    table_groups_of,
    tabulate,
)

KERNELS = ((1, 1), (3, 3), (2, 5), (4, 1), (5, 5), (7, 7))


@pytest.mark.parametrize("highest", [1, 2, 3, 7, 15, 254, 255])
def test_sixteen_bits_hold_the_sums_of_as_many_steps(highest: int) -> None:
    centre = plan_tabulated.centre_of(highest)
    largest = plan_tabulated.GROUP_CHANNELS * max(centre, highest - centre)
    steps = steps_of(highest)
    assert 1 <= steps <= fields.MOST_STEPS
    assert steps * largest < 1 << 15
    if steps < fields.MOST_STEPS or highest == 255:
        assert (steps + 1) * largest >= 1 << 15, "one more would not fit"


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
