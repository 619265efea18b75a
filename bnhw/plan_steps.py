"""The records of a plan's steps, convolutions apart (`bnhw.plan_sums`)."""

import numpy as np

from bnhw.kernels.fused import fields
from bnhw.kernels.fused.fields import LANES
from bnhw.plan_convolution import even_tiles, flat_tiles, flatten
from bnhw.plan_order import Step
from bnhw.plan_records import Records
from bnhw.plan_sums import write_convolve
from bnhw.program import (
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


def count_records(step: Step) -> int:
    """The most records that `write_step` writes: codes split, packed and gathered, itself, and what is cleared."""
    parts = len(step.main.inputs) + 2 if isinstance(step.main, Join | PadChannels) else 4
    return parts + len(step.writes)


def write_step(records: Records, step: Step) -> None:
    """Write one step."""
    match step.main:
        case None:
            _write_map(records, step)
        case Convolve() as convolve:
            write_convolve(records, convolve, step.tail)
        case PoolSum() | PoolMaximum() | SumGlobal() as pool:
            _write_pool(records, pool)
        case LookUp() as look_up:
            table = records.program.constants[look_up.table].astype(np.int32)
            tensors = [records.tensor(look_up.inputs[0]), records.tensor(look_up.output)]
            at = records.constants.add(table)
            records.write([fields.LOOK_UP, *tensors, at, table.shape[1], table.shape[0]])
        case PadChannels() | Join() as copy:
            _write_copies(records, copy)
        case Multiply() as product:
            names = (*product.inputs, product.output)
            zeros = [records.program.tensor[name].zero_point for name in product.inputs]
            records.write([fields.PRODUCT, *(records.tensor(name) for name in names), *zeros])
        case other:
            raise AssertionError(f"no step for {other.kind}")
    clear_fillers(records, step)


CLEAN = (Requantise, Threshold, LookUp)
"""Instructions that give channels which fill a chunk up the zero point, or leave them alone."""


def clear_fillers(records: Records, step: Step) -> None:
    """Give channels that fill a chunk up the zero point again where a step has written anything else there.

    Weights of one bit cannot leave them out, and sums start from what the zero point adds. Bipolar codes have other
    ways: a bit that is not set, or weights of 0.
    """
    producers = {instruction.output: instruction for instruction in records.program.instructions}
    for name in step.writes:
        form, channels = records.layout.forms[name], records.program.tensor[name].shape[2]
        if form.size > 1 or form.shift or not channels % LANES or isinstance(producers[name], CLEAN):
            continue
        code = records.program.tensor[name].zero_point
        records.write([fields.COPY, -1, records.tensor(name), channels, -channels % LANES, code])


def _write_pool(records: Records, pool: PoolSum | PoolMaximum | SumGlobal) -> None:
    source = records.program.tensor[pool.inputs[0]]
    kind = fields.POOL_MAXIMUM if isinstance(pool, PoolMaximum) else fields.POOL_SUM
    window = [*source.shape[:2], 1, 1, 0, 0]
    if not isinstance(pool, SumGlobal):
        window = [*pool.window.kernel, *pool.window.stride, *pool.window.pads[:2]]
    tensors = [records.tensor(source.name), records.tensor(pool.output)]
    records.write([kind, *tensors, *window, source.zero_point])


def _write_copies(records: Records, copy: PadChannels | Join) -> None:
    target = records.tensor(copy.output)
    first = 0
    parts: list[tuple[int, int, int]] = []
    for name in copy.inputs:
        parts.append((records.tensor(name), records.program.tensor[name].shape[2], 0))
    if isinstance(copy, PadChannels):
        zero = records.program.tensor[copy.inputs[0]].zero_point
        parts = [(-1, copy.before, zero), *parts, (-1, copy.after, zero)]
    for source, channels, code in parts:
        if channels:
            records.write([fields.COPY, source, target, first, channels, code])
        first += channels


def _write_map(records: Records, step: Step) -> None:
    """A tail alone."""
    height, width, channels = records.program.tensor[step.tail[0].tensor].shape
    tiles = even_tiles(flat_tiles(height, width))
    tail = records.tail(step.tail)
    record = [fields.MAP, -(-channels // LANES), records.append(flatten(tiles)), len(tiles)]
    records.write([*record, *tail, width])
