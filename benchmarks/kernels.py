"""Which kernel is the fastest for which layer of 1-bit weights, on this machine, and how do other engines compare?

    python benchmarks/kernels.py [--rounds N] [--batch N ...] [--json FILE]
    python benchmarks/kernels.py --table --batch 1 16 [--overhead] [--json FILE]

Contenders take turns within one process, each on one thread, an untimed call before each timed one unless calls are
long; a figure is that of the fastest round, the spread is the slowest round over the fastest, and a ratio comes with
the least and the greatest of a round. Every output is compared with the reference on the very tensors that are timed
before its time counts: ours integer by integer, those of other engines within a code (int8) or a rounding (floats) of
float64 for each layer.

`amx`, `vnni`, `avx2` and `portable` are programs, each one compiled call: a stem and a chain of eight layers with
their requantise steps. Other engines run chains of the same layers with other weights each, in the layout that suits
them: PyTorch (oneDNN) in float32, bfloat16 and int8, OpenVINO in int8, onnxruntime in float32 and int8. The time of a
layer is an eighth of what eight layers more add: for ours, the chain less the stem alone; for the others, nine layers
less one. So what a call costs, and bringing pixels in, is in nobody's figure. Engines that are not installed are left
out (`pip install 'bnhw[bench]'`); those that fail are named with their error.

`multiplexer`, `bit_serial` and `xnor` run single layers to 32-bit sums. `auto` marks what `bnhw.kernels.select` would
take. The share of this machine's measured peak is that of a loop which does nothing but the instruction that does the
work, on data in the first cache: tile multiplications, products of bytes (VNNI), or of int16 where layers are
transformed, four MACs each (`bnhw.kernels.fused.winograd`), sums that are looked up, six MACs each
(`bnhw.kernels.fused.tabulated`), or counts of bits, those divided by the bits of the activations. Padded taps count as
work, so on small images an engine that leaves them out may pass it.
`--table` runs the layers on which engines are compared, and only the kernels that `auto` takes unless `--choices`
names more. `--overhead` times `bnhw.machine.Machine.run` beside the bare compiled call.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from chains import Chains, Layer, all_layers, memory_bytes, overhead, table_layers
from peaks import describe_machine, measure_peaks, share_of_peak
from rich.console import Console
from rich.table import Table
from rivals import rivals
from turns import Contender, Ratio, Times, fastest, ratio_of, take_turns

from bnhw.dtypes import Array
from bnhw.kernels import reference
from bnhw.kernels.select import FUSED_CHOICES, PREPARE, choose, fused_choice, host_features, missing_for
from bnhw.kernels.types import BinaryWeights, Coding, Geometry

CHAIN_LAYERS = 8
GEOMETRY = Geometry(kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1))
BETTER_OF = ("torch int8", "openvino int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One kernel or engine on one layer: giga-MAC per second of the fastest round, and slowest over fastest.

    memory_bytes: of ours, what a thread works in with all constants. short, long: seconds of each round.
    """

    layer: str
    batch: int
    kernel: str
    gmac_per_second: float
    spread: float
    auto: bool = False
    share_of_peak: float | None = None
    memory_bytes: int | None = None
    short: Sequence[float] = ()
    long: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How many times as fast ours is as the others on one layer, by the name of the other."""

    layer: str
    batch: int
    kernel: str
    better: str | None
    over: Mapping[str, Ratio]
    machine_over_bare: Ratio | None = None


@dataclass(slots=True, kw_only=True)
class Outcome:
    """All that was measured; `left_out` has what failed, with its error."""

    figures: list[Figure] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def measure(layer: Layer, rounds: int, peaks: Mapping[str, float]) -> list[Figure]:
    """Figures of every kernel of single layers that can run `layer`; raises AssertionError if one is not exact."""
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
            batch=1,
            kernel=name,
            gmac_per_second=layer.macs / min(times) / 1e9,
            spread=max(times) / min(times),
            auto=name == chosen,
            share_of_peak=share_of_peak(layer, name, layer.macs / min(times) / 1e9, peaks),
            long=times,
        )
        for name, times in seconds.items()
    ]


def measure_chains(
    layer: Layer, batch: int, rounds: int, choices: Sequence[str], peaks: Mapping[str, float], *, with_overhead: bool
) -> Outcome:
    """Chains of `layer` under each of our choices and every rival.

    Raises AssertionError if one of ours is not exact.
    """
    chains = Chains.make(layer, CHAIN_LAYERS, batch)
    compiled = {name: chains.compiled(name) for name in choices}
    contenders: dict[str, Contender] = {name: chains.contender(made) for name, made in compiled.items()}
    others, errors = rivals(layer, CHAIN_LAYERS, batch)
    times, failed = take_turns({**contenders, **others}, rounds)
    memory = {name: memory_bytes(made[1]) for name, made in compiled.items()}
    outcome = Outcome(figures=[figure(layer, batch, name, taken, memory, peaks) for name, taken in times.items()])
    outcome.left_out += [f"{name} on {layer.name}, batch {batch}: {why}" for name, why in {**errors, **failed}.items()]
    auto = fused_choice("auto")
    ours = auto if auto in times else fastest(times, choices)
    if ours is not None:
        extra = None
        if with_overhead and ours == auto:
            pair, _ = take_turns(overhead(compiled[ours], chains), rounds)
            extra = ratio_of(pair["bare"], pair["machine"])
        outcome.comparisons.append(compare(layer, batch, ours, times, choices, extra))
    return outcome


def figure(
    layer: Layer, batch: int, name: str, taken: Times, memory: Mapping[str, int], peaks: Mapping[str, float]
) -> Figure:
    """The figure of a chain of `layer`; `memory` has the names of ours alone."""
    rate = layer.macs * batch / taken.per_layer / 1e9
    return Figure(
        layer=layer.name,
        batch=batch,
        kernel=name,
        gmac_per_second=rate,
        spread=taken.spread,
        auto=name == fused_choice("auto"),
        share_of_peak=share_of_peak(layer, name, rate, peaks) if name in memory else None,
        memory_bytes=memory.get(name),
        short=taken.short,
        long=taken.long,
    )


def compare(
    layer: Layer, batch: int, ours: str, times: Mapping[str, Times], choices: Sequence[str], extra: Ratio | None
) -> Comparison:
    """Ratios of ours to everything that is not ours."""
    return Comparison(
        layer=layer.name,
        batch=batch,
        kernel=ours,
        better=fastest(times, BETTER_OF),
        over={name: ratio_of(times[ours], other) for name, other in times.items() if name not in choices},
        machine_over_bare=extra,
    )


def figures_table(figures: Sequence[Figure]) -> Table:
    """A row for each kernel or engine on a layer."""
    heads = ("layer", "batch", "kernel", "GMAC/s", "slowest / fastest", "share of peak", "auto", "memory")
    table = Table(*heads, box=None)
    for figure in figures:
        share = "" if figure.share_of_peak is None else f"{100 * figure.share_of_peak:.0f} %"
        memory = "" if figure.memory_bytes is None else f"{figure.memory_bytes / 1e6:.1f} MB"
        rate, spread = f"{figure.gmac_per_second:.1f}", f"{figure.spread:.2f}"
        auto = "*" if figure.auto else ""
        table.add_row(figure.layer, str(figure.batch), figure.kernel, rate, spread, share, auto, memory)
    return table


def comparisons_table(outcome: Outcome) -> Table:
    """A row for each layer and batch: what is asked of it."""
    heads = ("layer", "batch", "kernel", "GMAC/s", "of peak", "x better int8", "which", "x onnxruntime int8")
    table = Table(*heads, "x onnxruntime fp32", "Machine.run / bare", box=None)
    found = {(figure.layer, figure.batch, figure.kernel): figure for figure in outcome.figures}
    for row in outcome.comparisons:
        figure = found[row.layer, row.batch, row.kernel]
        share = "" if figure.share_of_peak is None else f"{100 * figure.share_of_peak:.0f} %"
        ratios = [str(row.over.get(name or "", "")) for name in (row.better, "onnxruntime int8", "onnxruntime fp32")]
        rate = f"{figure.gmac_per_second:.0f}"
        extra = "" if row.machine_over_bare is None else f"{row.machine_over_bare}"
        cells = (rate, share, ratios[0], row.better or "", *ratios[1:], extra)
        table.add_row(row.layer, str(row.batch), row.kernel, *cells)
    return table


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="turns of each kernel")
    parser.add_argument("--table", action="store_true", help="the layers on which engines are compared")
    parser.add_argument("--channels", type=int, nargs="*", help="only layers of so many channels")
    parser.add_argument("--batch", type=int, nargs="+", default=[16], help="images of one call of a chain")
    parser.add_argument("--choices", nargs="+", choices=["auto", *FUSED_CHOICES], help="our ways to run chains")
    parser.add_argument("--overhead", action="store_true", help="time Machine.run beside the bare compiled call")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def our_choices(named: Sequence[str] | None, *, table: bool) -> list[str]:
    """Which of `FUSED_CHOICES` run: those named, with `auto` resolved, as far as this machine can run them."""
    wanted = named or (["auto"] if table else list(FUSED_CHOICES))
    resolved = [fused_choice(name) or "portable" for name in wanted]
    return [name for name in dict.fromkeys(resolved) if not missing_for(name)]


def write_json(path: Path, outcome: Outcome, peaks: Mapping[str, float]) -> None:
    """All that was measured, and where."""
    written: dict[str, Any] = {"machine": describe_machine(), "peaks_gmac_per_second": dict(peaks)}
    written["peak_memory_bytes_with_rivals"] = process_memory_bytes()
    path.write_text(json.dumps({**written, **asdict(outcome)}, indent=2) + "\n")


def process_memory_bytes() -> int:
    """The most that this process has held, rivals and compiler included; Linux."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure, print tables, and write JSON if asked to."""
    options = parse()
    console = Console(width=180)
    peaks = measure_peaks()
    console.print("measured peaks, GMAC/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in peaks.items() if rate))
    choices = our_choices(options.choices, table=options.table)
    outcome = Outcome()
    for layer in table_layers() if options.table else all_layers():
        if options.channels and layer.channels not in options.channels:
            continue
        if not options.table:
            outcome.figures += measure(layer, options.rounds, peaks)
        for batch in options.batch:
            found = measure_chains(layer, batch, options.rounds, choices, peaks, with_overhead=options.overhead)
            outcome.figures += found.figures
            outcome.comparisons += found.comparisons
            outcome.left_out += found.left_out
            if options.json is not None:  # also of a run that is stopped
                write_json(options.json, outcome, peaks)
    console.print(figures_table(outcome.figures))
    console.print(comparisons_table(outcome))
    for line in outcome.left_out:
        console.print(f"left out: {line}", soft_wrap=True)
    console.print(f"peak memory of this process, other engines included: {process_memory_bytes() / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
