"""The program under construction while a graph is lowered: tensors, ranges, constants, pending pointwise chains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from bnhw.dtypes import MAX_TENSOR_BITS, Array, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Node, Shape
from bnhw.ops import Activation, freeze
from bnhw.options import Requantisation
from bnhw.program import Instruction, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A pointwise chain on an integer tensor: real = clamp(activation(scale * base / divisor + shift)), or its sign."""

    base: Tensor
    scale: Array
    shift: Array
    activation: Activation | None = None
    low: float = -np.inf
    high: float = np.inf
    sign: bool = False
    divisors: Array | None = None

    def constants_shape(self) -> tuple[Array, Array]:
        """Distinct divisors (classes, 1) and the class of every pixel (height, width)."""
        if self.divisors is None:
            return np.ones((1, 1)), np.zeros((1, 1), np.int64)
        distinct, classes = np.unique(self.divisors, return_inverse=True)
        return distinct.reshape(-1, 1).astype(np.float64), classes.reshape(self.divisors.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioError:
    """How far the ratio of a requantise step is off, relatively, and the mode that could not hold it better."""

    relative: float
    requantisation: Requantisation


@dataclass(kw_only=True)
class Lowering:
    """The program under construction.

    units: the exact real size of one unit of each tensor, of which its scale is the nearest float64.
    """

    image: Tensor
    shapes: Mapping[str, Shape]
    values: dict[str, Tensor | Pending] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    units: dict[str, Fraction] = field(default_factory=dict)
    errors: dict[str, RatioError] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        """The integer tensor of an exact value."""
        value = self.values[name]
        assert isinstance(value, Tensor), f"{name} is not exact: a quantise point is missing"
        return value

    def pending(self, name: str) -> Pending:
        """Any value as a pointwise chain."""
        value = self.values[name]
        if isinstance(value, Pending):
            return value
        channels = value.shape[2]
        return Pending(base=value, scale=np.ones(channels), shift=np.zeros(channels))

    def constant(self, name: str, array: Array) -> str:
        """Store a constant and return its name."""
        self.constants[name] = freeze(array)
        return name

    def store(
        self,
        node: Node,
        instruction: Instruction,
        quantisation: Quantisation,
        span: tuple[int, int],
        *,
        unit: Fraction | None = None,
    ) -> Tensor:
        """Append an instruction and its result; `unit` where its real size is not exactly the scale."""
        bits = quantisation.dtype.bits + (not quantisation.dtype.signed)
        if bits > MAX_TENSOR_BITS:
            raise PassFailed(
                f"{node.op} {node.place}: its sums take {bits} bits with their sign, at most {MAX_TENSOR_BITS} are "
                "supported; choose fewer activation or residual bits"
            )
        channels, height, width = self.shapes[node.output]
        tensor = Tensor(
            name=node.output,
            shape=(height, width, channels),
            dtype=quantisation.dtype,
            scale=quantisation.scale,
            zero_point=quantisation.zero_point,
            bipolar=quantisation.bipolar,
        )
        self.instructions.append(instruction)
        self.tensors[tensor.name] = tensor
        self.ranges[tensor.name] = span
        self.units[tensor.name] = Fraction(quantisation.scale) if unit is None else unit
        return tensor

    def value_range(self, tensor: Tensor) -> tuple[int, int]:
        """The range of code - zero point (of 2 code - 1 if bipolar), with 0 for padding."""
        if tensor.bipolar:
            return -1, 1
        low, high = self.ranges[tensor.name]
        return min(low - tensor.zero_point, 0), max(high - tensor.zero_point, 0)
