"""AVX-512 VNNI: products of four bytes with four weights, added to sixteen sums at once."""

from typing import Any

from llvmlite import binding
from numba import intp
from numba import types as nb

from bnhw.kernels.fused.counts import block_of
from bnhw.kernels.fused.fields import FEW_QUADS, PATCH_BYTES
from bnhw.kernels.fused.patches import SHORTS, patch_multiplier
from bnhw.kernels.fused.vectors import I32, LINE, PLAIN, broadcast, call, load_at, store_at
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import SUMS, Generator

ROWS = 8
"""Pixels at once: their sums of two chunks take half of the registers."""
OPERAND = LINE if binding.llvm_version_info[0] >= 22 else PLAIN
"""LLVM 22 changed the types that the intrinsics declare."""
OPERAND_SHORTS = SHORTS if binding.llvm_version_info[0] >= 22 else PLAIN


@inline
def multiply_bytes(slot: int, pixels: int, stride: int, panel: int) -> None:
    """See `bnhw.kernels.fused.rows`."""
    multiply_rows(slot, pixels, stride, panel)


@inline
def multiply_few_bytes(slot: int, pixels: int, stride: int, panel: int) -> None:
    """See `bnhw.kernels.fused.few`."""
    multiply_few_rows(slot, pixels, stride, panel)


multiply_signs, multiply_few_signs = multiply_bytes, multiply_few_bytes


def _rows_multiplier(chunks: int, quads: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        slot, first, stride, panel = values
        pixels = [builder.add(first, builder.mul(stride, stride.type(row))) for row in range(ROWS)]
        places = [(row, chunk) for row in range(ROWS) for chunk in range(chunks)]
        sums = {at: load_at(builder, PLAIN, slot, 64 * at[0] + 1024 * at[1]) for at in places}
        for quad in range(quads):
            weights = [load_at(builder, LINE, panel, 64 * quad + 1024 * chunk) for chunk in range(chunks)]
            for row in range(ROWS):
                four = broadcast(builder, load_at(builder, I32, pixels[row], 4 * quad))
                for chunk in range(chunks):
                    sums[row, chunk] = dot_bytes(builder, sums[row, chunk], four, weights[chunk])
        for row, chunk in places:
            store_at(builder, sums[row, chunk], slot, 64 * row + 1024 * chunk)
        return context.get_dummy_value()

    return generate


@intrinsic
def multiply_rows(typing: Any, slot: Any, pixels: Any, stride: Any, panel: Any) -> Generator:
    """Add one step's products to eight rows of two chunks of a slot; pixels are `stride` bytes apart."""
    return nb.void(intp, intp, intp, intp), _rows_multiplier(2, 16)


@intrinsic
def multiply_few_rows(typing: Any, slot: Any, pixels: Any, stride: Any, panel: Any) -> Generator:
    """The same of one chunk and sixteen channels."""
    return nb.void(intp, intp, intp, intp), _rows_multiplier(1, FEW_QUADS)


def dot_bytes(builder: Any, sums: Any, pixels: Any, weights: Any) -> Any:
    """Sixteen sums plus the products of four unsigned bytes with four weights each."""
    operands = [builder.bitcast(operand, OPERAND) for operand in (pixels, weights)]
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", PLAIN, [sums, *operands])


@inline
def multiply_patches(
    sums: int, patches: int, patch_bytes: int, weights: int, pairs: int, count: int, size: int
) -> None:
    """See `bnhw.kernels.fused.winograd.convolve_patches`."""
    done = 0
    while count > done:
        to, at = sums + done * PATCH_BYTES, patches + done * patch_bytes
        if count - done > 4:
            if size == 1:
                multiply_eight_signs(to, at, patch_bytes, weights, pairs)
            else:
                multiply_eight_shorts(to, at, patch_bytes, weights, pairs)
            done += 8
        else:
            if size == 1:
                multiply_four_signs(to, at, patch_bytes, weights, pairs)
            else:
                multiply_four_shorts(to, at, patch_bytes, weights, pairs)
            done += 4


@intrinsic
def multiply_eight_signs(typing: Any, sums: Any, patches: Any, patch_bytes: Any, weights: Any, pairs: Any) -> Generator:
    """Sums of eight patches and two chunks over all pairs of channels, of transformed signs."""
    return nb.void(intp, intp, intp, intp, intp), patch_multiplier(8, 2, dot_shorts, 1)


@intrinsic
def multiply_eight_shorts(
    typing: Any, sums: Any, patches: Any, patch_bytes: Any, weights: Any, pairs: Any
) -> Generator:
    """The same, of transformed weights of two bytes."""
    return nb.void(intp, intp, intp, intp, intp), patch_multiplier(8, 2, dot_shorts, 2)


@intrinsic
def multiply_four_signs(typing: Any, sums: Any, patches: Any, patch_bytes: Any, weights: Any, pairs: Any) -> Generator:
    """The same of four patches."""
    return nb.void(intp, intp, intp, intp, intp), patch_multiplier(4, 2, dot_shorts, 1)


@intrinsic
def multiply_four_shorts(typing: Any, sums: Any, patches: Any, patch_bytes: Any, weights: Any, pairs: Any) -> Generator:
    """The same, of transformed weights of two bytes."""
    return nb.void(intp, intp, intp, intp, intp), patch_multiplier(4, 2, dot_shorts, 2)


def dot_shorts(builder: Any, sums: Any, pixels: Any, weights: Any) -> Any:
    """Sixteen sums plus the products of two int16 with two weights each, modulo 2^32."""
    operands = [builder.bitcast(operand, OPERAND_SHORTS) for operand in (pixels, weights)]
    return call(builder, "llvm.x86.avx512.vpdpwssd.512", PLAIN, [sums, *operands])


COUNTS = block_of(8, SUMS), block_of(4, SUMS)
METHOD = (ROWS, multiply_signs, multiply_bytes, multiply_few_signs, multiply_few_bytes, *COUNTS, multiply_patches)
"""See `bnhw.kernels.fused.rows`."""
