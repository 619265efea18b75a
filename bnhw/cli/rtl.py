"""The command `rtl`, and the comparison of `verify --against rtl`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bnhw.cli.console import progress_bar, say
from bnhw.cli.parameters import Kernels, Limit, Model, RequiredArch, Skip, kernel_choice, load_images, option
from bnhw.errors import BadInput, ComparisonFailed

if TYPE_CHECKING:
    from bnhw.dtypes import Array
    from bnhw.hardware.arch import Arch
    from bnhw.machine import Machine
    from bnhw.program import Program


def rtl(
    model: Model,
    output: Annotated[Path, option("DIR", "The folder to write; it must not exist.", "--output", "-o")],
    arch: RequiredArch,
    images: Annotated[
        Path | None, option("PATH", "Images for the vectors; without them, one of random pixels.", "--images")
    ] = None,
    skip: Skip = 0,
    limit: Limit = 1,
    kernels: Kernels = None,
) -> None:
    """Write the Verilog engine with a program in it.

    Memory images, vectors of every layer, and a testbench that compares them under Verilator and Icarus.
    """
    import bnhw
    from bnhw.hardware.mapping import map_program
    from bnhw.hardware.schedule import schedule_engine
    from bnhw.rtl.image import require_fit
    from bnhw.rtl.vectors import require_new, write_project

    require_new(output)
    engine = load_engine(arch)
    program = bnhw.load(model)
    pixels = _random_image(program) if images is None else load_images(program, images, None, skip, limit).pixels
    mapped = map_program(program, engine)
    require_fit(mapped)
    step_cycles = [step.cycles.total for step in schedule_engine(mapped).steps]
    write_project(output, program, engine, pixels, step_cycles, kernel_choice(kernels))
    say(
        f"wrote {output}: {len(step_cycles)} steps, {sum(step_cycles):,} cycles an image, {len(pixels)} image(s); "
        f"`make -C {output} verilator` or `make -C {output} icarus` compares"
    )


def load_engine(arch: str | None) -> "Arch":
    """The engine that is asked for. Raises BadInput where none is, or it cannot be built."""
    from bnhw.hardware.arch_file import load_arch, shipped_archs

    if arch is None:
        raise BadInput(f"name an engine with --arch: a TOML file, or one of {', '.join(shipped_archs())}")
    return load_arch(arch)


def compare_with_rtl(machine: "Machine", arch: str | None, pixels: "Array", title: str) -> dict[str, Any]:
    """What a summary shows; raises ComparisonFailed at the first difference of integers, cycles or memory traffic."""
    from bnhw.hardware.schedule import schedule_engine
    from bnhw.rtl.machine import RtlMachine
    from bnhw.rtl.verify import compare_rtl

    verilog = RtlMachine(machine.program, load_engine(arch))
    trace = schedule_engine(verilog.engine)
    verilog.most_cycles = 2 * trace.cycles.total + 1000
    with progress_bar("comparing with rtl", len(pixels)) as progress:
        compared = compare_rtl(verilog, machine, trace, pixels, progress)
    if compared.difference:
        raise ComparisonFailed(f"{title}: {compared.difference}")
    return {
        "tensors_compared": compared.tensors,
        "integers_compared": compared.integers,
        "steps_compared": compared.steps,
        "cycles": compared.cycles,
    }


def _random_image(program: "Program") -> "Array":
    import numpy as np

    shape = (1, *program.tensor[program.input].shape)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
