"""One image as bit planes in a padded buffer, and its window sums: the input of the popcount kernels."""

import numpy as np
import numpy.typing as npt

from bnhw.kernels.jit import inline
from bnhw.kernels.packing import WORD_BITS
from bnhw.kernels.vectors import gather_bit, load_low_bytes

Array32 = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]


@inline
def fill_padding(planes: Words, sums: Array32, per_group: int, zero_point: int) -> None:
    """Set every pixel to the zero point; `pack_image` then overwrites the real ones.

    planes: (bits, groups, padded height, padded width, words). sums: (groups, padded height, padded width).
    """
    sums[:] = per_group * zero_point
    for word in range(planes.shape[4]):
        lanes = min(per_group - word * WORD_BITS, WORD_BITS)
        all_lanes = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(WORD_BITS - lanes)
        for bit in range(planes.shape[0]):
            planes[bit, :, :, :, word] = all_lanes if (zero_point >> bit) & 1 else np.uint64(0)


@inline
def sum_codes(codes: Array32, low: int, high: int) -> tuple[np.int32, np.int32]:
    """Sum of some codes, and how many of them lie outside [low, high]."""
    total, outside = np.int32(0), np.int32(0)
    for code in codes:
        total += code
        outside += np.int32((code < low) | (code > high))
    return total, outside


@inline
def pack_image(
    codes: Array32, image: int, top: int, left: int, low: int, high: int, planes: Words, sums: Array32
) -> np.int32:
    """Write the bit planes of codes[image] (H, W, C) and each pixel's sum of codes per group.

    Returns the number of codes outside [low, high].
    """
    groups, words = planes.shape[1], planes.shape[4]
    height, width, channels = codes.shape[1:]
    per_group = channels // groups
    tail = np.zeros(WORD_BITS, np.int32)
    outside = np.int32(0)
    for y in range(height):
        for x in range(width):
            pixel = codes[image, y, x]
            start = ((image * height + y) * width + x) * channels
            for group in range(groups):
                total, wrong = sum_codes(pixel[group * per_group : (group + 1) * per_group], low, high)
                sums[group, y + top, x + left] = total
                outside += wrong
                for word in range(words):
                    first = group * per_group + word * WORD_BITS
                    lanes = min(per_group - word * WORD_BITS, WORD_BITS)
                    if lanes == WORD_BITS:
                        low_bytes = load_low_bytes(codes, start + first)
                    else:
                        for lane in range(lanes):
                            tail[lane] = pixel[first + lane]
                        low_bytes = load_low_bytes(tail, 0)
                    for bit in range(planes.shape[0]):
                        planes[bit, group, y + top, x + left, word] = gather_bit(low_bytes, bit)
    return outside


@inline
def sum_window(sums: Array32, group: int, top: int, left: int, height: int, width: int) -> np.int32:
    """Sum of the codes of one group under the window whose first padded pixel is (top, left)."""
    total = np.int32(0)
    for y in range(top, top + height):
        for x in range(left, left + width):
            total += sums[group, y, x]
    return total
