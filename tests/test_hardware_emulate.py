"""The steps of an engine compute what the program says, on every stored tensor."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hardware_strategies import engine_programs
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from program_builder import BIT, Builder
from program_strategies import batches

import bnhw
from bnhw.dtypes import Array, IntegerType
from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import Datapath
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.emulate import Emulator
from bnhw.hardware.folding import RawSums
from bnhw.hardware.mapping import map_program
from bnhw.hardware.schedule import schedule_engine
from bnhw.hardware.stepping import step_through
from bnhw.hardware.steps import EngineProgram
from bnhw.machine import Machine
from bnhw.ops import Window
from bnhw.options import CompileOptions
from bnhw.program import Tensor, Threshold

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def assert_emulation_equals_machine(engine: EngineProgram, image: Array) -> None:
    """Every tensor right behind the last step that writes it, and the clamped sums of every addition."""
    program = engine.program
    expected = {step.instruction.output: step for step in Machine(program, "reference").steps(image[np.newaxis])}
    steps = list(Emulator(engine=engine).run(image))
    last = {done.step.name: position for position, done in enumerate(steps)}
    assert program.output in last
    for position, done in enumerate(steps):
        if last[done.step.name] == position:
            np.testing.assert_array_equal(done.tensor, expected[done.step.name].value[0], err_msg=done.step.name)
        if done.step.add:
            assert done.saturations == expected[done.step.add.instruction].saturations
    assert {name for done in steps for name in done.step.instructions} == set(expected)


@pytest.mark.parametrize("datapath", list(Datapath))
@pytest.mark.parametrize("bipolar", [True, False])
@pytest.mark.parametrize("post", ["none", "arithmetic", "threshold"])
def test_groups_within_a_word_are_computed(datapath: Datapath, bipolar: bool, post: str) -> None:
    b = Builder(random=np.random.default_rng(3), shape=(5, 4, 12))
    codes = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=5, signed=True), scale=1.0, zero_point=-3)
    bits = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
    start = b.look_up(b.tensors["image"], bits if bipolar else codes, per_channel=True)
    x = b.convolve(start, Window(kernel=(3, 2), pads=(1, 0, 1, 1)), groups=4, out_channels=8, bits=1)
    if post == "arithmetic":
        x = b.requantise(x, codes, multiplier_bits=7, per_channel=False)
    if post == "threshold":
        x = b.threshold(x, codes, levels=9)
    program = b.program(b.sum_global(x))
    arch = load_arch("engine-16x64-mul8").with_options(datapath=datapath, pe=2, simd=4, lookups=2)
    engine = map_program(program, arch)
    unit = engine.steps[1].convolve
    assert unit is not None
    assert unit.phases == (1 if datapath is Datapath.MUL else 2)
    image = np.random.default_rng(4).integers(0, 256, (5, 4, 12)).astype(np.uint8)
    assert_emulation_equals_machine(engine, image)


@pytest.mark.parametrize(
    ("constants", "doublings", "bits"),
    [((0, 0), 0, 8), ((3, 200), 0, 10), ((-200, -3), 0, 10), ((0, 0), 2, 10), ((-1, 0), 0, 9), ((0, 1), 0, 9)],
)
def test_raw_sums_need_room_for_their_constant_on_either_side(
    constants: tuple[int, int], doublings: int, bits: int
) -> None:
    acc = IntegerType(bits=8, signed=True)
    assert RawSums(doublings=doublings, constant=np.array(constants), acc=acc).bits == bits


@pytest.mark.parametrize("falling", [0, 1])
@pytest.mark.parametrize("levels", [(-257, 256), (256, 256), (-257, -257), (-256, 255), (-1000, 1000)])
def test_thresholds_beyond_the_accumulators_are_met_always_or_never(levels: tuple[int, int], falling: int) -> None:
    """The ends of a 9-bit tensor, in accumulators of 9 bits."""
    b = Builder(random=np.random.default_rng(0), shape=(16, 16, 1))
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=9, signed=True), scale=1.0)
    start = b.look_up(b.tensors["image"], wide, per_channel=False)
    b.constants["t0/table"] = np.where(np.arange(256) < 128, np.arange(256) - 256, np.arange(256))[None].astype(
        np.int16
    )
    x = b.threshold(start, replace(wide, dtype=IntegerType(bits=2, signed=False)), levels=2)
    b.constants["t1/thresholds"] = np.array(levels)[None, None]
    b.constants["t1/falling"] = np.array([falling], np.int8)
    threshold = b.instructions[1]
    assert isinstance(threshold, Threshold)
    b.instructions[1] = replace(threshold, falling="t1/falling")
    engine = map_program(b.program(x), load_arch("engine-16x64").with_options(acc_bits=9))
    assert_emulation_equals_machine(engine, np.arange(256, dtype=np.uint8).reshape(16, 16, 1))


LARGE = {"memories": {"thresholds": {"words": 2048}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requantise", "name", "options"),
    [
        ("csd:4", "engine-16x64", {}),
        ("csd:4", "engine-16x64", {"datapath": "and", "act_bits": 4}),
        ("csd:4", "engine-64x1024", {"post": "csd", "csd_digits": 4}),
        ("threshold", "engine-16x64-mul8", {"pe": 4, "simd": 12, "lookups": 2, **LARGE}),
    ],
)
def test_the_shipped_network_gives_its_integers_in_the_cycles_that_are_counted(
    requantise: str, name: str, options: dict[str, object]
) -> None:
    images = np.random.default_rng(0).integers(0, 17, (20, 8, 8, 1)).astype(np.uint8)
    model = Path(bnhw.__file__).parent / "demo" / "digits.onnx"
    program = bnhw.compile(model, images, CompileOptions(requantise=requantise))
    engine = map_program(program, load_arch(name).with_options(**options))
    assert_emulation_equals_machine(engine, images[0])
    stepped = [step_through(engine.arch, step).cycle for step in engine.steps]
    assert [step.cycles.total for step in schedule_engine(engine).steps] == stepped


def narrowest(engine: EngineProgram) -> EngineProgram:
    """The program on the same engine with accumulators as narrow as it accepts."""
    for bits in range(4, engine.arch.acc_bits + 1):
        try:
            return map_program(engine.program, engine.arch.with_options(acc_bits=bits))
        except ArchMismatch as mismatch:
            # The post stage is as wide as the wider of accumulators and residuals.
            assert all(problem.startswith("acc_bits") or "its result" in problem for problem in mismatch.problems)
    raise AssertionError("no width is enough")


@quick
@given(st.data())
def test_every_stored_tensor_equals_the_reference(data: st.DataObject) -> None:
    engine = data.draw(engine_programs())
    assert_emulation_equals_machine(engine, data.draw(batches(engine.program, max_images=1))[0])


@pytest.mark.slow
@settings(quick, max_examples=1000)
@given(st.data())
def test_every_stored_tensor_equals_the_reference_often(data: st.DataObject) -> None:
    engine = data.draw(engine_programs())
    assert_emulation_equals_machine(engine, data.draw(batches(engine.program, max_images=1))[0])


@quick
@given(st.data())
def test_the_narrowest_accumulators_that_are_accepted_are_wide_enough(data: st.DataObject) -> None:
    engine = narrowest(data.draw(engine_programs()))
    assert_emulation_equals_machine(engine, data.draw(batches(engine.program, max_images=1))[0])


def test_random_programs_reach_every_part_of_the_engine() -> None:
    """What the two tests above rest on: none of these cases is left out by the strategies."""
    seen: Counter[str] = Counter()

    @seed(1)
    @settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(engine_programs())
    def look(engine: EngineProgram) -> None:
        for step in engine.steps:
            bipolar = step.source.place.bipolar
            seen.update((f"main {step.main.value}", f"post {step.post_kind.value}", step.result.memory.value))
            seen["planes of a"] += step.source.place.planes > 1
            seen["planes written"] += step.result.planes > 1
            seen["add"] += step.add is not None
            seen["in place"] += (
                step.add is not None
                and step.second is not None
                and (step.second.place.base == step.result.base and step.second.place.memory is step.result.memory)
            )
            seen["source block shifted"] += step.source.first_block > 0
            seen["result block shifted"] += step.first_block > 0
            seen["one pixel for all"] += step.second is not None and step.second.one_pixel
            if step.convolve:
                seen[f"{engine.arch.datapath.value} {'bits' if bipolar else 'codes'}"] += 1
                seen[f"{engine.arch.datapath.value} {step.convolve.phases} phases"] += 1
                seen["doubled"] += step.convolve.doubled
                seen["padding code"] += step.convolve.padding > 0 and any(step.window.pads)
                seen["several words"] += any(block.words > 1 for block in step.convolve.blocks)
                seen["words of later groups"] += any(block.first for block in step.convolve.blocks)

    look()
    for datapath in Datapath:
        assert seen[f"{datapath.value} bits"] and seen[f"{datapath.value} codes"]
    assert not [name for name, count in seen.items() if not count]
    assert {f"main {kind}" for kind in ("convolve", "sum", "maximum", "multiply")} <= set(seen)
    assert {f"post {kind}" for kind in ("none", "arithmetic", "threshold", "lookup")} <= set(seen)
    assert {"activations", "residuals"} <= set(seen)
