"""A whole program as a table of steps, constants and an arena: what the interpreters of `bnhw.kernels.fused` run.

A plan is made once per program and holds no activations; every thread has an arena of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused import fields
from bnhw.kernels.fused.fields import BLOCK, LANES, SLOT_BYTES, SLOTS
from bnhw.plan_channels import is_depthwise, list_offsets, order_channels, start_sums
from bnhw.plan_convolution import (
    PAIR,
    Filter,
    Reading,
    even_tiles,
    flat_tiles,
    flatten,
    list_stages,
    order_weights,
    read_tensor,
)
from bnhw.plan_memory import Store, first_narrow, list_forms, list_uses, planes_name
from bnhw.plan_order import Step, TailOperation, order_steps
from bnhw.plan_storage import Area, Fill, Place, move_fills, move_place, panel_of, place_tensors
from bnhw.plan_tail import Pass, fuse_passes
from bnhw.plan_words import (
    STAGE_WORDS,
    WordForm,
    choose_words,
    list_word_taps,
    order_words,
    start_bipolar_counts,
    start_counts,
    words_name,
)
from bnhw.program import (
    Convolve,
    Join,
    LookUp,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    SumGlobal,
)

GROUP_TILES = 8
"""Tiles of pixels whose sums stay in the first cache between stages."""
MOST_IMAGES = 8
GROUP_BYTES = 3 << 20
"""Images of a group: as many as stay in the second cache step by step."""
SLACK_BYTES = 1 << 16
"""Beyond the arena's tensors: tiles read past the last pixel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What an interpreter runs, see `bnhw.kernels.fused.fields`.

    table: int64. constants: uint8, aligned to 64 bytes. arena_bytes, fills: size and first contents of an arena.
    sums, slots, panel: offsets of scratch memory in it. additions: the names that saturated sums are counted for.
    places: where stored tensors lie.
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


def make_plan(program: Program, *, store_all: bool = False, most_planes: int = 0, by_channel: bool = False) -> Plan:
    """Plan a well-formed program. With `store_all`, every tensor keeps a place of its own.

    most_planes: see `bnhw.plan_words.choose_words`. by_channel: whether the interpreter knows convolutions of one
    channel each; else these are multiplied with weights of 0 for all others.
    """
    steps = order_steps(program, store_all=store_all)
    planner = _Planner(program, steps, choose_words(program, most_planes), share=not store_all)
    planner.by_channel = by_channel
    return planner.plan()


class _Planner:
    """A plan under construction; used once."""

    def __init__(self, program: Program, steps: tuple[Step, ...], words: Mapping[str, int], *, share: bool) -> None:
        self.program = program
        self.steps = steps
        self.words = words
        self.by_channel = False
        self.forms = list_forms(program, steps, words)
        uses = list_uses(program, steps, self.forms, words)
        self.own_from = first_narrow(program, steps)
        names = {name for reads, writes in uses[1 + self.own_from :] for name in (*reads, *writes)}
        shared = {name: form for name, form in self.forms.items() if name not in names}
        own = {name: form for name, form in self.forms.items() if name in names}
        self.shared, self.own = (place_tensors(forms, uses, share=share) for forms in (shared, own))
        self.table: list[int] = []
        self.step_positions: list[int] = []
        self.constants = Store()
        self.tensor_records: dict[str, int] = {}
        self.additions: list[str] = []
        self._tail_count = 0
        self.split: set[str] = set()
        self.panel_bytes = 0
        self.gather_bytes = {Area.SHARED_PANEL: 0, Area.OWN_PANEL: 0}
        self.offsets: list[tuple[int, Area]] = []

    def plan(self) -> Plan:
        """Write every step's record, then lay out the arena."""
        self.table = [0] * (fields.H_FIELDS + len(self.steps) * 3 + 2)
        self._write([fields.IMAGE, self._tensor(self.program.input)])
        own_step = len(self.step_positions)
        for number, step in enumerate(self.steps):
            own_step = len(self.step_positions) if number == self.own_from else own_step
            self._write_step(step)
        own_step = len(self.step_positions) if self.own_from == len(self.steps) else own_step
        self._write([fields.OUTPUT, self._tensor(self.program.output)])
        slots = self.shared[2] + SLACK_BYTES
        sums = slots + SLOTS * SLOT_BYTES
        panel = sums + (GROUP_TILES // 2 + 1) * SLOT_BYTES
        starts = {Area.SHARED: 0, Area.SHARED_PANEL: panel + self.panel_bytes}
        starts[Area.OWN] = starts[Area.SHARED_PANEL] + self.gather_bytes[Area.SHARED_PANEL] + SLACK_BYTES
        starts[Area.OWN_PANEL] = starts[Area.OWN] + self.own[2]
        own_bytes = self.own[2] + self.gather_bytes[Area.OWN_PANEL] + 64 * LANES * BLOCK
        group = max(1, min(MOST_IMAGES, GROUP_BYTES // own_bytes))
        header = [len(self.step_positions), own_step, group, len(self.table)]
        self.table[: len(header) + len(self.step_positions)] = [*header, *self.step_positions]
        fills = [
            self.shared[1],
            *(move_fills(self.own[1], starts[Area.OWN] + image * own_bytes) for image in range(group)),
        ]
        places = {name: move_place(place, 0) for name, place in self.shared[0].items()}
        places |= {name: move_place(place, starts[Area.OWN]) for name, place in self.own[0].items()}
        return Plan(
            table=np.concatenate([self._table_of(starts, image * own_bytes) for image in range(group)]),
            constants=self.constants.joined(),
            arena_bytes=starts[Area.OWN] + group * own_bytes + SLACK_BYTES,
            fills=tuple(fill for part in fills for fill in part),
            slots=slots,
            sums=sums,
            panel=panel,
            additions=tuple(self.additions),
            places=places,
        )

    def _table_of(self, starts: Mapping[Area, int], own: int) -> Array:
        """The table of the image whose own areas lie so many bytes behind the first one's."""
        table = np.array(self.table, np.int64)
        for position, area in self.offsets:
            table[position] += starts[area] + (own if area in (Area.OWN, Area.OWN_PANEL) else 0)
        return table

    def _place(self, name: str) -> tuple[Place, Area]:
        if name in self.own[0]:
            return self.own[0][name], Area.OWN
        return self.shared[0][name], Area.SHARED

    def _append(self, numbers: list[int]) -> int:
        at = len(self.table)
        self.table += [int(number) for number in numbers]
        return at

    def _write(self, record: list[int]) -> int:
        at = self._append(record)
        self.step_positions.append(at)
        return at

    def _tensor(self, name: str) -> int:
        if name not in self.tensor_records:
            place, area = self._place(name)
            self.tensor_records[name] = self._append(place.fields())
            self.offsets.append((self.tensor_records[name] + fields.T_BASE, area))
        return self.tensor_records[name]

    def _write_step(self, step: Step) -> None:
        match step.main:
            case None:
                self._write_map(step)
            case Convolve() as convolve:
                self._write_convolve(convolve, step.tail)
            case PoolSum() | PoolMaximum() | SumGlobal() as pool:
                self._write_pool(pool)
            case LookUp() as look_up:
                table = self.program.constants[look_up.table].astype(np.int32)
                tensors = [self._tensor(look_up.inputs[0]), self._tensor(look_up.output)]
                self._write([fields.LOOK_UP, *tensors, self.constants.add(table), table.shape[1], table.shape[0]])
            case PadChannels() | Join() as copy:
                self._write_copies(copy)
            case Multiply() as product:
                names = (*product.inputs, product.output)
                zeros = [self.program.tensor[name].zero_point for name in product.inputs]
                self._write([fields.PRODUCT, *(self._tensor(name) for name in names), *zeros])
            case other:
                raise AssertionError(f"no step for {other.kind}")

    def _write_pool(self, pool: PoolSum | PoolMaximum | SumGlobal) -> None:
        source = self.program.tensor[pool.inputs[0]]
        kind = fields.POOL_MAXIMUM if isinstance(pool, PoolMaximum) else fields.POOL_SUM
        window = [*source.shape[:2], 1, 1, 0, 0]
        if not isinstance(pool, SumGlobal):
            window = [*pool.window.kernel, *pool.window.stride, *pool.window.pads[:2]]
        self._write([kind, self._tensor(source.name), self._tensor(pool.output), *window, source.zero_point])

    def _write_copies(self, copy: PadChannels | Join) -> None:
        target = self._tensor(copy.output)
        first = 0
        parts: list[tuple[int, int, int]] = []
        for name in copy.inputs:
            parts.append((self._tensor(name), self.program.tensor[name].shape[2], 0))
        if isinstance(copy, PadChannels):
            zero = self.program.tensor[copy.inputs[0]].zero_point
            parts = [(-1, copy.before, zero), *parts, (-1, copy.after, zero)]
        for source, channels, code in parts:
            if channels:
                self._write([fields.COPY, source, target, first, channels, code])
            first += channels

    def _write_map(self, step: Step) -> None:
        height, width, channels = self.program.tensor[step.tail[0].tensor].shape
        tiles = even_tiles(flat_tiles(height, width))
        tail = self._write_tail(step.tail)
        record = [fields.MAP, -(-channels // LANES), self._append(flatten(tiles)), len(tiles)]
        self._write([*record, tail, self._tail_count, width])

    def _write_tail(self, tail: tuple[TailOperation, ...]) -> int:
        records: list[int] = []
        for operation in fuse_passes(self.program, tail, self.forms):
            records += self._operation(operation)
        self._tail_count = len(records) // fields.O_FIELDS
        return self._append(records)

    def _operation(self, pass_: Pass) -> list[int]:
        """The record of one pass, its constants stored."""
        at = self.constants.add(pass_.constants.tables) if pass_.constants else 0
        tensors = [self._tensor(name) if name else -1 for name in (pass_.tensor, pass_.total, pass_.codes)]
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

    def _write_convolve(self, convolve: Convolve, tail: tuple[TailOperation, ...]) -> None:
        if convolve.output in self.words:
            self._write_counting(convolve, tail)
            return
        if self.by_channel and is_depthwise(self.program, convolve):
            self._write_depthwise(convolve, tail)
            return
        name = self._code_bytes(convolve.inputs[0])
        place, area = self._place(name)
        form, window = place.form, convolve.window
        weights = self.program.weights_of(convolve)
        order = order_weights(form, weights, window, convolve.groups, binary=convolve.weight_bits == 1)
        size = self.program.tensor[convolve.output].shape[:2]
        readings = [read_tensor(form, place.offset, taps, window, size) for taps in order.taps]
        taps = self._write_taps(order, self._write_gather(readings, area))
        zero = form.fill[0] if len(form.fill) == 1 else self._zero(convolve.inputs[0])
        starts = np.zeros((len(form.fill), len(order.weights) * PAIR), np.int64)
        starts[-1] = -zero * order.sums
        kind = fields.WEIGHT_BITS if order.binary else fields.WEIGHT_BYTES
        record = self._convolve_record(convolve, tail, readings[0], list_stages(order.taps[0]))
        record[fields.C_TAPS : fields.C_TAPS_STRIDE + 1] = [taps, 3 * len(order.taps[0]) if len(order.taps) > 1 else 0]
        record[fields.C_WEIGHTS : fields.C_STARTS + 1] = self._keep(order.weights, kind, starts)
        record[fields.C_PLANES] = len(form.fill)
        at = self._write(record)
        self.offsets.append((at + fields.C_SOURCE, panel_of(area) if readings[0].source is None else area))
        self.panel_bytes = max(self.panel_bytes, len(order.taps[0]) * fields.PANEL_BYTES)

    def _write_counting(self, convolve: Convolve, tail: tuple[TailOperation, ...]) -> None:
        """A convolution whose bits are counted."""
        source, planes = convolve.inputs[0], self.words[convolve.output]
        place, area = self._pack(source)
        assert isinstance(place.form, WordForm)
        weights, window = self.program.weights_of(convolve), convolve.window
        bipolar = self.program.tensor[source].bipolar
        taps = list_word_taps(place.form, window)
        size = self.program.tensor[convolve.output].shape[:2]
        reading = read_tensor(place.form, place.offset, taps, window, size, gather=False)
        kind = fields.WEIGHT_WORDS_BIPOLAR if bipolar else fields.WEIGHT_WORDS
        record = self._convolve_record(convolve, tail, reading, list_stages(taps, STAGE_WORDS))
        if bipolar:
            starts, classes = start_bipolar_counts(weights, window, place.form.shape[:2], size)
            record[fields.C_CLASSES] = self.constants.add(classes)
        else:
            starts = start_counts(weights, self.forms[source].fill[0], planes)
        offsets = [number for offset, pitch in reading.offsets for number in (offset, pitch, LANES)]
        record[fields.C_TAPS] = self._append([*offsets, 0, 0, 0])
        record[fields.C_WEIGHTS : fields.C_STARTS + 1] = self._keep(order_words(weights), kind, starts)
        record[fields.C_PLANES] = planes
        self.offsets.append((self._write(record) + fields.C_SOURCE, area))

    def _write_depthwise(self, convolve: Convolve, tail: tuple[TailOperation, ...]) -> None:
        """A convolution of one channel each."""
        place, area = self._place(convolve.inputs[0])
        weights = self.program.weights_of(convolve)
        size = self.program.tensor[convolve.output].shape[:2]
        offsets = list_offsets(place.form, weights.shape)
        reading = replace(
            read_tensor(place.form, place.offset, (), convolve.window, size, gather=False), offsets=offsets[0]
        )
        record = self._convolve_record(convolve, tail, reading, ((0, len(offsets[0]), 0),))
        taps = [number for of_pair in offsets for offset, pitch in of_pair for number in (offset, pitch, LANES)]
        record[fields.C_TAPS : fields.C_TAPS_STRIDE + 1] = [self._append([*taps, 0, 0, 0]), 3 * len(offsets[0])]
        starts = start_sums(weights, place.form.fill[0])
        kept = self._keep(order_channels(weights), fields.WEIGHT_CHANNELS, starts)
        record[fields.C_WEIGHTS : fields.C_STARTS + 1] = kept
        record[fields.C_PLANES] = 1
        self.offsets.append((self._write(record) + fields.C_SOURCE, area))

    def _pack(self, name: str) -> tuple[Place, Area]:
        """Where the words of a tensor lie, which are written when first needed."""
        place, area = self._place(words_name(name))
        if words_name(name) not in self.split:
            self.split.add(words_name(name))
            assert isinstance(place.form, WordForm)
            first = int(self.program.tensor[name].bipolar)
            at = self._write([fields.PACK, self._tensor(name), place.offset, place.form.planes, first])
            self.offsets.append((at + fields.K_TO, area))
        return place, area

    def _keep(self, weights: Array, kind: int, starts: Array) -> list[int]:
        """Store weights and what sums start from; the fields from `C_WEIGHTS` to `C_STARTS`."""
        return [self.constants.add(weights), kind, self.constants.add(starts.astype(np.int32))]

    def _convolve_record(
        self,
        convolve: Convolve,
        tail: tuple[TailOperation, ...],
        reading: Reading,
        stages: tuple[tuple[int, int, int], ...],
    ) -> list[int]:
        """The record of a convolution without its taps and weights."""
        _, columns, outputs = self.program.tensor[convolve.output].shape
        tiles = even_tiles(reading.tiles)
        record = [0] * fields.C_FIELDS
        record[fields.C_KIND] = fields.CONVOLVE
        record[fields.C_SOURCE : fields.C_STEPS + 1] = [reading.source or 0, reading.pitch, len(reading.offsets)]
        record[fields.C_STAGES : fields.C_STAGE_COUNT + 1] = [self._append(flatten(stages)), len(stages)]
        record[fields.C_CHUNKS] = -(-outputs // LANES)
        record[fields.C_TILES : fields.C_TILE_COUNT + 1] = [self._append(flatten(tiles)), len(tiles)]
        record[fields.C_GROUP] = GROUP_TILES
        record[fields.C_TAIL : fields.C_TAIL_COUNT + 1] = [self._write_tail(tail), self._tail_count]
        record[fields.C_WIDTH] = columns
        return record

    def _zero(self, name: str) -> int:
        tensor = self.program.tensor[name]
        return tensor.zero_point - tensor.dtype.low

    def _code_bytes(self, name: str) -> str:
        """The tensor's name, or that of its planes of bytes, which are written when first needed."""
        planes = planes_name(name)
        if planes not in self.forms:
            return name
        if name not in self.split:
            self.split.add(name)
            form = self.forms[planes]
            low = self.program.tensor[name].dtype.low
            tensors = [self._tensor(name), self._tensor(planes)]
            self._write([fields.SPLIT, *tensors, len(form.fill), form.plane_bytes, low])
        return planes

    def _write_gather(self, readings: list[Reading], area: Area) -> list[tuple[tuple[int, int], ...]]:
        """Gather what the readings of all pairs of chunks need; returns their taps' offsets."""
        offsets: list[tuple[tuple[int, int], ...]] = []
        end = 0
        pieces: list[int] = []
        count = 0
        for reading in readings:
            offsets.append(tuple((offset + end, pitch) for offset, pitch in reading.offsets))
            for piece in reading.pieces:
                at = len(self.table) + len(pieces) + 1
                self.offsets += [(at - 1, area), (at, panel_of(area))]
                pieces += [
                    piece.source,
                    end + piece.target,
                    piece.rows,
                    piece.row_bytes,
                    piece.columns,
                    piece.column_bytes,
                ]
                count += 1
            end += reading.panel_bytes
        if count:
            self._write([fields.GATHER, self._append(pieces), count])
        self.gather_bytes[panel_of(area)] = max(self.gather_bytes[panel_of(area)], end)
        return offsets

    def _write_taps(self, order: Filter, offsets: list[tuple[tuple[int, int], ...]]) -> int:
        records: list[int] = []
        for taps, places in zip(order.taps, offsets, strict=True):
            for tap, (offset, pitch) in zip(taps, places, strict=True):
                records += [offset, pitch, tap.weight_rows]
        return self._append([*records, 0, 0, 0])
