"""Models that no exporter writes: damaged tensors and nodes are the user's error, in one message."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from graph_helpers import chain
from model_builder import ModelBuilder, Tensor
from pass_helpers import RELU, convolution, kinds

from bnhw.errors import BadInput, UnsupportedModel
from bnhw.importer import import_onnx
from bnhw.ops import Flatten, Window
from bnhw.passes.absorb import AbsorbFlatten


def _convolution() -> onnx.ModelProto:
    builder = ModelBuilder()
    return builder.model(builder.convolution(builder.image, builder.signs((4, 3, 3, 3))))


def _cut_short(weights: onnx.TensorProto) -> None:
    weights.raw_data = weights.raw_data[:50]


def _huge(weights: onnx.TensorProto) -> None:
    weights.dims[:] = [1 << 20, 1 << 20, 3, 3]


def _of_no_type(weights: onnx.TensorProto) -> None:
    weights.data_type = 0


@pytest.mark.parametrize("damage", [_cut_short, _huge, _of_no_type])
def test_damaged_weights_are_bad_input_that_names_the_tensor(damage: Callable[[onnx.TensorProto], None]) -> None:
    model = _convolution()
    damage(model.graph.initializer[0])
    with pytest.raises(BadInput, match=r"broken: tensor 'constant_0' of type . and shape .* is damaged .*export"):
        import_onnx(model, name="broken")


def _bipolar(scale: Any) -> onnx.ModelProto:
    builder = ModelBuilder()
    operands = [builder.constant(builder.signs((4, 3, 3, 3))), builder.constant(scale)]
    weights = builder.node("BipolarQuant", *operands, domain="qonnx", name="guilty")
    return builder.model(Tensor(name=builder.node("Conv", "image", weights), channels=4, height=5, width=4))


@pytest.mark.parametrize("shape", [(7,), (5, 4, 3, 3, 3)])
def test_scale_of_a_bipolar_quantiser_that_does_not_fit_is_bad_input(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"BipolarQuant 'guilty': its scale of shape .* does not fit"):
        import_onnx(_bipolar(np.ones(shape)))


def test_scales_of_a_bipolar_quantiser_may_differ_between_output_channels() -> None:
    graph = import_onnx(_bipolar(np.array((1, 2, 3, 4)).reshape(4, 1, 1, 1)))
    assert kinds(graph) == ["Convolution"]


def test_damaged_scale_of_a_bipolar_quantiser_is_bad_input() -> None:
    model = _bipolar(2.0)
    _cut_short(model.graph.initializer[1])
    model.graph.initializer[1].dims[:] = [2]
    with pytest.raises(BadInput, match=r"tensor 'constant_1' of type 1 .* is damaged"):
        import_onnx(model)


def _node(op: str, *operands: Any, **attributes: Any) -> onnx.ModelProto:
    """A model of one node; operands are names, or arrays that become constants."""
    builder = ModelBuilder()
    names = [
        operand if isinstance(operand, str) else builder.constant(operand, np.asarray(operand).dtype)
        for operand in operands
    ]
    return builder.model(Tensor(name=builder.node(op, *names, name="guilty", **attributes), channels=3))


TEXTS = np.array([["a"]], object)
WEIGHTS = np.ones((3, 3, 3, 3), np.float32)
ONES = np.ones(3, np.float32)
AWAY = 1 << 40
MALFORMED: tuple[tuple[str, onnx.ModelProto, str], ...] = (
    ("no input", _node("Relu"), "has 0 operands, at least 1 are expected"),
    ("one operand", _node("Add", "image"), "has 1 operands, at least 2 are expected"),
    ("no condition", _node("Where"), "is malformed (IndexError"),
    ("stride 0", _node("Conv", "image", WEIGHTS, strides=[0, 0]), "has kernel [3, 3] and strides [0, 0]"),
    ("pool of stride 0", _node("MaxPool", "image", kernel_shape=[2, 2], strides=[0, 1], ceil_mode=1), "strides [0, 1]"),
    ("kernel of size 0", _node("MaxPool", "image", kernel_shape=[0, 2]), "has kernel [0, 2]"),
    ("scalar weights", _node("Conv", "image", np.float32(3)), "has weights of shape ()"),
    ("no weights", _node("Conv", "image", WEIGHTS[:0]), "has no weights: their shape is (0, 3, 3, 3)"),
    ("no groups", _node("Conv", "image", WEIGHTS, group=0), "has 0 groups"),
    ("texts as weights", _node("Conv", "image", TEXTS[..., None, None]), "is malformed (TypeError"),
    ("text as group", _node("Conv", "image", WEIGHTS, group="a"), "is malformed (ValueError"),
    ("texts as axes", _node("Squeeze", "image", TEXTS[0]), "is malformed (ValueError"),
    ("text as epsilon", _node("BatchNormalization", "image", *[ONES] * 4, epsilon="a"), "is malformed (ValueError"),
    ("NaN as epsilon", _node("BatchNormalization", "image", *[ONES] * 4, epsilon=np.nan), "variance that is not posit"),
    ("kernels in the padding", _node("AveragePool", "image", kernel_shape=[2, 2], pads=[2, 0, 0, 0]), "lie outside of"),
    ("huge pads", _node("MaxPool", "image", kernel_shape=[AWAY] * 2, pads=[AWAY - 1] * 4), "its padded image of shape"),
    (
        "huge padding",
        _node("Pad", "image", np.array([0, 0, 0, AWAY, 0, 0, 0, 0])),
        "numbers an image, at most 134217728",
    ),
)


@pytest.mark.parametrize(("model", "fragment"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed_node_is_a_listed_problem(model: onnx.ModelProto, fragment: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        import_onnx(model)
    (problem,) = caught.value.problems
    assert fragment in problem
    assert "'guilty'" in problem


def test_node_without_outputs_is_a_listed_problem() -> None:
    model = _convolution()
    model.graph.node[0].output.pop()
    with pytest.raises((BadInput, UnsupportedModel)):
        import_onnx(model)


def test_huge_image_is_refused() -> None:
    builder = ModelBuilder(height=100_000, width=100_000)
    with pytest.raises(UnsupportedModel, match="'image' has 30000000000 numbers an image, at most 134217728"):
        import_onnx(builder.model(builder.reduce_mean(builder.image, keep=False)))


def test_convolution_of_one_pixel_may_be_padded() -> None:
    model = _node("Conv", "image", WEIGHTS[:, :, :1, :1], pads=[1, 1, 1, 1])
    assert kinds(import_onnx(model)) == ["Convolution"]


def test_flatten_moves_down_past_more_nodes_than_python_recurses() -> None:
    dense = convolution(2, 4, window=Window(kernel=(1, 1)))
    graph = chain(Flatten(), *[RELU] * 1100, dense, shape=(1, 2, 2))
    assert "Flatten" not in kinds(AbsorbFlatten().run(graph))
