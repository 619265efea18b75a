"""Exact evaluation of a quantised graph in float64, beside the program that was lowered from it."""

from collections.abc import Iterator, Mapping

import numpy as np
from model_builder import ModelBuilder, Tensor

from bnhw.dtypes import Array
from bnhw.graph import Attributes, Graph
from bnhw.lower import lower
from bnhw.machine import Machine
from bnhw.ops import OPS, Add, Affine, Convolution, Quantise, Window, quantise, windows_of
from bnhw.options import CompileOptions
from bnhw.passes.pipeline import quantise_graph
from bnhw.program import Program, Provenance
from bnhw.program_check import check_program

SAME = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
PROVENANCE = Provenance(producer="test", source_name="test", source_sha256="", options={})
FINE = CompileOptions(requantise="multiply:24")


def to_float(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)


def quantised_and_lowered(graph: Graph, pixels: Array, options: CompileOptions = FINE) -> tuple[Graph, Program]:
    quantised = quantise_graph(graph, options, to_float(pixels))
    program = lower(quantised, PROVENANCE)
    check_program(program)
    return quantised, program


def evaluate_exactly(attributes: Attributes, inputs: list[Array]) -> Array:
    """As the table of operations, in float64 throughout."""
    match attributes:
        case Convolution(weights=weights, window=window, groups=groups):
            view = windows_of(inputs[0], window)
            parts = zip(np.split(view, groups, axis=1), np.split(weights.astype(np.float64), groups), strict=True)
            return np.concatenate([np.einsum("ncxyij,ocij->noxy", x, w) for x, w in parts], axis=1)
        case Affine(scale=scale, shift=shift):
            return np.asarray(inputs[0] * scale[:, None, None] + shift[:, None, None])
        case _:
            return OPS[type(attributes)].evaluate(attributes, inputs)


def evaluate_all(graph: Graph, images: Array) -> Mapping[str, Array]:
    """Every value of a float graph in float64."""
    values: dict[str, Array] = {graph.inputs[0].name: images.astype(np.float64)}
    for node in graph.nodes:
        values[node.output] = evaluate_exactly(node.attributes, [values[name] for name in node.inputs])
    return values


def run_all(program: Program, pixels: Array) -> Mapping[str, Array]:
    """Every tensor of the program, (images, channels, height, width), by the reference."""
    steps = Machine(program, "reference").steps(pixels)
    return {step.instruction.output: step.value.transpose(0, 3, 1, 2) for step in steps}


def expected_codes(graph: Graph, program: Program, pixels: Array) -> Iterator[tuple[str, Array, Array]]:
    """(value, codes of the program, codes by exact evaluation) of every point of the quantised graph.

    What stands behind a point continues from the program's own codes, so that no difference grows on its way.
    """
    made = run_all(program, pixels)
    values: dict[str, Array] = {graph.inputs[0].name: to_float(pixels).astype(np.float64)}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        if isinstance(node.attributes, Quantise):
            coding = node.attributes.quantisation
            codes = made[node.output]
            yield node.output, codes, quantise(inputs[0], coding)
            values[node.output] = codes * coding.slope + coding.intercept
        elif isinstance(node.attributes, Add):  # saturates on images that leave the calibrated range
            tensor = program.tensor[node.output]
            exact = (inputs[0] + inputs[1]) / tensor.scale
            np.testing.assert_allclose(
                made[node.output], np.clip(exact, tensor.dtype.low, tensor.dtype.high), atol=1e-6
            )
            values[node.output] = made[node.output] * tensor.scale
        else:
            values[node.output] = evaluate_exactly(node.attributes, inputs)


def power_of_two_network(seed: int, *, shifted_relu: bool) -> ModelBuilder:
    """A residual network in which every real ratio is a power of two; its output is the last node's."""
    builder = ModelBuilder(channels=2, height=8, width=6, seed=seed)
    pads = (1, 1, 1, 1)
    value = builder.convolution(builder.image, builder.signs((4, 2, 3, 3), 2**-9), pads=pads)

    def activation(value: Tensor) -> Tensor:
        return builder.apply(value, "Max", builder.constant(-1.0)) if shifted_relu else builder.apply(value, "Relu")

    inner = builder.convolution(activation(value), builder.signs((4, 4, 3, 3), 2**-4), pads=pads)
    inner = builder.convolution(activation(inner), builder.signs((6, 4, 3, 3), 2**-3), stride=(2, 2), pads=pads)
    value = builder.pool(value, "AveragePool", Window(kernel=(2, 2), stride=(2, 2)))
    value = builder.add(builder.pad(value, (1, 0, 0), (1, 0, 0)), inner)
    value = builder.convolution(activation(value), builder.signs((5, 6, 1, 1), 2**-2))
    builder.node("GlobalAveragePool", value.name)
    return builder
