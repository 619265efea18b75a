"""ONNX operations that work number by number: constants, batch norm, clamps and signs."""

import numpy as np

from bnhw.dtypes import Array
from bnhw.monotone import Function
from bnhw.onnx_builder import Builder, Imported, OnnxNode, Predicate, Refused, affine, require_finite, scalar
from bnhw.ops import Activation, Add, Clamp, Floor, Product, Sign


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
    require_finite(numbers, "constant")
    return np.broadcast_to(numbers, (value.shape[0],))


def _operands(builder: Builder, node: OnnxNode) -> tuple[Imported, Array, bool]:
    """The computed operand, the constant one, and whether the constant stands first."""
    first_constant = builder.is_constant(node.inputs[0])
    value = builder.value(node, 1 if first_constant else 0)
    constant = builder.constant(node, 0 if first_constant else 1, "operand")
    return value, _per_channel(value, constant), first_constant


def convert_add(builder: Builder, node: OnnxNode) -> Imported:
    """Add: a constant is a shift; two computed values are a residual addition."""
    if any(map(builder.is_constant, node.inputs)):
        value, constant, _ = _operands(builder, node)
        return affine(builder, node, value, 1.0, constant)
    return _sum(builder, node, builder.value(node, 0), builder.value(node, 1))


def _sum(builder: Builder, node: OnnxNode, value: Imported, other: Imported) -> Imported:
    if value.rank != other.rank:  # ONNX lines (N, C) up with the last axes of (N, C, 1, 1): the sum is (N, C, N, C)
        raise Refused(f"adds a value of {value.rank} axes to one of {other.rank}; flatten both, or neither")
    return builder.emit(node, Add(), value, other)


def convert_subtract(builder: Builder, node: OnnxNode) -> Imported:
    """Sub: a constant is a shift; of two computed values the second is negated and added."""
    if not any(map(builder.is_constant, node.inputs)):
        value, other = builder.value(node, 0), builder.value(node, 1)
        return _sum(builder, node, value, affine(builder, node, other, -1.0, 0.0))
    value, constant, constant_first = _operands(builder, node)
    if constant_first:
        return affine(builder, node, value, -1.0, constant)
    return affine(builder, node, value, 1.0, -constant)


def convert_multiply(builder: Builder, node: OnnxNode) -> Imported:
    """Mul: by a constant; of two computed values the one with fewer numbers, or the bounded one, is the gate."""
    if not any(map(builder.is_constant, node.inputs)):
        value, gate = builder.value(node, 0), builder.value(node, 1)
        if value.rank != gate.rank:
            raise Refused(f"multiplies a value of {value.rank} axes by one of {gate.rank}; keep the axes of the mean")
        if np.prod(value.shape) < np.prod(gate.shape) or (value.shape == gate.shape and _is_bounded(builder, value)):
            value, gate = gate, value
        return builder.emit(node, Product(), value, gate)
    value, constant, _ = _operands(builder, node)
    return affine(builder, node, value, constant, 0.0)


def _is_bounded(builder: Builder, value: Imported) -> bool:
    """Whether a value comes right out of an activation function or a clamp, as gates do."""
    producer = next((node for node in builder.nodes if node.output == value.name), None)
    return producer is not None and isinstance(producer.attributes, Activation | Clamp)


def convert_divide(builder: Builder, node: OnnxNode) -> Imported:
    """Div: by a constant."""
    value, constant, constant_first = _operands(builder, node)
    if constant_first:
        raise Refused("divides by a computed value; only division by constants can be folded")
    if (constant == 0).any():
        raise Refused("divides by 0")
    return affine(builder, node, value, 1 / constant, 0.0)


def convert_negate(builder: Builder, node: OnnxNode) -> Imported:
    """Neg."""
    return affine(builder, node, builder.value(node), -1.0, 0.0)


def convert_batch_normalisation(builder: Builder, node: OnnxNode) -> Imported:
    """Gain / sqrt(variance + epsilon) in float64 from the stored float32 numbers (NUMERICS, folding rules)."""
    value = builder.value(node)
    if node.attributes.get("training_mode", 0):
        raise Refused("is in training mode; export the model in evaluation mode")
    names = ("gain", "shift", "mean", "variance")
    gain, shift, mean, variance = (
        builder.constant(node, index, what).astype(np.float64) for index, what in enumerate(names, start=1)
    )
    for numbers, what in zip((gain, shift, mean, variance), names, strict=True):
        require_finite(numbers, what)
        if numbers.shape != (value.shape[0],):
            raise Refused(f"has {numbers.size} numbers in its {what} for {value.shape[0]} channels")
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    if not (variance + epsilon > 0).all():
        raise Refused("has a variance that is not positive; recompute the batch-norm statistics")
    scale = gain / np.sqrt(variance + epsilon)
    return affine(builder, node, value, scale, shift - mean * scale)


def convert_relu(builder: Builder, node: OnnxNode) -> Imported:
    """Relu."""
    return builder.emit(node, Clamp(low=0.0), builder.value(node))


def convert_clip(builder: Builder, node: OnnxNode) -> Imported:
    """Clip: bounds as inputs or, in old opsets, as attributes."""
    low = scalar(builder.optional(node, 1, "min"), -np.inf)
    high = scalar(builder.optional(node, 2, "max"), np.inf)
    if low >= high:
        raise Refused(f"its bounds {low} and {high} leave nothing")
    return builder.emit(node, Clamp(low=low, high=high), builder.value(node))


def convert_floor(builder: Builder, node: OnnxNode) -> Imported:
    """Floor: the rounding of a quantiser, which `bnhw.passes.quantisers` recognises."""
    return builder.emit(node, Floor(), builder.value(node))


def _bound(builder: Builder, node: OnnxNode) -> tuple[Imported, float]:
    if len(node.inputs) != 2:
        raise Refused(f"has {len(node.inputs)} operands; a value and one constant are supported")
    value, constant, _ = _operands(builder, node)
    if (constant != constant[0]).any():
        raise Refused("its constant differs between channels; one bound for all channels is supported")
    return value, float(constant[0])


def convert_maximum(builder: Builder, node: OnnxNode) -> Imported:
    """Max of a value and one constant: shifted ReLU is max(-1, x)."""
    value, bound = _bound(builder, node)
    return builder.emit(node, Clamp(low=bound), value)


def convert_minimum(builder: Builder, node: OnnxNode) -> Imported:
    """Min of a value and one constant."""
    value, bound = _bound(builder, node)
    return builder.emit(node, Clamp(high=bound), value)


SELU_ALPHA, SELU_GAIN = 1.67326319217681884765625, 1.05070102214813232421875
"""Defaults of the ONNX operation Selu."""


def _activation(builder: Builder, node: OnnxNode, function: Function, *, alpha: float, gain: float = 1.0) -> Imported:
    """gain * function; with alpha 0 what is left of ELU and leaky ReLU is ReLU."""
    if alpha == 0 and gain == 1:
        return builder.emit(node, Clamp(low=0.0), builder.value(node))
    try:
        attributes = Activation(function=function, alpha=alpha, gain=gain)
    except ValueError as error:
        raise Refused(f"has {error}; a function that rises everywhere can be compiled") from error
    return builder.emit(node, attributes, builder.value(node))


def convert_elu(builder: Builder, node: OnnxNode) -> Imported:
    """Elu."""
    return _activation(builder, node, Function.ELU, alpha=float(node.attributes.get("alpha", 1.0)))


def convert_selu(builder: Builder, node: OnnxNode) -> Imported:
    """Selu: the ELU with a gain."""
    alpha = float(node.attributes.get("alpha", SELU_ALPHA))
    return _activation(builder, node, Function.ELU, alpha=alpha, gain=float(node.attributes.get("gamma", SELU_GAIN)))


def convert_leaky_relu(builder: Builder, node: OnnxNode) -> Imported:
    """LeakyRelu."""
    return _activation(builder, node, Function.LEAKY_RELU, alpha=float(node.attributes.get("alpha", 0.01)))


def convert_sigmoid(builder: Builder, node: OnnxNode) -> Imported:
    """Sigmoid."""
    return _activation(builder, node, Function.SIGMOID, alpha=1.0)


def convert_tanh(builder: Builder, node: OnnxNode) -> Imported:
    """Tanh."""
    return _activation(builder, node, Function.TANH, alpha=1.0)


def convert_softplus(builder: Builder, node: OnnxNode) -> Imported:
    """Softplus."""
    return _activation(builder, node, Function.SOFTPLUS, alpha=1.0)


def convert_hard_sigmoid(builder: Builder, node: OnnxNode) -> Imported:
    """HardSigmoid: a scale, a shift and a clamp."""
    alpha, beta = (float(node.attributes.get(name, default)) for name, default in (("alpha", 0.2), ("beta", 0.5)))
    return builder.emit(node, Clamp(low=0.0, high=1.0), affine(builder, node, builder.value(node), alpha, beta))


def convert_sign(builder: Builder, node: OnnxNode) -> Imported:
    """Sign: refused, it gives 0 at 0."""
    raise Refused("ONNX Sign gives 0 at 0, which no 1-bit activation can hold; export where(x >= 0, 1, -1) instead")


def convert_compare(builder: Builder, node: OnnxNode) -> None:
    """GreaterOrEqual and Less with one constant: remembered for the Where behind them."""
    value = builder.value(node)
    threshold = scalar(builder.constant(node, 1, "threshold"), 0.0)
    if threshold != 0:
        value = affine(builder, node, value, 1.0, -threshold)
    builder.predicates[node.outputs[0]] = Predicate(operand=value, true_when_nonnegative=node.op == "GreaterOrEqual")


def convert_where(builder: Builder, node: OnnxNode) -> Imported:
    """Where(x >= 0, a, -a): a bipolar activation."""
    predicate = builder.predicates.get(node.inputs[0])
    if predicate is None:
        raise Refused("its condition is not a comparison x >= 0 or x < 0")
    chosen = scalar(builder.constant(node, 1, "first choice"), 0.0)
    other = scalar(builder.constant(node, 2, "second choice"), 0.0)
    when_true, when_false = (chosen, other) if predicate.true_when_nonnegative else (other, chosen)
    if when_true != -when_false or when_true <= 0:
        raise Refused(f"chooses {when_true} where x >= 0 and {when_false} elsewhere; +a and -a are supported")
    sign = builder.emit(node, Sign(), predicate.operand)
    return sign if when_true == 1 else affine(builder, node, sign, when_true, 0.0)


def convert_bipolar_quantiser(builder: Builder, node: OnnxNode) -> Imported:
    """QONNX BipolarQuant: +scale where x >= 0, else -scale."""
    scale = scalar(builder.constant(node, 1, "scale"), 1.0)
    if not scale > 0:
        raise Refused(f"its scale is {scale}; a positive one is expected")
    sign = builder.emit(node, Sign(), builder.value(node))
    return sign if scale == 1 else affine(builder, node, sign, scale, 0.0)
