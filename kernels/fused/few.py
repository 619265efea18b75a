"""Convolutions of few channels each (grouped): a chunk of outputs is multiplied with the sixteen channels it reads.

What multiplies takes (slot, pixels, stride, panel) and adds one step's products to some rows of a chunk; pixels are
`stride` bytes apart.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bnhw.kernels.fused.fields import FEW_BYTES, LANES, TILE_BYTES, TILE_FIELDS
from bnhw.kernels.jit import inline

Table = npt.NDArray[np.int64]


@inline
def multiply_few(
    table: Table,
    taps: int,
    source: int,
    pitch: int,
    tile: int,
    steps: int,
    weights: int,
    slot: int,
    outputs: int,
    rows: int,
    multiply: Any,
) -> None:
    """All steps of two tiles and at most 32 outputs; either chunk has taps and weights of its own."""
    for half in range(2):
        start, count = table[tile + half * TILE_FIELDS], table[tile + half * TILE_FIELDS + 3]
        for part in range(outputs // LANES):
            sums = slot + (2 * half + part) * TILE_BYTES
            for step in range(part * steps, (part + 1) * steps):
                tap = taps + 3 * step
                pixel = table[tap + 1]
                first = source + table[tap] + start * pixel
                for row in range(0, count, rows):
                    at = first + row * pitch * pixel
                    multiply(sums + 64 * row, at, pitch * pixel, weights + FEW_BYTES * step)
