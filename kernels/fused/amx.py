"""AMX tiles: sums in tiles 0..3 (two tiles of pixels by two chunks), pixels in 4 and 5, weights in 6 and 7.

Each thread configures its tiles before and releases them after use; the process must have asked for the permission
to use them (`bnhw.kernels.permission`).
"""

from typing import Any

from llvmlite import ir
from numba import intp
from numba import types as nb

from bnhw.kernels.fused.vectors import I8, I64, expand_rows
from bnhw.kernels.jit import intrinsic
from bnhw.kernels.vectors import Generator

BYTE_POINTER = I8.as_pointer()


def _call(builder: Any, name: str, arguments: list[Any]) -> None:
    function_type = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(builder.module.declare_intrinsic(f"llvm.x86.{name}", fnty=function_type), arguments)


def _load(builder: Any, tile: int, address: Any, stride: Any) -> None:
    _call(builder, "tileloadd64", [I8(tile), builder.inttoptr(address, BYTE_POINTER), stride])


def _dot(builder: Any, sums: int, pixels: int, weights: int) -> None:
    _call(builder, "tdpbusd", [I8(sums), I8(pixels), I8(weights)])


@intrinsic
def configure(typing: Any, address: Any) -> Generator:
    """Load the configuration of this thread's tiles."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _call(builder, "ldtilecfg", [builder.inttoptr(values[0], BYTE_POINTER)])
        return context.get_dummy_value()

    return nb.void(intp), generate


@intrinsic
def release(typing: Any) -> Generator:
    """Give the tiles back."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _call(builder, "tilerelease", [])
        return context.get_dummy_value()

    return nb.void(), generate


@intrinsic
def start_sums(typing: Any, first: Any, second: Any) -> Generator:
    """Every pixel's sums start from the sixteen int32 at an address, one for each chunk."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for tile in range(4):
            _load(builder, tile, values[tile % 2], I64(0))
        return context.get_dummy_value()

    return nb.void(intp, intp), generate


@intrinsic
def load_slot(typing: Any, slot: Any) -> Generator:
    """Sums from a slot."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for tile in range(4):
            _load(builder, tile, builder.add(values[0], I64(1024 * tile)), I64(64))
        return context.get_dummy_value()

    return nb.void(intp), generate


@intrinsic
def store_slot(typing: Any, slot: Any) -> Generator:
    """Sums to a slot."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for tile in range(4):
            place = builder.inttoptr(builder.add(values[0], I64(1024 * tile)), BYTE_POINTER)
            _call(builder, "tilestored64", [I8(tile), place, I64(64)])
        return context.get_dummy_value()

    return nb.void(intp), generate


@intrinsic
def multiply_step(typing: Any, first: Any, second: Any, stride: Any, panel: Any) -> Generator:
    """Add the products of two tiles of pixels, `stride` bytes from pixel to pixel, with two chunks' weights."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _multiply(builder, values, lambda quarter: None)
        return context.get_dummy_value()

    return nb.void(intp, intp, intp, intp), generate


@intrinsic
def multiply_and_expand(
    typing: Any, first: Any, second: Any, stride: Any, panel: Any, words: Any, target: Any
) -> Generator:
    """`multiply_step`, and between its instructions `expand_signs` of the 32 words of the step after it."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words, target = values[4:]
        _multiply(builder, values, lambda at: expand_rows(builder, words, target, range(8 * at, 8 * at + 8)))
        return context.get_dummy_value()

    return nb.void(*(intp,) * 6), generate


def _multiply(builder: Any, values: Any, between: Any) -> None:
    first, second, stride, panel = values[:4]
    _load(builder, 6, panel, I64(64))
    _load(builder, 4, first, stride)
    _dot(builder, 0, 4, 6)
    between(0)
    _load(builder, 7, builder.add(panel, I64(1024)), I64(64))
    _dot(builder, 1, 4, 7)
    between(1)
    _load(builder, 5, second, stride)
    _dot(builder, 2, 5, 6)
    between(2)
    _dot(builder, 3, 5, 7)
    between(3)
