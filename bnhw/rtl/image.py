"""Memory images: what every memory of the engine holds for one program. Layout: docs/engine.md, sections 2 and 8."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import DESCRIPTOR_BITS, Arch, Datapath, Post
from bnhw.hardware.steps import ArithmeticUnit, EngineProgram, LookUpUnit, Place, ThresholdUnit
from bnhw.hardware.trace import MemoryKind
from bnhw.hardware.weight_words import weight_words
from bnhw.rtl.descriptor import descriptor_words
from bnhw.rtl.parameters import HOST_MEMORIES, parameters


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Words:
    """The first words of a memory: uint8 (words, bytes), lowest byte first; a word has `bits` bits, the rest are 0."""

    bits: int
    data: Array

    def hexadecimal(self) -> str:
        """One word a line, highest digit first, as `$readmemh` reads it."""
        digits = -(-self.bits // 4)
        return "".join(row[::-1].tobytes().hex()[-digits:].rjust(digits, "0") + "\n" for row in self.data)


def image(engine: EngineProgram) -> Mapping[MemoryKind, Words]:
    """The content of all memories but those of tensors.

    Raises ArchMismatch as `require_fit` does.
    """
    require_fit(engine)
    descriptors, _ = _descriptors(engine)
    return {
        MemoryKind.WEIGHTS: _weights(engine),
        MemoryKind.CONSTANTS: _constants(engine),
        MemoryKind.THRESHOLDS: _thresholds(engine),
        MemoryKind.LOOKUPS: _lookups(engine),
        MemoryKind.CLASSES: _classes(engine),
        MemoryKind.DESCRIPTORS: words_of_integers(descriptors, DESCRIPTOR_BITS),
    }


def require_fit(engine: EngineProgram) -> None:
    """Raises ArchMismatch where a memory is too small or a number does not fit, or for an engine never built."""
    parameters(engine.arch)
    _, problems = _descriptors(engine)
    problems += _size_problems(engine)
    if problems:
        raise ArchMismatch(problems, model=engine.program.name, arch=engine.arch.name)


def tensor_words(arch: Arch, place: Place, codes: Array) -> Words:
    """A tensor, integers (height, width, channels), as the host writes it from word `host_address(arch, place)` on."""
    pixels = codes.reshape(-1, place.shape[2]).astype(np.int64) - place.low
    width = arch.simd if place.memory is MemoryKind.ACTIVATIONS else arch.pe
    padded = np.pad(pixels, ((0, 0), (0, place.pixel_words * width - place.shape[2])))
    planes = padded.reshape(len(padded), place.pixel_words, 1, width) >> _plane_places(place)
    return pack_lanes(planes.reshape(-1, arch.pe), place.lane_bits)


def tensor_codes(arch: Arch, place: Place, words: Words) -> Array:
    """What `tensor_words` made words of: int64 (height, width, channels)."""
    width = arch.simd if place.memory is MemoryKind.ACTIVATIONS else arch.pe
    lanes = unpacked(words.data, place.lane_bits, arch.pe)
    planes = lanes.reshape(-1, place.pixel_words, place.planes, width) << _plane_places(place)
    stored = planes.sum(axis=2).reshape(place.shape[0], place.shape[1], -1)[:, :, : place.shape[2]]
    return np.asarray((stored & ((1 << place.bits) - 1)) + place.low)


def host_words(arch: Arch, place: Place) -> tuple[int, int]:
    """The first word of a tensor and the number of its words, as the host counts them: each bank's on its own."""
    banks = arch.groups if place.memory is MemoryKind.ACTIVATIONS else 1
    return place.base * banks, place.size * banks


def _plane_places(place: Place) -> Array:
    return np.arange(place.planes, dtype=np.int64)[:, None] * place.lane_bits


def bits_of(values: Array, bits: int) -> Array:
    """The lowest `bits` bits of integers as a last axis, uint8, lowest first."""
    return ((values[..., None] >> np.arange(bits, dtype=np.int64)) & 1).astype(np.uint8)


def pack_lanes(values: Array, bits: int) -> Words:
    """One word a row of integers (words, lanes), lane 0 in the lowest bits."""
    return _packed_bits(bits_of(values, bits).reshape(len(values), values.shape[1] * bits))


def _packed_bits(bits: Array) -> Words:
    """One word a row of bits, lowest first."""
    return Words(bits=bits.shape[1], data=np.packbits(bits, axis=1, bitorder="little"))


def unpacked(data: Array, bits: int, lanes: int, *, signed: bool = False) -> Array:
    """Integers int64 (words, lanes) of uint8 (words, bytes): `bits` bits a lane, lane 0 in the lowest."""
    single = np.unpackbits(data, axis=1, count=bits * lanes, bitorder="little").reshape(len(data), lanes, bits)
    weights = np.int64(1) << np.arange(bits, dtype=np.int64)
    if signed:
        weights[-1] = -weights[-1]
    return np.asarray(single.astype(np.int64) @ weights)


def words_of_integers(values: Sequence[int], bits: int) -> Words:
    """One word an integer of any size, not negative."""
    size = -(-bits // 8)
    joined = b"".join(value.to_bytes(size, "little") for value in values)
    return Words(bits=bits, data=np.frombuffer(joined, np.uint8).reshape(len(values), size))


def _descriptors(engine: EngineProgram) -> tuple[list[int], list[str]]:
    """Every descriptor word, and what does not fit one."""
    words: list[int] = []
    problems = []
    for step in engine.steps:
        try:
            words += descriptor_words(engine.arch, step, last=step is engine.steps[-1])
        except ValueError as error:
            problems.append(f"{step.name!r}: {error}; the network is too large for the engine's descriptors")
    return words, problems


def _size_problems(engine: EngineProgram) -> list[str]:
    required = engine.required_words
    there = {kind: memory.words for kind, memory in engine.arch.memories.items()}
    return [
        f"memories.{kind.value} has {there.get(kind, 0)} words, {required[kind]} are needed; "
        f"set words = {required[kind]}"
        for kind in HOST_MEMORIES
        if required[kind] > there.get(kind, 0)
    ]


def _weights(engine: EngineProgram) -> Words:
    arch = engine.arch
    bits = []
    for step in engine.steps:
        if step.convolve:
            words = weight_words(engine.program, arch, step.convolve)
            coded = words > 0 if arch.datapath is not Datapath.MUL else words
            bits.append(bits_of(coded.astype(np.int8), arch.weight_bits).reshape(len(words), -1))
    return _joined(bits, arch.word_bits(MemoryKind.WEIGHTS))


def _joined(bits: Sequence[Array], width: int) -> Words:
    """Parts that lie behind each other, (words, bits) each."""
    return _packed_bits(np.concatenate([np.zeros((0, width), np.uint8), *bits]))


def _blocks(table: Array, sets: int, pe: int) -> Array:
    """(classes, channels or 1, ...) as (classes, blocks, pe, ...); lanes behind the last channel repeat it."""
    wide = np.broadcast_to(table, (len(table), sets, *table.shape[2:]))
    blocks = -(-sets // pe)
    last = np.minimum(np.arange(blocks * pe), sets - 1)
    return np.asarray(wide[:, last].reshape(len(table), blocks, pe, *table.shape[2:]))


def _constants(engine: EngineProgram) -> Words:
    arch = engine.arch
    bits = []
    for step in engine.steps:
        if isinstance(step.post, ArithmeticUnit):
            unit = step.post
            tables = [_blocks(t, unit.multiplier.shape[1], arch.pe) for t in (unit.multiplier, unit.offset, unit.shift)]
            record = [
                _multiplier_bits(arch, tables[0]),
                bits_of(tables[1], arch.offset_bits),
                bits_of(tables[2], arch.shift_bits),
            ]
            bits.append(np.concatenate(record, axis=-1).reshape(-1, arch.word_bits(MemoryKind.CONSTANTS)))
    return _joined(bits, arch.word_bits(MemoryKind.CONSTANTS))


def _multiplier_bits(arch: Arch, multiplier: Array) -> Array:
    """M as stored: a number, or digits {nonzero, negative, exponent}."""
    if arch.post is Post.MULTIPLY:
        return bits_of(multiplier, arch.multiplier_bits)
    digits = max(1, arch.csd_digits)
    exponent_bits = (arch.multiplier_bits - 1).bit_length()
    stored = np.zeros((*multiplier.shape, digits), np.int64)
    for index in np.ndindex(multiplier.shape):
        for place, (exponent, negative) in enumerate(signed_digits(int(multiplier[index]))):
            stored[(*index, place)] = exponent | negative << exponent_bits | 1 << (exponent_bits + 1)
    return bits_of(stored, exponent_bits + 2).reshape(*multiplier.shape, -1)


def signed_digits(number: int) -> tuple[tuple[int, int], ...]:
    """(exponent, 1 if negative) of the digits that are not 0 in the canonical signed-digit form, lowest first."""
    digits, exponent = [], 0
    while number:
        if number & 1:
            digit = 2 - (number & 3)
            digits.append((exponent, int(digit < 0)))
            number -= digit
        number >>= 1
        exponent += 1
    return tuple(digits)


def _thresholds(engine: EngineProgram) -> Words:
    """Levels behind the last are ones that no accumulator meets."""
    arch = engine.arch
    width = arch.word_bits(MemoryKind.THRESHOLDS)
    bits = []
    for step in engine.steps:
        if isinstance(step.post, ThresholdUnit):
            unit = step.post
            sets = max(unit.thresholds.shape[1], len(unit.falling))
            levels = _blocks(unit.thresholds, sets, arch.pe)
            falling = np.broadcast_to(_blocks(unit.falling[None], sets, arch.pe), levels.shape[:3])
            chunks = max(1, -(-levels.shape[3] // arch.comparators))
            end = 1 << (arch.acc_bits - 1)
            filled = np.empty((*levels.shape[:3], chunks * arch.comparators), np.int64)
            filled[:] = np.where(falling, -end - 1, end)[..., None]
            filled[..., : levels.shape[3]] = levels
            by_chunk = filled.reshape(*levels.shape[:3], chunks, arch.comparators).transpose(0, 1, 3, 2, 4)
            level_bits = bits_of(by_chunk, arch.threshold_bits).reshape(*by_chunk.shape[:4], -1)
            falling_bits = np.broadcast_to(falling[:, :, None, :, None], (*by_chunk.shape[:4], 1)).astype(np.uint8)
            bits.append(np.concatenate([level_bits, falling_bits], axis=-1).reshape(-1, width))
    return _joined(bits, width)


def _lookups(engine: EngineProgram) -> Words:
    arch = engine.arch
    tables = [step.post.table.reshape(-1, 1) for step in engine.steps if isinstance(step.post, LookUpUnit)]
    return pack_lanes(np.concatenate([np.zeros((0, 1), np.int64), *tables]), arch.residual_bits)


def _classes(engine: EngineProgram) -> Words:
    maps = [
        step.post.position_classes.reshape(-1, 1)
        for step in engine.steps
        if isinstance(step.post, ArithmeticUnit | ThresholdUnit) and step.post.position_classes is not None
    ]
    return pack_lanes(np.concatenate([np.zeros((0, 1), np.int64), *maps]), engine.arch.class_bits)
