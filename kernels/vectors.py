"""Vectors as values of compiled code: eight 64-lane words, sixteen 32-bit sums, sixty-four bytes.

Each function below is one or two LLVM vector instructions. LLVM splits a vector that is wider than the
machine's registers, so the same code runs on AVX-512, AVX2, baseline x86-64 and AArch64. Indices count array
elements from the first one, whatever the number of axes; nothing is bounds-checked.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import int32, intp, uint64
from numba import types as nb
from numba.extending import models, register_model

from bnhw.kernels.jit import intrinsic

WORD_LANES = 8
SUM_LANES = 16
PACK_LANES = 64


class Vector(nb.Type):
    """Numba type of `lanes` integers of `bits` bits that live in vector registers."""

    def __init__(self, bits: int, lanes: int) -> None:
        self.ir_type = ir.VectorType(ir.IntType(bits), lanes)
        super().__init__(name=f"Vector({lanes} x i{bits})")


class VectorModel(models.PrimitiveModel):
    """A vector is represented by the LLVM vector itself."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.ir_type)  # type: ignore[no-untyped-call]  # Numba's is untyped


register_model(Vector)(VectorModel)

WORDS = Vector(64, WORD_LANES)
SUMS = Vector(32, SUM_LANES)
BYTES = Vector(8, PACK_LANES)

Generator = tuple[Any, Callable[..., Any]]


@intrinsic
def zero_words(typing: Any) -> Generator:
    """() -> eight words of 0."""
    return WORDS(), lambda context, builder, signature, values: WORDS.ir_type(None)


@intrinsic
def zero_sums(typing: Any) -> Generator:
    """() -> sixteen sums of 0."""
    return SUMS(), lambda context, builder, signature, values: SUMS.ir_type(None)


@intrinsic
def load_words(typing: Any, array: Any, index: Any) -> Generator:
    """(uint64 array, index) -> the eight words from there on."""
    return WORDS(array, intp), lambda *call: _load(WORDS.ir_type, *call)


@intrinsic
def load_word(typing: Any, array: Any, index: Any) -> Generator:
    """(array, index) -> one element; spares the test for a negative index that `array[index]` costs."""
    return array.dtype(array, intp), lambda *call: _load(None, *call)


@intrinsic
def load_low_bytes(typing: Any, array: Any, index: Any) -> Generator:
    """(int32 array, index) -> the low bytes of the 64 elements from there on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wide = _load(ir.VectorType(ir.IntType(32), PACK_LANES), context, builder, signature, values)
        return builder.trunc(wide, BYTES.ir_type)

    return BYTES(array, intp), generate


@intrinsic
def gather_bit(typing: Any, codes: Any, bit: Any) -> Generator:
    """(64 bytes, bit) -> word whose lane i is that bit of byte i: the order of `bnhw.kernels.packing`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes, bit_index = values
        one = ir.IntType(8)(1)
        mask = _broadcast(builder, builder.shl(one, builder.trunc(bit_index, ir.IntType(8))), PACK_LANES)
        is_set = builder.icmp_unsigned("!=", builder.and_(lanes, mask), BYTES.ir_type(None))
        return builder.bitcast(is_set, ir.IntType(64))

    return uint64(BYTES, intp), generate


@intrinsic
def add_popcount_and(typing: Any, total: Any, words: Any, word: Any) -> Generator:
    """(total, eight words, one word) -> total + popcount(words & word), lane by lane."""
    return WORDS(WORDS, WORDS, uint64), lambda *call: _add_popcount("and_", *call)


@intrinsic
def add_popcount_xor(typing: Any, total: Any, words: Any, word: Any) -> Generator:
    """(total, eight words, one word) -> total + popcount(words ^ word), lane by lane."""
    return WORDS(WORDS, WORDS, uint64), lambda *call: _add_popcount("xor", *call)


@intrinsic
def double(typing: Any, total: Any) -> Generator:
    """Eight words -> each twice."""
    return WORDS(WORDS), lambda context, builder, signature, values: builder.add(values[0], values[0])


@intrinsic
def negate(typing: Any, total: Any) -> Generator:
    """Eight words -> each negated."""
    return WORDS(WORDS), lambda context, builder, signature, values: builder.neg(values[0])


@intrinsic
def store_low_halves(typing: Any, array: Any, index: Any, total: Any) -> Generator:
    """(int32 array, index, eight words) -> None; stores the low 32 bits of each."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        narrow = builder.trunc(values[2], ir.VectorType(ir.IntType(32), WORD_LANES))
        return _store(narrow, context, builder, signature, values)

    return nb.void(array, intp, WORDS), generate


@intrinsic
def add_or_subtract(typing: Any, total: Any, signs: Any, value: Any) -> Generator:
    """(sixteen sums, uint16, int32) -> sum i plus the value where bit i is 1, minus it where 0."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, bits, value = values
        is_plus = builder.bitcast(bits, ir.VectorType(ir.IntType(1), SUM_LANES))
        wide = _broadcast(builder, value, SUM_LANES)
        return builder.select(is_plus, builder.add(sums, wide), builder.sub(sums, wide))

    return SUMS(SUMS, nb.uint16, int32), generate


@intrinsic
def add_product(typing: Any, total: Any, array: Any, index: Any, value: Any) -> Generator:
    """(sixteen sums, int8 array, index, int32) -> sum i plus the value times element index + i."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, *place, value = values
        bytes_type = ir.VectorType(ir.IntType(8), SUM_LANES)
        narrow = _load(bytes_type, context, builder, nb.void(*signature.args[1:3]), place)
        product = builder.mul(builder.sext(narrow, SUMS.ir_type), _broadcast(builder, value, SUM_LANES))
        return builder.add(sums, product)

    return SUMS(SUMS, array, intp, int32), generate


@intrinsic
def store_sums(typing: Any, array: Any, index: Any, total: Any) -> Generator:
    """(int32 array, index, sixteen sums) -> None."""
    return nb.void(array, intp, SUMS), lambda *call: _store(call[3][2], *call)


def _element(context: Any, builder: Any, signature: Any, values: Any) -> tuple[Any, int]:
    """Pointer to element `values[1]` of array `values[0]`, and its size in bytes."""
    array_type = signature.args[0]
    data = context.make_array(array_type)(context, builder, values[0]).data
    size_bytes = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    return builder.gep(data, [values[1]]), size_bytes


def _load(ir_type: Any, context: Any, builder: Any, signature: Any, values: Any) -> Any:
    pointer, alignment = _element(context, builder, signature, values)
    typed = pointer if ir_type is None else builder.bitcast(pointer, ir_type.as_pointer())
    return builder.load(typed, align=alignment)


def _store(vector: Any, context: Any, builder: Any, signature: Any, values: Any) -> Any:
    pointer, alignment = _element(context, builder, signature, values)
    builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=alignment)
    return context.get_dummy_value()


def _broadcast(builder: Any, scalar: Any, lanes: int) -> Any:
    vector_type = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(vector_type(ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.VectorType(ir.IntType(32), lanes)(None)
    return builder.shuffle_vector(first, vector_type(ir.Undefined), zeros)


def _add_popcount(operation: str, context: Any, builder: Any, signature: Any, values: Any) -> Any:
    total, words, word = values
    combined = getattr(builder, operation)(words, _broadcast(builder, word, WORD_LANES))
    ctpop_type = ir.FunctionType(WORDS.ir_type, [WORDS.ir_type])
    ctpop = builder.module.declare_intrinsic(f"llvm.ctpop.v{WORD_LANES}i64", fnty=ctpop_type)
    return builder.add(total, builder.call(ctpop, [combined]))
