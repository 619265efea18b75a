"""Counts of differing bits as values of compiled code: of some pixels, and of one output to a lane.

A block of counts is a tuple of vectors, one a pixel, all of which stay in registers: how many, a machine's number of
registers decides, and words of how many channels, which of them it counts in one instruction.
"""

from typing import Any

from llvmlite import ir
from numba import intp
from numba import types as nb

from bnhw.kernels.fused.vectors import I32, I64, broadcast, call, load_at, store_at
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import WORDS, Generator


def block_of(pixels: int, vector: Any) -> Any:
    """What makes the counts of a block, all 0, in vectors of eight words of 64 channels or of sixteen of 32."""
    block_type = nb.UniTuple(vector, pixels)  # type: ignore[no-untyped-call]  # Numba's is untyped

    @intrinsic
    def zero_counts(typing: Any) -> Generator:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return context.get_value_type(block_type)(None)

        return block_type(), generate

    @inline  # Numba takes a compiled function in a tuple, but no intrinsic
    def zero_block() -> Any:
        return zero_counts()

    return zero_block


@intrinsic
def load_outputs(typing: Any, address: Any) -> Generator:
    """One word of eight outputs."""
    return WORDS(intp), lambda context, builder, signature, values: load_at(builder, WORDS.ir_type, values[0])


@intrinsic
def outputs_of(typing: Any, totals: Any) -> Generator:
    """How many outputs a block counts for."""
    return intp(totals), lambda context, builder, signature, values: I64(totals.dtype.ir_type.count)


@intrinsic
def double_counts(typing: Any, totals: Any) -> Generator:
    """Each count twice."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        result = values[0]
        for pixel in range(len(totals)):
            count = builder.extract_value(values[0], pixel)
            result = builder.insert_value(result, builder.add(count, count), pixel)
        return result

    return totals(totals), generate


@intrinsic
def count_step(typing: Any, totals: Any, weights: Any, source: Any, stride: Any) -> Generator:
    """Plus the bits in which the words of some pixels, `stride` bytes apart, differ from those of the outputs."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        result, weights, source, stride = values
        vector = totals.dtype.ir_type
        words = load_at(builder, vector, weights)
        for pixel in range(len(totals)):
            word = load_at(builder, vector.element, builder.add(source, builder.mul(stride, I64(pixel))))
            different = builder.xor(words, broadcast(builder, word, vector.count))
            name = f"llvm.ctpop.v{vector.count}i{vector.element.width}"
            bits = call(builder, name, vector, [different])
            result = builder.insert_value(result, builder.add(builder.extract_value(result, pixel), bits), pixel)
        return result

    return totals(totals, intp, intp, intp), generate


@intrinsic
def store_differences(typing: Any, sums: Any, totals: Any, shift: Any, starts: Any, stride: Any) -> Generator:
    """Int32 of each pixel and output minus its count, which is shifted left before; pixels of sums are 64 bytes apart.

    starts, stride: where the first pixel's int32 to subtract from are, and how far away those of the next.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        *block, starts, stride = values
        places = [builder.add(starts, builder.mul(stride, I64(pixel))) for pixel in range(len(totals))]
        _store_differences(builder, totals, block, places)
        return context.get_dummy_value()

    return nb.void(intp, totals, intp, intp, intp), generate


@intrinsic
def store_differences_by_class(typing: Any, sums: Any, totals: Any, shift: Any, starts: Any, classes: Any) -> Generator:
    """The same from where each pixel's class, an int64 of bytes from `starts` on, says."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        *block, starts, classes = values
        own = [load_at(builder, I64, classes, 8 * pixel) for pixel in range(len(totals))]
        _store_differences(builder, totals, block, [builder.add(starts, of_class) for of_class in own])
        return context.get_dummy_value()

    return nb.void(intp, totals, intp, intp, intp), generate


def _store_differences(builder: Any, block_type: Any, block: list[Any], places: list[Any]) -> None:
    sums, counts, shift = block
    narrow_type = ir.VectorType(I32, block_type.dtype.ir_type.count)
    shifts = broadcast(builder, builder.trunc(shift, I32), narrow_type.count)
    for pixel, place in enumerate(places):
        count = builder.extract_value(counts, pixel)
        narrow = count if count.type == narrow_type else builder.trunc(count, narrow_type)
        difference = builder.sub(load_at(builder, narrow_type, place), builder.shl(narrow, shifts))
        store_at(builder, difference, sums, 64 * pixel)
