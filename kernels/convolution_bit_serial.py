"""1-bit weights x k-bit codes (k = 1..8) by popcounts of bit planes.

With code `q = sum_b 2^b x_b` (the last plane negative when signed) and a weight bit `w` that stands for
`2w - 1`, the sum over a window is

    sum (2w - 1) (q - zp) = 2 sum_b 2^b popcount(w & x_b)  -  sum q  -  zp sum (2w - 1)

where `sum q` is shared by all output channels and a padded tap holds the code `zp`, so that it contributes 0.
Products of integers from popcounts of their bit planes: Umuroglu et al., "BISMO", FPL 2018, algorithm 1.

Eight output channels fill one vector, and a word of activations is broadcast to them; a block of four pixels
reuses each vector of weights. The planes of an image are packed once and read by every output channel.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import boolean, int32, int64, uint64

from bnhw.kernels.checks import check_no_code_outside, check_tensor, output_shape
from bnhw.kernels.jit import entry, inline, tensor_in, tensor_out
from bnhw.kernels.packed_image import fill_padding, pack_image, sum_window
from bnhw.kernels.packed_weights import order_by_blocks
from bnhw.kernels.tiles import PIXELS, copy_lanes
from bnhw.kernels.types import (
    MAX_BIT_SERIAL_BITS,
    BinaryWeights,
    Coding,
    Geometry,
    IntArray,
    check_convolution,
)
from bnhw.kernels.vectors import (
    WORD_LANES,
    add_popcount_and,
    double,
    load_word,
    load_words,
    negate,
    store_low_halves,
    zero_words,
)

Array32 = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]


@inline
def dot_tile(
    planes: Words,
    weights: Words,
    first_weight: int,
    starts: npt.NDArray[np.int64],
    first_pixel: int,
    height: int,
    run: int,
    signed: bool,
    out: Array32,
    place: int,
    step: int,
) -> None:
    """out[place + p * step + o] = sum_b 2^b popcount(w_o & x_b) for four pixels and eight output channels.

    starts: index, within one plane, of the first word of each pixel's window. A window is
    `height` runs of `run` consecutive words. Pixels past the last one repeat it.
    """
    bits, last = planes.shape[0], starts.size - 1
    plane_words = planes.size // bits
    row_words = planes.shape[3] * planes.shape[4]
    start0, start1 = starts[min(first_pixel, last)], starts[min(first_pixel + 1, last)]
    start2, start3 = starts[min(first_pixel + 2, last)], starts[min(first_pixel + 3, last)]
    total0 = total1 = total2 = total3 = zero_words()
    for plane in range(bits - 1, -1, -1):
        total0, total1, total2, total3 = double(total0), double(total1), double(total2), double(total3)
        weight = first_weight
        for row in range(height):
            base = plane * plane_words + row * row_words
            for word in range(base, base + run):
                words = load_words(weights, weight)
                weight += WORD_LANES
                total0 = add_popcount_and(total0, words, load_word(planes, start0 + word))
                total1 = add_popcount_and(total1, words, load_word(planes, start1 + word))
                total2 = add_popcount_and(total2, words, load_word(planes, start2 + word))
                total3 = add_popcount_and(total3, words, load_word(planes, start3 + word))
        if signed and plane == bits - 1:
            total0, total1, total2, total3 = negate(total0), negate(total1), negate(total2), negate(total3)
    store_low_halves(out, place, total0)
    store_low_halves(out, place + min(1, last - first_pixel) * step, total1)
    store_low_halves(out, place + min(2, last - first_pixel) * step, total2)
    store_low_halves(out, place + min(3, last - first_pixel) * step, total3)


@inline
def finish_pixel(dots: Array32, codes_sum: np.int32, correction: Array32) -> None:
    """Turn one pixel's `sum_b 2^b popcount(w & x_b)` into accumulators."""
    for channel in range(dots.size):
        dots[channel] = 2 * dots[channel] - codes_sum - correction[channel]


@inline
def convolve_image(
    planes: Words,
    sums: Array32,
    weights: Words,
    correction: Array32,
    window: tuple[int, int, int, int],
    signed: bool,
    out: Array32,
) -> None:
    """All pixels and output channels of one image; out is (OH, OW, O)."""
    height, width, down, across = window
    groups, blocks, window_words = weights.shape[:3]
    rows, columns, out_channels = out.shape
    per_group = out_channels // groups
    group_words = planes.size // (planes.shape[0] * groups)
    pixels = rows * columns
    run = width * planes.shape[4]
    starts = np.empty(pixels, np.int64)
    tile = np.empty(PIXELS * WORD_LANES, np.int32)
    flat, by_pixel = out.reshape(out.size), out.reshape(pixels, out_channels)
    for group in range(groups):
        for pixel in range(pixels):
            y, x = pixel // columns * down, pixel % columns * across
            starts[pixel] = group * group_words + (y * planes.shape[3] + x) * planes.shape[4]
        for block in range(blocks):
            first_weight = (group * blocks + block) * window_words * WORD_LANES
            first = group * per_group + block * WORD_LANES
            lanes = min(per_group - block * WORD_LANES, WORD_LANES)
            is_whole = lanes == WORD_LANES
            target = flat if is_whole else tile
            step = out_channels if is_whole else WORD_LANES
            for pixel in range(0, pixels, PIXELS):
                place = pixel * out_channels + first if is_whole else 0
                dot_tile(planes, weights, first_weight, starts, pixel, height, run, signed, target, place, step)
                if not is_whole:
                    copy_lanes(tile, WORD_LANES, lanes, pixel, first, by_pixel)
        channels = slice(group * per_group, (group + 1) * per_group)
        for pixel in range(pixels):
            y, x = pixel // columns * down, pixel % columns * across
            codes_sum = sum_window(sums, group, y, x, height, width)
            finish_pixel(by_pixel[pixel, channels], codes_sum, correction[channels])


@entry(
    tensor_in(int32, 4),
    tensor_in(uint64, 4),
    tensor_in(int32, 1),
    *(int64,) * 8,
    tensor_in(int64, 1),
    boolean,
    tensor_out(int32, 4),
)
def convolve(
    codes: Array32,
    weights: Words,
    correction: Array32,
    height: int,
    width: int,
    down: int,
    across: int,
    top: int,
    left: int,
    bottom: int,
    right: int,
    code_range: npt.NDArray[np.int64],
    signed: bool,
    out: Array32,
) -> np.int32:
    """Convolve; code_range is (bits, low, high, zero point). Returns the number of codes outside it."""
    bits, low, high, zero_point = code_range
    groups = weights.shape[0]
    per_group = codes.shape[3] // groups
    words = weights.shape[2] // (height * width)
    padded_height, padded_width = codes.shape[1] + top + bottom, codes.shape[2] + left + right
    planes = np.empty((bits, groups, padded_height, padded_width, words), np.uint64)
    sums = np.empty((groups, padded_height, padded_width), np.int32)
    fill_padding(planes, sums, per_group, zero_point)
    outside = np.int32(0)
    for image in range(codes.shape[0]):
        outside += pack_image(codes, image, top, left, low, high, planes, sums)
        convolve_image(planes, sums, weights, correction, (height, width, down, across), signed, out[image])
    return outside


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BitSerialConvolution:
    """A prepared convolution of 1-bit weights and codes of at most 8 bits.

    words: uint64 (groups, blocks, KH * KW * words, 8). correction: int32 (O), zero point times weight sum.
    Calling it raises ValueError when a code lies outside the coding's range.
    """

    weights: BinaryWeights
    geometry: Geometry
    coding: Coding
    words: Words
    correction: Array32
    kernel: str = "bit_serial"

    @classmethod
    def prepare(cls, weights: BinaryWeights, geometry: Geometry, coding: Coding) -> Self:
        """Rearrange the weights. Raises ValueError for bipolar codes or codes of more than 8 bits."""
        check_convolution(weights, geometry, coding)
        if coding.bipolar or coding.bits > MAX_BIT_SERIAL_BITS:
            raise ValueError(
                f"bit_serial: found {coding!r}, expected codes of 1..{MAX_BIT_SERIAL_BITS} bits, not bipolar"
            )
        weight_sums = weights.signs().sum(axis=(1, 2, 3), dtype=np.int64)
        return cls(
            weights=weights,
            geometry=geometry,
            coding=coding,
            words=order_by_blocks(weights.words, geometry.groups, WORD_LANES),
            correction=(coding.zero_point * weight_sums).astype(np.int32),
        )

    def __call__(self, codes: IntArray) -> IntArray:
        """Codes int32 (N, H, W, C) -> accumulators int32 (N, OH, OW, O)."""
        checked = check_tensor("convolution", codes)
        out = np.empty(output_shape(codes, self.weights, self.geometry), np.int32)
        geometry, coding = self.geometry, self.coding
        code_range = np.array((coding.bits, coding.low, coding.high, coding.zero_point), np.int64)
        window = (*geometry.kernel, *geometry.stride, *geometry.pads)
        outside = convolve(checked, self.words, self.correction, *window, code_range, coding.signed, out)
        check_no_code_outside("bit_serial", int(outside), coding)
        return out
