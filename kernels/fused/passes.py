"""The commonest ends of a convolution, each in one pass over the sums, some rows at a time.

They equal the single operations of `bnhw.kernels.fused.tail`, one behind the other. Rows are the pixels of two tiles,
so that an interpreter may put a few of them between tile multiplications, which do not need the same units.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bnhw.kernels.fused.fields import (
    ADD_BYTES,
    LANES,
    O_CODES,
    O_CONSTANTS,
    O_KIND,
    O_LEVELS,
    O_LOW_BITS,
    O_SUM,
    O_TENSOR,
    REQUANTISE_BYTES,
    RESIDUAL,
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
    load_wide,
    shift_left,
    smallest,
    spread,
    store_bytes,
    store_paired_bytes,
    store_shorts,
    store_wide,
    subtract,
)
from bnhw.kernels.jit import inline, inline_always

Table = npt.NDArray[np.int64]
PASS_ROWS = 2 * LANES
"""Rows of a pass: the pixels of two tiles."""

Work: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int]
"""(operation, chunks 1 or 2, constants of the first, first tile, address of the sums, width; address and pitch of the
codes; addresses of the tensor that is added and of the sum, 0 where it is not stored). The last two have elements of
2 bytes and lie in one form."""

Progress: TypeAlias = tuple[int, int, int, int]
"""(rows that are done, address of the next codes, offset of the next element of 2 bytes, pixels left in the image's
row)."""


@inline
def start_pass(
    table: Table,
    operation: int,
    constants: int,
    arena: int,
    chunk: int,
    chunks: int,
    tile: int,
    width: int,
    sums: int,
) -> Work:
    """A pass over the sums of two tiles and the chunks that exist of two."""
    tensor, added, total = table[operation + O_TENSOR], 0, 0
    own = constants + table[operation + O_CONSTANTS]
    if table[operation + O_KIND] == RESIDUAL:
        added = place_chunk(table, tensor, arena, chunk)[0]
        if table[operation + O_SUM] >= 0:
            total = place_chunk(table, table[operation + O_SUM], arena, chunk)[0]
        tensor = table[operation + O_CODES]
        own += chunk * RESIDUAL_BYTES
    else:
        own += chunk * REQUANTISE_BYTES
    codes, pitch = place_chunk(table, tensor, arena, chunk)
    return operation, min(2, chunks - chunk), own, tile, sums, width, codes, pitch, added, total


@inline_always
def run_rows(table: Table, counts: int, work: Work, progress: Progress, rows: int) -> Progress:
    """The next rows, all of one tile; those of pixels that do not count are left out."""
    operation = work[0]
    if table[operation + O_KIND] == RESIDUAL:
        return add_residual(table, counts, work, start_tile(table, table[operation + O_CODES], work, progress), rows)
    return requantise_and_store(table, work, start_tile(table, table[operation + O_TENSOR], work, progress), rows)


@inline_always
def start_tile(table: Table, tensor: int, work: Work, progress: Progress) -> Progress:
    """The places of a tile's first pixel, where a tile starts; elsewhere the progress as it is."""
    done, address, wide, left = progress
    if done % LANES == 0:
        _, _, _, first, _, width, codes, pitch, _, _ = work
        tile = first + done // LANES * TILE_FIELDS
        address = codes + first_pixel(table, tensor, tile) * pitch
        wide = (table[tile + 1] * width + table[tile + 2]) * 2 * pitch
        left = width - table[tile + 2]
    return done, address, wide, left


@inline_always
def requantise_and_store(table: Table, work: Work, progress: Progress, rows: int) -> Progress:
    """Requantise and store codes of 1 or 2 bytes."""
    operation, chunks, own, first, sums, width, _, pitch, _, _ = work
    done, address, wide, left = progress
    tensor = table[operation + O_TENSOR]
    skip, size, bias = (table[tensor + T_ROW] - width) * pitch, table[tensor + T_SIZE], spread(table[tensor + T_BIAS])
    low_bits, places = table[operation + O_LEVELS], spread(table[tensor + T_SHIFT])
    other = own + (REQUANTISE_BYTES if chunks == 2 else 0)
    low, high, factor = load_sums(own), load_sums(own + 64), load_sums(own + 128)
    offset, shift = load_sums(own + 192), load_sums(own + 256)
    other_low, other_high, other_factor = load_sums(other), load_sums(other + 64), load_sums(other + 128)
    other_offset, other_shift = load_sums(other + 192), load_sums(other + 256)
    is_moved = table[tensor + T_BIAS] != 0 or table[tensor + T_SHIFT] != 0
    half = done // LANES
    slot = sums + half * 2 * TILE_BYTES - half * LANES * 64
    for row in range(done, min(done + rows, half * LANES + table[first + half * TILE_FIELDS + 3])):
        at = slot + 64 * row
        one = requantise(load_sums(at), low, high, factor, offset, shift, low_bits)
        two = requantise(
            load_sums(at + TILE_BYTES), other_low, other_high, other_factor, other_offset, other_shift, low_bits
        )
        if size == 1:
            if is_moved:
                one, two = shift_left(subtract(one, bias), places), shift_left(subtract(two, bias), places)
            if chunks == 2:
                store_paired_bytes(address, one, two)
            else:
                store_bytes(address, one)
        else:
            store_shorts(address, one)
            if chunks == 2:
                store_shorts(address + 2 * LANES, two)
        address += pitch
        left -= 1
        if left == 0:
            address += skip
            left = width
    return done + rows, address, wide, left


@inline
def add_residual(table: Table, counts: int, work: Work, progress: Progress, rows: int) -> Progress:
    """Requantise, add, store, requantise and store; sums that are clamped are counted."""
    operation, chunks, own, first, sums, width, _, pitch, _, _ = work
    done, address, wide, left = progress
    half = done // LANES
    end = max(done, min(done + rows, half * LANES + table[first + half * TILE_FIELDS + 3]))
    skip = (table[table[operation + O_CODES] + T_ROW] - width) * pitch
    slot = sums + half * 2 * TILE_BYTES - half * LANES * 64
    clamped, after, after_left = 0, address, left
    for part in range(chunks):
        own_work = (operation, end - done, own + part * RESIDUAL_BYTES, slot + part * TILE_BYTES + 64 * done, skip)
        places = (address + part * LANES, wide + part * 2 * LANES, left)
        more, after, after_left = add_residual_chunk(table, work, own_work, places)
        clamped += more
        after -= part * LANES
    counter = counts + 8 * table[operation + O_LEVELS]
    store_wide(counter, load_wide(counter) + clamped)
    return done + rows, after, wide + (end - done) * 2 * pitch, after_left


@inline
def add_residual_chunk(
    table: Table, work: Work, own_work: tuple[int, int, int, int, int], places: tuple[int, int, int]
) -> tuple[int, int, int]:
    """The same of some rows of one chunk: how many sums were clamped, and where the next codes go.

    own_work: the operation, rows, constants, sums, and what lies between two rows of the image's codes.
    """
    _, _, _, _, _, width, _, pitch, added, total = work
    operation, rows, own, sums, skip = own_work
    address, wide, left = places
    codes = table[operation + O_CODES]
    low, high, factor = load_sums(own), load_sums(own + 64), load_sums(own + 128)
    offset, shift = load_sums(own + 192), load_sums(own + 256)
    least, most = load_sums(own + REQUANTISE_BYTES), load_sums(own + REQUANTISE_BYTES + 64)
    then = own + REQUANTISE_BYTES + ADD_BYTES
    then_low, then_high, then_factor = load_sums(then), load_sums(then + 64), load_sums(then + 128)
    then_offset, then_shift = load_sums(then + 192), load_sums(then + 256)
    clamped, low_bits = 0, table[operation + O_LOW_BITS]
    bias, shifted = spread(table[codes + T_BIAS]), spread(table[codes + T_SHIFT])
    for row in range(rows):
        own_codes = requantise(load_sums(sums + 64 * row), low, high, factor, offset, shift, low_bits)
        exact = add(own_codes, load_shorts(added + wide))
        bounded = smallest(largest(exact, least), most)
        clamped += count_different(exact, bounded)
        if total > 0:
            store_shorts(total + wide, bounded)
        after = requantise(bounded, then_low, then_high, then_factor, then_offset, then_shift, 0)
        store_bytes(address, shift_left(subtract(after, bias), shifted))
        wide += 2 * pitch
        address += pitch
        left -= 1
        if left == 0:
            address += skip
            left = width
    return clamped, address, left
