"""The commonest ends of a convolution, each in one pass over the sums: constants stay in registers.

They equal the single operations of `bnhw.kernels.fused.tail`, one behind the other.
"""

import numpy as np
import numpy.typing as npt

from bnhw.kernels.fused.fields import (
    ADD_BYTES,
    O_CODES,
    O_CONSTANTS,
    O_LEVELS,
    O_LOW_BITS,
    O_SUM,
    O_TENSOR,
    REQUANTISE_BYTES,
    RESIDUAL_BYTES,
    T_BIAS,
    T_ROW,
    T_SHIFT,
    T_SIZE,
    TILE_BYTES,
    TILE_FIELDS,
)
from bnhw.kernels.fused.places import first_pixel, place_chunk
from bnhw.kernels.fused.requantising import requantise
from bnhw.kernels.fused.vectors import (
    add,
    count_different,
    largest,
    load_shorts,
    load_sums,
    shift_left,
    smallest,
    spread,
    store_bytes,
    store_shorts,
    subtract,
)
from bnhw.kernels.jit import inline

Table = npt.NDArray[np.int64]


@inline
def requantise_and_store(
    table: Table, operation: int, constants: int, arena: int, chunk: int, first: int, width: int, sums: int
) -> None:
    """Requantise one chunk of two tiles and store the codes."""
    tensor = table[operation + O_TENSOR]
    place, pitch = place_chunk(table, tensor, arena, chunk)
    skip, size, bias = (table[tensor + T_ROW] - width) * pitch, table[tensor + T_SIZE], spread(table[tensor + T_BIAS])
    own = constants + table[operation + O_CONSTANTS] + chunk * REQUANTISE_BYTES
    low, high, factor = load_sums(own), load_sums(own + 64), load_sums(own + 128)
    offset, shift = load_sums(own + 192), load_sums(own + 256)
    low_bits, places = table[operation + O_LEVELS], spread(table[tensor + T_SHIFT])
    for half in range(2):
        tile = first + half * TILE_FIELDS
        address = place + first_pixel(table, tensor, tile) * pitch
        left = width - table[tile + 2]
        slot = sums + 2 * half * TILE_BYTES
        for row in range(table[tile + 3]):
            codes = requantise(load_sums(slot + 64 * row), low, high, factor, offset, shift, low_bits)
            if size == 1:
                store_bytes(address, shift_left(subtract(codes, bias), places))
            else:
                store_shorts(address, codes)
            address += pitch
            left -= 1
            if left == 0:
                address += skip
                left = width


@inline
def add_residual(
    table: Table, operation: int, constants: int, arena: int, chunk: int, first: int, width: int, sums: int
) -> int:
    """Requantise, add, store, requantise and store one chunk of two tiles; returns how many sums were clamped."""
    total, codes = table[operation + O_SUM], table[operation + O_CODES]
    read, wide_pitch = place_chunk(table, table[operation + O_TENSOR], arena, chunk)
    write = place_chunk(table, total, arena, chunk)[0] if total >= 0 else 0
    place, pitch = place_chunk(table, codes, arena, chunk)
    skip, bias = (table[codes + T_ROW] - width) * pitch, spread(table[codes + T_BIAS])
    own = constants + table[operation + O_CONSTANTS] + chunk * RESIDUAL_BYTES
    low, high, factor = load_sums(own), load_sums(own + 64), load_sums(own + 128)
    offset, shift = load_sums(own + 192), load_sums(own + 256)
    least, most = load_sums(own + REQUANTISE_BYTES), load_sums(own + REQUANTISE_BYTES + 64)
    then = own + REQUANTISE_BYTES + ADD_BYTES
    then_low, then_high, then_factor = load_sums(then), load_sums(then + 64), load_sums(then + 128)
    then_offset, then_shift = load_sums(then + 192), load_sums(then + 256)
    clamped, low_bits, places = 0, table[operation + O_LOW_BITS], spread(table[codes + T_SHIFT])
    for half in range(2):
        tile = first + half * TILE_FIELDS
        address = place + first_pixel(table, codes, tile) * pitch
        at = (table[tile + 1] * width + table[tile + 2]) * wide_pitch
        left = width - table[tile + 2]
        slot = sums + 2 * half * TILE_BYTES
        for row in range(table[tile + 3]):
            own_codes = requantise(load_sums(slot + 64 * row), low, high, factor, offset, shift, low_bits)
            exact = add(own_codes, load_shorts(read + at))
            bounded = smallest(largest(exact, least), most)
            clamped += count_different(exact, bounded)
            if total >= 0:
                store_shorts(write + at, bounded)
            after = requantise(bounded, then_low, then_high, then_factor, then_offset, then_shift, 0)
            store_bytes(address, shift_left(subtract(after, bias), places))
            at += wide_pitch
            address += pitch
            left -= 1
            if left == 0:
                address += skip
                left = width
    return clamped
