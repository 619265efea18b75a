"""The one table of float-graph operations: attributes, number of inputs, shape rule, float semantics.

Adding an operation is one attribute class and one entry of `OPS`. Shapes are (channels, height, width) of one
image; the evaluation functions take and return batches, (images, channels, height, width), in float32 unless
a constant forces more. They are used for calibration and to test that passes keep the meaning of a graph.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np

from bnhw.dtypes import Array, Quantisation
from bnhw.graph import Attributes, Shape
from bnhw.monotone import FUNCTIONS, Function
from bnhw.options import DEFAULT_REQUANTISATION, Requantisation

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""Zero rows and columns around an image: top, left, bottom, right."""


def freeze(array: Array) -> Array:
    """A C-contiguous read-only copy (or the array itself if it already is one)."""
    if array.flags.writeable or not array.flags.c_contiguous:
        array = np.array(array, order="C")
        array.setflags(write=False)
    return array


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A sliding window: `kernel`, `stride` as (height, width), `pads` as (top, left, bottom, right)."""

    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)

    def output_size(self, height: int, width: int) -> Pair:
        """Rows and columns of the result; 0 or less where the window does not fit."""
        top, left, bottom, right = self.pads
        return (
            (height + top + bottom - self.kernel[0]) // self.stride[0] + 1,
            (width + left + right - self.kernel[1]) // self.stride[1] + 1,
        )

    def padded_by(self, pads: Pads) -> "Window":
        """The same window with more padding outside."""
        top, left, bottom, right = (a + b for a, b in zip(self.pads, pads, strict=True))
        return Window(kernel=self.kernel, stride=self.stride, pads=(top, left, bottom, right))


class Role(Enum):
    """Why a value is quantised."""

    INPUT = "input"
    ARGUMENT = "argument"
    FACTOR = "factor"
    GATE = "gate"
    ACTIVATION = "activation"
    RESIDUAL = "residual"
    LOGITS = "logits"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolution(Attributes):
    """Cross-correlation without bias. `weights` (out, in / groups, kernel height, kernel width).

    `weight_bits` is None while the weights are float, 1 once they are +1 and -1, k once they are k-bit
    integers (int8 arrays). Padding contributes 0.
    """

    weights: Array
    window: Window
    groups: int = 1
    weight_bits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine(Attributes):
    """scale * x + shift, both float64 of shape (channels,)."""

    scale: Array
    shift: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp(Attributes):
    """min(max(x, low), high); ReLU is low = 0, shifted ReLU low = -1 (arXiv 1907.06916, section II)."""

    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Attributes):
    """gain * function(x), rising everywhere; `alpha` is the parameter of some functions. Both are positive."""

    function: Function
    alpha: float = 1.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.alpha < np.inf and 0 < self.gain < np.inf):
            raise ValueError(f"alpha {self.alpha} and gain {self.gain}; positive and finite numbers are expected")

    @property
    def floor(self) -> float:
        """A bound that no value goes below."""
        low, _ = FUNCTIONS[self.function].limits(Fraction(self.alpha))
        return -np.inf if low is None else self.gain * float(low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign(Attributes):
    """+1 where x >= 0, else -1: a bipolar activation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor(Attributes):
    """The largest integer that is not above x; only part of a quantiser can become integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Attributes):
    """The sum of two values of one shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product(Attributes):
    """The product of a value and another of its shape, or of one number a channel, (channels, 1, 1): its gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePool(Attributes):
    """Mean over a window; `count_padding` says whether padded positions count in the divisor."""

    window: Window
    count_padding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool(Attributes):
    """Maximum over a window; padding never wins."""

    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAveragePool(Attributes):
    """Mean over height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroPad(Attributes):
    """Zero rows and columns around the image."""

    pads: Pads


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPad(Attributes):
    """Zero channels before and after."""

    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenate(Attributes):
    """Values joined along the channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten(Attributes):
    """(channels, height, width) to (channels * height * width, 1, 1), channel-major as ONNX does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisePoint(Attributes):
    """A place where codes are needed, before ranges are known; points of one `group` share a scale."""

    role: Role
    group: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantise(Attributes):
    """Round half up to the nearest code and back; saturates.

    requantisation: how the step that makes these codes is to be built. centre: the real value of each channel,
    float64 (channels,), at which a step that cannot hold its ratio exactly is exact nevertheless; None for 0.
    digits: int64 (channels,), in mode csd the digits of each channel where they are fewer than the mode's.
    """

    role: Role
    quantisation: Quantisation
    requantisation: Requantisation = DEFAULT_REQUANTISATION
    centre: Array | None = None
    digits: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSpec:
    """One row of `OPS`: number of inputs (None: one or more), shape rule, float semantics.

    `shape` raises ValueError with the reason when the input shapes do not fit.
    """

    arity: int | None
    shape: Callable[[Any, Sequence[Shape]], Shape]
    evaluate: Callable[[Any, Sequence[Array]], Array]
    elementwise: bool = field(default=False)


def _same_shape(_: Attributes, shapes: Sequence[Shape]) -> Shape:
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"operands differ in shape: {', '.join(map(str, shapes))}")
    return shapes[0]


def _product_shape(_: Attributes, shapes: Sequence[Shape]) -> Shape:
    value, gate = shapes
    if gate not in (value, (value[0], 1, 1)):
        raise ValueError(f"a value {value} times {gate}; a gate of the same shape, or (channels, 1, 1), is expected")
    return value


def _convolution_shape(op: Convolution, shapes: Sequence[Shape]) -> Shape:
    channels, height, width = shapes[0]
    out_channels, per_group = op.weights.shape[:2]
    if channels != per_group * op.groups or out_channels % op.groups:
        raise ValueError(
            f"weights {op.weights.shape} in {op.groups} groups take {per_group * op.groups} channels, found {channels}"
        )
    return (out_channels, *_window_size(op.window, height, width))


def _window_size(window: Window, height: int, width: int) -> Pair:
    rows, columns = window.output_size(height, width)
    if rows < 1 or columns < 1:
        raise ValueError(f"a {window.kernel[0]}x{window.kernel[1]} window does not fit a {height}x{width} image")
    return rows, columns


def _pool_shape(op: AveragePool | MaxPool, shapes: Sequence[Shape]) -> Shape:
    channels, height, width = shapes[0]
    return (channels, *_window_size(op.window, height, width))


def _affine_shape(op: Affine, shapes: Sequence[Shape]) -> Shape:
    if op.scale.shape != (shapes[0][0],) or op.shift.shape != (shapes[0][0],):
        raise ValueError(f"{op.scale.shape[0]} scales and {op.shift.shape[0]} shifts for {shapes[0][0]} channels")
    return shapes[0]


def _zero_pad_shape(op: ZeroPad, shapes: Sequence[Shape]) -> Shape:
    channels, height, width = shapes[0]
    top, left, bottom, right = op.pads
    return channels, height + top + bottom, width + left + right


def _concatenate_shape(_: Concatenate, shapes: Sequence[Shape]) -> Shape:
    if any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise ValueError(f"operands differ in height or width: {', '.join(map(str, shapes))}")
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _pad_image(x: Array, pads: Pads, value: float = 0.0) -> Array:
    top, left, bottom, right = pads
    if not any(pads):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def windows_of(x: Array, window: Window, value: float = 0.0) -> Array:
    """A view (images, channels, rows, columns, kernel height, kernel width) of the padded batch `x`."""
    padded = _pad_image(x, window.pads, value)
    view = np.lib.stride_tricks.sliding_window_view(padded, window.kernel, axis=(2, 3))
    return view[:, :, :: window.stride[0], :: window.stride[1]]


def _evaluate_convolution(op: Convolution, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    weights = op.weights.astype(np.float32, copy=False)
    per_group, out_group = weights.shape[1], weights.shape[0] // op.groups
    view = windows_of(x, op.window)
    images, _, rows, columns = view.shape[:4]
    out = np.empty((images, weights.shape[0], rows * columns), np.float32)
    for group in range(op.groups):
        w = weights[group * out_group : (group + 1) * out_group].reshape(out_group, -1)
        for image in range(images):  # one image at a time keeps the column matrix small
            taps = view[image, group * per_group : (group + 1) * per_group].transpose(0, 3, 4, 1, 2)
            columns_matrix = np.ascontiguousarray(taps, dtype=np.float32).reshape(w.shape[1], -1)
            np.matmul(w, columns_matrix, out=out[image, group * out_group : (group + 1) * out_group])
    return out.reshape(images, -1, rows, columns)


def pool_divisors(window: Window, height: int, width: int, *, count_padding: bool) -> Array:
    """How many positions each average divides by, int64 (rows, columns)."""
    ones = np.ones((1, 1, height, width), np.int64)
    view = windows_of(ones, window, 1 if count_padding else 0)
    return np.asarray(view.sum(axis=(4, 5))[0, 0])


def _evaluate_average_pool(op: AveragePool, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    divisors = pool_divisors(op.window, x.shape[2], x.shape[3], count_padding=op.count_padding)
    return np.asarray(windows_of(x, op.window).sum(axis=(4, 5)) / np.maximum(divisors, 1).astype(x.dtype))


def _per_channel(constants: Array) -> Array:
    return constants.astype(np.float32).reshape(1, -1, 1, 1)


def _evaluate_affine(op: Affine, inputs: Sequence[Array]) -> Array:
    return np.asarray(inputs[0] * _per_channel(op.scale) + _per_channel(op.shift))


def _evaluate_activation(op: Activation, inputs: Sequence[Array]) -> Array:
    values = FUNCTIONS[op.function].evaluate(inputs[0], op.alpha)
    return np.asarray(values * op.gain, dtype=inputs[0].dtype)


def _evaluate_channel_pad(op: ChannelPad, inputs: Sequence[Array]) -> Array:
    return np.pad(inputs[0], ((0, 0), (op.before, op.after), (0, 0), (0, 0)))


def quantise(x: Array, quantisation: Quantisation) -> Array:
    """The codes of real values, int64: round half up, then saturate."""
    if quantisation.bipolar:
        return (x >= 0).astype(np.int64)
    codes = np.floor(x / quantisation.scale + quantisation.zero_point + 0.5)
    return np.asarray(np.clip(codes, quantisation.dtype.low, quantisation.dtype.high).astype(np.int64))


def _evaluate_quantise(op: Quantise, inputs: Sequence[Array]) -> Array:
    codes = quantise(inputs[0].astype(np.float64), op.quantisation)
    return np.asarray(codes * op.quantisation.slope + op.quantisation.intercept, dtype=np.float32)


OPS: Mapping[type[Attributes], OpSpec] = {
    Convolution: OpSpec(arity=1, shape=_convolution_shape, evaluate=_evaluate_convolution),
    Affine: OpSpec(arity=1, shape=_affine_shape, evaluate=_evaluate_affine, elementwise=True),
    Clamp: OpSpec(
        arity=1, shape=_same_shape, evaluate=lambda op, xs: np.clip(xs[0], op.low, op.high), elementwise=True
    ),
    Activation: OpSpec(arity=1, shape=_same_shape, evaluate=_evaluate_activation, elementwise=True),
    Sign: OpSpec(
        arity=1,
        shape=_same_shape,
        evaluate=lambda op, xs: np.where(xs[0] >= 0, np.float32(1), np.float32(-1)),
        elementwise=True,
    ),
    Floor: OpSpec(arity=1, shape=_same_shape, evaluate=lambda op, xs: np.floor(xs[0]), elementwise=True),
    Add: OpSpec(arity=2, shape=_same_shape, evaluate=lambda op, xs: xs[0] + xs[1]),
    Product: OpSpec(arity=2, shape=_product_shape, evaluate=lambda op, xs: xs[0] * xs[1]),
    AveragePool: OpSpec(arity=1, shape=_pool_shape, evaluate=_evaluate_average_pool),
    MaxPool: OpSpec(
        arity=1,
        shape=_pool_shape,
        evaluate=lambda op, xs: windows_of(xs[0], op.window, -np.inf).max(axis=(4, 5)),
    ),
    GlobalAveragePool: OpSpec(
        arity=1,
        shape=lambda op, shapes: (shapes[0][0], 1, 1),
        evaluate=lambda op, xs: xs[0].mean(axis=(2, 3), keepdims=True),
    ),
    ZeroPad: OpSpec(arity=1, shape=_zero_pad_shape, evaluate=lambda op, xs: _pad_image(xs[0], op.pads)),
    ChannelPad: OpSpec(
        arity=1,
        shape=lambda op, shapes: (shapes[0][0] + op.before + op.after, *shapes[0][1:]),
        evaluate=_evaluate_channel_pad,
    ),
    Concatenate: OpSpec(arity=None, shape=_concatenate_shape, evaluate=lambda op, xs: np.concatenate(list(xs), axis=1)),
    Flatten: OpSpec(
        arity=1,
        shape=lambda op, shapes: (int(np.prod(shapes[0])), 1, 1),
        evaluate=lambda op, xs: xs[0].reshape(xs[0].shape[0], -1, 1, 1),
    ),
    QuantisePoint: OpSpec(arity=1, shape=_same_shape, evaluate=lambda op, xs: xs[0], elementwise=True),
    Quantise: OpSpec(arity=1, shape=_same_shape, evaluate=_evaluate_quantise, elementwise=True),
}
