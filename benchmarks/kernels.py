"""Which kernel is the fastest for which layer of 1-bit weights, on this machine?

    python benchmarks/kernels.py [--rounds N] [--json FILE]

Every kernel's output is compared with the reference on the very tensors that are timed before its time counts. Kernels
take turns within one process, each on one thread; a figure is that of the fastest round, the spread is the slowest
round over the fastest. `auto` marks the kernel that `bnhw.kernels.select` would take. The kernels of single
instructions give 32-bit sums; `amx`, `vnni`, `avx2` and `portable` run a chain of eight such layers with their
requantise steps as one compiled program on 16 images, and their figure is that of one layer of it. The share of this
machine's measured peak is that of a loop which does nothing but the instruction that does the work, on data in the
first cache: tile multiplications, products of bytes (VNNI), or counts of bits, those divided by the bits of the
activations. Rivals run the same chain: PyTorch (oneDNN) in float32, bfloat16 and int8, where it is installed.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bnhw.dtypes import Array, IntegerType
from bnhw.fused import FusedProgram
from bnhw.kernels import reference
from bnhw.kernels.packing import WORD_BITS, count_words, pack_bits
from bnhw.kernels.permission import tile_configuration
from bnhw.kernels.select import FUSED_CHOICES, PREPARE, choose, counted_planes, fused_choice, host_features, missing_for
from bnhw.kernels.types import BinaryWeights, Coding, Geometry
from bnhw.machine import Machine
from bnhw.ops import Window
from bnhw.options import RequantiseMode
from bnhw.plan_memory import aligned_bytes
from bnhw.program import Convolve, Instruction, Program, Provenance, Requantise, SumGlobal, Tensor


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
    def lanes_per_channel(self) -> float:
        """Bits of whole words over channels."""
        return count_words(self.channels) * WORD_BITS / self.channels

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
    share_of_peak: float | None = None


SIZES = ((3, 32), (16, 32), (64, 32), (160, 32), (320, 16), (640, 8))
BITS = (8, 4, 2)
GEOMETRY = Geometry(kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1))


def layers() -> list[Layer]:
    """Every size with k-bit and with bipolar activations."""
    sized = [Layer(channels=c, size=s, bits=b) for c, s in SIZES for b in BITS]
    return sized + [Layer(channels=c, size=s, bits=1, bipolar=True) for c, s in SIZES]


def measure(layer: Layer, rounds: int, peaks: Mapping[str, float]) -> list[Figure]:
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
    whole = fused_choice("auto")
    chosen = "" if whole else choose("auto", "binary", coding, host_features(), layer.channels)
    return [
        Figure(
            layer=layer.name,
            kernel=name,
            gmac_per_second=layer.macs / min(times) / 1e9,
            spread=max(times) / min(times),
            auto=name == chosen,
            share_of_peak=share_of_peak(layer, name, layer.macs / min(times) / 1e9, peaks),
        )
        for name, times in seconds.items()
    ]


CHAIN_LAYERS = 8
BATCH = 16


def measure_rivals(layer: Layer, rounds: int) -> list[Figure]:
    """Figures of the rivals that are installed, each checked by `rivals.torch_chains`."""
    if find_spec("torch") is None:
        return []
    from rivals import torch_chains  # noqa: PLC0415  (optional)

    chains = torch_chains(layer.channels, layer.size, CHAIN_LAYERS, BATCH)
    seconds: dict[str, list[float]] = {name: [] for name in chains}
    for _ in range(rounds):
        for name, run in chains.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    macs = layer.macs * CHAIN_LAYERS * BATCH
    return [
        Figure(
            layer=layer.name,
            kernel=name,
            gmac_per_second=macs / min(times) / 1e9,
            spread=max(times) / min(times),
            auto=False,
        )
        for name, times in seconds.items()
    ]


def chain(layer: Layer, length: int) -> Program:
    """A stem from 3 channels and `length` layers, each requantised to the layer's codes."""
    random = np.random.default_rng(0)
    bits = IntegerType(bits=layer.bits, signed=False)
    shape = (layer.size, layer.size, layer.channels)
    instructions: list[Instruction] = []
    tensors = [Tensor(name="image", shape=(*shape[:2], 3), dtype=IntegerType(bits=8, signed=False), scale=1.0)]
    constants: dict[str, Array] = {"shift": np.full((1, 1), 8 + layer.channels.bit_length() // 2 - layer.bits)}
    constants["offset"] = np.full((1, 1), 1 << 7)
    for number in range(length + 1):
        source, sums, codes = tensors[-1], f"sums{number}", f"codes{number}"
        weight_shape = (layer.channels, 3, 3, source.shape[2])
        constants[f"weights{number}"] = pack_bits(random.integers(0, 2, weight_shape).astype(bool).reshape(-1))
        window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
        limit = int(np.prod(weight_shape[1:])) * source.dtype.high
        instructions.append(
            Convolve(
                inputs=(source.name,),
                output=sums,
                weights=f"weights{number}",
                weight_bits=1,
                weight_shape=weight_shape,
                window=window,
            )
        )
        instructions.append(
            Requantise(
                inputs=(sums,),
                output=codes,
                mode=RequantiseMode.SHIFT,
                multiplier="",
                offset="offset",
                shift="shift",
                position_classes="",
                multiplier_bits=2,
                digits=0,
                low=0,
                high=bits.high,
            )
        )
        tensors.append(Tensor(name=sums, shape=shape, dtype=IntegerType.containing(-limit, limit), scale=1.0))
        tensors.append(Tensor(name=codes, shape=shape, dtype=bits, scale=1.0, bipolar=layer.bipolar))
    total = IntegerType(bits=8 + layer.bits + layer.channels.bit_length() + 2 * layer.size.bit_length(), signed=True)
    instructions.append(SumGlobal(inputs=(codes,), output="logits"))
    tensors.append(Tensor(name="logits", shape=(1, 1, layer.channels), dtype=total, scale=1.0))
    return Program(
        name=layer.name,
        instructions=tuple(instructions),
        tensors=tuple(tensors),
        constants=constants,
        input="image",
        output="logits",
        provenance=Provenance(producer="benchmark", source_name="", source_sha256="0" * 64, options={}),
    )


def measure_chain(layer: Layer, rounds: int, peaks: Mapping[str, float]) -> list[Figure]:
    """Figures of whole programs on every way to run them; raises AssertionError if one is not exact."""
    images = np.random.default_rng(1).integers(0, 256, (BATCH, layer.size, layer.size, 3)).astype(np.uint8)
    programs = [chain(layer, length) for length in (0, CHAIN_LAYERS)]
    expected = Machine(programs[0], "reference").run(images[:1]).logits
    figures = []
    for name in FUSED_CHOICES:
        if missing_for(name):
            continue
        stem, whole = (FusedProgram(program, name) for program in programs)
        assert np.array_equal(stem.run(images[:1])[0], expected), f"{name} is not exact on {layer.name}"
        first = Machine(programs[1], "bit_serial").run(images[:1]).logits
        assert np.array_equal(whole.run(images)[0][:1], first), f"{name} is not exact on a chain of {layer.name}"
        seconds: dict[FusedProgram, list[float]] = {stem: [], whole: []}
        for _ in range(rounds):
            for program, times in seconds.items():
                start = time.perf_counter()
                program.run(images)
                times.append(time.perf_counter() - start)
        per_layer = (min(seconds[whole]) - min(seconds[stem])) / CHAIN_LAYERS / BATCH
        rate = layer.macs / per_layer / 1e9
        figures.append(
            Figure(
                layer=layer.name,
                kernel=name,
                gmac_per_second=rate,
                spread=max(seconds[whole]) / min(seconds[whole]),
                auto=name == fused_choice("auto"),
                share_of_peak=share_of_peak(layer, name, rate, peaks),
            )
        )
    return figures


def measure_peaks(seconds: float = 0.5) -> Mapping[str, float]:
    """Giga-MAC per second of an instruction on data in the first cache: "amx", "vnni", and "words", counting one plane.

    Of those that the machine has; 0 for others.
    """
    from bnhw.kernels.fused import peak  # noqa: PLC0415  (slow to import)

    memory = aligned_bytes(1 << 14)
    data, tiles = memory.ctypes.data, tile_configuration()
    steps = 200_000
    loops: dict[str, tuple[int, Callable[[], None]]] = {
        "words": (peak.COUNTED_BITS, lambda: peak.count_repeatedly(data, steps)),
    }
    if not missing_for("vnni"):
        loops["vnni"] = (peak.MULTIPLIED_BYTES, lambda: peak.dot_repeatedly(data, steps))
    if not missing_for("amx"):
        loops["amx"] = (4 * 16 * 16 * 64, lambda: peak.multiply_repeatedly(tiles.ctypes.data, data, steps))
    peaks = {"amx": 0.0, "vnni": 0.0}
    for name, (macs, loop) in loops.items():
        loop()  # compiled now
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            loop()
            best = min(best, time.perf_counter() - start)
        peaks[name] = macs * steps / best / 1e9
    return peaks


def share_of_peak(layer: Layer, kernel: str, rate: float, peaks: Mapping[str, float]) -> float | None:
    """The rate over that of the instruction which does the work, or None where that is not measured."""
    if kernel in {"xnor", "bit_serial"}:
        return rate * layer.bits / peaks["words"]
    if kernel in FUSED_CHOICES and layer.bits * layer.lanes_per_channel <= counted_planes(kernel):
        return rate * layer.bits / peaks["words"]
    return rate / peaks[kernel] if peaks.get(kernel) else None


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="turns of each kernel")
    parser.add_argument("--channels", type=int, nargs="*", help="only layers of so many channels")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    peaks = measure_peaks()
    chosen = [layer for layer in layers() if not options.channels or layer.channels in options.channels]
    figures = []
    for layer in chosen:
        figures += measure_rivals(layer, options.rounds)
        figures += measure(layer, options.rounds, peaks)
        figures += measure_chain(layer, options.rounds, peaks)
    table = Table("layer", "kernel", "GMAC/s", "slowest / fastest", "share of peak", "auto", box=None)
    for figure in figures:
        auto = "*" if figure.auto else ""
        share = "" if figure.share_of_peak is None else f"{100 * figure.share_of_peak:.0f} %"
        table.add_row(figure.layer, figure.kernel, f"{figure.gmac_per_second:.1f}", f"{figure.spread:.2f}", share, auto)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
