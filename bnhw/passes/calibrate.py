"""What calibration images show: the float graph runs on them under onnxruntime, batch by batch.

Kept are the range and a histogram of each group of quantise points, and three moments of each channel of each
point, so memory does not grow with the number of images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import PassFailed
from bnhw.graph import Graph, Node
from bnhw.graph_onnx import GraphRunner
from bnhw.kernels.statistics import Statistics, observe
from bnhw.ops import Add, ChannelPad, Clamp, MaxPool, QuantisePoint
from bnhw.passes.histogram import BINS, Histogram, reach_of

BATCH = 8
"""Images run at once: enough for onnxruntime's full speed; a wide network's values stay near 100 MB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """The smallest and largest real value of a group, and the histogram of all."""

    low: float
    high: float
    histogram: Histogram

    def joined(self, other: "Observed") -> "Observed":
        """What was seen in both."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Observed(low=low, high=high, histogram=self.histogram.joined(other.histogram))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Of the values of a point that no clamp in front of it has cut, a channel: float64 (channels,).

    share: how many of all values these are. mean, variance: theirs (0 where there are none).
    """

    share: Array
    mean: Array
    variance: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """By group what was observed, by the name of a point its moments."""

    groups: Mapping[int, Observed]
    points: Mapping[str, Moments]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    group: int
    floor: float
    ceiling: float
    is_point: bool


class _Channels:
    """Running sums of one point."""

    def __init__(self, channels: int) -> None:
        self.seen = 0
        self.sums = np.zeros((3, channels))

    def add(self, statistics: Statistics, seen: int) -> None:
        self.seen += seen
        self.sums += (statistics.counts, statistics.sums, statistics.squares)

    def moments(self) -> Moments:
        counts, sums, squares = self.sums
        safe = np.maximum(counts, 1)
        mean = sums / safe
        return Moments(share=counts / max(self.seen, 1), mean=mean, variance=np.maximum(squares / safe - mean**2, 0.0))


def calibrate(graph: Graph, images: Array, progress: Callable[[int], None] | None = None) -> Calibration:
    """Run `images` (float32, (images, channels, height, width)) and return what every group and point held.

    `progress` is called with the number of images done. Raises PassFailed if a value is not finite.
    """
    watched = _watched_values(graph)
    groups: dict[int, Observed] = {}
    channels: dict[str, _Channels] = {}
    runner = GraphRunner(graph, watched)
    for start in range(0, len(images), BATCH):
        for name, value in runner.run(images[start : start + BATCH]).items():
            _observe(watched[name], name, value, groups, channels)
        if progress is not None:
            progress(min(start + BATCH, len(images)))
    return Calibration(groups=groups, points={name: sums.moments() for name, sums in channels.items()})


def _observe(
    watched: _Watched, name: str, value: Array, groups: dict[int, Observed], channels: dict[str, _Channels]
) -> None:
    low, high = float(value.min()), float(value.max())
    if not np.isfinite((low, high)).all():
        raise PassFailed(
            f"value {name!r} is not finite on the calibration images; check the weights and the image scale"
        )
    reach = reach_of(max(-low, high))
    statistics = observe(value, -reach, reach, BINS, watched.floor, watched.ceiling)
    seen = Observed(low=low, high=high, histogram=Histogram(reach=reach, counts=statistics.histogram))
    groups[watched.group] = groups[watched.group].joined(seen) if watched.group in groups else seen
    if watched.is_point:
        sums = channels.setdefault(name, _Channels(value.shape[1]))
        sums.add(statistics, value.size // value.shape[1])


def _watched_values(graph: Graph) -> Mapping[str, _Watched]:
    """Every value that a group's scale must hold: what its points read, and the sums of its residual adds."""
    watched: dict[str, _Watched] = {}
    groups: dict[str, int] = {}
    for node in graph.nodes:
        match node.attributes:
            case QuantisePoint(group=group):
                groups[node.output] = group
                floor, ceiling = _bounds(graph, node)
                watched[node.output] = _Watched(group=group, floor=floor, ceiling=ceiling, is_point=True)
            case Add() | ChannelPad() | MaxPool():
                inherited = next((groups[name] for name in node.inputs if name in groups), None)
                if inherited is not None:
                    groups[node.output] = inherited
                    if isinstance(node.attributes, Add):
                        watched[node.output] = _Watched(group=inherited, floor=-np.inf, ceiling=np.inf, is_point=False)
    return watched


def _bounds(graph: Graph, node: Node) -> tuple[float, float]:
    """Where the values of a point are cut by a clamp in front of it, also through a max pool."""
    source = graph.producers.get(node.inputs[0])
    while source is not None and isinstance(source.attributes, MaxPool):
        source = graph.producers.get(source.inputs[0])
    match source and source.attributes:
        case Clamp(low=low, high=high):
            return low, high
    return -np.inf, np.inf
