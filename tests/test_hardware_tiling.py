"""Tiles and DRAM traffic where a program does not fit on chip."""

from dataclasses import replace

import numpy as np
import pytest
from hardware_strategies import archs_for
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from program_builder import Builder
from program_strategies import programs

from bnhw.dtypes import IntegerType
from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import Arch, Dataflow, Dram
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.mapping import map_program
from bnhw.hardware.schedule import schedule, transfer_cycles
from bnhw.hardware.steps import EngineProgram
from bnhw.hardware.tiling import TILED, StepTiler, Transfer, off_chip
from bnhw.hardware.timing import Activity, tile_activity, whole_step
from bnhw.hardware.trace import Cycles, MemoryKind, Trace, add_counts
from bnhw.ops import Window
from bnhw.program import Program, Tensor

random_programs = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
CODE = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=8, signed=False), scale=0.5)


def words(arch: Arch, **sizes: int) -> Arch:
    return arch.with_options(memories={name: {"words": size} for name, size in sizes.items()})


def two_layers() -> Program:
    """16 x 8 pixels of 64 channels, a padded 3x3 convolution to 64 channels, another to 32."""
    b = Builder(random=np.random.default_rng(0), shape=(16, 8, 64))
    x = b.look_up(b.tensors["image"], CODE, per_channel=False)
    for channels in (64, 32):
        x = b.convolve(x, Window(kernel=(3, 3), pads=(1, 1, 1, 1)), groups=1, out_channels=channels, bits=1)
        x = b.requantise(x, CODE, multiplier_bits=1)
    return b.program(b.sum_global(x))


def dram(trace: Trace) -> tuple[int, int]:
    return trace.bits("reads_bits").get(MemoryKind.DRAM, 0), trace.bits("writes_bits").get(MemoryKind.DRAM, 0)


@st.composite
def tilers(draw: st.DrawFn) -> StepTiler:
    """A step of a random program on an engine, with some memories' content in DRAM."""
    program = draw(programs(max_steps=3))
    arch = draw(archs_for(program)).with_options(dataflow=draw(st.sampled_from([d.value for d in Dataflow])))
    arch = arch.with_options(dram={"bits_per_cycle": draw(st.integers(1, 999)), "overlap": draw(st.booleans())})
    step = draw(st.sampled_from(map_program(program, arch).steps))
    outside = draw(st.sets(st.sampled_from(TILED)))
    return StepTiler(arch=arch, step=step, outside=frozenset(outside))


@random_programs
@given(tilers())
def test_traffic_is_the_sum_of_all_transfers_and_tiles_cover_the_step_once(tiler: StepTiler) -> None:
    for tiling in tiler.tilings():
        parts = list(tiler.parts(tiling))
        assert tiler.traffic(tiling) == sum(transfer.bits for _, transfer in parts)
        covered = [
            (row, block)
            for tile, _ in parts
            for row in range(tile.first_row, tile.first_row + tile.rows)
            for block in range(tile.first_block, tile.first_block + tile.blocks)
        ]
        whole = [(row, block) for row in range(tiler.step.rows) for block in range(tiler.step.blocks)]
        assert sorted(covered) == whole


@random_programs
@given(tilers())
def test_tiles_do_the_work_of_the_whole_step(tiler: StepTiler) -> None:
    whole = tile_activity(tiler.arch, tiler.step, whole_step(tiler.step))
    for tiling in tiler.tilings():
        parts = [tile_activity(tiler.arch, tiler.step, tile) for tile, _ in tiler.parts(tiling)]
        assert sum(part.cycles.compute for part in parts) == whole.cycles.compute
        assert sum(part.array_cycles for part in parts) == whole.array_cycles
        assert sum(part.cycles.drain for part in parts) == len(parts) * whole.cycles.drain
        assert add_counts(part.writes_bits for part in parts) == whole.writes_bits


@random_programs
@given(tilers())
def test_every_tile_finds_its_input_in_the_buffer(tiler: StepTiler) -> None:
    """What was loaded last is what the tile reads: rows of its taps, whole pixels of a convolution."""
    step, place = tiler.step, tiler.step.source.place
    assume(place.memory in tiler.outside and step.convolve is not None)
    for tiling in tiler.tilings():
        held = 0
        for tile, transfer in tiler.parts(tiling):
            rows = {
                row * step.window.stride[0] - step.window.pads[0] + tap
                for row in range(tile.first_row, tile.first_row + tile.rows)
                for tap in range(step.window.kernel[0])
            }
            inside = {row for row in rows if 0 <= row < place.shape[0]}
            held = transfer.loaded.get(place.memory, held)
            bits = place.planes * place.blocks * tiler.arch.pe * place.lane_bits
            least = len(inside) * place.shape[1] * bits
            assert held >= least


def shrunk(mapped: EngineProgram, data: st.DataObject, arch: Arch) -> Arch:
    """The engine with one of its tiled memories smaller."""
    kind = data.draw(st.sampled_from(TILED))
    there = min(arch.memories[kind].words, max(1, mapped.required_words[kind]))
    return words(arch, **{kind.value: data.draw(st.integers(max(1, there // 3), there))})


@random_programs
@given(st.data())
def test_traffic_never_falls_when_a_memory_shrinks(data: st.DataObject) -> None:
    program = data.draw(programs(max_steps=3))
    arch = data.draw(archs_for(program)).with_options(dram={"bits_per_cycle": 8, "overlap": data.draw(st.booleans())})
    mapped, before = map_program(program, arch), 0
    for _ in range(4):
        try:
            traffic = sum(dram(schedule(program, arch)))
        except ArchMismatch as mismatch:
            assert all("smallest tile" in problem or "fits all" in problem for problem in mismatch.problems)
            return
        assert traffic >= before
        before = traffic
        arch = shrunk(mapped, data, arch)


@random_programs
@given(tilers(), st.data())
def test_the_best_tiling_fits_and_none_that_fits_moves_less(tiler: StepTiler, data: st.DataObject) -> None:
    smaller = {kind.value: data.draw(st.integers(1, 60)) for kind in tiler.outside}
    tight = StepTiler(arch=words(tiler.arch, **smaller), step=tiler.step, outside=tiler.outside)
    best = tight.best()
    fitting = [t for t in tight.tilings() if all(tight.arch.memories[k].words >= n for k, n in tight.words(t).items())]
    assert (best is None) == (not fitting)
    if best is not None:
        assert best.tiling in fitting
        assert sum(transfer.bits for _, transfer in best.parts) == min(tight.traffic(t) for t in fitting)


def test_what_fits_makes_no_traffic() -> None:
    trace = schedule(two_layers(), load_arch("engine-16x64"))
    assert dram(trace) == (0, 0)
    assert [step.tiles for step in trace.steps] == [1, 1, 1, 1]


def test_weights_that_do_not_fit_cross_once_an_image() -> None:
    arch = load_arch("engine-16x64")
    needed = map_program(two_layers(), arch).required_words[MemoryKind.WEIGHTS]
    assert needed == 9 * 4 + 9 * 2
    trace = schedule(two_layers(), words(arch, weights=needed - 1))
    assert dram(trace) == (needed * 1024, 0)
    assert trace.bits("writes_bits")[MemoryKind.WEIGHTS] == needed * 1024


def test_weights_cross_again_for_every_row_tile_or_maps_for_every_block_tile() -> None:
    """With room for one block's weights and a few rows, the cheaper of the two is taken."""
    arch = load_arch("engine-16x64").with_options(dram={"bits_per_cycle": 64, "overlap": False})
    # three tiles of 6 rows, as below; weights of 4 blocks of 9 words cross three times, or maps four times
    first = schedule(two_layers(), words(arch, weights=9, activations=128)).steps[1]
    weights, maps = 4 * 9 * 1024, (7 + 8 + 5) * 8 * 512
    assert first.tiles == 3 * 4
    assert first.reads_bits[MemoryKind.DRAM] == min(3 * weights + maps, weights + 4 * maps) == 3 * weights + maps


def test_maps_cross_again_where_that_is_less() -> None:
    b = Builder(random=np.random.default_rng(0), shape=(4, 1, 64))
    x = b.look_up(b.tensors["image"], CODE, per_channel=False)
    x = b.convolve(x, Window(kernel=(3, 1), pads=(1, 0, 1, 0)), groups=1, out_channels=64, bits=1)
    program = b.program(b.sum_global(b.requantise(x, CODE, multiplier_bits=1)))
    arch = load_arch("engine-16x64").with_options(dram={"bits_per_cycle": 64, "overlap": False})
    step = schedule(program, words(arch, weights=3, activations=5)).steps[1]
    weights, maps = 4 * 3 * 1024, (3 + 3) * 512
    assert step.tiles == 2 * 4
    assert step.reads_bits[MemoryKind.DRAM] == min(2 * weights + maps, weights + 4 * maps) == weights + 4 * maps


def test_halo_rows_are_read_twice() -> None:
    arch = load_arch("engine-16x64").with_options(dram={"bits_per_cycle": 64, "overlap": False})
    step = schedule(two_layers(), words(arch, activations=128)).steps[1]
    # 16 rows of 8 words are 128 alone; two tiles of 8 rows read 9 each and make 8: 136; three of 6, 8 at most, 112
    assert step.tiles == 3
    assert step.reads_bits[MemoryKind.DRAM] == (7 + 8 + 5) * 8 * 512
    assert step.writes_bits[MemoryKind.DRAM] == 128 * 512


def test_transfers_wait_or_hide() -> None:
    work = Activity(cycles=Cycles(compute=10), reads_bits={}, writes_bits={}, array_cycles=10)
    part = Transfer(
        loaded={MemoryKind.WEIGHTS: 17, MemoryKind.ACTIVATIONS: 40, MemoryKind.RESIDUALS: 8},
        stored={MemoryKind.ACTIVATIONS: 9},
    )
    arch = load_arch("engine-16x64")
    waiting = transfer_cycles(
        replace(arch, dram=Dram(bits_per_cycle=8, overlap=False)), [part] * 3, [work] * 3, slack=9
    )
    assert waiting == (Cycles(weight_load=3 * 3, activation_load=3 * 6, writeback=3 * 2), 0)
    # beside the first tile 9 cycles, beside the second 11, beside the third 2; in front 9, behind 2
    dram = replace(arch, dram=Dram(bits_per_cycle=8, overlap=True))
    hidden = transfer_cycles(dram, [part] * 3, [work] * 3, slack=0)
    assert hidden == (Cycles(weight_load=3 + 1, activation_load=6, writeback=2), 10 - 2)
    after_another = transfer_cycles(dram, [part] * 3, [work] * 3, slack=2)
    assert after_another == (Cycles(weight_load=1 + 1, activation_load=6, writeback=2), 10 - 2)
    assert transfer_cycles(dram, [part], [work], slack=99) == (Cycles(activation_load=6, writeback=2), 10)
    maps = Transfer(loaded={MemoryKind.ACTIVATIONS: 40}, stored={})
    assert transfer_cycles(dram, [maps] * 2, [work] * 2, slack=7) == (Cycles(activation_load=5), 7 + 5 + 10)
    assert transfer_cycles(replace(arch, dram=None), [part] * 3, [work] * 3, slack=9) == (Cycles(), 0)


def test_transfers_wait_for_the_ports_on_chip() -> None:
    """A word of weights has 1024 bits, of activations 128 and of four banks 512, of residuals 256."""
    arch = load_arch("engine-16x64")
    fast = replace(arch, dram=Dram(bits_per_cycle=65536, overlap=False))
    part = Transfer(
        loaded={MemoryKind.WEIGHTS: 3 * 1024, MemoryKind.ACTIVATIONS: 5 * 128, MemoryKind.RESIDUALS: 4 * 256},
        stored={MemoryKind.ACTIVATIONS: 6 * 512, MemoryKind.RESIDUALS: 2 * 256},
    )
    none = Activity(cycles=Cycles(), reads_bits={}, writes_bits={}, array_cycles=0)
    assert transfer_cycles(fast, [part], [none], slack=0) == (Cycles(weight_load=3, activation_load=5, writeback=6), 0)
    beside = replace(arch, dram=Dram(bits_per_cycle=65536, overlap=True))
    reading = replace(none, cycles=Cycles(compute=10), reads_bits={MemoryKind.ACTIVATIONS: 9 * 512})
    maps = replace(part, loaded={MemoryKind.ACTIVATIONS: 5 * 128}, stored={MemoryKind.ACTIVATIONS: 3 * 512})
    # in front 5; the first tile hides the second's 5; the second reads for 9 of 10 cycles and stores for 3; behind 3
    found, _ = transfer_cycles(beside, [maps] * 2, [reading] * 2, slack=0)
    assert found == Cycles(activation_load=5, writeback=2 + 3)


@random_programs
@given(st.data())
def test_no_port_passes_more_bits_than_it_can(data: st.DataObject) -> None:
    program = data.draw(programs(max_steps=3))
    dram = {"bits_per_cycle": data.draw(st.integers(1, 65536)), "overlap": data.draw(st.booleans())}
    arch = data.draw(archs_for(program)).with_options(dram=dram)
    arch = shrunk(map_program(program, arch), data, arch)
    try:
        trace = schedule(program, arch)
    except ArchMismatch:
        return
    for kind in (MemoryKind.ACTIVATIONS, MemoryKind.RESIDUALS):
        for step in trace.steps:
            assert step.reads_bits.get(kind, 0) <= step.cycles.total * arch.read_bits(kind)
            assert step.writes_bits.get(kind, 0) <= step.cycles.total * arch.write_bits(kind)
    cycles = sum(step.cycles.total for step in trace.steps)
    assert trace.bits("writes_bits").get(MemoryKind.WEIGHTS, 0) <= cycles * arch.write_bits(MemoryKind.WEIGHTS)


def test_overlap_takes_two_buffers() -> None:
    def tiles(overlap: bool) -> int:
        arch = load_arch("engine-16x64").with_options(dram={"bits_per_cycle": 64, "overlap": overlap})
        return schedule(two_layers(), words(arch, activations=130)).steps[1].tiles

    assert tiles(overlap=False) < tiles(overlap=True)


def test_few_partial_sums_cut_the_rows_without_traffic() -> None:
    arch = load_arch("engine-16x64").with_options(dataflow="weight-stationary", dram=None)
    trace = schedule(two_layers(), words(arch, partial_sums=40))
    assert [step.tiles for step in trace.steps] == [1, 4, 4, 1]
    assert dram(trace) == (0, 0)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        (
            {"weights": 5},
            {"dram": None},
            "memories.weights has 5 words, 54 needed, and there is no dram; set words = 54",
        ),
        ({"activations": 5}, {"dram": None}, "memories.activations has 5 words, 256 needed, and there is no dram"),
        ({"constants": 3}, {}, "memories.constants has 3 words, 6 needed; set words = 6"),
        ({"descriptors": 3}, {}, "memories.descriptors has 3 words, 4 needed; set words = 4"),
        ({"weights": 17}, {}, "memories.weights has 17 words, 18 needed for the smallest tile of 't2'; set words = 18"),
        ({"partial_sums": 7}, {"dataflow": "weight-stationary"}, "memories.partial_sums has 7 words, 8 needed for the"),
    ],
)
def test_refusal_says_what_is_there_what_is_needed_and_the_remedy(
    sizes: dict[str, int], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ArchMismatch) as caught:
        schedule(two_layers(), words(load_arch("engine-16x64").with_options(**options), **sizes))
    assert message in str(caught.value)


def test_all_memories_that_are_too_small_are_listed() -> None:
    arch = words(load_arch("engine-16x64"), constants=1, lookups=1, weights=1, activations=1)
    with pytest.raises(ArchMismatch) as caught:
        schedule(two_layers(), arch)
    assert {"constants", "lookups", "weights", "activations"} <= {
        p.split(".")[1].split(" ")[0] for p in caught.value.problems
    }


def test_off_chip_is_what_does_not_fit() -> None:
    arch = load_arch("engine-16x64")
    assert off_chip(map_program(two_layers(), arch)) == frozenset()
    assert off_chip(map_program(two_layers(), words(arch, weights=53))) == {MemoryKind.WEIGHTS}
    assert off_chip(map_program(two_layers(), words(arch, weights=54))) == frozenset()
