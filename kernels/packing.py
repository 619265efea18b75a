"""The bit order of packed words, stated once.

Lane `i` of a vector of bits is bit `i % 64` of word `i // 64`; lane 0 is the least significant bit. The lanes
of the last word past the end of the vector (pad lanes) are 0. A hardware memory word follows the same rule
with its own width: lane 0 is its least significant bit. Kernels that pack inside compiled code are tested
against the functions here; the functions here are tested against `bitarray`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from bitarray import bitarray
from bitarray.util import count_and, count_xor, zeros

WORD_BITS = 64


def count_words(lanes: int) -> int:
    """Number of 64-lane words that hold `lanes` lanes."""
    return -(-lanes // WORD_BITS)


def pack_bits(bits: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Pack the last axis: (..., n) of 0 and 1 -> uint64 (..., ceil(n / 64)).

    Raises ValueError when the array has no axis or holds anything but 0 and 1.
    """
    array = np.asarray(bits)
    if array.ndim == 0:
        raise ValueError("pack_bits: got a scalar, expected an array of at least one axis")
    if array.size and not np.isin(array, (0, 1)).all():
        wrong = array[~np.isin(array, (0, 1))].flat[0]
        raise ValueError(f"pack_bits: found {wrong!r}, expected only 0 and 1")
    lanes = array.shape[-1]
    padded = np.zeros((*array.shape[:-1], count_words(lanes) * WORD_BITS), np.uint8)
    padded[..., :lanes] = array
    little_endian = np.packbits(padded, axis=-1, bitorder="little").view("<u8")
    return little_endian.astype(np.uint64)


def unpack_bits(words: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.uint8]:
    """Inverse of `pack_bits`: uint64 (..., w) -> uint8 (..., count) of 0 and 1.

    Raises ValueError unless the dtype is uint64 and `count` lanes need exactly w words.
    """
    if words.dtype != np.uint64 or words.ndim == 0:
        raise ValueError(f"unpack_bits: found {words.dtype} of {words.ndim} axes, expected uint64 (..., words)")
    if count_words(count) != words.shape[-1]:
        raise ValueError(f"unpack_bits: found {words.shape[-1]} words, {count} lanes need {count_words(count)}")
    as_bytes = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    lanes = words.shape[-1] * WORD_BITS
    unpacked = np.unpackbits(as_bytes.reshape(-1), bitorder="little").reshape(*words.shape[:-1], lanes)
    return np.ascontiguousarray(unpacked[..., :count])


def pack_planes(codes: npt.NDArray[np.integer[Any]], bits: int) -> npt.NDArray[np.uint64]:
    """Two's complement bit planes: integers (..., C) -> uint64 (bits, ..., ceil(C / 64)).

    Plane `b` holds bit `b` of every code, so that an unsigned code is `sum_b 2^b plane_b` and a signed code
    is the same with `-2^(bits-1)` for the last plane. Only the low `bits` bits of a code are read.
    Raises ValueError when `bits` is not within 1..32.
    """
    if not 1 <= bits <= 32:
        raise ValueError(f"pack_planes: {bits} bit planes asked for, expected 1..32")
    wide = np.asarray(codes).astype(np.int64)
    return np.stack([pack_bits((wide >> bit) & 1) for bit in range(bits)])


def to_memory_image(bits: npt.ArrayLike, word_bits: int) -> tuple[bitarray, ...]:
    """Cut a vector of bits into hardware memory words of `word_bits` lanes each.

    Every word is a little-endian `bitarray`: index 0 is lane 0 and the least significant bit
    (`bitarray.util.ba2int` gives the integer). The last word is padded with 0. No bits give no words.
    Raises ValueError when `bits` is not one-dimensional 0 and 1, or `word_bits` is not positive.
    """
    vector = np.asarray(bits)
    if vector.ndim != 1 or not np.isin(vector, (0, 1)).all():
        raise ValueError(f"to_memory_image: found shape {vector.shape}, expected one axis of 0 and 1")
    if word_bits < 1:
        raise ValueError(f"to_memory_image: words of {word_bits} bits asked for, expected at least 1")
    lanes = bitarray(vector.tolist(), endian="little")
    lanes.extend(zeros(-len(lanes) % word_bits, endian="little"))
    return tuple(lanes[start : start + word_bits] for start in range(0, len(lanes), word_bits))


def from_memory_image(words: Sequence[bitarray], count: int) -> npt.NDArray[np.uint8]:
    """Inverse of `to_memory_image`: the first `count` lanes of the words as uint8 0 and 1.

    Raises ValueError when the words differ in width, are not little-endian, or are not the number of words
    that `count` lanes need.
    """
    widths = {len(word) for word in words}
    if len(widths) > 1 or any(word.endian != "little" for word in words):
        raise ValueError(f"from_memory_image: found words of {sorted(widths)} bits, expected little-endian, one width")
    word_bits = widths.pop() if widths else 1
    if word_bits == 0 or -(-count // word_bits) != len(words):
        raise ValueError(f"from_memory_image: {count} lanes do not fill {len(words)} words of {word_bits} bits")
    lanes = bitarray(endian="little")
    for word in words:
        lanes.extend(word)
    return np.array(lanes.tolist()[:count], np.uint8)


def popcount_oracle(first: Sequence[int], second: Sequence[int], operation: Literal["and", "xor"]) -> int:
    """Number of lanes where `first operation second` is 1, counted by `bitarray` alone.

    Independent of numpy and numba: it is what packed kernels are tested against.
    Raises ValueError when the two vectors differ in length or the operation is neither "and" nor "xor".
    """
    left, right = bitarray([int(bit) for bit in first]), bitarray([int(bit) for bit in second])
    if len(left) != len(right):
        raise ValueError(f"popcount_oracle: vectors of {len(left)} and {len(right)} lanes, expected one length")
    if operation == "and":
        return count_and(left, right)
    if operation == "xor":
        return count_xor(left, right)
    raise ValueError(f"popcount_oracle: operation {operation!r}, expected 'and' or 'xor'")
