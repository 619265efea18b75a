"""The ONNX graph under construction: nodes, constants and names.

Inside the graph a tensor is int32 of shape (N, channels, height, width): no tensor of a program is wider.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnhw.dtypes import Array, IntegerType
from bnhw.program import Instruction, Program, Tensor

Span: TypeAlias = tuple[int, int]
"""The smallest and the largest integer that a value can be."""

INT32 = IntegerType(bits=32, signed=True)


def fits_int32(span: Span) -> bool:
    """Whether every integer of the span is an int32."""
    return INT32.low <= span[0] and span[1] <= INT32.high


@dataclass(kw_only=True)
class GraphBuilder:
    """Collects nodes and constants; the tensors of the program keep their names, all others stem from them.

    renamed: what instructions read in place of a tensor, by its name: the image in another layout.
    """

    program: Program
    renamed: dict[str, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    place: str = ""
    origin: str = ""
    _names: set[str] = field(init=False)
    _counts: dict[str, int] = field(default_factory=dict)
    _stored: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = set(self.program.tensor)

    def begin(self, instruction: Instruction) -> None:
        """Nodes from here on belong to this instruction: they are named after its result and say its source."""
        self.place = instruction.output
        self.origin = f"{instruction.kind} {instruction.source}".strip()

    def operand(self, instruction: Instruction, index: int = 0) -> str:
        """What an instruction reads, int32 (N, channels, height, width)."""
        name = instruction.inputs[index]
        return self.renamed.get(name, name)

    def source(self, instruction: Instruction) -> Tensor:
        """The program's tensor that is an instruction's first input."""
        return self.program.tensor[instruction.inputs[0]]

    def name(self, what: str) -> str:
        """A new name: the result of the instruction, and what of it."""
        wanted = name = f"{self.place}/{what}"
        while name in self._names:
            self._counts[wanted] = self._counts.get(wanted, 1) + 1
            name = f"{wanted}_{self._counts[wanted]}"
        self._names.add(name)
        return name

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node of the standard domain with one result, which is returned; `output` names a program tensor."""
        result = output or self.name(op)
        node = helper.make_node(op, list(inputs), [result], name=f"{result}/node", doc_string=self.origin, **attributes)
        self.nodes.append(node)
        return result

    def constant(self, array: Array, what: str) -> str:
        """Store an array and return its name; equal small arrays are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 8 else None
        if key is not None and key in self._stored:
            return self._stored[key]
        name = self.name(what)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        if key is not None:
            self._stored[key] = name
        return name

    def scalar(self, number: int, dtype: type[np.integer[Any]], what: str) -> str:
        """A constant of rank 0."""
        return self.constant(np.asarray(number, dtype), what)

    def indices(self, numbers: list[int], what: str) -> str:
        """An int64 list, as shapes, axes and pads are given."""
        return self.constant(np.asarray(numbers, np.int64), what)

    def cast(self, value: str, to: int, output: str = "") -> str:
        """`value` as another integer type, one of `onnx.TensorProto`; the integers must fit it."""
        return self.add("Cast", value, to=to, output=output)

    def clamp(self, value: str, span: Span, low: int, high: int, output: str) -> None:
        """The last step of an instruction: an int64 value, which lies in `span`, limited to [low, high] of int32.

        onnxruntime's Clip, Min and Max of int64 are wrong on x86 for numbers of more than 32 bits (the cause lies in
        Eigen's packets, see its pull request 25280); so 32-bit ones are clipped as such and others compared.
        """
        if fits_int32(span):
            self.clip(self.cast(value, TensorProto.INT32), low, high, output)
            return
        for comparison, bound in (("Less", low), ("Greater", high)):
            limit = self.scalar(bound, np.int64, "bound")
            value = self.add("Where", self.add(comparison, value, limit), limit, value)
        self.cast(value, TensorProto.INT32, output)

    def clip(self, value: str, low: int, high: int, output: str) -> None:
        """An int32 value limited to [low, high]."""
        bounds = (self.scalar(bound, np.int32, what) for bound, what in ((low, "low"), (high, "high")))
        self.add("Clip", value, *bounds, output=output)

    def minus_zero_point(self, value: str, zero_point: int) -> str:
        """code - zero point, int32."""
        return self.add("Sub", value, self.scalar(zero_point, np.int32, "zero_point")) if zero_point else value

    def per_pixel(self, table: Array, position_classes: str, what: str) -> str:
        """Rows (classes, channels or 1) of a step as a constant that broadcasts to (N, channels, height, width).

        Where `position_classes` names the row of each pixel, a Gather of two constants lays the rows out.
        """
        if not position_classes:
            return self.constant(table[0].reshape(1, -1, 1, 1), what)
        rows = self.constant(table.T[np.newaxis], f"{what}_rows")  # (1, channels, classes)
        classes = self.constant(self.program.constants[position_classes].astype(np.int64), "position_classes")
        return self.add("Gather", rows, classes, axis=2)
