"""Products of transformed patches and weights: what the methods of multiplication have in common."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core.cgutils import alloca_once_value, for_range

from bnhw.kernels.fused.fields import PATCH_BYTES
from bnhw.kernels.fused.vectors import I8, I16, I32, I64, PLAIN, broadcast, load_at, store_at
from bnhw.kernels.jit import inline

SHORTS, HALF_LINE = ir.VectorType(I16, 32), ir.VectorType(I8, 32)
UNROLLED_PAIRS = 8
"""Pairs of channels of one turn; channels are a multiple of sixteen."""

Dot = Callable[[Any, Any, Any, Any], Any]
"""(builder, sixteen sums, thirty-two int16, as many) -> the sums plus products of two each, modulo 2^32."""


def patch_multiplier(rows: int, chunks: int, dot: Dot, size: int) -> Any:
    """Sums of some patches and chunks over all pairs of channels: (sums, patches, bytes of a patch, weights, pairs).

    size: bytes of a weight, 1 or 2.
    """
    places = [(row, chunk) for row in range(rows) for chunk in range(chunks)]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, first, patch_bytes, weights, pairs = values
        patches = [builder.add(first, builder.mul(patch_bytes, I64(row))) for row in range(rows)]
        totals = {}
        for at in places:
            totals[at] = alloca_once_value(builder, PLAIN(None))  # type: ignore[no-untyped-call]  # Numba's is untyped
        with for_range(builder, builder.udiv(pairs, I64(UNROLLED_PAIRS))) as loop:
            held = {at: builder.load(total) for at, total in totals.items()}
            offset = builder.mul(loop.index, I64(4 * UNROLLED_PAIRS))
            panel = builder.add(weights, builder.mul(loop.index, I64(64 * size * UNROLLED_PAIRS)))
            for pair in range(UNROLLED_PAIRS):
                filters = [_load_filter(builder, panel, size, 2 * pair + chunk) for chunk in range(chunks)]
                for row in range(rows):
                    two = load_at(builder, I32, builder.add(patches[row], offset), 4 * pair)
                    pixels = builder.bitcast(broadcast(builder, two), SHORTS)
                    for chunk in range(chunks):
                        held[row, chunk] = dot(builder, held[row, chunk], pixels, filters[chunk])
            for at, total in totals.items():
                builder.store(held[at], total)
        for row, chunk in places:
            store_at(builder, builder.load(totals[row, chunk]), sums, PATCH_BYTES * row + 64 * chunk)
        return context.get_dummy_value()

    return generate


def _load_filter(builder: Any, panel: Any, size: int, number: int) -> Any:
    """Transformed weights of one chunk and two channels, as int16."""
    if size == 2:
        return load_at(builder, SHORTS, panel, 64 * number)
    return builder.sext(load_at(builder, HALF_LINE, panel, 32 * number), SHORTS)


@inline
def multiply_by_chunk(
    sums: int,
    patches: int,
    patch_bytes: int,
    weights: int,
    pairs: int,
    count: int,
    size: int,
    rows: int,
    multiply_signs: Any,
    multiply_shorts: Any,
) -> None:
    """One chunk after the other, some rows of patches at once: for processors with few registers.

    multiply_signs, multiply_shorts: what `patch_multiplier` makes of weights of one byte, and of two.
    """
    for chunk in range(2):
        for row in range(0, count, rows):
            to, at = sums + 64 * chunk + PATCH_BYTES * row, patches + patch_bytes * row
            if size == 1:
                multiply_signs(to, at, patch_bytes, weights + 32 * chunk, pairs)
            else:
                multiply_shorts(to, at, patch_bytes, weights + 64 * chunk, pairs)
