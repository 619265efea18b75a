"""The table of a plan under construction: positions of steps, records of tensors and of tails, constants."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused import fields
from bnhw.plan_interpreter import Interpreter
from bnhw.plan_memory import Layout, Store
from bnhw.plan_methods import Method
from bnhw.plan_order import TailOperation
from bnhw.plan_storage import Area, Place
from bnhw.plan_tail import Pass, fuse_passes
from bnhw.program import Program


@dataclass(kw_only=True)
class Records:
    """What has been written so far; used once.

    words, methods: see `bnhw.plan_methods.choose_methods`. room: numbers before the first record. step_positions: where
    each step's record starts. offsets: positions in the table of numbers that count from the start of an area.
    additions: names that saturated sums are counted for. derived: tensors whose planes or words are written.
    panel_bytes, gather_bytes: the largest `panel` of a convolution, see `bnhw.plan.Plan`, and gathered pixels.
    beyond_bytes: the most that is read behind a tensor.
    """

    program: Program
    layout: Layout
    words: Mapping[str, int]
    methods: Mapping[str, Method]
    interpreter: Interpreter
    table: list[int]
    room: int = field(init=False)
    step_positions: list[int] = field(default_factory=list)
    constants: Store = field(default_factory=Store)
    tensor_records: dict[str, int] = field(default_factory=dict)
    additions: list[str] = field(default_factory=list)
    derived: set[str] = field(default_factory=set)
    offsets: list[tuple[int, Area]] = field(default_factory=list)
    panel_bytes: int = 0
    beyond_bytes: int = 0
    gather_bytes: dict[Area, int] = field(default_factory=lambda: {Area.SHARED_PANEL: 0, Area.OWN_PANEL: 0})

    def __post_init__(self) -> None:
        self.room = len(self.table)

    def append(self, numbers: list[int]) -> int:
        """Add numbers that a record points to; returns their position."""
        at = len(self.table)
        self.table += [int(number) for number in numbers]
        return at

    def write(self, record: list[int]) -> int:
        """Add the record of the next step; returns its position."""
        at = self.append(record)
        self.step_positions.append(at)
        return at

    def tensor(self, name: str) -> int:
        """The position of a tensor's record, added when first asked for."""
        if name not in self.tensor_records:
            place, area = self.layout.place(name)
            self.tensor_records[name] = self.append(place.fields())
            self.offsets.append((self.tensor_records[name] + fields.T_BASE, area))
        return self.tensor_records[name]

    def tail(self, tail: tuple[TailOperation, ...]) -> list[int]:
        """Add the records of a tail's passes; returns their position and their number."""
        records: list[int] = []
        for pass_ in fuse_passes(self.program, tail, self.layout.forms):
            records += self._operation(pass_)
        return [self.append(records), len(records) // fields.O_FIELDS]

    def _operation(self, pass_: Pass) -> list[int]:
        """The record of one pass, its constants stored."""
        at = self.constants.add(pass_.constants.tables) if pass_.constants else 0
        tensors = [self.tensor(name) if name else -1 for name in (pass_.tensor, pass_.total, pass_.codes)]
        record = [pass_.kind, pass_.source, pass_.target, at, tensors[0], -1, 0, 0]
        if pass_.kind == fields.RESIDUAL:
            record[fields.O_SUM], record[fields.O_CODES] = tensors[1:]
            record[fields.O_LOW_BITS] = pass_.constants.levels if pass_.constants else 0
        elif pass_.constants is not None and pass_.constants.classes is not None:
            record[fields.O_CLASSES] = self.constants.add(pass_.constants.classes)
            _, chunks, chunk_bytes = pass_.constants.tables.shape
            record[fields.O_STRIDE] = chunks * chunk_bytes
        if pass_.addition:
            record[fields.O_LEVELS] = len(self.additions)
            self.additions.append(pass_.addition)
        elif pass_.constants is not None:
            record[fields.O_LEVELS] = pass_.constants.levels
        return record

    def code_bytes(self, name: str) -> tuple[Place, Area]:
        """Where a tensor's codes lie as bytes: itself, or its planes, which are written when first needed."""
        planes = self.layout.planes_of(name)
        if planes is None:
            return self.layout.place(name)
        if name not in self.derived:
            self.derived.add(name)
            form = self.layout.forms[planes]
            low = self.program.tensor[name].dtype.low
            tensors = [self.tensor(name), self.tensor(planes)]
            self.write([fields.SPLIT, *tensors, len(form.fill), form.plane_bytes, low])
        return self.layout.place(planes)

    def finished(self, starts: Mapping[Area, int], own: int) -> Array:
        """The table of the image whose own areas lie so many bytes behind the first one's."""
        table = np.array(self.table, np.int64)
        for position, area in self.offsets:
            table[position] += starts[area] + (own if area in (Area.OWN, Area.OWN_PANEL) else 0)
        return table
