"""What a user may choose when a model is compiled."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from operator import index
from typing import Any, Self

from bnhw.errors import BadInput


class RequantiseMode(Enum):
    """The rule by which accumulators become codes (NUMERICS, section 3)."""

    SHIFT = "shift"
    CSD = "csd"
    MULTIPLY = "multiply"
    THRESHOLD = "threshold"


DEFAULT_MULTIPLIER_BITS = 16
DEFAULT_DIGITS = 2
MOST_DIGITS = 4

PARAMETERS: dict[RequantiseMode, tuple[int, int, int]] = {
    RequantiseMode.CSD: (1, MOST_DIGITS, DEFAULT_DIGITS),
    RequantiseMode.MULTIPLY: (2, 24, DEFAULT_MULTIPLIER_BITS),
}
"""Modes with a number behind a colon: its least, its largest, and what it is when not given."""

AUTO = "auto"
DEFAULT_AUTO_BUDGET_DB = 0.05

ALLOWED_MODES = (
    "shift, csd:N with N of 1..4 signed digits, multiply:M with M of 2..24 bits, threshold, auto, or auto:DB with the "
    "decibels of signal-to-noise that cheap constants may cost"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantisation:
    """A mode and its number: signed digits of `csd`, bits of the signed multipliers of `multiply`, 0 for others."""

    mode: RequantiseMode
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `shift`, `threshold`, `csd`, `csd:N`, `multiply` or `multiply:M`.

        Raises BadInput that lists what is allowed.
        """
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
EXACT_DIGITS = Requantisation(mode=RequantiseMode.CSD, number=MOST_DIGITS)
"""For steps whose codes are too wide for thresholds."""


class RangeMethod(Enum):
    """How the range of a tensor follows from what calibration saw."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """A method and, for `percentile`, the per cent of all values that the range holds."""

    method: RangeMethod
    percent: float = 100.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `min-max`, `mse`, `percentile` or `percentile:P`; raises BadInput that lists what is allowed."""
        refusal = BadInput(f"ranges {text!r} are not available; choose min-max, mse, or percentile:P with P of 50..100")
        name, colon, number = text.partition(":")
        try:
            method = RangeMethod(name)
            percent = float(number) if colon else 99.99
        except ValueError:
            raise refusal from None
        if method is not RangeMethod.PERCENTILE:
            if colon:
                raise refusal
            return cls(method=method)
        if not 50 <= percent <= 100:
            raise refusal
        return cls(method=method, percent=percent)


LEAST_ACT_BITS, MOST_ACT_BITS = 2, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Options of `bnhw.compile`.

    act_bits: width of activations read by convolutions, 2..8 bits: one number, or one for each quantised activation
        in the order of the network, or `auto:DB`, the fewest bits that keep a signal-to-noise ratio of DB decibels.
    weight_bits: width of weights that are not 1-bit, 2..8 bits.
    input_bits: width of the normalised image behind its lookup, 2..12 bits. Pixels have 8 bits, but each colour has
        a gain of its own: at 8 bits a common scale loses more than all other layers together, at 12 nothing.
    residual_bits: width of the residual stream, 8..24 bits.
    requantise: `shift`, `csd:N`, `multiply:M`, `threshold`, or `auto:DB`, the cheapest of them for each step and
        channel that together cost no more than DB decibels of signal-to-noise.
    multipliers: whether requantise steps may multiply; `auto` does where digits and thresholds do not do.
    ranges: `min-max`, `percentile:P` or `mse` (the least mean square error of rounding and clipping together).
    input_mean, input_std: the model reads (pixel - mean) / std instead of raw pixels 0..255; one number, or
        one a colour. A model trained on pixels divided by 255 has mean 0 and std 255.

    Numbers and sequences of any kind, such as NumPy's, become plain ones. Raises BadInput when a value is of another
    kind, or a number out of its range.
    """

    act_bits: int | tuple[int, ...] | str = 8
    weight_bits: int = 8
    input_bits: int = 12
    residual_bits: int = 16
    requantise: str = f"multiply:{DEFAULT_MULTIPLIER_BITS}"
    multipliers: bool = True
    ranges: str = "mse"
    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for option in fields(self):
            object.__setattr__(self, option.name, _plain(option.name, getattr(self, option.name)))
        ranges = {"weight_bits": (2, 8), "input_bits": (2, 12), "residual_bits": (8, 24)}
        for name, (low, high) in ranges.items():
            found = getattr(self, name)
            if not low <= found <= high:
                raise BadInput(f"{name} is {found}; {low} to {high} bits are allowed")
        if isinstance(self.act_bits, str):
            _decibels("act_bits", self.act_bits)
        for bits in self.act_bits_listed:
            if not LEAST_ACT_BITS <= bits <= MOST_ACT_BITS:
                raise BadInput(f"act_bits is {bits}; {LEAST_ACT_BITS} to {MOST_ACT_BITS} bits are allowed")
        if not self.input_std or not all(0 < std < math.inf for std in self.input_std):
            raise BadInput(f"input_std is {self.input_std}; positive numbers are expected, one or one a colour")
        if not self.input_mean or not all(map(math.isfinite, self.input_mean)):
            raise BadInput(f"input_mean is {self.input_mean}; finite numbers are expected, one or one a colour")
        Ranges.parse(self.ranges)
        if self.auto_budget_db is None:
            mode = Requantisation.parse(self.requantise).mode
            if mode is RequantiseMode.MULTIPLY and not self.multipliers:
                raise BadInput(
                    f"requantise is {self.requantise}, but multipliers are not allowed; choose shift, csd:N, "
                    "threshold, or auto, which then does without them"
                )

    @property
    def requantisation(self) -> Requantisation:
        """The parsed mode; for `auto` the one that its choices are made from, sums of signed digits."""
        return EXACT_DIGITS if self.auto_budget_db is not None else Requantisation.parse(self.requantise)

    @property
    def auto_budget_db(self) -> float | None:
        """Decibels that the constants may cost in mode `auto`; None in other modes."""
        if self.requantise == AUTO:
            return DEFAULT_AUTO_BUDGET_DB
        if self.requantise.startswith(f"{AUTO}:"):
            return _decibels("requantise", self.requantise)
        return None

    @property
    def act_bits_listed(self) -> tuple[int, ...]:
        """The widths given as numbers: none for `auto:DB`, one for all activations, or one for each."""
        if isinstance(self.act_bits, str):
            return ()
        return (self.act_bits,) if isinstance(self.act_bits, int) else self.act_bits

    @property
    def act_signal_to_noise_db(self) -> float | None:
        """What `act_bits` of `auto:DB` asks for; None where widths are given."""
        return _decibels("act_bits", self.act_bits) if isinstance(self.act_bits, str) else None


def _plain(name: str, value: Any) -> Any:
    """An option as plain numbers, tuples and texts. Raises BadInput for a value of another kind."""
    kinds: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "act_bits": ("an integer, integers, or 'auto:DB'", _plain_widths),
        "requantise": ("a text", _plain_text),
        "ranges": ("a text", _plain_text),
        "multipliers": ("True or False", _plain_boolean),
        "input_mean": ("a number, or one a colour,", _plain_numbers),
        "input_std": ("a number, or one a colour,", _plain_numbers),
    }
    expected, read = kinds.get(name, ("an integer", index))
    try:
        return read(value.tolist() if hasattr(value, "tolist") else value)  # NumPy's and PyTorch's
    except (TypeError, ValueError):
        raise BadInput(f"{name} is {value!r}; {expected} is expected") from None


def _plain_widths(value: Any) -> int | tuple[int, ...] | str:
    if isinstance(value, str):
        return value
    listed = tuple(map(index, value)) if isinstance(value, Iterable) else (index(value),)
    return listed[0] if len(listed) == 1 else listed


def _plain_numbers(value: Any) -> tuple[float, ...]:
    if isinstance(value, str):
        raise TypeError
    return tuple(map(float, value)) if isinstance(value, Iterable) else (float(value),)


def _plain_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _plain_boolean(value: Any) -> bool:
    if value not in (False, True):
        raise TypeError
    return bool(value)


def parse_act_bits(text: str) -> int | tuple[int, ...] | str:
    """`act_bits` from text: a number, numbers between commas, or `auto:DB`. Raises BadInput for anything else."""
    if text.startswith(AUTO):
        return text
    try:
        listed = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise BadInput(f"act_bits is {text!r}; a number, numbers between commas, or auto:DB is expected") from None
    return listed[0] if len(listed) == 1 else listed


def options_as_text(options: CompileOptions) -> dict[str, str]:
    """Every option by name, as `options_from_text` reads it."""
    return {
        option.name: ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)
        for option in fields(options)
        for value in (getattr(options, option.name),)
    }


def options_from_text(texts: Mapping[str, str]) -> CompileOptions:
    """Options from texts by name; defaults where a name is missing, others are left aside.

    Raises BadInput or ValueError where a text cannot be read.
    """
    readers: dict[str, Callable[[str], Any]] = {
        "act_bits": parse_act_bits,
        "weight_bits": int,
        "input_bits": int,
        "residual_bits": int,
        "requantise": str,
        "multipliers": _boolean,
        "ranges": str,
        "input_mean": _floats,
        "input_std": _floats,
    }
    return CompileOptions(**{name: read(texts[name]) for name, read in readers.items() if name in texts})


def _boolean(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(f"{text!r} is neither True nor False")
    return text == "True"


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def _decibels(option: str, text: str) -> float:
    name, colon, number = text.partition(":")
    try:
        found = float(number)
    except ValueError:
        found = math.nan
    if name != AUTO or not colon or not 0 < found <= 100:
        raise BadInput(f"{option} is {text!r}; auto:DB with more than 0 and at most 100 decibels is expected")
    return found
