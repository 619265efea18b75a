"""Compiled loops of the operations that are not convolutions: int32 tensors in and out, int64 in between.

Each entry takes tensors seen as (pixels, channels), so that the innermost loop runs over contiguous channels
with per-channel constants and LLVM turns it into vector code. No range is checked here: callers go through
`bnhw.kernels.portable`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int32, int64

from bnhw.kernels.jit import entry, inline, tensor_in, tensor_out

Array32 = npt.NDArray[np.int32]
Array64 = npt.NDArray[np.int64]

PIXELS = tensor_in(int32, 2)
IMAGES = tensor_in(int32, 4)
CONSTANTS = tensor_in(int64, 2)


@inline
def clamp(number: Any, low: int, high: int) -> Any:
    """The number, or the limit that it exceeds."""
    return min(max(number, low), high)


@inline
def requantise_row(
    acc: Array32, multiplier: Array32, offset: Array64, shift: Array64, low: int, high: int, out: Array32
) -> None:
    """One pixel of `requantise_pixels`."""
    for channel in range(out.size):
        scaled = (np.int64(acc[channel]) * np.int64(multiplier[channel]) + offset[channel]) >> shift[channel]
        out[channel] = np.int32(clamp(scaled, low, high))


@entry(PIXELS, PIXELS, CONSTANTS, CONSTANTS, tensor_in(int64, 1), int64, int64, tensor_out(int32, 2))
def requantise_pixels(
    acc: Array32,
    multiplier: Array32,
    offset: Array64,
    shift: Array64,
    classes: Array64,
    low: int,
    high: int,
    out: Array32,
) -> None:
    """Requantise (pixels, C); `classes` holds one image's rows of the constants, images follow each other."""
    for pixel in range(acc.shape[0]):
        row = classes[pixel % classes.size]
        requantise_row(acc[pixel], multiplier[row], offset[row], shift[row], low, high, out[pixel])


@inline
def halve_interval(acc: Array32, flip: Array32, table: Array32, levels: int, step: Any, passed: Array32) -> None:
    """One step of a binary search in all channels of a pixel at once: LLVM makes gathers and selects of it."""
    for channel in range(passed.size):
        middle = channel * levels + passed[channel] + step - 1
        passed[channel] += step if (acc[channel] ^ flip[channel]) > table[middle] else 0


@inline
def add_base(base: Array32, out: Array32) -> None:
    """Codes of one pixel from how many limits it has passed."""
    for channel in range(out.size):
        out[channel] += base[channel]


@entry(PIXELS, PIXELS, tensor_in(int32, 3), tensor_in(int32, 1), tensor_in(int64, 1), tensor_out(int32, 2))
def threshold_pixels(
    acc: Array32, base: Array32, limits: Array32, flip: Array32, classes: Array64, out: Array32
) -> None:
    """`base` + how many limits `acc ^ flip` exceeds, (pixels, C); `classes` as in `requantise_pixels`.

    base: (D, C). limits: (D, C, 2^k - 1), ascending. flip: (C,), 0 or -1.
    """
    levels = limits.shape[2]
    for pixel in range(acc.shape[0]):
        row = classes[pixel % classes.size]
        table = limits[row].reshape(-1)
        out[pixel] = 0
        step = np.int32((levels + 1) // 2)
        while step > 0:
            halve_interval(acc[pixel], flip, table, levels, step, out[pixel])
            step //= 2
        add_base(base[row], out[pixel])


@entry(PIXELS, PIXELS, tensor_out(int32, 2))
def lookup_pixels(codes: Array32, table: Array32, out: Array32) -> int:
    """Look every code up; returns the number of codes outside the table, which read its first entry."""
    entries = table.shape[1]
    outside = 0
    per_channel = min(table.shape[0] - 1, 1)
    for pixel in range(codes.shape[0]):
        for channel in range(codes.shape[1]):
            code = codes[pixel, channel]
            is_entry = 0 <= code < entries
            outside += not is_entry
            out[pixel, channel] = table[channel * per_channel, code if is_entry else 0]
    return outside


@entry(tensor_in(int32, 1), tensor_in(int32, 1), int64, int64, tensor_out(int32, 1))
def add_codes(first: Array32, second: Array32, low: int, high: int, out: Array32) -> int:
    """Clamp the exact sums; returns how many the clamp changed."""
    saturated = 0
    for index in range(out.size):
        exact = np.int64(first[index]) + np.int64(second[index])
        clamped = clamp(exact, low, high)
        saturated += int(exact != clamped)
        out[index] = np.int32(clamped)
    return saturated


@inline
def multiply_row(first: Array32, second: Array32, first_zero: int, second_zero: int, out: Array32) -> None:
    """One pixel of `multiply_pixels`; 32-bit products wrap nowhere, because the exact ones fit."""
    for channel in range(out.size):
        out[channel] = (first[channel] - first_zero) * (second[channel] - second_zero)


@entry(PIXELS, PIXELS, int32, int32, tensor_out(int32, 2))
def multiply_pixels(first: Array32, second: Array32, first_zero: int, second_zero: int, out: Array32) -> None:
    """Products of (pixels, C); `second` has as many pixels, or one for each of as many images."""
    repeats = max(first.shape[0] // max(second.shape[0], 1), 1)
    for pixel in range(first.shape[0]):
        multiply_row(first[pixel], second[pixel // repeats], first_zero, second_zero, out[pixel])


@inline
def add_row(codes: Array32, zero_point: int, out: Array32) -> None:
    """Add one tap's values to one output pixel."""
    for channel in range(out.size):
        out[channel] += codes[channel] - zero_point


@inline
def maximise_row(codes: Array32, out: Array32) -> None:
    """Raise one output pixel to one tap's codes."""
    for channel in range(out.size):
        out[channel] = max(out[channel], codes[channel])


WINDOW = (int64, int64, int64, int64, int64, int64)


@entry(IMAGES, *WINDOW, int32, tensor_out(int32, 4))
def sum_windows(
    codes: Array32,
    height: int,
    width: int,
    down: int,
    across: int,
    top: int,
    left: int,
    zero_point: int,
    out: Array32,
) -> None:
    """Sum pooling; taps outside the image are skipped."""
    for image in range(out.shape[0]):
        for row in range(out.shape[1]):
            first_row = row * down - top
            for column in range(out.shape[2]):
                first_column = column * across - left
                target = out[image, row, column]
                target[:] = 0
                for y in range(max(first_row, 0), min(first_row + height, codes.shape[1])):
                    for x in range(max(first_column, 0), min(first_column + width, codes.shape[2])):
                        add_row(codes[image, y, x], zero_point, target)


@entry(IMAGES, *WINDOW, tensor_out(int32, 4))
def maximise_windows(
    codes: Array32, height: int, width: int, down: int, across: int, top: int, left: int, out: Array32
) -> None:
    """Max pooling; taps outside the image are skipped."""
    for image in range(out.shape[0]):
        for row in range(out.shape[1]):
            first_row = row * down - top
            for column in range(out.shape[2]):
                first_column = column * across - left
                target = out[image, row, column]
                target[:] = np.int32(-(2**31))
                for y in range(max(first_row, 0), min(first_row + height, codes.shape[1])):
                    for x in range(max(first_column, 0), min(first_column + width, codes.shape[2])):
                        maximise_row(codes[image, y, x], target)
