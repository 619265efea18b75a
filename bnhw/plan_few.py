"""Convolutions of few channels each (grouped): which they are, and how their taps and weights lie.

Sixteen outputs, a chunk, read one or several chunks of channels; a step multiplies one of these at one tap. See
`bnhw.kernels.fused.few`.
"""

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused.fields import BLOCK, LANES
from bnhw.plan_convolution import PAIR
from bnhw.plan_storage import Form
from bnhw.program import Convolve, Program

MOST_SHARE = 0.5
"""Chunk by chunk where that multiplies at most this share of what whole blocks would: there, outputs share pixels."""


def is_few(program: Program, convolve: Convolve) -> bool:
    """Whether chunks of outputs read so few channels, in one byte, that whole blocks would be mostly wasted."""
    if convolve.groups == 1 or program.tensor[convolve.inputs[0]].dtype.bits > 8:
        return False
    chunks = _chunks_read(convolve.weight_shape, convolve.groups)
    blocks = [
        {chunk * LANES // BLOCK for of_one in chunks[first : first + 2] for chunk in of_one}
        for first in range(0, len(chunks), 2)
    ]
    most_chunks, most_blocks = max(map(len, chunks)), max(map(len, blocks))
    return most_chunks * LANES <= MOST_SHARE * most_blocks * BLOCK


def _chunks_read(weight_shape: tuple[int, ...], groups: int) -> list[range]:
    """The chunks of channels that each chunk of outputs reads."""
    outputs, _, _, per_group = weight_shape
    per_output_group = outputs // groups
    read = []
    for first in range(0, outputs, LANES):
        last = min(first + LANES, outputs) - 1
        start, end = first // per_output_group * per_group, (last // per_output_group + 1) * per_group
        read.append(range(start // LANES, -(-end // LANES)))
    return read


def list_few_offsets(form: Form, weight_shape: tuple[int, ...], groups: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Of each chunk, an even number of them, and step: (byte offset from the first pixel, bytes of a pixel)."""
    _, height, width, _ = weight_shape
    chunks = _chunks_read(weight_shape, groups)
    most = max(map(len, chunks))
    offsets = []
    for read in [*chunks, chunks[-1]][: len(chunks) + len(chunks) % 2]:
        of_chunk: list[tuple[int, int]] = []
        for number in range(most):
            first = read[min(number, len(read) - 1)] * LANES
            start, pitch = form.block(first // BLOCK)
            taps = [(row * form.row_pixels + column) * pitch for row in range(height) for column in range(width)]
            of_chunk += [(start + first % BLOCK + tap, pitch) for tap in taps]
        offsets.append(tuple(of_chunk))
    return tuple(offsets)


def order_few(weights: Array, groups: int) -> Array:
    """int8 (out, height, width, channels per group) -> int8 (pairs, 2, steps, 4, 16, 4), 0 for others' channels."""
    outputs, height, width, per_group = weights.shape
    chunks = _chunks_read(weights.shape, groups)
    most = max(map(len, chunks))
    padded = -(-outputs // PAIR) * PAIR
    ordered = np.zeros((padded, height, width, most * LANES), np.int8)
    for output in range(outputs):
        first = output // (outputs // groups) * per_group - chunks[output // LANES][0] * LANES
        ordered[output, :, :, first : first + per_group] = weights[output]
    parts = ordered.reshape(padded // LANES, LANES, height * width, most, 4, 4)
    return np.ascontiguousarray(parts.transpose(0, 3, 2, 4, 1, 5)).reshape(padded // PAIR, 2, -1, 4, LANES, 4)
