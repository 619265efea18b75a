"""k-bit weights x any codes: one multiplication per tap and channel.

Sixteen output channels fill one vector; the value of an activation is broadcast to it.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import int8, int32, int64

from bnhw.kernels.checks import check_tensor, output_shape
from bnhw.kernels.jit import entry, inline, tensor_in, tensor_out
from bnhw.kernels.packed_weights import order_by_blocks
from bnhw.kernels.padded_image import find_windows, pad_image, value_map
from bnhw.kernels.tiles import PIXELS, copy_lanes
from bnhw.kernels.types import Coding, Geometry, IntArray, IntegerWeights, check_convolution
from bnhw.kernels.vectors import SUM_LANES, add_product, load_word, store_sums, zero_sums

Array32 = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.int8]


@inline
def sum_tile(
    values: Array32,
    factors: Bytes,
    first_factor: int,
    starts: npt.NDArray[np.int64],
    first_pixel: int,
    height: int,
    run: int,
    out: Array32,
    place: int,
    step: int,
) -> None:
    """out[place + p * step + o] = sum of weight * value for four pixels and sixteen output channels.

    starts: index of the first value of each pixel's window. A window is `height` runs of `run`
    consecutive values. Pixels past the last one repeat it.
    """
    last = starts.size - 1
    row_values = values.shape[2] * values.shape[3]
    start0, start1 = starts[min(first_pixel, last)], starts[min(first_pixel + 1, last)]
    start2, start3 = starts[min(first_pixel + 2, last)], starts[min(first_pixel + 3, last)]
    sums0 = sums1 = sums2 = sums3 = zero_sums()
    index = first_factor
    for row in range(height):
        base = row * row_values
        for element in range(base, base + run):
            sums0 = add_product(sums0, factors, index, load_word(values, start0 + element))
            sums1 = add_product(sums1, factors, index, load_word(values, start1 + element))
            sums2 = add_product(sums2, factors, index, load_word(values, start2 + element))
            sums3 = add_product(sums3, factors, index, load_word(values, start3 + element))
            index += SUM_LANES
    store_sums(out, place, sums0)
    store_sums(out, place + min(1, last - first_pixel) * step, sums1)
    store_sums(out, place + min(2, last - first_pixel) * step, sums2)
    store_sums(out, place + min(3, last - first_pixel) * step, sums3)


@inline
def convolve_image(values: Array32, factors: Bytes, window: tuple[int, int, int, int], out: Array32) -> None:
    """All pixels and output channels of one image; out is (OH, OW, O)."""
    height, width, down, across = window
    groups, blocks, window_values = factors.shape[:3]
    rows, columns, out_channels = out.shape
    per_group = out_channels // groups
    pixels = rows * columns
    run = width * values.shape[3]
    starts = np.empty(pixels, np.int64)
    tile = np.empty(PIXELS * SUM_LANES, np.int32)
    flat, by_pixel = out.reshape(out.size), out.reshape(pixels, out_channels)
    for group in range(groups):
        find_windows(values, group, columns, down, across, starts)
        for block in range(blocks):
            first_factor = (group * blocks + block) * window_values * SUM_LANES
            first = group * per_group + block * SUM_LANES
            lanes = min(per_group - block * SUM_LANES, SUM_LANES)
            is_whole = lanes == SUM_LANES
            target = flat if is_whole else tile
            step = out_channels if is_whole else SUM_LANES
            for pixel in range(0, pixels, PIXELS):
                place = pixel * out_channels + first if is_whole else 0
                sum_tile(values, factors, first_factor, starts, pixel, height, run, target, place, step)
                if not is_whole:
                    copy_lanes(tile, SUM_LANES, lanes, pixel, first, by_pixel)


@entry(tensor_in(int32, 4), tensor_in(int8, 4), *(int64,) * 10, tensor_out(int32, 4))
def convolve(
    codes: Array32,
    factors: Bytes,
    height: int,
    width: int,
    down: int,
    across: int,
    top: int,
    left: int,
    bottom: int,
    right: int,
    factor: int,
    zero_point: int,
    out: Array32,
) -> None:
    """Convolve; the value of a code is `factor * code - zero_point`."""
    groups = factors.shape[0]
    padded_height, padded_width = codes.shape[1] + top + bottom, codes.shape[2] + left + right
    values = np.zeros((groups, padded_height, padded_width, codes.shape[3] // groups), np.int32)
    for image in range(codes.shape[0]):
        pad_image(codes, image, top, left, factor, zero_point, values)
        convolve_image(values, factors, (height, width, down, across), out[image])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MultiplyConvolution:
    """A prepared convolution of k-bit weights and codes of any coding.

    blocks: int8 (groups, blocks, KH * KW * channels per group, 16), the weights of sixteen output channels
    side by side.
    """

    weights: IntegerWeights
    geometry: Geometry
    coding: Coding
    blocks: Bytes
    kernel: str = "multiply"

    @classmethod
    def prepare(cls, weights: IntegerWeights, geometry: Geometry, coding: Coding) -> Self:
        """Rearrange the weights."""
        check_convolution(weights, geometry, coding)
        blocks = order_by_blocks(weights.values, geometry.groups, SUM_LANES)
        return cls(weights=weights, geometry=geometry, coding=coding, blocks=blocks)

    def __call__(self, codes: IntArray) -> IntArray:
        """Codes int32 (N, H, W, C) -> accumulators int32 (N, OH, OW, O)."""
        checked = check_tensor("convolution", codes)
        out = np.empty(output_shape(codes, self.weights, self.geometry), np.int32)
        geometry = self.geometry
        window = (*geometry.kernel, *geometry.stride, *geometry.pads)
        convolve(checked, self.blocks, *window, *value_map(self.coding), out)
        return out
