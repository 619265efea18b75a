"""Lossless: every code of the program is that of the float model under onnxruntime, on all tensors, no tolerance.

The networks have power-of-two constants, so that float32 computes them exactly: a real value divided by what one unit
of the integer tensor means is an integer, and that integer must be the program's.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_builder import ModelBuilder, Tensor, as_nhwc, random_pixels
from onnx import helper, numpy_helper

from bnhw.compiler import compile_model
from bnhw.count import ActionKind, count_program, total
from bnhw.dtypes import Array
from bnhw.machine import Machine
from bnhw.ops import Window
from bnhw.options import CompileOptions, RequantiseMode
from bnhw.program import Convolve, PoolSum, Program, Requantise, SumGlobal

SHIFT = CompileOptions(requantise="shift")


def run_all_values(model: onnx.ModelProto, pixels: Array) -> Mapping[str, Array]:
    """Every value of the model under onnxruntime, by the name of its node."""
    work = onnx.ModelProto()
    work.CopyFrom(model)
    names = [node.output[0] for node in work.graph.node]
    del work.graph.output[:]
    work.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(work.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
    values = session.run(names, {model.graph.input[0].name: images})
    return {node.name: value for node, value in zip(work.graph.node, values, strict=True)}


def weight_magnitudes(model: onnx.ModelProto) -> Mapping[str, float]:
    """By convolution, the one magnitude of its 1-bit weights."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.name: float(np.abs(constants[node.input[1]]).max()) for node in model.graph.node if node.op_type == "Conv"
    }


def codes_of_model(model: onnx.ModelProto, program: Program, pixels: Array) -> Mapping[str, Array]:
    """For each tensor that the float model has too, its codes (images, height, width, channels), exact or an error."""
    values, magnitudes = run_all_values(model, pixels), weight_magnitudes(model)
    codes: dict[str, Array] = {}
    for instruction in program.instructions:
        name = instruction.output
        tensor = program.tensor[name]
        node = name.removesuffix("/activation").removesuffix("/residual").removesuffix("/scale")
        if node not in values:
            continue
        real, unit = values[node].astype(np.float64), tensor.scale
        if isinstance(instruction, Convolve):
            unit *= magnitudes[node]
        if tensor.bipolar:
            unit = np.abs(real).max()
            assert (np.abs(real) == unit).all(), name
        found = (real / unit + 1) / 2 if tensor.bipolar else real / unit + tensor.zero_point
        off_grid = np.abs(found - np.rint(found)).max()
        # float32 rounds the mean of 9 pixels; the sum that it is the mean of is certain nevertheless
        assert off_grid <= (0.01 if isinstance(instruction, PoolSum | SumGlobal) else 0.0), f"{name} is off its grid"
        found = np.rint(found)
        codes[name] = np.atleast_3d(found).reshape(len(pixels), -1, *tensor.shape[:2]).transpose(0, 2, 3, 1)
    return codes


def assert_lossless(model: onnx.ModelProto, program: Program, pixels: Array) -> set[str]:
    """All codes that both have are equal; returns the names of the tensors that the float model has not."""
    expected = codes_of_model(model, program, pixels)
    for step in Machine(program, "reference").steps(pixels):
        name = step.instruction.output
        assert step.saturations == 0
        if name not in expected:
            continue
        wanted = expected[name]
        if isinstance(step.instruction, Convolve):  # a negative norm behind it negates a channel's weights
            wanted = wanted * np.where((step.value == wanted).all(axis=(0, 1, 2)), 1, -1)
        np.testing.assert_array_equal(step.value, wanted, err_msg=name)
    return {step.output for step in program.instructions} - set(expected)


def assert_wires_and_adders_only(program: Program) -> None:
    steps = [i for i in program.instructions if isinstance(i, Requantise)]
    assert steps
    assert {step.mode for step in steps} == {RequantiseMode.SHIFT}
    counts = total(count_program(program))
    assert counts.multipliers == 0
    kinds = {action.kind for action in counts.actions}
    assert ActionKind.MULTIPLY not in kinds
    assert all(step.digits == 0 for step in steps)  # no csd adders
    assert not program.provenance.notes  # no ratio was rounded to a power of two


# Bipolar networks


def dyadic_norm(builder: ModelBuilder, value: Tensor) -> Tensor:
    """A scale of either sign and a shift a channel that float32 computes exactly; ties at 0 are common."""
    gain = builder.random.choice([-1.0, -0.5, 0.25, 1.0, 2.0], value.channels)
    shift = builder.random.integers(-8, 9, value.channels) / 4
    value = builder.apply(value, "Mul", builder.per_channel(value, gain))
    return builder.apply(value, "Add", builder.per_channel(value, shift))


@st.composite
def bipolar_networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array]:
    """1-bit weights and activations: convolutions, norms of both signs, residual additions, max pools, a mean."""
    builder = ModelBuilder(
        height=draw(st.integers(4, 7)), width=draw(st.integers(4, 7)), seed=draw(st.integers(0, 999))
    )
    pads = (1, 1, 1, 1)

    def convolution(value: Tensor, channels: int) -> Tensor:
        magnitude = 2.0 ** draw(st.integers(-3, 0))
        return builder.convolution(value, builder.signs((channels, value.channels, 3, 3), magnitude), pads=pads)

    channels = draw(st.integers(1, 9))
    value = convolution(builder.image, channels)
    for _ in range(draw(st.integers(1, 3))):
        inner = convolution(builder.sign(dyadic_norm(builder, value)), channels)
        if draw(st.booleans()):
            inner = convolution(builder.sign(inner), channels)
        value = builder.add(inner, value) if draw(st.booleans()) else inner
        if draw(st.booleans()):
            value = builder.pool(value, "MaxPool", Window(kernel=(2, 2), stride=(1, 1)))
    value = convolution(builder.sign(dyadic_norm(builder, value)), 3)
    value = Tensor(name=builder.node("GlobalAveragePool", value.name), channels=3)
    return builder.model(value), as_nhwc(random_pixels(builder, 6))


@settings(max_examples=60, deadline=None)
@given(network=bipolar_networks())
def test_random_bipolar_networks_are_lossless(
    tmp_path_factory: pytest.TempPathFactory, network: tuple[onnx.ModelProto, Array]
) -> None:
    model, pixels = network
    path = tmp_path_factory.mktemp("bipolar") / "model.onnx"
    path.write_bytes(model.SerializeToString())
    program = compile_model(path, pixels, SHIFT)
    missing = assert_lossless(model, program, pixels)
    # a sign stands in front of the max pool that it is read from: the float model has the pool's result alone
    assert {name for name in missing if "/maxpool" not in name} <= {program.output}


# Networks of ours

torch = pytest.importorskip("torch", reason="the networks are built with torch")

from bnhw.export.quantise_aware import quantise_aware  # noqa: E402 - after the skip
from bnhw.export.to_onnx import to_onnx  # noqa: E402
from bnhw.export.train_digits import as_tensor, fine_tune  # noqa: E402
from bnhw.export.zoo import WideResNet, WideResNetConfig  # noqa: E402

SMALL = WideResNetConfig(
    depth=8,
    base_width=4,
    input_channels=1,
    image_size=(8, 8),
    input_mean=(78.1,),
    input_std=(96.3,),
    temperature=32.0,
)


def images(config: WideResNetConfig, count: int = 24, seed: int = 0) -> Array:
    channels, height, width = config.input_shape
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels)).astype(np.uint8)


def network(config: WideResNetConfig) -> WideResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WideResNet(config)
        with torch.no_grad():
            model.train()(as_tensor(images(config)))  # batch norms get statistics of their own
    return model.eval()


def exported(model: WideResNet, folder: Path) -> tuple[onnx.ModelProto, Path]:
    path = folder / "model.onnx"
    return to_onnx(model, path, input_shape=model.config.input_shape), path


@pytest.mark.parametrize(
    ("bits", "config"),
    [
        (2, SMALL),
        (3, replace(SMALL, image_size=(9, 6), padding="tf_same")),
        (4, replace(SMALL, input_channels=3, input_mean=(125.3, 123.0, 113.9), input_std=(63.0, 62.1, 66.7))),
        (4, replace(SMALL, depth=14, image_size=(7, 9), input_relu=True)),
        (8, SMALL),
    ],
)
def test_quantised_shifted_relu_networks_are_lossless_without_multipliers(
    bits: int, config: WideResNetConfig, tmp_path: Path
) -> None:
    pixels = images(config)
    aware = quantise_aware(network(config), as_tensor(pixels), bits=bits)
    model, path = exported(aware, tmp_path)
    program = compile_model(path, pixels, SHIFT)
    assert_wires_and_adders_only(program)
    unseen = images(config, seed=1)
    assert assert_lossless(model, program, unseen) == {program.output}  # the sum, of which the logits are the mean
    result = Machine(program).run(unseen)
    with torch.no_grad():
        own = aware(as_tensor(unseen)).numpy()
    assert np.array_equal((result.logits * result.scale).argmax(axis=1), own.argmax(axis=1))


def test_a_fine_tuned_network_is_lossless_on_every_image(tmp_path: Path) -> None:
    pixels = images(SMALL, 125)
    labels = np.random.default_rng(2).integers(0, 10, 125).astype(np.uint8)
    aware = quantise_aware(network(SMALL), as_tensor(pixels), bits=2)
    tuned = fine_tune(aware, pixels, labels, epochs=2, seed=0)
    assert any(not torch.equal(a, b) for a, b in zip(tuned.parameters(), aware.parameters(), strict=True))
    model, path = exported(tuned, tmp_path)
    program = compile_model(path, pixels, SHIFT)
    assert_wires_and_adders_only(program)
    assert_lossless(model, program, images(SMALL, seed=1))
    result = Machine(program).run(images(SMALL, seed=1))
    with torch.no_grad():
        own = tuned(as_tensor(images(SMALL, seed=1))).numpy()
    np.testing.assert_array_equal((result.logits * result.scale).astype(np.float32), own)


def test_power_of_two_constants_need_wires_and_adders_only_without_any_quantiser(tmp_path: Path) -> None:
    config = replace(SMALL, weight_scale="pow2", pool_divisor="pow2")
    _, path = exported(network(config), tmp_path)
    assert_wires_and_adders_only(compile_model(path, images(config), SHIFT))


@pytest.mark.parametrize("changed", [{"weight_scale": "he"}, {"pool_divisor": "pixels"}])
def test_other_constants_are_not_exact_in_shifts(changed: dict[str, str], tmp_path: Path) -> None:
    """The checks above can fail: one kind of constant that is no power of two breaks them."""
    config = replace(replace(SMALL, weight_scale="pow2", pool_divisor="pow2", act_bits=4), **changed)  # type: ignore[arg-type]  # string fields
    model, path = exported(network(config), tmp_path)
    program = compile_model(path, images(config), SHIFT)
    assert program.provenance.notes
    with pytest.raises(AssertionError):
        assert_lossless(model, program, images(config))


def test_a_residual_stream_that_its_width_cannot_hold_exactly_is_not_lossless(tmp_path: Path) -> None:
    aware = quantise_aware(network(SMALL), as_tensor(images(SMALL)), bits=4)
    model, path = exported(aware, tmp_path)
    with pytest.raises(AssertionError):
        assert_lossless(model, compile_model(path, images(SMALL), replace(SHIFT, residual_bits=8)), images(SMALL))


@pytest.mark.parametrize(("requantise", "bits"), [("threshold", 2), ("threshold", 4), ("auto", 2), ("auto", 4)])
def test_quantised_batch_norm_networks_are_lossless(requantise: str, bits: int, tmp_path: Path) -> None:
    """Every code is that of the real function, evaluated in float64 from the stored float32 constants."""
    from exact_evaluation import evaluate_all, quantised_and_lowered, run_all, to_float

    from bnhw.importer import import_onnx
    from bnhw.passes.quantisers import RecogniseQuantisers

    config = replace(SMALL, normalisation="batch_norm", batch_norm_affine=True)
    pixels = images(config)
    model, _ = exported(quantise_aware(network(config), as_tensor(pixels), bits=bits), tmp_path)
    graph = import_onnx(model)
    options = CompileOptions(requantise=requantise)
    _, program = quantised_and_lowered(graph, pixels, options)
    expected = evaluate_all(RecogniseQuantisers().run(graph), to_float(pixels))
    quantisers = [name for name in run_all(program, pixels) if name.endswith(("activation1/Mul", "activation2/Mul"))]
    assert len(quantisers) == 6
    for name in quantisers:
        tensor = program.tensor[name]
        codes = expected[name] / tensor.scale + tensor.zero_point
        np.testing.assert_array_equal(run_all(program, pixels)[name], codes, err_msg=name)
