"""Constants of an ONNX model, evaluated before the importer reads its nodes."""

import logging
import math
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript import optimizer

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.onnx_builder import printable

MAX_FOLDED_ELEMENTS = 1 << 27
"""Constant folding makes no tensor larger than this: a model file is not trusted to size our memory."""

MAX_FILLED_ELEMENTS = 1 << 20
"""ConstantOfShape is evaluated up to this size: zero padding takes a few numbers, zero channels some thousands."""

MAX_INLINED_NODES = 100_000
"""Functions of a model are inlined up to this number of nodes: each may call others twice, and so on."""

MAX_CALL_DEPTH = 50
"""Functions of a model may call each other so deep; a function that calls itself is deeper."""

GROWING_OPS = frozenset({"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample"})
"""Operations whose few operands may say any size: they are evaluated only where shape inference knows it before."""


def fold_constants(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Constant folding and shape inference by onnxscript, on a copy.

    Raises BadInput, with the model's `name`, when the model is malformed.
    """
    work = onnx.ModelProto()
    work.CopyFrom(model)
    _require_few_calls(work, name)
    _drop_constant_inputs(work)
    _read_one_image(work)
    _evaluate_bipolar_constants(work, name)
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
            should_fold=_may_fold,
        )
        optimizer.remove_unused_nodes(intermediate)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(intermediate)
        return onnx_ir.to_proto(intermediate)
    except Exception as error:  # a malformed model fails inside the optimiser in many ways
        raise BadInput(f"{name}: not a well-formed ONNX model ({error}); run onnx.checker on it") from error


def _require_few_calls(model: onnx.ModelProto, name: str) -> None:
    """Raise BadInput where inlining the model's functions would make too many nodes, or never end."""
    if not model.functions:
        return
    bodies = {(_domain(f.domain), f.name, f.overload): f.node for f in model.functions}
    counts: dict[tuple[str, str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > MAX_CALL_DEPTH:
            raise BadInput(
                f"{name}: its functions call each other more than {MAX_CALL_DEPTH} deep, or themselves; export the "
                "model without functions of its own"
            )
        total = 0
        for node in nodes:
            key = (_domain(node.domain), node.op_type, node.overload)
            if key in bodies and key not in counts:
                counts[key] = count(bodies[key], depth + 1)
            total += counts.get(key, 1)
            for attribute in node.attribute:
                total += sum(count(inner.node, depth + 1) for inner in (attribute.g, *attribute.graphs) if inner.node)
        return total

    inlined = count(model.graph.node, 0)
    if inlined > MAX_INLINED_NODES:
        raise BadInput(
            f"{name}: has {inlined} nodes when its functions are inlined, at most {MAX_INLINED_NODES} are read; export "
            "the model without functions of its own"
        )


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _may_fold(node: onnx_ir.Node) -> bool | None:
    """Whether a node of constants is evaluated; None leaves it to the optimiser, which checks sizes only afterwards.

    The optimiser keeps every ConstantOfShape by default, but torch.onnx.export(dynamo=False) computes the pads of
    zero padding, and zero channels, with it.
    """
    sizes = [_inferred_size(value) for value in node.outputs]
    if node.op_type in GROWING_OPS and None in sizes:
        return False
    largest = max((size for size in sizes if size is not None), default=0)
    if node.op_type == "ConstantOfShape":
        return largest <= MAX_FILLED_ELEMENTS
    return False if largest > MAX_FOLDED_ELEMENTS else None


def _inferred_size(value: onnx_ir.Value) -> int | None:
    if value.shape is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy())


def _drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Old files list every constant among the inputs too, where nothing may be folded into it."""
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _read_one_image(model: onnx.ModelProto) -> None:
    """A free batch becomes 1, so that shapes computed from it (`x.view(x.size(0), -1)`) are constants."""
    del model.graph.value_info[:]  # they name the free batch; shape inference makes them again
    for function in model.functions:
        del function.value_info[:]
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) and not dims[0].dim_value:
            dims[0].dim_value = 1


def _evaluate_bipolar_constants(model: onnx.ModelProto, name: str) -> None:
    """Replace QONNX `BipolarQuant` of a constant by its value, which no ONNX tool folds for its own domain."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            tensors.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    kept = []
    for node in model.graph.node:
        operands = [tensors[name] for name in node.input if name in tensors]
        if node.op_type == "BipolarQuant" and len(node.input) == len(operands) == 2 and node.output:
            weights, scale = (tensor_array(tensor, name) for tensor in operands)
            value = _bipolar(weights, scale, f"{name}: BipolarQuant {printable(node.name)!r}")
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _bipolar(weights: Array, scale: Array, place: str) -> Array:
    """+scale where a weight is not negative, else -scale."""
    try:
        shape = np.broadcast_shapes(weights.shape, scale.shape)
        if shape == weights.shape:
            return np.where(weights >= 0, scale, -scale).astype(np.float32)
    except (ValueError, TypeError):  # shapes that do not fit, or tensors of texts
        pass
    raise BadInput(
        f"{place}: its scale of shape {scale.shape} does not fit its weights of shape {weights.shape}; expected one "
        "number, or one for each output channel"
    )


def tensor_array(tensor: onnx.TensorProto, name: str) -> Array:
    """The numbers of a tensor of the model `name`. Raises BadInput where its bytes and its shape disagree."""
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # a damaged tensor fails inside onnx and numpy in many ways
        raise BadInput(
            f"{name}: tensor {printable(tensor.name)!r} of type {tensor.data_type} and shape {list(tensor.dims)} is "
            f"damaged ({error}); export the model again"
        ) from error
