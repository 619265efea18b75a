"""Vectors by address: sixteen sums or codes, and the few operations that steps are made of.

Addresses are plain integers; nothing is bounds-checked. All of it is plain LLVM, so it compiles for every machine.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import int64, intp
from numba import types as nb
from numba.core.cgutils import alloca_once
from numba.core.registry import cpu_target

from bnhw.kernels.jit import intrinsic
from bnhw.kernels.vectors import SUMS, Generator

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
NARROW, SHORT, PLAIN, WIDE = (ir.VectorType(element, 16) for element in (I8, I16, I32, I64))
LINE = ir.VectorType(I8, 64)


def has_feature(name: str) -> bool:
    """Whether code may be generated with a feature of the processor."""
    return f"+{name}" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


def load_at(builder: Any, ir_type: Any, address: Any, offset: int = 0) -> Any:
    """Any vector or integer at an address, aligned or not."""
    place = builder.add(address, I64(offset)) if offset else address
    return builder.load(builder.inttoptr(place, ir_type.as_pointer()), align=1)


def store_at(builder: Any, value: Any, address: Any, offset: int = 0) -> None:
    """The reverse of `load_at`."""
    place = builder.add(address, I64(offset)) if offset else address
    builder.store(value, builder.inttoptr(place, value.type.as_pointer()), align=1)


def broadcast(builder: Any, scalar: Any, lanes: int = 16) -> Any:
    """A vector of one value."""
    vector_type = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(vector_type(ir.Undefined), scalar, I32(0))
    return builder.shuffle_vector(first, vector_type(ir.Undefined), ir.VectorType(I32, lanes)(None))


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call an LLVM intrinsic by its full name."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.module.declare_intrinsic(name, fnty=function_type), arguments)


def _loader(ir_type: Any, extend: str) -> Callable[..., Any]:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        loaded = load_at(builder, ir_type, values[0])
        return getattr(builder, extend)(loaded, PLAIN) if extend else loaded

    return generate


def _storer(ir_type: Any) -> Callable[..., Any]:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        narrow = values[1] if ir_type is PLAIN else builder.trunc(values[1], ir_type)
        store_at(builder, narrow, values[0])
        return context.get_dummy_value()

    return generate


def _binary(emit: Callable[[Any, Any, Any], Any]) -> Generator:
    return SUMS(SUMS, SUMS), lambda context, builder, signature, values: emit(builder, *values)


@intrinsic
def load_sums(typing: Any, address: Any) -> Generator:
    """Sixteen int32."""
    return SUMS(intp), _loader(PLAIN, "")


@intrinsic
def load_bytes(typing: Any, address: Any) -> Generator:
    """Sixteen uint8."""
    return SUMS(intp), _loader(NARROW, "zext")


@intrinsic
def load_shorts(typing: Any, address: Any) -> Generator:
    """Sixteen int16."""
    return SUMS(intp), _loader(SHORT, "sext")


@intrinsic
def store_sums(typing: Any, address: Any, sums: Any) -> Generator:
    """As int32."""
    return nb.void(intp, SUMS), _storer(PLAIN)


@intrinsic
def store_bytes(typing: Any, address: Any, sums: Any) -> Generator:
    """The low bytes."""
    return nb.void(intp, SUMS), _storer(NARROW)


@intrinsic
def store_paired_bytes(typing: Any, address: Any, first: Any, second: Any) -> Generator:
    """The low bytes of sixteen and of sixteen more."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lines = [builder.bitcast(value, LINE) for value in values[1:]]
        low_bytes = ir.Constant(ir.VectorType(I32, 32), [4 * lane for lane in range(32)])
        store_at(builder, builder.shuffle_vector(*lines, low_bytes), values[0])
        return context.get_dummy_value()

    return nb.void(intp, SUMS, SUMS), generate


@intrinsic
def store_saturated_bytes(typing: Any, address: Any, first: Any, second: Any, low: Any, high: Any) -> Generator:
    """Thirty-two numbers as bytes, below `low` as that, above `high` as that."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, first, second, *bounds = values
        if has_feature("avx512bw"):
            packed = pack_saturated(builder, first, second)
            for name, bound in zip(("umax", "umin"), bounds, strict=True):
                limit = broadcast(builder, builder.trunc(bound, I8), 32)
                packed = call(builder, f"llvm.{name}.v32i8", packed.type, [packed, limit])
            store_at(builder, packed, address)
            return context.get_dummy_value()
        for at, number in enumerate((first, second)):
            bounded = number
            for name, bound in zip(("smax", "smin"), bounds, strict=True):
                limit = broadcast(builder, builder.trunc(bound, I32))
                bounded = call(builder, f"llvm.{name}.v16i32", PLAIN, [bounded, limit])
            store_at(builder, builder.trunc(bounded, NARROW), address, 16 * at)
        return context.get_dummy_value()

    return nb.void(intp, SUMS, SUMS, int64, int64), generate


def pack_saturated(builder: Any, first: Any, second: Any) -> Any:
    """Thirty-two int32 as uint8, those beyond its range as its ends; for AVX-512."""
    words, line = ir.VectorType(I16, 32), LINE
    shorts = call(builder, "llvm.x86.avx512.packssdw.512", words, [first, second])
    pairs = builder.bitcast(call(builder, "llvm.x86.avx512.packuswb.512", line, [shorts, shorts]), PLAIN)
    # Both pack within 128 bits: a quarter holds four numbers of the first, four of the second, and these again.
    order = ir.Constant(ir.VectorType(I32, 8), [0, 4, 8, 12, 1, 5, 9, 13])
    return builder.bitcast(builder.shuffle_vector(pairs, pairs, order), ir.VectorType(I8, 32))


@intrinsic
def store_shorts(typing: Any, address: Any, sums: Any) -> Generator:
    """The low halves."""
    return nb.void(intp, SUMS), _storer(SHORT)


@intrinsic
def load_code(typing: Any, address: Any, size: Any) -> Generator:
    """One element of 1 (unsigned), 2 or 4 bytes (signed)."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, size = values
        result = alloca_once(builder, I64)  # type: ignore[no-untyped-call]  # Numba's is untyped
        for width, ir_type, extend in ((1, I8, "zext"), (2, I16, "sext"), (4, I32, "sext")):
            with builder.if_then(builder.icmp_signed("==", size, I64(width))):
                builder.store(getattr(builder, extend)(load_at(builder, ir_type, address), I64), result)
        return builder.load(result)

    return int64(intp, intp), generate


@intrinsic
def store_code(typing: Any, address: Any, size: Any, code: Any) -> Generator:
    """The reverse of `load_code`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, size, code = values
        for width, ir_type in ((1, I8), (2, I16), (4, I32)):
            with builder.if_then(builder.icmp_signed("==", size, I64(width))):
                store_at(builder, builder.trunc(code, ir_type), address)
        return context.get_dummy_value()

    return nb.void(intp, intp, int64), generate


@intrinsic
def store_wide(typing: Any, address: Any, value: Any) -> Generator:
    """One int64."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        store_at(builder, values[1], values[0])
        return context.get_dummy_value()

    return nb.void(intp, int64), generate


@intrinsic
def load_wide(typing: Any, address: Any) -> Generator:
    """One int64."""
    return int64(intp), lambda context, builder, signature, values: load_at(builder, I64, values[0])


@intrinsic
def copy_line(typing: Any, source: Any, target: Any) -> Generator:
    """Sixty-four bytes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        store_at(builder, load_at(builder, LINE, values[0]), values[1])
        return context.get_dummy_value()

    return nb.void(intp, intp), generate


def _fetcher(to_write: int) -> Generator:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], I8.as_pointer())
        call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, I32(to_write), I32(3), I32(1)])
        return context.get_dummy_value()

    return nb.void(intp), generate


@intrinsic
def fetch_to_read(typing: Any, address: Any) -> Generator:
    """Ask for the line at an address in the first cache."""
    return _fetcher(0)


@intrinsic
def fetch_to_write(typing: Any, address: Any) -> Generator:
    """The same, to be written."""
    return _fetcher(1)


@intrinsic
def spread(typing: Any, number: Any) -> Generator:
    """Sixteen times the low 32 bits of a number."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return broadcast(builder, builder.trunc(values[0], I32))

    return SUMS(int64), generate


@intrinsic
def add(typing: Any, first: Any, second: Any) -> Generator:
    """Sums modulo 2^32."""
    return _binary(lambda builder, a, b: builder.add(a, b))


@intrinsic
def subtract(typing: Any, first: Any, second: Any) -> Generator:
    """Differences modulo 2^32."""
    return _binary(lambda builder, a, b: builder.sub(a, b))


@intrinsic
def multiply(typing: Any, first: Any, second: Any) -> Generator:
    """Products modulo 2^32."""
    return _binary(lambda builder, a, b: builder.mul(a, b))


@intrinsic
def both(typing: Any, first: Any, second: Any) -> Generator:
    """And, bit by bit."""
    return _binary(lambda builder, a, b: builder.and_(a, b))


@intrinsic
def exclusive_or(typing: Any, first: Any, second: Any) -> Generator:
    """Bit by bit."""
    return _binary(lambda builder, a, b: builder.xor(a, b))


@intrinsic
def shift_left(typing: Any, first: Any, second: Any) -> Generator:
    """Each by its own number of bits, 0..31."""
    return _binary(lambda builder, a, b: builder.shl(a, b))


@intrinsic
def shift_right(typing: Any, first: Any, second: Any) -> Generator:
    """The arithmetic shift, each by its own number of bits, 0..31."""
    return _binary(lambda builder, a, b: builder.ashr(a, b))


@intrinsic
def largest(typing: Any, first: Any, second: Any) -> Generator:
    """The greater of each two."""
    return _binary(lambda builder, a, b: call(builder, "llvm.smax.v16i32", PLAIN, [a, b]))


@intrinsic
def smallest(typing: Any, first: Any, second: Any) -> Generator:
    """The lesser of each two."""
    return _binary(lambda builder, a, b: call(builder, "llvm.smin.v16i32", PLAIN, [a, b]))


@intrinsic
def is_greater(typing: Any, first: Any, second: Any) -> Generator:
    """-1 where the first is greater, else 0."""
    return _binary(lambda builder, a, b: builder.sext(builder.icmp_signed(">", a, b), PLAIN))


@intrinsic
def count_different(typing: Any, first: Any, second: Any) -> Generator:
    """In how many lanes the two differ."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = builder.bitcast(builder.icmp_signed("!=", *values), I16)
        return builder.zext(call(builder, "llvm.ctpop.i16", I16, [bits]), I64)

    return int64(SUMS, SUMS), generate


@intrinsic
def gather_sums(typing: Any, address: Any, indices: Any) -> Generator:
    """The int32 at each index."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, indices = values
        result = PLAIN(ir.Undefined)
        for lane in range(16):
            index = builder.sext(builder.extract_element(indices, I32(lane)), I64)
            found = load_at(builder, I32, builder.add(address, builder.shl(index, I64(2))))
            result = builder.insert_element(result, found, I32(lane))
        return result

    return SUMS(intp, SUMS), generate


@intrinsic
def lane_numbers(typing: Any) -> Generator:
    """0, 1, .. 15."""
    return SUMS(), lambda context, builder, signature, values: PLAIN(list(range(16)))


@intrinsic
def requantise_exactly(typing: Any, sums: Any, constants: Any) -> Generator:
    """clamp((sum * multiplier + offset) >> shift) in 64 bits; constants as `fields.REQUANTISE_WIDE_BYTES` says."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, address = values
        multiplier = builder.sext(load_at(builder, PLAIN, address), WIDE)
        total = builder.add(builder.mul(builder.sext(sums, WIDE), multiplier), load_at(builder, WIDE, address, 64))
        codes = builder.ashr(total, load_at(builder, WIDE, address, 192))
        low, high = (builder.sext(load_at(builder, PLAIN, address, at), WIDE) for at in (320, 384))
        codes = call(builder, "llvm.smax.v16i64", WIDE, [codes, low])
        return builder.trunc(call(builder, "llvm.smin.v16i64", WIDE, [codes, high]), PLAIN)

    return SUMS(SUMS, intp), generate


@intrinsic
def expand_signs(typing: Any, words: Any, target: Any) -> Generator:
    """Sixteen words of weight bits -> sixteen rows of 64 weights, +1 where a bit is 1, else -1."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        expand_rows(builder, values[0], values[1], range(16))
        return context.get_dummy_value()

    return nb.void(intp, intp), generate


def expand_rows(builder: Any, words: Any, target: Any, rows: range) -> None:
    """Some rows of `expand_signs`."""
    ones, minus_ones = LINE([1] * 64), LINE([-1] * 64)
    for row in rows:
        bits = builder.bitcast(load_at(builder, I64, words, 8 * row), ir.VectorType(ir.IntType(1), 64))
        store_at(builder, builder.select(bits, ones, minus_ones), target, 64 * row)
