"""Convolutions by tables of sums: which they are, and how their tables, sums and weights lie.

See `bnhw.kernels.fused.tabulated` for the arithmetic.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused.fields import (
    CELL_BYTES,
    INDICES_BYTES,
    LANES,
    MOST_STEPS,
    QUAD,
    SLOT_BYTES,
    TABLE_BYTES,
    TILE_BYTES,
)
from bnhw.ops import Window
from bnhw.plan_convolution import PAIR, even_tiles
from bnhw.plan_storage import Form, code_form, planes_form
from bnhw.plan_winograd import Tile, direct_cycles, transformed_cycles_of
from bnhw.program import Convolve, Program, Tensor

GROUP_CHANNELS = 6
MOST_SUM = (1 << 15) - 1
CACHE_BYTES = 480 << 10
"""Tables and sums of a portion; half of the second cache where that was measured."""
STRIP = 2 * QUAD
"""Columns that are worked through from top to bottom, so that tables of neighbouring rows stay in the first cache."""
SLOTS_PADDING = 576
"""Bytes between the slots of two pairs of chunks, so that they fall into different sets."""
LOOK_UP_CYCLES = {2: 1.85, 3: 1.4, 4: 1.35, 5: 1.35}
"""What looking sums of 32 outputs up takes, all that follows included, by how many pairs of chunks do together."""
BUILD_CYCLES, INDEX_CYCLES, ONE_TAP = 6.0, 3.0, 2.0
"""What building a table takes, and expanding 32 indices; like `LOOK_UP_CYCLES` where one product of vectors takes 1,
measured on one processor with AVX-512. Where a kernel has one tap, no other brings a table into the first cache, and
looking up takes so many times as long."""


def highest_element(source: Tensor) -> int:
    """The largest byte of a tensor's codes, or of its planes."""
    return min(source.dtype.high - source.dtype.low, 255)


def centre_of(highest: int) -> int:
    """What is taken from elements 0..highest, so that sums are the smallest."""
    return (highest + 1) // 2


def steps_of(highest: int) -> int:
    """How many looked-up sums of six elements 0..highest 16 bits hold, or the room for their indices."""
    centre = centre_of(highest)
    return min(MOST_STEPS, MOST_SUM // (GROUP_CHANNELS * max(centre, highest - centre)))


def table_groups_of(groups: int, taps: int, steps: int) -> int:
    """Groups of channels whose tables are built at once, about as many each time."""
    most = max(1, steps // taps)
    return -(-groups // -(-groups // most))


def group_count(channels: int) -> int:
    """Groups of six channels."""
    return -(-channels // GROUP_CHANNELS)


def parts_of(outputs: int) -> tuple[int, ...]:
    """Pairs of chunks that look up together: fours, and fives or threes for the rest; one more pair for one alone."""
    pairs = max(2, -(-outputs // PAIR))
    fours, rest = divmod(pairs, 4)
    if rest <= fours:
        return (*(5,) * rest, *(4,) * (fours - rest))
    if pairs == 6:
        return 3, 3
    return (*(4,) * fours, rest)


def list_channel_pairs(form: Form, channels: int) -> list[tuple[int, int]]:
    """(byte offset, bytes of a pixel) of every two channels, and (0, 0) until there are whole groups."""
    pairs = []
    for first in range(0, channels, 2):
        offset, pitch = form.block(first // 64)
        pairs.append((offset + first % 64, pitch))
    return [*pairs, *[(0, 0)] * (-len(pairs) % (GROUP_CHANNELS // 2))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Rows of the result whose tables and sums stay in the second cache; see `bnhw.kernels.fused.fields.V_FIELDS`.

    quads: (pixel, slot) of four pixels each, an even number.
    """

    pixel: int
    pixels: int
    quads: tuple[tuple[int, int], ...]
    tiles: tuple[Tile, ...]


def list_portions(form: Form, window: Window, result: tuple[int, int], most_rows: int) -> tuple[Portion, ...]:
    """A result of (rows, columns), about equally many rows at once."""
    rows = rows_of_portion(result, most_rows)
    return tuple(
        _list_portion(form, window, result, first, min(first + rows, result[0])) for first in range(0, result[0], rows)
    )


def rows_of_portion(result: tuple[int, int], most_rows: int) -> int:
    """Rows of a portion: whole tiles, at least one."""
    unit = _rows_of_tile(result[1])
    count = -(-result[0] // max(unit, most_rows // unit * unit))
    return -(-result[0] // (count * unit)) * unit


def _count_pixels(form: Form, window: Window, columns: int, rows: int) -> int:
    """Pixels from the first to the last that so many rows of a result read."""
    (down, across), (height, width) = window.stride, window.kernel
    return ((rows - 1) * down + height - 1) * form.row_pixels + (columns - 1) * across + width


def _rows_of_tile(columns: int) -> int:
    """Rows that share a tile of sixteen pixels."""
    return LANES // columns if columns in (LANES // 4, LANES // 2) else 1


def _list_portion(form: Form, window: Window, result: tuple[int, int], first: int, end: int) -> Portion:
    (down, across), columns = window.stride, result[1]
    top, left = window.pads[:2]
    row_pixels = down * form.row_pixels
    per_tile = _rows_of_tile(columns)
    tiles = []
    for row in range(first, end, per_tile):
        for column in range(0, columns, LANES):
            count = min(per_tile, end - row) * columns if per_tile > 1 else min(LANES, columns - column)
            tiles.append((0, row, column, count))
    quads = []
    for strip in range(0, columns, STRIP):
        for row in range(first, end):
            for column in range(strip, min(strip + STRIP, columns), QUAD):
                slot = _slot_of(row - first, column, columns, per_tile)
                quads.append(((row - first) * row_pixels + column * across, slot))
    if len(quads) % 2:
        pixel, slot = quads[-1]
        quads.append((pixel, slot + 64 * QUAD))  # the last tile has room for one more that does not count
    return Portion(
        pixel=form.origin - top * form.row_pixels - left + first * row_pixels,
        pixels=_count_pixels(form, window, columns, end - first),
        quads=tuple(quads),
        tiles=even_tiles(tuple(tiles)),
    )


def _slot_of(row: int, column: int, columns: int, per_tile: int) -> int:
    """Bytes of a portion's slots to the sums of a pixel and the first chunk."""
    if per_tile > 1:
        tile, place = row // per_tile, row % per_tile * columns + column
    else:
        tile, place = row * -(-columns // LANES) + column // LANES, column % LANES
    return tile // 2 * SLOT_BYTES + tile % 2 * 2 * TILE_BYTES + 64 * place


@dataclass(frozen=True, slots=True, kw_only=True)
class Tabulation:
    """How a convolution is done by tables: see the fields of `TABULATE` in `bnhw.kernels.fused.fields`.

    beyond_bytes: what the last quad of a row reads behind the last pixel's tables, for pixels that do not count.
    """

    centre: int
    steps: int
    groups: int
    table_groups: int
    tables_bytes: int
    parts: tuple[int, ...]
    pair_bytes: int
    images: int
    portions: tuple[Portion, ...]
    beyond_bytes: int

    @property
    def scratch_bytes(self) -> int:
        """Of everything in `panel`, and what quads read behind the last pixel's tables."""
        tables = self.images * self.table_groups * self.tables_bytes
        return CELL_BYTES + INDICES_BYTES + tables + max(sum(self.parts) * self.pair_bytes, self.beyond_bytes)


def tabulate(form: Form, highest: int, window: Window, shape: tuple[int, int, int], most_images: int) -> Tabulation:
    """Choose portions of a result of (rows, columns, channels), and how many images are done together.

    highest: largest element of the source. most_images: that there are.
    """
    rows, columns, outputs = shape
    taps = window.kernel[0] * window.kernel[1]
    steps, groups, parts = steps_of(highest), group_count(form.shape[2]), parts_of(outputs)
    table_groups = table_groups_of(groups, taps, steps)
    unit = _rows_of_tile(columns)
    at_once = rows_of_portion((rows, columns), rows + unit - 1)
    while True:
        tables_bytes = (_count_pixels(form, window, columns, min(at_once, rows)) | 1) * TABLE_BYTES
        slots = -(-(at_once // unit * -(-columns // LANES)) // 2)
        one_image = table_groups * tables_bytes + sum(parts) * slots * SLOT_BYTES
        if one_image <= CACHE_BYTES or at_once <= unit:
            break
        at_once = rows_of_portion((rows, columns), at_once - unit)
    images = max(1, min(most_images, CACHE_BYTES // one_image)) if at_once >= rows else 1
    return Tabulation(
        centre=centre_of(highest),
        steps=steps,
        groups=groups,
        table_groups=table_groups,
        tables_bytes=tables_bytes,
        parts=parts,
        pair_bytes=images * slots * SLOT_BYTES + SLOTS_PADDING,
        images=images,
        portions=list_portions(form, window, (rows, columns), at_once),
        beyond_bytes=(QUAD - 1) * window.stride[1] * TABLE_BYTES,
    )


def list_offsets(tabulation: Tabulation, form: Form, window: Window) -> Array:
    """int64 bytes of every step of the most groups, group by group, tap by tap."""
    rows, columns = np.indices(window.kernel, np.int64).reshape(2, -1)
    taps = (rows * form.row_pixels + columns) * TABLE_BYTES
    groups = np.arange(tabulation.table_groups, dtype=np.int64) * tabulation.tables_bytes
    return (groups[:, None] + taps).reshape(-1)


def order_indices(tabulation: Tabulation, weights: Array) -> Array:
    """Weights -1 and +1, int8 (outputs, height, width, channels) -> uint8, 24 bytes of each 32 indices, as steps go."""
    outputs, height, width, channels = weights.shape
    pairs, taps = sum(tabulation.parts), height * width
    more = ((0, pairs * PAIR - outputs), (0, 0), (0, 0), (0, tabulation.groups * GROUP_CHANNELS - channels))
    bits = np.pad(weights > 0, more)
    shaped = bits.reshape(pairs, 2, LANES, taps, tabulation.groups, GROUP_CHANNELS).transpose(4, 3, 0, 2, 1, 5)
    packed = np.packbits(shaped.reshape(tabulation.groups * taps, pairs, -1), axis=2, bitorder="little")
    ordered = [
        packed[first:end, pair : pair + of_part].reshape(-1)
        for first, end in list_runs(tabulation, taps)
        for pair, of_part in zip(np.cumsum((0, *tabulation.parts)), tabulation.parts, strict=False)
    ]
    return np.concatenate([*ordered, np.zeros(8, np.uint8)])  # 32 bytes are read of each 24


def list_runs(tabulation: Tabulation, taps: int) -> Iterator[tuple[int, int]]:
    """(first step, end) of all groups' steps that stay in 16 bits together."""
    for block in range(0, tabulation.groups, tabulation.table_groups):
        end = min(block + tabulation.table_groups, tabulation.groups) * taps
        for first in range(block * taps, end, tabulation.steps):
            yield first, min(first + tabulation.steps, end)


def choose_tabulated(program: Program, transformed: frozenset[str]) -> frozenset[str]:
    """Convolutions, by the tensor they write, that take less time by tables.

    transformed: those that would else be done so, see `bnhw.plan_winograd.choose_transformed`.
    """
    convolutions = [instruction for instruction in program.instructions if isinstance(instruction, Convolve)]
    return frozenset(
        convolve.output for convolve in convolutions if _is_tabulated(program, convolve, convolve.output in transformed)
    )


def _is_tabulated(program: Program, convolve: Convolve, is_transformed: bool) -> bool:
    source = program.tensor[convolve.inputs[0]]
    if convolve.weight_bits != 1 or convolve.groups != 1 or source.bipolar:
        return False
    pads = convolve.window.pads
    form = planes_form(source, pads) if source.dtype.bits > 8 else code_form(source, pads)
    rows, columns, outputs = program.tensor[convolve.output].shape
    other = len(form.fill) * direct_cycles(rows * columns, form, convolve.window)
    if is_transformed:
        other = min(other, transformed_cycles_of((rows, columns), form, outputs))
    return len(form.fill) * _tabulated_cycles(form, convolve.window, (rows, columns, outputs)) < other


def _tabulated_cycles(form: Form, window: Window, shape: tuple[int, int, int]) -> float:
    """Products of vectors for one output channel that take as much time."""
    rows, columns, outputs = shape
    taps, groups = window.kernel[0] * window.kernel[1], group_count(form.shape[2])
    pixels = rows * -(-columns // QUAD) * QUAD
    tables = _count_pixels(form, window, columns, rows)
    factor = ONE_TAP if taps == 1 else 1.0
    of_step = sum(pairs * (factor * LOOK_UP_CYCLES[pairs] * pixels + INDEX_CYCLES) for pairs in parts_of(outputs))
    return groups * (taps * of_step + BUILD_CYCLES * tables) / outputs
