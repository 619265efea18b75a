"""Checked mode: every integer of an execution lies in the width that the program declares for it.

| instruction | what is looked at |
|---|---|
| `Convolve`, `PoolSum`, `SumGlobal` | the sum after every single product or tap, against the accumulator's type |
| `Requantise` | every product and every sum, against `bnhw.widths.requantise_types` |
| all | every result, against its tensor's type |

Sums grow in the order of the weights in memory. In mode csd the sums of single digits are not looked at: an engine may
form them in any order.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from bnhw.dtypes import Array, IntegerType
from bnhw.errors import WidthExceeded
from bnhw.kernels.partial_sums import convolution_sums, global_sums, pool_sums
from bnhw.kernels.types import Coding, Geometry
from bnhw.ops import Window
from bnhw.program import Convolve, Instruction, PoolSum, Program, Requantise, SumGlobal, Tensor
from bnhw.widths import requantise_types


def kernel_geometry(window: Window, groups: int = 1) -> Geometry:
    """A window as kernels take it."""
    return Geometry(kernel=window.kernel, stride=window.stride, pads=window.pads, groups=groups)


def kernel_coding(tensor: Tensor) -> Coding:
    """A tensor's coding as kernels take it."""
    return Coding(
        bits=tensor.dtype.bits, signed=tensor.dtype.signed, zero_point=tensor.zero_point, bipolar=tensor.bipolar
    )


def check_widths(program: Program, instruction: Instruction, inputs: Sequence[Array], result: Array) -> None:
    """Raise WidthExceeded that names the instruction, the integer and the declared type where one does not hold it.

    inputs, result: codes (images, height, width, channels) of one executed instruction.
    """
    declared = program.tensor[instruction.output].dtype
    for sums in _growing_sums(program, instruction, inputs):
        _require(instruction, "partial sum", sums, declared)
    if isinstance(instruction, Requantise):
        _check_requantise(program, instruction, inputs[0])
    _require(instruction, "result", result, declared)


def _growing_sums(program: Program, instruction: Instruction, inputs: Sequence[Array]) -> Iterator[Array]:
    source = program.tensor[instruction.inputs[0]]
    match instruction:
        case Convolve(window=window, groups=groups):
            weights = program.weights_of(instruction)
            yield from convolution_sums(inputs[0], weights, kernel_geometry(window, groups), kernel_coding(source))
        case PoolSum(window=window):
            yield from pool_sums(inputs[0], kernel_geometry(window), source.zero_point)
        case SumGlobal():
            yield from global_sums(inputs[0], source.zero_point)


def _check_requantise(program: Program, requantise: Requantise, acc: Array) -> None:
    constants, types = program.constants, requantise_types(program, requantise)
    rows = constants[requantise.position_classes] if requantise.position_classes else np.zeros((1, 1), np.int64)
    products = acc.astype(np.int64)
    if requantise.multiplier:
        products = products * constants[requantise.multiplier][rows].astype(np.int64)
    _require(requantise, "product", products, types.product)
    _require(requantise, "sum", products + constants[requantise.offset][rows].astype(np.int64), types.total)


def _require(instruction: Instruction, what: str, found: Array, declared: IntegerType) -> None:
    low, high = int(found.min()), int(found.max())
    if declared.low <= low and high <= declared.high:
        return
    number = high if high > declared.high else low
    raise WidthExceeded(
        f"{instruction.kind} {instruction.output!r} ({instruction.source}): the {what} {number} left its declared "
        f"{declared}, {declared.low} to {declared.high}; please report this as a bug"
    )
