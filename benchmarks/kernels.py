"""Which kernel is the fastest for which layer of 1-bit weights, on this machine?

    python benchmarks/kernels.py [--rounds N] [--json FILE]

Every kernel's output is compared with the reference on the very tensors that are timed before its time counts.
Kernels take turns within one process, each on one thread; a figure is that of the fastest round, the spread is the
slowest round over the fastest. `auto` marks the kernel that `bnhw.kernels.select` would take.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bnhw.dtypes import Array
from bnhw.kernels import reference
from bnhw.kernels.select import PREPARE, choose, host_features
from bnhw.kernels.types import BinaryWeights, Coding, Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A 3x3 convolution with as many output as input channels on size x size pixels."""

    channels: int
    size: int
    bits: int
    bipolar: bool = False

    @property
    def name(self) -> str:
        """Channels @ size, and what the activations are."""
        return f"{self.channels}@{self.size} {'bipolar' if self.bipolar else f'{self.bits}-bit'}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, padded taps included."""
        return 9 * self.channels**2 * self.size**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One kernel on one layer: giga-MAC per second of the fastest round, and slowest over fastest."""

    layer: str
    kernel: str
    gmac_per_second: float
    spread: float
    auto: bool


SIZES = ((3, 32), (16, 32), (64, 32), (160, 32), (320, 16), (640, 8))
BITS = (8, 4, 2)
GEOMETRY = Geometry(kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1))


def layers() -> list[Layer]:
    """Every size with k-bit and with bipolar activations."""
    sized = [Layer(channels=c, size=s, bits=b) for c, s in SIZES for b in BITS]
    return sized + [Layer(channels=c, size=s, bits=1, bipolar=True) for c, s in SIZES]


def measure(layer: Layer, rounds: int) -> list[Figure]:
    """Figures of every kernel that can run `layer`; raises AssertionError if one is not exact."""
    random = np.random.default_rng(0)
    shape = (layer.channels, 3, 3, layer.channels)
    weights = BinaryWeights.from_signs(random.choice(np.array([-1, 1], np.int8), shape))
    coding = Coding(bits=layer.bits, signed=False, zero_point=0, bipolar=layer.bipolar)
    codes = random.integers(0, coding.high + 1, (1, layer.size, layer.size, layer.channels)).astype(np.int32)
    expected = reference.convolution(codes, weights.integers(), GEOMETRY, coding)
    names = ["multiplexer", "xnor" if layer.bipolar else "bit_serial"]
    kernels: dict[str, Callable[[Array], Array]] = {name: PREPARE[name](weights, GEOMETRY, coding) for name in names}
    for name, kernel in kernels.items():
        assert np.array_equal(kernel(codes), expected), f"{name} is not exact on {layer.name}"
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, kernel in kernels.items():
            start = time.perf_counter()
            kernel(codes)
            seconds[name].append(time.perf_counter() - start)
    chosen = choose("auto", "binary", coding, host_features(), layer.channels)
    return [
        Figure(
            layer=layer.name,
            kernel=name,
            gmac_per_second=layer.macs / min(times) / 1e9,
            spread=max(times) / min(times),
            auto=name == chosen,
        )
        for name, times in seconds.items()
    ]


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="turns of each kernel")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = [figure for layer in layers() for figure in measure(layer, options.rounds)]
    table = Table("layer", "kernel", "GMAC/s", "slowest / fastest", "auto", box=None)
    for figure in figures:
        auto = "*" if figure.auto else ""
        table.add_row(figure.layer, figure.kernel, f"{figure.gmac_per_second:.1f}", f"{figure.spread:.2f}", auto)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
