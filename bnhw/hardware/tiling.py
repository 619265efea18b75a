"""How a step is cut where its feature maps, weights or partial sums do not fit on chip, and what crosses to DRAM.

Rules: docs/engine.md, section 9. Of all tilings that fit, the one with the least DRAM traffic is taken, then the one
with the fewest tiles; a smaller memory only takes tilings away, so traffic never falls when one shrinks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bnhw.hardware.arch import Arch, Dataflow
from bnhw.hardware.steps import EngineProgram, Place, Step
from bnhw.hardware.timing import Tile, block_bits, passes
from bnhw.hardware.trace import MemoryKind

TILED = (MemoryKind.ACTIVATIONS, MemoryKind.RESIDUALS, MemoryKind.WEIGHTS)
"""Memories that a step may use in parts. The others must hold all of a program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """A step in parts: `rows` output rows and `blocks` output blocks each (the last ones may be smaller).

    rows_outside: row by row tile, all blocks of each; else block tile by block tile, all rows of each.
    """

    rows: int
    blocks: int
    rows_outside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Bits that cross between DRAM and the chip for one tile: loaded by memory, weights among them, and stored."""

    loaded: Mapping[MemoryKind, int]
    stored: Mapping[MemoryKind, int]

    @property
    def bits(self) -> int:
        """All of them."""
        return sum(self.loaded.values()) + sum(self.stored.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledStep:
    """The parts of a step in their order, each with its transfer."""

    tiling: Tiling
    parts: tuple[tuple[Tile, Transfer], ...]


def off_chip(engine: EngineProgram) -> frozenset[MemoryKind]:
    """The memories that do not hold all that a program keeps in them: their content lives in DRAM, in parts on chip."""
    there = engine.arch.memories
    return frozenset(kind for kind in TILED if engine.required_words[kind] > there[kind].words)


def too_small(engine: EngineProgram) -> list[str]:
    """Problems of memories that must hold all of a program, and do not."""
    words = {kind: memory.words for kind, memory in engine.arch.memories.items()}
    return [
        f"memories.{kind.value} has {words.get(kind, 0)} words, {needed} needed; set words = {needed}"
        for kind, needed in engine.required_words.items()
        if kind not in TILED and needed > words.get(kind, 0)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTiler:
    """Looks for the tiling of one step; `outside` are the memories whose content lives in DRAM."""

    arch: Arch
    step: Step
    outside: frozenset[MemoryKind]

    def best(self) -> TiledStep | None:
        """The tiling of least traffic, then fewest tiles; None if none fits."""
        fitting = [tiling for tiling in self.tilings() if self.fits(tiling)]
        if not fitting:
            return None
        chosen = min(fitting, key=lambda t: (self.traffic(t), self._tiles(t), not t.rows_outside))
        return TiledStep(tiling=chosen, parts=tuple(self.parts(chosen)))

    def tilings(self) -> Iterator[Tiling]:
        """Every number of parts that rows and blocks can be cut into, in both orders; whole where no memory limits."""
        limited = bool(self.outside) or self._partial_sums
        for rows in _even_sizes(self.step.rows) if limited else (self.step.rows,):
            for blocks in _even_sizes(self.step.blocks) if self.outside else (self.step.blocks,):
                for rows_outside in (True, False):
                    yield Tiling(rows=rows, blocks=blocks, rows_outside=rows_outside)

    def fits(self, tiling: Tiling) -> bool:
        """Whether the largest tile fits every memory."""
        return all(self.arch.memories[kind].words >= words for kind, words in self.words(tiling).items())

    def words(self, tiling: Tiling) -> Mapping[MemoryKind, int]:
        """Words that a tile takes in memories whose content lives in DRAM; twice where the next is loaded meanwhile.

        Maps of the next step are not; its first weights are.
        """
        step, found = self.step, dict.fromkeys(self.outside, 0)
        pixels = tiling.rows * step.columns
        own = (step.source.place, self._most_rows(tiling) * step.source.place.shape[1], step.convolve is None)
        others = [(step.result, pixels, True)]
        if step.second is not None:
            others.append((step.second.place, 1 if step.second.one_pixel else pixels, True))
        for place, held, cut in (own, *others):
            if place.memory in found:
                found[place.memory] += held * self._pixel_words(place, tiling, cut=cut) * place.planes
        if MemoryKind.WEIGHTS in found and step.convolve is not None:
            starts = range(0, step.blocks, tiling.blocks)
            found[MemoryKind.WEIGHTS] = max(self._weight_words(at, tiling.blocks) for at in starts)
        if self.arch.dram is not None and self.arch.dram.overlap:
            twice = self.outside if self._tiles(tiling) > 1 else {MemoryKind.WEIGHTS}
            found = {kind: words * (2 if kind in twice else 1) for kind, words in found.items()}
        if self._partial_sums:
            found[MemoryKind.PARTIAL_SUMS] = pixels
        return found

    def traffic(self, tiling: Tiling) -> int:
        """Bits that cross to DRAM and back."""
        step, arch = self.step, self.arch
        source, second = step.source.place, step.second
        row_tiles, block_tiles = -(-step.rows // tiling.rows), -(-step.blocks // tiling.blocks)
        bits = 0
        if source.memory in self.outside:
            again = block_tiles if step.convolve is not None and not tiling.rows_outside and row_tiles > 1 else 1
            rows = sum(len(self._input_rows(at, tiling.rows)) for at in range(0, step.rows, tiling.rows))
            blocks = self._source_blocks(0, step.blocks)
            bits += again * rows * source.shape[1] * blocks * source.planes * block_bits(arch, source)
        if second is not None and second.place.memory in self.outside:
            pixels = row_tiles if second.one_pixel else step.pixels
            bits += pixels * step.blocks * second.place.planes * block_bits(arch, second.place)
        if MemoryKind.WEIGHTS in self.outside and step.convolve is not None:
            again = row_tiles if tiling.rows_outside and block_tiles > 1 else 1
            bits += again * self._weight_words(0, step.blocks) * arch.word_bits(MemoryKind.WEIGHTS)
        if step.result.memory in self.outside:
            bits += step.pixels * step.blocks * step.result.planes * block_bits(arch, step.result)
        return bits

    def parts(self, tiling: Tiling) -> Iterator[tuple[Tile, Transfer]]:
        """The tiles in their order; what a tile needs is loaded unless it is what the tile before had."""
        held_input: tuple[int, ...] = ()
        held_blocks = -1
        for tile in self._cut(tiling):
            loaded = dict.fromkeys(self.outside, 0)
            wanted = (tile.first_row, tile.first_block if self.step.convolve is None else 0)
            if wanted != held_input:
                self._load_source(tile, loaded)
            if tile.first_block != held_blocks and self.step.convolve is not None and MemoryKind.WEIGHTS in loaded:
                words = self._weight_words(tile.first_block, tile.blocks)
                loaded[MemoryKind.WEIGHTS] += words * self.arch.word_bits(MemoryKind.WEIGHTS)
            self._load_second(tile, loaded)
            held_input, held_blocks = wanted, tile.first_block
            yield tile, Transfer(loaded=_nonzero(loaded), stored=self._stored(tile))

    # ---- parts of a tile

    def _load_source(self, tile: Tile, loaded: dict[MemoryKind, int]) -> None:
        place = self.step.source.place
        if place.memory in loaded:
            whole = self.step.convolve is not None
            blocks = place.blocks if whole else self._source_blocks(tile.first_block, tile.blocks)
            pixels = len(self._input_rows(tile.first_row, tile.rows)) * place.shape[1]
            loaded[place.memory] += pixels * blocks * place.planes * block_bits(self.arch, place)

    def _load_second(self, tile: Tile, loaded: dict[MemoryKind, int]) -> None:
        second = self.step.second
        if second is not None and second.place.memory in loaded:
            pixels = 1 if second.one_pixel else tile.rows * self.step.columns
            bits = pixels * tile.blocks * second.place.planes * block_bits(self.arch, second.place)
            loaded[second.place.memory] += bits

    def _stored(self, tile: Tile) -> Mapping[MemoryKind, int]:
        place = self.step.result
        if place.memory not in self.outside:
            return {}
        return {place.memory: tile.rows * self.step.columns * tile.blocks * place.planes * block_bits(self.arch, place)}

    @property
    def _partial_sums(self) -> bool:
        return self.step.convolve is not None and self.arch.dataflow is Dataflow.WEIGHT_STATIONARY

    def _tiles(self, tiling: Tiling) -> int:
        return -(-self.step.rows // tiling.rows) * -(-self.step.blocks // tiling.blocks)

    def _cut(self, tiling: Tiling) -> Iterator[Tile]:
        rows = [(at, min(tiling.rows, self.step.rows - at)) for at in range(0, self.step.rows, tiling.rows)]
        blocks = [(at, min(tiling.blocks, self.step.blocks - at)) for at in range(0, self.step.blocks, tiling.blocks)]
        pairs = [(r, b) for r in rows for b in blocks]
        if not tiling.rows_outside:
            pairs = [(r, b) for b in blocks for r in rows]
        for (first_row, row_count), (first_block, block_count) in pairs:
            yield Tile(first_row=first_row, rows=row_count, first_block=first_block, blocks=block_count)

    def _input_rows(self, first: int, count: int) -> range:
        """The rows of the source that so many output rows read, the image's edge cut off."""
        window, height = self.step.window, self.step.source.place.shape[0]
        last = min(first + count, self.step.rows) - 1
        start = max(0, first * window.stride[0] - window.pads[0])
        end = min(height, last * window.stride[0] - window.pads[0] + window.kernel[0])
        return range(start, max(start, end))

    def _most_rows(self, tiling: Tiling) -> int:
        return max(len(self._input_rows(at, tiling.rows)) for at in range(0, self.step.rows, tiling.rows))

    def _source_blocks(self, first: int, count: int) -> int:
        """Blocks of the source among those that lanes read for some output blocks; all of them for a convolution."""
        source = self.step.source
        if self.step.convolve is not None:
            return source.place.blocks
        low = max(0, first - source.first_block)
        return max(0, min(source.place.blocks, first + count - source.first_block) - low)

    def _pixel_words(self, place: Place, tiling: Tiling, *, cut: bool) -> int:
        """Words of a pixel in a tile's buffer; `cut`: only the tile's blocks."""
        if not cut:
            return place.pixel_words
        blocks = min(tiling.blocks, place.blocks)
        return -(-blocks // self.arch.groups) if place.memory is MemoryKind.ACTIVATIONS else blocks

    def _weight_words(self, first: int, count: int) -> int:
        assert self.step.convolve is not None
        return sum(passes(self.step, words) for words in self.step.convolve.blocks[first : first + count])


def _even_sizes(total: int) -> tuple[int, ...]:
    """The sizes of parts when so much is cut into 1, 2, 3, ... parts."""
    return tuple(dict.fromkeys(-(-total // parts) for parts in range(1, total + 1)))


def _nonzero(bits: Mapping[MemoryKind, int]) -> Mapping[MemoryKind, int]:
    return {kind: number for kind, number in bits.items() if number}
