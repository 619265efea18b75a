"""Random ONNX models, and the small networks that the compiler is tested on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from bnhw.dtypes import Array
from bnhw.graph import Attributes, Graph, Node, Value
from bnhw.ops import Affine, Convolution, Window
from bnhw.verify import evaluate_outputs

OPSETS = (9, 10, 11, 13, 18, 21)
"""Around the versions in which Clip, Pad, Squeeze and ReduceMean turned attributes into inputs."""

SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A value of the ONNX model under construction, (batch, channels, height, width) or flat."""

    name: str
    channels: int
    height: int = 1
    width: int = 1
    flat: bool = False


@dataclass(kw_only=True)
class ModelBuilder:
    """An ONNX model under construction; every method adds nodes and returns their value."""

    channels: int = 3
    height: int = 7
    width: int = 6
    flat: bool = False
    opset: int = 18
    seed: int = 0
    named: bool = True
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    @property
    def image(self) -> Tensor:
        """The model's input."""
        return Tensor(name="image", channels=self.channels, height=self.height, width=self.width, flat=self.flat)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """An initializer; returns its name."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", name: str | None = None, **attributes: Any) -> str:
        """One node with one output; returns the output's name."""
        output = f"value_{len(self.nodes)}"
        label = name if name is not None else f"node {len(self.nodes)}" if self.named else ""
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=label, domain=domain, **attributes))
        return output

    def apply(self, value: Tensor, op: str, *constants: str, first: bool = False, **attributes: Any) -> Tensor:
        """A node that keeps the shape; `first` puts the constants in front of the value."""
        operands = (*constants, value.name) if first else (value.name, *constants)
        return self.renamed(value, self.node(op, *operands, **attributes))

    @staticmethod
    def renamed(value: Tensor, name: str) -> Tensor:
        """The same shape under another name."""
        return Tensor(name=name, channels=value.channels, height=value.height, width=value.width, flat=value.flat)

    def per_channel(self, value: Tensor, numbers: Any) -> str:
        """A constant with one number a channel that broadcasts over `value`."""
        shape = (1, value.channels) if value.flat else (1, value.channels, 1, 1)
        return self.constant(np.broadcast_to(np.asarray(numbers, np.float32), (value.channels,)).reshape(shape))

    def signs(self, shape: Sequence[int], magnitude: float | None = None) -> Array:
        """1-bit weights of one magnitude (by default that of He et al.)."""
        a = magnitude if magnitude is not None else np.sqrt(2 / np.prod(shape[1:]))
        return np.asarray(np.float32(a) * self.random.choice(np.array((-1, 1), np.float32), tuple(shape)))

    def convolution(
        self,
        value: Tensor,
        weights: Array,
        *,
        stride: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        groups: int = 1,
        bias: Array | None = None,
        auto_pad: str = "",
    ) -> Tensor:
        """Conv; `pads` (top, left, bottom, right) as in ONNX."""
        out, _, *kernel = weights.shape
        operands = [value.name, self.constant(weights)] + ([] if bias is None else [self.constant(bias)])
        geometry = {"auto_pad": auto_pad} if auto_pad else {"pads": list(pads)}
        name = self.node("Conv", *operands, strides=list(stride), group=groups, **geometry)
        if auto_pad:
            rows, columns = -(-value.height // stride[0]), -(-value.width // stride[1])
        else:
            window = Window(kernel=(kernel[0], kernel[1]), stride=stride, pads=pads)
            rows, columns = window.output_size(value.height, value.width)
        return Tensor(name=name, channels=out, height=rows, width=columns)

    def batch_norm(self, value: Tensor, *, negative: bool = False, measured: bool = False) -> Tensor:
        """BatchNormalization; `measured` takes mean and variance from random pixels, as training would."""
        count = value.channels
        gain = self.random.uniform(0.5, 1.5, count) * (self.random.choice([-1, 1], count) if negative else 1)
        shift = self.random.normal(0, 0.3, count)
        mean, variance = self.random.normal(0, 0.5, count), self.random.uniform(0.3, 2.0, count)
        if measured:
            axes = (0,) if value.flat else (0, 2, 3)
            seen = run_onnxruntime(self.model(value), random_pixels(self, 24).astype(np.float32))
            mean, variance = seen.mean(axis=axes), seen.var(axis=axes) + 1e-3
        return self.apply(value, "BatchNormalization", *map(self.constant, (gain, shift, mean, variance)))

    def clip(self, value: Tensor, low: float | None, high: float | None) -> Tensor:
        """Clip in the form of the opset."""
        if self.opset < 11:
            bounds: dict[str, Any] = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
            return self.apply(value, "Clip", **bounds)
        constants = ["" if bound is None else self.constant(bound) for bound in (low, high)]
        return self.apply(value, "Clip", *(constants[:1] if high is None else constants))

    def pad(self, value: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
        """Zero padding of (channels, height, width) in the form of the opset."""
        pads = [0, *before, 0, *after]
        if self.opset < 11:
            name = self.node("Pad", value.name, pads=pads, mode="constant", value=0.0)
        else:
            name = self.node("Pad", value.name, self.constant(pads, np.int64))
        sizes = (value.channels, value.height, value.width)
        channels, height, width = (n + b + a for n, b, a in zip(sizes, before, after, strict=True))
        return Tensor(name=name, channels=channels, height=height, width=width)

    def pool(
        self,
        value: Tensor,
        op: str,
        window: Window,
        *,
        count_padding: bool = False,
        ceil: bool = False,
    ) -> Tensor:
        """AveragePool or MaxPool."""
        attributes: dict[str, Any] = {"count_include_pad": int(count_padding)} if op == "AveragePool" else {}
        if ceil:
            attributes["ceil_mode"] = 1
        name = self.node(
            op,
            value.name,
            kernel_shape=list(window.kernel),
            strides=list(window.stride),
            pads=list(window.pads),
            **attributes,
        )
        top, left, bottom, right = window.pads
        rows = pooled_size(value.height, window.kernel[0], window.stride[0], top, bottom, ceil=ceil)
        columns = pooled_size(value.width, window.kernel[1], window.stride[1], left, right, ceil=ceil)
        return Tensor(name=name, channels=value.channels, height=rows, width=columns)

    def reduce_mean(self, value: Tensor, *, keep: bool, axes: Sequence[int] = (2, 3)) -> Tensor:
        """ReduceMean over height and width in the form of the opset."""
        if self.opset < 18:
            name = self.node("ReduceMean", value.name, axes=list(axes), keepdims=int(keep))
        else:
            name = self.node("ReduceMean", value.name, self.constant(axes, np.int64), keepdims=int(keep))
        return Tensor(name=name, channels=value.channels, flat=not keep)

    def squeeze(self, value: Tensor) -> Tensor:
        """Squeeze of height and width in the form of the opset."""
        if self.opset < 13:
            name = self.node("Squeeze", value.name, axes=[2, 3])
        else:
            name = self.node("Squeeze", value.name, self.constant((2, 3), np.int64))
        return Tensor(name=name, channels=value.channels, flat=True)

    def flatten(self, value: Tensor, form: str = "Flatten") -> Tensor:
        """Flatten, or the Reshape that means the same."""
        features = value.channels * value.height * value.width
        if form == "Flatten":
            name = self.node("Flatten", value.name, axis=1)
        else:
            target = (-1, features) if form == "Reshape" else (0, -1)
            name = self.node("Reshape", value.name, self.constant(target, np.int64))
        return Tensor(name=name, channels=features, flat=True)

    def dense(self, value: Tensor, weights: Array, *, form: str = "Gemm", bias: bool = True) -> Tensor:
        """A dense layer with weights (out, features)."""
        numbers = self.random.normal(0, 0.3, len(weights)).astype(np.float32)
        if form == "MatMul":
            name = self.node("MatMul", value.name, self.constant(weights.T))
            result = Tensor(name=name, channels=len(weights), flat=True)
            return self.apply(result, "Add", self.constant(numbers)) if bias else result
        transposed = form == "Gemm"
        operands = [self.constant(weights if transposed else weights.T)] + ([self.constant(numbers)] if bias else [])
        name = self.node(
            "Gemm", value.name, *operands, transB=int(transposed), alpha=0.5 if form == "GemmAlpha" else 1.0
        )
        return Tensor(name=name, channels=len(weights), flat=True)

    def sign(self, value: Tensor, *, scale: float = 1.0, threshold: float = 0.0, op: str = "GreaterOrEqual") -> Tensor:
        """where(x >= threshold, scale, -scale); needs opset 12 for GreaterOrEqual."""
        condition = self.node(op, value.name, self.constant(threshold))
        chosen = (scale, -scale) if op == "GreaterOrEqual" else (-scale, scale)
        return self.renamed(value, self.node("Where", condition, *map(self.constant, chosen)))

    def add(self, first: Tensor, second: Tensor) -> Tensor:
        """The sum of two computed values."""
        return self.renamed(first, self.node("Add", first.name, second.name))

    def model(self, output: Tensor | str, *, domains: Sequence[tuple[str, int]] = ()) -> onnx.ModelProto:
        """The model that returns `output`; `domains` go in front of the ONNX opset."""
        size = (self.channels,) if self.flat else (self.channels, self.height, self.width)
        entry = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", *size])
        name = output if isinstance(output, str) else output.name
        rank = 2 if not isinstance(output, str) and output.flat else 4
        result = helper.make_tensor_value_info(
            name, onnx.TensorProto.FLOAT, ["batch", *(f"size_{axis}" for axis in range(1, rank))]
        )
        graph = helper.make_graph(self.nodes, "random", [entry], [result], initializer=self.initializers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in domains]
        return helper.make_model(graph, opset_imports=[*opsets, helper.make_opsetid("", self.opset)], ir_version=8)


def pooled_size(size: int, kernel: int, stride: int, begin: int, end: int, *, ceil: bool) -> int:
    """The size that the ONNX specification of pools gives."""
    span = size + begin + end - kernel
    count = -(-span // stride) + 1 if ceil else span // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + begin else count


def run_onnxruntime(model: onnx.ModelProto, images: Array) -> Array:
    """The output of `model` under onnxruntime, with the optimisations that change sums switched off."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def random_pixels(builder: ModelBuilder, count: int) -> Array:
    """uint8-valued pixels as the model takes them, (count, channels, height, width) or flat."""
    random = np.random.default_rng(builder.seed + 1)
    size = (builder.channels,) if builder.flat else (builder.channels, builder.height, builder.width)
    return random.integers(0, 256, (count, *size)).astype(np.uint8)


def random_images(builder: ModelBuilder, count: int = 2) -> Array:
    """Float images of unit variance for comparisons in float."""
    size = (builder.channels,) if builder.flat else (builder.channels, builder.height, builder.width)
    return np.random.default_rng(builder.seed + 2).normal(0, 1, (count, *size)).astype(np.float32)


def as_nhwc(pixels: Array) -> Array:
    """Pixels (images, channels, height, width) or (images, features) as a program takes them."""
    wide = pixels if pixels.ndim == 4 else pixels[:, :, None, None]
    return np.ascontiguousarray(wide.transpose(0, 2, 3, 1))


def largest_error(found: Array, expected: Array) -> float:
    """The largest difference, relative to the largest expected number (or to 1)."""
    assert found.size == expected.size
    difference = np.abs(found.reshape(-1).astype(np.float64) - expected.reshape(-1))
    return float(difference.max() / max(1.0, float(np.abs(expected).max())))


def same_function(first: Graph, second: Graph, images: Array, tolerance: float = 1e-4) -> bool:
    """Whether two graphs return the same, up to float32 rounding."""
    return largest_error(evaluate_outputs(second, images), evaluate_outputs(first, images)) <= tolerance


def chain(*kinds: Attributes | tuple[str, Attributes, tuple[str, ...]], shape: tuple[int, int, int]) -> Graph:
    """A graph of nodes n0, n1, ... in a row from "image"; a triple gives name and inputs itself."""
    nodes: list[Node] = []
    last = "image"
    for kind in kinds:
        match kind:
            case (name, attributes, inputs):
                node = Node(name=name, inputs=inputs, output=name, attributes=attributes)
            case _:
                label = f"n{len(nodes)}"
                node = Node(name=label, inputs=(last,), output=label, attributes=kind)
        nodes.append(node)
        last = node.output
    entry = Value(name="image", shape=shape)
    return Graph(name="chain", inputs=(entry,), outputs=(last,), nodes=tuple(nodes))


def affine(scale: Sequence[float], shift: Sequence[float]) -> Affine:
    """An Affine from plain numbers."""
    return Affine(scale=np.array(scale, np.float64), shift=np.array(shift, np.float64))


def pointwise_weights(rows: Sequence[Sequence[float]], bits: int | None = None) -> Convolution:
    """A 1x1 convolution from a matrix (out, in)."""
    dtype: Any = np.float32 if bits is None else np.int8
    return Convolution(weights=np.array(rows, dtype)[:, :, None, None], window=Window(kernel=(1, 1)), weight_bits=bits)


Layer = Callable[[st.DrawFn, ModelBuilder, Tensor], Tensor]


@st.composite
def windows(draw: st.DrawFn, height: int, width: int, *, square_pads: bool = False) -> Window:
    """A window up to 3x3 that fits the image, any stride up to 2, pads smaller than the kernel."""
    kernel = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
    top, left = draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1))
    bottom, right = (
        (top, left) if square_pads else (draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1)))
    )
    stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    return Window(kernel=kernel, stride=stride, pads=(top, left, bottom, right))


def _draw_weights(draw: st.DrawFn, builder: ModelBuilder, shape: Sequence[int]) -> Array:
    if draw(st.booleans()):
        return builder.signs(shape)
    return builder.random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), tuple(shape)).astype(np.float32)


def _draw_convolution(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    groups = draw(st.sampled_from([g for g in (1, 1, 2, value.channels) if value.channels % g == 0]))
    window = draw(windows(value.height, value.width))
    out = groups * draw(st.integers(1, max(1, 6 // groups)))
    weights = _draw_weights(draw, builder, (out, value.channels // groups, *window.kernel))
    bias = builder.random.normal(0, 0.3, out).astype(np.float32) if draw(st.booleans()) else None
    auto_pad = draw(st.sampled_from(("", "", "SAME_UPPER", "SAME_LOWER")))
    return builder.convolution(
        value, weights, stride=window.stride, pads=window.pads, groups=groups, bias=bias, auto_pad=auto_pad
    )


def _draw_batch_norm(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    return builder.batch_norm(value, negative=draw(st.booleans()))


def _draw_clamp(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    kind = draw(st.sampled_from(("relu", "clip", "floor", "max", "min")))
    if kind == "relu":
        return builder.apply(value, "Relu")
    if kind == "clip":
        return builder.clip(value, -0.75, 1.5)
    if kind == "floor":
        return builder.clip(value, *draw(st.sampled_from(((-1.0, None), (None, 1.0)))))
    first = draw(st.booleans())
    return builder.apply(value, kind.title(), builder.constant(-1.0 if kind == "max" else 1.0), first=first)


def _draw_constant(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    op = draw(st.sampled_from(("Mul", "Add", "Sub", "Div", "Neg")))
    if op == "Neg":
        return builder.apply(value, op)
    numbers = builder.random.uniform(0.5, 2.0, value.channels) * builder.random.choice([-1, 1], value.channels)
    constant = builder.constant(numbers[0]) if draw(st.booleans()) else builder.per_channel(value, numbers)
    return builder.apply(value, op, constant, first=op != "Div" and draw(st.booleans()))


def _draw_ceil(draw: st.DrawFn, builder: ModelBuilder, value: Tensor, window: Window) -> bool:
    """ceil_mode, but not where a window would start beyond the image: there onnx's own shape inference is wrong."""
    top, left, bottom, right = window.pads
    dropped = any(
        pooled_size(size, k, s, begin, end, ceil=True) != -(-(size + begin + end - k) // s) + 1
        for size, k, s, begin, end in (
            (value.height, window.kernel[0], window.stride[0], top, bottom),
            (value.width, window.kernel[1], window.stride[1], left, right),
        )
    )
    return builder.opset >= 10 and not dropped and draw(st.booleans())


def _draw_average_pool(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    window = draw(windows(value.height, value.width))
    ceil = _draw_ceil(draw, builder, value, window)
    count_padding = not ceil and draw(st.booleans())
    return builder.pool(value, "AveragePool", window, count_padding=count_padding, ceil=ceil)


def _draw_max_pool(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    window = draw(windows(value.height, value.width))
    return builder.pool(value, "MaxPool", window, ceil=_draw_ceil(draw, builder, value, window))


def _draw_zero_pad(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    """A Pad where it can be absorbed: before a convolution or an average pool."""
    sizes = st.integers(0, 2)
    padded = builder.pad(value, (0, draw(sizes), draw(sizes)), (0, draw(sizes), draw(sizes)))
    if draw(st.booleans()):
        return _draw_convolution(draw, builder, padded)
    return builder.pool(padded, "AveragePool", Window(kernel=(min(2, padded.height), 1), stride=(1, 2)))


def _draw_residual(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    """A residual block: two convolutions beside an average pool and zero channels."""
    stride, more = draw(st.sampled_from((1, 2))), draw(st.integers(0, 2))
    out = value.channels + more
    same = (1, 1, 1, 1)
    inner = builder.apply(builder.batch_norm(value), "Relu")
    inner = builder.convolution(inner, builder.signs((out, value.channels, 3, 3)), stride=(stride, stride), pads=same)
    inner = builder.convolution(builder.apply(inner, "Relu"), builder.signs((out, out, 3, 3)), pads=same)
    shortcut = value
    if stride == 2:
        window = Window(kernel=(3, 3), stride=(2, 2), pads=same)
        shortcut = builder.pool(shortcut, "AveragePool", window, count_padding=draw(st.booleans()))
    if more:
        before = draw(st.integers(0, more))
        shortcut = builder.pad(shortcut, (before, 0, 0), (more - before, 0, 0))
    return builder.add(*((inner, shortcut) if draw(st.booleans()) else (shortcut, inner)))


def _draw_concatenation(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    other = _draw_clamp(draw, builder, value)
    name = builder.node("Concat", value.name, other.name, axis=draw(st.sampled_from((1, -3))))
    return Tensor(name=name, channels=2 * value.channels, height=value.height, width=value.width)


LAYERS: tuple[Layer, ...] = (
    _draw_convolution,
    _draw_convolution,
    _draw_batch_norm,
    _draw_clamp,
    _draw_constant,
    _draw_average_pool,
    _draw_max_pool,
    _draw_zero_pad,
    _draw_residual,
    _draw_concatenation,
)


def _draw_head(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    """From an image to one number a class, in the forms that exporters write."""
    form = draw(st.sampled_from(("global", "mean", "mean flat", "squeeze", "Flatten", "Reshape", "Reshape -1")))
    if form == "mean flat":
        value = builder.reduce_mean(value, keep=False, axes=draw(st.sampled_from(((2, 3), (-1, -2)))))
    elif form in ("Flatten", "Reshape", "Reshape -1"):
        value = builder.flatten(value, form)
    else:
        kept = builder.reduce_mean(value, keep=True) if form == "mean" else None
        value = kept or Tensor(name=builder.node("GlobalAveragePool", value.name), channels=value.channels)
        value = builder.squeeze(value) if form == "squeeze" else builder.flatten(value)
    for layer in draw(st.lists(st.sampled_from((_draw_batch_norm, _draw_clamp, _draw_constant)), max_size=1)):
        if layer is _draw_clamp or form in ("global", "mean", "mean flat", "squeeze"):
            value = layer(draw, builder, value)
    weights = _draw_weights(draw, builder, (4, value.channels))
    return builder.dense(value, weights, form=draw(st.sampled_from(("Gemm", "GemmAlpha", "MatMul"))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model and images for it, float32 as the model takes them."""

    onnx: onnx.ModelProto
    images: Array

    def __repr__(self) -> str:
        return f"Model({', '.join(node.op_type for node in self.onnx.graph.node)}; images {self.images.shape})"


@st.composite
def models(draw: st.DrawFn, *, layers: Sequence[Layer] = LAYERS, max_layers: int = 5) -> Model:
    """Random feed-forward models of up to `max_layers` layers and a dense head."""
    builder = ModelBuilder(
        channels=draw(st.integers(1, 4)),
        height=draw(st.integers(4, 9)),
        width=draw(st.integers(4, 9)),
        opset=draw(st.sampled_from(OPSETS)),
        seed=draw(SEEDS),
        named=draw(st.booleans()),
    )
    value = builder.image
    for layer in draw(st.lists(st.sampled_from(layers), min_size=1, max_size=max_layers)):
        value = layer(draw, builder, value)
    if builder.opset < 11:  # the exporters of that time knew no negative axes
        value = builder.flatten(value)
        value = builder.dense(value, builder.signs((3, value.channels)))
    else:
        value = _draw_head(draw, builder, value)
    return Model(onnx=builder.model(value), images=random_images(builder))


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A small residual network in the style of the published ones, and pixels for it (uint8, NHWC)."""

    onnx: onnx.ModelProto
    pixels: Array

    def __repr__(self) -> str:
        return f"Network({len(self.onnx.graph.node)} nodes; pixels {self.pixels.shape})"


def small_network(
    *,
    seed: int = 0,
    widths: Sequence[int] = (8, 12),
    height: int = 9,
    width: int = 7,
    shifted_relu: bool = False,
    bits: Sequence[int] = (1, 1, 1),
    groups: int = 1,
    negative: bool = False,
    images: int = 24,
) -> Network:
    """Input norm, convolution, one residual block a width (stride 2 where it grows), 1x1 classifier, mean.

    `bits` say which weights are 1-bit: those of the first convolution, of the blocks, of the classifier.
    """
    builder = ModelBuilder(height=height, width=width, seed=seed)
    same = (1, 1, 1, 1)

    def weights(kind: int, *shape: int) -> Array:
        if kind == 1:
            return builder.signs(shape)
        return builder.random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

    def activation(value: Tensor) -> Tensor:
        if shifted_relu:
            return builder.apply(value, "Max", builder.constant(-1.0))
        return builder.apply(builder.batch_norm(value, measured=True, negative=negative), "Relu")

    value = builder.batch_norm(builder.image, measured=True)
    value = builder.convolution(value, weights(bits[0], widths[0], 3, 3, 3), pads=same)
    for number, out in enumerate(widths):
        stride = 2 if number else 1
        inner = activation(value)
        first = weights(bits[1], out, value.channels // groups, 3, 3)
        inner = builder.convolution(inner, first, stride=(stride, stride), pads=same, groups=groups)
        inner = builder.convolution(activation(inner), weights(bits[1], out, out, 3, 3), pads=same)
        if shifted_relu:
            inner = builder.apply(inner, "Mul", builder.constant(0.5))
        if stride == 2:
            value = builder.pool(value, "AveragePool", Window(kernel=(3, 3), stride=(2, 2), pads=same))
        if out > value.channels:
            value = builder.pad(value, (0, 0, 0), (out - value.channels, 0, 0))
        value = builder.add(value, inner)
    value = builder.convolution(activation(value), weights(bits[2], 5, value.channels, 1, 1))
    value = builder.batch_norm(value, measured=True)
    value = builder.reduce_mean(value, keep=False)
    return Network(onnx=builder.model(value), pixels=as_nhwc(random_pixels(builder, images)))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Small residual networks of every kind that `small_network` makes."""
    groups = draw(st.sampled_from((1, 1, 2)))
    first = 2 * draw(st.integers(1, 5))
    bits = st.sampled_from((1, 1, 8))
    return small_network(
        seed=draw(SEEDS),
        widths=(first, first + 2 * draw(st.integers(0, 3)), *draw(st.sampled_from(((), (70,))))),
        height=draw(st.integers(5, 11)),
        width=draw(st.integers(5, 11)),
        shifted_relu=draw(st.booleans()),
        bits=(draw(bits), draw(bits), draw(bits)),
        groups=groups,
        negative=draw(st.booleans()),
        images=6,
    )
