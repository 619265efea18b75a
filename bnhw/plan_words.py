"""Convolutions whose bits are counted: 1-bit weights and codes of few bits, 64 or 32 channels in a word.

See `bnhw.kernels.fused.words` for the arithmetic.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused.fields import BLOCK, LANES
from bnhw.ops import Window
from bnhw.plan_convolution import PAIR, Tap
from bnhw.plan_storage import Form
from bnhw.program import Convolve, Program

WORD_BYTES = 8
STAGE_WORDS = 96
"""Most steps between which counts stay in registers: so many steps' weights leave room in the first cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordForm(Form):
    """The form of a tensor's bits: [block][pixel][plane] uint64. Packing writes all of it; nothing is filled."""

    planes: int

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of up to 64 channels, all of one word."""
        return -(-self.shape[2] // BLOCK), 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all blocks."""
        return self.blocks[0] * self.pixels * WORD_BYTES * self.planes

    def block(self, number: int) -> tuple[int, int]:
        """(byte offset of a block, bytes of one of its pixels)."""
        pitch = WORD_BYTES * self.planes
        return number * self.pixels * pitch, pitch


def choose_words(
    program: Program, most_planes: int, word_channels: int = BLOCK, limits: Mapping[str, int] | None = None
) -> Mapping[str, int]:
    """The convolutions whose bits are counted, by the tensor they write: how many planes their codes have.

    most_planes: how many passes over full words take less time than multiplying; words that are not full count more.
    word_channels: channels that the interpreter counts at once, 64 or 32. limits: fewer planes, by the tensor written,
    of convolutions that take less time than others if they are not counted.
    """
    chosen = {}
    for instruction in program.instructions:
        if not isinstance(instruction, Convolve) or instruction.weight_bits != 1 or instruction.groups != 1:
            continue
        source = program.tensor[instruction.inputs[0]]
        channels = source.shape[2]
        words = -(-channels // word_channels)
        planes = min(most_planes, (limits or {}).get(instruction.output, most_planes))
        if source.dtype.bits * words * word_channels <= planes * channels:
            chosen[instruction.output] = source.dtype.bits
    return chosen


def words_name(name: str) -> str:
    """What the bits of a tensor's codes are called in a plan; no name in a program has a control character."""
    return f"{name}\0words"


def word_form(form: Form, planes: int) -> WordForm:
    """The form of the bits of codes of one byte."""
    return WordForm(shape=form.shape, size=WORD_BYTES, bias=0, shift=0, fill=(), pads=form.pads, planes=planes)


def list_word_taps(form: WordForm, window: Window) -> tuple[Tap, ...]:
    """One tap of one block each."""
    return tuple(
        Tap(plane=0, block=block, row=row, column=column, taps=1, lanes=BLOCK)
        for block in range(form.blocks[0])
        for row in range(window.kernel[0])
        for column in range(window.kernel[1])
    )


def split_offsets(
    offsets: tuple[tuple[int, int], ...], channels: int, word_channels: int
) -> tuple[tuple[int, int], ...]:
    """Steps of a sum, block by block, from offsets of the taps: each once, or of each its halves that hold channels."""
    blocks = -(-channels // BLOCK)
    taps = len(offsets) // blocks
    return tuple(
        (offset + first // 8, pitch)
        for block in range(blocks)
        for first in range(0, min(BLOCK, channels - block * BLOCK), word_channels)
        for offset, pitch in offsets[block * taps : (block + 1) * taps]
    )


def order_words(weights: Array, word_channels: int = BLOCK) -> Array:
    """int8 (out, height, width, channels) of +1 and -1 -> words (pairs, steps, 32), bits past the last channel 0."""
    outputs, height, width, channels = weights.shape
    more = ((0, -outputs % PAIR), (0, 0), (0, 0), (0, -channels % word_channels))
    bits = np.pad(weights > 0, more).reshape(-1, PAIR, height * width, -(-channels // word_channels), word_channels)
    words = np.packbits(bits, axis=4, bitorder="little").view(f"u{word_channels // 8}")[..., 0]
    return np.ascontiguousarray(words.transpose(0, 3, 2, 1)).reshape(len(words), -1, PAIR)


def start_counts(weights: Array, zero: int, planes: int) -> Array:
    """int64 (1, pairs * 32), what sums start from; zero is the stored code of the zero point."""
    outputs = weights.shape[0]
    ones = (weights > 0).reshape(outputs, -1).sum(axis=1, dtype=np.int64)
    sums = weights.reshape(outputs, -1).sum(axis=1, dtype=np.int64)
    return np.pad(((1 << planes) - 1) * ones - zero * sums, (0, -outputs % PAIR))[np.newaxis]


def start_bipolar_counts(
    weights: Array, window: Window, size: tuple[int, int], result: tuple[int, int]
) -> tuple[Array, Array]:
    """int64 (classes, pairs * 32), what sums start from, and int64 (rows * columns + 15), each pixel's place in it.

    A place counts bytes of int32; tiles read on after the last pixel. Pixels are of one class where the same taps lie
    in the border. size, result: pixels of the image and the result.
    """
    outputs, height, width, _ = weights.shape
    taps_inside = [
        (taps >= 0) & (taps < length)
        for length, count, kernel, stride, pad in zip(
            size, result, (height, width), window.stride, window.pads[:2], strict=True
        )
        for taps in [np.arange(count)[:, np.newaxis] * stride - pad + np.arange(kernel)]
    ]
    inside = taps_inside[0][:, np.newaxis, :, np.newaxis] & taps_inside[1][np.newaxis, :, np.newaxis, :]
    patterns, classes = np.unique(inside.reshape(-1, height * width), axis=0, return_inverse=True)
    ones = (weights > 0).reshape(outputs, -1).sum(axis=1, dtype=np.int64)
    of_taps = weights.sum(axis=3, dtype=np.int64).reshape(outputs, -1)
    starts = 2 * ones - patterns.astype(np.int64) @ of_taps.T
    padded = np.pad(starts, ((0, 0), (0, -outputs % PAIR)))
    places = classes.reshape(-1).astype(np.int64) * padded.shape[1] * 4
    return padded, np.pad(places, (0, LANES - 1))
