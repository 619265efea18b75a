"""ONNX operations that move across pixels and channels: convolutions, dense layers, pools, padding, shapes."""

import numpy as np
import onnx

from bnhw.dtypes import Array
from bnhw.graph import Shape
from bnhw.onnx_builder import Builder, Imported, OnnxNode, Refused, affine, require_finite, require_moderate, scalar
from bnhw.ops import (
    AveragePool,
    ChannelPad,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Window,
    ZeroPad,
    freeze,
)
from bnhw.weights import zeros_among_two_values


def _weights(array: Array) -> Array:
    """Checked weights as read-only float32."""
    if not array.size:
        raise Refused(f"has no weights: their shape is {array.shape}; build the model with at least one channel")
    require_finite(array, "weights")
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
    """Kernel, stride and explicit pads, also from `auto_pad`."""
    if any(d != 1 for d in node.attributes.get("dilations", ())):
        raise Refused(f"has dilations {list(node.attributes['dilations'])}; only 1 is supported")
    stride = _pair(node, "strides")
    if min(*kernel, *stride) < 1:
        raise Refused(f"has kernel {list(kernel)} and strides {list(stride)}; numbers of at least 1 are expected")
    top, left, bottom, right = _pads(node, kernel, stride, shape)
    require_moderate((shape[0], shape[1] + top + bottom, shape[2] + left + right), "padded image")
    return Window(kernel=kernel, stride=stride, pads=(top, left, bottom, right))


def _pads(node: OnnxNode, kernel: tuple[int, int], stride: tuple[int, int], shape: Shape) -> tuple[int, int, int, int]:
    auto = bytes(node.attributes.get("auto_pad", b"NOTSET")).decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        top, bottom = _same_pads(shape[1], kernel[0], stride[0], upper=auto == "SAME_UPPER")
        left, right = _same_pads(shape[2], kernel[1], stride[1], upper=auto == "SAME_UPPER")
        return top, left, bottom, right
    numbers = [int(n) for n in node.attributes.get("pads", (0, 0, 0, 0))] if auto == "NOTSET" else [0, 0, 0, 0]
    if len(numbers) != 4 or min(numbers) < 0:
        raise Refused(f"has pads {numbers}; four numbers that are not negative are supported")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _same_pads(size: int, kernel: int, stride: int, *, upper: bool) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def convert_convolution(builder: Builder, node: OnnxNode) -> Imported:
    """Conv in two dimensions, its bias as an Affine behind it."""
    value = builder.value(node)
    numbers = builder.constant(node, 1, "weights")
    if numbers.ndim != 4 or value.rank != 4:
        raise Refused(f"has weights of shape {numbers.shape}; two-dimensional convolutions are supported")
    weights = _weights(numbers)
    window = _window(node, (weights.shape[2], weights.shape[3]), value.shape)
    groups = int(node.attributes.get("group", 1))
    if groups < 1:
        raise Refused(f"has {groups} groups; at least 1 is expected")
    result = builder.emit(node, Convolution(weights=weights, window=window, groups=groups), value)
    return _with_bias(builder, node, result, builder.optional(node, 2, "bias"))


def _with_bias(builder: Builder, node: OnnxNode, value: Imported, bias: Array | None) -> Imported:
    if bias is None:
        return value
    bias = bias.astype(np.float64).reshape(-1)
    require_finite(bias, "bias")
    if bias.size not in (1, value.shape[0]):
        raise Refused(f"has {bias.size} biases for {value.shape[0]} channels")
    return affine(builder, node, value, 1.0, bias)


def _dense(builder: Builder, node: OnnxNode, weights: Array, bias: Array | None) -> Imported:
    """A dense layer is a 1x1 convolution of flat features."""
    value = builder.value(node)
    if value.rank != 2:
        raise Refused("multiplies a matrix with an image; flatten the image first")
    weights = _weights(weights)[:, :, None, None]
    result = builder.emit(node, Convolution(weights=freeze(weights), window=Window(kernel=(1, 1))), value)
    return _with_bias(builder, node, result, bias)


def convert_gemm(builder: Builder, node: OnnxNode) -> Imported:
    """Gemm: a dense layer."""
    if node.attributes.get("transA", 0):
        raise Refused("transposes its image operand; only plain dense layers are supported")
    weights = builder.constant(node, 1, "weights")
    weights = weights if node.attributes.get("transB", 0) else weights.T
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    bias = builder.optional(node, 2, "bias")
    return _dense(builder, node, weights * np.float32(alpha), None if bias is None else bias * beta)


def convert_matmul(builder: Builder, node: OnnxNode) -> Imported:
    """MatMul by a constant matrix: a dense layer."""
    weights = builder.constant(node, 1, "weights")
    if weights.ndim != 2:
        raise Refused(f"has weights of shape {weights.shape}; a matrix is expected")
    return _dense(builder, node, weights.T, None)


def _pool_window(node: OnnxNode, shape: Shape) -> Window:
    """A pooling window; `ceil_mode` becomes more padding at the end, which never counts."""
    kernel = _pair(node, "kernel_shape")
    window = _window(node, kernel, shape)
    if any(pad >= size for pad, size in zip(window.pads, kernel * 2, strict=True)):
        raise Refused(
            f"has pads {list(window.pads)} around a kernel of {list(kernel)}: windows would lie outside of the image; "
            "pads smaller than the kernel are supported"
        )
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


def convert_average_pool(builder: Builder, node: OnnxNode) -> Imported:
    """AveragePool: count_include_pad and ceil_mode as ONNX defines them."""
    value = builder.value(node)
    window = _pool_window(node, value.shape)
    count_padding = bool(node.attributes.get("count_include_pad", 0)) and any(window.pads)
    if count_padding and node.attributes.get("ceil_mode", 0):
        raise Refused("counts padding and rounds its size up at once; use one of the two")
    return builder.emit(node, AveragePool(window=window, count_padding=count_padding), value)


def convert_max_pool(builder: Builder, node: OnnxNode) -> Imported:
    """MaxPool."""
    value = builder.value(node)
    return builder.emit(node, MaxPool(window=_pool_window(node, value.shape)), value)


def convert_global_average_pool(builder: Builder, node: OnnxNode) -> Imported:
    """GlobalAveragePool."""
    return builder.emit(node, GlobalAveragePool(), builder.value(node))


def convert_reduce_mean(builder: Builder, node: OnnxNode) -> Imported:
    """ReduceMean over height and width."""
    value = builder.value(node)
    axes = builder.optional(node, 1, "axes")
    found = sorted(int(a) % value.rank for a in axes.reshape(-1)) if axes is not None else []
    if value.rank != 4 or found != [2, 3]:
        raise Refused(f"takes the mean over axes {found}; only height and width (2, 3) are supported")
    keep = bool(node.attributes.get("keepdims", 1))
    return builder.emit(node, GlobalAveragePool(), value, rank=4 if keep else 2)


def convert_pad(builder: Builder, node: OnnxNode) -> Imported:
    """Pad with zeros: of channels, of height and width, or both."""
    value = builder.value(node)
    mode = bytes(node.attributes.get("mode", b"constant")).decode()
    fill = scalar(builder.optional(node, 2, "value"), 0.0)
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


def convert_concatenate(builder: Builder, node: OnnxNode) -> Imported:
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


def convert_flatten(builder: Builder, node: OnnxNode) -> Imported:
    """Flatten from axis 1."""
    if int(node.attributes.get("axis", 1)) != 1:
        raise Refused("flattens from another axis than 1")
    return _as_features(builder, node, builder.value(node))


def _as_features(builder: Builder, node: OnnxNode, value: Imported) -> Imported:
    if value.shape[1:] == (1, 1):
        return Imported(name=value.name, shape=value.shape, rank=2)
    return builder.emit(node, Flatten(), value, rank=2)


def convert_reshape(builder: Builder, node: OnnxNode) -> Imported:
    """Reshape to (batch, features), or to the shape it has."""
    value = builder.value(node)
    target = [int(n) for n in builder.constant(node, 1, "shape").reshape(-1)]
    features = int(np.prod(value.shape))
    is_flat_already = value.shape[1:] == (1, 1)  # only then does 0, "as it was", mean all features
    if len(target) == 2 and (target[1] in (-1, features) or (target[1] == 0 and is_flat_already)):
        return _as_features(builder, node, value)
    if len(target) == 4 and tuple(target[1:]) == value.shape:
        return Imported(name=value.name, shape=value.shape, rank=4)
    raise Refused(f"reshapes to {target}; flattening to (batch, {features}) is supported")


def convert_squeeze(builder: Builder, node: OnnxNode) -> Imported:
    """Squeeze of height and width of size 1."""
    value = builder.value(node)
    axes = builder.optional(node, 1, "axes")
    found = sorted(int(a) % value.rank for a in axes.reshape(-1)) if axes is not None else []
    if value.rank == 4 and found == [2, 3] and value.shape[1:] == (1, 1):
        return Imported(name=value.name, shape=value.shape, rank=2)
    raise Refused(f"squeezes axes {found}; height and width of size 1 (2, 3) are supported")


def convert_identity(builder: Builder, node: OnnxNode) -> Imported:
    """Identity: nothing."""
    return builder.value(node)


def convert_dropout(builder: Builder, node: OnnxNode) -> Imported:
    """Dropout: nothing in evaluation mode."""
    training = builder.optional(node, 2, "training_mode")
    if training is not None and training.any():
        raise Refused("is in training mode; export the model in evaluation mode")
    return builder.value(node)


def convert_cast(builder: Builder, node: OnnxNode) -> Imported:
    """Cast between float types: nothing here."""
    target = int(node.attributes.get("to", onnx.TensorProto.FLOAT))
    floats = (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    )
    if target not in floats:
        raise Refused(f"casts to {onnx.TensorProto.DataType.Name(target)}; only casts between float types are read")
    return builder.value(node)


def convert_softmax(builder: Builder, node: OnnxNode) -> Imported:
    """Softmax and LogSoftmax at the very end: left out, with a note."""
    if node.outputs[0] not in builder.outputs:
        raise Refused("stands inside the network; only one at the very end can be left out")
    builder.notes.append(f"{node.op} {node.name!r} at the end is left out: the program returns logits")
    return builder.value(node)
