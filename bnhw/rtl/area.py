"""Measured areas: the cells that a part of the engine becomes on a target, and what they amount to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bnhw.errors import BadInput


class Target(Enum):
    """What a design is mapped to."""

    LIBERTY = "liberty"
    GENERIC = "generic"
    XILINX7 = "xilinx7"
    ICE40 = "ice40"
    ECP5 = "ecp5"


TRANSISTORS = {"$_NOT_": 2, "$_NAND_": 4, "$_NOR_": 4, "$_AND_": 6, "$_OR_": 6, "$_XOR_": 12, "$_XNOR_": 12}
TRANSISTORS |= {"$_MUX_": 12, "$_BUF_": 1, "$_DFF_P_": 16}
"""Transistors of a gate in static CMOS, as in Yosys' `stat -tech cmos`."""

RESOURCES = {
    "lut": re.compile(r"LUT[1-6]|SB_LUT4|INV"),
    "carry": re.compile(r"CARRY4|SB_CARRY|CCU2C"),
    "multiplexer": re.compile(r"MUXF[78]|PFUMX|L6MUX21"),
    "flip_flop": re.compile(r"FD[CPRS]E.*|SB_DFF.*|TRELLIS_FF"),
    "dsp": re.compile(r"DSP48E1|SB_MAC16|MULT18X18D"),
}
"""The cells of an FPGA by what they are; a carry cell is 4 bits wide on Xilinx, 1 on iCE40, 2 on ECP5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """The cells of one design on one target, by kind.

    square_micrometres: on standard cells, the area by each script of `bnhw.rtl.synthesis`; `cells` are those of the
    smallest.
    dsp: whether multiplier blocks of an FPGA were allowed.
    """

    design: str
    title: str
    target: Target
    dsp: bool = True
    cells: Mapping[str, int]
    square_micrometres: tuple[float, ...] = ()

    @property
    def transistors(self) -> int:
        """Of generic gates in static CMOS."""
        return sum(TRANSISTORS[kind] * count for kind, count in self.cells.items())

    @property
    def least(self) -> float:
        """Square micrometres."""
        return min(self.square_micrometres)

    @property
    def spread(self) -> float:
        """How much larger the largest of the results is than the smallest, as a fraction."""
        return max(self.square_micrometres) / self.least - 1

    @property
    def resources(self) -> dict[str, int]:
        """The FPGA's cells by `RESOURCES`, and under `other` those that are none of them."""
        counts = dict.fromkeys((*RESOURCES, "other"), 0)
        for kind, count in self.cells.items():
            names = [name for name, pattern in RESOURCES.items() if pattern.fullmatch(kind)]
            counts[names[0] if names else "other"] += count
        return counts

    def as_json(self) -> dict[str, object]:
        """Everything, in plain values."""
        return {
            "design": self.design,
            "title": self.title,
            "target": self.target.value,
            "dsp": self.dsp,
            "cells": dict(self.cells),
            "square_micrometres": list(self.square_micrometres),
        }


def area_from_json(row: Mapping[str, object]) -> Area:
    """The inverse of `Area.as_json`. Raises BadInput where a key is missing or of another type."""
    match row:
        case {
            "design": str(design),
            "title": str(title),
            "target": str(target),
            "dsp": bool(dsp),
            "cells": dict(cells),
            "square_micrometres": list(areas),
        } if target in [each.value for each in Target]:
            return Area(
                design=design,
                title=title,
                target=Target(target),
                dsp=dsp,
                cells={str(kind): int(count) for kind, count in cells.items()},
                square_micrometres=tuple(float(area) for area in areas),
            )
    raise BadInput(f"no measured area: {str(row)[:200]}; make the file anew with benchmarks/area.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaReport:
    """Measured areas and what they were measured with; `liberty` is empty where no standard cells were used."""

    yosys: str
    liberty: str
    areas: tuple[Area, ...]

    def find(self, design: str, target: Target, *, dsp: bool = True) -> Area | None:
        """The area of one design on one target, if it was measured."""
        for area in self.areas:
            if (area.design, area.target, area.dsp) == (design, target, dsp):
                return area
        return None

    def as_json(self) -> dict[str, object]:
        """Everything, in plain values."""
        return {"yosys": self.yosys, "liberty": self.liberty, "areas": [area.as_json() for area in self.areas]}


def report_from_json(content: object) -> AreaReport:
    """The inverse of `AreaReport.as_json`. Raises BadInput where something is missing or of another type."""
    match content:
        case {"yosys": str(yosys), "liberty": str(liberty), "areas": list(rows)}:
            return AreaReport(yosys=yosys, liberty=liberty, areas=tuple(area_from_json(row) for row in rows))
    raise BadInput("no report of areas; make the file anew with benchmarks/area.py")
