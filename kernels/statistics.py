"""What calibration counts in one pass over real values: extremes, a histogram, moments of each channel.

`observe` is compiled and single-threaded, free of the interpreter lock; `observe_reference` is the slow and
obvious version that it equals (sums up to float64 rounding, all else exactly).
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numba import float32, float64, int64

from bnhw.kernels.jit import entry, inline, tensor_in, tensor_out

BLOCK = 128
"""Elements handled at once: each of the short loops over a block becomes vector code and stays in the L1 cache."""

COPIES = 4
"""Histograms filled in turn, so that equal neighbours (zeros behind a ReLU) do not wait for each other."""

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
CountArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What was seen in float32 values (images, channels, height, width); NaN and infinities are only counted.

    minimum, maximum: inf and -inf where no value was finite. histogram: int64 (bins,), the values in equal bins of
    [low, high); below, above: how many were less than low, and high or more. counts, sums, squares: int64 and
    float64 (channels,), the number, sum and sum of squares of the values strictly between floor and ceiling.
    non_finite: how many values were NaN or infinite.
    """

    minimum: float
    maximum: float
    histogram: CountArray
    below: int
    above: int
    counts: CountArray
    sums: DoubleArray
    squares: DoubleArray
    non_finite: int

    def joined(self, other: Self) -> Self:
        """The statistics of both batches; they must stem from the same low, high, bins, floor and ceiling."""
        return type(self)(
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            histogram=self.histogram + other.histogram,
            below=self.below + other.below,
            above=self.above + other.above,
            counts=self.counts + other.counts,
            sums=self.sums + other.sums,
            squares=self.squares + other.squares,
            non_finite=self.non_finite + other.non_finite,
        )


def observe(values: npt.NDArray[Any], low: float, high: float, bins: int, floor: float, ceiling: float) -> Statistics:
    """Statistics of `values`, float32 (images, channels, height, width), in one pass.

    A value v of [low, high) belongs to bin floor((v - low) * (bins / (high - low))), in float64. floor and ceiling
    may be infinite. Raises ValueError for another array, an empty or infinite [low, high), or no bins.
    """
    _check(values, low, high, bins)
    batch = np.ascontiguousarray(values)
    channels = batch.shape[1]
    bin_counts = np.zeros((COPIES, bins + 3), np.int64)
    extremes = np.zeros(2, np.float64)
    counts, sums, squares = np.zeros(channels, np.int64), np.zeros(channels), np.zeros(channels)
    _observe(
        batch, float(low), float(high), bins / (high - low), float(floor), float(ceiling),
        bin_counts, extremes, counts, sums, squares,
    )  # fmt: skip
    total = bin_counts.sum(axis=0)
    return Statistics(
        minimum=float(extremes[0]),
        maximum=float(extremes[1]),
        histogram=total[1 : bins + 1],
        below=int(total[0]),
        above=int(total[bins + 1]),
        counts=counts,
        sums=sums,
        squares=squares,
        non_finite=int(total[bins + 2]),
    )


def observe_reference(
    values: npt.NDArray[Any], low: float, high: float, bins: int, floor: float, ceiling: float
) -> Statistics:
    """The same as `observe`, in numpy."""
    _check(values, low, high, bins)
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    held = finite[(finite >= low) & (finite < high)]
    positions = np.minimum(np.floor((held - low) * (bins / (high - low))), bins - 1).astype(np.int64)
    inside = np.isfinite(wide) & (wide > floor) & (wide < ceiling)
    kept = np.where(inside, wide, 0.0)
    return Statistics(
        minimum=float(finite.min(initial=np.inf)),
        maximum=float(finite.max(initial=-np.inf)),
        histogram=np.bincount(positions, minlength=bins).astype(np.int64),
        below=int((finite < low).sum()),
        above=int((finite >= high).sum()),
        counts=inside.sum(axis=(0, 2, 3)),
        sums=kept.sum(axis=(0, 2, 3)),
        squares=(kept * kept).sum(axis=(0, 2, 3)),
        non_finite=int(wide.size - finite.size),
    )


def _check(values: npt.NDArray[Any], low: float, high: float, bins: int) -> None:
    if values.dtype != np.float32 or values.ndim != 4:
        raise ValueError(f"statistics: found {values.dtype} {values.shape}, expected float32 of 4 axes")
    if not (np.isfinite((low, high)).all() and low < high and np.isfinite(bins / (high - low))):
        raise ValueError(f"statistics: [{low}, {high}) is no range of real numbers")
    if bins < 1:
        raise ValueError(f"statistics: {bins} bins, expected at least 1")


@inline
def read_block(source: FloatArray, out: FloatArray) -> None:
    """Copy a block; infinities become NaN, which is neither less nor more than anything."""
    for index in range(source.size):
        value = source[index]
        out[index] = value if abs(value) < np.float32(np.inf) else np.float32(np.nan)


@inline
def widen_extremes(block: FloatArray, smallest: FloatArray, largest: FloatArray) -> None:
    """Lower and raise the extremes seen at each place of a block."""
    for index in range(block.size):
        value = block[index]
        smallest[index] = value if value < smallest[index] else smallest[index]
        largest[index] = value if value > largest[index] else largest[index]


@inline
def add_moments(
    block: FloatArray, floor: float, ceiling: float, counts: CountArray, sums: DoubleArray, squares: DoubleArray
) -> None:
    """Add what lies between floor and ceiling to the sums kept for each place of a block."""
    for index in range(block.size):
        value = np.float64(block[index])
        inside = (value > floor) & (value < ceiling)
        counts[index] += np.int64(inside)
        kept = value if inside else 0.0
        sums[index] += kept
        squares[index] += kept * kept


@inline
def find_bins(block: FloatArray, low: float, high: float, factor: float, bins: int, out: npt.NDArray[np.int32]) -> None:
    """Places of the bin counts: 0 below, 1..bins inside, bins + 1 above, bins + 2 for NaN."""
    last = np.float64(bins - 1)
    for index in range(block.size):
        value = np.float64(block[index])
        position: Any = (value - low) * factor
        position = position if position > 0.0 else 0.0
        position = position if position < last else last
        place = np.int32(position) + np.int32(1)
        place = np.int32(0) if value < low else place
        place = np.int32(bins + 1) if value >= high else place
        out[index] = place if value == value else np.int32(bins + 2)  # noqa: PLR0124  (NaN differs from itself)


@inline
def count_bins(places: npt.NDArray[np.int32], bin_counts: CountArray) -> None:
    """Count the bins of a block."""
    whole = places.size // COPIES * COPIES
    for index in range(0, whole, COPIES):
        bin_counts[0, places[index]] += 1
        bin_counts[1, places[index + 1]] += 1
        bin_counts[2, places[index + 2]] += 1
        bin_counts[3, places[index + 3]] += 1
    for index in range(whole, places.size):
        bin_counts[0, places[index]] += 1


@entry(
    tensor_in(float32, 4), float64, float64, float64, float64, float64,
    tensor_out(int64, 2), tensor_out(float64, 1), tensor_out(int64, 1), tensor_out(float64, 1), tensor_out(float64, 1),
)  # fmt: skip
def _observe(
    values: FloatArray,
    low: float,
    high: float,
    factor: float,
    floor: float,
    ceiling: float,
    bin_counts: CountArray,
    extremes: DoubleArray,
    channel_counts: CountArray,
    channel_sums: DoubleArray,
    channel_squares: DoubleArray,
) -> None:
    """Channel by channel, so that the sums of a block's places are added up once a channel."""
    images, channels, height, width = values.shape
    planes = values.reshape((images, channels, height * width))
    size = height * width
    bins = bin_counts.shape[1] - 3
    block, places = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    smallest, largest = np.full(BLOCK, np.float32(np.inf)), np.full(BLOCK, np.float32(-np.inf))
    counts, sums, squares = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.float64), np.empty(BLOCK, np.float64)
    for channel in range(channels):
        counts[:], sums[:], squares[:] = 0, 0.0, 0.0
        for image in range(images):
            plane = planes[image, channel]
            for start in range(0, size, BLOCK):
                length = min(BLOCK, size - start)
                read_block(plane[start : start + length], block[:length])
                widen_extremes(block[:length], smallest[:length], largest[:length])
                add_moments(block[:length], floor, ceiling, counts[:length], sums[:length], squares[:length])
                find_bins(block[:length], low, high, factor, bins, places[:length])
                count_bins(places[:length], bin_counts)
        channel_counts[channel], channel_sums[channel], channel_squares[channel] = (
            counts.sum(),
            sums.sum(),
            squares.sum(),
        )
    extremes[0], extremes[1] = smallest.min(), largest.max()
