"""Sums as they grow, one product after the other: what accumulators hold on the way.

The order is that of the weights in memory: kernel row, kernel column, channel of the group. Each generator yields one
int64 array, which it goes on changing; its last state is what `bnhw.kernels.reference` returns. Padded taps add 0.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bnhw.kernels.reference import Int64Array, window_taps
from bnhw.kernels.types import Coding, Geometry, IntArray


def convolution_sums(
    codes: IntArray, weights: npt.NDArray[Any], geometry: Geometry, coding: Coding
) -> Iterator[Int64Array]:
    """The accumulators (N, OH, OW, O / groups) of one group after each product, group by group.

    codes (N, H, W, C), weights (O, KH, KW, C / groups) as for `bnhw.kernels.reference.convolution`.
    """
    wide = codes.astype(np.int64)
    values = 2 * wide - 1 if coding.bipolar else wide - coding.zero_point
    per_group, out_group = weights.shape[3], weights.shape[0] // geometry.groups
    size = geometry.output_size(codes.shape[1], codes.shape[2])
    for group in range(geometry.groups):
        filters = weights[group * out_group : (group + 1) * out_group].astype(np.int64)
        inputs = values[..., group * per_group : (group + 1) * per_group]
        acc = np.zeros((codes.shape[0], *size, out_group), np.int64)
        for row, column, tap in window_taps(inputs, geometry, padding=0):
            for channel in range(per_group):
                acc += tap[..., channel, np.newaxis] * filters[:, row, column, channel]
                yield acc


def pool_sums(codes: IntArray, geometry: Geometry, zero_point: int) -> Iterator[Int64Array]:
    """The sums (N, OH, OW, C) of each window after each tap."""
    acc = np.zeros((codes.shape[0], *geometry.output_size(*codes.shape[1:3]), codes.shape[3]), np.int64)
    for _, _, tap in window_taps(codes.astype(np.int64) - zero_point, geometry, padding=0):
        acc += tap
        yield acc


def global_sums(codes: IntArray, zero_point: int) -> Iterator[Int64Array]:
    """The sums (N, 1, 1, C) over all pixels after each row, every pixel of which is looked at."""
    values = codes.astype(np.int64) - zero_point
    acc = np.zeros((codes.shape[0], 1, 1, codes.shape[3]), np.int64)
    for row in range(codes.shape[1]):
        for column in range(codes.shape[2]):
            acc += values[:, row : row + 1, column : column + 1]
            yield acc
