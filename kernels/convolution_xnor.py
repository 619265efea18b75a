"""1-bit weights x bipolar activations: dot = K - 2 popcount(w xor x).

A lane where weight bit and activation bit agree contributes +1 and any other -1: Rastegari et al.,
"XNOR-Net", ECCV 2016, section 3.2; the count of lanes that differ is used because pad lanes, 0 on both sides,
then drop out. A padded tap must contribute 0, which no bit stands for: padded words hold 0, which the formula
reads as -1 per channel, and the sum of that tap's weights is added back at the border.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import int32, int64, uint64

from bnhw.kernels.checks import check_no_code_outside, check_tensor, output_shape
from bnhw.kernels.jit import entry, inline, tensor_in, tensor_out
from bnhw.kernels.packed_image import fill_padding, pack_image
from bnhw.kernels.packed_weights import order_by_blocks
from bnhw.kernels.tiles import PIXELS, copy_lanes
from bnhw.kernels.types import BinaryWeights, Coding, Geometry, IntArray, check_convolution
from bnhw.kernels.vectors import (
    WORD_LANES,
    add_popcount_xor,
    load_word,
    load_words,
    store_low_halves,
    zero_words,
)

Array32 = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]


@inline
def differ_tile(
    bits: Words,
    weights: Words,
    first_weight: int,
    starts: npt.NDArray[np.int64],
    first_pixel: int,
    height: int,
    run: int,
    out: Array32,
    place: int,
    step: int,
) -> None:
    """out[place + p * step + o] = popcount(w_o xor x) for four pixels and eight output channels.

    starts: index of the first word of each pixel's window. A window is `height` runs of `run`
    consecutive words. Pixels past the last one repeat it.
    """
    last = starts.size - 1
    row_words = bits.shape[3] * bits.shape[4]
    start0, start1 = starts[min(first_pixel, last)], starts[min(first_pixel + 1, last)]
    start2, start3 = starts[min(first_pixel + 2, last)], starts[min(first_pixel + 3, last)]
    total0 = total1 = total2 = total3 = zero_words()
    weight = first_weight
    for row in range(height):
        base = row * row_words
        for word in range(base, base + run):
            words = load_words(weights, weight)
            weight += WORD_LANES
            total0 = add_popcount_xor(total0, words, load_word(bits, start0 + word))
            total1 = add_popcount_xor(total1, words, load_word(bits, start1 + word))
            total2 = add_popcount_xor(total2, words, load_word(bits, start2 + word))
            total3 = add_popcount_xor(total3, words, load_word(bits, start3 + word))
    store_low_halves(out, place, total0)
    store_low_halves(out, place + min(1, last - first_pixel) * step, total1)
    store_low_halves(out, place + min(2, last - first_pixel) * step, total2)
    store_low_halves(out, place + min(3, last - first_pixel) * step, total3)


@inline
def convolve_image(
    bits: Words, weights: Words, lanes_per_window: int, window: tuple[int, int, int, int], out: Array32
) -> None:
    """All pixels and output channels of one image, padding read as -1; out is (OH, OW, O)."""
    height, width, down, across = window
    groups, blocks, window_words = weights.shape[:3]
    rows, columns, out_channels = out.shape
    per_group = out_channels // groups
    group_words = bits.size // groups
    pixels = rows * columns
    run = width * bits.shape[4]
    starts = np.empty(pixels, np.int64)
    tile = np.empty(PIXELS * WORD_LANES, np.int32)
    flat, by_pixel = out.reshape(out.size), out.reshape(pixels, out_channels)
    for group in range(groups):
        for pixel in range(pixels):
            y, x = pixel // columns * down, pixel % columns * across
            starts[pixel] = group * group_words + (y * bits.shape[3] + x) * bits.shape[4]
        for block in range(blocks):
            first_weight = (group * blocks + block) * window_words * WORD_LANES
            first = group * per_group + block * WORD_LANES
            lanes = min(per_group - block * WORD_LANES, WORD_LANES)
            is_whole = lanes == WORD_LANES
            target = flat if is_whole else tile
            step = out_channels if is_whole else WORD_LANES
            for pixel in range(0, pixels, PIXELS):
                place = pixel * out_channels + first if is_whole else 0
                differ_tile(bits, weights, first_weight, starts, pixel, height, run, target, place, step)
                if not is_whole:
                    copy_lanes(tile, WORD_LANES, lanes, pixel, first, by_pixel)
    for index in range(flat.size):
        flat[index] = lanes_per_window - 2 * flat[index]


@inline
def add_row(addend: Array32, out: Array32) -> None:
    """Add one pixel's worth of channels."""
    for channel in range(out.size):
        out[channel] += addend[channel]


@inline
def correct_border(
    tap_sums: Array32, size: tuple[int, int], stride: tuple[int, int], top: int, left: int, out: Array32
) -> None:
    """Add back the weights of every padded tap; tap_sums is (KH, KW, O), size that of the image."""
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            for tap_row in range(tap_sums.shape[0]):
                y = row * stride[0] - top + tap_row
                for tap_column in range(tap_sums.shape[1]):
                    x = column * stride[1] - left + tap_column
                    if not (0 <= y < size[0] and 0 <= x < size[1]):
                        add_row(tap_sums[tap_row, tap_column], out[row, column])


@entry(tensor_in(int32, 4), tensor_in(uint64, 4), tensor_in(int32, 3), *(int64,) * 6, tensor_out(int32, 4))
def convolve(
    codes: Array32,
    weights: Words,
    tap_sums: Array32,
    down: int,
    across: int,
    top: int,
    left: int,
    bottom: int,
    right: int,
    out: Array32,
) -> np.int32:
    """Convolve; tap_sums is (KH, KW, O). Returns the number of codes that are neither 0 nor 1."""
    groups = weights.shape[0]
    height, width = tap_sums.shape[:2]
    per_group = codes.shape[3] // groups
    words = weights.shape[2] // (height * width)
    padded_height, padded_width = codes.shape[1] + top + bottom, codes.shape[2] + left + right
    bits = np.empty((1, groups, padded_height, padded_width, words), np.uint64)
    sums = np.empty((groups, padded_height, padded_width), np.int32)
    fill_padding(bits, sums, per_group, 0)
    outside = np.int32(0)
    for image in range(codes.shape[0]):
        outside += pack_image(codes, image, top, left, 0, 1, bits, sums)
        convolve_image(bits, weights, height * width * per_group, (height, width, down, across), out[image])
        correct_border(tap_sums, codes.shape[1:3], (down, across), top, left, out[image])
    return outside


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class XnorConvolution:
    """A prepared convolution of 1-bit weights and bipolar activations.

    words: uint64 (groups, blocks, KH * KW * words, 8). tap_sums: int32 (KH, KW, O), sums over channels.
    Calling it raises ValueError when a code is neither 0 nor 1.
    """

    weights: BinaryWeights
    geometry: Geometry
    coding: Coding
    words: Words
    tap_sums: Array32
    kernel: str = "xnor"

    @classmethod
    def prepare(cls, weights: BinaryWeights, geometry: Geometry, coding: Coding) -> Self:
        """Rearrange the weights. Raises ValueError when the codes are not bipolar."""
        check_convolution(weights, geometry, coding)
        if not coding.bipolar:
            raise ValueError(f"xnor: found {coding!r}, expected bipolar codes; use bit_serial for others")
        tap_sums = weights.signs().sum(axis=3, dtype=np.int32).transpose(1, 2, 0)
        return cls(
            weights=weights,
            geometry=geometry,
            coding=coding,
            words=order_by_blocks(weights.words, geometry.groups, WORD_LANES),
            tap_sums=np.ascontiguousarray(tap_sums),
        )

    def __call__(self, codes: IntArray) -> IntArray:
        """Codes int32 (N, H, W, C) -> accumulators int32 (N, OH, OW, O)."""
        checked = check_tensor("convolution", codes)
        out = np.empty(output_shape(codes, self.weights, self.geometry), np.int32)
        geometry = self.geometry
        outside = convolve(checked, self.words, self.tap_sums, *geometry.stride, *geometry.pads, out)
        check_no_code_outside("xnor", int(outside), self.coding)
        return out
