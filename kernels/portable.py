"""Fast operations on int32 NHWC tensors, for every machine that Numba compiles for.

Same meaning, argument for argument, as the functions of `bnhw.kernels.reference`; results are int32. Every
function raises ValueError when a tensor is not a C-contiguous, aligned int32 array of 4 axes. Sums are exact
as long as the true result fits 32 bits (partial sums may wrap, two's complement sums do not mind).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bnhw.kernels import pointwise
from bnhw.kernels.checks import (
    check_factors,
    check_int32,
    check_lookup_range,
    check_lookup_table,
    check_max_pool,
    check_range,
    check_requantise,
    check_same_shape,
    check_tensor,
    check_threshold,
)
from bnhw.kernels.threshold_limits import threshold_limits
from bnhw.kernels.types import Geometry, IntArray


def requantise(
    acc: IntArray,
    multiplier: npt.ArrayLike,
    offset: npt.ArrayLike,
    shift: npt.ArrayLike,
    classes: npt.ArrayLike | None,
    low: int,
    high: int,
) -> npt.NDArray[np.int32]:
    """`clamp((acc * multiplier + offset) >> shift, low, high)`; see `reference.requantise`.

    The multiplier must fit 32 bits signed, the shift lies in 0..62, low and high fit 32 bits.
    """
    checked = check_tensor("requantise", acc)
    channels = acc.shape[3]
    factors, addends, places, rows = check_requantise(acc.shape, multiplier, offset, shift, classes, low, high)
    tables = [np.ascontiguousarray(np.broadcast_to(table, (len(table), channels))) for table in (addends, places)]
    narrow = np.ascontiguousarray(np.broadcast_to(factors, (len(factors), channels)), np.int32)
    out = np.empty(acc.shape, np.int32)
    pointwise.requantise_pixels(_pixels(checked), narrow, tables[0], tables[1], rows, low, high, _pixels(out))
    return out


def threshold(
    acc: IntArray,
    thresholds: npt.ArrayLike,
    falling: npt.ArrayLike | None,
    classes: npt.ArrayLike | None,
    low: int,
) -> npt.NDArray[np.int32]:
    """`low` + the number of thresholds reached; see `reference.threshold`. Thresholds may exceed 32 bits."""
    checked = check_tensor("threshold", acc)
    table, falls, rows = check_threshold(acc.shape, thresholds, falling, classes, low)
    base, limits, flip = threshold_limits(table, falls, low)
    out = np.empty(acc.shape, np.int32)
    pointwise.threshold_pixels(_pixels(checked), base, limits, flip, rows, _pixels(out))
    return out


def lookup(codes: IntArray, table: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """`table[c][code]`; see `reference.lookup`. Raises ValueError when a code lies outside the table."""
    checked = check_tensor("lookup", codes)
    entries = check_lookup_table(codes, table)
    out = np.empty(codes.shape, np.int32)
    if pointwise.lookup_pixels(_pixels(checked), np.ascontiguousarray(entries, np.int32), _pixels(out)):
        check_lookup_range(codes, entries.shape[1])
    return out


def add(first: IntArray, second: IntArray, low: int, high: int) -> tuple[npt.NDArray[np.int32], int]:
    """The sum clamped to [low, high], and how many elements the clamp changed."""
    left, right = check_tensor("add", first), check_tensor("add", second)
    check_same_shape("add", first, second)
    check_range("add", low, high)
    out = np.empty(first.shape, np.int32)
    return out, pointwise.add_codes(left.reshape(-1), right.reshape(-1), low, high, out.reshape(-1))


def multiply(first: IntArray, second: IntArray, first_zero: int, second_zero: int) -> npt.NDArray[np.int32]:
    """`(first - first_zero) * (second - second_zero)`, which must fit 32 bits; see `reference.multiply`."""
    left, right = check_tensor("multiply", first), check_tensor("multiply", second)
    check_factors(first, second)
    check_int32("multiply", first_zero=first_zero, second_zero=second_zero)
    out = np.empty(first.shape, np.int32)
    pointwise.multiply_pixels(_pixels(left), _pixels(right), first_zero, second_zero, _pixels(out))
    return out


def sum_pool(codes: IntArray, geometry: Geometry, zero_point: int) -> npt.NDArray[np.int32]:
    """Exact sum of `code - zero_point` over the real taps of each window."""
    checked = check_tensor("sum_pool", codes)
    check_int32("sum_pool", zero_point=zero_point)
    out = _empty_windows(codes, geometry)
    pointwise.sum_windows(checked, *geometry.kernel, *geometry.stride, *geometry.pads[:2], zero_point, out)
    return out


def max_pool(codes: IntArray, geometry: Geometry) -> npt.NDArray[np.int32]:
    """Largest code of each window; padding never wins, and pads must be smaller than the kernel."""
    checked = check_tensor("max_pool", codes)
    check_max_pool(geometry)
    out = _empty_windows(codes, geometry)
    pointwise.maximise_windows(checked, *geometry.kernel, *geometry.stride, *geometry.pads[:2], out)
    return out


def pad_channels(codes: IntArray, before: int, after: int, value: int) -> npt.NDArray[np.int32]:
    """Add `before` and `after` channels that hold `value` (the zero point)."""
    check_tensor("pad_channels", codes)
    check_int32("pad_channels", value=value)
    out = np.full((*codes.shape[:3], before + codes.shape[3] + after), value, np.int32)
    out[..., before : before + codes.shape[3]] = codes
    return out


def concatenate(tensors: Sequence[IntArray]) -> npt.NDArray[np.int32]:
    """Join along channels."""
    for tensor in tensors:
        check_tensor("concatenate", tensor)
    joined: npt.NDArray[np.int32] = np.concatenate(tensors, axis=3, dtype=np.int32)
    return joined


def global_sum(codes: IntArray, zero_point: int) -> npt.NDArray[np.int32]:
    """(N, 1, 1, C): exact sum of `code - zero_point` over all pixels."""
    check_tensor("global_sum", codes)
    height, width = codes.shape[1:3]
    return sum_pool(codes, Geometry(kernel=(height, width), stride=(1, 1), pads=(0, 0, 0, 0)), zero_point)


def _pixels(tensor: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return tensor.reshape(-1, tensor.shape[3])


def _empty_windows(codes: IntArray, geometry: Geometry) -> npt.NDArray[np.int32]:
    size = geometry.output_size(codes.shape[1], codes.shape[2])
    return np.empty((codes.shape[0], *size, codes.shape[3]), np.int32)
