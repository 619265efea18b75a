"""ONNX to the float graph.

Constant folding and shape inference are done by onnxscript and onnx before this reads a node. Every ONNX
operation that can be read is one entry of `CONVERTERS` (in `bnhw.onnx_ops`); whatever stands in the way of
compiling is collected, so that the user sees all of it at once.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from bnhw.dtypes import Array
from bnhw.errors import BadInput, UnsupportedModel
from bnhw.files import read_file
from bnhw.graph import Graph, Value, remove_dead
from bnhw.onnx_builder import MAX_VALUE_ELEMENTS, Builder, printable
from bnhw.onnx_folding import fold_constants, tensor_array
from bnhw.onnx_ops import CONVERTERS, read_node

MAX_MODEL_BYTES = 2**31 - 1
"""The limit of the protocol-buffer format itself."""

ADVICE = f"Operations that can be read: {', '.join(sorted(CONVERTERS))}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model read from a file: the parsed ONNX, its printable name and the digest of its bytes."""

    model: onnx.ModelProto
    name: str
    sha256: str


def read_onnx(path: Path) -> Source:
    """Read and check an ONNX file.

    Raises BadInput when there is no such file, when it is no ONNX model, when its IR version is newer than
    the installed onnx knows, or when it keeps its weights in other files.
    """
    missing = "give the ONNX model that `bnhw export` or torch.onnx.export wrote"
    data = read_file(path, missing=missing, max_bytes=MAX_MODEL_BYTES)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError class differs between its implementations
        raise BadInput(f"{path}: not an ONNX model, or cut short ({error}); export it again") from error
    if not model.graph.node:
        raise BadInput(f"{path}: not an ONNX model, or an empty one: it has no nodes")
    if model.ir_version > onnx.IR_VERSION:
        raise BadInput(
            f"{path}: ONNX IR version {model.ir_version}, the installed onnx {onnx.__version__} knows up to "
            f"{onnx.IR_VERSION}; export with an older IR version or install a newer onnx"
        )
    external = [tensor.name for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        raise BadInput(
            f"{path}: {len(external)} tensors, {external[0]!r} the first, are kept in other files, which bnhw does "
            "not open; export with the weights inside the model file (external_data=False)"
        )
    return Source(model=model, name=printable(path.stem), sha256=hashlib.sha256(data).hexdigest())


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in a model: of its graph, and of its functions, which are inlined into the graph."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _attribute_tensors(function.attribute_proto)
        for node in function.node:
            yield from _attribute_tensors(node.attribute)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor in attributes, also in the graphs that they hold."""
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            yield from _graph_tensors(inner)


def import_onnx(model: onnx.ModelProto, *, name: str = "model") -> Graph:
    """The float graph of an ONNX model.

    The model takes one image batch, float (images, channels, height, width) or flat (images, features), and
    returns one output. Raises UnsupportedModel with every problem found.
    """
    folded = fold_constants(model, name)
    graph = folded.graph
    constants = {tensor.name: tensor_array(tensor, name) for tensor in graph.initializer}
    problems = _entry_problems(graph, constants)
    if problems:
        raise UnsupportedModel(problems, model=name)
    entry = next(value for value in graph.input if value.name not in constants)
    dims = tuple(dim.dim_value for dim in entry.type.tensor_type.shape.dim[1:])
    shape = dims if len(dims) == 3 else (dims[0], 1, 1)
    builder = Builder(
        constants=constants,
        entry=Value(name=entry.name, shape=(shape[0], shape[1], shape[2])),
        entry_rank=len(dims) + 1,
        outputs=tuple(value.name for value in graph.output),
    )
    for index, node in enumerate(graph.node):
        read_node(builder, node, index)
    (output,) = builder.outputs
    if not builder.problems and output not in builder.values:
        builder.problems.append(f"output {output!r} does not depend on the image")
    if builder.problems:
        raise UnsupportedModel(builder.problems, model=name, advice=ADVICE if builder.unknown_ops else "")
    return remove_dead(
        Graph(
            name=name,
            inputs=(Value(name=builder.values[entry.name].name, shape=builder.entry.shape),),
            outputs=(builder.values[output].name,),
            nodes=tuple(builder.nodes),
            notes=tuple(builder.notes),
        )
    )


def _entry_problems(graph: onnx.GraphProto, constants: Mapping[str, Array]) -> list[str]:
    problems: list[str] = []
    entries = [value for value in graph.input if value.name not in constants]
    if len(entries) != 1:
        names = ", ".join(repr(value.name) for value in entries) or "none"
        problems.append(f"the model needs exactly one input that is not a constant, found {names}")
    for value in entries[:1]:
        dims = value.type.tensor_type.shape.dim
        known = [dim.dim_value for dim in dims[1:]]
        if len(dims) not in (2, 4) or not all(size > 0 for size in known):
            problems.append(
                f"input {value.name!r} has shape {[d.dim_param or d.dim_value for d in dims]}; expected "
                "(batch, channels, height, width) or (batch, features) with all but the batch fixed: export "
                "with a fixed image size"
            )
        elif math.prod(known) > MAX_VALUE_ELEMENTS:
            problems.append(
                f"input {value.name!r} has {math.prod(known)} numbers an image, at most {MAX_VALUE_ELEMENTS} can be "
                "read: export with a smaller image size"
            )
    if len(graph.output) != 1:
        names = ", ".join(repr(value.name) for value in graph.output) or "none"
        problems.append(f"the model needs exactly one output, found {names}")
    return problems
