"""The integer program: instructions over integer tensors, with packed constants.

This is the value that every executor, the counts, and later the schedule start from; it knows nothing of any
hardware. Tensors are NHWC, shapes are (height, width, channels) of one image. NUMERICS defines what each
instruction computes; the scale and zero point of a tensor are metadata, except that a zero point is the code
that padding stands for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array, IntegerType
from bnhw.kernels.packing import unpack_bits
from bnhw.ops import Window
from bnhw.options import RequantiseMode

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An integer tensor of one image: (height, width, channels) codes of `dtype`.

    real = scale * (q - zero_point), or scale * (2 q - 1) if `bipolar`; for sums of a pool whose divisor differs
    by position, the real sum.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: IntegerType
    scale: float
    zero_point: int = 0
    bipolar: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        height, width, channels = self.shape
        return height * width * channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """Base: the tensors read and the one written; `source` is the ONNX node that it stems from."""

    inputs: tuple[str, ...]
    output: str
    source: str = ""

    @property
    def kind(self) -> str:
        """The instruction's name, as printed and stored."""
        return type(self).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp(Instruction):
    """output = table[channel][code]; `table` names a constant (1 or channels, entries)."""

    table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolve(Instruction):
    """acc = sum of weight * (code - zero point); padded taps contribute 0.

    `weights` names a constant: uint64 words of all weight bits in (out, kernel height, kernel width, in / groups)
    order where `weight_bits` is 1, else int8 of `weight_shape`.
    """

    weights: str
    weight_bits: int
    weight_shape: tuple[int, int, int, int]
    window: Window
    groups: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantise(Instruction):
    """output = clamp((acc * M + B) >> S, low, high), the shift arithmetic; rounding is part of B.

    `multiplier`, `offset`, `shift` name constants of shape (classes, channels or 1); in mode `shift` M is 1 and
    `multiplier` is empty. `position_classes` names an int constant (height, width) that says which row of them a
    pixel uses (different pool divisors at the border), or is empty for row 0. M has `multiplier_bits` bits;
    in mode `csd` it is the sum of at most `digits` signed powers of two (0 in other modes).
    """

    mode: RequantiseMode
    multiplier: str
    offset: str
    shift: str
    position_classes: str
    multiplier_bits: int
    digits: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold(Instruction):
    """output = low + the number of thresholds t with acc >= t, or with acc <= t where the channel falls.

    `thresholds` names a constant of signed integers (classes, channels or 1, levels), ascending along the levels.
    `falling` names an int8 constant (channels or 1,), 1 where a channel falls, or is empty where none does.
    `position_classes` is that of `Requantise`.
    """

    thresholds: str
    falling: str
    position_classes: str
    low: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSaturating(Instruction):
    """output = clamp(a + b, low, high): a residual addition of codes with one scale and zero point 0."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiply(Instruction):
    """output = (a - its zero point) * (b - its zero point), exact.

    b has the shape of a, or (1, 1, channels): then one number multiplies a whole channel (RBN, IEBN).
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSum(Instruction):
    """The exact sum of code - zero point over each window, padding left out."""

    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMaximum(Instruction):
    """The largest code of each window; padding never wins."""

    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class PadChannels(Instruction):
    """`before` and `after` more channels that hold the zero point."""

    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Instruction):
    """Tensors joined along the channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumGlobal(Instruction):
    """The exact sum of code - zero point over all pixels, (1, 1, channels)."""


INSTRUCTIONS: Mapping[str, type[Instruction]] = {
    cls.__name__: cls
    for cls in (
        LookUp,
        Convolve,
        Requantise,
        Threshold,
        AddSaturating,
        Multiply,
        PoolSum,
        PoolMaximum,
        PadChannels,
        Join,
        SumGlobal,
    )
}
"""Every kind of instruction, by the name it has in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a program comes from: who wrote it, the model's name and digest, options, notes for the user."""

    producer: str
    source_name: str
    source_sha256: str
    options: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Instructions in execution order from the tensor `input` (pixels) to the tensor `output` (logits)."""

    name: str
    instructions: tuple[Instruction, ...]
    tensors: tuple[Tensor, ...]
    constants: Mapping[str, Array] = field(repr=False)
    input: str
    output: str
    provenance: Provenance
    format_version: int = FORMAT_VERSION

    @cached_property
    def tensor(self) -> Mapping[str, Tensor]:
        """Tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def last_uses(self) -> Mapping[str, int]:
        """The position of the last instruction that reads each tensor; the output is read at the end."""
        uses = {name: at for at, instruction in enumerate(self.instructions) for name in instruction.inputs}
        uses[self.output] = len(self.instructions)
        return uses

    def save(self, path: str | Path) -> None:
        """Write a `.bnhw` file, never half of one. Raises `bnhw.errors.BadInput` if it cannot be written."""
        from bnhw.program_file import save_program  # noqa: PLC0415  (the file format builds on this module)

        save_program(self, Path(path))

    def weights_of(self, convolve: Convolve) -> Array:
        """The weights as int8 (out, kernel height, kernel width, in / groups)."""
        stored = self.constants[convolve.weights]
        if convolve.weight_bits > 1:
            return stored
        count = int(np.prod(convolve.weight_shape))
        bits = unpack_bits(stored, count).astype(np.int8)
        return (2 * bits - 1).reshape(convolve.weight_shape)

    def weight_storage_bits(self, convolve: Convolve) -> int:
        """Bits that the weights of one convolution take, without padding to words."""
        return int(np.prod(convolve.weight_shape)) * convolve.weight_bits
