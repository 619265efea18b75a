"""Integer types and how real values are coded in them.

`IntegerType` is a width and a sign; `Quantisation` adds what a stored integer, its *code*, means.
"""

from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

Array = NDArray[Any]
"""Any numpy array; docstrings give element type and shape."""

MAX_TENSOR_BITS = 32
"""No tensor of a program is wider than this; intermediate sums inside a requantise step may take 63 bits."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class IntegerType:
    """An integer of `bits` bits (1..64), two's complement when `signed`, else unsigned."""

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 64:
            raise ValueError(f"an integer type has 1..64 bits, not {self.bits}")

    @property
    def low(self) -> int:
        """The smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest value."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @classmethod
    def containing(cls, low: int, high: int) -> Self:
        """The narrowest type that holds every integer of [low, high]; unsigned where low >= 0.

        Raises ValueError if low > high.
        """
        if low > high:
            raise ValueError(f"empty range [{low}, {high}]")
        if low >= 0:
            return cls(bits=max(1, high.bit_length()), signed=False)
        return cls(bits=1 + max((-low - 1).bit_length(), high.bit_length() if high > 0 else 0), signed=True)

    def __str__(self) -> str:
        return f"{'int' if self.signed else 'uint'}{self.bits}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """What a code q of `dtype` stands for.

    real = scale * (q - zero_point), or scale * (2 q - 1) for a `bipolar` 1-bit code. The scale is metadata:
    no executor reads it.
    """

    dtype: IntegerType
    scale: float
    zero_point: int = 0
    bipolar: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"a scale is positive and finite, not {self.scale}")
        if not self.dtype.low <= self.zero_point <= self.dtype.high:
            raise ValueError(f"zero point {self.zero_point} is no code of {self.dtype}")
        if self.bipolar and (self.dtype.bits != 1 or self.dtype.signed or self.zero_point):
            raise ValueError("a bipolar code is one unsigned bit without zero point")

    @property
    def slope(self) -> float:
        """a in real = a * q + b."""
        return 2 * self.scale if self.bipolar else self.scale

    @property
    def intercept(self) -> float:
        """b in real = a * q + b."""
        return -self.scale if self.bipolar else -self.scale * self.zero_point

    @property
    def low_value(self) -> int:
        """The smallest q - zero_point (or 2 q - 1)."""
        return -1 if self.bipolar else self.dtype.low - self.zero_point

    @property
    def high_value(self) -> int:
        """The largest q - zero_point (or 2 q - 1)."""
        return 1 if self.bipolar else self.dtype.high - self.zero_point

    def __str__(self) -> str:
        return "bipolar" if self.bipolar else str(self.dtype)
