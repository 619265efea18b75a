"""How far a program is from its float model, tensor by tensor: noise, clipping, saturation.

The reference is the float graph behind the float passes, whose values have the names of the program's tensors, with
weights as the model has them: rounding to k bits counts as noise. It runs under onnxruntime, batch by batch, so that
memory does not grow with the number of images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput, InvalidProgram
from bnhw.graph import Graph
from bnhw.graph_onnx import GraphRunner
from bnhw.importer import Source, import_onnx
from bnhw.machine import Machine, fit_images
from bnhw.ops import AveragePool, pool_divisors
from bnhw.options import CompileOptions, options_from_text
from bnhw.passes.base import Pass, run_passes
from bnhw.passes.pipeline import float_passes, normalise_input
from bnhw.passes.weight_scales import ExtractWeightScales
from bnhw.program import LookUp, Program, Requantise, Tensor, Threshold
from bnhw.verify import check_graph

BATCH = 4
"""Images compared at once; all values of a wide network take about 50 MB an image."""

CLEAN_DB = 40.0
"""Signal-to-noise ratios above this count as this: what lies above is as good as exact."""

DROP_DB = 6.0
"""A layer that adds so much noise to its inputs' (four times their power) has dropped."""

CODERS = (LookUp, Requantise, Threshold)
"""The instructions that choose codes; others pass on what was clipped before them."""

MOST_CLIPPED = 0.001
"""A larger share of clipped values on the calibration images is worth a note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFidelity:
    """One tensor of the program against the float value of the same name.

    signal_to_noise_db: power of the float values over that of the difference, infinite where there is none.
    drop_db: by how much it lies below the worst ratio of the tensors read, all ratios limited to `CLEAN_DB`; an image
    is exact. values: how many were compared. clipped: how many got the lowest or highest code of their type while the
    float value lies more than half a code beyond it, which an activation's own clamp never causes. saturated: how many
    sums of a residual addition were clamped.
    """

    name: str
    kind: str
    source: str
    signal_to_noise_db: float
    drop_db: float
    values: int
    clipped: int
    saturated: int

    @property
    def clipped_share(self) -> float:
        """Clipped values and saturated sums as a share of all."""
        return (self.clipped + self.saturated) / self.values


def reference_graph(source: Source, program: Program) -> Graph:
    """The float graph of a model, with the options that `program` was compiled with and unrounded weights.

    Raises UnsupportedModel or PassFailed where the model cannot be compiled at all, BadInput where the options do not
    fit it, InvalidProgram where the program's options cannot be read.
    """
    options = compile_options(program)
    try:
        graph = normalise_input(import_onnx(source.model, name=source.name), options)
    except ValueError as error:
        raise BadInput(f"{source.name} is not the model that the program was compiled from: {error}") from error
    return run_passes(graph, tuple(_unrounded(one) for one in float_passes(options)))


def _unrounded(one: Pass) -> Pass:
    return replace(one, rounded=False) if isinstance(one, ExtractWeightScales) else one


def compile_options(program: Program) -> CompileOptions:
    """The options that a program was compiled with, defaults where it names none.

    Raises InvalidProgram where they cannot be read.
    """
    try:
        return options_from_text(program.provenance.options)
    except (ValueError, BadInput) as error:
        raise InvalidProgram(f"the program's own options cannot be read ({error}); compile it again") from error


def digest_warning(source: Source, program: Program) -> str | None:
    """A sentence where the model is not, byte for byte, the one that the program was compiled from."""
    compiled = program.provenance.source_sha256
    if source.sha256 == compiled:
        return None
    return (
        f"{source.name}: not the file that the program was compiled from (sha256 {source.sha256[:12]}..., compiled "
        f"from {compiled[:12]}...); the comparison holds for the same network only"
    )


def measure_layers(
    program: Program,
    graph: Graph,
    images: Array,
    *,
    kernels: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> tuple[LayerFidelity, ...]:
    """Compare every tensor that an instruction makes with the float graph, in order.

    graph: as `reference_graph` returns it, or the graph behind the float passes. images: as `Machine.run` takes them.
    progress: called with the number of images done. Raises BadInput where images or graph do not fit the program.
    """
    batch = fit_images(program, images)
    names = _reference_names(program, graph)
    runner = GraphRunner(graph, names.values())
    machine = Machine(program, kernels)
    divisors = _uneven_divisors(graph)
    sums = {name: np.zeros(5) for name in names}
    for start in range(0, len(batch), BATCH):
        part = batch[start : start + BATCH]
        values = runner.run(part.transpose(0, 3, 1, 2).astype(np.float32))
        for step in machine.steps(part):
            name = step.instruction.output
            exact = values[names[name]].astype(np.float64) * divisors.get(name, 1)
            signal, noise, size, clipped = compare_codes(program.tensor[name], step.value, exact.transpose(0, 2, 3, 1))
            chosen = clipped if isinstance(step.instruction, CODERS) else 0
            sums[name] += (signal, noise, size, chosen, step.saturations)
        if progress is not None:
            progress(start + len(part))
    return _layers(program, sums)


def _reference_names(program: Program, graph: Graph) -> Mapping[str, str]:
    """The float value of each tensor; the output's scale holds the factors behind it, so it is the graph's output."""
    names = {instruction.output: instruction.output for instruction in program.instructions}
    (names[program.output],) = graph.outputs
    shapes = check_graph(graph)
    for tensor, value in names.items():
        height, width, channels = program.tensor[tensor].shape
        if shapes.get(value) != (channels, height, width):
            found = f"of shape {shapes[value]}" if value in shapes else "missing"
            raise BadInput(
                f"{graph.name} is not the model that the program was compiled from: the value {value!r} of shape "
                f"{(channels, height, width)} is {found}; give that model, or compile this one"
            )
    return names


def _uneven_divisors(graph: Graph) -> Mapping[str, Array]:
    """The divisors (rows, columns) of pools where they differ: such a tensor holds the real sums."""
    shapes = check_graph(graph)
    found: dict[str, Array] = {}
    for node in graph.nodes:
        if isinstance(node.attributes, AveragePool):
            pool = node.attributes
            _, height, width = shapes[node.inputs[0]]
            divisors = pool_divisors(pool.window, height, width, count_padding=pool.count_padding)
            if (divisors != divisors[0, 0]).any():
                found[node.output] = divisors
    return found


def compare_codes(tensor: Tensor, codes: Array, exact: Array) -> tuple[float, float, int, int]:
    """Energy of signal and noise, number of values, clipped values, of codes and real numbers in one layout.

    See `LayerFidelity` for what counts as clipped.
    """
    slope, zero = (2 * tensor.scale, 0.5) if tensor.bipolar else (tensor.scale, tensor.zero_point)
    noise = slope * (codes - zero) - exact
    low, high = tensor.dtype.low, tensor.dtype.high
    clipped = 0
    if not tensor.bipolar:
        beyond = np.abs(noise) > tensor.scale / 2
        clipped = int((beyond & (((codes == low) & (noise > 0)) | ((codes == high) & (noise < 0)))).sum())
    return float((exact * exact).sum()), float((noise * noise).sum()), exact.size, clipped


def _layers(program: Program, sums: Mapping[str, Array]) -> tuple[LayerFidelity, ...]:
    limited = {program.input: CLEAN_DB}
    layers: list[LayerFidelity] = []
    for instruction in program.instructions:
        signal, noise, values, clipped, saturated = sums[instruction.output]
        ratio = decibels(signal, noise)
        limited[instruction.output] = min(ratio, CLEAN_DB)
        worst = min(limited[name] for name in instruction.inputs)
        layers.append(
            LayerFidelity(
                name=instruction.output,
                kind=instruction.kind,
                source=instruction.source,
                signal_to_noise_db=ratio,
                drop_db=worst - limited[instruction.output],
                values=int(values),
                clipped=int(clipped),
                saturated=int(saturated),
            )
        )
    return tuple(layers)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies; infinite where there is no noise."""
    return float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))


def first_drop(layers: Sequence[LayerFidelity]) -> LayerFidelity | None:
    """The first layer that drops by more than `DROP_DB`."""
    return next((layer for layer in layers if layer.drop_db > DROP_DB), None)


def largest_drop(layers: Sequence[LayerFidelity]) -> LayerFidelity | None:
    """The layer with the largest drop, the first of equals; None where none drops."""
    worst = max(layers, key=lambda layer: layer.drop_db, default=None)
    return worst if worst is not None and worst.drop_db > 0 else None


def clipping_notes(layers: Sequence[LayerFidelity], limit: float = MOST_CLIPPED) -> list[str]:
    """A sentence where more than `limit` of a layer's values are clipped or saturated; for calibration images."""
    over = [layer for layer in layers if layer.clipped_share > limit]
    if not over:
        return []
    worst = max(over, key=lambda layer: layer.clipped_share)
    which = "1 layer clips" if len(over) == 1 else f"{len(over)} layers clip"
    return [
        f"{which} more than {100 * limit:g} % of the values on the calibration images; the worst, {worst.name!r}, "
        f"{100 * worst.clipped_share:.2f} %; use more bits, or wider ranges"
    ]
