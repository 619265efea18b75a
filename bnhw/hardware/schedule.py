"""A program on an engine, for one image: cycles by cause, operations, bits moved. Closed forms, no simulation.

The cycles are those that `bnhw.hardware.stepping` counts one by one. Definitions: docs/engine.md, sections 4 and 9.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from bnhw.count import Action, Counts, count_program
from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import Arch, Dram
from bnhw.hardware.mapping import map_program
from bnhw.hardware.steps import EngineProgram, Step
from bnhw.hardware.tiling import StepTiler, TiledStep, Transfer, off_chip, too_small
from bnhw.hardware.timing import Activity, tile_activity
from bnhw.hardware.trace import Cycles, MemoryKind, StepTrace, Trace, add_counts
from bnhw.program import Convolve, Program


def schedule(program: Program, arch: Arch) -> Trace:
    """What happens on an engine while one image runs.

    Raises ArchMismatch with everything that the engine cannot do (see `map_program`), or the memories too small.
    """
    return schedule_engine(map_program(program, arch))


def schedule_engine(engine: EngineProgram) -> Trace:
    """The same for a program already mapped."""
    program, arch = engine.program, engine.arch
    counts = {layer.instruction.output: layer.counts for layer in count_program(program)}
    convolutions = {i.output for i in program.instructions if isinstance(i, Convolve)}
    steps, slack = [], 0
    for step, tiled in zip(engine.steps, tile_steps(engine), strict=True):
        activities = [tile_activity(arch, step, tile) for tile, _ in tiled.parts]
        transfers = [transfer for _, transfer in tiled.parts]
        waiting, slack = transfer_cycles(arch, transfers, activities, slack)
        own = {name: counts[name] for name in step.instructions}
        trace = _trace(arch, step, tiled, activities, own, convolutions)
        steps.append(replace(trace, cycles=trace.cycles + waiting))
    return Trace(
        model=program.name,
        arch=arch.name,
        steps=tuple(steps),
        memories=arch.memory_shapes,
        datapath=arch.datapath.value,
        act_bits=arch.act_bits,
        weight_bits=arch.weight_bits,
        acc_bits=arch.acc_bits,
        pe=arch.pe,
        simd=arch.simd,
        clock_mhz=arch.clock_mhz,
    )


def tile_steps(engine: EngineProgram) -> tuple[TiledStep, ...]:
    """Every step in its tiles. Raises ArchMismatch where a memory is too small for any."""
    arch, outside = engine.arch, off_chip(engine)
    problems = too_small(engine)
    if arch.dram is None:
        for kind in sorted(outside, key=lambda kind: kind.value):
            there, needed = arch.memories[kind].words, engine.required_words[kind]
            problems.append(
                f"memories.{kind.value} has {there} words, {needed} needed, and there is no dram; "
                f"set words = {needed}, or add [dram] with bits_per_cycle and overlap"
            )
        outside = frozenset()
    tiled = []
    for step in engine.steps:
        tiler = StepTiler(arch=arch, step=step, outside=outside)
        best = tiler.best()
        if best is None:
            problems += _smallest_problems(tiler)
        else:
            tiled.append(best)
    if problems:
        raise ArchMismatch(problems, model=engine.program.name, arch=arch.name)
    return tuple(tiled)


def _smallest_problems(tiler: StepTiler) -> list[str]:
    """What the tiling that asks for the least of each memory asks for, where even that is too much."""
    found = []
    tilings = tuple(tiler.tilings())
    for kind in tiler.words(tilings[0]):
        least, there = min(tiler.words(tiling)[kind] for tiling in tilings), tiler.arch.memories[kind].words
        if least > there:
            found.append(
                f"memories.{kind.value} has {there} words, {least} needed for the smallest tile of "
                f"{tiler.step.name!r}; set words = {least}"
            )
    return found or [f"no tile of {tiler.step.name!r} fits all memories at once; set more words of {_names(tiler)}"]


def _names(tiler: StepTiler) -> str:
    return ", ".join(sorted(kind.value for kind in tiler.words(next(tiler.tilings()))))


def _trace(
    arch: Arch,
    step: Step,
    tiled: TiledStep,
    activities: Sequence[Activity],
    counts: Mapping[str, Counts],
    convolutions: set[str],
) -> StepTrace:
    """A step without the cycles in which it waits for transfers."""
    transfers = [transfer for _, transfer in tiled.parts]
    cycles = sum((activity.cycles for activity in activities), Cycles())
    executed = sum(activity.array_cycles for activity in activities) * arch.pe * arch.simd
    full = sum(count.macs_full for count in counts.values())
    passed_over = step.convolve.phases * step.source.place.planes if step.convolve is not None else 0
    loaded, stored = (add_counts(getattr(t, name) for t in transfers) for name in ("loaded", "stored"))
    return StepTrace(
        name=step.name,
        kind=" + ".join(_kinds(step)),
        instructions=step.instructions,
        cycles=cycles,
        actions=_actions(counts.values()),
        post_actions=_actions(count for name, count in counts.items() if name not in convolutions),
        macs_full=full,
        macs_trimmed=sum(count.macs_trimmed for count in counts.values()),
        macs_executed=executed,
        macs_idle=executed - full * passed_over,
        tiles=len(tiled.parts),
        reads_bits=_ports([a.reads_bits for a in activities], stored, sum(loaded.values())),
        writes_bits=_ports([a.writes_bits for a in activities], loaded, sum(stored.values())),
    )


def _kinds(step: Step) -> tuple[str, ...]:
    """Main, post and add of a step, as far as they are there."""
    post = () if step.post is None else (step.post_kind.value,)
    return (step.main.value, *post, *(("add",) if step.add is not None else ()))


def _actions(counts: Iterable[Counts]) -> dict[Action, int]:
    return add_counts(count.actions for count in counts)


def _ports(
    activities: Sequence[Mapping[MemoryKind, int]], moved: Mapping[MemoryKind, int], dram: int
) -> dict[MemoryKind, int]:
    """Bits through every memory's ports: of the tiles, of transfers on their way through it, and of DRAM itself."""
    return add_counts((*activities, moved, {MemoryKind.DRAM: dram} if dram else {}))


def transfer_cycles(
    arch: Arch, transfers: Sequence[Transfer], activities: Sequence[Activity], slack: int
) -> tuple[Cycles, int]:
    """The cycles of a step's transfers that no work hides, and the slack that it leaves for the next step's weights.

    With `overlap`, the load of the next tile and the store of the one before run while a tile is worked on, as far as
    the ports of the memories on chip let both through. A step's first weights are loaded in the `slack`: cycles without
    a transfer since the last tile with other weights began. Its first maps and its last store wait. Without `overlap`,
    everything waits.
    """
    total = Cycles()
    if arch.dram is None:
        return total, 0
    parts = [_parts(arch, arch.dram, transfer) for transfer in transfers]
    if not arch.dram.overlap:
        return sum((load + store for load, store in parts), total), 0
    none, nothing = Cycles(), Transfer(loaded={}, stored={})
    loads, stores = [load for load, _ in parts], [store for _, store in parts]
    free = []
    for number, activity in enumerate(activities):
        following = transfers[number + 1] if number + 1 < len(transfers) else nothing
        before = transfers[number - 1] if number else nothing
        moved = (loads[number + 1] if number + 1 < len(loads) else none) + (stores[number - 1] if number else none)
        both = max(activity.cycles.total, moved.total, _port_cycles(arch, activity, following.loaded, before.stored))
        total += _exposed(moved, moved.total - (both - activity.cycles.total))
        free.append(both - moved.total)
    first = replace(loads[0], weight_load=max(0, loads[0].weight_load - slack))
    own_weights = any(load.weight_load for load in loads)
    return first + total + stores[-1], free[-1] if own_weights else slack + sum(free)


def _parts(arch: Arch, dram: Dram, transfer: Transfer) -> tuple[Cycles, Cycles]:
    """The cycles of a tile's loads and of its store, each rounded up to whole cycles: DRAM's or the busiest port's."""
    maps = dict(transfer.loaded)
    weights = {MemoryKind.WEIGHTS: maps.pop(MemoryKind.WEIGHTS, 0)}

    def cycles(moved: Mapping[MemoryKind, int], port: Callable[[MemoryKind], int]) -> int:
        return max(-(-sum(moved.values()) // dram.bits_per_cycle), _most_cycles(moved, port))

    load = Cycles(weight_load=cycles(weights, arch.write_bits), activation_load=cycles(maps, arch.write_bits))
    return load, Cycles(writeback=cycles(transfer.stored, arch.read_bits))


def _port_cycles(
    arch: Arch, activity: Activity, loaded: Mapping[MemoryKind, int], stored: Mapping[MemoryKind, int]
) -> int:
    """Cycles until the ports have passed what a tile reads and writes and what is loaded and stored beside it."""
    reads = {kind: activity.reads_bits.get(kind, 0) + bits for kind, bits in stored.items()}
    writes = {kind: activity.writes_bits.get(kind, 0) + bits for kind, bits in loaded.items()}
    return max(_most_cycles(reads, arch.read_bits), _most_cycles(writes, arch.write_bits))


def _most_cycles(moved: Mapping[MemoryKind, int], port: Callable[[MemoryKind], int]) -> int:
    """Cycles of the busiest of some memories' ports, all of them in work at once."""
    return max((-(-bits // port(kind)) for kind, bits in moved.items()), default=0)


def _exposed(transfer: Cycles, hidden: int) -> Cycles:
    """What is left of a transfer of which so many cycles are hidden: stores first, then maps, then weights."""
    left = max(0, transfer.total - hidden)
    weights = min(transfer.weight_load, left)
    maps = min(transfer.activation_load, left - weights)
    return Cycles(weight_load=weights, activation_load=maps, writeback=left - weights - maps)
