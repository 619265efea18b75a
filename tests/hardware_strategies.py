"""Hypothesis strategies for engines, and programs mapped on engines that can execute them."""

from collections.abc import Mapping

from hypothesis import strategies as st
from program_strategies import programs

from bnhw.hardware.arch import Arch, Datapath, Memory, Post
from bnhw.hardware.mapping import map_program
from bnhw.hardware.steps import EngineProgram
from bnhw.hardware.trace import MemoryKind
from bnhw.program import Convolve, Join, PadChannels, Program

ROOMY: Mapping[MemoryKind, Memory] = {kind: Memory(words=1 << 20) for kind in MemoryKind if kind is not MemoryKind.DRAM}


@st.composite
def archs(draw: st.DrawFn, *, one_bit: bool = True, pe: tuple[int, ...] = (1, 2, 4, 8, 16)) -> Arch:
    """Engines of every datapath and awkward sizes, with roomy memories and wide constants.

    one_bit: whether 1-bit weights are all that it must take.
    """
    rows = draw(st.sampled_from(pe))
    datapath = draw(st.sampled_from(list(Datapath) if one_bit else [Datapath.MUL]))
    lookups = [n for n in range(1, rows + 1) if rows % n == 0]
    residuals = Memory(words=1 << 20, read_ports=draw(st.integers(1, 2)))
    return Arch(
        name="drawn",
        clock_mhz=100.0,
        pe=rows,
        simd=rows * draw(st.sampled_from((1, 2, 3, 4, 8))),
        datapath=datapath,
        act_bits=1 if datapath is Datapath.XNOR else draw(st.sampled_from((2, 3, 4, 8, 12))),
        weight_bits=8 if datapath is Datapath.MUL else 1,
        acc_bits=48,
        residual_bits=draw(st.sampled_from((14, 16, 24))),
        post=Post.MULTIPLY,
        multiplier_bits=32,
        comparators=draw(st.sampled_from((1, 2, 15, 255))),
        lookups=draw(st.sampled_from(lookups)),
        product_bits=33,
        offset_bits=64,
        shift_bits=7,
        memories={**ROOMY, MemoryKind.RESIDUALS: residuals},
    )


@st.composite
def engine_programs(draw: st.DrawFn, *, max_steps: int = 5) -> EngineProgram:
    """Random programs of every kind of instruction, each on a drawn engine that can execute it."""
    program = draw(programs(max_steps=max_steps))
    return map_program(program, draw(archs_for(program)))


@st.composite
def archs_for(draw: st.DrawFn, program: Program) -> Arch:
    """Engines on which a program can run: the datapath takes its weights, pe divides what must be whole blocks."""
    one_bit = all(i.weight_bits == 1 for i in program.instructions if isinstance(i, Convolve))
    whole = [i.before for i in program.instructions if isinstance(i, PadChannels)]
    whole += [program.tensor[n].shape[2] for i in program.instructions if isinstance(i, Join) for n in i.inputs[:-1]]
    pe = tuple(n for n in (1, 2, 3, 4, 8, 16) if all(channels % n == 0 for channels in whole))
    return draw(archs(one_bit=one_bit, pe=pe))
