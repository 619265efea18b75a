"""The interpreter for machines without tiles: vectors of sums, some rows of pixels at once.

`run_vnni`, `run_avx2` and `run_portable` differ in the method that they hand in: the number of rows, and what
multiplies weights of +1 and -1, or of any int8; then the same of few channels (`bnhw.kernels.fused.few`). The first
two take (slot, pixels, stride, panel) and add one step's products to those rows of both chunks of a slot; pixels are
`stride` bytes apart. Then come the counts of a block and of a narrower one (`bnhw.kernels.fused.counts`), what
multiplies transformed patches (`bnhw.kernels.fused.winograd`), and what looks sums up (`bnhw.kernels.fused.tabulated`).
"""

from typing import Any

from bnhw.kernels.fused.channels import multiply_channels
from bnhw.kernels.fused.counts import outputs_of
from bnhw.kernels.fused.few import multiply_few
from bnhw.kernels.fused.fields import (
    C_BINARY,
    C_CHUNKS,
    C_CLASSES,
    C_GROUP,
    C_PITCH,
    C_PLANES,
    C_SOURCE,
    C_STAGE_COUNT,
    C_STAGES,
    C_STARTS,
    C_STEPS,
    C_TAPS,
    C_TAPS_STRIDE,
    C_TILE_COUNT,
    C_TILES,
    C_WEIGHTS,
    C_WIDTH,
    CONVOLVE,
    FEW_BYTES,
    H_FIELDS,
    H_GROUP,
    H_OWN,
    H_SIZE,
    H_STEPS,
    LANES,
    PACK,
    PANEL_BYTES,
    SLOT_BYTES,
    STEP_CHANNELS_BYTES,
    STEP_WORDS_BYTES,
    TABULATE,
    TILE_BYTES,
    TILE_FIELDS,
    TRANSFORM,
    WEIGHT_BITS,
    WEIGHT_BYTES,
    WEIGHT_CHANNELS,
    WEIGHT_FEW,
    WEIGHT_FEW_SIGNS,
    WEIGHT_WORDS,
    WEIGHT_WORDS_BIPOLAR,
)
from bnhw.kernels.fused.interpreter import Batch, Memory, Table, finish_sums, run_for_images
from bnhw.kernels.fused.panels import expand_panel, fill_slot, shift_sums
from bnhw.kernels.fused.winograd import convolve_patches
from bnhw.kernels.fused.words import count_steps, pack_words
from bnhw.kernels.jit import inline


@inline
def multiply_steps(
    table: Table,
    taps: int,
    source: int,
    pitch: int,
    tile: int,
    first: int,
    end: int,
    panel: int,
    slot: int,
    rows: int,
    multiply: Any,
) -> None:
    """Steps first..end of two tiles, some pixels after the other."""
    for half in range(2):
        start = table[tile + half * TILE_FIELDS]
        for row in range(0, table[tile + half * TILE_FIELDS + 3], rows):
            for step in range(first, end):
                tap = taps + 3 * step
                pixel = table[tap + 1]
                multiply(
                    slot + 2 * half * TILE_BYTES + 64 * row,
                    source + table[tap] + (start + row * pitch) * pixel,
                    pitch * pixel,
                    panel + step * PANEL_BYTES,
                )


@inline
def add_products(
    table: Table,
    at: int,
    memory: Memory,
    tile: int,
    slot: int,
    first: int,
    end: int,
    taps: int,
    weights: int,
    starts: int,
    outputs: int,
    method: Any,
) -> None:
    """Steps first..end of two tiles, as the weights of the convolution lie."""
    constants, arena, _, _, _, panel = memory
    kind, source, pitch = table[at + C_BINARY], arena + table[at + C_SOURCE], table[at + C_PITCH]
    rows, signs, any_bytes, few_signs, few_bytes, _, _, _, _ = method
    if kind == WEIGHT_BITS:
        multiply_steps(table, taps, source, pitch, tile, first, end, panel, slot, rows, signs)
    elif kind == WEIGHT_BYTES:
        multiply_steps(table, taps, source, pitch, tile, first, end, weights, slot, rows, any_bytes)
    elif kind == WEIGHT_CHANNELS:
        multiply_channels(table, taps, source, pitch, tile, first, end, weights, slot, outputs)
    elif kind == WEIGHT_FEW:
        multiply_few(table, taps, source, pitch, tile, end, weights, slot, outputs, rows, few_bytes)
    elif kind == WEIGHT_FEW_SIGNS:
        multiply_few(table, taps, source, pitch, tile, end, weights, slot, outputs, rows, few_signs)
    else:
        planes, width = table[at + C_PLANES], table[at + C_WIDTH]
        classes = constants + table[at + C_CLASSES] if kind == WEIGHT_WORDS_BIPOLAR else 0
        before = (starts, classes, width)
        count_steps(table, taps, source, pitch, tile, first, end, weights, slot, planes, outputs, before, method)


@inline
def convolve_group(
    table: Table,
    at: int,
    memory: Memory,
    chunk: int,
    group: int,
    is_first: bool,
    method: Any,
) -> None:
    """Two chunks of some tiles of pixels, whose sums stay in the first cache between stages.

    is_first: whether the weights are to be expanded, not yet done for another image.
    """
    constants, _, _, _, sums, panel = memory
    taps = table[at + C_TAPS] + chunk // 2 * table[at + C_TAPS_STRIDE]
    steps, chunks = table[at + C_STEPS], table[at + C_CHUNKS]
    kind = table[at + C_BINARY]
    is_counted = kind in (WEIGHT_WORDS, WEIGHT_WORDS_BIPOLAR)  # counts are taken from what sums start from
    step_bytes = PANEL_BYTES if kind == WEIGHT_BYTES else STEP_WORDS_BYTES
    step_bytes = STEP_CHANNELS_BYTES if kind == WEIGHT_CHANNELS else step_bytes
    step_bytes = 2 * FEW_BYTES if kind in (WEIGHT_FEW, WEIGHT_FEW_SIGNS) else step_bytes
    step_bytes = 2 * LANES * 64 // outputs_of(method[5]()) if is_counted else step_bytes
    weights = constants + table[at + C_WEIGHTS] + chunk // 2 * steps * step_bytes
    outputs = min(LANES * (chunks - chunk), 2 * LANES)
    starts = constants + table[at + C_STARTS] + chunk * 64
    end = min(group + table[at + C_GROUP], table[at + C_TILE_COUNT])
    plane = 0
    for stage in range(table[at + C_STAGE_COUNT]):
        bounds = table[at + C_STAGES] + 3 * stage
        first, last = table[bounds], table[bounds + 1]
        plane += table[bounds + 2]
        if kind == WEIGHT_BITS and is_first and group == 0:
            for step in range(first, last):
                expand_panel(weights + step * STEP_WORDS_BYTES, panel + step * PANEL_BYTES, table[taps + 3 * step + 2])
        for number in range(group, end, 2):
            tile = table[at + C_TILES] + number * TILE_FIELDS
            slot = sums + (number - group) // 2 * SLOT_BYTES
            if stage == 0 and not is_counted:
                fill_slot(slot, starts)
            elif table[bounds + 2]:
                shift_sums(slot, starts + plane * ((chunks + 1) // 2) * 128)
            add_products(table, at, memory, tile, slot, first, last, taps, weights, starts, outputs, method)
            if stage == table[at + C_STAGE_COUNT] - 1:
                finish_sums(table, at, memory, chunk, tile, slot)


@inline
def convolve(
    table: Table,
    at: int,
    first_image: int,
    end_image: int,
    memory: Memory,
    method: Any,
) -> None:
    """All sums of some images, their weights expanded once."""
    size = table[H_SIZE]
    for chunk in range(0, table[at + C_CHUNKS], 2):
        for image in range(first_image, end_image):
            own = table[image * size : (image + 1) * size]
            for group in range(0, table[at + C_TILE_COUNT], table[at + C_GROUP]):
                is_first = image == first_image
                convolve_group(own, at, memory, chunk, group, is_first, method)


@inline
def no_tables(table: Table, at: int, first_image: int, end_image: int, memory: Memory) -> None:
    """For processors without such look-ups, whose plans have no such steps."""


@inline
def run_steps(
    table: Table,
    first: int,
    end: int,
    first_image: int,
    end_image: int,
    memory: Memory,
    batch: Batch,
    method: Any,
) -> None:
    """Steps first..end for some images of a group."""
    for number in range(first, end):
        at = table[H_FIELDS + number]
        if table[at] == CONVOLVE:
            convolve(table, at, first_image, end_image, memory, method)
        elif table[at] == TRANSFORM:
            convolve_patches(table, at, first_image, end_image, memory, method[7])
        elif table[at] == TABULATE:
            method[8](table, at, first_image, end_image, memory)
        elif table[at] == PACK:
            for image in range(first_image, end_image):
                pack_words(table[image * table[H_SIZE] : (image + 1) * table[H_SIZE]], at, memory[1])
        else:
            run_for_images(table, at, first_image, end_image, memory, batch)


@inline
def run_program(table: Table, memory: Memory, batch: Batch, image_count: int, method: Any) -> None:
    """Every step for every image of a batch."""
    images, image_bytes, logits, logit_bytes = batch
    for start in range(0, image_count, table[H_GROUP]):
        count = min(table[H_GROUP], image_count - start)
        part = (images + start * image_bytes, image_bytes, logits + start * logit_bytes, logit_bytes)
        own, steps = table[H_OWN], table[H_STEPS]
        for image in range(count):
            run_steps(table, 0, own, image, image + 1, memory, part, method)
        run_steps(table, own, steps, 0, count, memory, part, method)
