"""Sums of products of 1-bit weights and codes of few bits, by counting bits: one word of 64 channels after the other.

A code q of planes x_b meets a weight of +1 (bit w = 1) or -1 (w = 0). Over many of them,

    sum (2w - 1) q = sum_b 2^b (popcount(w) - popcount(w xor x_b))

and sums start from the first part, which the input does not change. A bipolar code 2x - 1 counts twice; it is stored
as 2x, and as 1 in borders, of which bit 1, the only plane, is 0. What a tap in the border would then add is taken from
what the sums of its pixel start from.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import intp
from numba import types as nb

from bnhw.kernels.fused.fields import (
    BLOCK,
    K_FIRST,
    K_FROM,
    K_PLANES,
    K_TO,
    STEP_WORDS_BYTES,
    T_BASE,
    T_BLOCKS,
    T_CHANNELS,
    T_LAST,
    T_PLANE,
    TILE_BYTES,
    TILE_FIELDS,
)
from bnhw.kernels.fused.vectors import I32, LINE, load_at, load_sums, load_wide, store_at, store_sums, store_wide
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import BYTES, WORDS, Generator, add_popcount_xor, double, gather_bit, zero_words

Table = npt.NDArray[np.int64]
ROWS = 4
"""Pixels at once."""


@intrinsic
def load_output_words(typing: Any, address: Any) -> Generator:
    """One word of eight outputs."""
    return WORDS(intp), lambda context, builder, signature, values: load_at(builder, WORDS.ir_type, values[0])


@intrinsic
def load_line(typing: Any, address: Any) -> Generator:
    """Sixty-four bytes."""
    return BYTES(intp), lambda context, builder, signature, values: load_at(builder, LINE, values[0])


@intrinsic
def subtract_counts(typing: Any, sums: Any, counts: Any) -> Generator:
    """Eight counts from eight int32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        eight = ir.VectorType(I32, 8)
        store_at(builder, builder.sub(load_at(builder, eight, values[0]), builder.trunc(values[1], eight)), values[0])
        return context.get_dummy_value()

    return nb.void(intp, WORDS), generate


@inline
def pack_words(table: Table, step: int, arena: int) -> None:
    """Bytes of a tensor -> words of its bits; channels that fill a block up become 0."""
    source, planes, first = table[step + K_FROM], table[step + K_PLANES], table[step + K_FIRST]
    channels, pixels = table[source + T_CHANNELS], table[source + T_PLANE] // BLOCK
    target = arena + table[step + K_TO]
    for block in range((channels + BLOCK - 1) // BLOCK):
        address = arena + table[source + T_BASE] + block * table[source + T_PLANE]
        pitch = BLOCK if block < table[source + T_BLOCKS] else table[source + T_LAST]
        lanes = min(channels - block * BLOCK, BLOCK)
        mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(BLOCK - lanes)
        for _ in range(pixels):
            codes = load_line(address)
            for plane in range(planes):
                store_wide(target, np.int64(gather_bit(codes, first + plane) & mask))
                target += 8
            address += pitch


@inline
def fill_by_class(
    table: Table, constants: int, classes: int, starts: int, class_bytes: int, tile: int, width: int, slot: int
) -> None:
    """What the sums of each pixel of two tiles start from, by its class."""
    for half in range(2):
        at = tile + half * TILE_FIELDS
        place = constants + classes + 8 * (table[at + 1] * width + table[at + 2])
        for row in range(table[at + 3]):
            own = starts + load_wide(place + 8 * row) * class_bytes
            for chunk in range(2):
                store_sums(slot + (2 * half + chunk) * TILE_BYTES + 64 * row, load_sums(own + 64 * chunk))


@inline
def count_steps(
    table: Table,
    taps: int,
    source: int,
    pitch: int,
    tile: int,
    first: int,
    end: int,
    weights: int,
    slot: int,
    planes: int,
    is_bipolar: bool,
    outputs: int,
) -> None:
    """Steps first..end of two tiles, four pixels and eight of at most 32 outputs after the other."""
    pixel = 8 * planes
    for half in range(2):
        start = source + table[tile + half * TILE_FIELDS] * pixel
        for row in range(0, table[tile + half * TILE_FIELDS + 3], ROWS):
            at = start + row * pitch * pixel
            for output in range(0, outputs, 8):
                sums = slot + (2 * half + output // 16) * TILE_BYTES + 64 * row + 4 * (output % 16)
                count_planes(table, taps, at, pitch * pixel, first, end, weights + 8 * output, sums, planes, is_bipolar)


@inline
def count_planes(
    table: Table,
    taps: int,
    source: int,
    stride: int,
    first: int,
    end: int,
    weights: int,
    sums: int,
    planes: int,
    is_bipolar: bool,
) -> None:
    """All planes of four pixels, `stride` bytes apart."""
    total0 = total1 = total2 = total3 = zero_words()
    for plane in range(planes - 1, -1, -1):
        total0, total1, total2, total3 = double(total0), double(total1), double(total2), double(total3)
        for step in range(first, end):
            at = source + table[taps + 3 * step] + 8 * plane
            words = load_output_words(weights + STEP_WORDS_BYTES * step)
            total0 = add_popcount_xor(total0, words, load_wide(at))
            total1 = add_popcount_xor(total1, words, load_wide(at + stride))
            total2 = add_popcount_xor(total2, words, load_wide(at + 2 * stride))
            total3 = add_popcount_xor(total3, words, load_wide(at + 3 * stride))
    if is_bipolar:
        total0, total1, total2, total3 = double(total0), double(total1), double(total2), double(total3)
    subtract_counts(sums, total0)
    subtract_counts(sums + 64, total1)
    subtract_counts(sums + 128, total2)
    subtract_counts(sums + 192, total3)
