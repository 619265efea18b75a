"""Requantise steps in 32 bits give the exact codes, wherever a plan takes them."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnhw.dtypes import Array, IntegerType
from bnhw.plan_constants import narrow_requantise


def in_32_bits(sums: Array, low: int, high: int, rest: list[int]) -> Array:
    """What the compiled step computes: every operation modulo 2^32."""
    with np.errstate(over="ignore"):
        bounded = np.clip(sums, low, high).astype(np.int32)
        *numbers, low_bits = (np.array(n, np.int64).astype(np.int32) for n in rest)
        if low_bits == 0:
            return (bounded * numbers[0] + numbers[1]) >> numbers[2]
        apart = bounded & np.int32((1 << int(low_bits)) - 1)
        carried = (apart * numbers[0] + numbers[1]) >> low_bits
        return ((bounded >> low_bits) * numbers[0] + carried) >> numbers[2]


def one(number: int) -> Array:
    return np.array([[number]], np.int64)


def exact_codes(sums: Array, factor: int, offset: int, shift: int, low: int, high: int) -> list[int]:
    return [min(max((int(s) * factor + offset) >> shift, low), high) for s in sums]


@settings(max_examples=500, deadline=None)
@given(
    source=st.builds(IntegerType, bits=st.integers(2, 31), signed=st.booleans()),
    factor=st.integers(-(2**16), 2**16),
    shift=st.integers(0, 40),
    offset=st.integers(-(2**40), 2**40),
    offset_bits=st.integers(0, 40),
    bounds=st.tuples(st.integers(-(2**15), 2**15 - 1), st.integers(-(2**15), 2**15 - 1)),
    seed=st.integers(0, 2**16),
)
@example(IntegerType(bits=22, signed=True), 32749, 18, 2**17, 40, (-(2**15), 2**15 - 1), 0)
@example(IntegerType(bits=20, signed=True), -125, 13, -(2**12), 40, (0, 255), 1)
@example(IntegerType(bits=20, signed=True), 0, 3, 100, 40, (0, 255), 1)
def test_codes_in_32_bits_are_exact(
    source: IntegerType, factor: int, shift: int, offset: int, offset_bits: int, bounds: tuple[int, int], seed: int
) -> None:
    low, high = min(bounds), max(bounds)
    addend = int(np.sign(offset)) * (abs(offset) >> (40 - offset_bits))
    narrow = narrow_requantise(one(factor), one(addend), one(shift), source, low, high)
    if narrow is None:
        return
    least, most, *rest = (int(np.ravel(entry)[0]) for entry in narrow)
    near = np.concatenate([np.arange(limit - 3, limit + 4) for limit in (least, most, 0, source.low, source.high)])
    sums = np.concatenate([near, np.random.default_rng(seed).integers(source.low, source.high + 1, 50)])
    sums = sums[(sums >= source.low) & (sums <= source.high)]
    found = in_32_bits(sums, least, most, rest)
    assert found.tolist() == exact_codes(sums, factor, addend, shift, low, high)


def test_large_products_multiply_low_bits_apart_and_steep_steps_are_left_to_64_bits() -> None:
    def low_bits(factor: int, shift: int, bits: int) -> int | None:
        source = IntegerType(bits=bits, signed=True)
        narrow = narrow_requantise(one(factor), one(0), one(shift), source, -(2**15), 2**15 - 1)
        return None if narrow is None else narrow[-1]

    assert low_bits(30000, 15, 17) == 0
    assert low_bits(30000, 18, 22) == 2
    assert low_bits(40000, 15, 17) is None
    assert low_bits(3, 31, 30) is None
