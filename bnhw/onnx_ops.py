"""Which function reads which ONNX operation: one table.

A converter looks at one ONNX node and adds float-graph nodes to the `Builder`, or raises `Refused` with the
reason and the remedy. Adding an operation is one function and one entry of `CONVERTERS`.
"""

from collections.abc import Callable, Mapping

import onnx

from bnhw import onnx_elementwise as elementwise
from bnhw import onnx_layers as layers
from bnhw.onnx_builder import Builder, Imported, OnnxNode, Refused, printable

MALFORMED = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)
"""What converters run into where a node lacks operands, or has attributes and constants of unexpected kinds."""


def read_node(builder: Builder, proto: onnx.NodeProto, index: int) -> None:
    """Read the `index`-th ONNX node of a model; a refusal becomes one line of `builder.problems`."""
    try:
        convert_node(builder, OnnxNode.read(proto, index))
    except MALFORMED as error:
        builder.problems.append(
            f"{printable(proto.op_type)} {printable(proto.name or str(index))!r}: is malformed "
            f"({type(error).__name__}: {printable(str(error))}); run onnx.checker on the model and export it again"
        )
        builder.refused.update(proto.output)


def convert_node(builder: Builder, node: OnnxNode) -> None:
    """Read one decoded ONNX node.

    Nodes behind a refused one are only checked for being known, so that one cause gives one message.
    """
    if node.op == "Constant":
        return
    converter = CONVERTERS.get(node.op)
    known_domain = node.domain in ("", "ai.onnx") or node.op in QONNX_OPS
    if converter is None or not known_domain:
        domain = f" of domain {node.domain!r}" if node.domain else ""
        builder.problems.append(
            f"{node.op} {node.name!r}: operation{domain} is not supported; build the model without it"
        )
        builder.unknown_ops.add(node.op)
        builder.refused.update(node.outputs)
        return
    if builder.refused.intersection(node.inputs):
        builder.refused.update(node.outputs)
        return
    try:
        result = converter(builder, node)
    except Refused as reason:
        builder.problems.append(f"{node.op} {node.name!r}: {reason}")
        builder.refused.update(node.outputs)
        return
    if result is not None:
        builder.values[node.outputs[0]] = result


QONNX_OPS = frozenset({"BipolarQuant"})
"""Operations of other domains that say explicitly what is found implicitly elsewhere."""

CONVERTERS: Mapping[str, Callable[[Builder, OnnxNode], Imported | None]] = {
    "Add": elementwise.convert_add,
    "AveragePool": layers.convert_average_pool,
    "BatchNormalization": elementwise.convert_batch_normalisation,
    "BipolarQuant": elementwise.convert_bipolar_quantiser,
    "Cast": layers.convert_cast,
    "Clip": elementwise.convert_clip,
    "Concat": layers.convert_concatenate,
    "Conv": layers.convert_convolution,
    "Div": elementwise.convert_divide,
    "Dropout": layers.convert_dropout,
    "Elu": elementwise.convert_elu,
    "Flatten": layers.convert_flatten,
    "Floor": elementwise.convert_floor,
    "Gemm": layers.convert_gemm,
    "GlobalAveragePool": layers.convert_global_average_pool,
    "GreaterOrEqual": elementwise.convert_compare,
    "HardSigmoid": elementwise.convert_hard_sigmoid,
    "Identity": layers.convert_identity,
    "LeakyRelu": elementwise.convert_leaky_relu,
    "Less": elementwise.convert_compare,
    "LogSoftmax": layers.convert_softmax,
    "MatMul": layers.convert_matmul,
    "Max": elementwise.convert_maximum,
    "MaxPool": layers.convert_max_pool,
    "Min": elementwise.convert_minimum,
    "Mul": elementwise.convert_multiply,
    "Neg": elementwise.convert_negate,
    "Pad": layers.convert_pad,
    "ReduceMean": layers.convert_reduce_mean,
    "Relu": elementwise.convert_relu,
    "Reshape": layers.convert_reshape,
    "Selu": elementwise.convert_selu,
    "Sigmoid": elementwise.convert_sigmoid,
    "Sign": elementwise.convert_sign,
    "Softmax": layers.convert_softmax,
    "Softplus": elementwise.convert_softplus,
    "Squeeze": layers.convert_squeeze,
    "Sub": elementwise.convert_subtract,
    "Tanh": elementwise.convert_tanh,
    "Where": elementwise.convert_where,
}
