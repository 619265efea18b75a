"""Which tensors a program must keep in memory, and how many bits of them are alive at once.

Everything follows from the order of the instructions; nothing is stored in a program for it. Rules:
1. A result whose readers stand right behind it in one unbroken run, each an element-by-element step (requantise,
   threshold, saturating addition) or a global sum, is *streamed*: its numbers are consumed as they are made, never
   stored. So are the accumulators of a convolution, and the branch of a residual block on its way into the addition.
2. An instruction whose result is streamed is finished when its last reader is, so its operands live that long.
3. A step that works element by element writes its result over a stored operand of as many elements and at least as
   many bits, if nothing else still reads that operand: a residual stream is updated in place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from bnhw.program import AddSaturating, Instruction, LookUp, Program, Requantise, SumGlobal, Tensor, Threshold


def tensor_bits(tensor: Tensor) -> int:
    """Bits of one image's tensor, without padding to words."""
    return tensor.size * tensor.dtype.bits


@dataclass(frozen=True, kw_only=True, eq=False)
class Storage:
    """The memory that one image's tensors take, by the rules above."""

    program: Program

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """The positions of the instructions that read each tensor."""
        found: dict[str, list[int]] = {name: [] for name in self.program.tensor}
        for position, instruction in enumerate(self.program.instructions):
            for name in set(instruction.inputs):
                found[name].append(position)
        return {name: tuple(positions) for name, positions in found.items()}

    @cached_property
    def streamed(self) -> frozenset[str]:
        """Tensors that are never stored (rule 1)."""
        return frozenset(
            instruction.output
            for position, instruction in enumerate(self.program.instructions)
            if instruction.output != self.program.output and self._is_consumed_at_once(position, instruction)
        )

    def _is_consumed_at_once(self, position: int, instruction: Instruction) -> bool:
        readers = self.readers[instruction.output]
        behind = tuple(range(position + 1, position + 1 + len(readers)))
        kinds = (Requantise, Threshold, AddSaturating, SumGlobal)
        return bool(readers) and readers == behind and all(isinstance(self._at(reader), kinds) for reader in readers)

    def _at(self, position: int) -> Instruction:
        return self.program.instructions[position]

    @cached_property
    def finished(self) -> tuple[int, ...]:
        """By instruction, the position at which it no longer reads its operands (rule 2)."""
        positions = list(range(len(self.program.instructions)))
        for position in reversed(positions):
            output = self._at(position).output
            if output in self.streamed:
                positions[position] = max(positions[reader] for reader in self.readers[output])
        return tuple(positions)

    def last_needed(self, name: str) -> int:
        """The position of the last instruction during which a stored tensor is read (or made, if never read)."""
        if name == self.program.output:
            return len(self.program.instructions)
        made = next((at for at, i in enumerate(self.program.instructions) if i.output == name), 0)
        return max((self.finished[reader] for reader in self.readers[name]), default=made)

    def overwritten(self, position: int) -> str | None:
        """The operand whose memory the result of an instruction takes over, or None (rule 3)."""
        instruction = self._at(position)
        result = self.program.tensor[instruction.output]
        in_place = isinstance(instruction, Requantise | Threshold | AddSaturating | LookUp)
        if instruction.output in self.streamed or not in_place:
            return None
        for name in instruction.inputs:
            operand = self.program.tensor[name]
            others = (self.finished[reader] for reader in self.readers[name] if reader != position)
            free = name not in self.streamed and name != self.program.output and all(done < position for done in others)
            if free and operand.size == result.size and operand.dtype.bits >= result.dtype.bits:
                return name
        return None

    @cached_property
    def live_bits(self) -> tuple[int, ...]:
        """By instruction, the bits of stored tensors alive during it, operands and result included."""
        spans = {self.program.input: 0} | {i.output: at for at, i in enumerate(self.program.instructions)}
        stored = {name: begin for name, begin in spans.items() if name not in self.streamed}
        live = [0] * len(self.program.instructions)
        for name, begin in stored.items():
            for position in range(begin, min(self.last_needed(name) + 1, len(live))):
                live[position] += tensor_bits(self.program.tensor[name])
        for position, instruction in enumerate(self.program.instructions):
            if self.overwritten(position) is not None:
                live[position] -= tensor_bits(self.program.tensor[instruction.output])
        return tuple(live)

    @property
    def peak_bits(self) -> int:
        """The most bits alive at once, skip connections included."""
        return max(self.live_bits)
