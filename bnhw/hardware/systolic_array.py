"""A systolic array register by register: slow and obvious, to prove the closed forms of `bnhw.hardware.systolic`.

Every processing element holds registers; in each cycle they take over what their neighbours held in the cycle before,
and the edges take what is fed. Nothing here knows how long anything takes: cycles are counted while elements work.
"""

from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.hardware.systolic import Stationary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteppedProduct:
    """The product that an array computed, int64 (rows, columns), and the cycles that it took."""

    product: Array
    cycles: int


def step_product(left: Array, right: Array, rows: int, columns: int, stationary: Stationary) -> SteppedProduct:
    """Multiply integers (rows, depth) by (depth, columns) on an array of rows x columns, fold by fold.

    Folds follow each other: the first operand of a fold enters behind the last multiplication of the one before.
    """
    if stationary is Stationary.INPUT:
        # what stays is the left operand, and the columns of the right one pass: the transposed product
        stepped = step_product(right.T, left.T, rows, columns, Stationary.WEIGHT)
        return SteppedProduct(product=stepped.product.T, cycles=stepped.cycles)
    result = np.zeros((left.shape[0], right.shape[1]), np.int64)
    vertical = left.shape[0] if stationary is Stationary.OUTPUT else left.shape[1]
    cycles = 0
    for top in range(0, vertical, rows):
        for first in range(0, right.shape[1], columns):
            across = slice(first, first + columns)
            if stationary is Stationary.OUTPUT:
                down = slice(top, top + rows)
                sums, taken = _step_outputs(_pad(left[down], rows, 0), _pad(right[:, across], 0, columns))
                result[down, across] += sums[: len(result[down]), : result[:, across].shape[1]]
            else:
                depth = slice(top, top + rows)
                sums, taken = _step_weights(_pad(left[:, depth], 0, rows), _pad(right[depth, across], rows, columns))
                result[:, across] += sums[:, : result[:, across].shape[1]]
            cycles += taken
    return SteppedProduct(product=result, cycles=cycles)


def _pad(operand: Array, rows: int, columns: int) -> Array:
    """The operand with zeros behind it up to this size: idle elements of the array are fed zeros."""
    missing = [(0, max(size - have, 0)) for size, have in zip((rows, columns), operand.shape, strict=True)]
    return np.pad(operand.astype(np.int64), missing)


def _moved(registers: Array, fed: Array, axis: int) -> Array:
    """All registers one element further along the axis, the edge as fed."""
    after = np.empty_like(registers)
    if axis == 0:
        after[1:], after[0] = registers[:-1], fed
    else:
        after[:, 1:], after[:, 0] = registers[:, :-1], fed
    return after


def _skewed(stream: Array, cycle: int) -> tuple[Array, Array]:
    """What stands at the edge in a cycle: lane i gets its own sequence stream[i] i cycles late; and which have one."""
    lanes, length = stream.shape
    at = cycle - np.arange(lanes)
    valid = (at >= 0) & (at < length)
    return np.where(valid, stream[np.arange(lanes), np.clip(at, 0, length - 1)], 0), valid


def _step_outputs(left: Array, right: Array) -> tuple[Array, int]:
    """Sums stay: rows of `left` enter from the left, columns of `right` from above."""
    shape = (left.shape[0], right.shape[1])
    pixels, weights, sums = (np.zeros(shape, np.int64) for _ in range(3))
    has_pixel, has_weight = np.zeros(shape, bool), np.zeros(shape, bool)
    cycle = 0
    while True:
        values, valid = _skewed(left, cycle)
        pixels, has_pixel = _moved(pixels, values, 1), _moved(has_pixel, valid, 1)
        values, valid = _skewed(right.T, cycle)
        weights, has_weight = _moved(weights, values, 0), _moved(has_weight, valid, 0)
        works = has_pixel & has_weight
        if not works.any():
            return sums, cycle
        sums[works] += (pixels * weights)[works]
        cycle += 1


def _step_weights(left: Array, right: Array) -> tuple[Array, int]:
    """Weights stay: `right` is shifted in from above, then rows of `left` pass and partial sums fall out below."""
    rows, columns = right.shape
    weights, loaded = np.zeros_like(right), np.zeros(right.shape, bool)
    cycles = 0
    while not loaded.all():
        weights = _moved(weights, right[rows - 1 - cycles], 0)
        loaded = _moved(loaded, np.ones(columns, bool), 0)
        cycles += 1
    pixels, sums = np.zeros_like(right), np.zeros_like(right)
    has_pixel = np.zeros(right.shape, bool)
    result, done = np.zeros((left.shape[0], columns), np.int64), np.zeros(columns, np.int64)
    cycle = 0
    while True:
        values, valid = _skewed(left.T, cycle)
        pixels, has_pixel = _moved(pixels, values, 1), _moved(has_pixel, valid, 1)
        if not has_pixel.any():
            return result, cycles + cycle
        sums = _moved(sums, np.zeros(columns, np.int64), 0) + pixels * weights
        for column in np.flatnonzero(has_pixel[-1]):
            result[done[column], column] = sums[-1, column]
            done[column] += 1
        cycle += 1
