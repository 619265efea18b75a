"""The interpreter for machines with AMX."""

from typing import TypeAlias

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
from bnhw.kernels.fused.passes import PASS_ROWS, Pass, Progress, run_rows, start_pass
from bnhw.kernels.jit import inline, machine_code, tensor_in

Pending: TypeAlias = tuple[Pass, Progress]
"""The pass over the sums of two tiles that is under way: its rows go between the next tile multiplications."""

BETWEEN = True
LATE = False
SEQ = False
EXPAND_FIRST = False
DONE: Progress = (PASS_ROWS, 0, 0, 0)
"""The progress of a pass without rows left."""


@inline
def rows_between(steps: int) -> int:
    """How many rows of a pass go behind each of so many steps, so that all have gone with the last, if they can."""
    rows = 1
    while rows * steps < PASS_ROWS and rows < LANES:
        rows *= 2
    return rows


@inline
def multiply_expanding(
    table: Table,
    taps: int,
    source: int,
    pitch: int,
    tile: int,
    first: int,
    end: int,
    words: int,
    panel: int,
    pending: Pending,
) -> Progress:
    """Steps first..end of two tiles, while the weights of each following step are expanded."""
    expand_panel(words + first * STEP_WORDS_BYTES, panel + first * PANEL_BYTES, table[taps + 3 * first + 2])
    one, other = table[tile], table[tile + TILE_FIELDS]
    own_pass, progress = pending
    rows = rows_between(end - first)
    for step in range(first, end):
        tap = taps + 3 * step
        start, pixel = source + table[tap], table[tap + 1]
        weights = panel + step * PANEL_BYTES
        next_rows = table[tap + 5] if step + 1 < end else 0
        if next_rows == LANES:
            multiply_and_expand(
                start + one * pixel,
                start + other * pixel,
                pitch * pixel,
                weights,
                words + (step + 1) * STEP_WORDS_BYTES,
                weights + PANEL_BYTES,
            )
        else:
            if next_rows > 0:
                expand_panel(words + (step + 1) * STEP_WORDS_BYTES, weights + PANEL_BYTES, next_rows)
            multiply_step(start + one * pixel, start + other * pixel, pitch * pixel, weights)
        if BETWEEN and progress[0] < PASS_ROWS:
            progress = run_rows(own_pass, progress, rows)
    return progress


@inline
def multiply_expanded(
    table: Table,
    taps: int,
    source: int,
    pitch: int,
    tile: int,
    first: int,
    end: int,
    panel: int,
    pending: Pending,
) -> Progress:
    """Steps first..end of two tiles with weights that are bytes."""
    one, other = table[tile], table[tile + TILE_FIELDS]
    own_pass, progress = pending
    rows = rows_between(end - first)
    for step in range(first, end):
        tap = taps + 3 * step
        start, pixel = source + table[tap], table[tap + 1]
        multiply_step(start + one * pixel, start + other * pixel, pitch * pixel, panel + step * PANEL_BYTES)
        if BETWEEN and progress[0] < PASS_ROWS:
            progress = run_rows(own_pass, progress, rows)
    return progress


@inline
def finish_pass(pending: Pending) -> None:
    """The rows that are left of a pass."""
    own_pass, progress = pending
    while progress[0] < PASS_ROWS:
        progress = run_rows(own_pass, progress, LANES - progress[0] % LANES)


@inline
def start_tail(table: Table, at: int, memory: Memory, chunk: int, tile: int, slot: int, own_pass: Pass) -> Pending:
    """Run the tail of a convolution on the sums of two tiles; a tail that is one pass is left to go between the next
    multiplications."""
    constants, arena, counts, _, _, _ = memory
    operation = table[at + C_TAIL]
    if table[at + C_TAIL_COUNT] > 1 or table[operation + O_KIND] < REQUANTISE_STORE:
        finish_sums(table, at, memory, chunk, tile, slot)
        return own_pass, DONE
    chunks, width = table[at + C_CHUNKS], table[at + C_WIDTH]
    started = start_pass(table, operation, constants, arena, counts, chunk, chunks, tile, width, slot)
    return started, (0, 0, 0, 0)


@inline
def convolve_group(
    table: Table, at: int, memory: Memory, chunk: int, group: int, is_first: bool, slots: int, pending: Pending
) -> Pending:
    """Two chunks of some tiles of pixels, whose sums stay in the first cache between stages.

    is_first: whether the weights are to be expanded, not yet done for another image. slots: bytes from the first slot
    of sums to those that are used, one behind the other, the first behind the last. One slot more than a group has
    keeps the sums of a pass that is under way.
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
            if EXPAND_FIRST and is_binary and is_first and number == 0:
                for step in range(first, last):
                    words = weights + step * STEP_WORDS_BYTES
                    expand_panel(words, panel + step * PANEL_BYTES, table[taps + 3 * step + 2])
            if not EXPAND_FIRST and is_binary and is_first and number == 0:
                progress = multiply_expanding(table, taps, source, pitch, tile, first, last, weights, panel, pending)
            else:
                expanded = panel if is_binary else weights
                progress = multiply_expanded(table, taps, source, pitch, tile, first, last, expanded, pending)
            pending = (pending[0], progress)
            if LATE:
                finish_pass(pending)
                pending = (pending[0], DONE)
            store_slot(slot)
            if stage == table[at + C_STAGE_COUNT] - 1:
                finish_pass(pending)
                pending = start_tail(table, at, memory, chunk, tile, slot, pending[0])
                if SEQ:
                    finish_pass(pending)
                    pending = (pending[0], DONE)
    return pending


@inline
def convolve(table: Table, at: int, first_image: int, end_image: int, memory: Memory) -> None:
    """All sums of some images, their weights expanded once."""
    size = table[H_SIZE]
    group_tiles, tiles = table[at + C_GROUP], table[at + C_TILE_COUNT]
    all_slots = (group_tiles // 2 + 1) * SLOT_BYTES
    slots = 0
    nothing = (0, 0, 0, 0)
    pending = (((0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), nothing, nothing), DONE)
    for chunk in range(0, table[at + C_CHUNKS], 2):
        for image in range(first_image, end_image):
            own = table[image * size : (image + 1) * size]
            for group in range(0, tiles, group_tiles):
                pending = convolve_group(own, at, memory, chunk, group, image == first_image, slots, pending)
                slots += min(group_tiles, tiles - group) // 2 * SLOT_BYTES
                slots = slots if slots < all_slots else slots - all_slots
    finish_pass(pending)


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
