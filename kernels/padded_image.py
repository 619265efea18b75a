"""One image as values (zero point subtracted) in a padded buffer: the input of the additive kernels."""

import numpy as np
import numpy.typing as npt

from bnhw.kernels.jit import inline
from bnhw.kernels.types import Coding

Array32 = npt.NDArray[np.int32]


def value_map(coding: Coding) -> tuple[int, int]:
    """(factor, zero_point) such that the value of a code is `factor * code - zero_point`."""
    return (2, 1) if coding.bipolar else (1, coding.zero_point)


@inline
def fill_row(codes: Array32, factor: int, zero_point: int, out: Array32) -> None:
    """The values of one pixel's codes in one group."""
    for channel in range(out.size):
        out[channel] = np.int32(codes[channel] * factor - zero_point)


@inline
def pad_image(codes: Array32, image: int, top: int, left: int, factor: int, zero_point: int, values: Array32) -> None:
    """Write the values of codes[image] (H, W, C) into (groups, padded height, padded width, C / groups).

    The padding is left as it is: it holds the value 0.
    """
    groups, per_group = values.shape[0], values.shape[3]
    for y in range(codes.shape[1]):
        for x in range(codes.shape[2]):
            pixel = codes[image, y, x]
            for group in range(groups):
                part = pixel[group * per_group : (group + 1) * per_group]
                fill_row(part, factor, zero_point, values[group, y + top, x + left])


@inline
def find_windows(
    values: Array32, group: int, columns: int, down: int, across: int, starts: npt.NDArray[np.int64]
) -> None:
    """starts[p] = index in `values` of the first element of output pixel p's window in that group."""
    _, height, width, per_group = values.shape
    for pixel in range(starts.size):
        y, x = pixel // columns * down, pixel % columns * across
        starts[pixel] = ((group * height + y) * width + x) * per_group
