"""The whole engine is synthesizable Verilog: no latch, no net with two drivers or none, under Yosys."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from verilog_helpers import RTL, needs_yosys

from bnhw.hardware.arch import Arch
from bnhw.hardware.arch_file import load_arch
from bnhw.rtl.parameters import parameters

SMALL = {"pe": 2, "simd": 4, "acc_bits": 16, "residual_bits": 12, "lookups": 0, "comparators": 0}

ENGINES = [
    {"datapath": "mux", "post": "shift", "act_bits": 4},
    {"datapath": "and", "post": "csd", "csd_digits": 2, "lookups": 2},
    {"datapath": "xnor", "post": "shift", "comparators": 3},
    {"datapath": "mul", "post": "multiply", "weight_bits": 4, "product_bits": 9, "comparators": 1, "lookups": 1},
]


def small_engine(options: Mapping[str, object]) -> Arch:
    return load_arch("engine-16x64").with_options(**{**SMALL, **options})


def check_engine(folder: Path, arch: Arch) -> str:
    """What Yosys complains about; nothing where all is well."""
    chosen = "".join(f" -chparam {name} {value}" for name, value in parameters(arch).items())
    sources = " ".join(sorted(path.name for path in folder.glob("*.v") if "testbench" not in path.name))
    lines = [f"read_verilog {sources}", f"hierarchy -check -top engine{chosen}", "proc", "check -assert"]
    lines.append(r"select -assert-none t:$dlatch t:$adlatch t:$dlatchsr t:$sr")
    command = ["yosys", "-q", "-p", "; ".join(lines)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip() if done.returncode else ""


@needs_yosys
@pytest.mark.parametrize("options", ENGINES)
def test_engine_has_no_latch_and_no_net_with_two_drivers(options: Mapping[str, object]) -> None:
    assert check_engine(RTL, small_engine(options)) == ""


@needs_yosys
@pytest.mark.parametrize(
    ("added", "complaint"),
    [
        ("reg held; always @* if (start) held = reset; wire [1:0] use_it = {held, start};", "dlatch"),
        ("wire twice; assign twice = start & reset; assign twice = start | reset;", "problems in 'check -assert'"),
    ],
)
def test_a_latch_and_a_second_driver_are_seen(tmp_path: Path, added: str, complaint: str) -> None:
    for path in (*RTL.glob("*.v"), *RTL.glob("*.vh")):
        shutil.copy(path, tmp_path)
    engine = tmp_path / "engine.v"
    head, end = engine.read_text().rsplit("endmodule", 1)
    engine.write_text(f"{head}{added}\nendmodule{end}")
    assert complaint in check_engine(tmp_path, small_engine(ENGINES[0]))
