"""Small engines for tests of the Verilog, and comparisons of programs on them with the reference and the schedule."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bnhw.dtypes import Array
from bnhw.hardware.arch import Arch, Datapath, Memory, Post
from bnhw.hardware.mapping import map_program
from bnhw.hardware.schedule import schedule_engine
from bnhw.hardware.steps import EngineProgram
from bnhw.hardware.trace import MemoryKind
from bnhw.machine import Machine
from bnhw.program import Program
from bnhw.rtl.build import CACHE_VARIABLE
from bnhw.rtl.machine import RtlMachine
from bnhw.rtl.verify import RtlComparison, compare_rtl

needs_verilator = pytest.mark.skipif(
    shutil.which("verilator") is None or shutil.which("g++") is None, reason="verilator or g++ is not installed"
)


MEMORIES: Mapping[MemoryKind, Memory] = {
    **{kind: Memory(words=1 << 13) for kind in MemoryKind if kind is not MemoryKind.DRAM},
    MemoryKind.RESIDUALS: Memory(words=1 << 15),
    MemoryKind.LOOKUPS: Memory(words=1 << 15),
    MemoryKind.CONSTANTS: Memory(words=1 << 10),
    MemoryKind.DESCRIPTORS: Memory(words=1 << 8),
}

MUX = Arch(
    name="mux",
    clock_mhz=100.0,
    pe=4,
    simd=16,
    datapath=Datapath.MUX,
    act_bits=4,
    acc_bits=32,
    residual_bits=14,
    post=Post.MULTIPLY,
    multiplier_bits=25,
    comparators=4,
    lookups=2,
    product_bits=20,
    offset_bits=56,
    shift_bits=6,
    memories=MEMORIES,
)
ENGINES: Mapping[str, Arch] = {
    engine.name: engine
    for engine in (
        MUX,
        replace(
            MUX,
            name="and",
            memories={**MEMORIES, MemoryKind.RESIDUALS: Memory(words=1 << 15, read_ports=2)},
            datapath=Datapath.AND,
            pe=1,
            simd=3,
            act_bits=3,
            residual_bits=16,
            post=Post.CSD,
            csd_digits=3,
            multiplier_bits=16,
            comparators=1,
            lookups=1,
            acc_bits=40,
        ),
        replace(MUX, name="xnor", datapath=Datapath.XNOR, pe=2, simd=12, act_bits=1, lookups=1),
        replace(
            MUX,
            name="mul",
            datapath=Datapath.MUL,
            pe=2,
            simd=2,
            act_bits=8,
            weight_bits=8,
            acc_bits=48,
            post=Post.SHIFT,
            multiplier_bits=14,
            comparators=15,
            product_bits=33,
        ),
    )
}
"""One Verilator build each: every datapath and requantise unit, 1 to 6 banks, 1 to 12 planes."""


def keep_builds(factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds go to a folder that the workers of a run share."""
    monkeypatch.setenv(CACHE_VARIABLE, str(factory.getbasetemp().parent / "builds"))


def cycles(engine: EngineProgram) -> list[int]:
    """Cycles of every step, by the schedule."""
    return [step.cycles.total for step in schedule_engine(engine).steps]


def compared(program: Program, arch: Arch, images: Array, folder: Path | None = None) -> RtlComparison:
    """A program on the Verilog against the reference and the schedule."""
    machine = RtlMachine(program, arch, folder=folder)
    return compare_rtl(machine, Machine(program, "reference"), schedule_engine(machine.engine), images)


def random_images(program: Program, count: int, seed: int = 0) -> Array:
    """uint8 images of a program's size."""
    shape = (count, *program.tensor[program.input].shape)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def mapped(program: Program, name: str) -> EngineProgram:
    """A program on one of `ENGINES`."""
    return map_program(program, ENGINES[name])
