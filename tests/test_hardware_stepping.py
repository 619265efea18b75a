"""The closed forms of cycles and traffic are what a cycle-by-cycle model counts, exactly."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from hardware_strategies import archs_for
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st
from program_builder import Builder, one_of_each
from program_strategies import programs

from bnhw.dtypes import IntegerType
from bnhw.hardware.arch import Arch, Dataflow
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.mapping import map_program
from bnhw.hardware.schedule import schedule_engine
from bnhw.hardware.stepping import step_through
from bnhw.hardware.steps import MainKind, PostKind, Step
from bnhw.hardware.timing import Tile, tile_activity, whole_step
from bnhw.hardware.trace import Cycles, MemoryKind, add_counts
from bnhw.ops import Window
from bnhw.program import Tensor

LONGEST = 30_000
"""Drawn layers take no more cycles."""


def assert_counts_agree(arch: Arch, step: Step, tile: Tile) -> None:
    expected = tile_activity(arch, step, tile)
    rows = range(tile.first_row, tile.first_row + tile.rows)
    stepped = step_through(arch, step, rows, range(tile.first_block, tile.first_block + tile.blocks))
    causes = {field.name: stepped.causes[field.name] for field in fields(Cycles)}
    assert Cycles(**causes) == expected.cycles
    assert sum(stepped.causes.values()) == stepped.cycle == expected.cycles.total
    assert dict(stepped.reads) == {kind: bits for kind, bits in expected.reads_bits.items() if bits}
    assert dict(stepped.writes) == dict(expected.writes_bits)
    assert expected.array_cycles == stepped.causes["compute"]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Arch, Step, Tile]:
    """One step of a random program on an engine of either dataflow, and some rows and blocks of it."""
    program = draw(programs(max_steps=3))
    arch = draw(archs_for(program)).with_options(dataflow=draw(st.sampled_from([d.value for d in Dataflow])))
    step = draw(st.sampled_from(map_program(program, arch).steps))
    assume(tile_activity(arch, step, whole_step(step)).cycles.total <= LONGEST)
    if draw(st.booleans()):
        return arch, step, whole_step(step)
    first_row, first_block = draw(st.integers(0, step.rows - 1)), draw(st.integers(0, step.blocks - 1))
    rows, blocks = draw(st.integers(1, step.rows - first_row)), draw(st.integers(1, step.blocks - first_block))
    return arch, step, Tile(first_row=first_row, rows=rows, first_block=first_block, blocks=blocks)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers())
def test_closed_form_is_what_the_stepping_model_counts(layer: tuple[Arch, Step, Tile]) -> None:
    assert_counts_agree(*layer)


def test_layers_reach_every_kind_of_step_and_cause() -> None:
    """What the tests around this one rest on: none of these cases is left out by the strategy."""
    seen: Counter[str] = Counter()

    @seed(2)
    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(layers())
    def look(layer: tuple[Arch, Step, Tile]) -> None:
        arch, step, tile = layer
        activity = tile_activity(arch, step, tile)
        seen.update(field.name for field in fields(Cycles) if getattr(activity.cycles, field.name))
        seen.update(f"read {kind.value}" for kind, bits in activity.reads_bits.items() if bits)
        seen.update((f"main {step.main.value}", f"post {step.post_kind.value}"))
        seen["add"] += step.add is not None
        seen["classes"] += step.position_classes is not None
        seen[f"convolve {arch.dataflow.value}"] += step.convolve is not None
        seen["part"] += tile != whole_step(step)

    look()
    expected = {field.name for field in fields(Cycles)}
    expected |= {f"read {kind.value}" for kind in MemoryKind if kind is not MemoryKind.DRAM}
    expected |= {f"main {kind.value}" for kind in MainKind} | {f"post {kind.value}" for kind in PostKind}
    expected |= {f"convolve {dataflow.value}" for dataflow in Dataflow}
    expected |= {"add", "classes", "part"}
    assert {name for name, count in seen.items() if count} == expected


@pytest.mark.parametrize("dataflow", [dataflow.value for dataflow in Dataflow])
@pytest.mark.parametrize("groups", [2, 4, 12])
def test_grouped_convolutions_take_the_cycles_that_are_counted(dataflow: str, groups: int) -> None:
    b = Builder(random=np.random.default_rng(0), shape=(4, 5, 12))
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=5, signed=False), scale=1.0)
    start = b.look_up(b.tensors["image"], code, per_channel=False)
    x = b.convolve(start, Window(kernel=(3, 2), pads=(1, 0, 1, 1)), groups=groups, out_channels=12, bits=1)
    arch = load_arch("engine-16x64").with_options(pe=2, simd=4, lookups=2, act_bits=3, dataflow=dataflow)
    step = map_program(b.program(b.sum_global(x)), arch).steps[1]
    assert step.block_table
    assert step.convolve is not None
    assert step.convolve.phases == 2
    assert_counts_agree(arch, step, whole_step(step))
    assert_counts_agree(arch, step, Tile(first_row=1, rows=2, first_block=1, blocks=4))


def test_a_wide_operand_b_takes_the_cycles_that_are_counted() -> None:
    b = Builder(random=np.random.default_rng(0), shape=(2, 3, 4))
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=4, signed=False), scale=1.0)
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=16, signed=True), scale=1.0)
    start = b.look_up(b.tensors["image"], code, per_channel=False)
    gate = b.requantise(b.sum_global(start), wide, multiplier_bits=1)
    x = b.threshold(b.multiply(start, gate), code, levels=3)
    arch = load_arch("engine-16x64").with_options(act_bits=4, residual_bits=6, product_bits=17)
    step = map_program(b.program(b.sum_global(x)), arch).steps[2]
    assert (step.source.place.planes, step.result.planes) == (1, 1)
    assert step.second is not None
    assert step.second.place.planes == 3
    assert tile_activity(arch, step, whole_step(step)).cycles.activation_load == 6 * 3
    assert_counts_agree(arch, step, whole_step(step))


@pytest.mark.parametrize("dataflow", [dataflow.value for dataflow in Dataflow])
def test_a_program_with_every_kind_of_instruction_takes_the_cycles_that_are_counted(dataflow: str) -> None:
    options = {"pe": 1, "simd": 4, "lookups": 1, "datapath": "mul", "post": "multiply", "dataflow": dataflow}
    arch = load_arch("engine-16x64").with_options(**options, multiplier_bits=24, product_bits=16, comparators=4)
    engine = map_program(one_of_each(), arch)
    stepped = [step_through(arch, step) for step in engine.steps]
    trace = schedule_engine(engine)
    assert [step.cycles.total for step in trace.steps] == [one.cycle for one in stepped]
    assert trace.bits("reads_bits") == add_counts(one.reads for one in stepped)
    assert trace.bits("writes_bits") == add_counts(one.writes for one in stepped)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers())
def test_closed_form_is_what_the_stepping_model_counts_often(layer: tuple[Arch, Step, Tile]) -> None:
    assert_counts_agree(*layer)
