"""The engine cycle by cycle: a sequencer, ports and pipeline registers, counted as they work. Slow and obvious.

Nothing here multiplies a number of cycles: every cycle is one turn of `SteppedTile.turn`. The closed forms of
`bnhw.hardware.timing` must give the same numbers; no code is shared with them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from bnhw.hardware.arch import FETCH, Arch, Dataflow
from bnhw.hardware.steps import ArithmeticUnit, LookUpUnit, MainKind, Step, ThresholdUnit
from bnhw.hardware.trace import MemoryKind


@dataclass(kw_only=True)
class Token:
    """What goes down the pipeline behind the last cycle of an interval: the sums of one block of one pixel.

    partial: they go to the partial-sum memory, not to the post unit.
    """

    pixel: int
    block: int
    partial: bool


@dataclass(kw_only=True)
class SteppedTile:
    """A part of a step under way: rows of output pixels, output blocks; what was counted so far.

    causes: cycles by cause. reads, writes: bits by memory. busy: the last cycle in which a port was used, by its name.
    """

    arch: Arch
    step: Step
    rows: range
    blocks: range
    cycle: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    reads: Counter[MemoryKind] = field(default_factory=Counter)
    writes: Counter[MemoryKind] = field(default_factory=Counter)
    busy: dict[str, int] = field(default_factory=dict)
    registers: list[Token | None] = field(default_factory=lambda: [None, None, None])
    summed: Token | None = None
    posted: Token | None = None
    post_left: int = 0
    added: Token | None = None
    written: Token | None = None
    planes_left: int = 0
    finished: int = 0
    partial_written: dict[int, int] = field(default_factory=dict)

    def run(self) -> None:
        """From the fetch of the descriptor to the last write."""
        for turn in range(FETCH):
            if turn == 0:
                self._read(MemoryKind.DESCRIPTORS, "descriptors", self.arch.word_bits(MemoryKind.DESCRIPTORS))
            self._turn("drain", None)
        for cause, token in self._sequence():
            self._turn(cause, token)
        results = len(self.rows) * self.step.columns * len(self.blocks)
        while self.finished < results:
            self._turn("drain", None)

    # ---- ports

    def _port(self, name: str) -> None:
        """A port serves one access a cycle."""
        assert self.busy.get(name) != self.cycle, f"two accesses in one cycle at {name}"
        self.busy[name] = self.cycle

    def _read(self, kind: MemoryKind, port: str, bits: int) -> None:
        self._port(f"read {port}")
        self.reads[kind] += bits

    def _write(self, kind: MemoryKind, bits: int) -> None:
        self._port(f"write {kind.value}")
        self.writes[kind] += bits

    # ---- one cycle

    def _turn(self, cause: str, token: Token | None) -> None:
        """The pipeline from its end to its beginning; `token` is issued in this cycle."""
        self._writer()
        self._adder()
        self._post_unit()
        if self.summed is not None:
            self._store_partial(self.summed)
            self.summed = None
        accumulated = self.registers.pop()
        if accumulated is not None:
            if accumulated.partial:
                self.summed = accumulated
            else:
                assert self.posted is None, "the post unit is still at work"
                self.posted, self.post_left = accumulated, self._post_cycles()
        self.registers.insert(0, token)
        self.causes[cause] += 1
        self.cycle += 1

    def _writer(self) -> None:
        if self.written is not None:
            place = self.step.result
            self._write(place.memory, self.arch.pe * place.lane_bits)
            self.planes_left -= 1
            if self.planes_left == 0:
                self.written = None
                self.finished += 1

    def _adder(self) -> None:
        if self.added is not None:
            assert self.written is None, "the write port is still at work"
            self.written, self.planes_left, self.added = self.added, self.step.result.planes, None

    def _post_unit(self) -> None:
        token, arch = self.posted, self.arch
        if token is None:
            return
        first = self.post_left == self._post_cycles()
        if first and token.block == self.blocks[0] and self.step.position_classes is not None:
            self._read(MemoryKind.CLASSES, "classes", arch.class_bits)
        match self.step.post:
            case ThresholdUnit():
                self._read(MemoryKind.THRESHOLDS, "thresholds", arch.word_bits(MemoryKind.THRESHOLDS))
            case LookUpUnit():
                done = (self._post_cycles() - self.post_left) * arch.lookups
                for copy in range(min(arch.lookups, max(0, self.step.lanes(token.block, arch.pe) - done))):
                    self._read(MemoryKind.LOOKUPS, f"lookups {copy}", arch.residual_bits)
            case ArithmeticUnit() if first:
                self._read(MemoryKind.CONSTANTS, "constants", arch.word_bits(MemoryKind.CONSTANTS))
        self.post_left -= 1
        if self.post_left == 0:
            assert self.added is None
            self.added, self.posted = token, None

    def _post_cycles(self) -> int:
        cycles, left = 0, 1
        match self.step.post:
            case ThresholdUnit(thresholds=thresholds):
                left, served = int(thresholds.shape[2]), self.arch.comparators
            case LookUpUnit():
                left = max(self.step.lanes(block, self.arch.pe) for block in range(self.step.blocks))
                served = self.arch.lookups
            case _:
                served = 1
        while left > 0:
            cycles, left = cycles + 1, left - served
        return cycles

    def _store_partial(self, token: Token) -> None:
        self._write(MemoryKind.PARTIAL_SUMS, self.arch.pe * self.arch.acc_bits)
        self.partial_written[token.pixel] = self.cycle

    # ---- the loop nest: (cause, token) of every cycle

    def _sequence(self) -> Iterator[tuple[str, Token | None]]:
        if self.step.convolve is not None and self.arch.dataflow is Dataflow.WEIGHT_STATIONARY:
            yield from self._weights_outside()
            return
        for row in self.rows:
            for column in range(self.step.columns):
                for block in self.blocks:
                    self._block_table()
                    yield from self._interval(row, column, block, self._main(row, column, block))

    def _block_table(self) -> None:
        """Where blocks read different words, a descriptor word says which."""
        if self.step.block_table:
            self._read(MemoryKind.DESCRIPTORS, "descriptors", self.arch.word_bits(MemoryKind.DESCRIPTORS))

    def _interval(self, row: int, column: int, block: int, main: Iterator[str]) -> Iterator[tuple[str, Token | None]]:
        """Until main and operand b are read, and as long as the post unit and the write port work."""
        step, second = self.step, self.step.second
        waiting, elapsed = list(main), 0
        planes = list(range(second.place.planes)) if second is not None else []
        while True:
            cause = "writeback" if elapsed < step.result.planes else "stall"
            if second is not None and planes and (self._own_port or not waiting):
                port = second.place.memory.value + (" b" if self._own_port else "")
                self._read(second.place.memory, port, self._bits(second.place.lane_bits))
                planes.pop()
                cause = "activation_load"
            if waiting:
                self._issue_main(waiting.pop(0), row, column, block)
                cause = "compute" if step.convolve is not None else "activation_load"
            elapsed += 1
            if waiting or planes or elapsed < self._post_cycles() or elapsed < step.result.planes:
                yield cause, None
            else:
                yield cause, Token(pixel=row * step.columns + column, block=block, partial=False)
                return

    @property
    def _own_port(self) -> bool:
        """Whether operand b has a read port of its own: another memory, or a second port."""
        source = self.step.source.place.memory
        if self.step.second is None or self.step.second.place.memory is not source:
            return True
        return source is MemoryKind.RESIDUALS and self.arch.memories[source].read_ports == 2

    def _bits(self, lane_bits: int) -> int:
        return self.arch.pe * lane_bits

    def _main(self, row: int, column: int, block: int) -> Iterator[str]:
        """What main does in each of its cycles: names of the ports that it uses."""
        step, planes = self.step, range(self.step.source.place.planes)
        if step.convolve is not None:
            for _ in range(step.convolve.phases):
                for at_row, at_column in self._taps():
                    for _ in range(step.convolve.blocks[block].words):
                        for plane in planes:
                            yield self._array_ports(row, column, at_row, at_column, plane == 0)
        elif step.main is MainKind.MULTIPLY:
            for _ in planes:
                yield "lanes"
        else:
            for at_row, at_column in self._taps():
                for _ in planes:
                    yield "lanes" if self._is_inside(row, column, at_row, at_column) else ""

    def _taps(self) -> Iterator[tuple[int, int]]:
        for at_row in range(self.step.window.kernel[0]):
            for at_column in range(self.step.window.kernel[1]):
                yield at_row, at_column

    def _is_inside(self, row: int, column: int, at_row: int, at_column: int) -> bool:
        height, width, _ = self.step.source.place.shape
        y = row * self.step.window.stride[0] - self.step.window.pads[0] + at_row
        x = column * self.step.window.stride[1] - self.step.window.pads[1] + at_column
        return 0 <= y < height and 0 <= x < width

    def _array_ports(self, row: int, column: int, at_row: int, at_column: int, first_plane: bool) -> str:
        read = "input " if self._is_inside(row, column, at_row, at_column) else ""
        return read + ("weights" if first_plane else "")

    def _issue_main(self, ports: str, row: int, column: int, block: int) -> None:
        """One cycle's reads of the array or of the lanes."""
        place, arch = self.step.source.place, self.arch
        if "weights" in ports:
            self._read(MemoryKind.WEIGHTS, "weights", arch.word_bits(MemoryKind.WEIGHTS))
        if "input" in ports:
            self._read(place.memory, place.memory.value, arch.simd * arch.act_bits)
        own = block - self.step.source.first_block
        if "lanes" in ports and 0 <= own < place.blocks:
            self._read(place.memory, place.memory.value, self._bits(place.lane_bits))

    # ---- weights held while pixels pass

    def _weights_outside(self) -> Iterator[tuple[str, Token | None]]:
        unit = self.step.convolve
        assert unit is not None
        for block in self.blocks:
            self.partial_written = {}
            self._block_table()
            held = [
                (at_row, at_column)
                for _ in range(unit.phases)
                for at_row, at_column in self._taps()
                for _ in range(unit.blocks[block].words)
            ]
            for number, (at_row, at_column) in enumerate(held):
                self._read(MemoryKind.WEIGHTS, "weights", self.arch.word_bits(MemoryKind.WEIGHTS))
                yield "weight_load", None
                for row in self.rows:
                    for column in range(self.step.columns):
                        last = number == len(held) - 1
                        yield from self._pass_pixel(row, column, block, (at_row, at_column), number > 0, last)

    def _pass_pixel(
        self, row: int, column: int, block: int, tap: tuple[int, int], resumed: bool, last: bool
    ) -> Iterator[tuple[str, Token | None]]:
        """One pixel under the weights held: its partial sum comes back from memory, unless this is the first word."""
        pixel, planes = row * self.step.columns + column, self.step.source.place.planes
        if resumed:
            while not self.partial_written.get(pixel, self.cycle) < self.cycle:
                yield "stall", None
            del self.partial_written[pixel]
            self._read(MemoryKind.PARTIAL_SUMS, "partial sums", self.arch.pe * self.arch.acc_bits)
        ports = "input " if self._is_inside(row, column, *tap) else ""
        if last:
            yield from self._interval(row, column, block, iter([ports] * planes))
            return
        for plane in range(planes):
            self._issue_main(ports, row, column, block)
            token = Token(pixel=pixel, block=block, partial=True)
            yield "compute", token if plane == planes - 1 else None


def step_through(arch: Arch, step: Step, rows: range | None = None, blocks: range | None = None) -> SteppedTile:
    """Run a step, or some output rows and blocks of it, to its end."""
    tile = SteppedTile(
        arch=arch,
        step=step,
        rows=range(step.rows) if rows is None else rows,
        blocks=range(step.blocks) if blocks is None else blocks,
    )
    tile.run()
    return tile
