"""Packing: the one bit order, against `bitarray` and against itself backwards."""

import numpy as np
import pytest
from bitarray.util import ba2int
from hypothesis import given
from hypothesis import strategies as st

from bnhw.kernels.packing import (
    count_words,
    from_memory_image,
    pack_bits,
    pack_planes,
    popcount_oracle,
    to_memory_image,
    unpack_bits,
)

BITS = st.lists(st.integers(0, 1), min_size=1, max_size=200)


@given(BITS)
def test_lane_i_is_bit_i_mod_64_of_word_i_div_64(bits: list[int]) -> None:
    words = pack_bits(bits)
    assert words.dtype == np.uint64
    assert words.shape == (count_words(len(bits)),)
    for lane, bit in enumerate(bits):
        assert (int(words[lane // 64]) >> (lane % 64)) & 1 == bit


@given(BITS)
def test_pad_lanes_are_zero_and_the_word_is_bitarrays_integer(bits: list[int]) -> None:
    assert [int(word) for word in pack_bits(bits)] == [ba2int(word) for word in to_memory_image(bits, 64)]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 150), st.integers(0, 99))
def test_unpack_inverts_pack_on_any_axes(first: int, second: int, lanes: int, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, (first, second, lanes))
    assert np.array_equal(unpack_bits(pack_bits(bits), lanes), bits)


@given(st.integers(1, 20), st.booleans(), st.integers(1, 130), st.integers(0, 99))
def test_planes_weighted_by_powers_of_two_give_the_codes(bits: int, signed: bool, channels: int, seed: int) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    codes = np.random.default_rng(seed).integers(low, low + (1 << bits), (2, 3, channels)).astype(np.int32)
    planes = pack_planes(codes, bits)
    assert planes.shape == (bits, 2, 3, count_words(channels))
    total = np.zeros_like(codes)
    for bit in range(bits):
        weight = -(1 << bit) if signed and bit == bits - 1 else 1 << bit
        total += weight * unpack_bits(planes[bit], channels).astype(np.int32)
    assert np.array_equal(total, codes)


@given(BITS, st.integers(1, 100))
def test_memory_image_pads_the_last_word_with_zero_and_comes_back(bits: list[int], word_bits: int) -> None:
    words = to_memory_image(bits, word_bits)
    assert {len(word) for word in words} == {word_bits}
    lanes = [lane for word in words for lane in word.tolist()]
    assert lanes == bits + [0] * (-len(bits) % word_bits)
    assert ba2int(words[0]) & 1 == bits[0]
    assert from_memory_image(words, len(bits)).tolist() == bits


@given(BITS, st.integers(0, 99))
def test_popcounts_of_packed_words_agree_with_the_oracle(first: list[int], seed: int) -> None:
    second = np.random.default_rng(seed).integers(0, 2, len(first)).tolist()
    left, right = pack_bits(first), pack_bits(second)
    assert int(np.bitwise_count(left & right).sum()) == popcount_oracle(first, second, "and")
    assert int(np.bitwise_count(left ^ right).sum()) == popcount_oracle(first, second, "xor")


@given(BITS, st.integers(0, 99))
def test_xnor_popcount_is_half_of_dot_plus_length(first: list[int], seed: int) -> None:
    second = np.random.default_rng(seed).integers(0, 2, len(first)).tolist()
    length = len(first)
    dot = sum((2 * a - 1) * (2 * b - 1) for a, b in zip(first, second, strict=True))
    equal_lanes = length - popcount_oracle(first, second, "xor")
    assert 2 * equal_lanes == dot + length


def test_packing_refuses_what_is_not_bits() -> None:
    with pytest.raises(ValueError, match="expected only 0 and 1"):
        pack_bits([0, 2])
    with pytest.raises(ValueError, match="scalar"):
        pack_bits(1)
    with pytest.raises(ValueError, match="65 lanes need 2"):
        unpack_bits(np.zeros(1, np.uint64), 65)
    with pytest.raises(ValueError, match="expected uint64"):
        unpack_bits(np.zeros(1, np.int64), 64)
    with pytest.raises(ValueError, match=r"expected 1\.\.32"):
        pack_planes(np.zeros((1,), np.int32), 0)
    with pytest.raises(ValueError, match="expected one axis"):
        to_memory_image([[0, 1]], 8)
    with pytest.raises(ValueError, match="at least 1"):
        to_memory_image([0, 1], 0)
    with pytest.raises(ValueError, match="do not fill"):
        from_memory_image(to_memory_image([0, 1, 1], 2), 5)
    with pytest.raises(ValueError, match="one width"):
        from_memory_image((*to_memory_image([0], 1), *to_memory_image([0], 2)), 3)
    with pytest.raises(ValueError, match="expected one length"):
        popcount_oracle([0, 1], [0], "and")
    with pytest.raises(ValueError, match="expected 'and' or 'xor'"):
        popcount_oracle([0], [0], "or")  # type: ignore[arg-type]  # the wrong word is the point
