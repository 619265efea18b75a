"""Steps that are not convolutions, from tensor to tensor, sixteen channels at a time where they allow it."""

import numpy as np
import numpy.typing as npt

from bnhw.kernels.fused.fields import (
    COPY,
    G_COUNT,
    G_PIECES,
    GATHER,
    I_TENSOR,
    L_CONSTANTS,
    L_ENTRIES,
    L_FROM,
    L_ROWS,
    L_TO,
    LANES,
    LOOK_UP,
    M_CHUNKS,
    M_TAIL,
    M_TAIL_COUNT,
    M_TILE_COUNT,
    M_TILES,
    M_WIDTH,
    MAP,
    P_ACROSS,
    P_DOWN,
    P_FROM,
    P_HEIGHT,
    P_LEFT,
    P_TO,
    P_TOP,
    P_WIDTH,
    P_ZERO,
    PIECE_FIELDS,
    POOL_MAXIMUM,
    POOL_SUM,
    PRODUCT,
    S_BIAS,
    S_FROM,
    S_PLANE_BYTES,
    S_PLANES,
    S_TO,
    SPLIT,
    T_BIAS,
    T_CHANNELS,
    T_HEIGHT,
    T_ORIGIN,
    T_ROW,
    T_SHIFT,
    T_SIZE,
    T_WIDTH,
    TILE_FIELDS,
    X_FROM,
    X_GATE,
    X_GATE_ZERO,
    X_TO,
    X_ZERO,
    Y_CODE,
    Y_COUNT,
    Y_FIRST,
    Y_FROM,
    Y_TO,
)
from bnhw.kernels.fused.places import load_chunk, place_chunk, store_chunk
from bnhw.kernels.fused.tail import run_tail
from bnhw.kernels.fused.vectors import (
    add,
    copy_line,
    largest,
    load_code,
    multiply,
    spread,
    store_code,
    store_wide,
    subtract,
)
from bnhw.kernels.jit import inline

Table = npt.NDArray[np.int64]


@inline
def place_code(table: Table, tensor: int, arena: int, row: int, column: int, channel: int) -> int:
    """Address of one code."""
    place, pitch = place_chunk(table, tensor, arena, channel // LANES)
    pixel = table[tensor + T_ORIGIN] + row * table[tensor + T_ROW] + column
    address: int = place + pixel * pitch + channel % LANES * table[tensor + T_SIZE]
    return address


@inline
def get_code(table: Table, tensor: int, arena: int, row: int, column: int, channel: int) -> int:
    """One code of a tensor."""
    stored: int = load_code(place_code(table, tensor, arena, row, column, channel), table[tensor + T_SIZE])
    code: int = (stored >> table[tensor + T_SHIFT]) + table[tensor + T_BIAS]
    return code


@inline
def set_code(table: Table, tensor: int, arena: int, row: int, column: int, channel: int, code: int) -> None:
    """Write one code of a tensor."""
    stored = (code - table[tensor + T_BIAS]) << table[tensor + T_SHIFT]
    store_code(place_code(table, tensor, arena, row, column, channel), table[tensor + T_SIZE], stored)


@inline
def load_image(table: Table, step: int, arena: int, image: int) -> None:
    """uint8 (height, width, channels) -> a tensor."""
    tensor = table[step + I_TENSOR]
    address = image
    for row in range(table[tensor + T_HEIGHT]):
        for column in range(table[tensor + T_WIDTH]):
            for channel in range(table[tensor + T_CHANNELS]):
                set_code(table, tensor, arena, row, column, channel, load_code(address, 1))
                address += 1


@inline
def store_output(table: Table, step: int, arena: int, logits: int) -> None:
    """A tensor of one pixel -> int64 (channels)."""
    tensor = table[step + I_TENSOR]
    for channel in range(table[tensor + T_CHANNELS]):
        store_wide(logits + 8 * channel, get_code(table, tensor, arena, 0, 0, channel))


@inline
def map_codes(table: Table, step: int, constants: int, arena: int, counts: int, slots: int) -> None:
    """A tail without a convolution."""
    chunks = table[step + M_CHUNKS]
    for chunk in range(0, chunks, 2):
        for number in range(0, table[step + M_TILE_COUNT], 2):
            tile = table[step + M_TILES] + number * TILE_FIELDS
            run_tail(
                table,
                table[step + M_TAIL],
                table[step + M_TAIL_COUNT],
                constants,
                arena,
                counts,
                chunk,
                chunks,
                tile,
                table[step + M_WIDTH],
                slots,
                slots,
            )


@inline
def gather_pieces(table: Table, step: int, arena: int) -> None:
    """Copy 64-byte pieces so that tiles find their pixels at equal distances."""
    for number in range(table[step + G_COUNT]):
        piece = table[step + G_PIECES] + number * PIECE_FIELDS
        source, target = arena + table[piece], arena + table[piece + 1]
        for row in range(table[piece + 2]):
            address = source + row * table[piece + 3]
            for _ in range(table[piece + 4]):
                copy_line(address, target)
                address += table[piece + 5]
                target += 64


@inline
def split_codes(table: Table, step: int, arena: int) -> None:
    """Codes less the lowest one, eight bits a plane."""
    source, target, bias = table[step + S_FROM], table[step + S_TO], table[step + S_BIAS]
    for row in range(table[source + T_HEIGHT]):
        for column in range(table[source + T_WIDTH]):
            for channel in range(table[source + T_CHANNELS]):
                code = get_code(table, source, arena, row, column, channel) - bias
                address = place_code(table, target, arena, row, column, channel)
                for plane in range(table[step + S_PLANES]):
                    store_code(address + plane * table[step + S_PLANE_BYTES], 1, code >> (8 * plane))


@inline
def look_up(table: Table, step: int, constants: int, arena: int) -> None:
    """Codes -> entries of a table, one row for all channels or one each."""
    source, target = table[step + L_FROM], table[step + L_TO]
    per_channel = table[step + L_ENTRIES] if table[step + L_ROWS] > 1 else 0
    entries = constants + table[step + L_CONSTANTS]
    for row in range(table[source + T_HEIGHT]):
        for column in range(table[source + T_WIDTH]):
            for channel in range(table[source + T_CHANNELS]):
                code = get_code(table, source, arena, row, column, channel)
                entry = load_code(entries + 4 * (channel * per_channel + code), 4)
                set_code(table, target, arena, row, column, channel, entry)


@inline
def copy_chunks(table: Table, source: int, target: int, arena: int, first: int, chunks: int) -> None:
    """Whole chunks of channels, those behind the last channel included."""
    shift, bias = spread(table[source + T_SHIFT]), spread(table[source + T_BIAS])
    size, width = table[source + T_SIZE], table[source + T_WIDTH]
    for chunk in range(chunks):
        read, read_pitch = place_chunk(table, source, arena, chunk)
        write, write_pitch = place_chunk(table, target, arena, first + chunk)
        for row in range(table[source + T_HEIGHT]):
            at = read + (table[source + T_ORIGIN] + row * table[source + T_ROW]) * read_pitch
            to = write + (table[target + T_ORIGIN] + row * table[target + T_ROW]) * write_pitch
            for _ in range(width):
                store_chunk(to, table[target + T_SIZE], shift, bias, load_chunk(at, size, shift, bias))
                at += read_pitch
                to += write_pitch


@inline
def fill_chunks(table: Table, target: int, arena: int, first: int, chunks: int, code: int) -> None:
    """One code in whole chunks of channels."""
    shift, bias = spread(table[target + T_SHIFT]), spread(table[target + T_BIAS])
    for chunk in range(chunks):
        write, pitch = place_chunk(table, target, arena, first + chunk)
        for row in range(table[target + T_HEIGHT]):
            to = write + (table[target + T_ORIGIN] + row * table[target + T_ROW]) * pitch
            for _ in range(table[target + T_WIDTH]):
                store_chunk(to, table[target + T_SIZE], shift, bias, spread(code))
                to += pitch


@inline
def copy_channels(table: Table, step: int, arena: int) -> None:
    """Channels of one tensor, or one code, into some channels of another of the same coding."""
    source, target = table[step + Y_FROM], table[step + Y_TO]
    first, count = table[step + Y_FIRST], table[step + Y_COUNT]
    if first % LANES == 0 and count % LANES == 0:
        if source >= 0:
            copy_chunks(table, source, target, arena, first // LANES, count // LANES)
        else:
            fill_chunks(table, target, arena, first // LANES, count // LANES, table[step + Y_CODE])
        return
    for row in range(table[target + T_HEIGHT]):
        for column in range(table[target + T_WIDTH]):
            for channel in range(count):
                code = table[step + Y_CODE]
                if source >= 0:
                    code = get_code(table, source, arena, row, column, channel)
                set_code(table, target, arena, row, column, first + channel, code)


@inline
def pool(table: Table, step: int, arena: int, is_sum: bool) -> None:
    """Sums of code - zero point, or the largest code, of the real pixels of each window."""
    source, target = table[step + P_FROM], table[step + P_TO]
    shift, bias = spread(table[source + T_SHIFT]), spread(table[source + T_BIAS])
    out_shift, out_bias = spread(table[target + T_SHIFT]), spread(table[target + T_BIAS])
    size, out_size = table[source + T_SIZE], table[target + T_SIZE]
    zero = spread(table[step + P_ZERO])
    for chunk in range((table[source + T_CHANNELS] + LANES - 1) // LANES):
        read, read_pitch = place_chunk(table, source, arena, chunk)
        write, write_pitch = place_chunk(table, target, arena, chunk)
        for row in range(table[target + T_HEIGHT]):
            top = row * table[step + P_DOWN] - table[step + P_TOP]
            bottom = min(top + table[step + P_HEIGHT], table[source + T_HEIGHT])
            for column in range(table[target + T_WIDTH]):
                left = column * table[step + P_ACROSS] - table[step + P_LEFT]
                right = min(left + table[step + P_WIDTH], table[source + T_WIDTH])
                result = spread(0 if is_sum else -(1 << 31))
                for y in range(max(top, 0), bottom):
                    pixel = table[source + T_ORIGIN] + y * table[source + T_ROW]
                    for x in range(max(left, 0), right):
                        codes = load_chunk(read + (pixel + x) * read_pitch, size, shift, bias)
                        result = add(result, subtract(codes, zero)) if is_sum else largest(result, codes)
                pixel = table[target + T_ORIGIN] + row * table[target + T_ROW] + column
                store_chunk(write + pixel * write_pitch, out_size, out_shift, out_bias, result)


@inline
def multiply_codes(table: Table, step: int, arena: int) -> None:
    """(code - zero point) of a value times that of its gate, which may be one pixel for all."""
    source, gate, target = table[step + X_FROM], table[step + X_GATE], table[step + X_TO]
    shift, bias = spread(table[source + T_SHIFT]), spread(table[source + T_BIAS])
    gate_shift, gate_bias = spread(table[gate + T_SHIFT]), spread(table[gate + T_BIAS])
    out_shift, out_bias = spread(table[target + T_SHIFT]), spread(table[target + T_BIAS])
    size, gate_size, out_size = table[source + T_SIZE], table[gate + T_SIZE], table[target + T_SIZE]
    zero, gate_zero = spread(table[step + X_ZERO]), spread(table[step + X_GATE_ZERO])
    width = table[source + T_WIDTH]
    is_one = table[gate + T_HEIGHT] == 1 and table[gate + T_WIDTH] == 1
    for chunk in range((table[source + T_CHANNELS] + LANES - 1) // LANES):
        read, read_pitch = place_chunk(table, source, arena, chunk)
        other, other_pitch = place_chunk(table, gate, arena, chunk)
        write, write_pitch = place_chunk(table, target, arena, chunk)
        for row in range(table[source + T_HEIGHT]):
            at = read + (table[source + T_ORIGIN] + row * table[source + T_ROW]) * read_pitch
            by = other + (table[gate + T_ORIGIN] + (0 if is_one else row * table[gate + T_ROW])) * other_pitch
            to = write + (table[target + T_ORIGIN] + row * table[target + T_ROW]) * write_pitch
            for _ in range(width):
                value = subtract(load_chunk(at, size, shift, bias), zero)
                factor = subtract(load_chunk(by, gate_size, gate_shift, gate_bias), gate_zero)
                store_chunk(to, out_size, out_shift, out_bias, multiply(value, factor))
                at += read_pitch
                by += 0 if is_one else other_pitch
                to += write_pitch


@inline
def run_step(table: Table, step: int, constants: int, arena: int, counts: int, slots: int) -> None:
    """Any step within the arena that is no convolution."""
    kind = table[step]
    if kind == MAP:
        map_codes(table, step, constants, arena, counts, slots)
    elif kind == GATHER:
        gather_pieces(table, step, arena)
    elif kind == SPLIT:
        split_codes(table, step, arena)
    elif kind == LOOK_UP:
        look_up(table, step, constants, arena)
    elif kind == COPY:
        copy_channels(table, step, arena)
    elif kind == POOL_SUM:
        pool(table, step, arena, True)
    elif kind == POOL_MAXIMUM:
        pool(table, step, arena, False)
    elif kind == PRODUCT:
        multiply_codes(table, step, arena)
