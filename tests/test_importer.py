"""The importer against onnxruntime, and every reason for which it refuses a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from strategies import (
    OPSETS,
    Model,
    ModelBuilder,
    Tensor,
    largest_error,
    models,
    random_images,
    run_onnxruntime,
)

from bnhw.dtypes import Array
from bnhw.errors import BadInput, UnsupportedModel
from bnhw.graph import Graph
from bnhw.importer import import_onnx, read_onnx
from bnhw.ops import (
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

DIGITS = Path(__file__).parents[1] / "bnhw" / "demo" / "digits.onnx"
TOLERANCE = 1e-4


def flat_head(builder: ModelBuilder, value: Tensor) -> onnx.ModelProto:
    return builder.model(builder.flatten(value) if not value.flat else value)


def expect_same_as_onnxruntime(model: onnx.ModelProto, images: Array) -> Graph:
    graph = import_onnx(model)
    check_graph(graph)
    assert largest_error(evaluate_outputs(graph, images), run_onnxruntime(model, images)) <= TOLERANCE
    return graph


def problems_of(model: onnx.ModelProto) -> tuple[str, ...]:
    with pytest.raises(UnsupportedModel) as caught:
        import_onnx(model)
    return caught.value.problems


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


# Refusals: what stands in the way, and a fragment of the message that says so.

Case = tuple[str, Callable[[ModelBuilder], Tensor], str]


def _convolution(**options: Any) -> Callable[[ModelBuilder], Tensor]:
    def build(builder: ModelBuilder) -> Tensor:
        weights = builder.constant(builder.signs((4, 3, 3, 3)))
        name = builder.node("Conv", builder.image.name, weights, name="guilty", **options)
        return Tensor(name=name, channels=4, height=builder.height - 2, width=builder.width - 2)

    return build


def _weights(change: Callable[[Array], None]) -> Callable[[ModelBuilder], Tensor]:
    def build(builder: ModelBuilder) -> Tensor:
        weights = builder.signs((4, 3, 3, 3))
        change(weights)
        name = builder.node("Conv", builder.image.name, builder.constant(weights), name="guilty")
        return Tensor(name=name, channels=4, height=builder.height - 2, width=builder.width - 2)

    return build


def _set(number: float) -> Callable[[Array], None]:
    def change(weights: Array) -> None:
        weights.flat[[3, 50]] = number

    return change


def _node(op: str, *constants: Any, first: bool = False, **attributes: Any) -> Callable[[ModelBuilder], Tensor]:
    def build(builder: ModelBuilder) -> Tensor:
        names = [
            builder.constant(c, np.int64 if op in ("Pad", "Reshape", "Squeeze") else np.float32) for c in constants
        ]
        return builder.apply(builder.image, op, *names, first=first, name="guilty", **attributes)

    return build


def _two_values(op: str, **attributes: Any) -> Callable[[ModelBuilder], Tensor]:
    def build(builder: ModelBuilder) -> Tensor:
        return builder.apply(builder.image, op, builder.image.name, name="guilty", **attributes)

    return build


def _batch_norm(**changes: Any) -> Callable[[ModelBuilder], Tensor]:
    def build(builder: ModelBuilder) -> Tensor:
        numbers = {"gain": np.ones(3), "shift": np.zeros(3), "mean": np.zeros(3), "variance": np.ones(3)}
        attributes = {name: value for name, value in changes.items() if name not in numbers}
        numbers |= {name: np.asarray(value) for name, value in changes.items() if name in numbers}
        constants = [builder.constant(numbers[name]) for name in ("gain", "shift", "mean", "variance")]
        return builder.apply(builder.image, "BatchNormalization", *constants, name="guilty", **attributes)

    return build


def _computed_batch_norm(builder: ModelBuilder) -> Tensor:
    mean = builder.node("GlobalAveragePool", builder.image.name)
    constants = [builder.constant(np.ones(3)) for _ in range(3)]
    operands = (constants[0], constants[1], mean, constants[2])
    return builder.apply(builder.image, "BatchNormalization", *operands, name="guilty")


def _where(first: float, second: float, op: str = "GreaterOrEqual") -> Callable[[ModelBuilder], Tensor]:
    def build(builder: ModelBuilder) -> Tensor:
        condition = builder.node(op, builder.image.name, builder.constant(0.0))
        choices = [builder.constant(number) for number in (first, second)]
        return builder.renamed(builder.image, builder.node("Where", condition, *choices, name="guilty"))

    return build


def _where_of_a_value(builder: ModelBuilder) -> Tensor:
    condition = builder.node("Cast", builder.image.name, to=onnx.TensorProto.BOOL, name="guilty")
    choices = [builder.constant(number) for number in (1.0, -1.0)]
    return builder.renamed(builder.image, builder.node("Where", condition, *choices))


def _bare_comparison(builder: ModelBuilder) -> Tensor:
    condition = builder.node("Less", builder.image.name, builder.constant(0.0))
    return builder.renamed(builder.image, builder.node("Cast", condition, to=1, name="guilty"))


def _dense_of_an_image(builder: ModelBuilder) -> Tensor:
    weights = builder.constant(builder.signs((builder.width, 4)))
    return Tensor(name=builder.node("MatMul", builder.image.name, weights, name="guilty"), channels=3)


def _matmul_of_values(builder: ModelBuilder) -> Tensor:
    square = ModelBuilder.renamed(builder.image, builder.image.name)
    name = builder.node("MatMul", square.name, builder.node("Transpose", square.name, perm=[0, 1, 3, 2]), name="guilty")
    return Tensor(name=name, channels=3)


def _transposed_gemm(builder: ModelBuilder) -> Tensor:
    features = builder.flatten(builder.image)
    name = builder.node("Gemm", features.name, builder.constant(builder.signs((1, 4))), transA=1, name="guilty")
    return Tensor(name=name, channels=4, flat=True)


def _inner_softmax(builder: ModelBuilder) -> Tensor:
    return builder.apply(builder.apply(builder.image, "Softmax", axis=1, name="guilty"), "Relu")


def _joined_constant(builder: ModelBuilder) -> Tensor:
    ones = builder.constant(np.ones((1, 2, builder.height, builder.width)))
    return builder.renamed(builder.image, builder.node("Concat", builder.image.name, ones, axis=1, name="guilty"))


def _sum_of_different_sizes(builder: ModelBuilder) -> Tensor:
    pooled = builder.node("GlobalAveragePool", builder.image.name)
    return builder.renamed(builder.image, builder.node("Add", builder.image.name, pooled, name="guilty"))


def _pool(op: str, **attributes: Any) -> Callable[[ModelBuilder], Tensor]:
    def build(builder: ModelBuilder) -> Tensor:
        name = builder.node(op, builder.image.name, kernel_shape=[2, 2], name="guilty", **attributes)
        return Tensor(name=name, channels=3)

    return build


REFUSALS: tuple[Case, ...] = (
    ("dilated convolution", _convolution(dilations=[2, 2]), "has dilations [2, 2]; only 1 is supported"),
    ("negative pads", _convolution(pads=[-1, 0, 0, 0]), "has pads [-1, 0, 0, 0]; four numbers"),
    ("NaN weight", _weights(_set(np.nan)), "2 of the 108 numbers of its weights are NaN or infinite"),
    ("infinite weight", _weights(_set(np.inf)), "NaN or infinite; the training has diverged"),
    ("zeros among 1-bit weights", _weights(_set(0.0)), "2 of its 108 weights are exactly 0 among two values"),
    ("unknown operation", _node("Tanh"), "operation is not supported"),
    ("unknown domain", _node("Relu", domain="com.example"), "operation of domain 'com.example' is not supported"),
    ("sign of ONNX", _node("Sign"), "ONNX Sign gives 0 at 0"),
    ("product of two values", _two_values("Mul"), "multiplies two computed values"),
    ("difference of two values", _two_values("Sub"), "is not a constant"),
    ("quotient with a value below", _node("Div", 1.0, first=True), "divides by a computed value"),
    ("division by zero", _node("Div", 0.0), "divides by 0"),
    ("constant over pixels", _node("Mul", np.ones((1, 1, 7, 6))), "changes over more than the channels"),
    ("constant over columns", _node("Add", np.ones(6)), "changes over more than the channels"),
    ("NaN constant", _node("Add", np.nan), "1 of the 1 numbers of its constant are NaN or infinite"),
    ("bound that differs", _node("Max", np.arange(3.0).reshape(3, 1, 1)), "its constant differs between channels"),
    ("three operands", _node("Max", 0.0, 1.0), "has 3 operands"),
    ("bounds the wrong way round", _node("Clip", 1.0, 1.0), "its bounds 1.0 and 1.0 leave nothing"),
    ("NaN bound", _node("Clip", np.nan, 1.0), "its bound is NaN"),
    ("training mode", _batch_norm(training_mode=1), "is in training mode"),
    ("negative variance", _batch_norm(variance=(1.0, -1.0, 1.0)), "has a variance that is not positive"),
    ("infinite mean", _batch_norm(mean=(np.inf, 0.0, 0.0)), "1 of the 3 numbers of its mean are NaN or infinite"),
    ("too few gains", _batch_norm(gain=np.ones(2)), "has 2 numbers in its gain for 3 channels"),
    ("statistics that are computed", _computed_batch_norm, "is not a constant; export the model in evaluation mode"),
    ("three-valued choice", _where(1.0, 0.0), "chooses 1.0 where x >= 0 and 0.0 elsewhere"),
    ("reversed choice", _where(-1.0, 1.0), "chooses -1.0 where x >= 0 and 1.0 elsewhere"),
    ("reversed choice of less", _where(1.0, -1.0, "Less"), "chooses -1.0 where x >= 0"),
    ("comparison that includes no 0", _where(1.0, -1.0, "Greater"), "operation is not supported"),
    ("condition that is no comparison", _where_of_a_value, "casts to BOOL; only casts between float types"),
    ("comparison used as number", _bare_comparison, "reads the outcome of a comparison"),
    ("scale of a bipolar quantiser", _node("BipolarQuant", -1.0, domain="qonnx"), "its scale is -1.0"),
    ("dense layer of an image", _dense_of_an_image, "multiplies a matrix with an image; flatten"),
    ("matrix product of values", _matmul_of_values, "operation is not supported"),
    ("transposed image operand", _transposed_gemm, "transposes its image operand"),
    ("softmax inside", _inner_softmax, "stands inside the network"),
    ("constant channels that are not zero", _joined_constant, "zero channels at the ends are supported"),
    ("sum of different sizes", _sum_of_different_sizes, "operands differ in shape"),
    ("padded and rounded up", _pool("AveragePool", count_include_pad=1, pads=[1, 1, 1, 1], ceil_mode=1), "at once"),
    ("dilated pool", _pool("MaxPool", dilations=[2, 2]), "has dilations [2, 2]"),
    ("reflection", _node("Pad", (0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"), "pads in mode 'reflect'"),
    ("cropping", _node("Pad", (0, 0, -1, 0, 0, 0, 0, 0)), "not negative, are supported"),
    ("padded batch", _node("Pad", (1, 0, 0, 0, 0, 0, 0, 0)), "not negative, are supported"),
    ("mean over channels", _node("ReduceMean", axes=[1], keepdims=1), "takes the mean over axes"),
    ("unflattening", _node("Reshape", (-1, 6, 7, 3)), "reshapes to [-1, 6, 7, 3]"),
    ("flattening from another axis", _node("Flatten", axis=2), "flattens from another axis than 1"),
    ("squeeze of a whole image", _node("Squeeze", (2,)), "squeezes axes [2]"),
    ("integers", _node("Cast", to=onnx.TensorProto.INT32), "casts to INT32"),
    ("joined rows", _two_values("Concat", axis=2), "joins along another axis than the channels"),
)


@pytest.mark.parametrize(("build", "fragment"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_refusal_names_the_node_and_the_reason(build: Callable[[ModelBuilder], Tensor], fragment: str) -> None:
    builder = ModelBuilder(opset=13)
    value = build(builder)
    problems = problems_of(builder.model(value))
    assert any(fragment in problem for problem in problems), problems
    assert len(problems) == 1 or "matrix" in fragment or fragment == "operation is not supported"
    if fragment != "operation is not supported":
        assert "'guilty'" in problems[0]


def test_every_problem_is_listed_at_once() -> None:
    builder = ModelBuilder()
    bad = builder.signs((3, 3, 1, 1))
    bad.flat[1] = np.nan
    holes = builder.signs((3, 3, 1, 1))
    holes.flat[2] = 0
    image = builder.image.name
    names = [
        builder.node("Tanh", image, name="squash"),
        builder.node("Conv", image, builder.constant(bad), name="diverged"),
        builder.node("Conv", image, builder.constant(holes), name="ternary"),
        builder.node(
            "Conv", image, builder.constant(builder.signs((3, 3, 3, 3))), dilations=[2, 2], pads=[2] * 4, name="dilated"
        ),
    ]
    value = builder.renamed(builder.image, names[0])
    for name in names[1:]:
        value = builder.add(value, builder.renamed(value, name))
    with pytest.raises(UnsupportedModel) as caught:
        import_onnx(builder.model(builder.reduce_mean(value, keep=False)), name="four")
    problems = caught.value.problems
    assert [next(n for n in ("squash", "diverged", "ternary", "dilated") if n in p) for p in problems] == [
        "squash",
        "diverged",
        "ternary",
        "dilated",
    ]
    text = str(caught.value)
    assert "4 problems" in text
    assert "four" in text
    assert all(problem in text for problem in problems)


def test_what_stands_behind_a_refused_node_gives_no_message_of_its_own() -> None:
    builder = ModelBuilder()
    value = builder.apply(builder.image, "Sign", name="first")
    value = builder.batch_norm(builder.apply(value, "Relu"))
    assert len(problems_of(builder.model(builder.reduce_mean(value, keep=False)))) == 1


def test_output_that_ignores_the_image_is_refused() -> None:
    builder = ModelBuilder()
    constant = builder.constant(np.ones((1, 3)))
    value = Tensor(name=builder.node("Relu", constant), channels=3, flat=True)
    assert any("does not depend on the image" in p for p in problems_of(builder.model(value)))


def test_free_image_size_is_refused() -> None:
    builder = ModelBuilder()
    model = builder.model(builder.reduce_mean(builder.image, keep=False))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    assert any("export with a fixed image size" in problem for problem in problems_of(model))


def test_two_images_are_refused() -> None:
    builder = ModelBuilder()
    model = builder.model(builder.reduce_mean(builder.image, keep=False))
    other = helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1, 3, 7, 6])
    model.graph.input.append(other)
    assert any("exactly one input" in p and "'image', 'other'" in p for p in problems_of(model))


def test_two_outputs_are_refused() -> None:
    builder = ModelBuilder()
    value = builder.reduce_mean(builder.image, keep=False)
    model = builder.model(value)
    model.graph.output.append(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, None))
    assert any("exactly one output" in problem for problem in problems_of(model))


def test_shipped_model_is_read_with_name_and_digest() -> None:
    source = read_onnx(DIGITS)
    assert source.name == "digits"
    assert len(source.sha256) == 64
    check_graph(import_onnx(source.model))


def _truncated(path: Path) -> None:
    path.write_bytes(DIGITS.read_bytes()[:1000])


def _newer(path: Path) -> None:
    model = onnx.load(DIGITS)
    model.ir_version = onnx.IR_VERSION + 1
    path.write_bytes(model.SerializeToString())


def _external(path: Path) -> None:
    model = onnx.load(DIGITS)
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())


def _nothing(path: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("write", "fragment"),
    [
        (_nothing, "no such file"),
        (_truncated, "not an ONNX model"),
        (lambda path: path.write_bytes(b""), "has no nodes"),
        (lambda path: path.write_text("not a model"), "not an ONNX model"),
        (_newer, "ONNX IR version"),
        (_external, "kept in other files"),
    ],
)
def test_bad_file_is_bad_input(write: Callable[[Path], object], fragment: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path)
    with pytest.raises(BadInput, match=fragment) as caught:
        read_onnx(path)
    assert str(path) in str(caught.value)


def test_malformed_model_is_bad_input_not_a_crash() -> None:
    builder = ModelBuilder()
    model = builder.model(builder.reduce_mean(builder.image, keep=False))
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises((BadInput, UnsupportedModel)):
        import_onnx(model)
