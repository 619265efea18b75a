"""What the array's raw sums are instead of the program's accumulators, and the constants that make up for it.

raw = acc * 2^h - c[channel]; docs/engine.md, section 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bnhw.dtypes import Array, IntegerType
from bnhw.hardware.arch import Arch, Datapath, Post
from bnhw.hardware.fit import Needs
from bnhw.hardware.steps import ArithmeticUnit, BlockWords, LookUpUnit, PostUnit, ThresholdUnit
from bnhw.hardware.trace import MemoryKind
from bnhw.program import Convolve, LookUp, Program, Requantise, Tensor, Threshold
from bnhw.requantise_constants import count_signed_digits


@dataclass(kw_only=True)
class Filling:
    """How far each memory is filled, and what does not fit the engine: grows as steps are made."""

    needs: Needs
    words: dict[MemoryKind, int] = field(default_factory=dict)

    def take(self, memory: MemoryKind, words: int) -> int:
        """The first of so many new words."""
        base = self.words.get(memory, 0)
        self.words[memory] = base + words
        return base


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawSums:
    """raw = acc * 2^doublings - constant; constant int64 (channels,), acc of type `acc`."""

    doublings: int
    constant: Array
    acc: IntegerType

    @property
    def bits(self) -> int:
        """Signed bits that hold every raw sum."""
        low = (self.acc.low << self.doublings) - int(self.constant.max())
        high = (self.acc.high << self.doublings) - int(self.constant.min())
        return signed_bits(low, high)


def signed_bits(low: int, high: int) -> int:
    """Bits of a two's complement number that holds low and high."""
    return IntegerType.containing(min(low, -1), max(high, 0)).bits


def block_words(arch: Arch, convolve: Convolve) -> tuple[BlockWords, ...]:
    """By output block, the words of the input that its groups read."""
    channels, per_group = convolve.weight_shape[0], convolve.weight_shape[3]
    of_group = channels // convolve.groups
    result = []
    for block in range(-(-channels // arch.pe)):
        first_group = block * arch.pe // of_group
        last_group = (min((block + 1) * arch.pe, channels) - 1) // of_group
        first = first_group * per_group // arch.simd
        last = ((last_group + 1) * per_group - 1) // arch.simd
        result.append(BlockWords(first=first, words=last - first + 1))
    return tuple(result)


def weights_inside(arch: Arch, convolve: Convolve, source: Tensor, block: int, words: BlockWords) -> Array:
    """Which weights of a block are the program's: bool (pe, words * simd), False outside the group or the tensor."""
    channels, per_group = convolve.weight_shape[0], convolve.weight_shape[3]
    outputs = block * arch.pe + np.arange(arch.pe)[:, None]
    inputs = words.first * arch.simd + np.arange(words.words * arch.simd)[None, :]
    group = outputs // (channels // convolve.groups)
    inside = (inputs >= group * per_group) & (inputs < (group + 1) * per_group)
    return np.asarray(inside & (outputs < channels) & (inputs < source.shape[2]))


def phases(arch: Arch, convolve: Convolve, source: Tensor, blocks: tuple[BlockWords, ...]) -> int:
    """2 where 1-bit weights would have to be 0: a block's words hold channels outside the group of one of its lanes."""
    if arch.datapath is Datapath.MUL or convolve.groups == 1:
        return 1
    for block, words in enumerate(blocks):
        inside = weights_inside(arch, convolve, source, block, words)
        lanes = min(arch.pe, convolve.weight_shape[0] - block * arch.pe)
        present = min(words.words * arch.simd, source.shape[2] - words.first * arch.simd)
        if not inside[:lanes, :present].all():
            return 2
    return 1


def raw_sums(program: Program, arch: Arch, convolve: Convolve, phase_count: int, planes: int) -> RawSums:
    """h and c of a convolution on this engine."""
    source = program.tensor[convolve.inputs[0]]
    sums = program.weights_of(convolve).reshape(convolve.weight_shape[0], -1).sum(axis=1, dtype=np.int64)
    padding = source.zero_point - source.dtype.low
    xnor = arch.datapath is Datapath.XNOR
    if source.bipolar:
        constant = 0 * sums if xnor else -phase_count * sums
    elif xnor:
        constant = -phase_count * (2 * padding - ((1 << planes) - 1)) * sums
    else:
        constant = -phase_count * padding * sums
    doublings = (phase_count == 2) + (xnor and not source.bipolar)
    return RawSums(doublings=doublings, constant=constant, acc=program.tensor[convolve.output].dtype)


def post_unit(
    program: Program,
    arch: Arch,
    instruction: Requantise | Threshold | LookUp | None,
    raw: RawSums | None,
    filling: Filling,
) -> PostUnit:
    """The post stage of a step. `raw` None: sums of lanes. A convolution without a post of its own gets M = 1."""
    match instruction:
        case Requantise():
            return _requantise(program, arch, instruction, raw, filling)
        case Threshold():
            return _threshold(program, arch, instruction, raw, filling)
        case LookUp():
            return _look_up(program, instruction, filling)
        case None if raw is not None:
            one = np.ones((1, 1), np.int64)
            span = (raw.acc.low, raw.acc.high)
            return _arithmetic(arch, one, 0 * one, 0 * one, raw, span, None, filling, "its accumulators")
        case None:
            return None


def _requantise(
    program: Program, arch: Arch, instruction: Requantise, raw: RawSums | None, filling: Filling
) -> ArithmeticUnit:
    offset, shift = program.constants[instruction.offset], program.constants[instruction.shift]
    multiplier = program.constants[instruction.multiplier] if instruction.multiplier else np.ones_like(shift)
    classes = _classes(program, instruction.position_classes)
    where = f"{instruction.output!r} (Requantise)"
    span = (instruction.low, instruction.high)
    return _arithmetic(arch, multiplier, offset, shift, raw, span, classes, filling, where)


def _arithmetic(
    arch: Arch,
    multiplier: Array,
    offset: Array,
    shift: Array,
    raw: RawSums | None,
    span: tuple[int, int],
    classes: Array | None,
    filling: Filling,
    where: str,
) -> ArithmeticUnit:
    """M' = M, B' = (B << h) + M c, S' = S + h, in Python integers, which never wrap."""
    doublings = raw.doublings if raw is not None else 0
    wide = offset.astype(object) * (1 << doublings)
    if raw is not None and (constant := _constant(raw.constant)).any():
        wide = wide + multiplier.astype(object) * constant.astype(object)[None, :]
    shape = np.broadcast_shapes(wide.shape, multiplier.shape)
    factors = np.broadcast_to(multiplier.astype(np.int64), shape)
    places = np.broadcast_to(shift.astype(np.int64) + doublings, shape)
    _check_arithmetic(arch, factors, wide, places, filling.needs, where)
    fits = int(np.abs(wide).max()) < 1 << 63
    blocks = -(-shape[1] // arch.pe)
    base = filling.take(MemoryKind.CONSTANTS, shape[0] * blocks)
    return ArithmeticUnit(
        multiplier=factors,
        offset=wide.astype(np.int64) if fits else np.zeros(shape, np.int64),
        shift=places,
        low=span[0],
        high=span[1],
        base=base,
        class_stride=blocks,
        block_stride=int(shape[1] > 1),
        position_classes=classes,
        classes_base=_take_classes(classes, shape[0], filling, where),
    )


def _constant(constant: Array) -> Array:
    """One number where all channels have the same."""
    return constant[:1] if (constant == constant[0]).all() else constant


def _check_arithmetic(arch: Arch, multiplier: Array, offset: Array, shift: Array, needs: Needs, where: str) -> None:
    digits = int(count_signed_digits(multiplier).max())
    if arch.post is Post.CSD:
        needs.at_least("csd_digits", digits, where)
    elif arch.post is Post.SHIFT and digits > 1:
        needs.refuse(
            "post = 'shift' takes factors M of one signed digit, there are more",
            "compile with --requantise shift, or choose post = 'csd' or 'multiply'",
            where,
        )
    needs.at_least("multiplier_bits", signed_bits(int(multiplier.min()), int(multiplier.max())), where)
    needs.at_least("offset_bits", signed_bits(int(offset.min()), int(offset.max())), where)
    needs.at_least("shift_bits", int(shift.max()).bit_length(), where)


def _threshold(
    program: Program, arch: Arch, instruction: Threshold, raw: RawSums | None, filling: Filling
) -> ThresholdUnit:
    """T' = (T << h) - c, clipped to one beyond the accumulators' range, which is met always or never, too."""
    table = program.constants[instruction.thresholds].astype(np.int64)
    falling = program.constants[instruction.falling] if instruction.falling else np.zeros(1, np.int8)
    where = f"{instruction.output!r} (Threshold)"
    if raw is not None:
        table = (table << raw.doublings) - _constant(raw.constant)[None, :, None]
    end = 1 << (arch.acc_bits - 1)
    table = np.clip(table, -end - 1, end)
    classes = _classes(program, instruction.position_classes)
    filling.needs.at_least("comparators", 1, where)
    per_set = -(-table.shape[2] // max(1, arch.comparators))
    sets = max(table.shape[1], len(falling))
    blocks = -(-sets // arch.pe)
    return ThresholdUnit(
        thresholds=table,
        falling=falling.astype(np.int64),
        low=instruction.low,
        base=filling.take(MemoryKind.THRESHOLDS, table.shape[0] * blocks * per_set),
        class_stride=blocks * per_set,
        block_stride=per_set if sets > 1 else 0,
        position_classes=classes,
        classes_base=_take_classes(classes, len(table), filling, where),
    )


def _look_up(program: Program, instruction: LookUp, filling: Filling) -> LookUpUnit:
    table = program.constants[instruction.table].astype(np.int64)
    where = f"{instruction.output!r} (LookUp)"
    filling.needs.at_least("lookups", 1, where)
    filling.needs.at_least("residual_bits", signed_bits(int(table.min()), int(table.max())), where)
    return LookUpUnit(table=table, base=filling.take(MemoryKind.LOOKUPS, table.size))


def _classes(program: Program, name: str) -> Array | None:
    return program.constants[name].astype(np.int64) if name else None


def _take_classes(classes: Array | None, rows: int, filling: Filling, where: str) -> int:
    if classes is None:
        return 0
    filling.needs.at_least("class_bits", (rows - 1).bit_length(), where)
    return filling.take(MemoryKind.CLASSES, classes.size)


def required_words(filling: Mapping[MemoryKind, int], tensors: Mapping[MemoryKind, int]) -> Mapping[MemoryKind, int]:
    """Words that every memory needs; 0 where nothing is stored in it."""
    kinds = [kind for kind in MemoryKind if kind is not MemoryKind.DRAM]
    return {kind: filling.get(kind, 0) + tensors.get(kind, 0) for kind in kinds}
