"""Areas by synthesis: what is counted, that it is the module's own circuit, and what docs/area.md says."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from verilog_helpers import RTL, needs_icarus, needs_yosys, pack, run_module

from bnhw.cli.console import as_text
from bnhw.errors import BadInput, MissingDependency
from bnhw.hardware.arch import Arch, Datapath
from bnhw.hardware.arch_file import load_arch
from bnhw.reports.area import COMPARISONS, area_markdown, area_tables
from bnhw.rtl import synthesis
from bnhw.rtl.area import Area, AreaReport, Target, area_from_json, report_from_json
from bnhw.rtl.designs import GROUPS, Design, all_designs, dot_design
from bnhw.rtl.engine_designs import ENGINE_GROUP, part_designs, small_engines, whole_engine
from bnhw.rtl.liberty import Cell, write_liberty
from bnhw.rtl.synthesis import ABC_SCRIPTS, count_runs, measure_areas, synthesis_script, synthesize, yosys_version

DOCS = Path(__file__).parent.parent / "docs"
DESIGNS = {design.name: design for design in all_designs()}

FIRST_MEASUREMENT = {
    "xnor": 582,
    "and4": 2307,
    "mux4": 3690,
    "and8": 4434,
    "mux8": 6927,
    "mul8x8": 41292,
    "fixed shift": 408,
    "barrel shift": 956,
    "15 thresholds": 5260,
    "multiply:8": 5459,
    "multiply:16": 11554,
}
"""Square micrometres of other Verilog for the same functions, by the first of `ABC_SCRIPTS`."""

SMALLER = {"15 thresholds"}
"""There, each threshold was compared; here it is subtracted, and rewriting goes further: that circuit gave 4441."""


def small_arch() -> Arch:
    """1 x 2 multiplexers and a shift."""
    sizes = {"pe": 1, "simd": 2, "act_bits": 2, "acc_bits": 12, "offset_bits": 12, "multiplier_bits": 2}
    options = {"post": "shift", "shift_bits": 2, "comparators": 0, "lookups": 0, "residual_bits": 12}
    return load_arch("engine-16x64").with_options(**sizes, **options)


@pytest.fixture(scope="module")
def stored() -> AreaReport:
    return report_from_json(json.loads((DOCS / "area.json").read_text()))


def test_document_says_what_was_measured(stored: AreaReport) -> None:
    text = (DOCS / "area.md").read_text()
    assert text.split("<!-- results -->\n\n")[1] == area_markdown(stored, (*GROUPS, ENGINE_GROUP))


def test_everything_is_measured_on_every_target(stored: AreaReport) -> None:
    designs = all_designs() + small_engines()
    assert len(stored.areas) == count_runs(designs, tuple(Target))
    for design in designs:
        for target in design.targets:
            area = stored.find(design.name, target)
            assert area is not None
            assert area.title == design.title


def test_every_cell_of_an_fpga_is_of_a_known_kind(stored: AreaReport) -> None:
    for area in stored.areas:
        if area.target in synthesis.FPGA_COMMANDS:
            assert area.resources["other"] == 0, area.cells
            assert area.resources["flip_flop"] == 0
            assert sum(area.resources.values()) == sum(area.cells.values())


@pytest.mark.parametrize(("name", "square_micrometres"), FIRST_MEASUREMENT.items())
def test_area_is_that_of_the_first_measurement(stored: AreaReport, name: str, square_micrometres: float) -> None:
    area = stored.find(name, Target.LIBERTY)
    assert area is not None
    if name in SMALLER:
        assert area.least < square_micrometres
    else:
        assert area.least == pytest.approx(square_micrometres, rel=0.15)


def test_stored_report_reads_back(stored: AreaReport) -> None:
    assert report_from_json(json.loads(json.dumps(stored.as_json()))) == stored


@pytest.mark.parametrize("content", [[], {}, {"yosys": "0", "liberty": 3, "areas": []}])
def test_a_file_that_holds_no_report_is_refused(content: object) -> None:
    with pytest.raises(BadInput, match="no report of areas"):
        report_from_json(content)


@pytest.mark.parametrize("change", [{"target": "vacuum"}, {"cells": 3}, {"dsp": None}])
def test_a_row_that_holds_no_area_is_refused(stored: AreaReport, change: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"no measured area: .*benchmarks/area\.py"):
        area_from_json({**stored.areas[0].as_json(), **change})


MADE = AreaReport(
    yosys="Yosys 0.0",
    liberty="none",
    areas=(
        Area(design="mux8", title="a", target=Target.LIBERTY, cells={"inv": 3}, square_micrometres=(10.0, 12.5)),
        Area(design="mul8x8", title="b", target=Target.LIBERTY, cells={"inv": 9}, square_micrometres=(30.0,)),
        Area(design="mux8", title="a", target=Target.ICE40, cells={"SB_LUT4": 4, "SB_CARRY": 2}),
        Area(design="mul8x8", title="b", target=Target.ICE40, cells={"SB_LUT4": 1, "SB_MAC16": 2}),
        Area(design="mul8x8", title="b", target=Target.ICE40, dsp=False, cells={"SB_LUT4": 10}),
    ),
)


def test_tables_show_sizes_ranges_and_ratios() -> None:
    lines = area_markdown(MADE, [("Parts", ["mux8", "mul8x8", "absent"])]).splitlines()
    assert lines[0] == "Measured with Yosys 0.0, standard cells: none."
    assert "| part | um2 | range | iCE40: LUT / carry / DSP |" in lines
    assert "| mux8: a | 10 | +25% | 4 / 2 / 0 |" in lines
    assert "| mul8x8: b | 30 | +0% | 1 / 0 / 2 |" in lines
    assert "| mul8x8, no DSP |  |  | 10 / 0 / 0 |" in lines
    assert f"| {COMPARISONS[0][0]} | 3.0 | 2.5 |" in lines
    assert not any("absent" in line for line in lines)
    printed = as_text(area_tables(MADE, [("Parts", ["mux8"])]))
    assert re.search(r"mux8: a +10 +\+25% +4 / 2 / 0", printed)


def test_cells_are_counted_by_what_they_are() -> None:
    cells = {"LUT6": 1, "INV": 1, "CARRY4": 2, "MUXF7": 3, "FDRE": 4, "DSP48E1": 5, "RAMB18E1": 6}
    area = Area(design="a", title="", target=Target.XILINX7, cells=cells)
    assert area.resources == {"lut": 2, "carry": 2, "multiplexer": 3, "flip_flop": 4, "dsp": 5, "other": 6}


SMALL_MUX = dot_design("small mux", Datapath.MUX, 4, 1, "", simd=4)
SMALL_MUL = dot_design("small mul", Datapath.MUL, 4, 4, "", simd=4)


@needs_yosys
@pytest.mark.parametrize("target", [Target.GENERIC, Target.ICE40])
def test_multiplexer_is_smaller_than_multiplier_and_shift_than_multiply(target: Target) -> None:
    designs = [SMALL_MUX, SMALL_MUL, DESIGNS["fixed shift"], DESIGNS["multiply:8"]]
    areas = synthesize(designs, target, dsp=False)
    sizes = [area.transistors if target is Target.GENERIC else area.resources["lut"] for area in areas]
    assert 2 * sizes[0] < sizes[1]
    assert 5 * sizes[2] < sizes[3]


@needs_yosys
def test_multiplier_blocks_are_used_where_they_are_allowed() -> None:
    report = measure_areas([SMALL_MUX, DESIGNS["multiply:16"]], [Target.ICE40])
    found = {(area.design, area.dsp): area.resources["dsp"] for area in report.areas}
    assert found == {("small mux", True): 0, ("multiply:16", True): 1, ("multiply:16", False): 0}


@needs_yosys
def test_one_masked_lane_is_an_and_gate_a_bit() -> None:
    (area,) = synthesize([dot_design("and", Datapath.AND, 4, 1, "", simd=1)], Target.GENERIC)
    assert area.cells == {"$_AND_": 4}
    assert area.transistors == 24


@needs_yosys
def test_transistors_are_those_that_yosys_estimates(tmp_path: Path) -> None:
    (area,) = synthesize([SMALL_MUX], Target.GENERIC)
    script = synthesis_script(SMALL_MUX, Target.GENERIC) + "tee -o stat.txt stat -tech cmos\n"
    run_script(tmp_path, SMALL_MUX, script)
    (found,) = re.findall(r"Estimated number of transistors:\s+(\d+)", (tmp_path / "stat.txt").read_text())
    assert area.transistors == int(found)


NAND = Cell(name="nand", area=2.0, inputs=("A", "B"), output="Y", function="!(A&B)")
NOT = Cell(name="not", area=1.0, inputs=("A",), output="Y", function="!A")
BUFFER = Cell(name="buffer", area=1.0, inputs=("A",), output="Y", function="A")


@needs_yosys
def test_standard_cells_are_mapped_by_every_script_and_added_up(tmp_path: Path) -> None:
    library = write_liberty("three", (NAND, NOT, BUFFER))
    (area,) = synthesize([SMALL_MUX], Target.LIBERTY, liberty=library, keep=tmp_path)
    assert set(area.cells) == {"nand", "not"}
    assert area.least == 2 * area.cells["nand"] + area.cells["not"]
    assert (
        len(area.square_micrometres)
        == len(ABC_SCRIPTS)
        == (tmp_path / "small_mux_liberty.ys").read_text().count("abc ")
    )
    (single,) = synthesize([dot_design("and", Datapath.AND, 4, 1, "", simd=1)], Target.LIBERTY, liberty=library)
    assert single.square_micrometres == (12.0,) * 3


def run_script(folder: Path, design: Design, script: str) -> None:
    shutil.copy(RTL / f"{design.module}.v", folder)
    (folder / "script.ys").write_text(script)
    command = ["yosys", "-q", "script.ys"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def simulate_gates(folder: Path, design: Design) -> tuple[list[int], list[int]]:
    """(found, expected): the gates of the fixed shift under Icarus, and the formula."""
    run_script(folder, design, synthesis_script(design, Target.GENERIC) + "write_verilog -noattr measured.v\n")
    rng = np.random.default_rng(3)
    acc, offset = (rng.integers(-(1 << 15), 1 << 15, 300) >> rng.integers(0, 12, 300) for _ in range(2))
    found = run_module(
        folder,
        folder / "measured.v",
        parameters={},
        inputs={"acc": 16, "offset": 16},
        output=("q", 5, True),
        vectors=[{"acc": int(a), "offset": int(b)} for a, b in zip(acc, offset, strict=True)],
    )
    return found, [int(q) for q in ((acc + offset) >> 6).clip(0, 15)]


@needs_yosys
@needs_icarus
def test_fixed_inputs_leave_the_circuit_that_they_fix(tmp_path: Path) -> None:
    found, expected = simulate_gates(tmp_path, DESIGNS["fixed shift"])
    assert found == expected
    assert len(set(found)) == 16


@needs_yosys
@needs_icarus
def test_another_fixed_input_is_seen(tmp_path: Path) -> None:
    design = DESIGNS["fixed shift"]
    constants = {**design.constants, "shift": replace(design.constants["shift"], value=5)}
    found, expected = simulate_gates(tmp_path, replace(design, constants=constants))
    assert found != expected


@needs_yosys
@needs_icarus
def test_gates_of_a_dot_product_give_its_sum(tmp_path: Path) -> None:
    run_script(tmp_path, SMALL_MUX, synthesis_script(SMALL_MUX, Target.GENERIC) + "write_verilog -noattr measured.v\n")
    rng = np.random.default_rng(4)
    x, w = rng.integers(0, 16, (200, 4)), rng.integers(0, 2, (200, 4))
    found = run_module(
        tmp_path,
        tmp_path / "measured.v",
        parameters={},
        inputs={"x": 16, "w": 4, "used": 4},
        output=("sum", 7, True),
        vectors=[{"x": pack(a, 4), "w": pack(b, 1), "used": 15} for a, b in zip(x, w, strict=True)],
    )
    assert found == [int(total) for total in np.where(w == 1, x, -x).sum(axis=1)]


def test_yosys_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for call in (lambda: synthesize([SMALL_MUX], Target.GENERIC), yosys_version):
        with pytest.raises(MissingDependency, match="measuring area needs Yosys"):
            call()


@needs_yosys
def test_a_design_that_yosys_refuses_is_told_with_its_script() -> None:
    wrong = replace(SMALL_MUX, constants={"nowhere": DESIGNS["xnor"].constants["used"]})
    with pytest.raises(BadInput, match=r"small mux: Yosys ended with 1: [^\0]*nowhere[^\0]*The script was:\nread_veri"):
        synthesize([wrong], Target.GENERIC)


@needs_yosys
def test_yosys_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "SECONDS", 0.001)
    with pytest.raises(BadInput, match="small mux: Yosys was not done after"):
        synthesize([SMALL_MUX], Target.GENERIC)


def test_parts_of_an_engine_have_its_parameters() -> None:
    arch = load_arch("engine-16x64")
    dot, arithmetic, threshold = part_designs(arch)
    assert dot.parameters == {"DATAPATH": 0, "SIMD": 64, "ACT_BITS": 8, "WEIGHT_BITS": 1, "SUM_BITS": 15}
    assert (arithmetic.parameters["EXPONENTS"], arithmetic.parameters["CSD_DIGITS"]) == (18, 4)
    assert threshold.parameters == {"ACC_BITS": 33, "COMPARATORS": 15, "COUNT_BITS": 4}
    assert not any(design.constants or design.multiplies for design in (dot, arithmetic, threshold))
    multiplying = part_designs(load_arch("engine-16x64-mul8").with_options(comparators=0))
    assert [design.name for design in multiplying if design.multiplies] == ["dot", "post_arithmetic"]


def test_whole_engine_leaves_its_memories_out() -> None:
    lines = synthesis_script(small_engines()[0], Target.GENERIC).splitlines()
    assert " engine.v" in lines[0]
    assert " memory.v" in lines[0]
    assert "testbench" not in lines[0]
    assert lines[1] == "blackbox memory"
    assert [design.name for design in small_engines()] == list(ENGINE_GROUP[1])


@needs_yosys
@pytest.mark.slow
def test_whole_engine_without_its_memories_is_synthesised() -> None:
    (area,) = synthesize([whole_engine("engine", "", small_arch())], Target.GENERIC)
    assert area.cells["$_DFF_P_"] > 100
    assert "memory" not in area.cells
    assert area.transistors > 16 * area.cells["$_DFF_P_"]


QUICK = ("xnor", "and4", "mux4", "fixed shift", "barrel shift", "csd:2", "15 thresholds")


@needs_yosys
@pytest.mark.parametrize("name", QUICK)
def test_stored_areas_are_those_of_the_verilog_as_it_is(stored: AreaReport, name: str) -> None:
    if stored.yosys != yosys_version():
        pytest.skip(f"measured with {stored.yosys}, this is {yosys_version()}")
    (area,) = synthesize([DESIGNS[name]], Target.GENERIC)
    assert area == stored.find(name, Target.GENERIC)
