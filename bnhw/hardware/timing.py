"""Cycles and memory traffic of one step, or of a tile of it, in closed form. Definitions: docs/engine.md, section 4."""

from collections.abc import Mapping
from dataclasses import dataclass

from bnhw.hardware.arch import DRAIN, FETCH, PARTIAL_SUM_LATENCY, WEIGHT_LOAD, Arch, Dataflow
from bnhw.hardware.steps import BlockWords, LookUpUnit, MainKind, Place, Step, ThresholdUnit
from bnhw.hardware.trace import Cycles, MemoryKind, add_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A part of a step: some rows of output pixels, some output blocks (0 is the step's first)."""

    first_row: int
    rows: int
    first_block: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What happens in a tile: cycles by cause, bits through each memory's ports, cycles in which the array works."""

    cycles: Cycles
    reads_bits: Mapping[MemoryKind, int]
    writes_bits: Mapping[MemoryKind, int]
    array_cycles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How many cycles each port and unit works for one block of one output pixel.

    main: reads of the array or of the lanes; second: reads of operand b; one_port: both from one port.
    """

    main: int
    second: int
    one_port: bool
    post: int
    writes: int

    @property
    def reads(self) -> int:
        """Cycles until all reads are issued."""
        return self.main + self.second if self.one_port else max(self.main, self.second)

    @property
    def cycles(self) -> int:
        """Its length."""
        return max(self.reads, self.post, self.writes)

    def causes(self, *, array: bool) -> Cycles:
        """Its cycles by cause; `array`: main is the array."""
        busy = max(self.reads, self.writes)
        return Cycles(
            compute=self.main if array else 0,
            activation_load=self.reads - (self.main if array else 0),
            writeback=busy - self.reads,
            stall=self.cycles - busy,
        )


def whole_step(step: Step) -> Tile:
    """All of a step as one tile."""
    return Tile(first_row=0, rows=step.rows, first_block=0, blocks=step.blocks)


def post_cycles(arch: Arch, step: Step) -> int:
    """Cycles of the post unit for one block; a lookup step takes those of its fullest block everywhere."""
    match step.post:
        case ThresholdUnit(thresholds=thresholds):
            return -(-int(thresholds.shape[2]) // arch.comparators)
        case LookUpUnit():
            return -(-min(arch.pe, step.channels) // arch.lookups)
        case _:
            return 1


def interval(arch: Arch, step: Step, main: int) -> Interval:
    """An interval with so many cycles of `main`."""
    memory = step.source.place.memory
    second = step.second.place if step.second is not None else None
    two_ports = memory is MemoryKind.RESIDUALS and arch.memories[memory].read_ports == 2
    return Interval(
        main=main,
        second=second.planes if second is not None else 0,
        one_port=second is not None and second.memory is memory and not two_ports,
        post=post_cycles(arch, step),
        writes=step.result.planes,
    )


def passes(step: Step, words: BlockWords) -> int:
    """Words of weights of one block of a convolution."""
    assert step.convolve is not None
    return step.convolve.phases * step.taps * words.words


def tile_activity(arch: Arch, step: Step, tile: Tile) -> Activity:
    """Everything that one tile takes while all that it reads is on chip."""
    pixels = tile.rows * step.columns
    if step.convolve is None:
        cycles = _lane_cycles(arch, step, tile)
    elif arch.dataflow is Dataflow.OUTPUT_STATIONARY:
        cycles = _output_stationary_cycles(arch, step, tile)
    else:
        cycles = _weight_stationary_cycles(arch, step, tile)
    drain = FETCH + DRAIN + post_cycles(arch, step) - 1 + step.result.planes - 1
    reads = add_counts((_main_reads(arch, step, tile), _second_reads(arch, step, pixels * tile.blocks)))
    reads = add_counts((reads, _constant_reads(arch, step, tile)))
    writes = {step.result.memory: pixels * tile.blocks * step.result.planes * block_bits(arch, step.result)}
    if step.convolve is not None and arch.dataflow is Dataflow.WEIGHT_STATIONARY:
        moved = pixels * sum(passes(step, words) - 1 for words in _block_words(step, tile))
        if moved:
            reads[MemoryKind.PARTIAL_SUMS] = writes[MemoryKind.PARTIAL_SUMS] = moved * arch.pe * arch.acc_bits
    return Activity(
        cycles=cycles + Cycles(drain=drain),
        reads_bits=reads,
        writes_bits=writes,
        array_cycles=cycles.compute,
    )


def block_bits(arch: Arch, place: Place) -> int:
    """Bits of one plane of one block."""
    return arch.pe * place.lane_bits


def inside(size: int, out_size: int, kernel: int, stride: int, pad: int, first: int = 0) -> int:
    """Taps that lie inside an axis of `size` pixels, summed over `out_size` output pixels from `first` on."""
    starts = (at * stride - pad for at in range(first, first + out_size))
    return sum(max(0, min(start + kernel, size) - max(start, 0)) for start in starts)


def taps_inside(step: Step, tile: Tile) -> int:
    """Taps inside the image, over all output pixels of a tile."""
    height, width, _ = step.source.place.shape
    kernel, stride, pads = step.window.kernel, step.window.stride, step.window.pads
    rows = inside(height, tile.rows, kernel[0], stride[0], pads[0], tile.first_row)
    return rows * inside(width, step.columns, kernel[1], stride[1], pads[1])


def _block_words(step: Step, tile: Tile) -> tuple[BlockWords, ...]:
    assert step.convolve is not None
    return step.convolve.blocks[tile.first_block : tile.first_block + tile.blocks]


def _repeated(cycles: Cycles, times: int) -> Cycles:
    return Cycles(**{name: times * getattr(cycles, name) for name in Cycles.__dataclass_fields__})


def _lane_cycles(arch: Arch, step: Step, tile: Tile) -> Cycles:
    taps = 1 if step.main is MainKind.MULTIPLY else step.taps
    one = interval(arch, step, taps * step.source.place.planes)
    return _repeated(one.causes(array=False), tile.rows * step.columns * tile.blocks)


def _output_stationary_cycles(arch: Arch, step: Step, tile: Tile) -> Cycles:
    total, planes = Cycles(), step.source.place.planes
    for words in _block_words(step, tile):
        one = interval(arch, step, passes(step, words) * planes)
        total += _repeated(one.causes(array=True), tile.rows * step.columns)
    return total


def _weight_stationary_cycles(arch: Arch, step: Step, tile: Tile) -> Cycles:
    """Every word of weights passes over all pixels; the last one of a block also feeds the post unit."""
    total, planes, pixels = Cycles(), step.source.place.planes, tile.rows * step.columns
    last = _repeated(interval(arch, step, planes).causes(array=True), pixels)
    wait = max(0, PARTIAL_SUM_LATENCY - (pixels - 1) * planes - WEIGHT_LOAD - 1)
    for words in _block_words(step, tile):
        number = passes(step, words)
        earlier = Cycles(compute=pixels * planes, stall=wait)
        total += _repeated(earlier, number - 1) + last + Cycles(weight_load=number * WEIGHT_LOAD)
    return total


def _main_reads(arch: Arch, step: Step, tile: Tile) -> dict[MemoryKind, int]:
    """Padded taps and blocks outside the tensor are not read."""
    place, pixels = step.source.place, tile.rows * step.columns
    if step.convolve is None:
        there = range(step.source.first_block, step.source.first_block + place.blocks)
        blocks = sum(block in there for block in range(tile.first_block, tile.first_block + tile.blocks))
        taps = pixels if step.main is MainKind.MULTIPLY else taps_inside(step, tile)
        return {place.memory: taps * blocks * place.planes * block_bits(arch, place)} if taps * blocks else {}
    words = sum(block.words for block in _block_words(step, tile)) * step.convolve.phases
    weights = words * step.taps * (pixels if arch.dataflow is Dataflow.OUTPUT_STATIONARY else 1)
    found = {MemoryKind.WEIGHTS: weights * arch.word_bits(MemoryKind.WEIGHTS)}
    if taps := taps_inside(step, tile):
        found[place.memory] = taps * words * place.planes * arch.simd * arch.act_bits
    return found


def _second_reads(arch: Arch, step: Step, intervals: int) -> dict[MemoryKind, int]:
    if step.second is None:
        return {}
    place = step.second.place
    return {place.memory: intervals * place.planes * block_bits(arch, place)}


def _constant_reads(arch: Arch, step: Step, tile: Tile) -> dict[MemoryKind, int]:
    """Descriptor, block table, constants of the post unit, position classes."""
    pixels = tile.rows * step.columns
    intervals = pixels * tile.blocks
    entries = intervals if arch.dataflow is Dataflow.OUTPUT_STATIONARY else tile.blocks
    found = {MemoryKind.DESCRIPTORS: 1 + (entries if step.block_table else 0)}
    match step.post:
        case ThresholdUnit():
            found[MemoryKind.THRESHOLDS] = intervals * post_cycles(arch, step)
        case LookUpUnit():
            lanes = sum(step.lanes(tile.first_block + block, arch.pe) for block in range(tile.blocks))
            found[MemoryKind.LOOKUPS] = pixels * lanes
        case None:
            pass
        case _:
            found[MemoryKind.CONSTANTS] = intervals
    if step.position_classes is not None:
        found[MemoryKind.CLASSES] = pixels
    return {kind: words * arch.word_bits(kind) for kind, words in found.items()}
