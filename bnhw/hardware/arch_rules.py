"""Which values the parameters of an engine may have: one rule a parameter, and the rules between them.

They work on plain values, as a TOML file holds them, so that one look at a file finds every problem in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from bnhw.hardware.trace import MemoryKind


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberRule:
    """An integer (a number, if `real`) of low..high; needed where it has no default."""

    low: float
    high: float
    real: bool = False
    default: int | None = None

    def problem(self, value: object) -> str:
        """Why a value is not allowed, or nothing."""
        number = isinstance(value, int | float if self.real else int) and not isinstance(value, bool)
        if number and isinstance(value, int | float) and self.low <= value <= self.high:  # nan is in no range
            return ""
        noun = "a number" if self.real else "an integer"
        return f"{noun} of {_shown(self.low)} to {_shown(self.high)} is allowed"


def _shown(limit: float) -> str:
    """Integers in full."""
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRule:
    """One of some words."""

    choices: tuple[str, ...]
    default: str | None = None

    def problem(self, value: object) -> str:
        """Why a value is not allowed, or nothing."""
        if isinstance(value, str) and value in self.choices:
            return ""
        close = get_close_matches(str(value), self.choices, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"one of {', '.join(map(repr, self.choices))} is allowed{hint}"


PARAMETERS: Mapping[str, NumberRule | ChoiceRule] = {
    "clock_mhz": NumberRule(low=0.001, high=10000, real=True),
    "pe": NumberRule(low=1, high=4096),
    "simd": NumberRule(low=1, high=65536),
    "datapath": ChoiceRule(choices=("mux", "and", "xnor", "mul")),
    "act_bits": NumberRule(low=1, high=16),
    "weight_bits": NumberRule(low=1, high=8, default=1),
    "acc_bits": NumberRule(low=4, high=48),
    "residual_bits": NumberRule(low=2, high=32),
    "post": ChoiceRule(choices=("shift", "csd", "multiply")),
    "csd_digits": NumberRule(low=0, high=8, default=0),
    "multiplier_bits": NumberRule(low=2, high=32),
    "comparators": NumberRule(low=0, high=255, default=0),
    "lookups": NumberRule(low=0, high=4096, default=0),
    "product_bits": NumberRule(low=0, high=33, default=0),
    "offset_bits": NumberRule(low=2, high=64),
    "shift_bits": NumberRule(low=1, high=7),
    "class_bits": NumberRule(low=1, high=16, default=4),
    "dataflow": ChoiceRule(choices=("output-stationary", "weight-stationary"), default="output-stationary"),
}
"""Every parameter but the memories, in the order of docs/engine.md."""

ON_CHIP = tuple(kind.value for kind in MemoryKind if kind is not MemoryKind.DRAM)

MEMORY_RULES: Mapping[str, NumberRule] = {
    "words": NumberRule(low=1, high=1 << 24),
    "banks": NumberRule(low=1, high=1024, default=1),
    "read_ports": NumberRule(low=1, high=2, default=1),
}

ALWAYS_NEEDED = ("activations", "residuals", "weights", "constants", "descriptors")

TABLES = ("memories", "dram")


def arch_problems(values: Mapping[str, object], memories: object, dram: object) -> list[str]:
    """Every problem of a description: parameters, `[memories]`, `[dram]` (None where there is none)."""
    known = (*PARAMETERS, "description", *TABLES)
    problems = _table_problems("", values, {**PARAMETERS}, known)
    sound = _sound(values)
    problems += _relation_problems(sound)
    problems += _memory_problems(memories, sound)
    if dram is not None:
        problems += _dram_problems(dram)
    return problems


def unknown_key(key: str, place: str, known: Sequence[str]) -> str:
    """The message for a key that nothing reads."""
    close = get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    return f"{place}{key} is no parameter; {hint}"


def _table_problems(
    place: str, values: Mapping[str, object], rules: Mapping[str, NumberRule | ChoiceRule], known: Sequence[str]
) -> list[str]:
    problems = [unknown_key(key, place, known) for key in values if key not in known]
    for name, rule in rules.items():
        if name not in values:
            if rule.default is None:
                problems.append(f"{place}{name} is missing; {_allowed(rule)}")
        elif text := rule.problem(values[name]):
            problems.append(f"{place}{name} is {values[name]!r}; {text}")
    return problems


def _allowed(rule: NumberRule | ChoiceRule) -> str:
    return rule.problem(None)


def _sound(values: Mapping[str, object]) -> dict[str, object]:
    """The parameters that are allowed by their own rules, defaults filled in."""
    filled = {name: values.get(name, rule.default) for name, rule in PARAMETERS.items()}
    return {name: value for name, value in filled.items() if not PARAMETERS[name].problem(value)}


def _relation_problems(sound: Mapping[str, object]) -> list[str]:
    """Parameters that are allowed alone, but not together. A rule whose parameters are not all sound is left out."""
    relations: tuple[tuple[tuple[str, str], Callable[[Any, Any], bool], str], ...] = (
        (("pe", "simd"), lambda pe, simd: simd % pe == 0, "simd is a multiple of pe"),
        (("pe", "lookups"), lambda pe, n: n == 0 or pe % n == 0, "lookups divides pe"),
        (
            ("datapath", "act_bits"),
            lambda path, bits: (bits == 1) == (path == "xnor"),
            "act_bits is 1 with xnor and at least 2 with other datapaths",
        ),
        (
            ("datapath", "weight_bits"),
            lambda path, bits: (bits == 1) == (path != "mul"),
            "weight_bits is 2 to 8 with mul and 1 with other datapaths",
        ),
        (
            ("post", "csd_digits"),
            lambda post, digits: (digits > 0) == (post == "csd"),
            "csd_digits is 1 to 8 with post csd and 0 with others",
        ),
    )
    return [
        f"{' and '.join(f'{name} = {sound[name]}' for name in names)} do not go together: {text}"
        for names, holds, text in relations
        if all(name in sound for name in names) and not holds(*(sound[name] for name in names))
    ]


def _memory_problems(memories: object, sound: Mapping[str, object]) -> list[str]:
    if not isinstance(memories, Mapping):
        return [f"memories is {memories!r}; a table with {', '.join(ALWAYS_NEEDED)} is expected"]
    problems = [unknown_key(key, "memories.", ON_CHIP) for key in memories if key not in ON_CHIP]
    needed = list(ALWAYS_NEEDED)
    needed += ["thresholds"] if sound.get("comparators") else []
    needed += ["lookups"] if sound.get("lookups") else []
    needed += ["partial_sums"] if sound.get("dataflow") == "weight-stationary" else []
    problems += [
        f"memories.{name} is missing; words = 1 or more is expected" for name in needed if name not in memories
    ]
    for name, table in memories.items():
        place = f"memories.{name}"
        if not isinstance(table, Mapping):
            problems.append(f"{place} is {table!r}; a table with words is expected")
            continue
        problems += _table_problems(f"{place}.", table, MEMORY_RULES, tuple(MEMORY_RULES))
        words, banks = table.get("words"), table.get("banks", 1)
        if isinstance(words, int) and isinstance(banks, int) and words < banks <= MEMORY_RULES["banks"].high:
            problems.append(f"{place}.banks is {banks}, words {words}; every bank has a word or more")
        if table.get("read_ports", 1) == 2 and name != "residuals":
            problems.append(f"{place}.read_ports is 2; only the residual memory may have two")
    return problems


def _dram_problems(dram: object) -> list[str]:
    if not isinstance(dram, Mapping):
        return [f"dram is {dram!r}; a table with bits_per_cycle and overlap is expected"]
    problems = [unknown_key(key, "dram.", ("bits_per_cycle", "overlap")) for key in dram if key not in DRAM_KEYS]
    rule = NumberRule(low=1, high=65536)
    if text := rule.problem(dram.get("bits_per_cycle")):
        problems.append(f"dram.bits_per_cycle is {dram.get('bits_per_cycle')!r}; {text}")
    if not isinstance(dram.get("overlap"), bool):
        problems.append(f"dram.overlap is {dram.get('overlap')!r}; true or false is allowed")
    return problems


DRAM_KEYS = ("bits_per_cycle", "overlap")
