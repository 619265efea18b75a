"""Random networks on the Verilog engine give the reference's integers and the schedule's cycles."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from program_strategies import batches, programs
from rtl_helpers import ENGINES, compared, keep_builds, mapped, needs_verilator

from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import Datapath, Post
from bnhw.rtl.build import build_library
from bnhw.rtl.parameters import parameters

NETWORKS = 50
"""For each engine."""

WHOLE_BLOCKS = ("PadChannels", "Join")
"""Instructions that no program without whole blocks may have."""

MOST_DIGITS = {Post.MULTIPLY: 0, Post.CSD: 3, Post.SHIFT: 1}


@pytest.fixture(autouse=True)
def builds(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_builds(tmp_path_factory, monkeypatch)


@needs_verilator
@pytest.mark.parametrize("name", ENGINES)
def test_random_networks_give_the_same_integers_in_the_same_cycles(name: str) -> None:
    arch = ENGINES[name]
    build_library(parameters(arch))
    seen: Counter[str] = Counter()

    @settings(max_examples=NETWORKS, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        one_bit = arch.datapath is not Datapath.MUL
        program = data.draw(programs(max_steps=4, one_bit=one_bit, most_digits=MOST_DIGITS[arch.post]))
        images = data.draw(batches(program, max_images=2))
        try:
            engine = mapped(program, name)
        except ArchMismatch as mismatch:
            assert all(any(kind in problem for kind in WHOLE_BLOCKS) for problem in mismatch.problems), mismatch
            assume(False)
        assert compared(program, arch, images).difference == ""
        seen.update(step.main.value for step in engine.steps)
        seen.update(step.post_kind.value for step in engine.steps)
        seen.update("add" for step in engine.steps if step.add)
        seen.update("planes" for step in engine.steps if step.source.place.planes > 1)
        seen.update("phases" for step in engine.steps if step.convolve is not None and step.convolve.phases > 1)
        seen["networks"] += 1

    check()
    assert seen["networks"] >= NETWORKS
    expected = {"convolve", "sum", "maximum", "multiply", "none", "arithmetic", "threshold", "lookup", "add", "planes"}
    assert expected <= set(seen)
