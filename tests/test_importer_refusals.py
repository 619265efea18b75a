"""Every reason for which the importer refuses a model, and how it says so."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from model_builder import ModelBuilder, Tensor
from onnx import helper

from bnhw.dtypes import Array
from bnhw.errors import UnsupportedModel
from bnhw.importer import import_onnx


def problems_of(model: onnx.ModelProto) -> tuple[str, ...]:
    with pytest.raises(UnsupportedModel) as caught:
        import_onnx(model)
    return caught.value.problems


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


def _product_with_a_channel(builder: ModelBuilder) -> Tensor:
    one = builder.convolution(builder.image, builder.signs((1, 3, 1, 1)))
    return builder.apply(builder.image, "Mul", one.name, name="guilty")


def _product_with_flat_features(builder: ModelBuilder) -> Tensor:
    gate = builder.reduce_mean(builder.image, keep=False)
    return builder.apply(builder.image, "Mul", gate.name, name="guilty")


def _sum_with_flat_features(builder: ModelBuilder) -> Tensor:
    pooled = builder.reduce_mean(builder.image, keep=True)
    flat = builder.reduce_mean(builder.image, keep=False)
    return builder.apply(pooled, "Add", flat.name, name="guilty")


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


def _dropout_in_training(builder: ModelBuilder) -> Tensor:
    operands = builder.constant(0.5), builder.constant(True, np.bool_)
    return builder.apply(builder.image, "Dropout", *operands, name="guilty")


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
    ("unknown operation", _node("Atan"), "operation is not supported"),
    ("unknown domain", _node("Relu", domain="com.example"), "operation of domain 'com.example' is not supported"),
    ("sign of ONNX", _node("Sign"), "ONNX Sign gives 0 at 0"),
    ("product with one number a pixel", _product_with_a_channel, "a value (3, 7, 6) times (1, 7, 6); a gate of"),
    ("product with flat features", _product_with_flat_features, "by one of 2; keep the axes of the mean"),
    ("sum with flat features", _sum_with_flat_features, "adds a value of 4 axes to one of 2; flatten both, or neither"),
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
    ("dropout in training mode", _dropout_in_training, "is in training mode; export the model in evaluation mode"),
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
    ("flattening of rows", _node("Reshape", (-1, 0)), "reshapes to"),
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
        builder.node("Atan", image, name="squash"),
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


def test_problems_are_printable() -> None:
    builder = ModelBuilder()
    value = builder.apply(builder.image, "Op\x1b[2J", name="node\x1b[2J", domain="of\x1b[2J")
    (problem,) = problems_of(builder.model(builder.reduce_mean(value, keep=False)))
    assert problem.startswith("Op?[2J 'node?[2J': operation of domain 'of?[2J' is not supported")


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
