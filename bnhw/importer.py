"""ONNX to the float graph.

Constant folding and shape inference are done by onnxscript and onnx before this reads a node. Every ONNX
operation that can be read is one entry of `CONVERTERS` (in `bnhw.onnx_ops`); whatever stands in the way of
compiling is collected, so that the user sees all of it at once.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript import optimizer

from bnhw.dtypes import Array
from bnhw.errors import BadInput, UnsupportedModel
from bnhw.files import read_file
from bnhw.graph import Graph, Value, remove_dead
from bnhw.onnx_builder import Builder, OnnxNode, printable
from bnhw.onnx_ops import CONVERTERS, convert_node

MAX_MODEL_BYTES = 2**31 - 1
"""The limit of the protocol-buffer format itself."""

MAX_FOLDED_ELEMENTS = 1 << 27
"""Constant folding makes no tensor larger than this: a model file is not trusted to size our memory."""

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
    folded = _fold_constants(model, name)
    graph = folded.graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
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
        convert_node(builder, OnnxNode.read(node, index))
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
    if len(graph.output) != 1:
        names = ", ".join(repr(value.name) for value in graph.output) or "none"
        problems.append(f"the model needs exactly one output, found {names}")
    return problems


def _fold_constants(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Constant folding and shape inference by onnxscript, on a copy."""
    work = onnx.ModelProto()
    work.CopyFrom(model)
    _drop_constant_inputs(work)
    _read_one_image(work)
    _evaluate_bipolar_constants(work)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        intermediate = onnx_ir.from_proto(work)
        optimizer.inline(intermediate)
        # Only folding: the optimiser's rewrites would put batch norms into the weights in float32, but a batch
        # norm's constant is defined in float64 (docs/integer-semantics.md).
        optimizer.fold_constants(
            intermediate,
            onnx_shape_inference=True,
            input_size_limit=MAX_FOLDED_ELEMENTS,
            output_size_limit=MAX_FOLDED_ELEMENTS,
        )
        optimizer.remove_unused_nodes(intermediate)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(intermediate)
        return onnx_ir.to_proto(intermediate)
    except Exception as error:  # a malformed model fails inside the optimiser in many ways
        raise BadInput(f"{name}: not a well-formed ONNX model ({error}); run onnx.checker on it") from error


def _drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Old files list every constant among the inputs too, where nothing may be folded into it."""
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _read_one_image(model: onnx.ModelProto) -> None:
    """A free batch becomes 1, so that shapes computed from it (`x.view(x.size(0), -1)`) are constants."""
    del model.graph.value_info[:]  # they name the free batch; shape inference makes them again
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) and not dims[0].dim_value:
            dims[0].dim_value = 1


def _evaluate_bipolar_constants(model: onnx.ModelProto) -> None:
    """Replace QONNX `BipolarQuant` of a constant by its value, which no ONNX tool folds for its own domain."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    kept = []
    for node in model.graph.node:
        operands = [tensors.get(name) for name in node.input]
        if node.op_type == "BipolarQuant" and len(operands) == 2 and all(t is not None for t in operands):
            weights, scale = (onnx.numpy_helper.to_array(t) for t in operands if t is not None)
            value = np.where(weights >= 0, scale, -scale).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
