"""Checks of configuration values that may come from a file, so that their types are in doubt too; and their JSON."""

import math
from collections.abc import Mapping, Set
from enum import Enum
from typing import Any

from bnhw.errors import BadInput

MAX_SIZE = 65536
"""Of channels, classes, image heights and widths, and the like."""

TINY = 2.0**-126
"""The smallest normal float32: the least that a divisor may be."""


def is_number(value: object, *, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether `value` is a finite int or float (no bool) from `least` to `most`."""
    return (
        isinstance(value, int | float) and type(value) is not bool and math.isfinite(value) and least <= value <= most
    )


def are_numbers(values: object, *, least: float = -math.inf) -> bool:
    """Whether `values` is a tuple of numbers from `least`; it may be empty."""
    return isinstance(values, tuple) and all(is_number(value, least=least) for value in values)


def is_count(value: object) -> bool:
    """Whether `value` is an int (no bool) from 1 to `MAX_SIZE`."""
    return type(value) is int and 1 <= value <= MAX_SIZE


def are_counts(values: object, count: int) -> bool:
    """Whether `values` is a tuple of `count` counts."""
    return isinstance(values, tuple) and len(values) == count and all(map(is_count, values))


def to_json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a configuration as JSON values: tuples become lists, members of enumerations their values."""
    plain = {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def from_json_values(values: Mapping[str, Any], *, known: Set[str], optional: Set[str], what: str) -> dict[str, Any]:
    """Arguments of a configuration from JSON values: lists become tuples.

    Raises `BadInput` that begins with `what` and lists every unknown field, and every missing one not in `optional`.
    """
    problems = [f"unknown field {key!r}" for key in values if key not in known]
    problems += [f"field {key!r} is missing" for key in sorted(known - set(values) - optional)]
    if problems:
        raise BadInput(f"{what}: {'; '.join(problems)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
