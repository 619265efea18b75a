"""What happens on an engine when one image runs through it: cycles by cause, operations, bits moved. No prices.

`schedule` makes a `Trace` in closed form; the stepping model makes the same one cycle by cycle; `energy` prices it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import TypeVar

from bnhw.count import Action

Key = TypeVar("Key")


class MemoryKind(Enum):
    """The memories of an engine, by what they hold."""

    ACTIVATIONS = "activations"
    RESIDUALS = "residuals"
    WEIGHTS = "weights"
    CONSTANTS = "constants"
    THRESHOLDS = "thresholds"
    LOOKUPS = "lookups"
    CLASSES = "classes"
    DESCRIPTORS = "descriptors"
    PARTIAL_SUMS = "partial_sums"
    DRAM = "dram"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShape:
    """One memory as built: capacity of all banks together, bits of one access of one bank, number of banks."""

    capacity_bits: int
    port_bits: int
    banks: int = 1

    @property
    def bank_bytes(self) -> float:
        """Capacity of one bank."""
        return self.capacity_bits / 8 / self.banks


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycles:
    """Cycles by cause; they add up to `total`. Definitions: docs/engine.md, section 4."""

    compute: int = 0
    weight_load: int = 0
    activation_load: int = 0
    writeback: int = 0
    drain: int = 0
    stall: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, cause.name) for cause in fields(self))

    def __add__(self, other: "Cycles") -> "Cycles":
        return Cycles(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTrace:
    """One step of the engine, for one image.

    name: the tensor it writes. instructions: the outputs of the program's instructions that it executes, in order.
    actions: operations of the program's instructions, as `bnhw.count` counts them, padding waste left out.
    post_actions: those of `actions` that are not a convolution's: what the post stage, the add and the lanes execute.
    macs_full counts padded taps, macs_trimmed only real ones; macs_executed is array cycles * pe * simd; macs_idle are
    those executed where there is no weight: channels that fill no block or word, or lie outside a group.
    tiles: parts in which the step runs.
    reads_bits, writes_bits: bits that pass each memory's ports, whole words.
    """

    name: str
    kind: str
    instructions: tuple[str, ...]
    cycles: Cycles
    actions: Mapping[Action, int]
    post_actions: Mapping[Action, int]
    macs_full: int = 0
    macs_trimmed: int = 0
    macs_executed: int = 0
    macs_idle: int = 0
    tiles: int = 1
    reads_bits: Mapping[MemoryKind, int]
    writes_bits: Mapping[MemoryKind, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A program on an engine, for one image; datapath, widths and sizes are those of the engine (see `Arch`)."""

    model: str
    arch: str
    steps: tuple[StepTrace, ...]
    memories: Mapping[MemoryKind, MemoryShape]
    datapath: str
    act_bits: int
    weight_bits: int
    acc_bits: int
    pe: int
    simd: int
    clock_mhz: float

    @property
    def cycles(self) -> Cycles:
        """The sum over all steps: steps do not overlap."""
        return sum((step.cycles for step in self.steps), Cycles())

    @property
    def utilisation(self) -> float:
        """Real MACs over what the array could do in all cycles; 0 for a program without any."""
        macs = sum(step.macs_trimmed for step in self.steps)
        return macs / (self.cycles.total * self.pe * self.simd) if macs else 0.0

    @property
    def padding_waste(self) -> float:
        """The part of all executed MACs that was idle: channels that are no multiple of pe and simd; 0 without any."""
        executed = sum(step.macs_executed for step in self.steps)
        return sum(step.macs_idle for step in self.steps) / executed if executed else 0.0

    def bits(self, direction: str) -> Mapping[MemoryKind, int]:
        """Bits read (`reads_bits`) or written (`writes_bits`) in each memory by all steps."""
        return add_counts(getattr(step, direction) for step in self.steps)


def add_counts(counts: Iterable[Mapping[Key, int]]) -> dict[Key, int]:
    """The sum of several counts, key by key."""
    result: dict[Key, int] = {}
    for count in counts:
        for key, number in count.items():
            result[key] = result.get(key, 0) + number
    return result
