"""Convolutions of one channel each (depthwise): sixteen channels at once, four pixels after the other."""

import numpy as np
import numpy.typing as npt

from bnhw.kernels.fused.fields import LANES, STEP_CHANNELS_BYTES, TILE_BYTES, TILE_FIELDS
from bnhw.kernels.fused.vectors import add, load_bytes, load_sums, multiply, store_sums
from bnhw.kernels.jit import inline

Table = npt.NDArray[np.int64]
ROWS = 4
"""Pixels at once."""


@inline
def multiply_channels(
    table: Table,
    taps: int,
    source: int,
    pitch: int,
    tile: int,
    first: int,
    end: int,
    weights: int,
    slot: int,
    outputs: int,
) -> None:
    """Steps first..end of two tiles and at most 32 channels."""
    for half in range(2):
        start = table[tile + half * TILE_FIELDS]
        for row in range(0, table[tile + half * TILE_FIELDS + 3], ROWS):
            for part in range(outputs // LANES):
                sums = slot + (2 * half + part) * TILE_BYTES + 64 * row
                pixel = start + row * pitch
                multiply_four(table, taps, source + LANES * part, pixel, pitch, first, end, weights + 64 * part, sums)


@inline
def multiply_four(
    table: Table, taps: int, source: int, pixel: int, pitch: int, first: int, end: int, weights: int, sums: int
) -> None:
    """Sixteen channels of four pixels."""
    sums0, sums1, sums2, sums3 = load_sums(sums), load_sums(sums + 64), load_sums(sums + 128), load_sums(sums + 192)
    for step in range(first, end):
        size = table[taps + 3 * step + 1]
        at, stride = source + table[taps + 3 * step] + pixel * size, pitch * size
        factor = load_sums(weights + STEP_CHANNELS_BYTES * step)
        sums0 = add(sums0, multiply(factor, load_bytes(at)))
        sums1 = add(sums1, multiply(factor, load_bytes(at + stride)))
        sums2 = add(sums2, multiply(factor, load_bytes(at + 2 * stride)))
        sums3 = add(sums3, multiply(factor, load_bytes(at + 3 * stride)))
    store_sums(sums, sums0)
    store_sums(sums + 64, sums1)
    store_sums(sums + 128, sums2)
    store_sums(sums + 192, sums3)
