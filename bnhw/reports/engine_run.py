"""Programs run on engines as they are named: by shipped name, by file, or by value."""

from pathlib import Path

from bnhw.errors import BadInput
from bnhw.hardware.arch import Arch
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.energy import price
from bnhw.hardware.mapping import map_program
from bnhw.hardware.schedule import schedule_engine
from bnhw.hardware.technology import Technology
from bnhw.hardware.technology_file import load_technology
from bnhw.hardware.trace import MemoryKind
from bnhw.program import Program
from bnhw.reports.engine import EngineRun


def run_on_engine(
    program: Program, arch: str | Path | Arch | None, tech: str | Path | Technology | None = None
) -> EngineRun | None:
    """What happens on the engine, and what that costs where a technology is named; None where no engine is named.

    Raises BadInput for a name or file that cannot be used and for a technology without an engine, ArchMismatch where
    the engine cannot execute the program.
    """
    if arch is None:
        if tech is not None:
            raise BadInput("a technology prices what happens on an engine; name an engine, too: --arch NAME or arch=")
        return None
    engine = arch if isinstance(arch, Arch) else load_arch(arch)
    technology = tech if isinstance(tech, Technology) or tech is None else load_technology(tech)
    mapped = map_program(program, engine)
    trace = schedule_engine(mapped)
    return EngineRun(
        arch=engine,
        trace=trace,
        needed_bits={kind: words * _bits_per_word(engine, kind) for kind, words in mapped.required_words.items()},
        technology=technology,
        energy=None if technology is None else price(trace, technology),
    )


def _bits_per_word(arch: Arch, kind: MemoryKind) -> int:
    """What one more word takes in all banks or copies of a memory, as `Arch.memory_shapes` counts them."""
    memory = arch.memories.get(kind)
    return arch.word_bits(kind) if memory is None else arch.memory_shapes[kind].capacity_bits // memory.words
