"""Thresholds as limits that 32-bit sums exceed: what the kernels compare with."""

import numpy as np
import numpy.typing as npt

from bnhw.kernels.checks import INT32


def threshold_limits(
    table: npt.NDArray[np.int64], falls: npt.NDArray[np.bool_], low: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Base (D, C), limits (D, C, 2^k - 1) and flip (C,) of `threshold_pixels`, exact in 32 bits.

    acc <= t is ~acc >= ~t, and acc >= t is acc > t - 1. A threshold that every 32-bit number reaches is part of
    the base; in its place, like that of one which none reaches, stands the limit that nothing exceeds.
    """
    bounded = np.clip(table, INT32.min - 1, INT32.max + 1)
    rising = np.where(falls[:, None], ~bounded[..., ::-1], bounded)
    always = rising <= INT32.min
    base = low + always.sum(axis=2)
    missing = (1 << int(table.shape[2]).bit_length()) - 1 - table.shape[2]
    limits = np.sort(np.where(always, INT32.max, rising - 1), axis=2)
    padded = np.pad(limits, ((0, 0), (0, 0), (0, missing)), constant_values=INT32.max)
    flip = np.where(falls, -1, 0)
    return base.astype(np.int32), np.ascontiguousarray(padded, np.int32), flip.astype(np.int32)
