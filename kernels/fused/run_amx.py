"""The interpreter for machines with AMX."""

from numba import int64

from bnhw.kernels.fused.amx import (
    configure,
    load_slot,
    multiply_and_expand,
    multiply_step,
    release,
    start_sums,
    store_slot,
)
from bnhw.kernels.fused.fields import (
    C_BINARY,
    C_CHUNKS,
    C_GROUP,
    C_PITCH,
    C_SOURCE,
    C_STAGE_COUNT,
    C_STAGES,
    C_STARTS,
    C_STEPS,
    C_TAIL,
    C_TAIL_COUNT,
    C_TAPS,
    C_TAPS_STRIDE,
    C_TILE_COUNT,
    C_TILES,
    C_WEIGHTS,
    C_WIDTH,
    CONVOLVE,
    H_FIELDS,
    H_GROUP,
    H_OWN,
    H_SIZE,
    H_STEPS,
    LANES,
    O_KIND,
    PANEL_BYTES,
    REQUANTISE_STORE,
    SLOT_BYTES,
    STEP_WORDS_BYTES,
    TILE_FIELDS,
    WEIGHT_BITS,
)
from bnhw.kernels.fused.interpreter import Batch, Memory, Table, finish_sums, run_for_images
from bnhw.kernels.fused.machine_code import ENTRY
from bnhw.kernels.fused.panels import expand_panel, shift_sums
from bnhw.kernels.fused.passes import NOTHING, Pass, fetch_lines, run_pass, start_pass
from bnhw.kernels.jit import inline, machine_code, tensor_in


@inline
def multiply_expanding(
    table: Table, taps: int, source: int, pitch: int, tile: int, first: int, end: int, words: int, panel: int
) -> None:
    """Steps first..end of two tiles, while the weights of each following step are expanded."""
    expand_panel(words + first * STEP_WORDS_BYTES, panel + first * PANEL_BYTES, table[taps + 3 * first + 2])
    one, other = table[tile], table[tile + TILE_FIELDS]
    for step in range(first, end):
        tap = taps + 3 * step
        start, pixel = source + table[tap], table[tap + 1]
        weights = panel + step * PANEL_BYTES
        rows = table[tap + 5] if step + 1 < end else 0
        if rows == LANES:
            multiply_and_expand(
                start + one * pixel,
                start + other * pixel,
                pitch * pixel,
                weights,
                words + (step + 1) * STEP_WORDS_BYTES,
                weights + PANEL_BYTES,
            )
        else:
            if rows > 0:
                expand_panel(words + (step + 1) * STEP_WORDS_BYTES, weights + PANEL_BYTES, rows)
            multiply_step(start + one * pixel, start + other * pixel, pitch * pixel, weights)


@inline
def multiply_expanded(
    table: Table, taps: int, source: int, pitch: int, tile: int, first: int, end: int, panel: int
) -> None:
    """Steps first..end of two tiles with weights that are bytes."""
    one, other = table[tile], table[tile + TILE_FIELDS]
    for step in range(first, end):
        tap = taps + 3 * step
        start, pixel = source + table[tap], table[tap + 1]
        multiply_step(start + one * pixel, start + other * pixel, pitch * pixel, panel + step * PANEL_BYTES)


@inline
def start_tail(table: Table, at: int, memory: Memory, chunk: int, tile: int, slot: int) -> Pass:
    """Run the tail of a convolution on the sums of two tiles; one that is a single pass is started only, and returned.

    It is run behind the next tiles' multiplications: the tile unit is still busy with them then, and the lines that
    the pass writes have had time to come.
    """
    constants, arena, counts, _, _, _ = memory
    operation = table[at + C_TAIL]
    if table[at + C_TAIL_COUNT] != 1 or table[operation + O_KIND] < REQUANTISE_STORE:
        finish_sums(table, at, memory, chunk, tile, slot)
        return NOTHING
    chunks, width = table[at + C_CHUNKS], table[at + C_WIDTH]
    started = start_pass(table, operation, constants, arena, counts, chunk, chunks, tile, width, slot)
    fetch_lines(started)
    return started


@inline
def convolve_group(
    table: Table, at: int, memory: Memory, chunk: int, group: int, is_first: bool, slots: int, started: Pass
) -> Pass:
    """Two chunks of some tiles of pixels, whose sums stay in the first cache between stages.

    is_first: whether the weights are to be expanded, not yet done for another image. slots: bytes from the first slot
    of sums to those that are used, one behind the other, the first behind the last. One slot more than a group has
    keeps the sums of the pass that was started last; it is run here, and the last one of this group is returned.
    """
    constants, arena, _, _, sums, panel = memory
    taps = table[at + C_TAPS] + chunk // 2 * table[at + C_TAPS_STRIDE]
    steps, chunks, pitch = table[at + C_STEPS], table[at + C_CHUNKS], table[at + C_PITCH]
    is_binary = table[at + C_BINARY] == WEIGHT_BITS
    weights = constants + table[at + C_WEIGHTS] + chunk // 2 * steps * (STEP_WORDS_BYTES if is_binary else PANEL_BYTES)
    source = arena + table[at + C_SOURCE]
    starts = constants + table[at + C_STARTS] + chunk * 64
    end = min(group + table[at + C_GROUP], table[at + C_TILE_COUNT])
    all_slots = (table[at + C_GROUP] // 2 + 1) * SLOT_BYTES
    plane = 0
    for stage in range(table[at + C_STAGE_COUNT]):
        bounds = table[at + C_STAGES] + 3 * stage
        first, last = table[bounds], table[bounds + 1]
        plane += table[bounds + 2]
        for number in range(group, end, 2):
            tile = table[at + C_TILES] + number * TILE_FIELDS
            slot = slots + (number - group) // 2 * SLOT_BYTES
            slot = sums + (slot if slot < all_slots else slot - all_slots)
            if stage == 0:
                start_sums(starts, starts + 64)
            else:
                if table[bounds + 2]:
                    shift_sums(slot, starts + plane * ((chunks + 1) // 2) * 128)
                load_slot(slot)
            if is_binary and is_first and number == 0:
                multiply_expanding(table, taps, source, pitch, tile, first, last, weights, panel)
            else:
                expanded = panel if is_binary else weights
                multiply_expanded(table, taps, source, pitch, tile, first, last, expanded)
            if stage == table[at + C_STAGE_COUNT] - 1:
                run_pass(started)
                store_slot(slot)
                started = start_tail(table, at, memory, chunk, tile, slot)
            else:
                store_slot(slot)
    return started


@inline
def convolve(table: Table, at: int, first_image: int, end_image: int, memory: Memory) -> None:
    """All sums of some images, their weights expanded once."""
    size = table[H_SIZE]
    group_tiles, tiles = table[at + C_GROUP], table[at + C_TILE_COUNT]
    all_slots = (group_tiles // 2 + 1) * SLOT_BYTES
    slots = 0
    started = NOTHING
    for chunk in range(0, table[at + C_CHUNKS], 2):
        for image in range(first_image, end_image):
            own = table[image * size : (image + 1) * size]
            for group in range(0, tiles, group_tiles):
                started = convolve_group(own, at, memory, chunk, group, image == first_image, slots, started)
                slots += min(group_tiles, tiles - group) // 2 * SLOT_BYTES
                slots = slots if slots < all_slots else slots - all_slots
    run_pass(started)


@inline
def run_steps(
    table: Table, first: int, end: int, first_image: int, end_image: int, memory: Memory, batch: Batch
) -> None:
    """Steps first..end for some images of a group."""
    for number in range(first, end):
        at = table[H_FIELDS + number]
        if table[at] == CONVOLVE:
            convolve(table, at, first_image, end_image, memory)
        else:
            run_for_images(table, at, first_image, end_image, memory, batch)


@machine_code(ENTRY, tensor_in(int64, 1), *(int64,) * 12)
def run(
    table: Table,
    constants: int,
    arena: int,
    counts: int,
    slots: int,
    sums: int,
    panel: int,
    tiles: int,
    images: int,
    image_bytes: int,
    image_count: int,
    logits: int,
    logit_bytes: int,
) -> None:
    """Run every step for every image; addresses of aligned memory, see `bnhw.plan`."""
    configure(tiles)
    memory = (constants, arena, counts, slots, sums, panel)
    for start in range(0, image_count, table[H_GROUP]):
        count = min(table[H_GROUP], image_count - start)
        batch = (images + start * image_bytes, image_bytes, logits + start * logit_bytes, logit_bytes)
        for image in range(count):
            run_steps(table, 0, table[H_OWN], image, image + 1, memory, batch)
        run_steps(table, table[H_OWN], table[H_STEPS], 0, count, memory, batch)
    release()
