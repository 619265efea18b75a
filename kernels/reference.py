"""The semantics of every operation, slow and obvious: numpy int64, no packing, no floating point.

Every other executor must give these integers. Tensors are NHWC. Nothing here checks ranges: int64 holds every
sum that a program of at most 32-bit tensors can form.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bnhw.kernels.checks import (
    check_factors,
    check_lookup_range,
    check_lookup_table,
    check_max_pool,
    check_range,
    check_requantise,
    check_same_shape,
    check_threshold,
)
from bnhw.kernels.types import Coding, Geometry, IntArray

Int64Array: TypeAlias = npt.NDArray[np.int64]


def convolution(codes: IntArray, weights: npt.NDArray[Any], geometry: Geometry, coding: Coding) -> Int64Array:
    """Codes (N, H, W, C) and integer weights (O, KH, KW, C / groups) -> accumulators int64 (N, OH, OW, O).

    `acc = sum weight * (code - zero_point)`; for bipolar codes the value is `2 code - 1`. The *value* is
    padded with 0, so that a padded tap contributes 0 under every coding. Raises ValueError when shapes
    disagree.
    """
    out_channels, height, width, per_group = weights.shape
    if (height, width) != tuple(geometry.kernel) or codes.shape[3] != per_group * geometry.groups:
        raise ValueError(
            f"convolution: weights {weights.shape} in {geometry.groups} groups and kernel {geometry.kernel} "
            f"do not fit codes {codes.shape}"
        )
    if out_channels % geometry.groups:
        raise ValueError(f"convolution: {out_channels} output channels do not split into {geometry.groups} groups")
    wide = codes.astype(np.int64)
    values = 2 * wide - 1 if coding.bipolar else wide - coding.zero_point
    size = geometry.output_size(codes.shape[1], codes.shape[2])
    acc = np.zeros((codes.shape[0], *size, out_channels), np.int64)
    for group in range(geometry.groups):
        inputs = slice(group * per_group, (group + 1) * per_group)
        outputs = slice(group * out_channels // geometry.groups, (group + 1) * out_channels // geometry.groups)
        filters = weights[outputs].astype(np.int64)
        for row, column, tap in window_taps(values[..., inputs], geometry, padding=0):
            acc[..., outputs] += np.einsum("nhwc,oc->nhwo", tap, filters[:, row, column])
    return acc


def requantise(
    acc: IntArray,
    multiplier: npt.ArrayLike,
    offset: npt.ArrayLike,
    shift: npt.ArrayLike,
    classes: npt.ArrayLike | None,
    low: int,
    high: int,
) -> Int64Array:
    """`clamp((acc * multiplier + offset) >> shift, low, high)`, the shift arithmetic (floor).

    multiplier, offset, shift: (D, C) or (D, 1), one row per divisor class. classes: (H, W), the row of each
    pixel; None means row 0 everywhere and needs D = 1. Rounding (half up) is part of `offset`.
    """
    *constants, rows = check_requantise(acc.shape, multiplier, offset, shift, classes, low, high)
    per_pixel = rows.reshape(1, 1) if classes is None else rows.reshape(acc.shape[1:3])
    factor, addend, places = (table[per_pixel] for table in constants)
    quantised: Int64Array = np.clip((acc.astype(np.int64) * factor + addend) >> places, low, high)
    return quantised


def threshold(
    acc: IntArray,
    thresholds: npt.ArrayLike,
    falling: npt.ArrayLike | None,
    classes: npt.ArrayLike | None,
    low: int,
) -> Int64Array:
    """`low` + the number of thresholds t with `acc >= t`, or with `acc <= t` in a falling channel.

    thresholds: (D, C, levels) or (D, 1, levels), ascending along the levels, one row per divisor class. falling:
    (C,) or (1,), not 0 where a channel falls; None means nowhere. classes: as in `requantise`.
    """
    table, falls, rows = check_threshold(acc.shape, thresholds, falling, classes, low)
    per_pixel = rows.reshape(1, 1) if classes is None else rows.reshape(acc.shape[1:3])
    codes = np.full(acc.shape, low, np.int64)
    for level in range(table.shape[2]):
        limits = table[..., level][per_pixel]
        codes += np.where(falls, acc <= limits, acc >= limits)
    return codes


def lookup(codes: IntArray, table: npt.ArrayLike) -> Int64Array:
    """`table[c][code]` with table (C, entries), or (1, entries) shared by all channels.

    Raises ValueError when a code lies outside 0..entries - 1.
    """
    entries = check_lookup_table(codes, table)
    check_lookup_range(codes, entries.shape[1])
    channels = np.arange(codes.shape[3]) if entries.shape[0] > 1 else np.zeros(codes.shape[3], np.int64)
    return entries[channels, codes.astype(np.int64)]


def add(first: IntArray, second: IntArray, low: int, high: int) -> tuple[Int64Array, int]:
    """The sum clamped to [low, high], and how many elements the clamp changed."""
    check_range("add", low, high)
    check_same_shape("add", first, second)
    exact = first.astype(np.int64) + second.astype(np.int64)
    return np.clip(exact, low, high), int(np.count_nonzero((exact < low) | (exact > high)))


def multiply(first: IntArray, second: IntArray, first_zero: int, second_zero: int) -> Int64Array:
    """`(first - first_zero) * (second - second_zero)`; second (N, H, W, C), or (N, 1, 1, C) for all pixels."""
    check_factors(first, second)
    product: Int64Array = (first.astype(np.int64) - first_zero) * (second.astype(np.int64) - second_zero)
    return product


def sum_pool(codes: IntArray, geometry: Geometry, zero_point: int) -> Int64Array:
    """Exact sum of `code - zero_point` over the window; padded taps are not counted (they contribute 0)."""
    values = codes.astype(np.int64) - zero_point
    total = np.zeros((codes.shape[0], *geometry.output_size(*codes.shape[1:3]), codes.shape[3]), np.int64)
    for _, _, tap in window_taps(values, geometry, padding=0):
        total += tap
    return total


def max_pool(codes: IntArray, geometry: Geometry) -> Int64Array:
    """Largest code of the window; padding never wins.

    Raises ValueError when a pad is as large as the kernel: a window could hold nothing but padding.
    """
    check_max_pool(geometry)
    lowest = int(np.iinfo(np.int64).min)
    taps = [tap for _, _, tap in window_taps(codes.astype(np.int64), geometry, padding=lowest)]
    return np.asarray(np.max(taps, axis=0), np.int64)


def pad_channels(codes: IntArray, before: int, after: int, value: int) -> Int64Array:
    """Add `before` and `after` channels that hold `value` (the zero point)."""
    widths = ((0, 0), (0, 0), (0, 0), (before, after))
    return np.pad(codes.astype(np.int64), widths, constant_values=value)


def concatenate(tensors: Sequence[IntArray]) -> Int64Array:
    """Join along channels."""
    return np.concatenate([tensor.astype(np.int64) for tensor in tensors], axis=3)


def global_sum(codes: IntArray, zero_point: int) -> Int64Array:
    """(N, 1, 1, C): exact sum of `code - zero_point` over all pixels."""
    total: Int64Array = np.sum(codes.astype(np.int64) - zero_point, axis=(1, 2), keepdims=True)
    return total


def window_taps(values: Int64Array, geometry: Geometry, padding: int) -> Iterator[tuple[int, int, Int64Array]]:
    """(kernel row, kernel column, the element under it for every output pixel) for each tap."""
    rows, columns = geometry.output_size(*values.shape[1:3])
    top, left, bottom, right = geometry.pads
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=padding)
    down, across = geometry.stride
    for row in range(geometry.kernel[0]):
        for column in range(geometry.kernel[1]):
            span_rows = slice(row, row + (rows - 1) * down + 1, down)
            span_columns = slice(column, column + (columns - 1) * across + 1, across)
            yield row, column, np.ascontiguousarray(padded[:, span_rows, span_columns])
