"""How long one image takes through an empty streaming pipeline, and what must be buffered meanwhile.

Pixels flow row by row. A unit begins an output pixel when the pixel before is finished and the last pixel that its
window needs has been finished by the unit in front (of all units in front, for an addition), and takes
`cycles_per_pixel` for it:

    finish[i] = max(finish[i - 1], finish in front[last pixel of window i]) + cycles per pixel

The latency is the last finish of the last unit. A unit thus starts as soon as its first window is filled, and layers
overlap: the latency lies between the cycles of the slowest unit and the sum of all. The image is at hand from cycle 0,
buffers are as deep as they need to be (`StreamBuffer` says how deep), and pipeline registers within a unit, a few
cycles each, are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.hardware.streaming import StreamingDesign, StreamingUnit
from bnhw.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBuffer:
    """Pixels of one tensor that wait in front of one of its readers: lines of a window, or a skip connection.

    pixels: the most at once. Pixels come in order and leave in order, when no later step of the reader needs them or
    one in front of them. bits: of all their channels.
    """

    tensor: str
    reader: str
    pixels: int
    bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingLatency:
    """cycles: from the first cycle to the last number of the output. first: when each unit's first pixel is done."""

    cycles: int
    first: Mapping[str, int]
    buffers: tuple[StreamBuffer, ...]


def streaming_latency(program: Program, design: StreamingDesign) -> StreamingLatency:
    """Latency and buffers of one image in an empty pipeline. The image's own pixels are not buffered."""
    finished: dict[str, Array] = {}
    buffers = []
    for folded in design.units:
        unit, cost = folded.unit, folded.cycles_per_pixel
        ready = np.zeros(unit.pixels, np.int64)
        for name in unit.sources:
            if name in finished:
                ready = np.maximum(ready, finished[name][needed_pixels(program, unit, name, last=True)])
        steps = np.arange(unit.pixels, dtype=np.int64)
        times = np.maximum.accumulate(ready - steps * cost) + (steps + 1) * cost
        finished[unit.name] = times[-1:] if unit.accumulates else times
        for name in dict.fromkeys(unit.sources):
            if name in finished and name != unit.name:
                tensor = program.tensor[name]
                # a later step may need an earlier pixel again, below a padded row; more has arrived by then
                kept = needed_pixels(program, unit, name, last=False)
                arrived = np.searchsorted(finished[name], times, side="right")
                most = int((arrived - kept).max())
                bits = most * tensor.shape[2] * tensor.dtype.bits
                buffers.append(StreamBuffer(tensor=name, reader=unit.name, pixels=most, bits=bits))
    return StreamingLatency(
        cycles=int(finished[program.output][-1]),
        first={name: int(times[0]) for name, times in finished.items()},
        buffers=tuple(buffers),
    )


def needed_pixels(program: Program, unit: StreamingUnit, name: str, *, last: bool) -> Array:
    """For every step of a unit, the number of the last (or first) pixel of a source that it needs.

    Sources smaller than the first one, one number a channel for all pixels, are needed as a whole.
    """
    height, width, _ = program.tensor[name].shape
    if (height, width) != program.tensor[unit.sources[0]].shape[:2]:
        return np.full(unit.pixels, height * width - 1 if last else 0)
    window = unit.window
    out_height, out_width = window.output_size(height, width)
    rows = np.arange(out_height) * window.stride[0] - window.pads[0]
    columns = np.arange(out_width) * window.stride[1] - window.pads[1]
    if last:
        rows, columns = rows + window.kernel[0] - 1, columns + window.kernel[1] - 1
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    return np.asarray(rows[:, None] * width + columns[None, :]).reshape(-1)
