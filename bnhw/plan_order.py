"""The order of a plan's steps, and which instructions share one.

Requantise steps, thresholds and residual additions that read what a convolution has just summed run on those sums
while they are in the cache; only what another step reads is stored. Whatever is ready before the next convolution
runs before it, so that the other operand of an addition is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnhw.kernels.fused.fields import SLOTS
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    LookUp,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Threshold,
)

Elementwise = Requantise | Threshold | AddSaturating


PLANNED = (
    AddSaturating,
    Convolve,
    Join,
    LookUp,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Requantise,
    SumGlobal,
    Threshold,
)
"""Instructions that have a step."""


def unplanned_kinds(program: Program) -> tuple[str, ...]:
    """Kinds of instructions that no plan can hold, each once."""
    kinds = (instruction.kind for instruction in program.instructions if not isinstance(instruction, PLANNED))
    return tuple(dict.fromkeys(kinds))


@dataclass(frozen=True, slots=True, kw_only=True)
class TailOperation:
    """One operation on sums in the cache.

    instruction: what it does; None stores `tensor`, or loads it where `load` is true. source, target: slots. other:
    the operand of an addition that is read from memory.
    """

    instruction: Elementwise | None
    tensor: str
    source: int
    target: int
    other: str = ""
    load: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An instruction that reads and writes memory, or a convolution with its tail, or (`main` None) a tail alone."""

    main: Instruction | None
    tail: tuple[TailOperation, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors read from memory."""
        loaded = [operation.tensor for operation in self.tail if operation.load]
        others = [operation.other for operation in self.tail if operation.other]
        return (*(self.main.inputs if self.main else ()), *loaded, *others)

    @property
    def writes(self) -> tuple[str, ...]:
        """Tensors written to memory."""
        if self.main is not None and not isinstance(self.main, Convolve):
            return (self.main.output,)
        return tuple(o.tensor for o in self.tail if o.instruction is None and not o.load)


def order_steps(program: Program, *, store_all: bool = False) -> tuple[Step, ...]:
    """The steps in execution order; with `store_all`, every tensor is stored."""
    return _Ordering(program, store_all).steps()


class _Ordering:
    """The instructions not yet in a step, and the tensors in memory; used once."""

    def __init__(self, program: Program, store_all: bool) -> None:
        self.program = program
        self.store_all = store_all
        self.waiting: dict[str, Instruction] = {i.output: i for i in program.instructions}
        self.stored = {program.input}
        self.readers: Mapping[str, Sequence[Instruction]] = {
            tensor.name: [i for i in program.instructions if tensor.name in i.inputs] for tensor in program.tensors
        }

    def steps(self) -> tuple[Step, ...]:
        """Every instruction in some step."""
        steps = []
        while self.waiting:
            ready = [i for i in self.waiting.values() if self.stored.issuperset(i.inputs)]
            instruction = next((i for i in ready if not isinstance(i, Convolve)), ready[0])
            step = self._step(instruction)
            self.stored.update(step.writes)
            steps.append(step)
        return tuple(steps)

    def _step(self, instruction: Instruction) -> Step:
        if isinstance(instruction, Convolve):
            del self.waiting[instruction.output]
            return Step(main=instruction, tail=tuple(self._follow(instruction.output, 0)))
        if isinstance(instruction, Requantise | Threshold | AddSaturating):
            first = instruction.inputs[0]
            load = TailOperation(instruction=None, tensor=first, source=0, target=0, load=True)
            return Step(main=None, tail=(load, *self._operate(instruction, first, 0)))
        del self.waiting[instruction.output]
        return Step(main=instruction)

    def _operate(self, instruction: Elementwise, tensor: str, slot: int) -> list[TailOperation]:
        """An instruction that reads `tensor` from a slot, and all that follows it."""
        del self.waiting[instruction.output]
        other = ""
        if isinstance(instruction, AddSaturating):
            other = instruction.inputs[1] if instruction.inputs[0] == tensor else instruction.inputs[0]
        operation = TailOperation(
            instruction=instruction, tensor=instruction.output, source=slot, target=slot + 1, other=other
        )
        return [operation, *self._follow(instruction.output, slot + 1)]

    def _follow(self, tensor: str, slot: int) -> list[TailOperation]:
        """Store the tensor in a slot if anything else needs it, and run what can run on it."""
        follow: list[TailOperation] = []
        for reader in self.readers[tensor]:
            if slot + 1 < SLOTS and reader.output in self.waiting and self._can_follow(reader, tensor):
                assert isinstance(reader, Requantise | Threshold | AddSaturating)
                follow += self._operate(reader, tensor, slot)
        needed = any(reader.output in self.waiting for reader in self.readers[tensor])
        if needed or tensor == self.program.output or self.store_all:
            follow.insert(0, TailOperation(instruction=None, tensor=tensor, source=slot, target=slot))
        return follow

    def _can_follow(self, reader: Instruction, tensor: str) -> bool:
        if isinstance(reader, AddSaturating):
            others = [name for name in reader.inputs if name != tensor]
            return len(others) == 1 and others[0] in self.stored
        return isinstance(reader, Requantise | Threshold)
