"""ONNX models written down node by node, their images, and what onnxruntime makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from bnhw.dtypes import Array
from bnhw.ops import Window

OPSETS = (9, 10, 11, 13, 18, 21)
"""Around the versions in which Clip, Pad, Squeeze and ReduceMean turned attributes into inputs."""


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
