"""What follows a convolution: operations on slots of sums that have not left the first cache.

A slot holds two tiles of pixels by two chunks of channels, see `fields.SLOT_BYTES`. An operation reads one slot and
writes another (or reads or writes a tensor), for the pixels that count of each tile and the chunks that exist.
"""

import numpy as np
import numpy.typing as npt

from bnhw.kernels.fused.fields import (
    ADD,
    ADD_BYTES,
    LANES,
    LOAD,
    O_CLASSES,
    O_CONSTANTS,
    O_FIELDS,
    O_FROM,
    O_KIND,
    O_LEVELS,
    O_STRIDE,
    O_TENSOR,
    O_TO,
    REQUANTISE,
    REQUANTISE_BYTES,
    REQUANTISE_STORE,
    REQUANTISE_WIDE,
    REQUANTISE_WIDE_BYTES,
    SLOT_BYTES,
    STORE,
    T_BIAS,
    T_ROW,
    T_SHIFT,
    T_SIZE,
    THRESHOLD,
    TILE_BYTES,
    TILE_FIELDS,
)
from bnhw.kernels.fused.passes import run_pass, start_pass
from bnhw.kernels.fused.places import first_pixel, load_chunk, place_chunk, store_chunk
from bnhw.kernels.fused.requantising import requantise
from bnhw.kernels.fused.vectors import (
    add,
    count_different,
    exclusive_or,
    gather_sums,
    is_greater,
    lane_numbers,
    largest,
    load_sums,
    load_wide,
    multiply,
    requantise_exactly,
    smallest,
    spread,
    store_sums,
    store_wide,
    subtract,
)
from bnhw.kernels.jit import inline

Table = npt.NDArray[np.int64]
PIVOTS = 32
"""Limits of a threshold up to which comparing with each takes less time than a search, which gathers."""


@inline
def store_tile(table: Table, tensor: int, arena: int, chunk: int, tile: int, width: int, slot: int) -> None:
    """Sums of one tile and chunk -> a tensor."""
    place, pitch = place_chunk(table, tensor, arena, chunk)
    shift, bias = spread(table[tensor + T_SHIFT]), spread(table[tensor + T_BIAS])
    skip, left = (table[tensor + T_ROW] - width) * pitch, width - table[tile + 2]
    address = place + first_pixel(table, tensor, tile) * pitch
    size = table[tensor + T_SIZE]
    for row in range(table[tile + 3]):
        store_chunk(address, size, shift, bias, load_sums(slot + 64 * row))
        address += pitch
        left -= 1
        if left == 0:
            address += skip
            left = width


@inline
def load_tile(table: Table, tensor: int, arena: int, chunk: int, tile: int, width: int, slot: int) -> None:
    """Codes of a tensor -> one tile and chunk."""
    place, pitch = place_chunk(table, tensor, arena, chunk)
    shift, bias = spread(table[tensor + T_SHIFT]), spread(table[tensor + T_BIAS])
    skip, left = (table[tensor + T_ROW] - width) * pitch, width - table[tile + 2]
    address = place + first_pixel(table, tensor, tile) * pitch
    size = table[tensor + T_SIZE]
    for row in range(table[tile + 3]):
        store_sums(slot + 64 * row, load_chunk(address, size, shift, bias))
        address += pitch
        left -= 1
        if left == 0:
            address += skip
            left = width


@inline
def add_tile(
    table: Table, tensor: int, arena: int, chunk: int, tile: int, width: int, bounds: int, source: int, target: int
) -> int:
    """Saturating sums of a slot and a tensor; returns how many were clamped."""
    place, pitch = place_chunk(table, tensor, arena, chunk)
    shift, bias = spread(table[tensor + T_SHIFT]), spread(table[tensor + T_BIAS])
    skip, left = (table[tensor + T_ROW] - width) * pitch, width - table[tile + 2]
    address = place + first_pixel(table, tensor, tile) * pitch
    size = table[tensor + T_SIZE]
    low, high = load_sums(bounds), load_sums(bounds + 64)
    clamped = 0
    for row in range(table[tile + 3]):
        exact = add(load_sums(source + 64 * row), load_chunk(address, size, shift, bias))
        bounded = smallest(largest(exact, low), high)
        clamped += count_different(exact, bounded)
        store_sums(target + 64 * row, bounded)
        address += pitch
        left -= 1
        if left == 0:
            address += skip
            left = width
    return clamped


@inline
def requantise_tile(constants: int, rows: int, low_bits: int, source: int, target: int) -> None:
    """See `requantise`."""
    low, high = load_sums(constants), load_sums(constants + 64)
    factor, offset, shift = load_sums(constants + 128), load_sums(constants + 192), load_sums(constants + 256)
    for row in range(rows):
        codes = requantise(load_sums(source + 64 * row), low, high, factor, offset, shift, low_bits)
        store_sums(target + 64 * row, codes)


@inline
def requantise_tile_exactly(constants: int, rows: int, source: int, target: int) -> None:
    """The same in 64 bits."""
    for row in range(rows):
        store_sums(target + 64 * row, requantise_exactly(load_sums(source + 64 * row), constants))


@inline
def threshold_row(constants: int, levels: int, source: int, target: int) -> None:
    """Base plus how many ascending limits (2^k - 1, 16) the flipped sums exceed.

    At most 31 limits at equal distances are compared one after the other; between two of them, a search goes on.
    """
    sums, limits = exclusive_or(load_sums(source), load_sums(constants + 64)), constants + 128
    distance = max((levels + 1) // PIVOTS, 1)
    reached = spread(0)
    for level in range(distance - 1, levels, distance):
        reached = subtract(reached, is_greater(sums, load_sums(limits + 64 * level)))
    passed = multiply(reached, spread(distance))
    step = distance // 2
    while step > 0:
        middle = add(multiply(add(passed, spread(step - 1)), spread(LANES)), lane_numbers())
        exceeds = is_greater(sums, gather_sums(limits, middle))
        passed = subtract(passed, multiply(exceeds, spread(step)))
        step //= 2
    store_sums(target, add(load_sums(constants), passed))


@inline
def requantise_row(kind: int, constants: int, levels: int, source: int, target: int) -> None:
    """One pixel of any kind of requantising operation."""
    if kind == REQUANTISE:
        requantise_tile(constants, 1, levels, source, target)
    elif kind == REQUANTISE_WIDE:
        requantise_tile_exactly(constants, 1, source, target)
    else:
        threshold_row(constants, levels, source, target)


@inline
def requantise_classes(
    table: Table, operation: int, constants: int, chunk_constants: int, tile: int, width: int, source: int, target: int
) -> None:
    """A tile of which every pixel has the constants of its own class; one class where there is no map of them."""
    kind, levels = table[operation + O_KIND], table[operation + O_LEVELS]
    classes, stride = table[operation + O_CLASSES], table[operation + O_STRIDE]
    pixel = table[tile + 1] * width + table[tile + 2]
    for row in range(table[tile + 3]):
        of_class = 0 if classes < 0 else load_wide(constants + classes + 8 * (pixel + row)) * stride
        requantise_row(kind, chunk_constants + of_class, levels, source + 64 * row, target + 64 * row)


@inline
def constants_bytes(kind: int, levels: int) -> int:
    """Bytes of one chunk's constants."""
    if kind == REQUANTISE:
        return REQUANTISE_BYTES
    if kind == REQUANTISE_WIDE:
        return REQUANTISE_WIDE_BYTES
    if kind == ADD:
        return ADD_BYTES
    return 128 + 64 * levels


@inline
def run_operation(
    table: Table,
    operation: int,
    constants: int,
    arena: int,
    chunk: int,
    tile: int,
    width: int,
    source: int,
    target: int,
) -> int:
    """One operation on one tile and chunk; returns the clamped sums."""
    kind, tensor = table[operation + O_KIND], table[operation + O_TENSOR]
    if kind == STORE:
        store_tile(table, tensor, arena, chunk, tile, width, source)
        return 0
    if kind == LOAD:
        load_tile(table, tensor, arena, chunk, tile, width, target)
        return 0
    own = constants + table[operation + O_CONSTANTS] + chunk * constants_bytes(kind, table[operation + O_LEVELS])
    if kind == ADD:
        return add_tile(table, tensor, arena, chunk, tile, width, own, source, target)
    if kind == THRESHOLD or table[operation + O_CLASSES] >= 0:
        requantise_classes(table, operation, constants, own, tile, width, source, target)
    elif kind == REQUANTISE:
        requantise_tile(own, table[tile + 3], table[operation + O_LEVELS], source, target)
    else:
        requantise_tile_exactly(own, table[tile + 3], source, target)
    return 0


@inline
def count_clamped(counts: int, counter: int, clamped: int) -> None:
    """Add to one counter."""
    count = counts + 8 * counter
    store_wide(count, load_wide(count) + clamped)


@inline
def run_tail(
    table: Table,
    tail: int,
    operations: int,
    constants: int,
    arena: int,
    counts: int,
    chunk: int,
    chunks: int,
    tile: int,
    width: int,
    sums: int,
    slots: int,
) -> None:
    """All operations on two tiles and up to two chunks; slot 0 lies at `sums`, the others from `slots` on."""
    for number in range(operations):
        operation = tail + number * O_FIELDS
        clamped = 0
        first, second = table[operation + O_FROM], table[operation + O_TO]
        source = sums if first == 0 else slots + first * SLOT_BYTES
        target = sums if second == 0 else slots + second * SLOT_BYTES
        kind = table[operation + O_KIND]
        if kind >= REQUANTISE_STORE:
            run_pass(start_pass(table, operation, constants, arena, counts, chunk, chunks, tile, width, source))
            continue
        for half in range(2):
            for part in range(min(2, chunks - chunk)):
                at = (2 * half + part) * TILE_BYTES
                clamped += run_operation(
                    table,
                    operation,
                    constants,
                    arena,
                    chunk + part,
                    tile + half * TILE_FIELDS,
                    width,
                    source + at,
                    target + at,
                )
        if kind == ADD:
            count_clamped(counts, table[operation + O_LEVELS], clamped)
