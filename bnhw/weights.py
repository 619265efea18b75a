"""What kind of weights an array holds: 1-bit with a scale per output channel, or k-bit integers.

Exact: a tensor is 1-bit only if every output channel holds values of one magnitude, compared bit for bit. This
also finds 1-bit weights into which an exporter has fused the gains of a batch norm, which leaves one magnitude
(and possibly a negated sign) per channel.
"""

import numpy as np

from bnhw.dtypes import Array


def channel_magnitudes(weights: Array) -> Array | None:
    """The magnitude a of each output channel (float64, shape (out,)) if all are 1-bit, else None.

    `weights`: (out, ...). A channel of zeros only counts as 1-bit with a = 0: a gain of 0 was fused into it.
    """
    rows = np.abs(weights.reshape(weights.shape[0], -1))
    if rows.shape[1] == 0 or not (rows == rows[:, :1]).all():
        return None
    return rows[:, 0].astype(np.float64)


def zeros_among_two_values(weights: Array) -> int:
    """How many exact zeros stand among weights that would otherwise be 1-bit; 0 if that is not so."""
    rows = np.abs(weights.reshape(weights.shape[0], -1))
    largest = rows.max(axis=1, keepdims=True, initial=0)
    two_valued_or_zero = ((rows == largest) | (rows == 0)).all()
    mixed = (rows == 0) & (largest > 0)
    return int(mixed.sum()) if two_valued_or_zero else 0


def to_signs(weights: Array) -> Array:
    """+1 where weight >= 0 (sign(0) = +1), else -1; int8 of the same shape."""
    return np.where(weights >= 0, np.int8(1), np.int8(-1))


def to_integers(weights: Array, bits: int) -> tuple[Array, Array]:
    """Symmetric k-bit integers (int8, |w| <= 2^(k-1) - 1) and the scale of each output channel (float64).

    Channels of zeros get scale 1. Rounds half to even; the range is that of the largest weight of the channel.
    """
    limit = (1 << (bits - 1)) - 1
    rows = weights.reshape(weights.shape[0], -1).astype(np.float64)
    scales = np.abs(rows).max(axis=1) / limit
    scales[scales == 0] = 1.0
    return np.rint(rows / scales[:, None]).astype(np.int8).reshape(weights.shape), scales
