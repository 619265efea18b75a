"""Random networks on the Verilog engine give the reference's integers and the schedule's cycles."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from program_builder import Builder
from program_strategies import batches, programs
from rtl_helpers import ENGINES, compared, keep_builds, mapped, needs_verilator, random_images

from bnhw.dtypes import IntegerType
from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import Datapath, Post
from bnhw.hardware.steps import MainKind, PostKind
from bnhw.ops import Window
from bnhw.program import Join, PadChannels, PoolMaximum, Program, Tensor
from bnhw.rtl.build import build_library
from bnhw.rtl.image import require_fit
from bnhw.rtl.parameters import parameters

NETWORKS = 100
"""For each engine."""

REFUSED = ("PadChannels", "Join", "memories.")
"""Why a random program may not run on an engine: no whole blocks, or too large for its memories."""

MOST_DIGITS = {Post.MULTIPLY: 0, Post.CSD: 3, Post.SHIFT: 1}


@pytest.fixture(autouse=True)
def builds(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_builds(tmp_path_factory, monkeypatch)


@needs_verilator
@pytest.mark.parametrize("name", ENGINES)
def test_random_networks_give_the_same_integers_in_the_same_cycles(name: str) -> None:
    arch = ENGINES[name]
    build_library(parameters(arch))
    ran = 0

    @settings(max_examples=NETWORKS, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal ran
        one_bit = arch.datapath is not Datapath.MUL
        program = data.draw(programs(max_steps=4, one_bit=one_bit, most_digits=MOST_DIGITS[arch.post]))
        images = data.draw(batches(program, max_images=2))
        try:
            require_fit(mapped(program, name))
        except ArchMismatch as mismatch:
            assert all(any(reason in problem for reason in REFUSED) for problem in mismatch.problems), mismatch
            assume(False)
        assert compared(program, arch, images).difference == ""
        ran += 1

    check()
    assert ran >= NETWORKS


def every_kind(most_digits: int, *, one_bit: bool) -> Program:
    """A fixed program that holds every kind of step, in blocks of 4 channels, with groups, planes and classes."""
    b = Builder(random=np.random.default_rng(1), shape=(6, 5, 4), one_bit=one_bit, most_digits=most_digits)
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=5, signed=False), scale=0.5, zero_point=3)
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=10, signed=True), scale=0.5)
    window = Window(kernel=(3, 3), pads=(1, 0, 1, 2))
    start = b.look_up(b.tensors["image"], code, per_channel=True)
    padded = b.same_coding(PadChannels(inputs=(start.name,), output=b.name(), before=4, after=3), (start,), (6, 5, 11))
    left = b.requantise(b.convolve(padded, window, groups=1, out_channels=12, bits=5), wide, multiplier_bits=8)
    right = b.requantise(b.convolve(left, window, groups=3, out_channels=12, bits=5), wide, multiplier_bits=1)
    skip = b.requantise(left, wide, multiplier_bits=0, classes=2)
    skip = b.same_coding(
        PoolMaximum(inputs=(skip.name,), output=b.name(), window=window), (skip,), (*window.output_size(6, 5), 12)
    )
    codes = b.threshold(b.add(right, skip, -300, 200), code, levels=31, classes=3)
    means = b.requantise(b.pool_sum(codes, window), code, multiplier_bits=6, classes=2)
    most = b.same_coding(PoolMaximum(inputs=(codes.name,), output=b.name(), window=window), (codes,), means.shape)
    joined = b.same_coding(Join(inputs=(means.name, most.name), output=b.name()), (means, most), (*means.shape[:2], 24))
    gate = b.requantise(b.sum_global(joined), code, multiplier_bits=4)
    return b.program(b.sum_global(b.multiply(joined, gate)))


@needs_verilator
@pytest.mark.parametrize("name", ENGINES)
def test_every_kind_of_step_gives_the_same_integers_in_the_same_cycles(name: str) -> None:
    arch = ENGINES[name]
    program = every_kind(MOST_DIGITS[arch.post], one_bit=arch.datapath is not Datapath.MUL)
    steps = mapped(program, name).steps
    assert {step.main for step in steps} == set(MainKind)
    assert {step.post_kind for step in steps} == set(PostKind)
    assert any(step.add for step in steps)
    assert any(step.second is not None and step.second.one_pixel for step in steps)
    assert any(step.source.place.planes > 1 for step in steps)
    assert any(step.result.planes > 1 for step in steps)
    assert any(step.first_block for step in steps)
    assert any(step.position_classes is not None for step in steps)
    grouped = [step.convolve for step in steps if step.convolve is not None and step.convolve.groups > 1]
    assert all(convolve.phases == (1 if arch.datapath is Datapath.MUL else 2) for convolve in grouped)
    assert compared(program, arch, random_images(program, 4)).difference == ""
