"""Convolutions as tile multiplications: which bytes of the arena meet which weights, and in which order.

A tile holds 16 output pixels at equal distances; a step multiplies 64 bytes of each (64 channels of a tap, or
fewer channels of several neighbouring taps) with the weights of 32 output channels. Where the pixels of a padded
tensor are not at equal distances (narrow images), their taps are first gathered into a panel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused.fields import BLOCK, LANES
from bnhw.ops import Window
from bnhw.plan_storage import Form

PAIR = 2 * LANES
"""Output channels of a pair of chunks."""
DIRECT_SHARE = 0.7
"""Tiles read a tensor directly where at least this share of their pixels count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """What one step multiplies: `lanes` channels of a block at some neighbouring taps of one row, from `column` on."""

    plane: int
    block: int
    row: int
    column: int
    taps: int
    lanes: int

    @property
    def weight_rows(self) -> int:
        """Rows of four weights that count."""
        return self.taps * self.lanes // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """64-byte pieces to gather: arena offsets and, of rows and columns, how many and how far apart in the source."""

    source: int
    target: int
    rows: int
    row_bytes: int
    columns: int
    column_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How tiles read: where they start, (pixel, row, column, pixels that count) of each, and what is gathered first.

    source: arena offset, or None for the panel. pitch: pixels between those of a tile.
    """

    source: int | None
    pitch: int
    tiles: tuple[tuple[int, int, int, int], ...]
    pieces: tuple[Piece, ...]
    panel_bytes: int
    offsets: tuple[tuple[int, int], ...]


def list_taps(form: Form, blocks: Sequence[int], window: Window) -> tuple[Tap, ...]:
    """Steps of a sum over some blocks, the highest plane of the codes first."""
    whole, last = form.blocks
    return tuple(
        Tap(
            plane=plane, block=block, row=row, column=column, taps=min(per_step, window.kernel[1] - column), lanes=lanes
        )
        for plane in reversed(range(len(form.fill)))
        for block in blocks
        for lanes in [BLOCK if block < whole else last]
        for per_step in [BLOCK // lanes]
        for row in range(window.kernel[0])
        for column in range(0, window.kernel[1], per_step)
    )


def read_tensor(
    form: Form, offset: int, taps: Sequence[Tap], window: Window, result: tuple[int, int], *, gather: bool = True
) -> Reading:
    """Tiles over `result` (rows, columns) pixels of a tensor at an arena offset.

    gather: whether pixels may be copied first; else tiles are as wide as narrow images are.
    """
    rows, columns = result
    top, left = window.pads[:2]
    start = form.origin - top * form.row_pixels - left
    is_flat = form.row_pixels == columns and window.stride == (1, 1)
    if is_flat:
        tiles = flat_tiles(rows, columns, start)
    elif not gather or columns / (-(-columns // LANES) * LANES) >= DIRECT_SHARE:
        down, across = window.stride
        tiles = tuple(
            (start + row * down * form.row_pixels + column * across, row, column, min(LANES, columns - column))
            for row in range(rows)
            for column in range(0, columns, LANES)
        )
    else:
        return _gather(form, offset, taps, window, result, start)
    offsets = tuple(_tap_offset(form, tap) for tap in taps)
    pitch = window.stride[1]
    return Reading(source=offset, pitch=pitch, tiles=tiles, pieces=(), panel_bytes=0, offsets=offsets)


def flat_tiles(rows: int, columns: int, start: int = 0) -> tuple[tuple[int, int, int, int], ...]:
    """Tiles over pixels in sequence, from one row into the next."""
    pixels = rows * columns
    return tuple(
        (start + first, *divmod(first, columns), min(LANES, pixels - first)) for first in range(0, pixels, LANES)
    )


def _tap_offset(form: Form, tap: Tap) -> tuple[int, int]:
    """(byte offset of a tap from the first pixel's, bytes of a pixel)."""
    offset, pitch = form.block(tap.block)
    return tap.plane * form.plane_bytes + offset + (tap.row * form.row_pixels + tap.column) * pitch, pitch


def _gather(
    form: Form, offset: int, taps: Sequence[Tap], window: Window, result: tuple[int, int], start: int
) -> Reading:
    """Every column of taps in the order of the output pixels, one panel for each remainder of the row."""
    rows, columns = result
    down, across = window.stride
    places: dict[tuple[int, int, int, int], int] = {}
    pieces: list[Piece] = []
    end = 0
    offsets = []
    for tap in taps:
        key = (tap.plane, tap.block, tap.column, tap.row % down)
        if key not in places:
            first = Tap(plane=tap.plane, block=tap.block, row=0, column=tap.column, taps=tap.taps, lanes=tap.lanes)
            tap_offset, pitch = _tap_offset(form, first)
            place = tap_offset + (start + tap.row % down * form.row_pixels) * pitch
            count = rows + (window.kernel[0] - 1 - tap.row % down) // down
            row_bytes = down * form.row_pixels * pitch
            pieces.append(
                Piece(
                    source=offset + place,
                    target=end,
                    rows=count,
                    row_bytes=row_bytes,
                    columns=columns,
                    column_bytes=across * pitch,
                )
            )
            places[key] = end
            end += count * columns * BLOCK
        offsets.append((places[key] + tap.row // down * columns * BLOCK, BLOCK))
    tiles = flat_tiles(rows, columns)
    return Reading(source=None, pitch=1, tiles=tiles, pieces=tuple(pieces), panel_bytes=end, offsets=tuple(offsets))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Filter:
    """Weights in the order of steps.

    taps: of each pair of chunks, or of all where there is one entry. weights: uint64 bits (pairs, steps, 32) where
    `binary`, else int8 (pairs, steps, 2048). sums: int64 (pairs * 32,), of each output channel's weights over the
    lowest plane, those that meet the filling of the last block included.
    """

    taps: tuple[tuple[Tap, ...], ...]
    weights: Array
    binary: bool
    sums: Array


def order_weights(form: Form, weights: Array, window: Window, groups: int, *, binary: bool) -> Filter:
    """Arrange int8 weights (out, height, width, channels per group); `binary` keeps one bit each where it can.

    Weights that meet channels outside their group are 0, which no bit stands for; then, and where bipolar codes do
    not fill the last block, the weights are bytes.
    """
    outputs, per_group = weights.shape[0], weights.shape[3]
    pairs = -(-outputs // PAIR)
    is_whole = groups == 1 or (per_group % BLOCK == 0 and outputs // groups % PAIR == 0)
    filled = form.shape[2] == form.channels or form.shift == 0
    one_bit = binary and is_whole and filled
    filler = -1 if one_bit else 0
    blocks = [_blocks_of(form, pair, outputs, per_group, groups) for pair in range(pairs)]
    if groups == 1:
        taps = [list_taps(form, blocks[0], window)]
        parts = [dense_weights(form, weights, pairs * PAIR, filler)]
    else:
        taps = _equally_long([list_taps(form, of_pair, window) for of_pair in blocks])
        parts = [_grouped(form, weights, pair, groups, filler) for pair in range(pairs)]
    panels = [_panels(part, _mask_repeats(of_part)) for part, of_part in zip(parts, taps, strict=True)]
    ordered = np.concatenate(panels)
    lowest = np.array([tap.plane == 0 for tap in taps[0]])
    sums = ordered[:, lowest].reshape(pairs, -1, 2, LANES, LANES, 4).sum(axis=(1, 3, 5), dtype=np.int64).reshape(-1)
    packed = _pack(ordered) if one_bit else ordered.reshape(pairs, -1, 2 * 1024)
    return Filter(taps=tuple(taps), weights=packed, binary=one_bit, sums=sums)


def _blocks_of(form: Form, pair: int, outputs: int, per_group: int, groups: int) -> list[int]:
    """Blocks of the channels that a pair of chunks reads."""
    per_output_group = outputs // groups
    first = pair * PAIR // per_output_group
    last = (min(outputs, pair * PAIR + PAIR) - 1) // per_output_group
    return list(range(first * per_group // BLOCK, ((last + 1) * per_group - 1) // BLOCK + 1))


def _equally_long(taps: Sequence[tuple[Tap, ...]]) -> list[tuple[Tap, ...]]:
    """Every plane of every pair's steps as long as the longest, its first step repeated."""
    planes = sorted({tap.plane for tap in taps[0]}, reverse=True)
    split = [[[tap for tap in of_pair if tap.plane == plane] for plane in planes] for of_pair in taps]
    most = max(len(of_plane) for of_pair in split for of_plane in of_pair)
    return [
        tuple(tap for of_plane in of_pair for tap in [*of_plane, *of_plane[:1] * (most - len(of_plane))])
        for of_pair in split
    ]


def _mask_repeats(taps: Sequence[Tap]) -> list[tuple[Tap, bool]]:
    """Each tap, and whether it counts: blocks repeated to make all pairs' sums equally long do not."""
    seen: set[Tap] = set()
    marked = []
    for tap in taps:
        marked.append((tap, tap not in seen))
        seen.add(tap)
    return marked


def dense_weights(form: Form, weights: Array, outputs: int, filler: int) -> Array:
    """Weights with more outputs and channels, those the filler: int8 (outputs, height, width, channels of the form)."""
    more = ((0, outputs - weights.shape[0]), (0, 0), (0, 0), (0, form.channels - weights.shape[3]))
    return np.pad(weights, more, constant_values=filler)


def _grouped(form: Form, weights: Array, pair: int, groups: int, filler: int) -> Array:
    """The same of one pair of chunks, 0 (or the filler where all is covered) outside its groups."""
    outputs, height, width, per_group = weights.shape
    dense = np.zeros((PAIR, height, width, form.channels), np.int8)
    if filler:
        dense[:] = filler
    for lane in range(min(PAIR, outputs - pair * PAIR)):
        output = pair * PAIR + lane
        first = output // (outputs // groups) * per_group
        dense[lane, :, :, first : first + per_group] = weights[output]
    return dense


def _panels(dense: Array, taps: Sequence[tuple[Tap, bool]]) -> Array:
    """int8 (pairs, steps, 2, 16 rows, 16 outputs, 4): what tiles of weights hold."""
    outputs = dense.shape[0]
    steps = np.zeros((len(taps), outputs, BLOCK), np.int8)
    for number, (tap, counts) in enumerate(taps):
        first = tap.block * BLOCK
        part = dense[:, tap.row, tap.column : tap.column + tap.taps, first : first + tap.lanes]
        if counts:
            steps[number, :, : tap.taps * tap.lanes] = part.reshape(outputs, -1)
    shaped = steps.reshape(len(taps), outputs // PAIR, 2, LANES, LANES, 4)
    return np.ascontiguousarray(shaped.transpose(1, 0, 2, 4, 3, 5))


def _pack(panels: Array) -> Array:
    """Bits of the weights, 1 for +1."""
    bits = np.packbits((panels > 0).reshape(-1, 64), axis=1, bitorder="little")
    return bits.view(np.uint64).reshape(*panels.shape[:2], 2 * LANES)


def list_stages(taps: Sequence[Tap], most: int) -> tuple[tuple[int, int, int], ...]:
    """(first step, end, whether another plane starts) of runs of steps, none longer than `most`."""
    stages = []
    planes = [tap.plane for tap in taps]
    start = 0
    while start < len(taps):
        end = start + planes[start:].count(planes[start])
        parts = -(-(end - start) // most)
        bounds = [start + (end - start) * part // parts for part in range(parts + 1)]
        for part in range(parts):
            stages.append((bounds[part], bounds[part + 1], int(part == 0 and start > 0)))
        start = end
    return tuple(stages)


def even_tiles(tiles: tuple[tuple[int, int, int, int], ...]) -> tuple[tuple[int, int, int, int], ...]:
    """With one more tile, of which nothing counts, if there is an odd number."""
    return (*tiles, (*tiles[-1][:3], 0)) if len(tiles) % 2 else tiles


def flatten(records: tuple[tuple[int, ...], ...]) -> list[int]:
    """All numbers of some records."""
    return [number for record in records for number in record]
