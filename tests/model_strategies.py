"""Hypothesis strategies for ONNX models: any that can be read, and small residual networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from model_builder import OPSETS, ModelBuilder, Tensor, as_nhwc, pooled_size, random_images, random_pixels

from bnhw.dtypes import Array
from bnhw.ops import Window

SEEDS = st.integers(0, 2**32 - 1)


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
    kind = draw(st.sampled_from(("relu", "relu", "clip", "floor", "max", "min", "Elu", "Sigmoid", "LeakyRelu")))
    if kind[0].isupper():
        return builder.apply(value, kind)
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
    """One or two Pads where they can be absorbed: before a convolution or an average pool."""
    sizes = st.integers(0, 2)
    padded = value
    for _ in range(draw(st.integers(1, 2))):
        padded = builder.pad(padded, (0, draw(sizes), draw(sizes)), (0, draw(sizes), draw(sizes)))
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


def _draw_product(draw: st.DrawFn, builder: ModelBuilder, value: Tensor) -> Tensor:
    """The value times a gate of its own: one number a channel as in RBN, IEBN and squeeze-and-excitation, or of all."""
    value = builder.batch_norm(value) if draw(st.booleans()) else value
    gate, op = value, draw(st.sampled_from(("Sigmoid", "Relu", "Tanh")))
    if draw(st.booleans()):
        source = draw(st.sampled_from((value, builder.batch_norm(value))))
        gate = Tensor(name=builder.node("GlobalAveragePool", source.name), channels=value.channels)
        gate = builder.batch_norm(gate)
    gate = builder.apply(gate, op)
    if draw(st.booleans()):
        gate = builder.apply(gate, "Mul", builder.per_channel(value, builder.random.uniform(0.5, 2.0, value.channels)))
    names = (value.name, gate.name) if draw(st.booleans()) else (gate.name, value.name)
    return builder.renamed(value, builder.node("Mul", *names))


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
    _draw_product,
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
