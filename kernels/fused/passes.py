"""The commonest ends of a convolution, each in one pass over the sums of two tiles and two chunks.

They equal the single operations of `bnhw.kernels.fused.tail`, one behind the other. A pass holds whatever it needs, so
that an interpreter may start it, go on with other tiles, and run it once the lines that it writes are at hand.
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
    SHIFT_STORE,
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
    fetch_to_read,
    fetch_to_write,
    largest,
    load_shorts,
    load_sums,
    load_wide,
    shift_left,
    shift_right,
    smallest,
    spread,
    store_bytes,
    store_paired_bytes,
    store_saturated_bytes,
    store_shorts,
    store_wide,
    subtract,
)
from bnhw.kernels.jit import inline

Table = npt.NDArray[np.int64]
Work: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int]
"""Whatever a pass needs but the places of its two tiles: (operation's kind, chunks 1 or 2, address of the first one's
constants, address of the sums, `O_LEVELS` or `O_LOW_BITS` of the operation; of the codes bytes of an element,
bias, shift, bytes from pixel to pixel, bytes from row to row besides these, pixels of a row; addresses of the first
pixels of the tensor that is added and of the stored sum, 0 where it is not stored, both with elements of 2 bytes;
address of the counter of clamped sums)."""

Start: TypeAlias = tuple[int, int, int, int]
"""Of one tile: address of the codes, byte offset in tensors of 2-byte elements, pixels left in its row, pixels."""

Pass: TypeAlias = tuple[Work, Start, Start]

NOTHING: Pass = ((0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))
"""A pass over no pixels."""


@inline
def start_pass(
    table: Table,
    operation: int,
    constants: int,
    arena: int,
    counts: int,
    chunk: int,
    chunks: int,
    tile: int,
    width: int,
    sums: int,
) -> Pass:
    """A pass over the sums of two tiles and the chunks that exist of two."""
    kind, tensor, added, total = table[operation + O_KIND], table[operation + O_TENSOR], 0, 0
    own, counter, low_bits = constants + table[operation + O_CONSTANTS], 0, table[operation + O_LEVELS]
    if kind == RESIDUAL:
        added = place_chunk(table, tensor, arena, chunk)[0]
        if table[operation + O_SUM] >= 0:
            total = place_chunk(table, table[operation + O_SUM], arena, chunk)[0]
        tensor, counter = table[operation + O_CODES], counts + 8 * low_bits
        own, low_bits = own + chunk * RESIDUAL_BYTES, table[operation + O_LOW_BITS]
    else:
        own += chunk * REQUANTISE_BYTES
    codes, pitch = place_chunk(table, tensor, arena, chunk)
    size, bias, shift = table[tensor + T_SIZE], table[tensor + T_BIAS], table[tensor + T_SHIFT]
    skip = (table[tensor + T_ROW] - width) * pitch
    work = (kind, min(2, chunks - chunk), own, sums, low_bits)
    codes_work = (size, bias, shift, pitch, skip, width, added, total, counter)
    starts = (
        start_tile(table, tensor, tile, codes, pitch, width),
        start_tile(table, tensor, tile + TILE_FIELDS, codes, pitch, width),
    )
    return (*work, *codes_work), starts[0], starts[1]


@inline
def start_tile(table: Table, tensor: int, tile: int, codes: int, pitch: int, width: int) -> Start:
    """The places of a tile's first pixel."""
    address = codes + first_pixel(table, tensor, tile) * pitch
    wide = (table[tile + 1] * width + table[tile + 2]) * 2 * pitch
    return address, wide, width - table[tile + 2], table[tile + 3]


@inline
def fetch_lines(own: Pass) -> None:
    """Ask for the lines that a pass will write, or add, in the first cache.

    Stores wait for one another: a line that comes from the second cache costs its whole latency.
    """
    work, first, second = own
    fetch_tile(work, first)
    fetch_tile(work, second)


@inline
def fetch_tile(work: Work, start: Start) -> None:
    """The same of one tile."""
    _, _, _, _, _, _, _, _, pitch, skip, width, added, total, _ = work
    address, wide, left, rows = start
    for _ in range(rows):
        fetch_to_write(address)
        if added > 0:
            fetch_to_read(added + wide)
        if total > 0:
            fetch_to_write(total + wide)
        address, wide, left = address + pitch, wide + 2 * pitch, left - 1
        if left == 0:
            address, left = address + skip, width


@inline
def run_pass(own: Pass) -> None:
    """All pixels that count."""
    work, first, second = own
    run_tile(work, work[3], first)
    run_tile(work, work[3] + 2 * TILE_BYTES, second)


@inline
def run_tile(work: Work, sums: int, start: Start) -> None:
    """The pixels of one tile, in runs within a row of the image."""
    kind, _, _, _, _, _, _, _, pitch, skip, width, _, _, _ = work
    address, wide, left, rows = start
    while rows > 0:
        run = min(rows, left)
        if kind == RESIDUAL:
            add_residual(work, sums, run, address, wide)
        else:
            requantise_and_store(work, sums, run, address)
        sums, rows, left = sums + 64 * run, rows - run, left - run
        address, wide = address + run * pitch, wide + run * 2 * pitch
        if left == 0:
            address, left = address + skip, width


@inline
def requantise_and_store(work: Work, sums: int, rows: int, address: int) -> None:
    """Requantise and store some pixels as codes of 1 or 2 bytes."""
    kind, chunks, _, _, low_bits, size, _, _, _, _, _, _, _, _ = work
    if kind == SHIFT_STORE:
        store_shifted(work, sums, rows, address)
    elif chunks == 2 and size == 1 and low_bits == 0:
        store_pairs_of_codes(work, sums, rows, address)
    else:
        for part in range(chunks):
            store_codes(work, part, sums, rows, address)


@inline
def store_shifted(work: Work, sums: int, rows: int, address: int) -> None:
    """Some pixels as codes of 1 byte, by additions and shifts alone."""
    _, chunks, own, _, levels, _, _, _, pitch, _, _, _, _, _ = work
    low, high = levels >> 8, levels & 255
    other = own + (REQUANTISE_BYTES if chunks == 2 else 0)
    offset, right = load_sums(own + 192), load_sums(own + 256)
    other_offset, other_right = load_sums(other + 192), load_sums(other + 256)
    for row in range(rows):
        one = shift_right(add(load_sums(sums + 64 * row), offset), right)
        two = shift_right(add(load_sums(sums + TILE_BYTES + 64 * row), other_offset), other_right)
        if chunks == 2:
            store_saturated_bytes(address + row * pitch, one, two, low, high)
        else:
            store_bytes(address + row * pitch, smallest(largest(one, spread(low)), spread(high)))


@inline
def store_pairs_of_codes(work: Work, sums: int, rows: int, address: int) -> None:
    """Some pixels of two chunks as codes of 1 byte: the commonest case."""
    _, _, own, _, _, _, bias, shift, pitch, _, _, _, _, _ = work
    low, high, factor = load_sums(own), load_sums(own + 64), load_sums(own + 128)
    offset, right = load_sums(own + 192), load_sums(own + 256)
    other = own + REQUANTISE_BYTES
    other_low, other_high, other_factor = load_sums(other), load_sums(other + 64), load_sums(other + 128)
    other_offset, other_right = load_sums(other + 192), load_sums(other + 256)
    is_moved = bias != 0 or shift != 0
    for row in range(rows):
        at = sums + 64 * row
        one = requantise(load_sums(at), low, high, factor, offset, right, 0)
        two = load_sums(at + TILE_BYTES)
        two = requantise(two, other_low, other_high, other_factor, other_offset, other_right, 0)
        if is_moved:
            one = shift_left(subtract(one, spread(bias)), spread(shift))
            two = shift_left(subtract(two, spread(bias)), spread(shift))
        store_paired_bytes(address + row * pitch, one, two)


@inline
def store_codes(work: Work, part: int, sums: int, rows: int, address: int) -> None:
    """Some pixels of one chunk as codes of 1 or 2 bytes."""
    _, _, own, _, low_bits, size, bias, shift, pitch, _, _, _, _, _ = work
    own += part * REQUANTISE_BYTES
    low, high, factor = load_sums(own), load_sums(own + 64), load_sums(own + 128)
    offset, right = load_sums(own + 192), load_sums(own + 256)
    for row in range(rows):
        at = sums + part * TILE_BYTES + 64 * row
        codes = requantise(load_sums(at), low, high, factor, offset, right, low_bits)
        place = address + row * pitch + part * LANES * size
        if size == 1:
            store_bytes(place, shift_left(subtract(codes, spread(bias)), spread(shift)))
        else:
            store_shorts(place, codes)


@inline
def add_residual(work: Work, sums: int, rows: int, address: int, wide: int) -> None:
    """Requantise, add, store, requantise and store some pixels; sums that are clamped are counted."""
    _, chunks, own, _, _, _, _, _, _, _, _, _, _, counter = work
    clamped = 0
    for part in range(chunks):
        places = (address + part * LANES, wide + part * 2 * LANES)
        clamped += add_residual_chunk(work, own + part * RESIDUAL_BYTES, sums + part * TILE_BYTES, rows, places)
    store_wide(counter, load_wide(counter) + clamped)


@inline
def add_residual_chunk(work: Work, own: int, sums: int, rows: int, places: tuple[int, int]) -> int:
    """The same of one chunk, whose constants are at `own`: how many sums were clamped.

    places: address of the codes, and offset in the tensors of 2 bytes.
    """
    _, _, _, _, low_bits, _, bias, shift, pitch, _, _, added, total, _ = work
    address, wide = places
    low, high, factor = load_sums(own), load_sums(own + 64), load_sums(own + 128)
    offset, right = load_sums(own + 192), load_sums(own + 256)
    least, most = load_sums(own + REQUANTISE_BYTES), load_sums(own + REQUANTISE_BYTES + 64)
    then = own + REQUANTISE_BYTES + ADD_BYTES
    then_low, then_high, then_factor = load_sums(then), load_sums(then + 64), load_sums(then + 128)
    then_offset, then_right = load_sums(then + 192), load_sums(then + 256)
    clamped = 0
    for row in range(rows):
        own_codes = requantise(load_sums(sums + 64 * row), low, high, factor, offset, right, low_bits)
        exact = add(own_codes, load_shorts(added + wide))
        bounded = smallest(largest(exact, least), most)
        clamped += count_different(exact, bounded)
        if total > 0:
            store_shorts(total + wide, bounded)
        after = requantise(bounded, then_low, then_high, then_factor, then_offset, then_right, 0)
        store_bytes(address, shift_left(subtract(after, spread(bias)), spread(shift)))
        wide += 2 * pitch
        address += pitch
    return clamped
