"""Learning-rate schedules and gradient clipping of the four papers, as frozen values.

A schedule gives the learning rate after the part `progress` of the training, 0 at the first batch and 1 after the
last, so that a training of fewer epochs than the paper's runs through the same curve. Paper numbers as in
`bnhw.export.recipes`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from bnhw.errors import BadInput


class Schedule(Protocol):
    """A learning rate over the course of a training."""

    @property
    def peak(self) -> float:
        """The highest learning rate of the curve, which the papers name."""

    def rate(self, progress: float) -> float:
        """Learning rate after the part `progress` (0 to 1) of the training."""

    def with_peak(self, peak: float) -> Self:
        """The same curve with another highest learning rate. Raises `BadInput` unless it is above 0."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One learning rate throughout (paper 4, section 3.2)."""

    peak: float

    def __post_init__(self) -> None:
        _require("peak", self.peak > 0, self.peak, "above 0")

    def rate(self, progress: float) -> float:
        """`peak`."""
        return self.peak

    def with_peak(self, peak: float) -> Self:
        """The same curve with another rate."""
        return replace(self, peak=peak)


@dataclass(frozen=True, slots=True)
class Cosine:
    """Half a cosine from `peak` to `last` (paper 1, section III-A; paper 3, section 4.2 with `last` 0)."""

    peak: float
    last: float = 0.0

    def __post_init__(self) -> None:
        _require("peak", self.peak > 0, self.peak, "above 0")
        _require("last", 0 <= self.last <= self.peak, self.last, f"from 0 to the peak {self.peak}")

    def rate(self, progress: float) -> float:
        """last + (peak - last) (1 + cos(pi progress)) / 2."""
        return self.last + (self.peak - self.last) * (1 + math.cos(math.pi * progress)) / 2

    def with_peak(self, peak: float) -> Self:
        """The same curve: `last` keeps its ratio to the peak."""
        return replace(self, peak=peak, last=self.last * peak / self.peak)


@dataclass(frozen=True, slots=True)
class Drops:
    """`peak`, multiplied by `factor` at each of the parts `drops` of the training.

    The "conventional monotonically decreasing" schedule of paper 2, section 3. The paper names no numbers; the defaults
    are those of He et al. and Goyal et al. for the 90 epochs it trains: a tenth after epochs 30 and 60.
    """

    peak: float
    factor: float = 0.1
    drops: tuple[float, ...] = (1 / 3, 2 / 3)

    def __post_init__(self) -> None:
        _require("peak", self.peak > 0, self.peak, "above 0")
        _require("factor", 0 < self.factor < 1, self.factor, "between 0 and 1")
        ordered = all(a < b for a, b in zip((0.0, *self.drops), (*self.drops, 1.0), strict=True))
        _require("drops", ordered, self.drops, "rising parts between 0 and 1")

    def rate(self, progress: float) -> float:
        """`peak` times `factor` to the number of drops passed."""
        return self.peak * self.factor ** sum(progress >= drop for drop in self.drops)

    def with_peak(self, peak: float) -> Self:
        """The same curve with another first rate."""
        return replace(self, peak=peak)


@dataclass(frozen=True, slots=True)
class ConstantThen:
    """The peak for the first `part` of the training, then the whole curve of `then`.

    The "step decrease" of paper 2 (footnote 6): a constant learning rate for a given number of initial epochs, and
    standard decay afterwards. The paper does not give the number.
    """

    part: float
    then: Schedule

    def __post_init__(self) -> None:
        _require("part", 0 <= self.part < 1, self.part, "from 0, below 1")

    @property
    def peak(self) -> float:
        """That of `then`."""
        return self.then.peak

    def rate(self, progress: float) -> float:
        """The peak, then `then` on the time that is left."""
        if progress < self.part:
            return self.peak
        return self.then.rate((progress - self.part) / (1 - self.part))

    def with_peak(self, peak: float) -> Self:
        """The same curve with another peak."""
        return replace(self, then=self.then.with_peak(peak))


@dataclass(frozen=True, slots=True)
class WarmUp:
    """From `start` times the first rate of `then` straight up to it in the first `part`, then `then`.

    The gradual warm-up of Goyal et al. ("Accurate, Large Minibatch SGD", section 2.2: five epochs, a rise at every
    batch), which paper 2 uses (footnote 5, figure 9). The curve of `then` counts from the start of the training, as in
    Goyal et al.: the warm-up takes the place of its beginning.
    """

    part: float
    start: float
    then: Schedule

    def __post_init__(self) -> None:
        _require("part", 0 < self.part < 1, self.part, "between 0 and 1")
        _require("start", 0 <= self.start <= 1, self.start, "from 0 to 1")

    @property
    def peak(self) -> float:
        """That of `then`."""
        return self.then.peak

    def rate(self, progress: float) -> float:
        """The straight line, then `then`."""
        if progress >= self.part:
            return self.then.rate(progress)
        return self.then.rate(0.0) * (self.start + (1 - self.start) * progress / self.part)

    def with_peak(self, peak: float) -> Self:
        """The same curve with another peak."""
        return replace(self, then=self.then.with_peak(peak))


@dataclass(frozen=True, slots=True)
class Triangles:
    """`cycles` times straight from `lowest` up to `peak` and down again (paper 2, section 4, after Smith)."""

    lowest: float
    peak: float
    cycles: int

    def __post_init__(self) -> None:
        _require("peak", self.peak > 0, self.peak, "above 0")
        _require("lowest", 0 <= self.lowest <= self.peak, self.lowest, f"from 0 to the peak {self.peak}")
        _require("cycles", self.cycles >= 1, self.cycles, "at least 1")

    def rate(self, progress: float) -> float:
        """`lowest` at both ends of every cycle, `peak` in its middle."""
        phase = progress * self.cycles % 1.0
        return self.lowest + (self.peak - self.lowest) * (1 - abs(2 * phase - 1))

    def with_peak(self, peak: float) -> Self:
        """The same curve: `lowest` keeps its ratio to the peak."""
        return replace(self, peak=peak, lowest=self.lowest * peak / self.peak)


class Clipping(Protocol):
    """The largest norm that the gradient of all parameters together may have."""

    def threshold(self, epoch: int) -> float:
        """Largest norm in `epoch`, counted from 0."""


@dataclass(frozen=True, slots=True)
class ConstantClipping:
    """One threshold throughout (paper 2, table 1)."""

    start: float = 5.0

    def __post_init__(self) -> None:
        _require("start", self.start > 0, self.start, "above 0")

    def threshold(self, epoch: int) -> float:
        """`start`."""
        return self.start


@dataclass(frozen=True, slots=True)
class LogarithmicClipping:
    """A threshold that grows with the logarithm of the epoch: start (1 + ln(1 + epoch)).

    Paper 2 (section 4) says that the threshold "has been increased in a logarithmic manner" every epoch from 5, and
    gives no formula. This one starts at `start`, and `start` only sets the unit: the thresholds from 1, 5 and 10 that
    the paper tries (table 3) stay in these ratios, where start + ln(1 + epoch) would make them alike. From 5 it
    reaches 27.4 in the last of 90 epochs.
    """

    start: float = 5.0

    def __post_init__(self) -> None:
        _require("start", self.start > 0, self.start, "above 0")

    def threshold(self, epoch: int) -> float:
        """start (1 + ln(1 + epoch))."""
        return self.start * (1 + math.log1p(epoch))


def clip_gradients(parameters: Iterable[Tensor], clipping: Clipping, epoch: int) -> Tensor:
    """Scale all gradients together so that their norm is at most the threshold; returns the norm before, shape ()."""
    return torch.nn.utils.clip_grad_norm_(parameters, clipping.threshold(epoch))


def _require(name: str, holds: bool, found: object, wish: str) -> None:
    if not holds:
        raise BadInput(f"{name} is {found}, expected {wish}")
