"""The importer's workbench: decoded ONNX nodes, what has been read so far, and how a refusal is said."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from bnhw.dtypes import Array
from bnhw.graph import Attributes, Node, Shape, Value, unique_name
from bnhw.ops import OPS, Affine, freeze

MAX_VALUE_ELEMENTS = 1 << 27
"""The most numbers that one image may have anywhere in a network: a model file is not trusted to size our memory."""


class Refused(Exception):  # noqa: N818  (a reason that is collected, never an error that the user sees by itself)
    """This ONNX node cannot be compiled; the message is the reason and the remedy."""


def printable(text: str) -> str:
    """`text` with "?" for whatever is not printable: names are shown on terminals, which obey control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxNode:
    """An ONNX node with decoded attributes and a printable name, even where the file gives none."""

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
            name=printable(node.name or f"{node.op_type}_{index}"),
            op=printable(node.op_type),
            domain=printable(node.domain),
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.type not in skipped},
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

    operand: Imported
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
    unknown_ops: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        name = printable(self.entry.name)
        self.values = {self.entry.name: Imported(name=name, shape=self.entry.shape, rank=self.entry_rank)}

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
        if index >= len(node.inputs):
            raise Refused(f"has {len(node.inputs)} operands, at least {index + 1} are expected; export the model again")
        name = node.inputs[index]
        if name in self.predicates:
            raise Refused("reads the outcome of a comparison; only where(x >= 0, 1, -1) can be read")
        if name not in self.values:
            raise Refused(f"reads the constant {name!r} where a computed value is expected")
        return self.values[name]

    def emit(self, node: OnnxNode, attributes: Attributes, *operands: Imported, rank: int | None = None) -> Imported:
        """Add a float-graph node; its shape is checked by the table of operations."""
        try:
            shape = OPS[type(attributes)].shape(attributes, [operand.shape for operand in operands])
        except ValueError as error:
            raise Refused(str(error)) from error
        require_moderate(shape, "result")
        taken = {existing.name for existing in self.nodes} | {self.values[self.entry.name].name}
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


def require_finite(numbers: Array, what: str) -> None:
    """Refuse NaN and infinite numbers; `what` names them."""
    bad = int(numbers.size - np.isfinite(numbers).sum())
    if bad:
        raise Refused(
            f"{bad} of the {numbers.size} numbers of its {what} are NaN or infinite; the training has diverged, "
            "export a healthy checkpoint"
        )


def require_moderate(shape: Shape, what: str) -> None:
    """Refuse shapes of more than `MAX_VALUE_ELEMENTS` numbers; `what` names them."""
    if math.prod(shape) > MAX_VALUE_ELEMENTS:
        raise Refused(
            f"its {what} of shape {shape} has {math.prod(shape)} numbers an image, at most {MAX_VALUE_ELEMENTS} can be "
            "held; use smaller images or less padding"
        )


def scalar(constant: Array | None, default: float) -> float:
    """The one number of a constant, or `default` where there is none."""
    if constant is None:
        return default
    if constant.size != 1:
        raise Refused(f"its bound has {constant.size} numbers; one bound for all channels is supported")
    number = float(constant.reshape(-1)[0])
    if np.isnan(number):
        raise Refused("its bound is NaN")
    return number


def affine(builder: Builder, node: OnnxNode, value: Imported, scale: Array | float, shift: Array | float) -> Imported:
    """Add scale * value + shift; both one number, or one a channel."""
    channels = (value.shape[0],)
    attributes = Affine(
        scale=freeze(np.broadcast_to(np.asarray(scale, np.float64), channels)),
        shift=freeze(np.broadcast_to(np.asarray(shift, np.float64), channels)),
    )
    return builder.emit(node, attributes, value)
