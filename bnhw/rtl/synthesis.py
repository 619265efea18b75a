"""The area of parts of the engine, by Yosys: standard cells, generic gates, or the cells of an FPGA.

What is counted is logic after mapping. Wires, placement, clock trees and memories are not in it, and no clock is met:
mapping is for area. The same circuit written differently, or mapped by another script, comes out some per cent
different; on standard cells each design is mapped by every script of `ABC_SCRIPTS`, and the range is told.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bnhw.errors import BadInput, MissingDependency
from bnhw.rtl.area import Area, AreaReport, Target
from bnhw.rtl.designs import Design

SOURCES = Path(__file__).parent
SECONDS = 1200
LIBERTY_NAME = "cells.lib"


ABC_SCRIPTS = (
    "+strash;dc2;strash;&get,-n;&nf;&put",
    "+strash;dc2;dc2;dc2;strash;&get,-n;&nf;&put",
    "+strash;dc2;dc2;ifraig;scorr;dc2;strash;&get,-n;&nf;&put",
)
"""Area-oriented mapping to standard cells (abc's &nf), after more and more rewriting (dc2)."""

FPGA_COMMANDS = {
    Target.XILINX7: ("synth_xilinx -family xc7 -flatten -noiopad", "", " -nodsp"),
    Target.ICE40: ("synth_ice40 -flatten", " -dsp", ""),
    Target.ECP5: ("synth_ecp5 -flatten", "", " -nodsp"),
}
"""Yosys' command of each family, what it needs to use multiplier blocks, and to use none."""


def synthesis_script(design: Design, target: Target, *, dsp: bool = True) -> str:
    """The Yosys script that maps one design and writes its cells to `cells_0.json`, and so on for each mapping.

    It reads the design's sources and, for standard cells, `cells.lib` in the folder that it runs in.
    """
    parameters = "".join(f" -chparam {name} {value}" for name, value in design.parameters.items())
    lines = [f"read_verilog {' '.join(_verilog(design))}", *(f"blackbox {name}" for name in design.black_boxes)]
    lines += [f"hierarchy -check -top {design.module}{parameters}", "proc", "check -assert"]
    lines += ["rename -top measured", "select -module measured"]
    for port, constant in design.constants.items():
        lines += [f"delete -input w:{port}", f"connect -nounset -set {port} {constant.bits}'d{constant.value}"]
    lines += ["select -clear", *_mapping(target, dsp)]
    return "\n".join([*lines, ""])


def _verilog(design: Design) -> tuple[str, ...]:
    return (f"{design.module}.v", *(name for name in design.sources if name.endswith(".v")))


def _mapping(target: Target, dsp: bool) -> list[str]:
    match target:
        case Target.LIBERTY:
            lines = ["synth -flatten", f"dfflibmap -liberty {LIBERTY_NAME}", "design -save synthesised"]
            for number, abc in enumerate(ABC_SCRIPTS):
                lines += ["design -load synthesised", f"abc -liberty {LIBERTY_NAME} -script {abc}", *_writing(number)]
            return lines
        case Target.GENERIC:
            legal = "dfflegalize -cell $_DFF_P_ 01"
            return ["synth -flatten", legal, "abc -g AND,NAND,OR,NOR,XOR,XNOR,MUX", *_writing(0)]
        case _:
            command, with_dsp, without = FPGA_COMMANDS[target]
            return [f"{command}{with_dsp if dsp else without} -top measured", *_writing(0)]


def _writing(number: int) -> list[str]:
    return ["opt_clean -purge", f"tee -q -o cells_{number}.json stat -json"]


def synthesize(
    designs: Iterable[Design], target: Target, *, liberty: str = "", dsp: bool = True, keep: Path | None = None
) -> tuple[Area, ...]:
    """The area of each design on a target, one Yosys at a time.

    liberty: the text of a Liberty file, for `Target.LIBERTY`. keep: a folder that exists, to which the scripts are
    written as they are run. Raises MissingDependency where Yosys is not installed, BadInput where it fails.
    """
    areas = cell_areas(liberty) if target is Target.LIBERTY else {}
    return tuple(_synthesize(design, target, liberty, areas, dsp, keep) for design in designs)


def measure_areas(
    designs: Sequence[Design],
    targets: Sequence[Target],
    *,
    liberty: str = "",
    liberty_name: str = "",
    keep: Path | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> AreaReport:
    """Each design on each of its targets; designs that multiply on an FPGA also without its multiplier blocks.

    `done` is told how many designs of how many (`count_runs`) are done. Errors as in `synthesize`.
    """
    areas: list[Area] = []
    for target in targets:
        for design in designs:
            for dsp in _runs(design, target):
                areas += synthesize([design], target, liberty=liberty, dsp=dsp, keep=keep)
                done(len(areas))
    named = liberty_name if Target.LIBERTY in targets else ""
    return AreaReport(yosys=yosys_version(), liberty=named, areas=tuple(areas))


def count_runs(designs: Sequence[Design], targets: Sequence[Target]) -> int:
    """How many areas `measure_areas` measures."""
    return sum(len(_runs(design, target)) for design in designs for target in targets)


def _runs(design: Design, target: Target) -> tuple[bool, ...]:
    if target not in design.targets:
        return ()
    return (True, False) if design.multiplies and target in FPGA_COMMANDS else (True,)


def yosys_version() -> str:
    """`Yosys 0.23`, say. Raises MissingDependency where it is not installed."""
    done = subprocess.run([_yosys(), "-V"], capture_output=True, text=True, check=False)  # noqa: S603
    return " ".join(done.stdout.split()[:2])


def _yosys() -> str:
    yosys = shutil.which("yosys")
    if yosys is None:
        raise MissingDependency("measuring area needs Yosys, which is not installed; install it (Debian: yosys)")
    return yosys


def _synthesize(
    design: Design, target: Target, liberty: str, areas: Mapping[str, float], dsp: bool, keep: Path | None
) -> Area:
    script = synthesis_script(design, target, dsp=dsp)
    if keep is not None:
        name = f"{re.sub('[^a-z0-9]+', '_', design.name)}_{target.value}{'' if dsp else '_no_dsp'}.ys"
        (keep / name).write_text(script)
    results = _run_yosys(script, design, liberty)
    measured = [sum(areas[kind] * count for kind, count in cells.items()) for cells in results] if areas else []
    return Area(
        design=design.name,
        title=design.title,
        target=target,
        dsp=dsp,
        cells=results[measured.index(min(measured))] if measured else results[0],
        square_micrometres=tuple(round(area, 4) for area in measured),
    )


def _run_yosys(script: str, design: Design, liberty: str) -> list[dict[str, int]]:
    """The cells by kind, of each mapping."""
    yosys = _yosys()
    with tempfile.TemporaryDirectory(prefix="bnhw-synthesis-") as name:
        folder = Path(name)
        for source in {*_verilog(design), *design.sources}:
            shutil.copy(SOURCES / source, folder)
        (folder / "script.ys").write_text(script)
        if liberty:
            (folder / LIBERTY_NAME).write_text(liberty)
        command = [yosys, "-q", "script.ys"]
        try:
            done = subprocess.run(  # noqa: S603 - a script of our own, in a folder of our own
                command, cwd=folder, capture_output=True, text=True, check=False, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BadInput(
                f"{design.name}: Yosys was not done after {SECONDS} s; synthesise a smaller design"
            ) from error
        outputs = sorted(folder.glob("cells_*.json"))
        if done.returncode or not outputs:
            end = (done.stdout + done.stderr).strip()[-500:]
            raise BadInput(f"{design.name}: Yosys ended with {done.returncode}: {end}\nThe script was:\n{script}")
        return [_counts(output, design) for output in outputs]


def _counts(output: Path, design: Design) -> dict[str, int]:
    counts = json.loads(output.read_text())["design"]["num_cells_by_type"]
    return {kind: int(count) for kind, count in sorted(counts.items()) if kind not in design.black_boxes}


CELL = re.compile(r'\bcell\s*\(\s*"?([\w$]+)"?\s*\)')
CELL_AREA = re.compile(r"\barea\s*:\s*\"?([\d.eE+-]+)\"?\s*;")


def cell_areas(liberty: str) -> dict[str, float]:
    """The area of each cell of a Liberty file. Raises BadInput where there is none."""
    pieces = CELL.split(liberty)
    areas = {}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        found = CELL_AREA.search(body)
        if found:
            areas[name] = float(found[1])
    if not any(areas.values()):
        raise BadInput("the Liberty file holds no cell with an area; name the one of a standard cell library")
    return areas
