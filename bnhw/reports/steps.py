"""What each step that makes codes costs for one number, and why it is not cheaper.

Everything follows from the program alone: the counts are those of `bnhw.count`, the reasons those of
`bnhw.reports.reasons`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnhw.count import ActionKind, Counts, channel_digits, count_program, digit_additions, is_comparison
from bnhw.options import RequantiseMode
from bnhw.program import AddSaturating, Instruction, LookUp, Program, Requantise, Threshold
from bnhw.reports.reasons import digit_errors, reason_of

OPERATIONS = {
    "multiplications": ActionKind.MULTIPLY,
    "additions": ActionKind.ADD,
    "shifters": ActionKind.SHIFT,
    "comparators": ActionKind.COMPARE,
    "lookups": ActionKind.LOOKUP,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeStep:
    """One instruction that makes codes.

    kind: `lookup`, `add`, `sign`, `shift`, `csd`, `multiply` or `threshold`. mode: the same with its number, as in
    `csd:2`. counts: of the whole tensor, an image. digits: channels by the number of signed digits that each has, in
    mode csd. digit_additions: those an image that join digits. errors: the largest relative error of the ratios under
    csd:1, csd:2, ..., None where one is too large; empty but for csd and multiply.
    """

    instruction: Instruction
    type: str
    size: int
    kind: str
    mode: str
    counts: Counts
    digits: Mapping[int, int]
    digit_additions: int
    errors: tuple[float | None, ...]
    reason: str

    def for_one(self, operation: str) -> float:
        """One of OPERATIONS for one number of the tensor, a mean over all."""
        kind = OPERATIONS[operation]
        return sum(count for action, count in self.counts.actions.items() if action.kind is kind) / self.size

    @property
    def digits_text(self) -> str:
        """`digits: 1 in 20 channels, 2 in 140`; empty in other modes than csd."""
        parts = [f"{number} in {channels}" for number, channels in self.digits.items()]
        if parts:
            parts[0] += " channel" if next(iter(self.digits.values())) == 1 else " channels"
        return f"digits: {', '.join(parts)}" if parts else ""

    def as_json(self) -> Mapping[str, Any]:
        """Plain values for `json.dumps`; operations are those for one number."""
        return {
            "result": self.instruction.output,
            "kind": self.instruction.kind,
            "type": self.type,
            "mode": self.mode,
            **{name: self.for_one(name) for name in OPERATIONS},
            "constant_bits": self.counts.constant_bits,
            "channels_by_digits": {str(number): channels for number, channels in self.digits.items()},
            "csd_errors": {f"csd:{digits}": error for digits, error in enumerate(self.errors, 1)},
            "reason": self.reason,
        }


def code_steps(program: Program) -> tuple[CodeStep, ...]:
    """Every LookUp, Requantise, Threshold and AddSaturating, in order."""
    wanted = (LookUp, Requantise, Threshold, AddSaturating)
    return tuple(
        _step(program, layer.instruction, layer.counts)
        for layer in count_program(program)
        if isinstance(layer.instruction, wanted)
    )


def _step(program: Program, instruction: Instruction, counts: Counts) -> CodeStep:
    tensor = program.tensor[instruction.output]
    kind, mode = _mode(program, instruction)
    digits: dict[int, int] = {}
    errors: tuple[float | None, ...] = ()
    joined = 0
    if isinstance(instruction, Requantise) and kind in ("csd", "multiply"):
        errors = digit_errors(program, instruction)
        joined = digit_additions(program, instruction)
        if kind == "csd":
            numbers, channels = np.unique(channel_digits(program, instruction), return_counts=True)
            digits = dict(zip(numbers.tolist(), channels.tolist(), strict=True))
    return CodeStep(
        instruction=instruction,
        type="bipolar" if tensor.bipolar else str(tensor.dtype),
        size=tensor.size,
        kind=kind,
        mode=mode,
        counts=counts,
        digits=digits,
        digit_additions=joined,
        errors=errors,
        reason=reason_of(program, instruction),
    )


def _mode(program: Program, instruction: Instruction) -> tuple[str, str]:
    match instruction:
        case LookUp():
            return "lookup", "lookup"
        case Threshold():
            return "threshold", "threshold"
        case Requantise() if is_comparison(program, instruction):
            return "sign", "sign"
        case Requantise(mode=RequantiseMode.CSD, digits=digits):
            return "csd", f"csd:{digits}"
        case Requantise(mode=RequantiseMode.MULTIPLY, multiplier_bits=bits):
            return "multiply", f"multiply:{bits}"
        case Requantise():
            return "shift", "shift"
    return "add", "add"


def summarise_modes(steps: Sequence[CodeStep]) -> str:
    """How many requantise steps have which mode: `12 shift, 19 csd (mean 2.1 digits), 0 multiply, 1 threshold`."""
    kinds = Counter(step.kind for step in steps)
    channels: Counter[int] = Counter()
    for step in steps:
        channels.update(step.digits)
    mean = sum(number * count for number, count in channels.items()) / max(sum(channels.values()), 1)
    csd = f"{kinds['csd']} csd{f' (mean {mean:.1f} digits)' if channels else ''}"
    return (
        f"{kinds['shift']} shift, {csd}, {kinds['multiply']} multiply, {kinds['threshold'] + kinds['sign']} threshold"
    )


def summarise_costs(steps: Sequence[CodeStep]) -> str:
    """The total of all steps an image, in one line."""
    multiplications = sum(step.counts.multipliers for step in steps)
    joined = sum(step.digit_additions for step in steps)
    work = f"{multiplications:,} multiplications, {joined:,} additions of csd digits"
    return f"in all: {summarise_modes(steps)}; for an image {work}"
