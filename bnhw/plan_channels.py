"""Convolutions of one channel each (depthwise): which they are, and how their taps and weights lie.

See `bnhw.kernels.fused.channels`.
"""

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused.fields import BLOCK
from bnhw.plan_convolution import PAIR
from bnhw.plan_storage import Form
from bnhw.program import Convolve, Program


def is_depthwise(program: Program, convolve: Convolve) -> bool:
    """Whether every output channel reads one input channel, its own, in one byte."""
    source = program.tensor[convolve.inputs[0]]
    return convolve.groups == source.shape[2] == convolve.weight_shape[0] > 1 and source.dtype.bits <= 8


def list_offsets(form: Form, weight_shape: tuple[int, ...]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Of each pair of chunks and step: (byte offset from the first pixel, bytes of a pixel)."""
    outputs, height, width, _ = weight_shape
    pairs = []
    for first in range(0, outputs, PAIR):
        start, pitch = form.block(first // BLOCK)
        steps = [(row * form.row_pixels + column) * pitch for row in range(height) for column in range(width)]
        pairs.append(tuple((start + first % BLOCK + step, pitch) for step in steps))
    return tuple(pairs)


def order_channels(weights: Array) -> Array:
    """int8 (out, height, width, 1) -> int32 (pairs, steps, 32)."""
    outputs = weights.shape[0]
    flat = np.pad(weights.reshape(outputs, -1).astype(np.int32), ((0, -outputs % PAIR), (0, 0)))
    return np.ascontiguousarray(flat.reshape(-1, PAIR, flat.shape[1]).swapaxes(1, 2))


def start_sums(weights: Array, zero: int) -> Array:
    """int64 (1, pairs * 32), what sums start from; zero is the stored code of the zero point."""
    outputs = weights.shape[0]
    sums = weights.reshape(outputs, -1).sum(axis=1, dtype=np.int64)
    return np.pad(-zero * sums, (0, -outputs % PAIR))[np.newaxis]
