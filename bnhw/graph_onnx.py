"""The float graph as an ONNX model, and its values under onnxruntime.

This is the fast counterpart of `bnhw.verify.evaluate`: the same values up to float32 rounding, at onnxruntime's
speed. ONNX names are numbers of ours, so that no name of a graph can clash with another; weights stay int8 in
the model and are cast when it is loaded.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.graph import Attributes, Graph, Shape, remove_dead
from bnhw.monotone import Function
from bnhw.ops import (
    Activation,
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    Flatten,
    Floor,
    GlobalAveragePool,
    MaxPool,
    Pads,
    Product,
    Quantise,
    QuantisePoint,
    Sign,
    Window,
    ZeroPad,
    pool_divisors,
)
from bnhw.verify import check_graph

OPSET = 17
IR_VERSION = 8
"""Old enough for every onnxruntime that is supported, new enough for all operations here."""

MAX_MODEL_BYTES = 2**31 - 1
"""The limit of the protocol-buffer format."""

ENTRY = "image"

DISABLED_OPTIMISERS = ["Pad_Fusion"]
"""Passes of onnxruntime that must not run: this one gives a pool more padding than pools there may have."""

Operands = Sequence[str]


@dataclass(slots=True, kw_only=True)
class _Writer:
    """The ONNX nodes and constants written so far."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        array = np.asarray(value, dtype)
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name


def _write_convolution(writer: _Writer, op: Convolution, xs: Operands, _: Shape) -> str:
    if op.weights.dtype == np.int8:
        weights = writer.emit("Cast", writer.constant(op.weights, np.int8), to=onnx.TensorProto.FLOAT)
    else:
        weights = writer.constant(op.weights)
    return writer.emit("Conv", xs[0], weights, group=op.groups, **_window(op.window))


def _window(window: Window) -> dict[str, list[int]]:
    return {"kernel_shape": list(window.kernel), "strides": list(window.stride), "pads": list(window.pads)}


def _write_affine(writer: _Writer, op: Affine, xs: Operands, _: Shape) -> str:
    # One batch norm instead of Mul and Add: onnxruntime keeps its blocked channel layout through it.
    zeros, ones = np.zeros(op.scale.size), np.ones(op.scale.size)
    constants = [writer.constant(numbers) for numbers in (op.scale, op.shift, zeros, ones)]
    return writer.emit("BatchNormalization", xs[0], *constants, epsilon=0.0)


def _write_clamp(writer: _Writer, op: Clamp, xs: Operands, _: Shape) -> str:
    if op.low == 0 and op.high == np.inf:
        return writer.emit("Relu", xs[0])
    return writer.emit("Clip", xs[0], writer.constant(op.low), writer.constant(op.high))


FUNCTION_OPS: Mapping[Function, tuple[str, bool]] = {
    Function.ELU: ("Elu", True),
    Function.LEAKY_RELU: ("LeakyRelu", True),
    Function.SIGMOID: ("Sigmoid", False),
    Function.SOFTPLUS: ("Softplus", False),
    Function.TANH: ("Tanh", False),
}
"""The ONNX operation of each function, and whether it has an alpha."""


def _write_activation(writer: _Writer, op: Activation, xs: Operands, _: Shape) -> str:
    name, has_alpha = FUNCTION_OPS[op.function]
    value = writer.emit(name, xs[0], **({"alpha": op.alpha} if has_alpha else {}))
    return value if op.gain == 1 else writer.emit("Mul", value, writer.constant(op.gain))


def _write_sign(writer: _Writer, _: Sign, xs: Operands, __: Shape) -> str:
    return _write_step(writer, xs[0], -1.0, 1.0)


def _write_step(writer: _Writer, x: str, below: float, above: float) -> str:
    positive = writer.emit("GreaterOrEqual", x, writer.constant(0.0))
    return writer.emit("Where", positive, writer.constant(above), writer.constant(below))


def _write_average_pool(writer: _Writer, op: AveragePool, xs: Operands, shape: Shape) -> str:
    if _fits_onnx(op.window):
        include = int(op.count_padding)
        return writer.emit("AveragePool", xs[0], count_include_pad=include, **_window(op.window))
    # The sum is a convolution with ones, which may have any padding.
    channels, height, width = shape
    ones = writer.constant(np.ones((channels, 1, *op.window.kernel)))
    divisors = pool_divisors(op.window, height, width, count_padding=op.count_padding)
    total = writer.emit("Conv", xs[0], ones, group=channels, **_window(op.window))
    return writer.emit("Mul", total, writer.constant(1 / np.maximum(divisors, 1)))


def _write_max_pool(writer: _Writer, op: MaxPool, xs: Operands, _: Shape) -> str:
    if _fits_onnx(op.window):
        return writer.emit("MaxPool", xs[0], **_window(op.window))
    padded = _write_pads(writer, xs[0], op.window.pads, value=-np.inf)
    return writer.emit("MaxPool", padded, **_window(_unpadded(op.window)))


def _fits_onnx(window: Window) -> bool:
    """Whether every padding is smaller than the kernel, as pools in ONNX need it."""
    return all(pad < size for pad, size in zip(window.pads, (*window.kernel, *window.kernel), strict=True))


def _unpadded(window: Window) -> Window:
    return Window(kernel=window.kernel, stride=window.stride)


def _write_pads(writer: _Writer, x: str, pads: Pads, *, channels: tuple[int, int] = (0, 0), value: float = 0.0) -> str:
    top, left, bottom, right = pads
    sizes = writer.constant([0, channels[0], top, left, 0, channels[1], bottom, right], np.int64)
    return writer.emit("Pad", x, sizes, writer.constant(value))


def _write_quantise(writer: _Writer, op: Quantise, xs: Operands, _: Shape) -> str:
    """The steps of `bnhw.ops.quantise` in its order and its float64, so that every code is the same."""
    chosen = op.quantisation
    if chosen.bipolar:
        return _write_step(writer, xs[0], chosen.intercept, chosen.slope + chosen.intercept)
    value = writer.emit("Cast", xs[0], to=onnx.TensorProto.DOUBLE)
    for step, number in (("Div", chosen.scale), ("Add", chosen.zero_point), ("Add", 0.5)):
        value = writer.emit(step, value, writer.constant(number, np.float64))
    value = writer.emit("Floor", value)
    limits = (writer.constant(limit, np.float64) for limit in (chosen.dtype.low, chosen.dtype.high))
    value = writer.emit("Clip", value, *limits)
    for step, number in (("Mul", chosen.slope), ("Add", chosen.intercept)):
        value = writer.emit(step, value, writer.constant(number, np.float64))
    return writer.emit("Cast", value, to=onnx.TensorProto.FLOAT)


def _write_flatten(writer: _Writer, _: Flatten, xs: Operands, shape: Shape) -> str:
    return writer.emit("Reshape", xs[0], writer.constant([-1, int(np.prod(shape)), 1, 1], np.int64))


WRITERS: Mapping[type[Attributes], Callable[[_Writer, Any, Operands, Shape], str]] = {
    Convolution: _write_convolution,
    Affine: _write_affine,
    Clamp: _write_clamp,
    Activation: _write_activation,
    Sign: _write_sign,
    Floor: lambda writer, op, xs, shape: writer.emit("Floor", *xs),
    Add: lambda writer, op, xs, shape: writer.emit("Add", *xs),
    Product: lambda writer, op, xs, shape: writer.emit("Mul", *xs),
    AveragePool: _write_average_pool,
    MaxPool: _write_max_pool,
    GlobalAveragePool: lambda writer, op, xs, shape: writer.emit("GlobalAveragePool", *xs),
    ZeroPad: lambda writer, op, xs, shape: _write_pads(writer, xs[0], op.pads),
    ChannelPad: lambda writer, op, xs, shape: _write_pads(writer, xs[0], (0, 0, 0, 0), channels=(op.before, op.after)),
    Concatenate: lambda writer, op, xs, shape: writer.emit("Concat", *xs, axis=1),
    Flatten: _write_flatten,
    QuantisePoint: lambda writer, op, xs, shape: xs[0],
    Quantise: _write_quantise,
}
"""How each operation is written: the writer, attributes, ONNX operands and the shape of the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxGraph:
    """A float graph as ONNX, float32 (batch, channels, height, width) in and out, the batch free.

    names: the ONNX name of each wanted value; several values may share one (a QuantisePoint changes nothing),
    and the graph's input is `ENTRY`, which is no output.
    """

    model: onnx.ModelProto
    names: Mapping[str, str]


def graph_to_onnx(graph: Graph, values: Collection[str]) -> OnnxGraph:
    """Write the part of `graph` that `values` depend on, with one output for each of them.

    Raises InvalidGraph where the graph is not well formed or lacks one of the values, BadInput where the model
    would exceed the 2 GB of an ONNX file.
    """
    wanted = remove_dead(graph.with_nodes(graph.nodes, outputs=tuple(dict.fromkeys(values))))
    shapes = check_graph(wanted)
    (entry,) = wanted.inputs
    writer = _Writer()
    names = {entry.name: ENTRY}
    for node in wanted.nodes:
        operands = [names[name] for name in node.inputs]
        write = WRITERS[type(node.attributes)]
        names[node.output] = write(writer, node.attributes, operands, shapes[node.inputs[0]])
    outputs = {names[value]: shapes[value] for value in wanted.outputs if names[value] != ENTRY}
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            graph.name,
            [_tensor(ENTRY, entry.shape)],
            [_tensor(name, shape) for name, shape in outputs.items()],
            writer.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    if model.ByteSize() > MAX_MODEL_BYTES:
        raise BadInput(f"{graph.name}: its constants take {model.ByteSize():,} bytes, ONNX holds {MAX_MODEL_BYTES:,}")
    return OnnxGraph(model=model, names={value: names[value] for value in wanted.outputs})


def _tensor(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])


class GraphRunner:
    """A float graph made ready to run under onnxruntime.

    values: the names of the values that `run` returns. threads: worker threads, 0 for one a core.
    Raises what `graph_to_onnx` raises, and BadInput where onnxruntime refuses the model.
    """

    def __init__(self, graph: Graph, values: Collection[str], *, threads: int = 0) -> None:
        import onnxruntime  # noqa: PLC0415  (slow to import, and not needed to read or run a program)

        written = graph_to_onnx(graph, values)
        self.graph_name = graph.name
        self.names = written.names
        self.outputs = [name for name in dict.fromkeys(self.names.values()) if name != ENTRY]
        self.session: Any = None
        if not self.outputs:
            return
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # fatal: errors are raised below
        data = written.model.SerializeToString()
        del written
        try:
            self.session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMISERS
            )
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BadInput(
                f"{graph.name}: onnxruntime {onnxruntime.__version__} cannot load its float graph ({error}); "
                "install another version of onnxruntime"
            ) from error

    def run(self, images: Array) -> Mapping[str, Array]:
        """The wanted values, float32 (images, channels, height, width), of one batch of the same layout.

        All images are run at once: hand over as many as memory has room for. Raises BadInput where onnxruntime
        cannot run them.
        """
        batch = np.ascontiguousarray(images, np.float32)
        found = {ENTRY: batch}
        if self.session is not None:
            try:
                found |= dict(zip(self.outputs, self.session.run(self.outputs, {ENTRY: batch}), strict=True))
            except Exception as error:  # as above
                raise BadInput(
                    f"{self.graph_name}: onnxruntime cannot run its float graph on images of shape {batch.shape} "
                    f"({error})"
                ) from error
        return {value: found[name] for value, name in self.names.items()}


def run_outputs(graph: Graph, images: Array) -> Array:
    """The single output of `graph` for a batch of images, as (images, features); see `GraphRunner`."""
    (output,) = graph.outputs
    return GraphRunner(graph, [output]).run(images)[output].reshape(len(images), -1)
