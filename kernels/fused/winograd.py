"""Winograd's transforms, exactly: 3x3 convolutions of stride 1 with a quarter of the multiplications.

A patch is 4 x 4 pixels of the result, computed from 6 x 6 pixels d of the source and a filter g as

    4 x 4 results = A' [(G g G') * (B' d B)] A        (' transposes, * multiplies position by position)

(F(4x4, 3x3) in Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, equation 8).
Between the two transforms, each of the 36 positions is a product of matrices: patches by channels, channels by outputs.

All numbers are integers. G here lacks the denominators 4, -6, -6, 24, 24, 1 of the paper's; they went into A, all times
24, so that a result comes out 24 * 24 times too large, or by powers of two less, as `SHIFTS` says. Sums of products are
taken modulo 2^32, and so are results: multiplied by the inverse of 9 modulo 2^32, they are 2^6 times too large at the
most, and a shift makes them exact if they fit 26 bits, however often the sums have overflowed. Of pixels in 8 bits,
B' d B is from -12750 to 17340, and of weights in 8 bits, G g G' is within 49 * 128: factors fit 16 bits. Of signs, it
is within 49, which fits 8.
"""

from typing import Any

from llvmlite import ir
from numba import intp
from numba import types as nb

from bnhw.kernels.fused.fields import (
    E_FIRST,
    E_PATCHES,
    E_PIXEL,
    E_ROW,
    E_TILE_COUNT,
    E_TILES,
    FILTER_PADDING,
    GROUP_PATCHES,
    H_SIZE,
    N_BINARY,
    N_CHANNELS,
    N_CHUNKS,
    N_FROM,
    N_GROUP,
    N_PATCHES,
    N_PORTION,
    N_SEGMENT_COUNT,
    N_SEGMENTS,
    N_STARTS,
    N_TAIL,
    N_TAIL_COUNT,
    N_WEIGHTS,
    N_WIDTH,
    PATCH_BYTES,
    PATCHES_PADDING,
    POSITIONS,
    SEGMENT_FIELDS,
    SIGNS_BYTES,
    SLOT_BYTES,
    T_ROW,
    TAPS_BYTES,
    TILE_BYTES,
    TILE_FIELDS,
    WEIGHT_BITS,
)
from bnhw.kernels.fused.interpreter import Memory, Table
from bnhw.kernels.fused.patches import HALF_LINE, SHORTS
from bnhw.kernels.fused.places import place_chunk
from bnhw.kernels.fused.tail import run_tail
from bnhw.kernels.fused.vectors import I8, I16, I64, LINE, PLAIN, load_at, store_at
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import Generator

FLAGS = ir.VectorType(ir.IntType(1), 64)
SHIFTS = (3, 2, 1, 1)
"""Row by row and column by column, results are 3 * 2^shift times too large."""
NINTH = pow(9, -1, 1 << 32)


def _times(builder: Any, vector: Any, power: int) -> Any:
    """A vector times 2^power; bytes, of which no processor here has shifts, are added."""
    if vector.type.element is I8:
        for _ in range(power):
            vector = builder.add(vector, vector)
        return vector
    return builder.shl(vector, vector.type([power] * vector.type.count))


def _transform_pixels(builder: Any, d: list[Any]) -> list[Any]:
    """B' d: rows (4 0 -5 0 1 0), (0 -4 -4 1 1 0), (0 4 -4 -1 1 0), (0 -2 -1 2 1 0), (0 2 -1 -2 1 0), (0 4 0 -5 0 1)."""
    add, subtract = builder.add, builder.sub
    even, odd = subtract(d[4], _times(builder, d[2], 2)), subtract(d[3], _times(builder, d[1], 2))
    inner, outer = subtract(d[4], d[2]), _times(builder, subtract(d[3], d[1]), 1)
    return [
        add(_times(builder, subtract(d[0], d[2]), 2), inner),
        add(even, odd),
        subtract(even, odd),
        add(inner, outer),
        subtract(inner, outer),
        subtract(subtract(d[5], d[3]), _times(builder, outer, 1)),
    ]


def _transform_weights(builder: Any, g: list[Any]) -> list[Any]:
    """G g: rows (1 0 0), (1 1 1), (1 -1 1), (1 2 4), (1 -2 4), (0 0 1)."""
    add, subtract = builder.add, builder.sub
    near, far = add(g[0], g[2]), add(g[0], _times(builder, g[2], 2))
    double = _times(builder, g[1], 1)
    return [g[0], add(near, g[1]), subtract(near, g[1]), add(far, double), subtract(far, double), g[2]]


def _transform_sums(builder: Any, m: list[Any]) -> list[Any]:
    """A' m: rows (6 -4 -4 1 1 0), (0 -2 2 1 -1 0), (0 -1 -1 1 1 0), (0 -1 1 2 -2 6)."""
    add, subtract = builder.add, builder.sub
    near, near_odd, far, far_odd = add(m[1], m[2]), subtract(m[1], m[2]), add(m[3], m[4]), subtract(m[3], m[4])
    first, last = (_times(builder, add(end, _times(builder, end, 1)), 1) for end in (m[0], m[5]))
    return [
        add(subtract(first, _times(builder, near, 2)), far),
        subtract(far_odd, _times(builder, near_odd, 1)),
        subtract(far, near),
        add(subtract(_times(builder, far_odd, 1), near_odd), last),
    ]


def _pixel_transformer(channels: int) -> Generator:
    byte_type, short_type = ir.VectorType(I8, channels), ir.VectorType(I16, channels)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source, row_bytes, pixel_bytes, target, position_bytes = values
        rows = [builder.add(source, builder.mul(row_bytes, I64(row))) for row in range(6)]
        columns = []
        for column in range(6):
            offset = builder.mul(pixel_bytes, I64(column))
            pixels = [load_at(builder, byte_type, builder.add(row, offset)) for row in rows]
            columns.append(_transform_pixels(builder, [builder.zext(pixel, short_type) for pixel in pixels]))
        for row in range(6):
            for column, value in enumerate(_transform_pixels(builder, [of_one[row] for of_one in columns])):
                store_at(builder, value, builder.add(target, builder.mul(position_bytes, I64(6 * row + column))))
        return context.get_dummy_value()

    return nb.void(intp, intp, intp, intp, intp), generate


@intrinsic
def transform_pixels(
    typing: Any, source: Any, row_bytes: Any, pixel_bytes: Any, target: Any, position_bytes: Any
) -> Generator:
    """B' d B of 32 channels: 6 x 6 pixels of bytes -> 36 positions of int16."""
    return _pixel_transformer(32)


@intrinsic
def transform_half_pixels(
    typing: Any, source: Any, row_bytes: Any, pixel_bytes: Any, target: Any, position_bytes: Any
) -> Generator:
    """The same of 16 channels."""
    return _pixel_transformer(16)


def _filter_transformer(load: Any) -> Generator:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        weights, target, position_bytes = values
        rows = []
        for row in range(3):
            taps = [load(builder, weights, 3 * row + column) for column in range(3)]
            rows.append(_transform_weights(builder, taps))
        for column in range(6):
            for row, value in enumerate(_transform_weights(builder, [of_one[column] for of_one in rows])):
                store_at(builder, value, builder.add(target, builder.mul(position_bytes, I64(6 * row + column))))
        return context.get_dummy_value()

    return nb.void(intp, intp, intp), generate


def _load_signs(builder: Any, weights: Any, tap: int) -> Any:
    bits = builder.bitcast(load_at(builder, I64, weights, 8 * tap), FLAGS)
    return builder.select(bits, LINE([1] * 64), LINE([-1] * 64))


def _load_bytes(builder: Any, weights: Any, tap: int) -> Any:
    return builder.sext(load_at(builder, HALF_LINE, weights, 64 * tap), SHORTS)


@intrinsic
def transform_signs(typing: Any, weights: Any, target: Any, position_bytes: Any) -> Generator:
    """G g G' of two channels and two chunks: nine words of 64 bits, 1 for +1 -> 36 positions of int8."""
    return _filter_transformer(_load_signs)


@intrinsic
def transform_bytes(typing: Any, weights: Any, target: Any, position_bytes: Any) -> Generator:
    """The same of one chunk: nine times 32 int8, 64 bytes apart -> 36 positions of int16."""
    return _filter_transformer(_load_bytes)


@intrinsic
def finish_patch(typing: Any, sums: Any, starts: Any, first: Any, second: Any, third: Any, fourth: Any) -> Generator:
    """A' m A of sixteen channels, divided, plus what sums start from -> four rows of four pixels."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, starts, *rows = values
        start = load_at(builder, PLAIN, starts)
        columns = []
        for column in range(6):
            of_one = [load_at(builder, PLAIN, sums, 128 * (6 * row + column)) for row in range(6)]
            columns.append(_transform_sums(builder, of_one))
        for row, address in enumerate(rows):
            for column, value in enumerate(_transform_sums(builder, [of_one[row] for of_one in columns])):
                shift = PLAIN([SHIFTS[row] + SHIFTS[column]] * 16)
                result = builder.ashr(builder.mul(value, PLAIN([NINTH] * 16)), shift)
                store_at(builder, builder.add(result, start), address, 64 * column)
        return context.get_dummy_value()

    return nb.void(intp, intp, intp, intp, intp, intp), generate


@inline
def patch_number(table: Table, at: int, number: int) -> int:
    """The first patch of a segment, counted over all images of a group."""
    segments = table[at + N_SEGMENT_COUNT]
    segment = table[at + N_SEGMENTS] + number % segments * SEGMENT_FIELDS
    first: int = number // segments * table[at + N_PATCHES] + table[segment + E_FIRST]
    return first


@inline
def transform_segment(table: Table, at: int, arena: int, segment: int, target: int, position_bytes: int) -> None:
    """Patches of one segment -> int16 [position][patch][channel]."""
    source, channels = table[at + N_FROM], table[at + N_CHANNELS]
    for first in range(0, channels, 32):
        place, pitch = place_chunk(table, source, arena, first // 16)
        row_bytes = table[source + T_ROW] * pitch
        corner, to = place + table[segment + E_PIXEL] * pitch, target + 2 * first
        for _ in range(table[segment + E_PATCHES]):
            if channels - first > 16:
                transform_pixels(corner, row_bytes, pitch, to, position_bytes)
            else:
                transform_half_pixels(corner, row_bytes, pitch, to, position_bytes)
            corner += 4 * pitch
            to += 2 * channels


@inline
def transform_filter(table: Table, at: int, constants: int, chunk: int, target: int) -> None:
    """Weights of two chunks -> int8 or int16 [position][two channels][chunk][output][channel]."""
    pairs = table[at + N_CHANNELS] // 2
    weights = constants + table[at + N_WEIGHTS]
    if table[at + N_BINARY] == WEIGHT_BITS:
        weights += chunk // 2 * pairs * SIGNS_BYTES
        for pair in range(pairs):
            transform_signs(weights + pair * SIGNS_BYTES, target + 64 * pair, 64 * pairs + FILTER_PADDING)
    else:
        weights += chunk // 2 * pairs * TAPS_BYTES
        for pair in range(pairs):
            for part in range(2):
                taps, to = weights + pair * TAPS_BYTES + 32 * part, target + 128 * pair + 64 * part
                transform_bytes(taps, to, 128 * pairs + FILTER_PADDING)


@inline
def finish_segment(table: Table, at: int, memory: Memory, chunk: int, segment: int, sums: int) -> None:
    """Results of a segment's patches, and the tail on them."""
    constants, arena, counts, slots, slot, _ = memory
    chunks = table[at + N_CHUNKS]
    row = table[segment + E_ROW]
    for part in range(min(2, chunks - chunk)):
        starts = constants + table[at + N_STARTS] + 64 * (chunk + part)
        for patch in range(table[segment + E_PATCHES]):
            first = slot + TILE_BYTES * part + 256 * patch
            finish_patch(
                sums + patch * PATCH_BYTES + 64 * part,
                starts,
                first,
                first + place_pixel(row),
                first + place_pixel(2 * row),
                first + place_pixel(3 * row),
            )
    for number in range(0, table[segment + E_TILE_COUNT], 2):
        tile = table[segment + E_TILES] + number * TILE_FIELDS
        tail, operations = table[at + N_TAIL], table[at + N_TAIL_COUNT]
        at_slot = slot + number // 2 * SLOT_BYTES
        width = table[at + N_WIDTH]
        run_tail(table, tail, operations, constants, arena, counts, chunk, chunks, tile, width, at_slot, slots)


@inline
def place_pixel(number: int) -> int:
    """Bytes from the first pixel of a slot to another, sixteen to a tile."""
    return number // 16 * 2 * TILE_BYTES + number % 16 * 64


@inline
def multiply_positions(
    table: Table, at: int, sums: int, pixels: int, position_bytes: int, weights: int, count: int, multiply_patches: Any
) -> None:
    """Sums of some patches and two chunks at every position."""
    channels = table[at + N_CHANNELS]
    weight_bytes = 1 if table[at + N_BINARY] == WEIGHT_BITS else 2
    filter_bytes = 32 * weight_bytes * channels + FILTER_PADDING
    for position in range(POSITIONS):
        patches, filters = pixels + position * position_bytes, weights + position * filter_bytes
        to = sums + 128 * position
        multiply_patches(to, patches, 2 * channels, filters, channels // 2, count, weight_bytes)


@inline
def convolve_portion(
    table: Table, at: int, first_image: int, start: int, end: int, memory: Memory, multiply_patches: Any
) -> None:
    """All sums of segments start..end, counted over the images from the first one on."""
    constants, arena, _, _, _, panel = memory
    size, channels, segments = table[H_SIZE], table[at + N_CHANNELS], table[at + N_SEGMENT_COUNT]
    weights = panel + (GROUP_PATCHES + 3) * PATCH_BYTES
    pixels = weights + POSITIONS * (64 * channels + FILTER_PADDING)
    first_patch = patch_number(table, at, start)
    position_bytes = (patch_number(table, at, end) - first_patch) * 2 * channels + PATCHES_PADDING
    for number in range(start, end):
        image = first_image + number // segments
        own = table[image * size : (image + 1) * size]
        segment = own[at + N_SEGMENTS] + number % segments * SEGMENT_FIELDS
        to = pixels + (patch_number(table, at, number) - first_patch) * 2 * channels
        transform_segment(own, at, arena, segment, to, position_bytes)
    for chunk in range(0, table[at + N_CHUNKS], 2):
        transform_filter(table, at, constants, chunk, weights)
        for group in range(start, end, table[at + N_GROUP]):
            last = min(group + table[at + N_GROUP], end)
            patch = patch_number(table, at, group)
            patches = pixels + (patch - first_patch) * 2 * channels
            count = patch_number(table, at, last) - patch
            multiply_positions(table, at, panel, patches, position_bytes, weights, count, multiply_patches)
            sums = panel
            for number in range(group, last):
                image = first_image + number // segments
                own = table[image * size : (image + 1) * size]
                segment = own[at + N_SEGMENTS] + number % segments * SEGMENT_FIELDS
                finish_segment(own, at, memory, chunk, segment, sums)
                sums += own[segment + E_PATCHES] * PATCH_BYTES


@inline
def convolve_patches(
    table: Table, at: int, first_image: int, end_image: int, memory: Memory, multiply_patches: Any
) -> None:
    """All sums of some images, a portion of the patches after the other, for which weights are transformed once.

    multiply_patches: takes (sums, patches, bytes of a patch, weights, pairs of channels, number of patches, bytes of a
    weight) and multiplies them at one position; see `PATCH_BYTES` for sums.
    """
    total = (end_image - first_image) * table[at + N_SEGMENT_COUNT]
    for start in range(0, total, table[at + N_PORTION]):
        end = min(start + table[at + N_PORTION], total)
        convolve_portion(table, at, first_image, start, end, memory, multiply_patches)
