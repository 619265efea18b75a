"""Values that every kernel takes: how codes are coded, the geometry of a window, and weights.

These are plain frozen values; no kernel is imported here. The arrays they hold are read-only.
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from bnhw.kernels.packing import WORD_BITS, count_words, pack_bits, unpack_bits

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
"""A tensor of codes or sums, NHWC, C-contiguous: int32 between kernels, int64 between reference functions."""

MAX_CODE_BITS = 32
MAX_BIT_SERIAL_BITS = 8
"""Widest codes that are multiplied bit plane by bit plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How the codes that a convolution reads are coded.

    bits: width of a code, 1..32.
    signed: two's complement when true, else unsigned.
    zero_point: the code that stands for 0, within [low, high]; value = code - zero_point.
    bipolar: 1-bit codes where 0 stands for -1 and 1 for +1; then bits is 1, signed false, zero_point 0.
        A padded tap of a bipolar tensor contributes 0, which no code stands for.

    Raises ValueError when the fields contradict one another.
    """

    bits: int
    signed: bool
    zero_point: int
    bipolar: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_CODE_BITS:
            raise ValueError(f"Coding: {self.bits} bits, expected 1..{MAX_CODE_BITS}")
        if self.bipolar and (self.bits, self.signed, self.zero_point) != (1, False, 0):
            raise ValueError(f"Coding: bipolar codes have 1 bit, unsigned, zero point 0; found {self!r}")
        if not self.low <= self.zero_point <= self.high:
            raise ValueError(f"Coding: zero point {self.zero_point} outside [{self.low}, {self.high}] of the code")

    @property
    def low(self) -> int:
        """Lowest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Highest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Window of a convolution or pooling, in pixels.

    kernel: (height, width). stride: (down, right). pads: (top, left, bottom, right), zero or more each.
    groups: of a convolution; input and output channels are split into that many contiguous groups.

    Raises ValueError when a size is not positive or a pad is negative.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int = 1

    def __post_init__(self) -> None:
        if len(self.kernel) != 2 or len(self.stride) != 2 or len(self.pads) != 4:
            raise ValueError(f"Geometry: expected 2 kernel sizes, 2 strides and 4 pads, found {self!r}")
        if min(*self.kernel, *self.stride, self.groups) < 1 or min(self.pads) < 0:
            raise ValueError(f"Geometry: expected kernel, stride, groups >= 1 and pads >= 0, found {self!r}")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the output for an input of that many pixels; a partial last window is dropped.

        Raises ValueError when not even one window fits.
        """
        top, left, bottom, right = self.pads
        rows = (height + top + bottom - self.kernel[0]) // self.stride[0] + 1
        columns = (width + left + right - self.kernel[1]) // self.stride[1] + 1
        if height < 1 or width < 1 or rows < 1 or columns < 1:
            raise ValueError(
                f"Geometry: a {height}x{width} input padded by (top, left, bottom, right) = {self.pads} "
                f"holds no {self.kernel[0]}x{self.kernel[1]} window; enlarge the input or the pads"
            )
        return rows, columns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BinaryWeights:
    """1-bit weights of a convolution, packed along the channels of a group.

    words: uint64 (O, KH, KW, ceil(channels_per_group / 64)); bit 1 is +1, bit 0 is -1, order of
        `bnhw.kernels.packing`, pad lanes of the last word 0.
    channels_per_group: input channels that one output channel reads.

    Raises ValueError when the array does not have that form.
    """

    words: npt.NDArray[np.uint64]
    channels_per_group: int

    def __post_init__(self) -> None:
        words, lanes = self.words, self.channels_per_group
        if words.dtype != np.uint64 or words.ndim != 4 or 0 in words.shape:
            raise ValueError(f"BinaryWeights: found {words.dtype} {words.shape}, expected uint64 (O, KH, KW, words)")
        if lanes < 1 or words.shape[3] != count_words(lanes):
            raise ValueError(f"BinaryWeights: found {words.shape[3]} words, {lanes} channels need {count_words(lanes)}")
        if lanes % WORD_BITS and (words[..., -1] >> np.uint64(lanes % WORD_BITS)).any():
            raise ValueError(f"BinaryWeights: pad lanes after channel {lanes - 1} hold 1, expected 0; use from_signs")
        object.__setattr__(self, "words", _read_only(words))

    @classmethod
    def from_signs(cls, signs: npt.NDArray[np.int8]) -> Self:
        """Pack int8 (O, KH, KW, Cg) of -1 and +1. Raises ValueError on any other value."""
        if signs.ndim != 4 or not np.isin(signs, (-1, 1)).all():
            raise ValueError(f"BinaryWeights: expected (O, KH, KW, Cg) of -1 and +1, found shape {signs.shape}")
        return cls(words=pack_bits(signs > 0), channels_per_group=signs.shape[3])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(O, KH, KW, channels per group)."""
        out_channels, height, width, _ = self.words.shape
        return out_channels, height, width, self.channels_per_group

    def signs(self) -> npt.NDArray[np.int8]:
        """The weights as int8 (O, KH, KW, Cg) of -1 and +1."""
        bits = unpack_bits(self.words, self.channels_per_group).astype(np.int8)
        return np.asarray(2 * bits - 1, np.int8)

    def integers(self) -> npt.NDArray[np.int8]:
        """Same as `signs`: the name that both kinds of weights share."""
        return self.signs()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerWeights:
    """k-bit weights (2..8 bits) of a convolution: `values` int8 (O, KH, KW, channels per group).

    Raises ValueError when the array does not have that form.
    """

    values: npt.NDArray[np.int8]

    def __post_init__(self) -> None:
        values = self.values
        if values.dtype != np.int8 or values.ndim != 4 or 0 in values.shape:
            raise ValueError(f"IntegerWeights: found {values.dtype} {values.shape}, expected int8 (O, KH, KW, Cg)")
        object.__setattr__(self, "values", _read_only(values))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(O, KH, KW, channels per group)."""
        out_channels, height, width, channels = self.values.shape
        return out_channels, height, width, channels

    @property
    def channels_per_group(self) -> int:
        """Input channels that one output channel reads."""
        return self.shape[3]

    def integers(self) -> npt.NDArray[np.int8]:
        """The weights as int8 (O, KH, KW, Cg)."""
        return self.values


Weights: TypeAlias = BinaryWeights | IntegerWeights


class PreparedConvolution(Protocol):
    """A convolution whose weights were rearranged once; calling it never changes it, from any thread."""

    @property
    def kernel(self) -> str:
        """Name of the kernel that runs, as in `bnhw.kernels.select`."""

    def __call__(self, codes: IntArray) -> IntArray:
        """Codes (N, H, W, C) -> accumulators (N, OH, OW, O) of the same dtype.

        Raises ValueError when the codes' shape, dtype or layout is not what the convolution was prepared for.
        """


def check_convolution(weights: Weights, geometry: Geometry, coding: Coding) -> None:
    """Raise ValueError unless weights and geometry describe one convolution."""
    out_channels, *kernel, _ = weights.shape
    if tuple(kernel) != tuple(geometry.kernel):
        raise ValueError(f"convolution: weights are {kernel[0]}x{kernel[1]}, the geometry says {geometry.kernel}")
    if out_channels % geometry.groups:
        raise ValueError(f"convolution: {out_channels} output channels do not split into {geometry.groups} groups")
    if not isinstance(coding, Coding):
        raise ValueError(f"convolution: found coding {coding!r}, expected a Coding")


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
