"""What the steps of an engine compute: memories, planes, phases and folded constants, slow and obvious.

It executes every step as docs/engine.md words it, in the order of an interval, all pixels of an image side by side. It
is what the Verilog is compared with; it shares nothing with the machine that executes programs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from bnhw.dtypes import Array
from bnhw.hardware.arch import Arch, Datapath
from bnhw.hardware.steps import (
    ArithmeticUnit,
    ConvolveUnit,
    EngineProgram,
    LookUpUnit,
    MainKind,
    Operand,
    Place,
    Step,
    ThresholdUnit,
)
from bnhw.hardware.trace import MemoryKind
from bnhw.hardware.weight_words import weight_words

NOTHING = -(1 << 62)
"""The largest of no codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedStep:
    """One executed step. tensor: int64 (height, width, channels), read back from memory; saturations: clamped sums."""

    step: Step
    tensor: Array
    saturations: int


@dataclass(kw_only=True)
class Emulator:
    """An engine with a program in it. Memories: int64 (words, lanes), full of random bits at first.

    words: of the weight memory, by convolution, made when it first runs.
    """

    engine: EngineProgram
    seed: int = 0
    memories: dict[MemoryKind, Array] = field(default_factory=dict)
    words: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random, arch = np.random.default_rng(self.seed), self.arch
        lanes = {
            MemoryKind.ACTIVATIONS: (arch.simd, arch.act_bits),
            MemoryKind.RESIDUALS: (arch.pe, arch.residual_bits),
        }
        for kind, (width, bits) in lanes.items():
            words = self.engine.required_words[kind]
            self.memories[kind] = random.integers(0, 1 << bits, (words, width))

    @property
    def arch(self) -> Arch:
        """The engine."""
        return self.engine.arch

    def run(self, image: Array) -> Iterator[EmulatedStep]:
        """Execute one image, uint8 (height, width, channels), and yield every step's result as it lies in memory."""
        place = self.engine.places[self.engine.program.input]
        rows, columns, channels = place.shape
        pixels = image.reshape(rows * columns, channels).astype(np.int64)
        for block in range(place.blocks):
            part = pixels[:, block * self.arch.pe : (block + 1) * self.arch.pe]
            self._write(place, block, np.pad(part, ((0, 0), (0, self.arch.pe - part.shape[1]))))
        for step in self.engine.steps:
            saturations = self._execute(step)
            yield EmulatedStep(step=step, tensor=self.tensor(step.result), saturations=saturations)

    def tensor(self, place: Place) -> Array:
        """The codes of a tensor as they lie in memory."""
        pixels = np.arange(place.shape[0] * place.shape[1])
        blocks = [self._stored(place, block, pixels) for block in range(place.blocks)]
        return (np.concatenate(blocks, axis=1)[:, : place.shape[2]] + place.low).reshape(place.shape)

    def _execute(self, step: Step) -> int:
        """All pixels, block by block; returns the number of clamped sums."""
        results, saturations = [], 0
        for block in range(step.blocks):
            raw = self._convolve(step, step.convolve, block) if step.convolve else self._lanes(step, block)
            result = self._post(step, block, self._wrap(raw))
            if step.add:
                assert step.second
                total = result + self._values(step.second, block, np.arange(step.pixels))
                result = np.clip(total, step.add.low, step.add.high)
                saturations += int(np.count_nonzero((result != total)[:, : step.lanes(block, self.arch.pe)]))
            results.append(result)
        for block, result in enumerate(results):
            self._write(step.result, step.first_block + block, result - step.write_offset)
        return saturations

    def _wrap(self, sums: Array) -> Array:
        """Accumulators are two's complement numbers of acc_bits."""
        half = 1 << (self.arch.acc_bits - 1)
        return np.asarray((sums + half) % (2 * half) - half)

    def _address(self, place: Place, block: int, plane: int, pixels: Array) -> tuple[Array, slice]:
        """Word of each pixel and the lanes of one block in it."""
        pe, groups = self.arch.pe, self.arch.groups
        if place.memory is MemoryKind.RESIDUALS:
            return place.base + (pixels * place.blocks + block) * place.planes + plane, slice(0, pe)
        bank = block % groups
        address = place.base + (pixels * place.pixel_words + block // groups) * place.planes + plane
        return address, slice(bank * pe, (bank + 1) * pe)

    def _stored(self, place: Place, block: int, pixels: Array) -> Array:
        """The stored numbers of one block of pe channels, from all its planes."""
        total = np.zeros((len(pixels), self.arch.pe), np.int64)
        for plane in range(place.planes):
            address, lanes = self._address(place, block, plane, pixels)
            total += self.memories[place.memory][address][:, lanes] << (plane * place.lane_bits)
        return total & ((1 << place.bits) - 1)

    def _write(self, place: Place, block: int, stored: Array) -> None:
        """Every pixel's word of one block; lanes behind the last channel get what comes."""
        pixels = np.arange(len(stored))
        for plane in range(place.planes):
            address, lanes = self._address(place, block, plane, pixels)
            part = (stored >> (plane * place.lane_bits)) & ((1 << place.lane_bits) - 1)
            self.memories[place.memory][address, lanes] = part

    def _values(self, operand: Operand, block: int, pixels: Array) -> Array:
        """What lanes read: u - offset, 0 outside the tensor's channels and blocks."""
        place, own = operand.place, block - operand.first_block
        if not 0 <= own < place.blocks:
            return np.zeros((len(pixels), self.arch.pe), np.int64)
        stored = self._stored(place, own, 0 * pixels if operand.one_pixel else pixels)
        channel = own * self.arch.pe + np.arange(self.arch.pe)
        return np.where(channel < place.shape[2], stored - operand.offset, 0)

    def _taps(self, step: Step) -> Iterator[tuple[int, int, Array, Array]]:
        """(kernel row, kernel column, pixel numbers of the source, whether they lie inside) for all output pixels."""
        height, width, _ = step.source.place.shape
        rows = np.arange(step.rows)[:, None] * step.window.stride[0] - step.window.pads[0]
        columns = np.arange(step.columns)[None, :] * step.window.stride[1] - step.window.pads[1]
        for row in range(step.window.kernel[0]):
            for column in range(step.window.kernel[1]):
                y, x = rows + row + 0 * columns, columns + column + 0 * rows
                inside = ((y >= 0) & (y < height) & (x >= 0) & (x < width)).reshape(-1)
                yield row, column, np.where(inside, (y * width + x).reshape(-1), 0), inside

    def _lanes(self, step: Step, block: int) -> Array:
        """SUM, MAXIMUM and MULTIPLY: pe lanes beside the array, one operand each."""
        first = NOTHING if step.main is MainKind.MAXIMUM else 0
        total = np.full((step.pixels, self.arch.pe), first, np.int64)
        for _, _, pixels, inside in self._taps(step):
            value = self._values(step.source, block, pixels)
            if step.main is MainKind.MAXIMUM:
                total = np.where(inside[:, None], np.maximum(total, value), total)
            elif step.main is MainKind.MULTIPLY:
                assert step.second
                total = value * self._values(step.second, block, pixels)
            else:
                total = self._wrap(total + np.where(inside[:, None], value, 0))
        return total

    def _convolve(self, step: Step, unit: ConvolveUnit, block: int) -> Array:
        """The array's raw sums of one block, (pixels, pe)."""
        span, place, simd = unit.blocks[block], step.source.place, self.arch.simd
        if unit.instruction not in self.words:
            self.words[unit.instruction] = weight_words(self.engine.program, self.arch, unit)
        words = self.words[unit.instruction]
        per_phase = [step.taps * unit.phases * one.words for one in unit.blocks]
        address = sum(per_phase[:block])
        total = np.zeros((step.pixels, self.arch.pe), np.int64)
        for _ in range(unit.phases):
            for _, _, pixels, inside in self._taps(step):
                for word in range(span.words):
                    used = (span.first + word) * simd + np.arange(simd) < place.shape[2]
                    for plane in range(place.planes):
                        at = place.base + (pixels * place.pixel_words + span.first + word) * place.planes + plane
                        lanes = self.memories[place.memory][at]
                        padding = unit.padding >> (plane * place.lane_bits) & ((1 << place.lane_bits) - 1)
                        if unit.doubled:
                            lanes, padding = 2 * lanes, 1
                        x = np.where(inside[:, None], lanes, padding)
                        cycle = self._cycle(x, words[address].astype(np.int64), used)
                        cycle = np.where(inside[:, None] | (not unit.zero_padding), cycle, 0)
                        total = self._wrap(total + (cycle << (plane * place.lane_bits)))
                    address += 1
        return total

    def _cycle(self, x: Array, weights: Array, used: Array) -> Array:
        """What one cycle of the array adds: x (pixels, simd), weights (pe, simd), used (simd,)."""
        match self.arch.datapath:
            case Datapath.MUX | Datapath.MUL:
                return np.asarray(np.where(used, x, 0) @ weights.T)
            case Datapath.AND:
                masked = np.where(used, x, 0)
                return np.asarray(2 * (masked @ (weights > 0).T) - masked.sum(axis=1, keepdims=True))
            case Datapath.XNOR:
                agree = ((x[:, None, :] == (weights > 0)[None, :, :]) & used).sum(axis=2)
                return np.asarray(2 * agree - used.sum())

    def _post(self, step: Step, block: int, raw: Array) -> Array:
        pe = self.arch.pe
        channel = np.minimum(block * pe + np.arange(pe), step.channels - 1)
        match step.post:
            case ArithmeticUnit(multiplier=multiplier, offset=offset, shift=shift, low=low, high=high) as unit:
                at = _classes(step, unit.position_classes), channel if multiplier.shape[1] > 1 else 0 * channel
                factor, addend, places = (table[at].astype(object) for table in (multiplier, offset, shift))
                return np.asarray(np.clip((raw.astype(object) * factor + addend) >> places, low, high), np.int64)
            case ThresholdUnit(thresholds=thresholds, falling=falling) as unit:
                at = _classes(step, unit.position_classes), channel if thresholds.shape[1] > 1 else 0 * channel
                falls = falling[channel if len(falling) > 1 else 0 * channel][:, None]
                agree = np.where(falls, raw[:, :, None] <= thresholds[at], raw[:, :, None] >= thresholds[at])
                return np.asarray(unit.low + agree.sum(axis=2))
            case LookUpUnit(table=table):
                return np.asarray(table[channel if len(table) > 1 else 0 * channel, raw.clip(0, table.shape[1] - 1)])
            case None:
                return raw


def _classes(step: Step, position_classes: Array | None) -> Array:
    """The row of constants of each output pixel, (pixels, 1)."""
    if position_classes is None:
        return np.zeros((step.pixels, 1), np.int64)
    return position_classes.reshape(-1, 1)


def emulated_tensors(engine: EngineProgram, image: Array) -> Mapping[str, Array]:
    """Every tensor that is stored, by name, after all steps that write it."""
    return {done.step.name: done.tensor for done in Emulator(engine=engine).run(image)}
