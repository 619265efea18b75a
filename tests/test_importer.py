"""The importer against onnxruntime."""

from typing import Any

import numpy as np
import onnx
import pytest
from graph_helpers import largest_error
from hypothesis import given, settings
from hypothesis import strategies as st
from model_builder import OPSETS, ModelBuilder, Tensor, random_images, run_onnxruntime
from model_strategies import Model, models
from onnx import helper, numpy_helper

from bnhw.dtypes import Array
from bnhw.graph import Graph
from bnhw.importer import import_onnx
from bnhw.monotone import Function
from bnhw.ops import (
    Activation,
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Sign,
    Window,
)
from bnhw.verify import check_graph, evaluate_outputs

TOLERANCE = 1e-4


def flat_head(builder: ModelBuilder, value: Tensor) -> onnx.ModelProto:
    return builder.model(builder.flatten(value) if not value.flat else value)


def expect_same_as_onnxruntime(model: onnx.ModelProto, images: Array) -> Graph:
    graph = import_onnx(model)
    check_graph(graph)
    assert largest_error(evaluate_outputs(graph, images), run_onnxruntime(model, images)) <= TOLERANCE
    return graph


@settings(deadline=None, max_examples=250)
@given(models())
def test_imported_graph_computes_what_onnxruntime_computes(model: Model) -> None:
    expect_same_as_onnxruntime(model.onnx, model.images)


@settings(deadline=None, max_examples=50)
@given(models(max_layers=2))
def test_import_leaves_the_model_as_it_was(model: Model) -> None:
    before = model.onnx.SerializeToString(deterministic=True)
    first, second = import_onnx(model.onnx), import_onnx(model.onnx)
    assert model.onnx.SerializeToString(deterministic=True) == before
    assert [node.name for node in first.nodes] == [node.name for node in second.nodes]


@settings(deadline=None, max_examples=40)
@given(models(max_layers=3), st.integers(1, 5))
def test_free_and_fixed_batch_mean_the_same(model: Model, batch: int) -> None:
    free = evaluate_outputs(import_onnx(model.onnx), model.images)
    model.onnx.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    fixed = import_onnx(model.onnx)
    np.testing.assert_array_equal(evaluate_outputs(fixed, model.images), free)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("bounds", [(-1.0, None), (None, 0.5), (-0.5, 0.5)])
def test_clip_is_read_in_the_form_of_every_opset(opset: int, bounds: tuple[float | None, float | None]) -> None:
    builder = ModelBuilder(opset=opset)
    graph = expect_same_as_onnxruntime(flat_head(builder, builder.clip(builder.image, *bounds)), random_images(builder))
    clamp = graph.nodes[0].attributes
    low, high = bounds
    expected = Clamp(low=-np.inf if low is None else low, high=np.inf if high is None else high)
    assert clamp == expected


ACTIVATIONS: tuple[tuple[str, dict[str, Any], Activation | Clamp], ...] = (
    ("Elu", {}, Activation(function=Function.ELU)),
    ("Elu", {"alpha": 0.5}, Activation(function=Function.ELU, alpha=0.5)),
    ("Elu", {"alpha": 0.0}, Clamp(low=0.0)),
    ("Selu", {}, Activation(function=Function.ELU, alpha=1.67326319217681884765625, gain=1.05070102214813232421875)),
    ("Selu", {"alpha": 0.5, "gamma": 2.0}, Activation(function=Function.ELU, alpha=0.5, gain=2.0)),
    ("LeakyRelu", {"alpha": 0.25}, Activation(function=Function.LEAKY_RELU, alpha=0.25)),
    ("LeakyRelu", {"alpha": 0.0}, Clamp(low=0.0)),
    ("LeakyRelu", {"alpha": 2.0}, Activation(function=Function.LEAKY_RELU, alpha=2.0)),
    ("Sigmoid", {}, Activation(function=Function.SIGMOID)),
    ("Tanh", {}, Activation(function=Function.TANH)),
    ("Softplus", {}, Activation(function=Function.SOFTPLUS)),
    ("HardSigmoid", {}, Clamp(low=0.0, high=1.0)),
    ("HardSigmoid", {"alpha": -0.5, "beta": 0.25}, Clamp(low=0.0, high=1.0)),
)


@pytest.mark.parametrize(("op", "attributes", "expected"), ACTIVATIONS)
def test_activation_functions_are_those_of_onnx(
    op: str, attributes: dict[str, Any], expected: Activation | Clamp
) -> None:
    builder = ModelBuilder()
    value = builder.apply(builder.image, op, **attributes)
    graph = expect_same_as_onnxruntime(flat_head(builder, value), 20 * random_images(builder, 8))
    assert [n.attributes for n in graph.nodes if isinstance(n.attributes, Activation | Clamp)] == [expected]


@pytest.mark.parametrize("opset", OPSETS)
def test_pad_is_read_in_the_form_of_every_opset(opset: int) -> None:
    builder = ModelBuilder(opset=opset)
    value = builder.pad(builder.image, (1, 0, 0), (2, 0, 0))
    graph = expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))
    assert graph.nodes[0].attributes == ChannelPad(before=1, after=2)


def test_pad_with_named_axes_is_read() -> None:
    builder = ModelBuilder(opset=18)
    pads, axes = builder.constant((1, 2), np.int64), builder.constant((-3,), np.int64)
    name = builder.node("Pad", builder.image.name, pads, "", axes)
    value = Tensor(name=name, channels=6, height=builder.height, width=builder.width)
    expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("keep", [False, True])
def test_reduce_mean_is_read_in_the_form_of_every_opset(opset: int, keep: bool) -> None:
    builder = ModelBuilder(opset=opset)
    value = builder.reduce_mean(builder.image, keep=keep)
    value = builder.squeeze(value) if keep else value
    graph = expect_same_as_onnxruntime(builder.model(value), random_images(builder))
    assert [type(node.attributes) for node in graph.nodes] == [GlobalAveragePool]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 2), (4, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (3, 2)])
def test_auto_pad_pads_as_onnxruntime_does(auto_pad: str, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    builder = ModelBuilder(height=8, width=11)
    value = builder.convolution(builder.image, builder.signs((2, 3, *kernel)), stride=stride, auto_pad=auto_pad)
    expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))


def test_auto_pad_valid_means_no_padding() -> None:
    builder = ModelBuilder()
    value = builder.convolution(builder.image, builder.signs((2, 3, 3, 3)), auto_pad="VALID")
    expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("size", [4, 5, 6, 7])
@pytest.mark.parametrize("pads", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_ceil_mode_counts_real_positions_only(op: str, size: int, pads: tuple[int, int]) -> None:
    builder = ModelBuilder(height=size, width=size + 1, channels=2)
    window = Window(kernel=(2, 3), stride=(2, 2), pads=(pads[0], pads[0], pads[1], pads[1]))
    value = builder.pool(builder.image, op, window, ceil=True)
    expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))


def test_average_pool_counts_padding_only_if_told() -> None:
    window = Window(kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1))
    for counts in (False, True):
        builder = ModelBuilder()
        value = builder.pool(builder.image, "AveragePool", window, count_padding=counts)
        graph = expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))
        assert graph.nodes[0].attributes == AveragePool(window=window, count_padding=counts)


@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Max", "Min"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (3, 1, 1), (1, 3, 1, 1)])
def test_constant_operand_may_stand_on_either_side(op: str, first: bool, shape: tuple[int, ...]) -> None:
    builder = ModelBuilder()
    numbers = np.full(shape, -0.7) if op in ("Max", "Min") else builder.random.normal(0, 1, shape)
    value = builder.apply(builder.image, op, builder.constant(numbers), first=first)
    expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))


def test_difference_of_two_values_is_read() -> None:
    builder = ModelBuilder()
    value, other = (builder.convolution(builder.image, builder.signs((2, 3, 1, 1))) for _ in range(2))
    graph = expect_same_as_onnxruntime(
        flat_head(builder, builder.apply(value, "Sub", other.name)), random_images(builder)
    )
    assert sum(isinstance(node.attributes, Add) for node in graph.nodes) == 1


def test_division_by_a_constant_is_read() -> None:
    builder = ModelBuilder()
    value = builder.apply(builder.image, "Div", builder.per_channel(builder.image, (2.0, -0.5, 3.0)))
    expect_same_as_onnxruntime(flat_head(builder, builder.apply(value, "Neg")), random_images(builder))


def test_batch_norm_behind_a_convolution_keeps_float64_constants() -> None:
    builder = ModelBuilder()
    value = builder.batch_norm(builder.convolution(builder.image, builder.signs((2, 3, 1, 1))))
    gain, shift, mean, variance = (numpy_helper.to_array(t).astype(np.float64) for t in builder.initializers[1:])
    graph = import_onnx(flat_head(builder, value))
    (found,) = [node.attributes for node in graph.nodes if isinstance(node.attributes, Affine)]
    scale = gain / np.sqrt(variance + np.float64(np.float32(1e-5)))
    np.testing.assert_allclose(found.scale, scale, rtol=1e-9)
    np.testing.assert_allclose(found.shift, shift - mean * scale, rtol=1e-8, atol=1e-12)


def test_batch_norm_behind_a_convolution_leaves_its_weights_alone() -> None:
    builder = ModelBuilder()
    weights = builder.signs((2, 3, 1, 1))
    graph = import_onnx(flat_head(builder, builder.batch_norm(builder.convolution(builder.image, weights))))
    (convolution,) = [n.attributes for n in graph.nodes if isinstance(n.attributes, Convolution)]
    np.testing.assert_array_equal(convolution.weights, weights)


@pytest.mark.parametrize(("op", "opset"), [("GreaterOrEqual", 12), ("GreaterOrEqual", 18), ("Less", 9), ("Less", 18)])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("threshold", [0.0, 0.375, -2.0])
def test_comparison_and_choice_are_a_sign(op: str, opset: int, scale: float, threshold: float) -> None:
    builder = ModelBuilder(opset=opset)
    images = random_images(builder)
    images[0, 0, 0] = threshold  # sign(0) = +1
    value = builder.sign(builder.image, scale=scale, threshold=threshold, op=op)
    graph = expect_same_as_onnxruntime(flat_head(builder, value), images)
    assert sum(isinstance(node.attributes, Sign) for node in graph.nodes) == 1


def test_comparison_reads_its_own_operand_whatever_the_names() -> None:
    """Node names and value names are different name spaces; here each node is named like the other's value."""
    builder = ModelBuilder(opset=13)
    weights = numpy_helper.from_array(builder.signs((3, 3, 1, 1)), "weights")
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    chosen = [numpy_helper.from_array(np.array(number, np.float32), str(number)) for number in (1, -1)]
    builder.initializers += [weights, zero, *chosen]
    builder.nodes += [
        helper.make_node("Conv", ["image", "weights"], ["a"], name="b"),
        helper.make_node("Neg", ["a"], ["b"], name="a"),
        helper.make_node("GreaterOrEqual", ["b", "zero"], ["condition"], name="compare"),
        helper.make_node("Where", ["condition", "1", "-1"], ["sign"], name="choose"),
    ]
    value = Tensor(name="sign", channels=3, height=builder.height, width=builder.width)
    expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))


@pytest.mark.parametrize("in_node", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_bipolar_quantiser_of_weights_is_their_sign(in_node: bool, scale: float) -> None:
    builder = ModelBuilder(opset=9)
    latent = builder.random.normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    latent[0, 0, 0, 0] = 0.0  # sign(0) = +1
    if in_node:
        builder.nodes.append(helper.make_node("Constant", [], ["latent"], value=numpy_helper.from_array(latent)))
        source = "latent"
    else:
        source = builder.constant(latent)
    weights = builder.node("BipolarQuant", source, builder.constant(scale), domain="onnx.brevitas")
    name = builder.node("Conv", builder.image.name, weights)
    value = builder.reduce_mean(Tensor(name=name, channels=4), keep=False)
    graph = import_onnx(builder.model(value))
    (convolution,) = [n.attributes for n in graph.nodes if isinstance(n.attributes, Convolution)]
    np.testing.assert_array_equal(convolution.weights, np.where(latent >= 0, np.float32(scale), np.float32(-scale)))


def test_bipolar_quantiser_of_activations_is_a_sign() -> None:
    builder = ModelBuilder()
    value = builder.apply(builder.image, "BipolarQuant", builder.constant(0.5), domain="qonnx.custom_op.general")
    graph = import_onnx(builder.model(builder.reduce_mean(value, keep=False), domains=[("qonnx", 1)]))
    assert [type(node.attributes) for node in graph.nodes] == [Sign, Affine, GlobalAveragePool]


def test_first_opset_of_another_domain_is_not_taken_for_that_of_onnx() -> None:
    builder = ModelBuilder(opset=18)
    value = builder.reduce_mean(builder.clip(builder.image, -1.0, None), keep=False)
    model = builder.model(value, domains=[("com.example", 1), ("ai.onnx.ml", 3)])
    assert model.opset_import[0].domain == "com.example"
    expect_same_as_onnxruntime(model, random_images(builder))


def test_unnamed_nodes_get_distinct_names() -> None:
    builder = ModelBuilder(named=False)
    value = builder.image
    for _ in range(3):
        value = builder.apply(value, "Relu")
        value = builder.apply(value, "Add", builder.constant(1.0))
    graph = expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder))
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    assert all(node.name and node.source for node in graph.nodes)


def test_initializers_among_the_inputs_are_constants() -> None:
    builder = ModelBuilder(opset=9)
    value = builder.batch_norm(builder.convolution(builder.image, builder.signs((4, 3, 3, 3)), bias=np.zeros(4)))
    model = flat_head(builder, builder.reduce_mean(value, keep=True))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    expect_same_as_onnxruntime(model, random_images(builder))


@pytest.mark.parametrize("opset", [9, 13])
def test_flattening_by_a_computed_shape_is_read(opset: int) -> None:
    """x.view(x.size(0), -1) as older exporters write it."""
    builder = ModelBuilder(opset=opset)
    shape = builder.node("Shape", builder.image.name)
    batch = builder.node("Gather", shape, builder.constant(0, np.int64), axis=0)
    if opset < 13:
        batch = builder.node("Unsqueeze", batch, axes=[0])
    else:
        batch = builder.node("Unsqueeze", batch, builder.constant((0,), np.int64))
    target = builder.node("Concat", batch, builder.constant((-1,), np.int64), axis=0)
    features = 3 * builder.height * builder.width
    value = Tensor(name=builder.node("Reshape", builder.image.name, target), channels=features, flat=True)
    model = builder.model(builder.dense(value, builder.signs((4, features))))
    graph = expect_same_as_onnxruntime(model, random_images(builder))
    assert isinstance(graph.nodes[0].attributes, Flatten)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_at_the_end_is_left_out_with_a_note(op: str) -> None:
    builder = ModelBuilder()
    logits = builder.reduce_mean(builder.image, keep=False)
    plain = import_onnx(builder.model(logits))
    graph = import_onnx(builder.model(builder.apply(logits, op, axis=1)))
    images = random_images(builder)
    np.testing.assert_array_equal(evaluate_outputs(graph, images), evaluate_outputs(plain, images))
    assert any(op in note and "logits" in note for note in graph.notes)


def test_zero_channels_joined_at_the_ends_are_channel_padding() -> None:
    builder = ModelBuilder()
    zeros = [builder.constant(np.zeros((1, count, builder.height, builder.width))) for count in (1, 2)]
    name = builder.node("Concat", zeros[0], builder.image.name, zeros[1], axis=1)
    value = Tensor(name=name, channels=6, height=builder.height, width=builder.width)
    graph = expect_same_as_onnxruntime(flat_head(builder, value), random_images(builder, 1))
    assert graph.nodes[0].attributes == ChannelPad(before=1, after=2)


def test_identity_dropout_and_float_casts_are_nothing() -> None:
    builder = ModelBuilder()
    value = builder.apply(builder.apply(builder.image, "Identity"), "Dropout")
    value = builder.apply(builder.apply(value, "Cast", to=11), "Cast", to=1)
    graph = expect_same_as_onnxruntime(builder.model(builder.reduce_mean(value, keep=False)), random_images(builder))
    assert len(graph.nodes) == 1


def test_dropout_told_to_be_in_evaluation_mode_is_nothing() -> None:
    builder = ModelBuilder(opset=13)
    value = builder.apply(builder.image, "Dropout", builder.constant(0.5), builder.constant(False, np.bool_))
    graph = expect_same_as_onnxruntime(builder.model(builder.reduce_mean(value, keep=False)), random_images(builder))
    assert len(graph.nodes) == 1


@pytest.mark.parametrize("unprintable", ["\x1b[2J", "\n", "\0", "\x9b", "\u202e"])
def test_names_are_made_printable(unprintable: str) -> None:
    """Escapes would command the terminal that shows the name."""
    builder = ModelBuilder()
    value = builder.batch_norm(builder.apply(builder.image, "Relu", name=f"first{unprintable}"))
    value = builder.apply(value, "Relu", name="first" + "?" + unprintable[1:])  # a name of its own all the same
    model = builder.model(builder.reduce_mean(value, keep=False))
    model.graph.input[0].name = model.graph.node[0].input[0] = f"image{unprintable}"
    graph = expect_same_as_onnxruntime(model, random_images(builder))
    names = [graph.inputs[0].name, *(text for node in graph.nodes for text in (node.name, node.output, node.source))]
    assert all(name.isprintable() for name in names)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes) == 4
    assert graph.inputs[0].name == "image?" + unprintable[1:]


def test_flat_features_are_pixels_of_a_1x1_image() -> None:
    builder = ModelBuilder(channels=12, flat=True)
    value = builder.dense(builder.image, builder.signs((5, 12)))
    model, images = builder.model(value), random_images(builder)
    graph = import_onnx(model)
    assert graph.inputs[0].shape == (12, 1, 1)
    found = evaluate_outputs(graph, images[:, :, None, None])
    assert largest_error(found, run_onnxruntime(model, images)) <= TOLERANCE


def test_nodes_that_no_output_needs_are_dropped() -> None:
    builder = ModelBuilder()
    builder.apply(builder.image, "Relu")
    graph = import_onnx(builder.model(builder.reduce_mean(builder.image, keep=False)))
    assert [type(node.attributes) for node in graph.nodes] == [GlobalAveragePool]
