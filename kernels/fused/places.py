"""Where a tensor's codes lie, and sixteen of them in and out."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bnhw.kernels.fused.fields import (
    LANES,
    T_BASE,
    T_BLOCKS,
    T_LAST,
    T_ORIGIN,
    T_PLANE,
    T_ROW,
    T_SIZE,
)
from bnhw.kernels.fused.vectors import (
    add,
    load_bytes,
    load_shorts,
    load_sums,
    shift_left,
    shift_right,
    store_bytes,
    store_shorts,
    store_sums,
    subtract,
)
from bnhw.kernels.jit import inline

Table = npt.NDArray[np.int64]


@inline
def place_chunk(table: Table, tensor: int, arena: int, chunk: int) -> tuple[int, int]:
    """Address of pixel 0 of sixteen channels, and the bytes from one pixel to the next."""
    size = table[tensor + T_SIZE]
    base = arena + table[tensor + T_BASE]
    whole = 4 * table[tensor + T_BLOCKS]
    if chunk < whole:
        return base + (chunk >> 2) * table[tensor + T_PLANE] + (chunk & 3) * LANES * size, 64 * size
    start = base + table[tensor + T_BLOCKS] * table[tensor + T_PLANE]
    return start + (chunk - whole) * LANES * size, table[tensor + T_LAST] * size


@inline
def load_chunk(address: int, size: int, shift: Any, bias: Any) -> Any:
    """Sixteen codes of a tensor whose elements have `size` bytes."""
    if size == 1:
        return add(shift_right(load_bytes(address), shift), bias)
    if size == 2:
        return load_shorts(address)
    return load_sums(address)


@inline
def store_chunk(address: int, size: int, shift: Any, bias: Any, codes: Any) -> None:
    """The reverse of `load_chunk`."""
    if size == 1:
        store_bytes(address, shift_left(subtract(codes, bias), shift))
    elif size == 2:
        store_shorts(address, codes)
    else:
        store_sums(address, codes)


@inline
def first_pixel(table: Table, tensor: int, tile: int) -> int:
    """A tile's first pixel in a padded plane."""
    pixel: int = table[tensor + T_ORIGIN] + table[tile + 1] * table[tensor + T_ROW] + table[tile + 2]
    return pixel
