"""The engine's parameters, and the hardware that follows from them. Meaning: docs/engine.md, section 1."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

from bnhw.count import Action, ActionKind
from bnhw.errors import BadInput
from bnhw.hardware.arch_rules import PARAMETERS, TABLES, arch_problems
from bnhw.hardware.trace import MemoryKind, MemoryShape, add_counts

FETCH = 2
"""Cycles in front of a step's first interval: descriptor address, descriptor."""

DRAIN = 6
"""Registers from the issue of a step's last cycle to its last write."""

WEIGHT_LOAD = 1
"""Cycles in which a word of weights is put into the array (weight-stationary)."""

PARTIAL_SUM_LATENCY = 5
"""Cycles from the last plane of a pixel in one pass to its earliest in the next: its sum is in memory by then."""

MOST_RESULT_BITS = 34
"""Of any tensor's type, with a sign."""

DESCRIPTOR_BITS = 1024
"""One word of the descriptor memory."""


class Datapath(Enum):
    """What the array does with an input and a weight."""

    MUX = "mux"
    AND = "and"
    XNOR = "xnor"
    MUL = "mul"


class Post(Enum):
    """The arithmetic requantise unit."""

    SHIFT = "shift"
    CSD = "csd"
    MULTIPLY = "multiply"


class Dataflow(Enum):
    """What stays where it is: sums in the accumulators, or weights in the array."""

    OUTPUT_STATIONARY = "output-stationary"
    WEIGHT_STATIONARY = "weight-stationary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Words of all banks together, of which an access touches one; read ports."""

    words: int
    banks: int = 1
    read_ports: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dram:
    """Memory off chip: bits a cycle, and whether transfers run beside the steps."""

    bits_per_cycle: int
    overlap: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """An engine. Raises BadInput with every value that is not allowed. Parameters: docs/engine.md, section 1.

    memories: the on-chip memories that are there.
    """

    name: str
    description: str = ""
    clock_mhz: float
    pe: int
    simd: int
    datapath: Datapath
    act_bits: int
    weight_bits: int = 1
    acc_bits: int
    residual_bits: int
    post: Post
    csd_digits: int = 0
    multiplier_bits: int
    comparators: int = 0
    lookups: int = 0
    product_bits: int = 0
    offset_bits: int
    shift_bits: int
    class_bits: int = 4
    dataflow: Dataflow = Dataflow.OUTPUT_STATIONARY
    memories: Mapping[MemoryKind, Memory]
    dram: Dram | None = None

    def __post_init__(self) -> None:
        values = self.values()
        tables = {name: values.pop(name) for name in TABLES}
        problems = arch_problems(values, tables["memories"], tables["dram"])
        if problems:
            raise BadInput(problem_list(self.name, problems))

    def values(self) -> dict[str, object]:
        """The plain values, as a TOML file holds them; `dram` is None where there is none."""
        result: dict[str, object] = {"description": self.description}
        for name in PARAMETERS:
            value = getattr(self, name)
            result[name] = value.value if isinstance(value, Enum) else value
        result["memories"] = {kind.value: _plain(memory) for kind, memory in self.memories.items()}
        result["dram"] = None if self.dram is None else _plain(self.dram)
        return result

    def with_options(self, /, **options: object) -> "Arch":
        """This engine with other parameters, given as in a TOML file; tables change only what they name.

        A datapath or post takes along what it alone needs (`PARTNERS`), unless given. Raises BadInput.
        """
        values = self.values()
        name = str(options.pop("name", self.name))
        for option in ("datapath", "post"):
            chosen = options.get(option, values[option])
            plain = chosen.value if isinstance(chosen, Enum) else chosen
            for partner, (wrong, right) in PARTNERS.get((option, str(plain)), {}).items():
                if option in options and partner not in options and values[partner] in wrong:
                    values[partner] = right
        values |= {
            key: _merged(values.get(key), value.value if isinstance(value, Enum) else value)
            for key, value in options.items()
        }
        return arch_from_values(name, values)

    @property
    def groups(self) -> int:
        """Banks of the activation memory, G in docs/engine.md."""
        return self.simd // self.pe

    @property
    def record_bits(self) -> int:
        """One PE's constants: M, B and S. A digit of M: present, sign, place."""
        digit = 2 + (self.multiplier_bits - 1).bit_length()
        multiplier = {Post.MULTIPLY: self.multiplier_bits, Post.CSD: self.csd_digits * digit, Post.SHIFT: digit}
        return multiplier[self.post] + self.offset_bits + self.shift_bits

    @property
    def result_bits(self) -> int:
        """A signed result of the post stage: of any accumulator or residual, or of any type at the most."""
        return min(MOST_RESULT_BITS, max(self.acc_bits, self.residual_bits) + 2)

    @property
    def threshold_bits(self) -> int:
        """One threshold: a number of the accumulator's range, or one beyond either end."""
        return self.acc_bits + 1

    def word_bits(self, kind: MemoryKind) -> int:
        """Bits of one word (of one bank, in the activation memory)."""
        words = {
            MemoryKind.ACTIVATIONS: self.pe * self.act_bits,
            MemoryKind.RESIDUALS: self.pe * self.residual_bits,
            MemoryKind.WEIGHTS: self.pe * self.simd * self.weight_bits,
            MemoryKind.CONSTANTS: self.pe * self.record_bits,
            MemoryKind.THRESHOLDS: self.pe * (self.comparators * self.threshold_bits + 1),
            MemoryKind.LOOKUPS: self.residual_bits,
            MemoryKind.CLASSES: self.class_bits,
            MemoryKind.DESCRIPTORS: DESCRIPTOR_BITS,
            MemoryKind.PARTIAL_SUMS: self.pe * self.acc_bits,
        }
        return words[kind]

    def read_bits(self, kind: MemoryKind) -> int:
        """Bits that an on-chip memory gives in a cycle: a word of each activation bank, one a read port of others."""
        banks = self.groups if kind is MemoryKind.ACTIVATIONS else 1
        return self.word_bits(kind) * banks * self.memories[kind].read_ports

    def write_bits(self, kind: MemoryKind) -> int:
        """Bits that an on-chip memory takes in a cycle: one word."""
        return self.word_bits(kind)

    @property
    def memory_shapes(self) -> Mapping[MemoryKind, MemoryShape]:
        """The memories as built. Lookup memories are so many copies of one content."""
        copies = {MemoryKind.ACTIVATIONS: self.groups, MemoryKind.LOOKUPS: max(1, self.lookups)}
        return {
            kind: MemoryShape(
                capacity_bits=memory.words * self.word_bits(kind) * copies.get(kind, 1),
                port_bits=self.word_bits(kind),
                banks=memory.banks * copies.get(kind, 1),
            )
            for kind, memory in self.memories.items()
        }


PARTNERS: Mapping[tuple[str, str], Mapping[str, tuple[tuple[int, ...], int]]] = {
    ("datapath", "xnor"): {"act_bits": (tuple(range(2, 17)), 1), "weight_bits": (tuple(range(2, 9)), 1)},
    ("datapath", "mux"): {"act_bits": ((1,), 8), "weight_bits": (tuple(range(2, 9)), 1)},
    ("datapath", "and"): {"act_bits": ((1,), 8), "weight_bits": (tuple(range(2, 9)), 1)},
    ("datapath", "mul"): {"act_bits": ((1,), 8), "weight_bits": ((1,), 8)},
    ("post", "shift"): {"csd_digits": (tuple(range(1, 9)), 0)},
    ("post", "csd"): {"csd_digits": ((0,), 2)},
    ("post", "multiply"): {"csd_digits": (tuple(range(1, 9)), 0)},
}
"""What another datapath or post changes with it: parameter, values that do not go with it, value then taken."""


def arch_from_values(name: str, values: Mapping[str, object]) -> Arch:
    """An engine of plain values, as a TOML file holds them. Raises BadInput with every problem."""
    plain = dict(values)
    memories, dram = plain.pop("memories", None), plain.pop("dram", None)
    problems = arch_problems(plain, memories, dram)
    if not isinstance(plain.get("description", ""), str):
        problems.append(f"description is {plain['description']!r}; a text is allowed")
    if problems or not isinstance(memories, Mapping):
        raise BadInput(problem_list(name, problems))
    kinds = {"datapath": Datapath, "post": Post, "dataflow": Dataflow}
    plain |= {key: kind(plain[key]) for key, kind in kinds.items() if key in plain}
    built = {MemoryKind(key): Memory(**table) for key, table in memories.items()}
    return Arch(name=name, memories=built, dram=Dram(**dram) if isinstance(dram, Mapping) else None, **plain)  # type: ignore[arg-type]


def problem_list(name: str, problems: list[str]) -> str:
    """The message of a description that is not allowed."""
    return f"engine {name!r} cannot be built:\n" + "\n".join(f"  - {problem}" for problem in problems)


class Unit(Enum):
    """A part of the engine that a step uses or does not."""

    ARRAY = "array"
    LANES = "lanes"
    PRODUCTS = "products"
    ARITHMETIC = "arithmetic"
    THRESHOLDS = "thresholds"
    LOOKUPS = "lookups"
    ADD = "add"


def instances(arch: Arch) -> Mapping[Action, int]:
    """The operators that the engine instantiates, by kind and width: those of all units."""
    return add_counts(unit_instances(arch).values())


def unit_instances(arch: Arch) -> Mapping[Unit, Mapping[Action, int]]:
    """The operators of each unit, by kind and width. Registers and wires are left out.

    Array: one multiplexer, AND (a multiplexer with 0), XNOR or multiplier a PE and lane, and an adder tree of simd
    inputs, the accumulator's adder included. Lanes beside it: pe adders and comparators (sums, maxima). Products: pe
    multipliers where there are any. Arithmetic: the product with M, an addition of B, a shift, a clamp of two
    comparators. Add: an addition with its clamp.
    """
    pe, width = arch.pe, arch.acc_bits + arch.multiplier_bits
    total = max(width, arch.offset_bits)
    product: dict[Post, tuple[tuple[ActionKind, int, tuple[int, ...]], ...]] = {
        Post.MULTIPLY: ((ActionKind.MULTIPLY, pe, (arch.acc_bits, arch.multiplier_bits)),),
        Post.CSD: (
            (ActionKind.ADD, pe * (arch.csd_digits - 1), (width,)),
            (ActionKind.SHIFT, pe * arch.csd_digits, (width,)),
        ),
        Post.SHIFT: ((ActionKind.SHIFT, pe, (width,)),),
    }
    return {
        Unit.ARRAY: _array_instances(arch),
        Unit.LANES: _counted((ActionKind.ADD, pe, (arch.acc_bits,)), (ActionKind.COMPARE, pe, (arch.acc_bits,))),
        Unit.PRODUCTS: _counted((ActionKind.MULTIPLY, pe if arch.product_bits else 0, (arch.product_bits,) * 2)),
        Unit.ARITHMETIC: _counted(
            *product[arch.post],
            (ActionKind.ADD, pe, (total,)),
            (ActionKind.SHIFT, pe, (total,)),
            (ActionKind.COMPARE, 2 * pe, (total,)),
        ),
        Unit.THRESHOLDS: _counted((ActionKind.COMPARE, pe * arch.comparators, (arch.threshold_bits,))),
        Unit.LOOKUPS: _counted((ActionKind.LOOKUP, arch.lookups, ())),
        Unit.ADD: _counted(
            (ActionKind.ADD, pe, (arch.residual_bits,)), (ActionKind.COMPARE, 2 * pe, (arch.residual_bits + 1,))
        ),
    }


def _array_instances(arch: Arch) -> Mapping[Action, int]:
    lanes = arch.pe * arch.simd
    adders = lanes + (arch.simd if arch.datapath is Datapath.AND else 0)
    tree = (ActionKind.ADD, adders, (arch.acc_bits,))
    match arch.datapath:
        case Datapath.MUX | Datapath.AND:
            return _counted((ActionKind.MUX, lanes, (arch.act_bits,)), tree)
        case Datapath.XNOR:
            return _counted((ActionKind.XNOR, lanes, ()), (ActionKind.POPCOUNT, lanes, ()))
        case Datapath.MUL:
            return _counted((ActionKind.MULTIPLY, lanes, (arch.act_bits, arch.weight_bits)), tree)


def _counted(*operators: tuple[ActionKind, int, tuple[int, ...]]) -> Mapping[Action, int]:
    """Numbers of operators by kind and width; those of which there are none are left out."""
    return add_counts({Action(kind=kind, widths=widths): number} for kind, number, widths in operators if number)


def _merged(old: object, new: object) -> object:
    """A value in place of another; in tables, only what the new one names, at every depth."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _plain(value: Memory | Dram) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in fields(value)}
