"""The records of a plan's convolutions, by the ways of `bnhw.plan_methods` and how many channels are multiplied."""

from dataclasses import replace

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused import fields
from bnhw.kernels.fused.fields import BLOCK, LANES
from bnhw.plan_channels import is_depthwise, list_offsets, order_channels, start_sums
from bnhw.plan_convolution import (
    PAIR,
    Filter,
    Reading,
    dense_weights,
    even_tiles,
    flatten,
    list_stages,
    order_weights,
    read_tensor,
)
from bnhw.plan_few import is_few, list_few_offsets, order_few
from bnhw.plan_interpreter import MOST_IMAGES
from bnhw.plan_order import TailOperation
from bnhw.plan_records import Records
from bnhw.plan_storage import Area, Place, panel_of
from bnhw.plan_tabulated import Tabulation, highest_element, list_channel_pairs, order_indices, tabulate
from bnhw.plan_tabulated import list_offsets as list_table_offsets
from bnhw.plan_winograd import Segment, beyond_bytes, group_of, list_segments, order_filters, portion_of, scratch_bytes
from bnhw.plan_words import (
    STAGE_WORDS,
    WordForm,
    list_word_taps,
    order_words,
    split_offsets,
    start_bipolar_counts,
    start_counts,
    words_name,
)
from bnhw.program import Convolve

GROUP_TILES = 8
"""Tiles of pixels whose sums stay in the first cache between stages."""

Tail = tuple[TailOperation, ...]
Offsets = tuple[tuple[int, int], ...]
"""(byte offset from the first pixel, bytes of a pixel) of each step."""


def write_convolve(records: Records, convolve: Convolve, tail: Tail) -> None:
    """Write a convolution with its tail, and before it what splits, packs or gathers its codes."""
    match records.methods[convolve.output]:
        case "counted":
            _write_counting(records, convolve, tail)
        case "tabulated":
            _write_tabulated(records, convolve, tail)
        case "transformed":
            _write_transformed(records, convolve, tail)
        case "multiplied" if records.interpreter.by_channel and is_depthwise(records.program, convolve):
            _write_depthwise(records, convolve, tail)
        case "multiplied" if records.interpreter.by_channel and is_few(records.program, convolve):
            _write_few(records, convolve, tail)
        case "multiplied":
            _write_multiplying(records, convolve, tail)


def _write_multiplying(records: Records, convolve: Convolve, tail: Tail) -> None:
    """A convolution whose codes are multiplied byte by byte."""
    place, area = records.code_bytes(convolve.inputs[0])
    form, window = place.form, convolve.window
    weights = records.program.weights_of(convolve)
    order = order_weights(form, weights, window, convolve.groups, binary=convolve.weight_bits == 1)
    size = records.program.tensor[convolve.output].shape[:2]
    readings = [read_tensor(form, place.offset, taps, window, size) for taps in order.taps]
    taps = _append_taps(records, order, _write_gather(records, readings, area))
    starts = np.zeros((len(form.fill), len(order.weights) * PAIR), np.int64)
    starts[-1] = -_zero(records, convolve.inputs[0], place) * order.sums
    kind = fields.WEIGHT_BITS if order.binary else fields.WEIGHT_BYTES
    record = _convolve_record(
        records, convolve, tail, readings[0], list_stages(order.taps[0], records.interpreter.stage_steps)
    )
    record[fields.C_TAPS : fields.C_TAPS_STRIDE + 1] = [taps, 3 * len(order.taps[0]) if len(order.taps) > 1 else 0]
    record[fields.C_WEIGHTS : fields.C_STARTS + 1] = _keep(records, order.weights, kind, starts)
    record[fields.C_PLANES] = len(form.fill)
    at = records.write(record)
    records.offsets.append((at + fields.C_SOURCE, panel_of(area) if readings[0].source is None else area))
    records.panel_bytes = max(records.panel_bytes, len(order.taps[0]) * fields.PANEL_BYTES)


def _write_transformed(records: Records, convolve: Convolve, tail: Tail) -> None:
    """Write a convolution by patches, with its tail."""
    place, area = records.layout.place(convolve.inputs[0])
    form = place.form
    rows, columns, outputs = records.program.tensor[convolve.output].shape
    segments = list_segments(form, convolve.window, (rows, columns))
    weights = records.program.weights_of(convolve)
    binary = convolve.weight_bits == 1
    dense = dense_weights(form, weights, -(-outputs // PAIR) * PAIR, -1 if binary else 0)
    starts = -form.fill[0] * dense.sum(axis=(1, 2, 3), dtype=np.int64)
    record = [0] * fields.N_FIELDS
    record[fields.N_KIND] = fields.TRANSFORM
    record[fields.N_FROM] = records.tensor(convolve.inputs[0])
    record[fields.N_SEGMENTS : fields.N_SEGMENT_COUNT + 1] = [_append_segments(records, segments), len(segments)]
    widest = max(segment.patches for segment in segments)
    group = group_of(segments)
    together = (MOST_IMAGES if area is Area.OWN else 1) * len(segments)
    portion = portion_of(together, widest, form.channels)
    portion = max(portion // group, 1) * group
    record[fields.N_PATCHES] = segments[-1].first + segments[-1].patches
    record[fields.N_PORTION : fields.N_GROUP + 1] = [portion, group]
    record[fields.N_CHANNELS] = form.channels
    record[fields.N_WEIGHTS] = records.constants.add(order_filters(dense, binary=binary))
    record[fields.N_BINARY] = fields.WEIGHT_BITS if binary else fields.WEIGHT_BYTES
    record[fields.N_STARTS] = records.constants.add(starts.astype(np.int32))
    record[fields.N_CHUNKS] = -(-outputs // LANES)
    record[fields.N_TAIL : fields.N_TAIL_COUNT + 1] = records.tail(tail)
    record[fields.N_WIDTH] = columns
    records.write(record)
    records.panel_bytes = max(records.panel_bytes, scratch_bytes(portion * widest, form.channels))
    records.beyond_bytes = max(records.beyond_bytes, beyond_bytes(form, (rows, columns)))


def _write_tabulated(records: Records, convolve: Convolve, tail: Tail) -> None:
    """Write a convolution by tables, with its tail."""
    source = records.program.tensor[convolve.inputs[0]]
    place, area = records.code_bytes(source.name)
    form, window, shape = place.form, convolve.window, records.program.tensor[convolve.output].shape
    images = MOST_IMAGES if area is Area.OWN else 1
    plan = tabulate(form, highest_element(source), window, shape, images)
    pairs = list_channel_pairs(form, source.shape[2])
    outputs = sum(plan.parts) * PAIR
    more = ((0, outputs - shape[2]), (0, 0), (0, 0), (0, source.shape[2] % 2))
    dense = np.pad(records.program.weights_of(convolve), more, constant_values=-1)
    sums = dense.sum(axis=(1, 2, 3), dtype=np.int64)
    starts = np.stack([(plan.centre - zero) * sums for zero in reversed(form.fill)])
    record = [0] * fields.U_FIELDS
    record[fields.U_KIND] = fields.TABULATE
    record[fields.U_FROM] = records.tensor(records.layout.planes_of(source.name) or source.name)
    record[fields.U_GROUPS : fields.U_GROUP_COUNT + 1] = [records.append(flatten(tuple(pairs))), plan.groups]
    record[fields.U_PLANES : fields.U_PLANE_BYTES + 1] = [len(form.fill), form.plane_bytes]
    record[fields.U_CENTRE : fields.U_TABLES_BYTES + 1] = [plan.centre, plan.table_groups, plan.tables_bytes]
    record[fields.U_TAPS] = window.kernel[0] * window.kernel[1]
    record[fields.U_OFFSETS] = records.constants.add(list_table_offsets(plan, form, window))
    record[fields.U_STEPS : fields.U_PITCH + 1] = [plan.steps, window.stride[1] * fields.TABLE_BYTES]
    record[fields.U_WEIGHTS] = records.constants.add(order_indices(plan, dense))
    record[fields.U_PARTS : fields.U_PART_COUNT + 1] = [records.append(list(plan.parts)), len(plan.parts)]
    record[fields.U_STARTS] = records.constants.add(starts.astype(np.int32))
    record[fields.U_PAIR_BYTES : fields.U_IMAGES + 1] = [plan.pair_bytes, plan.images]
    record[fields.U_PORTIONS : fields.U_PORTION_COUNT + 1] = [_append_portions(records, plan), len(plan.portions)]
    record[fields.U_CHUNKS] = -(-shape[2] // LANES)
    record[fields.U_TAIL : fields.U_TAIL_COUNT + 1] = records.tail(tail)
    record[fields.U_WIDTH] = shape[1]
    records.write(record)
    records.panel_bytes = max(records.panel_bytes, plan.scratch_bytes)


def _append_portions(records: Records, plan: Tabulation) -> int:
    numbers = []
    for portion in plan.portions:
        quads = records.append(flatten(portion.quads))
        tiles = records.append(flatten(portion.tiles))
        numbers += [portion.pixel, portion.pixels, quads, len(portion.quads), tiles, len(portion.tiles) // 2]
    return records.append(numbers)


def _append_segments(records: Records, segments: tuple[Segment, ...]) -> int:
    numbers = []
    for segment in segments:
        tiles = records.append(flatten(segment.tiles))
        numbers += [segment.pixel, segment.first, segment.patches, segment.row, tiles, len(segment.tiles)]
    return records.append(numbers)


def _write_depthwise(records: Records, convolve: Convolve, tail: Tail) -> None:
    """A convolution of one channel each."""
    place, area = records.layout.place(convolve.inputs[0])
    weights = records.program.weights_of(convolve)
    size = records.program.tensor[convolve.output].shape[:2]
    offsets = list_offsets(place.form, weights.shape)
    reading = read_tensor(place.form, place.offset, (), convolve.window, size, gather=False)
    reading = replace(reading, offsets=offsets[0])
    record = _convolve_record(records, convolve, tail, reading, ((0, len(offsets[0]), 0),))
    taps = [number for of_pair in offsets for offset, pitch in of_pair for number in (offset, pitch, LANES)]
    record[fields.C_TAPS : fields.C_TAPS_STRIDE + 1] = [records.append([*taps, 0, 0, 0]), 3 * len(offsets[0])]
    starts = start_sums(weights, place.form.fill[0])
    kept = _keep(records, order_channels(weights), fields.WEIGHT_CHANNELS, starts)
    record[fields.C_WEIGHTS : fields.C_STARTS + 1] = kept
    record[fields.C_PLANES] = 1
    records.offsets.append((records.write(record) + fields.C_SOURCE, area))


def _write_few(records: Records, convolve: Convolve, tail: Tail) -> None:
    """A convolution of few channels each."""
    place, area = records.layout.place(convolve.inputs[0])
    weights = records.program.weights_of(convolve)
    size = records.program.tensor[convolve.output].shape[:2]
    offsets = list_few_offsets(place.form, weights.shape, convolve.groups)
    reading = read_tensor(place.form, place.offset, (), convolve.window, size, gather=False)
    steps = len(offsets[0])
    record = _convolve_record(records, convolve, tail, replace(reading, offsets=offsets[0]), ((0, steps, 0),))
    taps = [number for of_chunk in offsets for offset, pitch in of_chunk for number in (offset, pitch, 0)]
    record[fields.C_TAPS : fields.C_TAPS_STRIDE + 1] = [records.append([*taps, 0, 0, 0]), 2 * 3 * steps]
    kind = fields.WEIGHT_FEW_SIGNS if convolve.weight_bits == 1 else fields.WEIGHT_FEW
    starts = start_sums(weights, place.form.fill[0])
    record[fields.C_WEIGHTS : fields.C_STARTS + 1] = _keep(records, order_few(weights, convolve.groups), kind, starts)
    record[fields.C_PLANES] = 1
    records.offsets.append((records.write(record) + fields.C_SOURCE, area))


def _write_counting(records: Records, convolve: Convolve, tail: Tail) -> None:
    """A convolution whose bits are counted."""
    source, planes = convolve.inputs[0], records.words[convolve.output]
    place, area = _pack(records, source)
    assert isinstance(place.form, WordForm)
    weights, window = records.program.weights_of(convolve), convolve.window
    bipolar = records.program.tensor[source].bipolar
    taps = list_word_taps(place.form, window)
    size = records.program.tensor[convolve.output].shape[:2]
    reading = read_tensor(place.form, place.offset, taps, window, size, gather=False)
    steps = split_offsets(reading.offsets, place.form.shape[2], records.interpreter.word_channels)
    kind = fields.WEIGHT_WORDS_BIPOLAR if bipolar else fields.WEIGHT_WORDS
    stages = list_stages(taps[:1] * len(steps), STAGE_WORDS * BLOCK // records.interpreter.word_channels)
    record = _convolve_record(records, convolve, tail, replace(reading, offsets=steps), stages)
    if bipolar:
        starts, classes = start_bipolar_counts(weights, window, place.form.shape[:2], size)
        record[fields.C_CLASSES] = records.constants.add(classes)
    else:
        starts = start_counts(weights, records.layout.forms[source].fill[0], planes)
    words = order_words(weights, records.interpreter.word_channels)
    offsets = [number for offset, pitch in steps for number in (offset, pitch, LANES)]
    record[fields.C_TAPS] = records.append([*offsets, 0, 0, 0])
    record[fields.C_WEIGHTS : fields.C_STARTS + 1] = _keep(records, words, kind, starts)
    record[fields.C_PLANES] = planes
    records.offsets.append((records.write(record) + fields.C_SOURCE, area))


def _pack(records: Records, name: str) -> tuple[Place, Area]:
    """Where the words of a tensor lie, which are written when first needed."""
    place, area = records.layout.place(words_name(name))
    if words_name(name) not in records.derived:
        records.derived.add(words_name(name))
        assert isinstance(place.form, WordForm)
        first = int(records.program.tensor[name].bipolar)
        at = records.write([fields.PACK, records.tensor(name), place.offset, place.form.planes, first])
        records.offsets.append((at + fields.K_TO, area))
    return place, area


def _convolve_record(
    records: Records, convolve: Convolve, tail: Tail, reading: Reading, stages: tuple[tuple[int, int, int], ...]
) -> list[int]:
    """The record of a convolution without its taps and weights."""
    _, columns, outputs = records.program.tensor[convolve.output].shape
    tiles = even_tiles(reading.tiles)
    # Pixels that do not count are read as well: sixteen, a stride apart, of at most two bytes a channel.
    records.beyond_bytes = max(records.beyond_bytes, LANES * convolve.window.stride[1] * 2 * fields.BLOCK)
    record = [0] * fields.C_FIELDS
    record[fields.C_KIND] = fields.CONVOLVE
    record[fields.C_SOURCE : fields.C_STEPS + 1] = [reading.source or 0, reading.pitch, len(reading.offsets)]
    record[fields.C_STAGES : fields.C_STAGE_COUNT + 1] = [records.append(flatten(stages)), len(stages)]
    record[fields.C_CHUNKS] = -(-outputs // LANES)
    record[fields.C_TILES : fields.C_TILE_COUNT + 1] = [records.append(flatten(tiles)), len(tiles)]
    record[fields.C_GROUP] = GROUP_TILES
    record[fields.C_TAIL : fields.C_TAIL_COUNT + 1] = records.tail(tail)
    record[fields.C_WIDTH] = columns
    return record


def _keep(records: Records, weights: Array, kind: int, starts: Array) -> list[int]:
    """Store weights and what sums start from; the fields from `C_WEIGHTS` to `C_STARTS`."""
    return [records.constants.add(weights), kind, records.constants.add(starts.astype(np.int32))]


def _zero(records: Records, name: str, place: Place) -> int:
    """What stands for 0 where a tensor's codes lie as bytes, all planes together."""
    if len(place.form.fill) == 1:
        return place.form.fill[0]
    tensor = records.program.tensor[name]
    return tensor.zero_point - tensor.dtype.low


def _write_gather(records: Records, readings: list[Reading], area: Area) -> list[Offsets]:
    """Gather what the readings of all pairs of chunks need; returns their taps' offsets."""
    offsets: list[Offsets] = []
    end = 0
    pieces: list[int] = []
    count = 0
    for reading in readings:
        offsets.append(tuple((offset + end, pitch) for offset, pitch in reading.offsets))
        for piece in reading.pieces:
            at = len(records.table) + len(pieces) + 1
            records.offsets += [(at - 1, area), (at, panel_of(area))]
            pieces += [piece.source, end + piece.target]
            pieces += [piece.rows, piece.row_bytes, piece.columns, piece.column_bytes]
            count += 1
        end += reading.panel_bytes
    if count:
        records.write([fields.GATHER, records.append(pieces), count])
    records.gather_bytes[panel_of(area)] = max(records.gather_bytes[panel_of(area)], end)
    return offsets


def _append_taps(records: Records, order: Filter, offsets: list[Offsets]) -> int:
    """The taps of all pairs of chunks, and one more that may be read ahead."""
    numbers: list[int] = []
    for taps, places in zip(order.taps, offsets, strict=True):
        for tap, (offset, pitch) in zip(taps, places, strict=True):
            numbers += [offset, pitch, tap.weight_rows]
    return records.append([*numbers, 0, 0, 0])
