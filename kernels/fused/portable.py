"""Any machine: products in 16-bit lanes, two to a sum, in nothing but plain LLVM vectors.

A word of four bytes of a pixel, and of each output's weights, is taken apart into its bytes 0 and 2 and its bytes 1
and 3, as 16-bit lanes. With weights of +1 and -1, 32 products of at most 255 stay in a lane; any other product fits
one (255 * 128), and is widened before it is added.
"""

from typing import Any

from llvmlite import ir
from numba import intp
from numba import types as nb

from bnhw.kernels.fused.counts import block_of
from bnhw.kernels.fused.fields import FEW_QUADS, TILE_BYTES
from bnhw.kernels.fused.patches import SHORTS, multiply_by_chunk, patch_multiplier
from bnhw.kernels.fused.vectors import I32, LINE, PLAIN, broadcast, load_at, store_at
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import WORDS, Generator

ROWS = 2
"""Pixels at once: their sums of one chunk take half of sixteen registers of 128 bits."""
LOW_BYTES = 0x00FF00FF


@inline
def multiply_signs(slot: int, pixels: int, stride: int, panel: int) -> None:
    """See `bnhw.kernels.fused.rows`."""
    for chunk in range(2):
        add_sign_products(slot + TILE_BYTES * chunk, pixels, stride, panel + TILE_BYTES * chunk)


@inline
def multiply_bytes(slot: int, pixels: int, stride: int, panel: int) -> None:
    """See `bnhw.kernels.fused.rows`."""
    for chunk in range(2):
        add_byte_products(slot + TILE_BYTES * chunk, pixels, stride, panel + TILE_BYTES * chunk)


@inline
def multiply_few_signs(slot: int, pixels: int, stride: int, panel: int) -> None:
    """See `bnhw.kernels.fused.few`."""
    add_few_sign_products(slot, pixels, stride, panel)


@inline
def multiply_few_bytes(slot: int, pixels: int, stride: int, panel: int) -> None:
    """See `bnhw.kernels.fused.few`."""
    add_few_byte_products(slot, pixels, stride, panel)


@intrinsic
def add_sign_products(typing: Any, slot: Any, pixels: Any, stride: Any, panel: Any) -> Generator:
    """One chunk, weights +1 and -1."""
    return nb.void(intp, intp, intp, intp), _sign_multiplier(16)


@intrinsic
def add_few_sign_products(typing: Any, slot: Any, pixels: Any, stride: Any, panel: Any) -> Generator:
    """The same of sixteen channels."""
    return nb.void(intp, intp, intp, intp), _sign_multiplier(FEW_QUADS)


def _sign_multiplier(quads: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        slot, first, stride, panel = values
        pairs: list[Any] = [SHORTS([0] * 32)] * ROWS
        for quad in range(quads):
            weights = _split_weights(builder, panel, quad)
            for row in range(ROWS):
                place = builder.add(first, builder.mul(stride, stride.type(row)))
                for pixel, weight in zip(_split_pixel(builder, place, quad), weights, strict=True):
                    pairs[row] = builder.add(pairs[row], builder.mul(pixel, weight))
        for row in range(ROWS):
            total = builder.add(load_at(builder, PLAIN, slot, 64 * row), _widen(builder, pairs[row]))
            store_at(builder, total, slot, 64 * row)
        return context.get_dummy_value()

    return generate


@intrinsic
def add_byte_products(typing: Any, slot: Any, pixels: Any, stride: Any, panel: Any) -> Generator:
    """One chunk, weights of any int8."""
    return nb.void(intp, intp, intp, intp), _byte_multiplier(16)


@intrinsic
def add_few_byte_products(typing: Any, slot: Any, pixels: Any, stride: Any, panel: Any) -> Generator:
    """The same of sixteen channels."""
    return nb.void(intp, intp, intp, intp), _byte_multiplier(FEW_QUADS)


def _byte_multiplier(quads: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        slot, first, stride, panel = values
        sums = [load_at(builder, PLAIN, slot, 64 * row) for row in range(ROWS)]
        for quad in range(quads):
            weights = _split_weights(builder, panel, quad)
            for row in range(ROWS):
                place = builder.add(first, builder.mul(stride, stride.type(row)))
                for pixel, weight in zip(_split_pixel(builder, place, quad), weights, strict=True):
                    sums[row] = builder.add(sums[row], _widen(builder, builder.mul(pixel, weight)))
        for row in range(ROWS):
            store_at(builder, sums[row], slot, 64 * row)
        return context.get_dummy_value()

    return generate


def _split_weights(builder: Any, panel: Any, quad: int) -> tuple[Any, Any]:
    """Bytes 0 and 2, and 1 and 3, of each output's four weights."""
    eight = SHORTS([8] * 32)
    weights = builder.bitcast(load_at(builder, LINE, panel, 64 * quad), SHORTS)
    return builder.ashr(builder.shl(weights, eight), eight), builder.ashr(weights, eight)


def _split_pixel(builder: Any, place: Any, quad: int) -> tuple[Any, Any]:
    """The same of a pixel's four bytes, for every output."""
    four = load_at(builder, I32, place, 4 * quad)
    low = builder.and_(four, I32(LOW_BYTES))
    high = builder.and_(builder.lshr(four, I32(8)), I32(LOW_BYTES))
    even, odd = (builder.bitcast(broadcast(builder, word), SHORTS) for word in (low, high))
    return even, odd


def _widen(builder: Any, pairs: Any) -> Any:
    """The sums of both lanes of each output, 32 bits wide."""
    words, sixteen = builder.bitcast(pairs, PLAIN), PLAIN([16] * 16)
    return builder.add(builder.ashr(builder.shl(words, sixteen), sixteen), builder.ashr(words, sixteen))


@inline
def multiply_patches(
    sums: int, patches: int, patch_bytes: int, weights: int, pairs: int, count: int, size: int
) -> None:
    """See `bnhw.kernels.fused.winograd.convolve_patches`."""
    multiply_by_chunk(
        sums, patches, patch_bytes, weights, pairs, count, size, ROWS, multiply_two_signs, multiply_two_shorts
    )


@intrinsic
def multiply_two_signs(typing: Any, sums: Any, patches: Any, patch_bytes: Any, weights: Any, pairs: Any) -> Generator:
    """Sums of two patches and one chunk over all pairs of channels, of transformed signs."""
    return nb.void(intp, intp, intp, intp, intp), patch_multiplier(ROWS, 1, dot_shorts, 1)


@intrinsic
def multiply_two_shorts(typing: Any, sums: Any, patches: Any, patch_bytes: Any, weights: Any, pairs: Any) -> Generator:
    """The same, of transformed weights of two bytes."""
    return nb.void(intp, intp, intp, intp, intp), patch_multiplier(ROWS, 1, dot_shorts, 2)


def dot_shorts(builder: Any, sums: Any, pixels: Any, weights: Any) -> Any:
    """Sixteen sums plus the products of two int16 with two weights each, modulo 2^32."""
    wide = ir.VectorType(I32, 32)
    products = builder.mul(builder.sext(pixels, wide), builder.sext(weights, wide))
    for first in range(2):
        lanes = ir.Constant(PLAIN, list(range(first, 32, 2)))
        sums = builder.add(sums, builder.shuffle_vector(products, products, lanes))
    return sums


COUNTS = block_of(4, WORDS), block_of(4, WORDS)
METHOD = (ROWS, multiply_signs, multiply_bytes, multiply_few_signs, multiply_few_bytes, *COUNTS, multiply_patches)
"""See `bnhw.kernels.fused.rows`."""
