"""What the machine's instructions can do at most: the yardstick of benchmarks. Everything is in the first cache."""

from typing import Any

from numba import int64, intp
from numba import types as nb
from numba.core.cgutils import alloca_once_value, for_range

from bnhw.kernels.fused.amx import configure, multiply_step, release
from bnhw.kernels.fused.counts import load_outputs, store_differences
from bnhw.kernels.fused.patches import SHORTS
from bnhw.kernels.fused.tabulated import add_entries
from bnhw.kernels.fused.vectors import I64, load_at, load_sums, load_wide, store_at, store_sums
from bnhw.kernels.fused.vnni import dot_bytes, dot_shorts
from bnhw.kernels.jit import entry, inline, intrinsic
from bnhw.kernels.vectors import SUMS, Generator, add_popcount_xor, zero_words

COUNTED_BITS = 8 * 512
"""Pairs of bits that one step of `count_repeatedly` compares."""
MULTIPLIED_BYTES, MULTIPLIED_SHORTS = 8 * 64, 8 * 32
"""Pairs of bytes, and of int16, that one step of `dot_repeatedly` and of `dot_wide_repeatedly` multiplies."""
LOOKED_UP = 16 * 32 * 6
"""Signs and codes that one step of `look_up_repeatedly` stands for."""


@intrinsic
def dot(typing: Any, sums: Any, pixels: Any, weights: Any) -> Generator:
    """Sums plus products of bytes."""
    return SUMS(SUMS, SUMS, SUMS), lambda context, builder, signature, values: dot_bytes(builder, *values)


@intrinsic
def dot_wide(typing: Any, sums: Any, pixels: Any, weights: Any) -> Generator:
    """Sums plus products of int16."""
    return SUMS(SUMS, SUMS, SUMS), lambda context, builder, signature, values: dot_shorts(builder, *values)


@entry(int64, int64, int64)
def multiply_repeatedly(tiles: int, data: int, steps: int) -> None:
    """So many steps of two tiles of pixels by two of weights, all within 4096 bytes."""
    configure(tiles)
    for _ in range(steps):
        multiply_step(data, data + 1024, 64, data + 2048)
    release()


@entry(int64, int64)
def count_repeatedly(data: int, steps: int) -> None:
    """So many steps of eight vectors: exclusive or, count of bits, addition; data are 4096 bytes."""
    a, b, c, d = load_wide(data), load_wide(data + 8), load_wide(data + 16), load_wide(data + 24)
    e, f, g, h = load_wide(data + 32), load_wide(data + 40), load_wide(data + 48), load_wide(data + 56)
    total0 = total1 = total2 = total3 = total4 = total5 = total6 = total7 = zero_words()
    for step in range(steps):
        words = load_outputs(data + 64 * (1 + (step & 7)))
        total0, total1 = add_popcount_xor(total0, words, a), add_popcount_xor(total1, words, b)
        total2, total3 = add_popcount_xor(total2, words, c), add_popcount_xor(total3, words, d)
        total4, total5 = add_popcount_xor(total4, words, e), add_popcount_xor(total5, words, f)
        total6, total7 = add_popcount_xor(total6, words, g), add_popcount_xor(total7, words, h)
    for at, total in enumerate((total0, total1, total2, total3, total4, total5, total6, total7)):
        store_differences(data + 1024 + 32 * at, (total,), 0, data + 1024 + 32 * at, 0)


@inline
def multiply_bytes(sums: Any, pixels: Any, weights: Any) -> Any:
    """`dot`, to be handed on."""
    return dot(sums, pixels, weights)


@inline
def multiply_shorts(sums: Any, pixels: Any, weights: Any) -> Any:
    """`dot_wide`, to be handed on."""
    return dot_wide(sums, pixels, weights)


@inline
def repeat_products(data: int, steps: int, multiply: Any) -> None:
    """So many steps of eight vectors of products."""
    pixels = load_sums(data)
    sums0 = sums1 = sums2 = sums3 = sums4 = sums5 = sums6 = sums7 = load_sums(data + 64)
    for step in range(steps):
        weights = load_sums(data + 64 * (2 + (step & 7)))
        sums0, sums1 = multiply(sums0, pixels, weights), multiply(sums1, weights, pixels)
        sums2, sums3 = multiply(sums2, weights, weights), multiply(sums3, pixels, weights)
        sums4, sums5 = multiply(sums4, weights, pixels), multiply(sums5, weights, weights)
        sums6, sums7 = multiply(sums6, pixels, weights), multiply(sums7, weights, pixels)
    for at, sums in enumerate((sums0, sums1, sums2, sums3, sums4, sums5, sums6, sums7)):
        store_sums(data + 1024 + 64 * at, sums)


@entry(int64, int64)
def dot_repeatedly(data: int, steps: int) -> None:
    """So many steps of eight vectors of products of bytes; data are 4096 bytes. Only where the machine has VNNI."""
    repeat_products(data, steps, multiply_bytes)


@entry(int64, int64)
def dot_wide_repeatedly(data: int, steps: int) -> None:
    """The same of products of int16."""
    repeat_products(data, steps, multiply_shorts)


@intrinsic
def look_up(typing: Any, data: Any, steps: Any) -> Generator:
    """So many steps of four tables, each looked up in by four vectors of indices; data are 4096 bytes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data, steps = values
        index = [load_at(builder, SHORTS, data, 64 * vector) for vector in range(4)]
        totals = [alloca_once_value(builder, SHORTS(None)) for _ in range(16)]  # type: ignore[no-untyped-call]
        with for_range(builder, steps):
            for table in range(4):
                own = totals[4 * table : 4 * table + 4]
                place = builder.add(data, I64(512 + 128 * table))
                added = add_entries(builder, place, index, [builder.load(total) for total in own])
                for total, value in zip(own, added, strict=True):
                    builder.store(value, total)
        for at, total in enumerate(totals):
            store_at(builder, builder.load(total), data, 1024 + 64 * at)
        return context.get_dummy_value()

    return nb.void(intp, intp), generate


@entry(int64, int64)
def look_up_repeatedly(data: int, steps: int) -> None:
    """See `look_up`. Only where the machine has AVX-512."""
    look_up(data, steps)
