"""Means, deviations and the one-sided paired t-test of paper 3 (section 4.3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGNIFICANT = 0.05
"""p below which a result is significantly better than the base (paper 3, section 4.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Mean and sample standard deviation (n - 1) of n runs; p_value against the base, None where there is none.

    deviation is None for a single run.
    """

    runs: int
    mean: float
    deviation: float | None
    p_value: float | None

    @property
    def better(self) -> bool:
        """Whether the runs are significantly better than the base's."""
        return self.p_value is not None and self.p_value < SIGNIFICANT

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread}"


def summarise(
    scores: Sequence[float], base: Sequence[float] | None = None, *, higher_is_better: bool = True
) -> Summary:
    """Summary of the scores of seeds 1 to n; `base` holds the base's scores for the same seeds, in the same order.

    Raises ValueError for no scores or bases of another number.
    """
    if not scores or (base is not None and len(base) != len(scores)):
        raise ValueError(f"{len(scores)} scores, {None if base is None else len(base)} of the base: as many are needed")
    deviation = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    p_value = None
    if base is not None and len(scores) > 1:
        better, worse = (scores, base) if higher_is_better else (base, scores)
        p_value = compare_pairs(better, worse)
    return Summary(runs=len(scores), mean=float(np.mean(scores)), deviation=deviation, p_value=p_value)


def compare_pairs(first: Sequence[float], second: Sequence[float]) -> float:
    """p of the one-sided paired t-test that the mean of `first` is not above that of `second`.

    Where all differences are equal their variance is 0: then p is 0 for a positive difference, 1 for any other.
    """
    from scipy.stats import ttest_rel  # noqa: PLC0415 - a second to import, needed here alone

    differences = np.subtract(first, second)
    if np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(differences).max())):
        return 0.0 if differences[0] > 1e-12 else 1.0
    p_value = float(ttest_rel(first, second, alternative="greater").pvalue)
    return p_value if math.isfinite(p_value) else 1.0
