"""Convolutions by transformed patches: which they are, and how their patches and weights lie.

See `bnhw.kernels.fused.winograd` for the arithmetic.
"""

from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused import fields
from bnhw.kernels.fused.fields import LANES
from bnhw.ops import Window
from bnhw.plan_convolution import PAIR, dense_weights, even_tiles, flatten
from bnhw.plan_order import TailOperation
from bnhw.plan_records import Records
from bnhw.plan_storage import Area, Form
from bnhw.program import Convolve, Program

SIDE = 4
"""Pixels of a patch in each direction."""
RESULT_BITS = 26
"""Of sums, as two's complement: those that 2^32 leaves when they come 64 times too large."""
PIXEL_CYCLES, WEIGHT_CYCLES, RESULT_CYCLES = 3.8, 2.4, 9.0
"""What transforms take for one channel of a patch, one weight filter, and one output of a patch, where a product of two
vectors takes 1; measured on one processor with AVX-512."""

Tile = tuple[int, int, int, int]
"""(not used, row, column, pixels that count) of sixteen pixels of the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Up to four patches side by side; see `bnhw.kernels.fused.fields.SEGMENT_FIELDS`."""

    pixel: int
    first: int
    patches: int
    row: int
    tiles: tuple[Tile, ...]


def list_segments(form: Form, window: Window, result: tuple[int, int]) -> tuple[Segment, ...]:
    """All patches of a result of (rows, columns)."""
    rows, columns = result
    top, left = window.pads[:2]
    start = form.origin - top * form.row_pixels - left
    segments: list[Segment] = []
    first = 0
    for row in range(0, rows, SIDE):
        for column in range(0, columns, LANES):
            patches = -(-min(LANES, columns - column) // SIDE)
            pixel = start + row * form.row_pixels + column
            tiles, pitch = _list_tiles(row, column, result)
            segments.append(Segment(pixel=pixel, first=first, patches=patches, row=pitch, tiles=even_tiles(tiles)))
            first += patches
    return tuple(segments)


def _list_tiles(row: int, column: int, result: tuple[int, int]) -> tuple[tuple[Tile, ...], int]:
    """The tiles of a segment, and the pixels from one of its rows to the next: rows of 4 or 8 pixels share a tile."""
    rows = min(SIDE, result[0] - row)
    columns = result[1]
    if columns in (LANES // 4, LANES // 2):
        per_tile = LANES // columns
        return tuple((0, row + at, 0, min(per_tile, rows - at) * columns) for at in range(0, rows, per_tile)), columns
    return tuple((0, row + at, column, min(LANES, columns - column)) for at in range(rows)), LANES


def is_transformed(program: Program, convolve: Convolve, form: Form) -> bool:
    """Whether a convolution can be transformed, exactly, and is likely to take less time so.

    form: of its input's codes as bytes.
    """
    window, source = convolve.window, program.tensor[convolve.inputs[0]]
    if window.kernel != (3, 3) or window.stride != (1, 1) or convolve.groups != 1:
        return False
    if len(form.fill) > 1 or source.bipolar or form.channels % PAIR:
        return False
    weights = program.weights_of(convolve)
    rows, columns = program.tensor[convolve.output].shape[:2]
    if 255 * _most_weight(form, weights) >= 1 << (RESULT_BITS - 1) or not _reads_within(form, rows, columns):
        return False
    patches = -(-rows // SIDE) * -(-columns // SIDE)
    return _transformed_cycles(patches, form.channels, weights.shape[0]) < _direct_cycles(rows * columns, form)


def _most_weight(form: Form, weights: Array) -> int:
    """The largest sum of an output's absolute weights, those of channels that fill the last block up included."""
    filling = 9 * (form.channels - form.shape[2])
    return int(np.abs(weights.astype(np.int64)).sum(axis=(1, 2, 3)).max()) + filling


def _reads_within(form: Form, rows: int, columns: int) -> bool:
    """Whether what patches read behind the last pixel still lies in the arena."""
    return (-rows % SIDE * form.row_pixels + -columns % SIDE) * fields.BLOCK <= fields.SLACK_BYTES


def _transformed_cycles(patches: int, channels: int, outputs: int) -> float:
    """Vector products of one output channel, or as much time."""
    products = -(-patches // SIDE) * SIDE * fields.POSITIONS * channels / (2 * LANES)
    return products + patches * channels * PIXEL_CYCLES / outputs + patches * RESULT_CYCLES + channels * WEIGHT_CYCLES


def _direct_cycles(pixels: int, form: Form) -> float:
    """The same of a convolution that is not transformed."""
    whole, last = form.blocks
    steps = 9 * whole + (3 * -(-3 * last // fields.BLOCK) if last else 0)
    return float(-(-pixels // 8) * 8 * steps)


def write_transformed(records: Records, convolve: Convolve, tail: tuple[TailOperation, ...]) -> None:
    """Write a convolution by patches, with its tail."""
    place, area = records.layout.place(convolve.inputs[0])
    form = place.form
    rows, columns, outputs = records.program.tensor[convolve.output].shape
    segments = list_segments(form, convolve.window, (rows, columns))
    weights = records.program.weights_of(convolve)
    binary = convolve.weight_bits == 1
    dense = dense_weights(form, weights, -(-outputs // PAIR) * PAIR, -1 if binary else 0)
    starts = -form.fill[0] * dense.sum(axis=(1, 2, 3), dtype=np.int64)
    record = [0] * fields.N_FIELDS
    record[fields.N_KIND] = fields.TRANSFORM
    record[fields.N_FROM] = records.tensor(convolve.inputs[0])
    record[fields.N_SEGMENTS : fields.N_SEGMENT_COUNT + 1] = [_append_segments(records, segments), len(segments)]
    record[fields.N_PATCHES] = segments[-1].first + segments[-1].patches
    record[fields.N_GROUP] = fields.GROUP_PATCHES // max(segment.patches for segment in segments)
    record[fields.N_CHANNELS] = form.channels
    record[fields.N_WEIGHTS] = records.constants.add(order_filters(dense, binary=binary))
    record[fields.N_BINARY] = fields.WEIGHT_BITS if binary else fields.WEIGHT_BYTES
    record[fields.N_STARTS] = records.constants.add(starts.astype(np.int32))
    record[fields.N_CHUNKS] = -(-outputs // LANES)
    record[fields.N_TAIL : fields.N_TAIL_COUNT + 1] = records.tail(tail)
    record[fields.N_WIDTH] = columns
    records.write(record)
    records.transforms.append((area is Area.OWN, record[fields.N_PATCHES], form.channels))


def _append_segments(records: Records, segments: tuple[Segment, ...]) -> int:
    numbers = []
    for segment in segments:
        tiles = records.append(flatten(segment.tiles))
        numbers += [segment.pixel, segment.first, segment.patches, segment.row, tiles, len(segment.tiles)]
    return records.append(numbers)


def order_filters(dense: Array, *, binary: bool) -> Array:
    """int8 (outputs, 3, 3, channels) -> [pair of chunks][two channels][tap][chunk][output][channel], bits or bytes."""
    outputs, _, _, channels = dense.shape
    shaped = dense.reshape(outputs // PAIR, 2, LANES, 9, channels // 2, 2).transpose(0, 4, 3, 1, 2, 5)
    if not binary:
        return np.ascontiguousarray(shaped)
    return np.packbits((shaped > 0).reshape(-1, 4 * LANES), axis=1, bitorder="little")


def scratch_bytes(patches: int, channels: int, images: int) -> int:
    """Of sums, transformed weights and transformed patches of so many images."""
    sums = (fields.GROUP_PATCHES + 3) * fields.PATCH_BYTES
    weights = fields.POSITIONS * (4 * LANES * channels + fields.FILTER_PADDING)
    pixels = fields.POSITIONS * (images * patches * 2 * channels + fields.PATCHES_PADDING)
    return sums + weights + pixels + 3 * 2 * channels
