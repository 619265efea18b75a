"""A whole program as a table of steps, constants and an arena: what the interpreters of `bnhw.kernels.fused` run.

A plan is made once per program and holds no activations; every thread has an arena of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused import fields
from bnhw.kernels.fused.fields import BLOCK, LANES, SLACK_BYTES, SLOT_BYTES, SLOTS
from bnhw.plan_interpreter import MOST_IMAGES, Interpreter
from bnhw.plan_memory import lay_out
from bnhw.plan_methods import Method, choose_methods
from bnhw.plan_order import Step, order_steps
from bnhw.plan_records import Records
from bnhw.plan_steps import count_records, write_step
from bnhw.plan_storage import Area, Fill, Place, move_fills, move_place
from bnhw.plan_sums import GROUP_TILES
from bnhw.program import Program

GROUP_BYTES = 3 << 20
"""Images of a group: as many as stay in the second cache step by step."""
ANY = Interpreter()
"""Whatever all interpreters can do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What an interpreter runs, see `bnhw.kernels.fused.fields`.

    table: int64. constants: uint8, aligned to 64 bytes. arena_bytes, fills: size and first contents of an arena.
    sums, slots, panel: offsets of scratch memory in it; a convolution keeps in `panel` its expanded weights, or sums,
    transformed weights and transformed pixels, or indices, tables and sums. additions: the names that saturated sums
    are counted for. places: where stored tensors lie. methods: of each convolution, by the tensor it writes.
    """

    table: Array
    constants: Array
    arena_bytes: int
    fills: tuple[Fill, ...]
    slots: int
    sums: int
    panel: int
    additions: tuple[str, ...]
    places: Mapping[str, Place]
    methods: Mapping[str, Method]


def make_plan(program: Program, interpreter: Interpreter = ANY, *, store_all: bool = False) -> Plan:
    """Plan a well-formed program for an interpreter. With `store_all`, every tensor keeps a place of its own."""
    steps = order_steps(program, store_all=store_all)
    methods, words = choose_methods(program, interpreter)
    layout = lay_out(program, steps, words, interpreter.narrow_pixels, share=not store_all)
    table = [0] * (fields.H_FIELDS + 2 + sum(count_records(step) for step in steps))
    records = Records(
        program=program, layout=layout, words=words, methods=methods, interpreter=interpreter, table=table
    )
    own_step = _write_steps(records, steps)
    return _join(records, own_step)


def _write_steps(records: Records, steps: tuple[Step, ...]) -> int:
    """Write every step's record; returns the number of the first that a group of images runs together."""
    records.write([fields.IMAGE, records.tensor(records.program.input)])
    own_step = 0
    for number, step in enumerate(steps):
        if number == records.layout.own_from:
            own_step = len(records.step_positions)
        write_step(records, step)
    if records.layout.own_from == len(steps):
        own_step = len(records.step_positions)
    records.write([fields.OUTPUT, records.tensor(records.program.output)])
    return own_step


def _join(records: Records, own_step: int) -> Plan:
    """The arena's areas one behind the other, and with their offsets one table for each image of a group."""
    shared, own = records.layout.shared, records.layout.own
    slack = max(SLACK_BYTES, records.beyond_bytes)
    slots = shared.size_bytes + slack
    sums = slots + SLOTS * SLOT_BYTES
    panel = sums + (GROUP_TILES // 2 + 1) * SLOT_BYTES
    own_bytes = own.size_bytes + records.gather_bytes[Area.OWN_PANEL] + 64 * LANES * BLOCK
    group = max(1, min(MOST_IMAGES, GROUP_BYTES // own_bytes))
    starts = {Area.SHARED: 0, Area.SHARED_PANEL: panel + records.panel_bytes}
    starts[Area.OWN] = starts[Area.SHARED_PANEL] + records.gather_bytes[Area.SHARED_PANEL] + slack
    starts[Area.OWN_PANEL] = starts[Area.OWN] + own.size_bytes
    header = [len(records.step_positions), own_step, group, len(records.table)]
    assert len(header) + len(records.step_positions) <= records.room, "positions fit before the first record"
    records.table[: len(header) + len(records.step_positions)] = [*header, *records.step_positions]
    fills = list(shared.fills)
    for image in range(group):
        fills += move_fills(own.fills, starts[Area.OWN] + image * own_bytes)
    places = {name: move_place(place, 0) for name, place in shared.places.items()}
    places |= {name: move_place(place, starts[Area.OWN]) for name, place in own.places.items()}
    return Plan(
        table=np.concatenate([records.finished(starts, image * own_bytes) for image in range(group)]),
        constants=records.constants.joined(),
        arena_bytes=starts[Area.OWN] + group * own_bytes + slack,
        fills=tuple(fills),
        slots=slots,
        sums=sums,
        panel=panel,
        additions=tuple(records.additions),
        places=places,
        methods=records.methods,
    )
