"""Which instructions one step of the engine executes together. Rules: docs/engine.md, section 3."""

from dataclasses import dataclass, replace

from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    LookUp,
    Multiply,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Threshold,
)

MAINS_WITH_POST = (Convolve, PoolSum, SumGlobal, PoolMaximum, Multiply)
"""Instructions whose step a post of its own may follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedStep:
    """The instructions of one step: the first, and a post and an addition behind it where there are any.

    other: the operand of `add` that is read from memory. part: which operand of a `Join` the step copies.
    place: the position of the last instruction, at which the step runs.
    """

    first: Instruction
    post: Requantise | Threshold | LookUp | None = None
    add: AddSaturating | None = None
    other: str = ""
    part: int = 0
    place: int

    @property
    def output(self) -> str:
        """The tensor that the step writes."""
        return self.instructions[-1].output

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """All of them, in order."""
        return tuple(one for one in (self.first, self.post, self.add) if one is not None)

    @property
    def source(self) -> str:
        """The tensor that main reads."""
        return self.first.inputs[self.part]

    @property
    def second(self) -> str:
        """The tensor that is read beside it, or nothing."""
        return self.first.inputs[1] if isinstance(self.first, Multiply) else self.other

    @property
    def post_instruction(self) -> Requantise | Threshold | LookUp | None:
        """What the post unit executes, also where nothing stands in front of it."""
        return self.first if isinstance(self.first, Requantise | Threshold | LookUp) else self.post

    @property
    def addition(self) -> AddSaturating | None:
        """What is added behind it, also where nothing stands in front."""
        return self.first if isinstance(self.first, AddSaturating) else self.add

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors that are read from memory."""
        return tuple(name for name in (self.source, self.second) if name)


def fuse(program: Program) -> tuple[FusedStep, ...]:
    """The steps of a program, in the order in which they run."""
    readers: dict[str, int] = dict.fromkeys(program.tensor, 0)
    readers[program.output] += 1
    for instruction in program.instructions:
        for name in instruction.inputs:
            readers[name] += 1
    steps: dict[str, FusedStep] = {}  # by output; the steps that others may join
    joins: list[FusedStep] = []
    for place, instruction in enumerate(program.instructions):
        open_steps = {name: steps[name] for name in instruction.inputs if readers[name] == 1 and name in steps}
        match instruction:
            case Join():
                joins += [
                    FusedStep(first=instruction, part=part, place=place) for part in range(len(instruction.inputs))
                ]
                continue
            case Requantise() | Threshold() | LookUp():
                step = _with_post(instruction, open_steps, place)
            case AddSaturating():
                step = _with_add(instruction, open_steps, place)
            case _:
                step = FusedStep(first=instruction, place=place)
        if step.first is not instruction:
            del steps[step.instructions[-2].output]
        steps[instruction.output] = step
    return tuple(sorted((*steps.values(), *joins), key=lambda step: (step.place, step.part)))


def _with_post(instruction: Requantise | Threshold | LookUp, open_steps: dict[str, FusedStep], place: int) -> FusedStep:
    before = open_steps.get(instruction.inputs[0])
    if before is None or before.post or before.add or not isinstance(before.first, MAINS_WITH_POST):
        return FusedStep(first=instruction, place=place)
    if isinstance(instruction, LookUp) and isinstance(before.first, Convolve):
        return FusedStep(first=instruction, place=place)
    return replace(before, post=instruction, place=place)


def _with_add(instruction: AddSaturating, open_steps: dict[str, FusedStep], place: int) -> FusedStep:
    candidates = [step for step in open_steps.values() if not step.other and not isinstance(step.first, Multiply)]
    candidates = [step for step in candidates if not isinstance(step.first, AddSaturating)]
    if not candidates:
        return FusedStep(first=instruction, other=instruction.inputs[1], place=place)
    chosen = max(candidates, key=lambda step: (isinstance(step.first, Convolve), step.place))
    (other,) = (name for name in instruction.inputs if name != chosen.output)
    return replace(chosen, add=instruction, other=other, place=place)
