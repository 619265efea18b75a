"""Counts of differing bits as values of compiled code: of some pixels, and of eight outputs to a vector.

A block of counts is a tuple of pixels, each a tuple of vectors, all of which stay in registers. How many, a machine's
number of registers decides.
"""

from typing import Any

from llvmlite import ir
from numba import intp
from numba import types as nb

from bnhw.kernels.fused.vectors import I32, I64, broadcast, call, load_at, store_at
from bnhw.kernels.jit import inline, intrinsic
from bnhw.kernels.vectors import WORDS, Generator


def block_of(pixels: int, vectors: int) -> Any:
    """What makes the counts of a block, all 0."""
    of_pixel = nb.UniTuple(WORDS, vectors)  # type: ignore[no-untyped-call]  # Numba's is untyped
    block_type = nb.UniTuple(of_pixel, pixels)  # type: ignore[no-untyped-call]  # Numba's is untyped

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
def double_counts(typing: Any, totals: Any) -> Generator:
    """Each count twice."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        result = values[0]
        for at in _places(signature.return_type):
            count = builder.extract_value(values[0], at)
            result = builder.insert_value(result, builder.add(count, count), at)
        return result

    return totals(totals), generate


@intrinsic
def count_step(typing: Any, totals: Any, weights: Any, source: Any, stride: Any) -> Generator:
    """Plus the bits in which the words of some pixels, `stride` bytes apart, differ from those of the outputs."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        result, weights, source, stride = values
        words = [load_at(builder, WORDS.ir_type, weights, 64 * vector) for vector in range(len(totals[0]))]
        for pixel, vector in _places(totals):
            address = builder.add(source, builder.mul(stride, I64(pixel)))
            word = broadcast(builder, load_at(builder, I64, address), 8)
            bits = call(builder, "llvm.ctpop.v8i64", WORDS.ir_type, [builder.xor(words[vector], word)])
            count = builder.add(builder.extract_value(result, (pixel, vector)), bits)
            result = builder.insert_value(result, count, (pixel, vector))
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
    vectors = range(len(block_type[0]))
    shifts = broadcast(builder, builder.trunc(shift, I32), 8 * len(vectors))
    for pixel, place in enumerate(places):
        words = [builder.extract_value(counts, (pixel, vector)) for vector in vectors]
        narrow = builder.shl(_low_halves(builder, words), shifts)
        store_at(builder, builder.sub(load_at(builder, narrow.type, place), narrow), sums, 64 * pixel)


def _low_halves(builder: Any, vectors: list[Any]) -> Any:
    """Of the words of one or two vectors, in one shuffle: narrower vectors would each take two instructions."""
    halves = [builder.bitcast(vector, ir.VectorType(I32, 16)) for vector in vectors]
    low = ir.Constant(ir.VectorType(I32, 8 * len(halves)), [2 * lane for lane in range(8 * len(halves))])
    return builder.shuffle_vector(halves[0], halves[-1], low)


def _places(block_type: Any) -> list[tuple[int, int]]:
    return [(pixel, vector) for pixel in range(len(block_type)) for vector in range(len(block_type[0]))]
