"""What the interpreters share: the end of a convolution, and every other step."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bnhw.kernels.fused.fields import (
    C_CHUNKS,
    C_TAIL,
    C_TAIL_COUNT,
    C_WIDTH,
    H_SIZE,
    IMAGE,
    OUTPUT,
)
from bnhw.kernels.fused.steps import load_image, run_step, store_output
from bnhw.kernels.fused.tail import run_tail
from bnhw.kernels.jit import inline

Table: TypeAlias = npt.NDArray[np.int64]
Memory: TypeAlias = tuple[int, int, int, int, int, int]
"""Addresses of constants, arena, counters, slots of a tail, slots of sums, and the panel of `bnhw.plan.Plan`."""

Batch: TypeAlias = tuple[int, int, int, int]
"""Addresses of a group's images and logits, each followed by the bytes of one image's."""


@inline
def finish_sums(table: Table, at: int, memory: Memory, chunk: int, tile: int, slot: int) -> None:
    """Run the tail of a convolution on the sums of two tiles."""
    constants, arena, counts, slots, _, _ = memory
    tail, operations = table[at + C_TAIL], table[at + C_TAIL_COUNT]
    chunks, width = table[at + C_CHUNKS], table[at + C_WIDTH]
    run_tail(table, tail, operations, constants, arena, counts, chunk, chunks, tile, width, slot, slots)


@inline
def run_for_images(table: Table, at: int, first_image: int, end_image: int, memory: Memory, batch: Batch) -> None:
    """A step that is no convolution, for some images of a group."""
    size = table[H_SIZE]
    constants, arena, counts, slots, _, _ = memory
    images, image_bytes, logits, logit_bytes = batch
    for image in range(first_image, end_image):
        own = table[image * size : (image + 1) * size]
        if table[at] == IMAGE:
            load_image(own, at, arena, images + image * image_bytes)
        elif table[at] == OUTPUT:
            store_output(own, at, arena, logits + image * logit_bytes)
        else:
            run_step(own, at, constants, arena, counts, slots)
