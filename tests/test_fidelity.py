"""Noise, clipping and saturation of each tensor against the float model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from model_builder import ModelBuilder
from model_strategies import Network, networks, small_network

from bnhw.compiler import compile_model
from bnhw.dtypes import Array, IntegerType
from bnhw.errors import BadInput, InvalidProgram
from bnhw.fidelity import (
    BATCH,
    CLEAN_DB,
    DROP_DB,
    LayerFidelity,
    clipping_notes,
    compare_codes,
    compile_options,
    decibels,
    digest_warning,
    first_drop,
    largest_drop,
    measure_layers,
    reference_graph,
)
from bnhw.importer import read_onnx
from bnhw.machine import Machine
from bnhw.ops import Convolution
from bnhw.options import CompileOptions
from bnhw.program import AddSaturating, Program, Tensor
from bnhw.verify import evaluate

BIT = IntegerType(bits=1, signed=False)


def written(network: Network, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(network.onnx.SerializeToString())
    return path


def compiled(path: Path, network: Network, options: CompileOptions | None = None) -> Program:
    return compile_model(path, network.pixels, options)


def layers_of(program: Program, path: Path, pixels: Array) -> tuple[LayerFidelity, ...]:
    return measure_layers(program, reference_graph(read_onnx(path), program), pixels)


@settings(max_examples=15, deadline=None)
@given(networks())
def test_ratios_are_those_of_whole_tensors_at_once(tmp_path_factory: pytest.TempPathFactory, network: Network) -> None:
    """Differential: all images at once, float values in numpy, real codes from scale and zero point."""
    path = written(network, tmp_path_factory.mktemp("model"))
    program = compiled(path, network)
    layers = layers_of(program, path, network.pixels)
    assert [layer.name for layer in layers] == [instruction.output for instruction in program.instructions]
    graph = reference_graph(read_onnx(path), program)
    exact = dict(evaluate(graph, network.pixels.transpose(0, 3, 1, 2).astype(np.float32)))
    for layer, step in zip(layers, Machine(program, "reference").steps(network.pixels), strict=True):
        tensor = program.tensor[layer.name]
        if layer.name == program.output or layer.kind == "PoolSum":
            continue
        real = tensor.scale * (step.value - tensor.zero_point).transpose(0, 3, 1, 2)
        noise = float(((real - exact[layer.name]) ** 2).sum())
        assert layer.values == real.size
        assert layer.saturated == step.saturations
        expected = decibels(float((exact[layer.name].astype(np.float64) ** 2).sum()), noise)
        assert min(layer.signal_to_noise_db, 80) == pytest.approx(min(expected, 80), abs=0.5)
    ratios = {layer.name: min(layer.signal_to_noise_db, CLEAN_DB) for layer in layers} | {program.input: CLEAN_DB}
    for layer, instruction in zip(layers, program.instructions, strict=True):
        assert layer.drop_db == min(ratios[name] for name in instruction.inputs) - ratios[layer.name]


def test_pool_sums_and_the_output_are_compared_in_their_own_units(tmp_path: Path) -> None:
    """A pool whose divisors differ holds sums; the output's scale holds the factors behind it."""
    network = small_network(shifted_relu=False)
    path = written(network, tmp_path)
    layers = layers_of(compiled(path, network), path, network.pixels)
    assert {"PoolSum", "SumGlobal"} <= {layer.kind for layer in layers}
    assert all(layer.signal_to_noise_db > 25 for layer in layers)


def test_sums_without_rounding_are_exact_and_the_factor_behind_them_counts(tmp_path: Path) -> None:
    """1-bit weights on the image itself, then one factor, which becomes the output's scale."""
    builder = ModelBuilder(height=4, width=3)
    value = builder.dense(builder.flatten(builder.image), builder.signs((5, 36)), bias=False)
    path = tmp_path / "exact.onnx"
    path.write_bytes(builder.model(builder.apply(value, "Mul", builder.constant(0.25))).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 3, 3), np.uint8)
    program = compile_model(path, pixels)
    (only,) = layers_of(program, path, pixels)
    assert only.signal_to_noise_db > 120
    assert (only.drop_db, only.values) == (0, 35)


TENSOR = Tensor(name="t", shape=(1, 1, 5), dtype=IntegerType(bits=2, signed=False), scale=2.0, zero_point=1)


@pytest.mark.parametrize(
    ("tensor", "codes", "exact", "expected"),
    [
        (TENSOR, [3, 3, 3, 2, 1], [4.0, 5.0, 5.5, 9.0, 0.0], (16 + 25 + 30.25 + 81, 1 + 2.25 + 49, 5, 1)),
        (TENSOR, [0, 0, 0, 1, 2], [-2.0, -3.0, -3.5, -9.0, 2.0], (4 + 9 + 12.25 + 81 + 4, 1 + 2.25 + 81, 5, 1)),
        (TENSOR, [0, 3], [9.0, -9.0], (162.0, 121 + 169, 2, 0)),
        (replace(TENSOR, dtype=BIT, zero_point=0, bipolar=True), [0, 1, 1], [-2.0, 2.0, 9.0], (89.0, 49.0, 3, 0)),
    ],
)
def test_only_codes_at_an_end_with_values_beyond_it_are_clipped(
    tensor: Tensor, codes: list[int], exact: list[float], expected: tuple[float, float, int, int]
) -> None:
    assert compare_codes(tensor, np.array(codes), np.array(exact)) == expected


def test_batches_do_not_matter(tmp_path: Path) -> None:
    network = small_network(images=2 * BATCH + 1)
    path = written(network, tmp_path)
    program = compiled(path, network)
    done: list[int] = []
    graph = reference_graph(read_onnx(path), program)
    layers = measure_layers(program, graph, network.pixels, progress=done.append)
    assert done == [BATCH, 2 * BATCH, 2 * BATCH + 1]
    assert layers[0].values == len(network.pixels) * program.tensor[layers[0].name].size


def test_rounded_weights_count_as_noise(tmp_path: Path) -> None:
    """2-bit weights in the first convolution: its sums drop, and it is the first to."""
    network = small_network(bits=(8, 1, 1))
    path = written(network, tmp_path)
    program = compiled(path, network, CompileOptions(weight_bits=2))
    layers = layers_of(program, path, network.pixels)
    first = first_drop(layers)
    assert first is not None
    assert first.kind == "Convolve"
    assert first is next(layer for layer in layers if layer.kind == "Convolve")
    graph = reference_graph(read_onnx(path), program)
    kernel = next(node.attributes for node in graph.nodes if isinstance(node.attributes, Convolution))
    assert kernel.weights.dtype == np.float32
    assert (kernel.weights != np.rint(kernel.weights)).any()


def test_narrow_activations_drop_at_the_first_step_that_makes_them(tmp_path: Path) -> None:
    network = small_network()
    path = written(network, tmp_path)
    program = compiled(path, network, CompileOptions(act_bits=2))
    first = first_drop(layers_of(program, path, network.pixels))
    assert first is not None
    assert program.tensor[first.name].dtype.bits == 2
    assert first.drop_db > DROP_DB


def test_clipping_is_that_of_the_range_and_not_of_the_activation(tmp_path: Path) -> None:
    """Calibrated on dark images, bright ones clip; a ReLU's own zeros do not count."""
    network = small_network(images=8)
    path = written(network, tmp_path)
    program = compile_model(path, network.pixels // 8)
    dark = layers_of(program, path, network.pixels // 8)
    bright = layers_of(program, path, network.pixels)
    assert sum(layer.clipped for layer in dark) == 0
    assert clipping_notes(dark) == []
    clipped = [layer for layer in bright if layer.clipped]
    assert clipped
    assert {layer.kind for layer in clipped} <= {"Requantise", "LookUp"}
    (note,) = clipping_notes(bright)
    assert "layers clip more than 0.1 % of the values on the calibration images; the worst, " in note


def test_saturated_sums_are_counted(tmp_path: Path) -> None:
    network = small_network()
    path = written(network, tmp_path)
    program = compiled(path, network)
    narrow = replace(
        program,
        instructions=tuple(
            replace(one, low=-3, high=3) if isinstance(one, AddSaturating) else one for one in program.instructions
        ),
    )
    adds = [layer for layer in layers_of(narrow, path, network.pixels) if layer.kind == "AddSaturating"]
    assert all(layer.saturated > 0.5 * layer.values for layer in adds)
    assert clipping_notes(adds)


def layer(name: str, drop: float, *, clipped: int = 0, saturated: int = 0) -> LayerFidelity:
    return LayerFidelity(
        name=name,
        kind="Requantise",
        source="",
        signal_to_noise_db=30.0,
        drop_db=drop,
        values=1000,
        clipped=clipped,
        saturated=saturated,
    )


def test_first_and_largest_drop() -> None:
    layers = [layer("a", DROP_DB), layer("b", DROP_DB + 1), layer("c", DROP_DB + 2), layer("d", DROP_DB + 2)]
    assert first_drop(layers) is layers[1]
    assert largest_drop(layers) is layers[2]
    assert first_drop(layers[:1]) is None
    assert largest_drop([layer("a", -1.0), layer("b", 0.0)]) is None
    assert largest_drop([]) is None


def test_note_on_clipping_begins_above_its_limit() -> None:
    assert clipping_notes([layer("a", 0, clipped=1)]) == []
    (note,) = clipping_notes([layer("a", 0, clipped=1), layer("b", 0, clipped=1, saturated=1)])
    assert note.startswith("1 layer clips more than 0.1 %")
    assert "the worst, 'b', 0.20 %" in note


def test_no_noise_is_infinite() -> None:
    assert decibels(1.0, 0.0) == np.inf
    assert decibels(1.0, 0.01) == pytest.approx(20)
    assert decibels(0.0, 1.0) < -CLEAN_DB


def test_options_come_back_from_the_program(tmp_path: Path) -> None:
    network = small_network(bits=(8, 8, 8))
    options = CompileOptions(weight_bits=4, input_mean=(1.0, 2.5, 3.0), input_std=(64.0,), requantise="csd:3")
    assert compile_options(compiled(written(network, tmp_path), network, options)) == options


def test_options_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    network = small_network()
    program = compiled(written(network, tmp_path), network)
    for name, text in (("act_bits", "many"), ("weight_bits", "99"), ("input_std", "0.0")):
        damaged = replace(program, provenance=replace(program.provenance, options={name: text}))
        with pytest.raises(InvalidProgram, match=r"own options cannot be read .*compile it again"):
            compile_options(damaged)


def test_another_model_is_refused_or_warned_about(tmp_path: Path) -> None:
    network, other = small_network(), small_network(seed=1)
    path = written(network, tmp_path)
    program = compiled(path, network)
    assert digest_warning(read_onnx(path), program) is None
    warning = digest_warning(read_onnx(written(other, tmp_path)), program)
    assert warning is not None
    assert warning.startswith("model: not the file that the program was compiled from (sha256 ")
    wider = written(small_network(widths=(8, 14)), tmp_path)
    with pytest.raises(BadInput, match="model is not the model that the program was compiled from: the value"):
        layers_of(program, wider, network.pixels)


def test_a_model_of_another_input_is_refused(tmp_path: Path) -> None:
    network = small_network()
    program = compiled(written(network, tmp_path), network, CompileOptions(input_mean=(1.0, 2.0, 3.0)))
    grey = ModelBuilder(channels=1, height=9, width=7)
    grey_model: onnx.ModelProto = grey.model(grey.dense(grey.flatten(grey.image), grey.signs((3, 63))))
    path = tmp_path / "grey.onnx"
    path.write_bytes(grey_model.SerializeToString())
    with pytest.raises(BadInput, match=r"grey is not the model .* has 3 numbers for 1 colours"):
        reference_graph(read_onnx(path), program)
