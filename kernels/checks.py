"""Argument checks that the reference and the fast kernels share; every failure is a ValueError."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bnhw.kernels.types import Coding, Geometry, IntArray, Weights

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

INT32 = np.iinfo(np.int32)
MAX_SHIFT = 62


def check_tensor(operation: str, tensor: npt.NDArray[Any]) -> Int32Array:
    """The tensor itself; refuses anything but an aligned C-contiguous int32 array of 4 axes."""
    if tensor.ndim != 4 or tensor.dtype != np.int32 or not (tensor.flags.c_contiguous and tensor.flags.aligned):
        order = "C-contiguous" if tensor.flags.c_contiguous else "strided"
        raise ValueError(
            f"{operation}: found a {order} {tensor.dtype} array {tensor.shape}, "
            "expected int32 NHWC, C-contiguous; use numpy.ascontiguousarray(tensor, numpy.int32)"
        )
    return cast(Int32Array, tensor)


def output_shape(codes: IntArray, weights: Weights, geometry: Geometry) -> tuple[int, int, int, int]:
    """The shape (N, OH, OW, O) of a convolution of these codes; refuses another number of channels."""
    channels = weights.channels_per_group * geometry.groups
    if codes.shape[3] != channels:
        raise ValueError(f"convolution: codes {codes.shape} have {codes.shape[3]} channels, expected {channels}")
    return (codes.shape[0], *geometry.output_size(codes.shape[1], codes.shape[2]), weights.shape[0])


def check_int32(operation: str, **numbers: int) -> None:
    """Refuse a number that 32 bits signed cannot hold."""
    for name, number in numbers.items():
        if not INT32.min <= number <= INT32.max:
            raise ValueError(f"{operation}: {name} = {number} does not fit 32 bits signed")


def check_range(operation: str, low: int, high: int) -> None:
    """Refuse an empty clamp or one beyond 32 bits signed."""
    check_int32(operation, low=low, high=high)
    if low > high:
        raise ValueError(f"{operation}: clamp [{low}, {high}] is empty")


def check_same_shape(operation: str, first: IntArray, second: IntArray) -> None:
    """Refuse two tensors of different shapes."""
    if first.shape != second.shape:
        raise ValueError(f"{operation}: shapes {first.shape} and {second.shape} differ")


def check_factors(first: IntArray, second: IntArray) -> None:
    """Refuse a second factor that has neither the shape of the first nor one number a channel."""
    images, _, _, channels = first.shape
    if second.shape not in {first.shape, (images, 1, 1, channels)}:
        raise ValueError(
            f"multiply: shapes {first.shape} and {second.shape}, expected one, or {(images, 1, 1, channels)}"
        )


def check_lookup_table(codes: IntArray, table: npt.ArrayLike) -> Int64Array:
    """The table as int64 (C or 1, entries); refuses another shape or entries beyond 32 bits signed."""
    entries = np.asarray(table, np.int64)
    if entries.ndim != 2 or entries.shape[0] not in {1, codes.shape[3]} or entries.shape[1] < 1:
        raise ValueError(f"lookup: table {entries.shape}, expected ({codes.shape[3]} or 1, entries)")
    check_int32("lookup", lowest_entry=int(entries.min()), highest_entry=int(entries.max()))
    return entries


def check_lookup_range(codes: IntArray, entries: int) -> None:
    """Refuse codes that are no index of a table of that many entries."""
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < entries:
        raise ValueError(f"lookup: found codes {codes.min()}..{codes.max()}, the table covers 0..{entries - 1}")


def check_max_pool(geometry: Geometry) -> None:
    """Refuse a geometry in which a window could hold nothing but padding."""
    top, left, bottom, right = geometry.pads
    if max(top, bottom) >= geometry.kernel[0] or max(left, right) >= geometry.kernel[1]:
        raise ValueError(f"max_pool: pads {geometry.pads} must be smaller than the kernel {geometry.kernel}")


def check_requantise(
    shape: tuple[int, ...],
    multiplier: npt.ArrayLike,
    offset: npt.ArrayLike,
    shift: npt.ArrayLike,
    classes: npt.ArrayLike | None,
    low: int,
    high: int,
) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """Multiplier, offset and shift as int64 (D, C or 1), and the divisor class of each pixel, flat."""
    check_range("requantise", low, high)
    factors, addends, places = (np.asarray(table, np.int64) for table in (multiplier, offset, shift))
    divisors = factors.shape[0] if factors.ndim else 0
    for name, table in (("multiplier", factors), ("offset", addends), ("shift", places)):
        if table.ndim != 2 or table.shape[0] != divisors or table.shape[1] not in {1, shape[3]} or not divisors:
            raise ValueError(f"requantise: {name} {table.shape}, expected ({divisors or 1}, {shape[3]} or 1)")
    check_int32("requantise", lowest_multiplier=int(factors.min()), highest_multiplier=int(factors.max()))
    if places.min() < 0 or places.max() > MAX_SHIFT:
        raise ValueError(f"requantise: shifts {places.min()}..{places.max()}, expected 0..{MAX_SHIFT}")
    return factors, addends, places, check_classes("requantise", shape, classes, divisors)


def check_threshold(
    shape: tuple[int, ...],
    thresholds: npt.ArrayLike,
    falling: npt.ArrayLike | None,
    classes: npt.ArrayLike | None,
    low: int,
) -> tuple[Int64Array, npt.NDArray[np.bool_], Int64Array]:
    """Thresholds as int64 (D, C, levels), whether each channel falls, and the divisor class of each pixel, flat."""
    table = np.asarray(thresholds, np.int64)
    channels = shape[3]
    if table.ndim != 3 or table.shape[1] not in {1, channels} or not table.size:
        raise ValueError(f"threshold: thresholds {table.shape}, expected (classes, {channels} or 1, levels)")
    if (table[..., 1:] < table[..., :-1]).any():
        raise ValueError("threshold: thresholds of a channel descend, expected them in ascending order")
    check_int32("threshold", lowest_code=low, highest_code=low + table.shape[2])
    falls = np.zeros(1, np.bool_) if falling is None else np.asarray(falling).astype(np.bool_)
    if falls.shape not in {(1,), (channels,)}:
        raise ValueError(f"threshold: falling channels {falls.shape}, expected ({channels} or 1,)")
    rows = check_classes("threshold", shape, classes, len(table))
    wide = np.broadcast_to(table, (len(table), channels, table.shape[2]))
    return wide, np.broadcast_to(falls, (channels,)), rows


def check_classes(operation: str, shape: tuple[int, ...], classes: npt.ArrayLike | None, divisors: int) -> Int64Array:
    """The divisor class of each pixel, flat; one class 0 where there is no map."""
    if classes is None:
        if divisors != 1:
            raise ValueError(f"{operation}: {divisors} divisor classes but no class per pixel; pass `classes`")
        return np.zeros(1, np.int64)
    rows = np.ascontiguousarray(classes, np.int64)
    if rows.shape != shape[1:3] or rows.min() < 0 or rows.max() >= divisors:
        raise ValueError(f"{operation}: classes {rows.shape}, expected {shape[1:3]} of 0..{divisors - 1}")
    return rows.reshape(-1)


def check_no_code_outside(kernel: str, outside: int, coding: Coding) -> None:
    """Refuse codes that the coding cannot hold; `outside` is how many were found."""
    if outside:
        raise ValueError(f"{kernel}: {outside} codes lie outside [{coding.low}, {coding.high}] of {coding!r}")
