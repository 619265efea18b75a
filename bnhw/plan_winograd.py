"""Convolutions by transformed patches: which they are, and how their patches and weights lie.

See `bnhw.kernels.fused.winograd` for the arithmetic.
"""

from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused.fields import (
    BLOCK,
    FILTER_PADDING,
    GROUP_PATCHES,
    LANES,
    PATCH_BYTES,
    PATCHES_PADDING,
    POSITIONS,
)
from bnhw.ops import Window
from bnhw.plan_convolution import PAIR, even_tiles
from bnhw.plan_storage import Form, code_form
from bnhw.program import Convolve, Program

SIDE = 4
"""Pixels of a patch in each direction."""
RESULT_BITS = 26
"""Of sums, as two's complement: those that 2^32 leaves when they come 64 times too large."""
PORTION_BYTES = 1 << 19
LEAST_PATCHES = 64
"""See `portion_of`."""
DIRECT_CYCLES, PIXEL_CYCLES, WEIGHT_CYCLES, RESULT_CYCLES = 1.1, 5.0, 1.2, 12.0
"""What sixteen products of vectors take in convolutions that are not transformed, and what transforms take for sixteen
channels of a patch, filters, and outputs of a patch, where such products take 1 in transformed ones; measured on one
processor with AVX-512. Other processors gain more, so that what is transformed is faster there, too."""

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


def choose_transformed(program: Program) -> frozenset[str]:
    """Convolutions, by the tensor they write, that can be transformed, exactly, and take less time so."""
    convolutions = [instruction for instruction in program.instructions if isinstance(instruction, Convolve)]
    return frozenset(convolve.output for convolve in convolutions if _is_transformed(program, convolve))


def _is_transformed(program: Program, convolve: Convolve) -> bool:
    window, source = convolve.window, program.tensor[convolve.inputs[0]]
    if window.kernel != (3, 3) or window.stride != (1, 1) or convolve.groups != 1:
        return False
    if source.dtype.bits > 8 or source.bipolar:
        return False
    form = code_form(source, window.pads)
    most = source.dtype.high - source.dtype.low
    if most * _most_weight(program, convolve, form) >= 1 << (RESULT_BITS - 1):
        return False
    rows, columns = program.tensor[convolve.output].shape[:2]
    direct = direct_cycles(rows * columns, form, window)
    return transformed_cycles_of((rows, columns), form, convolve.weight_shape[0]) < direct


def _most_weight(program: Program, convolve: Convolve, form: Form) -> int:
    """The largest sum of an output's absolute weights, those of channels that fill the last block up included."""
    if convolve.weight_bits == 1:
        return 9 * form.channels
    weights = program.weights_of(convolve)
    return int(np.abs(weights.astype(np.int16)).sum(axis=(1, 2, 3), dtype=np.int64).max())


def transformed_cycles_of(result: tuple[int, int], form: Form, outputs: int) -> float:
    """What a convolution takes that is transformed, in products of vectors for one output channel."""
    patches = -(-result[0] // SIDE) * -(-result[1] // SIDE)
    return _transformed_cycles(patches, form.channels, outputs)


def _transformed_cycles(patches: int, channels: int, outputs: int) -> float:
    """Products of vectors for one output channel, and what else takes as much time."""
    outputs = -(-outputs // PAIR) * PAIR
    products = -(-patches // SIDE) * SIDE * POSITIONS * channels / (2 * LANES)
    return products + patches * channels * PIXEL_CYCLES / outputs + patches * RESULT_CYCLES + channels * WEIGHT_CYCLES


def direct_cycles(pixels: int, form: Form, window: Window) -> float:
    """The same of a convolution that is not transformed."""
    whole, last = form.blocks
    height, width = window.kernel
    steps = height * (width * whole + (-(-width * last // BLOCK) if last else 0))
    return DIRECT_CYCLES * (-(-pixels // 8) * 8 * steps)


def order_filters(dense: Array, *, binary: bool) -> Array:
    """int8 (outputs, 3, 3, channels) -> [pair of chunks][two channels][tap][chunk][output][channel], bits or bytes."""
    outputs, _, _, channels = dense.shape
    shaped = dense.reshape(outputs // PAIR, 2, LANES, 9, channels // 2, 2).transpose(0, 4, 3, 1, 2, 5)
    if not binary:
        return np.ascontiguousarray(shaped)
    return np.packbits((shaped > 0).reshape(-1, 4 * LANES), axis=1, bitorder="little")


def group_of(segments: tuple[Segment, ...]) -> int:
    """How many segments are multiplied together: those that fill fours of patches best, the most of equal ones."""
    sizes = [segment.patches for segment in segments]

    def cost(group: int) -> tuple[int, int]:
        filled = sum(-(-sum(sizes[at : at + group]) // SIDE) * SIDE for at in range(0, len(sizes), group))
        return filled, -group

    return min(range(1, GROUP_PATCHES // max(sizes) + 1), key=cost)


def portion_of(segments: int, widest: int, channels: int) -> int:
    """How many segments are transformed at once: what the second cache holds, but not few for the weights.

    segments: all of a group of images. widest: most patches of a segment.
    """
    patches = max(LEAST_PATCHES, PORTION_BYTES // (POSITIONS * 2 * channels))
    return min(segments, patches // widest)


def scratch_bytes(patches: int, channels: int) -> int:
    """Of sums, transformed weights and so many transformed patches."""
    sums = (GROUP_PATCHES + 3) * PATCH_BYTES
    weights = POSITIONS * (4 * LANES * channels + FILTER_PADDING)
    pixels = POSITIONS * (patches * 2 * channels + PATCHES_PADDING)
    return sums + weights + pixels + 3 * 2 * channels


def beyond_bytes(form: Form, result: tuple[int, int]) -> int:
    """What patches read behind the last pixel of a tensor."""
    rows, columns = result
    return (-rows % SIDE * form.row_pixels + -columns % SIDE) * BLOCK
