"""Reading ONNX files: what is no model, or one that cannot be opened."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from model_builder import ModelBuilder

from bnhw.errors import BadInput, UnsupportedModel
from bnhw.importer import import_onnx, read_onnx
from bnhw.verify import check_graph

DIGITS = Path(__file__).parents[1] / "bnhw" / "demo" / "digits.onnx"


def test_shipped_model_is_read_with_name_and_digest() -> None:
    source = read_onnx(DIGITS)
    assert source.name == "digits"
    assert len(source.sha256) == 64
    check_graph(import_onnx(source.model))


def test_name_of_a_model_is_printable(tmp_path: Path) -> None:
    path = tmp_path / "net\x1b[2J.onnx"
    path.write_bytes(DIGITS.read_bytes())
    assert read_onnx(path).name == "net?[2J"


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


def _elsewhere() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="elsewhere", data_type=1, dims=[3], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    return tensor


def _external_in_a_function(path: Path) -> None:
    model = onnx.load(DIGITS)
    nodes = [onnx.helper.make_node("Constant", [], ["b"], value=_elsewhere())]
    model.functions.append(onnx.helper.make_function("own", "F", ["a"], ["b"], nodes, list(model.opset_import)))
    path.write_bytes(model.SerializeToString())


def _external_default_of_a_function(path: Path) -> None:
    model = onnx.load(DIGITS)
    default = onnx.helper.make_attribute("value", _elsewhere())
    model.functions.append(onnx.FunctionProto(name="F", domain="own", attribute_proto=[default]))
    path.write_bytes(model.SerializeToString())


def _external_in_a_branch_of_a_function(path: Path) -> None:
    model = onnx.load(DIGITS)
    branch = onnx.GraphProto(name="then", initializer=[_elsewhere()])
    node = onnx.NodeProto(op_type="If", attribute=[onnx.helper.make_attribute("then_branch", branch)])
    model.functions.append(onnx.FunctionProto(name="F", domain="own", node=[node]))
    path.write_bytes(model.SerializeToString())


def _external_sparse(path: Path) -> None:
    model = onnx.load(DIGITS)
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=_elsewhere(), dims=[3]))
    path.write_bytes(model.SerializeToString())


def _external_sparse_attribute(path: Path) -> None:
    model = onnx.load(DIGITS)
    sparse = onnx.SparseTensorProto(indices=_elsewhere(), dims=[3])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("sparse_value", sparse))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("write", "fragment"),
    [
        (_nothing, "no such file"),
        (_truncated, "not an ONNX model"),
        (lambda path: path.write_bytes(b""), "has no nodes"),
        (lambda path: path.write_text("not a model"), "not an ONNX model"),
        (_newer, "ONNX IR version"),
        (_external, "kept in other files"),
        (_external_in_a_function, "1 tensors, 'elsewhere' the first, are kept in other files"),
        (_external_default_of_a_function, "kept in other files"),
        (_external_in_a_branch_of_a_function, "kept in other files"),
        (_external_sparse, "kept in other files"),
        (_external_sparse_attribute, "kept in other files"),
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
