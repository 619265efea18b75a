"""Constants that the importer evaluates, and the sizes up to which it does."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graph_helpers import largest_error
from model_builder import ModelBuilder, Tensor, random_images, run_onnxruntime
from onnx import numpy_helper
from pass_helpers import kinds

from bnhw.errors import BadInput, UnsupportedModel
from bnhw.importer import import_onnx
from bnhw.onnx_folding import MAX_FOLDED_ELEMENTS
from bnhw.verify import evaluate_outputs


def _filled(builder: ModelBuilder, shape: str, dtype: type) -> str:
    return builder.node("ConstantOfShape", shape, value=numpy_helper.from_array(np.zeros(1, dtype)))


def _torch_pads(builder: ModelBuilder, pads: tuple[int, ...]) -> str:
    """Pads (left, right, top, bottom, ...) as torch.onnx.export(dynamo=False) turns them into ONNX's order."""

    def integers(*numbers: int) -> str:
        return builder.constant(numbers, np.int64)

    rest = _filled(builder, integers(8 - len(pads)), np.int64)
    pairs = builder.node("Reshape", builder.node("Concat", integers(*pads), rest, axis=0), integers(-1, 2))
    last_first = builder.node("Slice", pairs, *(integers(n) for n in (-1, -(1 << 62), 0, -1)))
    flat = builder.node("Reshape", builder.node("Transpose", last_first, perm=[1, 0]), integers(-1))
    return builder.node("Cast", flat, to=onnx.TensorProto.INT64)


def _zero_pad(builder: ModelBuilder) -> Tensor:
    name = builder.node("Pad", "image", _torch_pads(builder, (0, 1, 2, 0)), mode="constant")
    return Tensor(name=name, channels=3, height=builder.height + 2, width=builder.width + 1)


def _channel_pad(builder: ModelBuilder) -> Tensor:
    name = builder.node("Pad", "image", _torch_pads(builder, (0, 0, 0, 0, 1, 2)), mode="constant")
    return Tensor(name=name, channels=6, height=builder.height, width=builder.width)


def _zeros_like(builder: ModelBuilder) -> Tensor:
    zeros = _filled(builder, builder.node("Shape", "image"), np.float32)
    name = builder.node("Concat", "image", zeros, axis=1)
    return Tensor(name=name, channels=6, height=builder.height, width=builder.width)


@pytest.mark.parametrize(
    ("pad", "kind"), [(_zero_pad, "ZeroPad"), (_channel_pad, "ChannelPad"), (_zeros_like, "ChannelPad")]
)
def test_zero_padding_as_torch_script_exports_it(pad: Callable[[ModelBuilder], Tensor], kind: str) -> None:
    builder = ModelBuilder(opset=17)
    padded = pad(builder)
    model = builder.model(builder.convolution(padded, builder.signs((4, padded.channels, 3, 3))))
    graph = import_onnx(model)
    assert kinds(graph) == [kind, "Convolution"]
    images = random_images(builder)
    assert largest_error(evaluate_outputs(graph, images), run_onnxruntime(model, images)) <= 1e-4


def _added(builder: ModelBuilder, constant: str) -> onnx.ModelProto:
    return builder.model(builder.apply(builder.image, "Add", constant))


SIZE = MAX_FOLDED_ELEMENTS + 1


def _expect_not_evaluated(model: onnx.ModelProto, op: str) -> None:
    """The model is refused because of `op`, and the numbers that this stands for were never in memory."""
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModel, match=f"{op} 'node 0'"):
            import_onnx(model)
        assert tracemalloc.get_traced_memory()[1] < SIZE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Pad", "Range", "Tile"])
def test_constants_that_would_be_huge_are_not_evaluated(op: str) -> None:
    builder = ModelBuilder(opset=17)
    one = builder.constant(np.ones((1, 1, 1, 1)))
    operands = {
        "ConstantOfShape": [builder.constant((1, 1, 1, SIZE), np.int64)],
        "Expand": [one, builder.constant((1, 1, 1, SIZE), np.int64)],
        "Pad": [one, builder.constant((0, 0, 0, 0, 0, 0, 0, SIZE), np.int64)],
        "Range": [builder.constant(n, np.int64) for n in (0, SIZE, 1)],
        "Tile": [one, builder.constant((1, 1, 1, SIZE), np.int64)],
    }
    _expect_not_evaluated(_added(builder, builder.node(op, *operands[op])), op)


def test_sizes_that_the_file_claims_are_not_believed() -> None:
    builder = ModelBuilder(opset=17)
    name = builder.node("Tile", builder.constant(np.ones((1, 1))), builder.constant((1, SIZE), np.int64))
    model = builder.model(Tensor(name=name, channels=1, flat=True))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1]))
    _expect_not_evaluated(model, "Tile")


def test_zeros_are_evaluated_up_to_a_size() -> None:
    for count, works in ((1 << 20, True), ((1 << 20) + 1, False)):
        builder = ModelBuilder(channels=1, height=1, width=1)
        zeros = _filled(builder, builder.constant((1, count, 1, 1), np.int64), np.float32)
        joined = Tensor(name=builder.node("Concat", "image", zeros, axis=1), channels=1 + count)
        if works:
            assert kinds(import_onnx(builder.model(joined))) == ["ChannelPad"]
        else:
            with pytest.raises(UnsupportedModel, match="ConstantOfShape 'node 0'"):
                import_onnx(builder.model(joined))


def _calls(bodies: dict[str, list[str]]) -> onnx.ModelProto:
    """A model whose only node calls F0; each function is a chain of calls, or of ReLUs."""
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    builder = ModelBuilder(opset=17)
    model = builder.model(builder.apply(builder.image, "F0", domain="own"))
    model.opset_import.append(opsets[1])
    for name, called in bodies.items():
        nodes = [
            onnx.helper.make_node(op, [f"v{i}"], [f"v{i + 1}"], domain="own" if op in bodies else "")
            for i, op in enumerate(called)
        ]
        model.functions.append(onnx.helper.make_function("own", name, ["v0"], [f"v{len(called)}"], nodes, opsets))
    return model


def test_functions_are_inlined() -> None:
    graph = import_onnx(_calls({"F0": ["F1", "F1"], "F1": ["Relu", "Relu"]}))
    assert kinds(graph) == ["Clamp"] * 4


def test_functions_that_would_be_inlined_too_often_are_bad_input() -> None:
    bodies = {f"F{i}": [f"F{i + 1}"] * 2 for i in range(40)} | {"F40": ["Relu"]}
    with pytest.raises(BadInput, match=f"twice: has {2**40} nodes when its functions are inlined, at most 100000"):
        import_onnx(_calls(bodies), name="twice")


def test_functions_that_call_themselves_are_bad_input() -> None:
    with pytest.raises(BadInput, match="call each other more than 50 deep, or themselves; export"):
        import_onnx(_calls({"F0": ["F1"], "F1": ["F0"]}))
