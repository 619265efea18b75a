"""Convolutions of weights of one bit without a product: sums of six channels are looked up.

Of six codes e of a pixel, less a centre c, a table holds all 64 sums

    (e0 - c) s0 + (e1 - c) s1 + ... + (e5 - c) s5,    each s -1 or +1,

and six weights of one bit are the index of theirs. A table fills two registers of 32 numbers of 16 bits, in which
`vpermi2w` looks 32 output channels up at once: 192 products for an instruction, and one more that adds. Every tap of
a kernel and every output channel looks up in the same tables, so that they are built once for many sums. This is the
"method of four Russians" (Arlazarov, Dinic, Kronrod and Faradzev, 1970) with registers for memory.

Below, a pair of channels is two of the six, a pair of chunks 32 output channels.

Looked-up sums are added in 16 bits as often as cannot overflow (`plan_tabulated.steps_of`), and then to sums of 32.
"""

from typing import Any

from llvmlite import binding, ir
from numba import intp
from numba import types as nb
from numba.core.cgutils import alloca_once_value, for_range

from bnhw.kernels.fused.fields import (
    CELL_BYTES,
    GROUP_FIELDS,
    H_SIZE,
    INDEX_BYTES,
    INDICES_BYTES,
    Q_FIELDS,
    Q_PIXEL,
    Q_SLOT,
    QUAD,
    SLOT_BYTES,
    T_BASE,
    TABLE_BYTES,
    TILE_BYTES,
    TILE_FIELDS,
    U_CENTRE,
    U_CHUNKS,
    U_FROM,
    U_GROUP_COUNT,
    U_GROUPS,
    U_IMAGES,
    U_OFFSETS,
    U_PAIR_BYTES,
    U_PART_COUNT,
    U_PARTS,
    U_PITCH,
    U_PLANE_BYTES,
    U_PLANES,
    U_PORTION_COUNT,
    U_PORTIONS,
    U_STARTS,
    U_STEPS,
    U_TABLE_GROUPS,
    U_TABLES_BYTES,
    U_TAIL,
    U_TAIL_COUNT,
    U_TAPS,
    U_WEIGHTS,
    U_WIDTH,
    V_FIELDS,
    V_PIXEL,
    V_PIXELS,
    V_QUAD_COUNT,
    V_QUADS,
    V_SLOTS,
    V_TILES,
)
from bnhw.kernels.fused.interpreter import Memory, Table
from bnhw.kernels.fused.panels import fill_slot, shift_sums
from bnhw.kernels.fused.patches import SHORTS
from bnhw.kernels.fused.tail import run_tail
from bnhw.kernels.fused.vectors import I8, I16, I64, LINE, PLAIN, broadcast, call, load_at, store_at, store_code
from bnhw.kernels.fused.vnni import dot_shorts
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import Generator

binding.initialize_native_asmparser()
SIGNS = [[2 * (lane >> bit & 1) - 1 for lane in range(32)] for bit in range(5)]
"""Of the first five channels, in each lane of a table's registers; the sixth has the register's."""
INDEX_BITS = 6
HALF = ir.VectorType(I8, 32)


def _weigh_pair(builder: Any, address: Any, first: list[int], second: list[int]) -> list[Any]:
    """Two codes, each times its sign of every lane."""
    codes = builder.bitcast(broadcast(builder, load_at(builder, I16, address), 32), LINE)
    signs = LINE([sign for both in zip(first, second, strict=True) for sign in both])
    return call(builder, "llvm.x86.avx512.pmaddubs.w.512", SHORTS, [codes, signs])  # type: ignore[no-any-return]


@intrinsic
def build_table(typing: Any, target: Any, first: Any, second: Any, third: Any, centre: Any) -> Generator:
    """All sums of six codes, each less the centre: the sixth is subtracted in one register, added in the other."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, first, second, third, centre = values
        centres = broadcast(builder, builder.trunc(centre, I16), 32)
        four = builder.add(
            _weigh_pair(builder, first, SIGNS[0], SIGNS[1]), _weigh_pair(builder, second, SIGNS[2], SIGNS[3])
        )
        for register, sign in enumerate((-1, 1)):
            two = _weigh_pair(builder, third, SIGNS[4], [sign] * 32)
            signs = SHORTS([sum(of_lane) + sign for of_lane in zip(*SIGNS, strict=True)])
            less = builder.mul(centres, signs)
            store_at(builder, builder.add(four, builder.sub(two, less)), target, 64 * register)
        return context.get_dummy_value()

    return nb.void(intp, intp, intp, intp, intp), generate


@intrinsic
def expand_index(typing: Any, packed: Any, target: Any) -> Generator:
    """Six bits of each of 32 output channels, one after the other -> int16, of which the low six bits count."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        packed, target = values
        line = load_at(builder, HALF, packed)
        starts = [INDEX_BITS * lane for lane in range(32)]
        places = [start // 8 + part for start in starts for part in range(2)]
        words = builder.shuffle_vector(line, line, ir.Constant(ir.VectorType(ir.IntType(32), 64), places))
        shifts = SHORTS([start % 8 for start in starts])
        store_at(builder, builder.lshr(builder.bitcast(words, SHORTS), shifts), target)
        return context.get_dummy_value()

    return nb.void(intp, intp), generate


def _adder(quads: int, pairs: int) -> Generator:
    """See `add_four_pairs`; each of some quads has its own tables and slots."""
    places = [(quad, pixel, pair) for quad in range(quads) for pixel in range(QUAD) for pair in range(pairs)]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        tables, slots = values[0:2], values[2:4]
        pitch, offsets, steps, indices, pair_bytes = values[4:]
        totals = {at: alloca_once_value(builder, SHORTS(None)) for at in places}  # type: ignore[no-untyped-call]
        with for_range(builder, steps) as loop:
            offset = load_at(builder, I64, builder.add(offsets, builder.mul(loop.index, I64(8))))
            row = builder.add(indices, builder.mul(loop.index, I64(INDEX_BYTES * pairs)))
            index = [load_at(builder, SHORTS, row, INDEX_BYTES * pair) for pair in range(pairs)]
            for quad in range(quads):
                for pixel in range(QUAD):
                    table = builder.add(builder.add(tables[quad], builder.mul(pitch, I64(pixel))), offset)
                    own = [totals[quad, pixel, pair] for pair in range(pairs)]
                    added = add_entries(builder, table, index, [builder.load(total) for total in own])
                    for total, value in zip(own, added, strict=True):
                        builder.store(value, total)
        for quad, pixel, pair in places:
            slot = builder.add(slots[quad], builder.mul(pair_bytes, I64(pair)))
            _add_sums(builder, builder.load(totals[quad, pixel, pair]), slot, 64 * pixel)
        return context.get_dummy_value()

    return nb.void(*(intp,) * 9), generate


def add_entries(builder: Any, table: Any, index: list[Any], totals: list[Any]) -> list[Any]:
    """Totals plus the entries of one table.

    In assembly, since the order matters: all look-ups, then all additions, is how a processor with as many units for
    either starts one of each with every cycle. Alternating, or as LLVM orders them, it takes 5 to 30 % longer.
    """
    pairs = len(index)
    registers = [load_at(builder, SHORTS, table, 64 * register) for register in range(2)]
    low, high, first_index = 2 * pairs, 2 * pairs + 1, 2 * pairs + 2
    lines = []
    for pair in range(pairs):
        lines += [f"vmovdqa64 ${first_index + pair}, ${pairs + pair}", f"vpermi2w ${high}, ${low}, ${pairs + pair}"]
    lines += [f"vpaddw ${pairs + pair}, ${pair}, ${pair}" for pair in range(pairs)]
    constraints = ["=v"] * pairs + ["=&v"] * pairs + ["v"] * (2 + pairs) + [str(pair) for pair in range(pairs)]
    results = ir.LiteralStructType([SHORTS] * (2 * pairs))
    operands = [*registers, *index, *totals]
    assembly = ir.InlineAsm(ir.FunctionType(results, [SHORTS] * len(operands)), "\n".join(lines), ",".join(constraints))
    both = builder.call(assembly, operands)
    return [builder.extract_value(both, pair) for pair in range(pairs)]


def _add_sums(builder: Any, total: Any, slot: Any, offset: int) -> None:
    """Even lanes to the first chunk's sums, odd ones to the second's."""
    for chunk in range(2):
        ones = SHORTS([1 - chunk, chunk] * 16)
        place = offset + TILE_BYTES * chunk
        store_at(builder, dot_shorts(builder, load_at(builder, PLAIN, slot, place), total, ones), slot, place)


@intrinsic
def add_five_pairs(
    typing: Any, table: Any, _: Any, slot: Any, __: Any, pitch: Any, offsets: Any, steps: Any, indices: Any, pair: Any
) -> Generator:
    """The same as `add_four_pairs`, of five pairs of chunks."""
    return _adder(1, 5)


@intrinsic
def add_four_pairs(
    typing: Any, table: Any, _: Any, slot: Any, __: Any, pitch: Any, offsets: Any, steps: Any, indices: Any, pair: Any
) -> Generator:
    """Add what some steps look up of four pixels and four pairs of chunks to their sums.

    table, slot: of the first pixel; tables of the others are `pitch` bytes apart. offsets: int64 of each step, bytes
    from a pixel's first table to where it looks up. indices: of each step and pair. pair: bytes from slot to slot.
    """
    return _adder(1, 4)


@intrinsic
def add_three_pairs(
    typing: Any, table: Any, _: Any, slot: Any, __: Any, pitch: Any, offsets: Any, steps: Any, indices: Any, pair: Any
) -> Generator:
    """The same of three pairs of chunks."""
    return _adder(1, 3)


@intrinsic
def add_two_pairs(
    typing: Any,
    table: Any,
    other: Any,
    slot: Any,
    to: Any,
    pitch: Any,
    offsets: Any,
    steps: Any,
    indices: Any,
    pair: Any,
) -> Generator:
    """The same of two pairs of chunks, and of four pixels more elsewhere."""
    return _adder(2, 2)


@inline
def build_tables(table: Table, at: int, arena: int, portion: int, first: int, end: int, to: int, cell: int) -> None:
    """Tables of groups first..end of channels: [group][pixel]. cell: where two bytes of the centre lie."""
    start, pixels = table[portion + V_PIXEL], table[portion + V_PIXELS]
    base = arena + table[table[at + U_FROM] + T_BASE]
    centre = table[at + U_CENTRE]
    for number in range(first, end):
        group = table[at + U_GROUPS] + GROUP_FIELDS * number
        p, q, r = table[group + 1], table[group + 3], table[group + 5]
        a = base + table[group] + start * p
        b = base + table[group + 2] + start * q if q else cell
        c = base + table[group + 4] + start * r if r else cell
        target = to + (number - first) * table[at + U_TABLES_BYTES]
        for pixel in range(pixels):
            build_table(target + pixel * TABLE_BYTES, a + pixel * p, b + pixel * q, c + pixel * r, centre)


@inline
def add_looked_up(
    table: Table, at: int, portion: int, tables: int, slots: int, pairs: int, offsets: int, steps: int, indices: int
) -> None:
    """What some steps look up for all pixels of a portion and some pairs of chunks."""
    quads, count = table[portion + V_QUADS], table[portion + V_QUAD_COUNT]
    pitch, pair = table[at + U_PITCH], table[at + U_PAIR_BYTES]
    for number in range(0, count, 2 if pairs == 2 else 1):
        quad = quads + number * Q_FIELDS
        first, slot = tables + table[quad + Q_PIXEL] * TABLE_BYTES, slots + table[quad + Q_SLOT]
        if pairs == 5:
            add_five_pairs(first, first, slot, slot, pitch, offsets, steps, indices, pair)
        elif pairs == 4:
            add_four_pairs(first, first, slot, slot, pitch, offsets, steps, indices, pair)
        elif pairs == 3:
            add_three_pairs(first, first, slot, slot, pitch, offsets, steps, indices, pair)
        else:
            quad += Q_FIELDS
            second, to = tables + table[quad + Q_PIXEL] * TABLE_BYTES, slots + table[quad + Q_SLOT]
            add_two_pairs(first, second, slot, to, pitch, offsets, steps, indices, pair)


@inline
def first_tables(panel: int) -> int:
    """Where tables lie: behind a pair of centres, and indices."""
    return panel + CELL_BYTES + INDICES_BYTES


@inline
def first_slot(table: Table, at: int, panel: int) -> int:
    """Where sums lie: behind the tables of all images, [pair of chunks][image][slot]."""
    tables: int = table[at + U_IMAGES] * table[at + U_TABLE_GROUPS] * table[at + U_TABLES_BYTES]
    return first_tables(panel) + tables


@inline
def start_plane(table: Table, at: int, images: int, portion: int, plane: int, memory: Memory) -> None:
    """Fill all slots with what sums start from; sums of the plane before are multiplied by 256."""
    constants, _, _, _, _, panel = memory
    to = first_slot(table, at, panel)
    pairs = 0
    for part in range(table[at + U_PART_COUNT]):
        pairs += table[table[at + U_PARTS] + part]
    starts = constants + table[at + U_STARTS] + 128 * pairs * plane
    for pair in range(pairs):
        for number in range(images * table[portion + V_SLOTS]):
            slot = to + pair * table[at + U_PAIR_BYTES] + number * SLOT_BYTES
            if plane == 0:
                fill_slot(slot, starts + 128 * pair)
            else:
                shift_sums(slot, starts + 128 * pair)


@inline
def add_plane(
    table: Table, at: int, first_image: int, end_image: int, portion: int, plane: int, memory: Memory
) -> None:
    """Sums of one plane: some groups' tables after the other, and of each as many steps as 16 bits hold."""
    constants, arena, _, _, _, panel = memory
    size, at_once, centre = table[H_SIZE], table[at + U_STEPS], table[at + U_CENTRE]
    store_code(panel, 2, centre | centre << 8)
    tables, slots = first_tables(panel), first_slot(table, at, panel)
    tables_bytes = table[at + U_TABLE_GROUPS] * table[at + U_TABLES_BYTES]
    weights = constants + table[at + U_WEIGHTS]
    codes = arena + (table[at + U_PLANES] - 1 - plane) * table[at + U_PLANE_BYTES]
    for group in range(0, table[at + U_GROUP_COUNT], table[at + U_TABLE_GROUPS]):
        end = min(group + table[at + U_TABLE_GROUPS], table[at + U_GROUP_COUNT])
        for image in range(first_image, end_image):
            own = table[image * size : (image + 1) * size]
            build_tables(own, at, codes, portion, group, end, tables + (image - first_image) * tables_bytes, panel)
        steps = (end - group) * table[at + U_TAPS]
        for first in range(0, steps, at_once):
            images, count = end_image - first_image, min(at_once, steps - first)
            weights = add_steps(table, at, images, portion, first, count, weights, tables, slots, memory)


@inline
def add_steps(
    table: Table,
    at: int,
    images: int,
    portion: int,
    first: int,
    count: int,
    weights: int,
    tables: int,
    slots: int,
    memory: Memory,
) -> int:
    """What some steps look up of all output channels; returns the address of the next steps' weights."""
    constants, _, _, _, _, panel = memory
    indices = panel + CELL_BYTES
    offsets = constants + table[at + U_OFFSETS] + 8 * first
    tables_bytes = table[at + U_TABLE_GROUPS] * table[at + U_TABLES_BYTES]
    to = slots
    for part in range(table[at + U_PART_COUNT]):
        pairs = table[table[at + U_PARTS] + part]
        for index in range(count * pairs):
            expand_index(weights, indices + INDEX_BYTES * index)
            weights += 4 * INDEX_BITS
        for image in range(images):
            own, slot = tables + image * tables_bytes, to + image * table[portion + V_SLOTS] * SLOT_BYTES
            add_looked_up(table, at, portion, own, slot, pairs, offsets, count, indices)
        to += pairs * table[at + U_PAIR_BYTES]
    return weights


@inline
def finish_portion(table: Table, at: int, first_image: int, end_image: int, portion: int, memory: Memory) -> None:
    """The tail on all sums of a portion."""
    constants, arena, counts, slots_of_tail, _, panel = memory
    size, chunks, width = table[H_SIZE], table[at + U_CHUNKS], table[at + U_WIDTH]
    tail, operations = table[at + U_TAIL], table[at + U_TAIL_COUNT]
    slots, tiles = table[portion + V_SLOTS], table[portion + V_TILES]
    for chunk in range(0, chunks, 2):
        slot = first_slot(table, at, panel) + chunk // 2 * table[at + U_PAIR_BYTES]
        for image in range(first_image, end_image):
            own = table[image * size : (image + 1) * size]
            for tile in range(tiles, tiles + 2 * slots * TILE_FIELDS, 2 * TILE_FIELDS):
                run_tail(
                    own, tail, operations, constants, arena, counts, chunk, chunks, tile, width, slot, slots_of_tail
                )
                slot += SLOT_BYTES


@inline
def convolve_tables(table: Table, at: int, first_image: int, end_image: int, memory: Memory) -> None:
    """All sums of some images, and the tail on them, a portion of their pixels after the other."""
    for first in range(first_image, end_image, table[at + U_IMAGES]):
        end = min(first + table[at + U_IMAGES], end_image)
        for number in range(table[at + U_PORTION_COUNT]):
            portion = table[at + U_PORTIONS] + number * V_FIELDS
            for plane in range(table[at + U_PLANES]):
                start_plane(table, at, end - first, portion, plane, memory)
                add_plane(table, at, first, end, portion, plane, memory)
            finish_portion(table, at, first, end, portion, memory)
