"""Sums of products of 1-bit weights and codes of few bits, by counting bits: words of 64 or 32 channels, one by one.

A code q of planes x_b meets a weight of +1 (bit w = 1) or -1 (w = 0). Over many of them,

    sum (2w - 1) q = sum_b 2^b (popcount(w) - popcount(w xor x_b))

and sums start from the first part, which the input does not change. A bipolar code 2x - 1 counts twice; it is stored
as 2x, and as 1 in borders, of which bit 1, the only plane, is 0. What a tap in the border would then add is taken from
what the sums of its pixel start from.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import intp

from bnhw.kernels.fused.counts import (
    count_step,
    double_counts,
    outputs_of,
    store_differences,
    store_differences_by_class,
)
from bnhw.kernels.fused.fields import (
    BLOCK,
    K_FIRST,
    K_FROM,
    K_PLANES,
    K_TO,
    LANES,
    T_BASE,
    T_BLOCKS,
    T_CHANNELS,
    T_LAST,
    T_PLANE,
    TILE_BYTES,
    TILE_FIELDS,
)
from bnhw.kernels.fused.vectors import LINE, load_at, store_wide
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import BYTES, Generator, gather_bit, load_word

Table = npt.NDArray[np.int64]
STRIP = 128
"""Pixels of which one plane after the other is packed, while they are in the first cache."""


@intrinsic
def load_line(typing: Any, address: Any) -> Generator:
    """Sixty-four bytes."""
    return BYTES(intp), lambda context, builder, signature, values: load_at(builder, LINE, values[0])


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
        for start in range(0, pixels, STRIP):
            for plane in range(planes):
                for pixel in range(start, min(start + STRIP, pixels)):
                    word = gather_bit(load_line(address + pixel * pitch), first + plane)
                    store_wide(target + 8 * (pixel * planes + plane), np.int64(word & mask))
        target += 8 * pixels * planes


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
    outputs: int,
    before: tuple[int, int, int],
    method: Any,
) -> None:
    """Steps first..end of two tiles and at most 32 outputs, block by block; the last block of a tile may be narrower.

    before: what sums start from, of bipolar codes the classes of the result's pixels (else 0), and pixels of its rows.
    method: see `bnhw.kernels.fused.rows`.
    """
    starts, classes, width = before
    _, _, _, _, _, zero_block, zero_narrow, _, _ = method
    pixels, narrow, lanes = len(zero_block()), len(zero_narrow()), outputs_of(zero_block())
    pixel, word = 8 * planes, 64 // lanes
    stride = pitch * pixel
    for half in range(2):
        of_tile = tile + half * TILE_FIELDS
        start, count = source + table[of_tile] * pixel, table[of_tile + 3]
        own = classes + 8 * (table[of_tile + 1] * width + table[of_tile + 2]) if classes else 0
        for row in range(0, count, pixels):
            for output in range(0, outputs, lanes):
                sums = slot + (2 * half + output // 16) * TILE_BYTES + 64 * row + 4 * (output % 16)
                words = (weights + word * output, first, end)
                own_starts = (starts + 4 * output, own + 8 * row if classes else 0)
                at = start + row * stride
                if count - row > narrow:
                    count_block(table, taps, at, stride, words, sums, planes, own_starts, zero_block)
                else:
                    count_block(table, taps, at, stride, words, sums, planes, own_starts, zero_narrow)


@inline
def count_block(
    table: Table,
    taps: int,
    source: int,
    stride: int,
    words: tuple[int, int, int],
    sums: int,
    planes: int,
    own_starts: tuple[int, int],
    zero: Any,
) -> None:
    """All planes of some pixels, `stride` bytes apart, and some outputs.

    words: address of the outputs' words, first step and end. own_starts: what the sums start from, and classes or 0.
    """
    weights, first, end = words
    starts, classes = own_starts
    totals = zero()
    step_bytes = 2 * LANES * 64 // outputs_of(totals)
    for plane in range(planes - 1, -1, -1):
        if plane < planes - 1:
            totals = double_counts(totals)
        for step in range(first, end):
            at = source + load_word(table, taps + 3 * step) + 8 * plane
            totals = count_step(totals, weights + step_bytes * step, at, stride)
    shift = 1 if classes else 0
    if first:
        store_differences(sums, totals, shift, sums, 64)
    elif classes:
        store_differences_by_class(sums, totals, shift, starts, classes)
    else:
        store_differences(sums, totals, shift, starts, 0)
