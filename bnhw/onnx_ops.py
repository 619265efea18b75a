"""How each ONNX operation is read: one function an operation, one table of them.

A converter looks at one ONNX node and adds float-graph nodes to the `Builder`, or raises `Refused` with the
reason and the remedy. Adding an operation is one function and one entry of `CONVERTERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnhw.graph import Attributes, Node, Shape, Value, unique_name
from bnhw.ops import (
    OPS,
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Pads,
    Sign,
    Window,
    ZeroPad,
    freeze,
)
from bnhw.weights import zeros_among_two_values

Array = NDArray[Any]


class Refused(Exception):  # noqa: N818  (a reason that is collected, never an error that the user sees by itself)
    """This ONNX node cannot be compiled; the message is the reason and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxNode:
    """An ONNX node with decoded attributes and a name even where the file gives none."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def read(cls, node: onnx.NodeProto, index: int) -> "OnnxNode":
        """Decode `node`, the `index`-th of its graph."""
        skipped = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        return cls(
            name=node.name or f"{node.op_type}_{index}",
            op=node.op_type,
            domain=node.domain,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={
                a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.type not in skipped
            },
        )

    @property
    def source(self) -> str:
        """Name and type, for messages."""
        return f"{self.op} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An ONNX value that is computed from the image: its name in the graph, shape and ONNX rank (2 or 4)."""

    name: str
    shape: Shape
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicate:
    """A comparison of a value with 0, waiting for the `Where` that turns it into +1 and -1."""

    operand: str
    true_when_nonnegative: bool


@dataclass(kw_only=True)
class Builder:
    """The graph under construction (the only mutable thing of the importer) and the problems found."""

    constants: dict[str, Array]
    entry: Value
    entry_rank: int
    outputs: tuple[str, ...]
    nodes: list[Node] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[str, Imported] = field(init=False)
    predicates: dict[str, Predicate] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.values = {
            self.entry.name: Imported(name=self.entry.name, shape=self.entry.shape, rank=self.entry_rank)
        }

    def is_constant(self, name: str) -> bool:
        """Whether an ONNX value is a constant."""
        return name in self.constants

    def constant(self, node: OnnxNode, index: int, what: str) -> Array:
        """Input `index` of `node`, which must be a constant; `what` names it in the refusal."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name not in self.constants:
            raise Refused(f"its {what} {name!r} is not a constant; export the model in evaluation mode")
        return self.constants[name]

    def optional(self, node: OnnxNode, index: int, attribute: str) -> Array | None:
        """A parameter that newer opsets pass as input `index` and older ones as an attribute."""
        if attribute in node.attributes:
            return np.asarray(node.attributes[attribute])
        if index < len(node.inputs) and node.inputs[index]:
            return self.constant(node, index, attribute)
        return None

    def value(self, node: OnnxNode, index: int = 0) -> Imported:
        """Input `index` of `node`, which must be computed from the image."""
        name = node.inputs[index]
        if name in self.predicates:
            raise Refused("reads the outcome of a comparison; only where(x >= 0, 1, -1) can be read")
        if name not in self.values:
            raise Refused(f"reads the constant {name!r} where a computed value is expected")
        return self.values[name]

    def emit(
        self, node: OnnxNode, attributes: Attributes, *operands: Imported, rank: int | None = None
    ) -> Imported:
        """Add a float-graph node; its shape is checked by the table of operations."""
        try:
            shape = OPS[type(attributes)].shape(attributes, [operand.shape for operand in operands])
        except ValueError as error:
            raise Refused(str(error)) from error
        taken = {existing.name for existing in self.nodes} | {self.entry.name}
        name = unique_name(node.name, taken)
        self.nodes.append(
            Node(
                name=name,
                inputs=tuple(operand.name for operand in operands),
                output=name,
                attributes=attributes,
                source=node.source,
            )
        )
        return Imported(name=name, shape=shape, rank=operands[0].rank if rank is None else rank)


def convert_node(builder: Builder, node: OnnxNode) -> None:
    """Read one ONNX node; a refusal becomes one line of `builder.problems`.

    Nodes behind a refused one are only checked for being known, so that one cause gives one message.
    """
    if node.op == "Constant":
        return
    converter = CONVERTERS.get(node.op)
    known_domain = node.domain in ("", "ai.onnx") or node.op in QONNX_OPS
    if converter is None or not known_domain:
        builder.problems.append(_unknown_op(node))
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


def _unknown_op(node: OnnxNode) -> str:
    domain = f" of domain {node.domain!r}" if node.domain else ""
    return (
        f"{node.op} {node.name!r}: operation{domain} is not supported; replace it in the model by supported ones "
        f"({', '.join(sorted(CONVERTERS))})"
    )


# --- constants of elementwise operations -------------------------------------------------------------------


def _per_channel(value: Imported, constant: Array) -> Array:
    """A constant operand as one float64 number a channel."""
    shape = (1,) * (value.rank - constant.ndim) + constant.shape
    if constant.ndim > value.rank or any(n != 1 for axis, n in enumerate(shape) if axis != 1):
        raise Refused(
            f"its constant of shape {constant.shape} changes over more than the channels; one number, or one a channel"
        )
    numbers = constant.astype(np.float64).reshape(-1)
    if numbers.size not in (1, value.shape[0]):
        raise Refused(f"its constant has {numbers.size} numbers for {value.shape[0]} channels")
    _require_finite(numbers, "constant")
    return np.broadcast_to(numbers, (value.shape[0],))


def _require_finite(numbers: Array, what: str) -> None:
    bad = int(numbers.size - np.isfinite(numbers).sum())
    if bad:
        raise Refused(
            f"{bad} of the {numbers.size} numbers of its {what} are NaN or infinite; the training has diverged, "
            "export a healthy checkpoint"
        )


def _affine(builder: Builder, node: OnnxNode, value: Imported, scale: Array, shift: Array) -> Imported:
    channels = (value.shape[0],)
    attributes = Affine(
        scale=freeze(np.broadcast_to(np.asarray(scale, np.float64), channels)),
        shift=freeze(np.broadcast_to(np.asarray(shift, np.float64), channels)),
    )
    return builder.emit(node, attributes, value)


def _operands(builder: Builder, node: OnnxNode) -> tuple[Imported, Array, bool]:
    """The computed operand, the constant one, and whether the constant stands first."""
    first_constant = builder.is_constant(node.inputs[0])
    value = builder.value(node, 1 if first_constant else 0)
    constant = builder.constant(node, 0 if first_constant else 1, "operand")
    return value, _per_channel(value, constant), first_constant


def _add(builder: Builder, node: OnnxNode) -> Imported:
    if any(map(builder.is_constant, node.inputs)):
        value, constant, _ = _operands(builder, node)
        return _affine(builder, node, value, np.float64(1), constant)
    return builder.emit(node, Add(), builder.value(node, 0), builder.value(node, 1))


def _subtract(builder: Builder, node: OnnxNode) -> Imported:
    value, constant, constant_first = _operands(builder, node)
    if constant_first:
        return _affine(builder, node, value, np.float64(-1), constant)
    return _affine(builder, node, value, np.float64(1), -constant)


def _multiply(builder: Builder, node: OnnxNode) -> Imported:
    if not any(map(builder.is_constant, node.inputs)):
        raise Refused("multiplies two computed values; only products with constants can be folded")
    value, constant, _ = _operands(builder, node)
    return _affine(builder, node, value, constant, np.float64(0))


def _divide(builder: Builder, node: OnnxNode) -> Imported:
    value, constant, constant_first = _operands(builder, node)
    if constant_first:
        raise Refused("divides by a computed value; only division by constants can be folded")
    if (constant == 0).any():
        raise Refused("divides by 0")
    return _affine(builder, node, value, 1 / constant, np.float64(0))


def _negate(builder: Builder, node: OnnxNode) -> Imported:
    return _affine(builder, node, builder.value(node), np.float64(-1), np.float64(0))


def _batch_normalisation(builder: Builder, node: OnnxNode) -> Imported:
    """Gain / sqrt(variance + epsilon) in float64 from the stored float32 numbers (NUMERICS, folding rules)."""
    value = builder.value(node)
    if node.attributes.get("training_mode", 0):
        raise Refused("is in training mode; export the model in evaluation mode")
    names = ("gain", "shift", "mean", "variance")
    gain, shift, mean, variance = (
        builder.constant(node, index, what).astype(np.float64) for index, what in enumerate(names, start=1)
    )
    for numbers, what in zip((gain, shift, mean, variance), names, strict=True):
        _require_finite(numbers, what)
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    if (variance + epsilon <= 0).any():
        raise Refused("has a variance that is not positive; recompute the batch-norm statistics")
    scale = gain / np.sqrt(variance + epsilon)
    return _affine(builder, node, value, scale, shift - mean * scale)


# --- clamps and signs --------------------------------------------------------------------------------------


def _scalar(constant: Array | None, default: float) -> float:
    if constant is None:
        return default
    if constant.size != 1:
        raise Refused(f"its bound has {constant.size} numbers; one bound for all channels is supported")
    number = float(constant.reshape(-1)[0])
    if np.isnan(number):
        raise Refused("its bound is NaN")
    return number


def _relu(builder: Builder, node: OnnxNode) -> Imported:
    return builder.emit(node, Clamp(low=0.0), builder.value(node))


def _clip(builder: Builder, node: OnnxNode) -> Imported:
    low = _scalar(builder.optional(node, 1, "min"), -np.inf)
    high = _scalar(builder.optional(node, 2, "max"), np.inf)
    if low >= high:
        raise Refused(f"its bounds {low} and {high} leave nothing")
    return builder.emit(node, Clamp(low=low, high=high), builder.value(node))


def _bound(builder: Builder, node: OnnxNode) -> tuple[Imported, float]:
    if len(node.inputs) != 2:
        raise Refused(f"has {len(node.inputs)} operands; a value and one constant are supported")
    value, constant, _ = _operands(builder, node)
    if (constant != constant[0]).any():
        raise Refused("its constant differs between channels; one bound for all channels is supported")
    return value, float(constant[0])


def _maximum(builder: Builder, node: OnnxNode) -> Imported:
    value, bound = _bound(builder, node)
    return builder.emit(node, Clamp(low=bound), value)


def _minimum(builder: Builder, node: OnnxNode) -> Imported:
    value, bound = _bound(builder, node)
    return builder.emit(node, Clamp(high=bound), value)


def _sign(builder: Builder, node: OnnxNode) -> Imported:
    raise Refused(
        "ONNX Sign gives 0 at 0, which no 1-bit activation can hold; export where(x >= 0, 1, -1) instead"
    )


def _compare(builder: Builder, node: OnnxNode) -> None:
    value = builder.value(node)
    threshold = _scalar(builder.constant(node, 1, "threshold"), 0.0)
    if threshold != 0:
        shift = _affine(builder, node, value, np.float64(1), np.float64(-threshold))
        value = shift
    builder.predicates[node.outputs[0]] = Predicate(
        operand=value.name, true_when_nonnegative=node.op == "GreaterOrEqual"
    )
    builder.values.setdefault(value.name, value)


def _where(builder: Builder, node: OnnxNode) -> Imported:
    predicate = builder.predicates.get(node.inputs[0])
    if predicate is None:
        raise Refused("its condition is not a comparison x >= 0 or x < 0")
    chosen = _scalar(builder.constant(node, 1, "first choice"), 0.0)
    other = _scalar(builder.constant(node, 2, "second choice"), 0.0)
    when_true, when_false = (chosen, other) if predicate.true_when_nonnegative else (other, chosen)
    if when_true != -when_false or when_true <= 0:
        raise Refused(f"chooses {when_true} where x >= 0 and {when_false} elsewhere; +a and -a are supported")
    sign = builder.emit(node, Sign(), builder.values[predicate.operand])
    return sign if when_true == 1 else _affine(builder, node, sign, np.float64(when_true), np.float64(0))


def _bipolar_quantiser(builder: Builder, node: OnnxNode) -> Imported:
    """QONNX BipolarQuant: +scale where x >= 0, else -scale."""
    scale = _scalar(builder.constant(node, 1, "scale"), 1.0)
    if not scale > 0:
        raise Refused(f"its scale is {scale}; a positive one is expected")
    sign = builder.emit(node, Sign(), builder.value(node))
    return sign if scale == 1 else _affine(builder, node, sign, np.float64(scale), np.float64(0))


# --- convolutions and dense layers -------------------------------------------------------------------------


def _weights(array: Array) -> Array:
    """Checked weights as read-only float32."""
    _require_finite(array, "weights")
    zeros = zeros_among_two_values(array)
    if zeros:
        raise Refused(
            f"{zeros} of its {array.size} weights are exactly 0 among two values -a and +a, so they are neither "
            "1-bit nor k-bit weights; train with sign(0) = +1 (BinaryConv2d does), or without zeros"
        )
    return freeze(array.astype(np.float32))


def _pair(node: OnnxNode, attribute: str) -> tuple[int, int]:
    numbers = [int(n) for n in node.attributes.get(attribute, (1, 1))]
    if len(numbers) != 2:
        raise Refused(f"is {len(numbers)}-dimensional; images are 2-dimensional here")
    return numbers[0], numbers[1]


def _window(node: OnnxNode, kernel: tuple[int, int], shape: Shape) -> Window:
    """Kernel, stride and explicit pads, also from `auto_pad` and `ceil_mode`."""
    if any(d != 1 for d in node.attributes.get("dilations", ())):
        raise Refused(f"has dilations {list(node.attributes['dilations'])}; only 1 is supported")
    stride = _pair(node, "strides")
    auto = bytes(node.attributes.get("auto_pad", b"NOTSET")).decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        top, bottom = _same_pads(shape[1], kernel[0], stride[0], upper=auto == "SAME_UPPER")
        left, right = _same_pads(shape[2], kernel[1], stride[1], upper=auto == "SAME_UPPER")
        return Window(kernel=kernel, stride=stride, pads=(top, left, bottom, right))
    numbers = [int(n) for n in node.attributes.get("pads", (0, 0, 0, 0))] if auto == "NOTSET" else [0, 0, 0, 0]
    if len(numbers) != 4 or min(numbers) < 0:
        raise Refused(f"has pads {numbers}; four numbers that are not negative are supported")
    return Window(kernel=kernel, stride=stride, pads=(numbers[0], numbers[1], numbers[2], numbers[3]))


def _same_pads(size: int, kernel: int, stride: int, *, upper: bool) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def _convolution(builder: Builder, node: OnnxNode) -> Imported:
    value = builder.value(node)
    weights = _weights(builder.constant(node, 1, "weights"))
    if weights.ndim != 4 or value.rank != 4:
        raise Refused(f"has weights of shape {weights.shape}; two-dimensional convolutions are supported")
    window = _window(node, (weights.shape[2], weights.shape[3]), value.shape)
    groups = int(node.attributes.get("group", 1))
    result = builder.emit(node, Convolution(weights=weights, window=window, groups=groups), value)
    return _with_bias(builder, node, result, builder.optional(node, 2, "bias"))


def _with_bias(builder: Builder, node: OnnxNode, value: Imported, bias: Array | None) -> Imported:
    if bias is None:
        return value
    bias = bias.astype(np.float64).reshape(-1)
    _require_finite(bias, "bias")
    if bias.size not in (1, value.shape[0]):
        raise Refused(f"has {bias.size} biases for {value.shape[0]} channels")
    return _affine(builder, node, value, np.float64(1), bias)


def _dense(builder: Builder, node: OnnxNode, weights: Array, bias: Array | None) -> Imported:
    """A dense layer is a 1x1 convolution of flat features."""
    value = builder.value(node)
    if value.rank != 2:
        raise Refused("multiplies a matrix with an image; flatten the image first")
    weights = _weights(weights)[:, :, None, None]
    result = builder.emit(node, Convolution(weights=freeze(weights), window=Window(kernel=(1, 1))), value)
    return _with_bias(builder, node, result, bias)


def _gemm(builder: Builder, node: OnnxNode) -> Imported:
    if node.attributes.get("transA", 0):
        raise Refused("transposes its image operand; only plain dense layers are supported")
    weights = builder.constant(node, 1, "weights")
    weights = weights if node.attributes.get("transB", 0) else weights.T
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    bias = builder.optional(node, 2, "bias")
    return _dense(builder, node, weights * np.float32(alpha), None if bias is None else bias * beta)


def _matmul(builder: Builder, node: OnnxNode) -> Imported:
    weights = builder.constant(node, 1, "weights")
    if weights.ndim != 2:
        raise Refused(f"has weights of shape {weights.shape}; a matrix is expected")
    return _dense(builder, node, weights.T, None)


# --- pooling, padding, shapes ------------------------------------------------------------------------------


def _pool_window(node: OnnxNode, shape: Shape) -> Window:
    """A pooling window; `ceil_mode` becomes more padding at the end, which never counts."""
    kernel = _pair(node, "kernel_shape")
    window = _window(node, kernel, shape)
    if not node.attributes.get("ceil_mode", 0):
        return window
    top, left, bottom, right = window.pads
    more = []
    for size, begin, end, k, s in (
        (shape[1], top, bottom, kernel[0], window.stride[0]),
        (shape[2], left, right, kernel[1], window.stride[1]),
    ):
        count = -(-(size + begin + end - k) // s) + 1
        if (count - 1) * s >= size + begin:  # a window that starts beyond the image is dropped
            count -= 1
        more.append(max((count - 1) * s + k - size - begin - end, 0))
    return window.padded_by((0, 0, more[0], more[1]))


def _average_pool(builder: Builder, node: OnnxNode) -> Imported:
    value = builder.value(node)
    window = _pool_window(node, value.shape)
    count_padding = bool(node.attributes.get("count_include_pad", 0)) and any(window.pads)
    if count_padding and node.attributes.get("ceil_mode", 0):
        raise Refused("counts padding and rounds its size up at once; use one of the two")
    return builder.emit(node, AveragePool(window=window, count_padding=count_padding), value)


def _max_pool(builder: Builder, node: OnnxNode) -> Imported:
    value = builder.value(node)
    return builder.emit(node, MaxPool(window=_pool_window(node, value.shape)), value)


def _global_average_pool(builder: Builder, node: OnnxNode) -> Imported:
    return builder.emit(node, GlobalAveragePool(), builder.value(node))


def _reduce_mean(builder: Builder, node: OnnxNode) -> Imported:
    value = builder.value(node)
    axes = builder.optional(node, 1, "axes")
    found = sorted(int(a) % value.rank for a in axes.reshape(-1)) if axes is not None else []
    if value.rank != 4 or found != [2, 3]:
        raise Refused(f"takes the mean over axes {found}; only height and width (2, 3) are supported")
    keep = bool(node.attributes.get("keepdims", 1))
    return builder.emit(node, GlobalAveragePool(), value, rank=4 if keep else 2)


def _pad(builder: Builder, node: OnnxNode) -> Imported:
    value = builder.value(node)
    mode = bytes(node.attributes.get("mode", b"constant")).decode()
    fill = _scalar(builder.optional(node, 2, "value"), 0.0)
    if mode != "constant" or fill != 0:
        raise Refused(f"pads in mode {mode!r} with {fill}; zero padding is supported")
    pads = builder.optional(node, 1, "pads")
    if pads is None:
        raise Refused("has no pads")
    begin, end = _pads_by_axis(builder, node, pads, value.rank)
    if begin[0] or end[0] or min(*begin, *end) < 0:
        raise Refused(f"pads by {pads.tolist()}; channels, height and width, not negative, are supported")
    if begin[1] or end[1]:
        value = builder.emit(node, ChannelPad(before=begin[1], after=end[1]), value)
    if value.rank == 4 and any((*begin[2:], *end[2:])):
        value = builder.emit(node, ZeroPad(pads=(begin[2], begin[3], end[2], end[3])), value)
    return value


def _pads_by_axis(builder: Builder, node: OnnxNode, pads: Array, rank: int) -> tuple[list[int], list[int]]:
    axes = builder.optional(node, 3, "axes")
    named = [int(a) % rank for a in axes.reshape(-1)] if axes is not None else list(range(rank))
    if pads.size != 2 * len(named):
        raise Refused(f"has {pads.size} pads for {len(named)} axes")
    begin, end = [0] * rank, [0] * rank
    for position, axis in enumerate(named):
        begin[axis], end[axis] = int(pads[position]), int(pads[position + len(named)])
    return begin, end


def _concatenate(builder: Builder, node: OnnxNode) -> Imported:
    """Joined channels; constant zero operands at the ends become channel padding."""
    computed = [index for index, name in enumerate(node.inputs) if not builder.is_constant(name)]
    values = [builder.value(node, index) for index in computed]
    if not values or int(node.attributes.get("axis", 1)) % values[0].rank != 1:
        raise Refused("joins along another axis than the channels")
    padding = {"before": 0, "after": 0}
    for index in sorted(set(range(len(node.inputs))) - set(computed)):
        constant = builder.constant(node, index, "operand")
        if constant.any() or computed[0] < index < computed[-1] or constant.ndim != values[0].rank:
            raise Refused(f"joins the constant {node.inputs[index]!r}; zero channels at the ends are supported")
        padding["before" if index < computed[0] else "after"] += constant.shape[1]
    joined = values[0] if len(values) == 1 else builder.emit(node, Concatenate(), *values)
    return builder.emit(node, ChannelPad(**padding), joined) if any(padding.values()) else joined


def _flatten(builder: Builder, node: OnnxNode) -> Imported:
    if int(node.attributes.get("axis", 1)) != 1:
        raise Refused("flattens from another axis than 1")
    return _as_features(builder, node, builder.value(node))


def _as_features(builder: Builder, node: OnnxNode, value: Imported) -> Imported:
    if value.shape[1:] == (1, 1):
        return Imported(name=value.name, shape=value.shape, rank=2)
    return builder.emit(node, Flatten(), value, rank=2)


def _reshape(builder: Builder, node: OnnxNode) -> Imported:
    value = builder.value(node)
    target = [int(n) for n in builder.constant(node, 1, "shape").reshape(-1)]
    features = int(np.prod(value.shape))
    if len(target) == 2 and target[1] in (-1, 0, features):
        return _as_features(builder, node, value)
    if len(target) == 4 and tuple(target[1:]) == value.shape:
        return Imported(name=value.name, shape=value.shape, rank=4)
    raise Refused(f"reshapes to {target}; flattening to (batch, {features}) is supported")


def _squeeze(builder: Builder, node: OnnxNode) -> Imported:
    value = builder.value(node)
    axes = builder.optional(node, 1, "axes")
    found = sorted(int(a) % value.rank for a in axes.reshape(-1)) if axes is not None else []
    if value.rank == 4 and found == [2, 3] and value.shape[1:] == (1, 1):
        return Imported(name=value.name, shape=value.shape, rank=2)
    raise Refused(f"squeezes axes {found}; height and width of size 1 (2, 3) are supported")


def _identity(builder: Builder, node: OnnxNode) -> Imported:
    return builder.value(node)


def _cast(builder: Builder, node: OnnxNode) -> Imported:
    target = int(node.attributes.get("to", onnx.TensorProto.FLOAT))
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if target not in floats:
        raise Refused(f"casts to {onnx.TensorProto.DataType.Name(target)}; only casts between float types are read")
    return builder.value(node)


def _softmax(builder: Builder, node: OnnxNode) -> Imported:
    if node.outputs[0] not in builder.outputs:
        raise Refused("stands inside the network; only one at the very end can be left out")
    builder.notes.append(f"{node.op} {node.name!r} at the end is left out: the program returns logits")
    return builder.value(node)


QONNX_OPS = frozenset({"BipolarQuant"})
"""Operations of other domains that say explicitly what is found implicitly elsewhere."""

CONVERTERS: Mapping[str, Callable[[Builder, OnnxNode], Imported | None]] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalisation,
    "BipolarQuant": _bipolar_quantiser,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concatenate,
    "Conv": _convolution,
    "Div": _divide,
    "Dropout": _identity,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "GreaterOrEqual": _compare,
    "Identity": _identity,
    "Less": _compare,
    "LogSoftmax": _softmax,
    "MatMul": _matmul,
    "Max": _maximum,
    "MaxPool": _max_pool,
    "Min": _minimum,
    "Mul": _multiply,
    "Neg": _negate,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sign": _sign,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _subtract,
    "Where": _where,
}
