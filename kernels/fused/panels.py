"""Weights from bits to bytes, and sums from one plane of codes to the next."""

from bnhw.kernels.fused.fields import SLOT_BYTES, TILE_BYTES
from bnhw.kernels.fused.vectors import add, expand_signs, load_sums, shift_left, spread, store_sums
from bnhw.kernels.jit import inline


@inline
def expand_panel(words: int, panel: int, rows: int) -> None:
    """The weights of one step and two chunks; of each chunk's sixteen rows, those from `rows` on become 0."""
    expand_signs(words, panel)
    expand_signs(words + 128, panel + TILE_BYTES)
    for row in range(rows, 16):
        store_sums(panel + 64 * row, spread(0))
        store_sums(panel + TILE_BYTES + 64 * row, spread(0))


@inline
def shift_sums(slot: int, starts: int) -> None:
    """Sums of the planes so far, times 256, plus what the next plane's sums start from."""
    for at in range(0, SLOT_BYTES, 64):
        start = load_sums(starts + (at // TILE_BYTES) % 2 * 64)
        store_sums(slot + at, add(shift_left(load_sums(slot + at), spread(8)), start))


@inline
def fill_slot(slot: int, starts: int) -> None:
    """What every pixel's sums start from."""
    for at in range(0, SLOT_BYTES, 64):
        store_sums(slot + at, load_sums(starts + (at // TILE_BYTES) % 2 * 64))
