"""What a user may choose when a model is compiled."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Self

from bnhw.errors import BadInput


class RequantiseMode(Enum):
    """The rule by which accumulators become codes (NUMERICS, section 3)."""

    SHIFT = "shift"
    CSD = "csd"
    MULTIPLY = "multiply"
    THRESHOLD = "threshold"


DEFAULT_MULTIPLIER_BITS = 16
DEFAULT_DIGITS = 2

PARAMETERS: dict[RequantiseMode, tuple[int, int, int]] = {
    RequantiseMode.CSD: (1, 4, DEFAULT_DIGITS),
    RequantiseMode.MULTIPLY: (2, 24, DEFAULT_MULTIPLIER_BITS),
}
"""Modes with a number behind a colon: its least, its largest, and what it is when not given."""

ALLOWED_MODES = "shift, csd:N with N of 1..4 signed digits, multiply:M with M of 2..24 bits, or threshold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantisation:
    """A mode and its number: signed digits of `csd`, bits of the signed multipliers of `multiply`, 0 for `shift`."""

    mode: RequantiseMode
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `shift`, `csd`, `csd:N`, `multiply` or `multiply:M`; raises BadInput that lists what is allowed."""
        refusal = BadInput(f"requantise mode {text!r} is not available; choose {ALLOWED_MODES}")
        name, colon, number = text.partition(":")
        try:
            mode = RequantiseMode(name)
        except ValueError:
            raise refusal from None
        if mode not in PARAMETERS:
            if colon:
                raise refusal
            return cls(mode=mode)
        least, largest, default = PARAMETERS[mode]
        if not colon:
            return cls(mode=mode, number=default)
        if not (number.isascii() and number.isdecimal() and least <= int(number) <= largest):
            raise refusal
        return cls(mode=mode, number=int(number))

    def __str__(self) -> str:
        return f"{self.mode.value}:{self.number}" if self.mode in PARAMETERS else self.mode.value


DEFAULT_REQUANTISATION = Requantisation(mode=RequantiseMode.MULTIPLY, number=DEFAULT_MULTIPLIER_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Options of `bnhw.compile`.

    act_bits: width of activations read by convolutions, 2..8 bits.
    weight_bits: width of weights that are not 1-bit, 2..8 bits.
    input_bits: width of the normalised image behind its lookup, 2..12 bits. Pixels have 8 bits, but each colour has
        a gain of its own: at 8 bits a common scale loses more than all other layers together.
    residual_bits: width of the residual stream, 8..24 bits.
    requantise: `shift`, `csd:N` or `multiply:M`.
    input_mean, input_std: the model reads (pixel - mean) / std instead of raw pixels 0..255; one number, or
        one a colour. A model trained on pixels divided by 255 has mean 0 and std 255.

    Raises BadInput when a number is out of its range.
    """

    act_bits: int = 8
    weight_bits: int = 8
    input_bits: int = 10
    residual_bits: int = 16
    requantise: str = f"multiply:{DEFAULT_MULTIPLIER_BITS}"
    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        ranges = {"act_bits": (2, 8), "weight_bits": (2, 8), "input_bits": (2, 12), "residual_bits": (8, 24)}
        for name, (low, high) in ranges.items():
            found = getattr(self, name)
            if not low <= found <= high:
                raise BadInput(f"{name} is {found}; {low} to {high} bits are allowed")
        if not self.input_std or not all(0 < std < math.inf for std in self.input_std):
            raise BadInput(f"input_std is {self.input_std}; positive numbers are expected, one or one a colour")
        if not self.input_mean or not all(map(math.isfinite, self.input_mean)):
            raise BadInput(f"input_mean is {self.input_mean}; finite numbers are expected, one or one a colour")
        Requantisation.parse(self.requantise)

    @property
    def requantisation(self) -> Requantisation:
        """The parsed requantise mode."""
        return Requantisation.parse(self.requantise)
