"""AVX2: products of unsigned bytes with weights, added in pairs to 16 bits, which must not saturate.

With weights of +1 and -1, a pair of products is at most 510, so that the 16 pairs of a step stay in 16 bits. Any other
weight is split in two halves, which are at most 64 from 0: then a pair is at most 32,640, and every pair is widened.
"""

from typing import Any

from llvmlite import ir
from numba import intp
from numba import types as nb

from bnhw.kernels.fused.counts import block_of
from bnhw.kernels.fused.fields import FEW_QUADS, TILE_BYTES
from bnhw.kernels.fused.patches import multiply_by_chunk, patch_multiplier
from bnhw.kernels.fused.vectors import I8, I16, I32, broadcast, call, load_at, store_at
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import WORDS, Generator

ROWS = 4
"""Pixels at once: their sums of one chunk take half of the registers."""
BYTES, PAIRS, SUMS = (ir.VectorType(element, count) for element, count in ((I8, 32), (I16, 16), (I32, 8)))
HALVES = [(row, half) for row in range(ROWS) for half in range(2)]


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
        places = _rows(builder, first, stride)
        pairs: dict[tuple[int, int], Any] = {}
        for quad in range(quads):
            weights = [load_at(builder, BYTES, panel, 64 * quad + 32 * half) for half in range(2)]
            fours = [_broadcast(builder, places[row], quad) for row in range(ROWS)]
            for row, half in HALVES:
                products = _multiply(builder, fours[row], weights[half])
                pairs[row, half] = builder.add(pairs[row, half], products) if quad else products
        for row, half in HALVES:
            at = 64 * row + 32 * half
            total = builder.add(load_at(builder, SUMS, slot, at), _widen(builder, pairs[row, half]))
            store_at(builder, total, slot, at)
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
        places = _rows(builder, first, stride)
        sums = {(row, half): load_at(builder, SUMS, slot, 64 * row + 32 * half) for row, half in HALVES}
        for quad in range(quads):
            weights = [load_at(builder, BYTES, panel, 64 * quad + 32 * half) for half in range(2)]
            lower = [builder.ashr(weight, BYTES([1] * 32)) for weight in weights]
            upper = [builder.sub(*both) for both in zip(weights, lower, strict=True)]
            fours = [_broadcast(builder, places[row], quad) for row in range(ROWS)]
            for row, half in HALVES:
                for weight in (lower[half], upper[half]):
                    products = _widen(builder, _multiply(builder, fours[row], weight))
                    sums[row, half] = builder.add(sums[row, half], products)
        for row, half in HALVES:
            store_at(builder, sums[row, half], slot, 64 * row + 32 * half)
        return context.get_dummy_value()

    return generate


def _rows(builder: Any, first: Any, stride: Any) -> list[Any]:
    return [builder.add(first, builder.mul(stride, stride.type(row))) for row in range(ROWS)]


def _broadcast(builder: Any, place: Any, quad: int) -> Any:
    return builder.bitcast(broadcast(builder, load_at(builder, I32, place, 4 * quad), 8), BYTES)


def _multiply(builder: Any, pixels: Any, weights: Any) -> Any:
    return call(builder, "llvm.x86.avx2.pmadd.ub.sw", PAIRS, [pixels, weights])


def _widen(builder: Any, pairs: Any) -> Any:
    return call(builder, "llvm.x86.avx2.pmadd.wd", SUMS, [pairs, PAIRS([1] * 16)])


@inline
def multiply_patches(
    sums: int, patches: int, patch_bytes: int, weights: int, pairs: int, count: int, size: int
) -> None:
    """See `bnhw.kernels.fused.winograd.convolve_patches`."""
    multiply_by_chunk(
        sums, patches, patch_bytes, weights, pairs, count, size, ROWS, multiply_four_signs, multiply_four_shorts
    )


@intrinsic
def multiply_four_signs(typing: Any, sums: Any, patches: Any, patch_bytes: Any, weights: Any, pairs: Any) -> Generator:
    """Sums of four patches and one chunk over all pairs of channels, of transformed signs."""
    return nb.void(intp, intp, intp, intp, intp), patch_multiplier(ROWS, 1, dot_shorts, 1)


@intrinsic
def multiply_four_shorts(typing: Any, sums: Any, patches: Any, patch_bytes: Any, weights: Any, pairs: Any) -> Generator:
    """The same, of transformed weights of two bytes."""
    return nb.void(intp, intp, intp, intp, intp), patch_multiplier(ROWS, 1, dot_shorts, 2)


def dot_shorts(builder: Any, sums: Any, pixels: Any, weights: Any) -> Any:
    """Sixteen sums plus the products of two int16 with two weights each, modulo 2^32."""
    halves = []
    for half in range(2):
        lanes = ir.Constant(ir.VectorType(I32, 16), list(range(16 * half, 16 * half + 16)))
        operands = [builder.shuffle_vector(whole, whole, lanes) for whole in (pixels, weights)]
        halves.append(call(builder, "llvm.x86.avx2.pmadd.wd", SUMS, operands))
    whole = ir.Constant(ir.VectorType(I32, 16), list(range(16)))
    return builder.add(sums, builder.shuffle_vector(*halves, whole))


COUNTS = block_of(4, WORDS), block_of(4, WORDS)
METHOD = (ROWS, multiply_signs, multiply_bytes, multiply_few_signs, multiply_few_bytes, *COUNTS, multiply_patches)
"""See `bnhw.kernels.fused.rows`."""
