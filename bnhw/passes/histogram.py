"""A histogram that grows with what it sees, and what it says about ranges.

Bins are equal and symmetric about 0, over [-reach, reach) with `reach` a power of two. Where a value lies beyond,
the reach doubles and pairs of bins become one, so that one pass over the data and constant memory are enough.
"""

import math
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array, Quantisation

BINS = 1 << 13
"""Of these at least a quarter lie on the side of the largest value: 16 bins a code at 8 bits."""


def reach_of(largest: float) -> float:
    """The reach of a histogram that holds every number of magnitude at most `largest`."""
    return float(2.0 ** (math.frexp(largest)[1])) if largest > 0 else 2.0**-126


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram:
    """`counts`: int64 (BINS,) over [-reach, reach)."""

    reach: float
    counts: Array

    def reaching(self, reach: float) -> "Histogram":
        """The same counts in wider bins; `reach` is a larger power of two (or the same one)."""
        counts, own = self.counts, self.reach
        while own < reach:
            if own * BINS < reach:  # everything falls into the two bins beside 0
                half = BINS // 2
                counts, total = np.zeros_like(counts), counts.reshape(2, half).sum(axis=1)
                counts[half - 1 : half + 1] = total
                break
            quarter = BINS // 4
            wide = np.zeros_like(counts)
            wide[quarter : 3 * quarter] = counts.reshape(-1, 2).sum(axis=1)
            counts, own = wide, 2 * own
        return Histogram(reach=max(reach, self.reach), counts=counts)

    def joined(self, other: "Histogram") -> "Histogram":
        """The histogram of both."""
        reach = max(self.reach, other.reach)
        return Histogram(reach=reach, counts=self.reaching(reach).counts + other.reaching(reach).counts)

    @property
    def filled(self) -> tuple[Array, Array]:
        """Centres and shares (of 1) of the bins that are not empty, both float64."""
        places = np.flatnonzero(self.counts)
        centres = (places + 0.5) * (2 * self.reach / BINS) - self.reach
        return centres, self.counts[places] / max(int(self.counts.sum()), 1)

    @property
    def power(self) -> float:
        """The mean square."""
        centres, shares = self.filled
        return float((centres**2) @ shares)

    def noise(self, quantisation: Quantisation) -> float:
        """The mean square of the error, rounding and clipping, that the codes of `quantisation` make.

        Bipolar codes make none: they hold signs, which are -1 and +1 already.
        """
        if quantisation.bipolar:
            return 0.0
        centres, shares = self.filled
        dtype = quantisation.dtype
        codes = np.floor(centres / quantisation.scale + quantisation.zero_point + 0.5)
        reals = (np.clip(codes, dtype.low, dtype.high) - quantisation.zero_point) * quantisation.scale
        return float(((reals - centres) ** 2) @ shares)

    def quantile(self, share: float) -> float:
        """A bound on |x| that no more than 1 - `share` of the values exceed: the upper end of a bin."""
        magnitudes = self.counts[BINS // 2 :] + self.counts[: BINS // 2][::-1]
        place = int(np.searchsorted(np.cumsum(magnitudes), share * magnitudes.sum()))
        return min(place + 1, BINS // 2) * 2 * self.reach / BINS
