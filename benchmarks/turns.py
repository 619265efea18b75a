"""Contenders that take turns within one process, and what their times say."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SHORTEST = 1e-9
"""Seconds; a difference of times below this is noise."""
LONG = 0.25
"""Seconds; a call that takes as long is not repeated to warm caches, it does that itself within its first hundredth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """The same layers in a short and in a long chain, `layers` more of them; calls take nothing."""

    short: Callable[[], Any]
    long: Callable[[], Any]
    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of every round of the short and the long chain, which is `layers` longer."""

    layers: int
    short: list[float] = field(default_factory=list)
    long: list[float] = field(default_factory=list)

    @property
    def per_layer(self) -> float:
        """Seconds of one layer: the fastest long chain less the fastest short one. What a call costs is in neither."""
        return max(SHORTEST, min(self.long) - min(self.short)) / self.layers

    @property
    def of_rounds(self) -> list[float]:
        """Seconds of one layer in each round."""
        return [max(SHORTEST, b - a) / self.layers for a, b in zip(self.short, self.long, strict=True)]

    @property
    def spread(self) -> float:
        """The slowest round of the long chain over the fastest."""
        return max(self.long) / min(self.long)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as fast one is as another: by the fastest rounds, and the least and greatest of a round."""

    ratio: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.least:.2f} to {self.greatest:.2f})"


def ratio_of(ours: Times, other: Times) -> Ratio:
    """The other's time over ours. Rounds are compared with each other: they follow one another within a second."""
    rounds = ratio_of_calls(ours.of_rounds, other.of_rounds)
    return Ratio(ratio=other.per_layer / ours.per_layer, least=rounds.least, greatest=rounds.greatest)


def ratio_of_calls(ours: Sequence[float], other: Sequence[float]) -> Ratio:
    """The same of plain seconds, one a round."""
    rounds = [b / a for a, b in zip(ours, other, strict=True)]
    return Ratio(ratio=min(other) / min(ours), least=min(rounds), greatest=max(rounds))


def timed(call: Callable[[], Any], *, warm: bool = True) -> float:
    """Seconds of a call, right after one that warms its caches if `warm`."""
    if warm:
        call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(contenders: Mapping[str, Contender], rounds: int) -> tuple[dict[str, Times], dict[str, str]]:
    """The times of every contender, a round robin, and the errors of those that failed.

    Each timed call follows an untimed one, but for long chains that took `LONG` in the round before.
    """
    times = {name: Times(layers=contender.layers) for name, contender in contenders.items()}
    errors: dict[str, str] = {}
    for _ in range(rounds):
        for name, contender in contenders.items():
            if name in errors:
                continue
            try:
                warm = not times[name].long or times[name].long[-1] < LONG
                short, long = timed(contender.short), timed(contender.long, warm=warm)
            except Exception as error:  # whatever a rival raises; ours were compared with the reference before
                errors[name] = one_line(error)
                continue
            times[name].short.append(short)
            times[name].long.append(long)
    return {name: times[name] for name in contenders if name not in errors}, errors


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def fastest(times: Mapping[str, Times], names: Sequence[str]) -> str | None:
    """Which of `names` takes the least time, or None where none was timed."""
    return min((name for name in names if name in times), key=lambda name: times[name].per_layer, default=None)
