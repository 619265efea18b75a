"""What `bnhw rtl` writes: one folder whose testbench compares the Verilog with the reference, under both simulators."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from program_builder import one_of_each
from rtl_helpers import ENGINES, MUX, cycles, needs_verilator, random_images
from verilog_helpers import needs_icarus

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.hardware.arch import Arch
from bnhw.hardware.mapping import map_program
from bnhw.program import Program
from bnhw.rtl.vectors import write_project

SMALL = replace(ENGINES["mul"], name="small", pe=1, simd=4, lookups=1, post=MUX.post, multiplier_bits=16)


def project(folder: Path, program: Program, arch: Arch, images: Array) -> list[int]:
    """Write one; the cycles of its steps."""
    expected = cycles(map_program(program, arch))
    write_project(folder, program, arch, images, expected)
    return expected


def run(folder: Path, *command: str) -> list[str]:
    """What the testbench prints, from the folder itself."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def icarus(folder: Path) -> list[str]:
    """The lines of the testbench itself."""
    return [line for line in run(folder, "make", "icarus") if line.startswith(("step", "PASS", "FAIL", "FIRST"))]


@pytest.fixture(scope="module")
def program() -> Program:
    return one_of_each()


@needs_icarus
@pytest.mark.parametrize("simd", [1, 3])
def test_icarus_agrees_with_the_reference(program: Program, simd: int, tmp_path: Path) -> None:
    arch = replace(SMALL, simd=simd)
    expected = project(tmp_path / "out", program, arch, random_images(program, 2))
    *steps, last = icarus(tmp_path / "out")
    assert [int(re.findall(r": (\d+) cycles", line)[0]) for line in steps] == expected
    assert last == f"PASS: 2 images, {steps_results(program, arch)} results each, cycles of all {len(expected)} steps"


def steps_results(program: Program, arch: Arch) -> int:
    return sum(step.pixels * step.blocks for step in map_program(program, arch).steps)


@pytest.mark.slow
@needs_icarus
@needs_verilator
@pytest.mark.parametrize("name", ["mux", "small"])
def test_verilator_and_icarus_print_the_same(program: Program, name: str, tmp_path: Path) -> None:
    arch, chosen = SMALL, program
    if name == "mux":
        from test_rtl_networks import bits_network

        arch, chosen = MUX, bits_network()
    project(tmp_path / "out", chosen, arch, random_images(chosen, 2))
    printed = icarus(tmp_path / "out")
    assert printed[-1].startswith("PASS: 2 images")
    lines = run(tmp_path / "out", "make", "verilator")
    assert [line for line in lines if line.startswith(("step", "PASS", "FAIL", "FIRST"))] == printed


@needs_icarus
def test_the_testbench_tells_the_first_difference(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    project(folder, program, SMALL, random_images(program, 1))
    path = folder / "vectors" / "raw.mem"
    lines = path.read_text().splitlines()
    lines[3] = f"{int(lines[3], 16) ^ 1:0{len(lines[3])}x}"  # step 0, pixel 1, channel 1: 2 blocks of one channel
    path.write_text("\n".join(lines) + "\n")
    first, *_, last = icarus(folder)
    assert re.match(
        r"FIRST DIFFERENCE: image 0, step 0 \(t0\), pixel 1, channel 1, cycle \d+:\s+raw sum \d+, \d+ exp", first
    )
    assert last == "FAIL: 1 differences"


@needs_icarus
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("memory/weights.mem", r"FIRST DIFFERENCE: image 0, step \d+ \(t\d+\), pixel \d+, channel \d+, cycle \d+: "),
        ("vectors/cycles.mem", r"FIRST DIFFERENCE: image 0, step 0 \(t0\): \d+ cycles found, \d+ expected"),
        ("vectors/saturations.mem", r"FIRST DIFFERENCE: image 0, step 0 \(t0\): 0 sums clamped so far, \d+ expected"),
        ("vectors/output.mem", r"FIRST DIFFERENCE: image 0, word 0 of the output tensor: "),
    ],
)
def test_a_changed_word_fails(program: Program, file: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    project(folder, program, SMALL, random_images(program, 1))
    path = folder / file
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([f"{int(first, 16) ^ 5:0{len(first)}x}", *rest]) + "\n")
    lines = icarus(folder)
    assert re.match(message, next(line for line in lines if line.startswith("FIRST")))
    assert re.match(r"FAIL: \d+ differences", lines[-1])


def test_a_folder_that_exists_or_cannot_be_made_is_refused(program: Program, tmp_path: Path) -> None:
    images = random_images(program, 1)
    with pytest.raises(BadInput, match="exists already; choose a folder that does not, or remove it"):
        project(tmp_path, program, SMALL, images)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file/out: cannot be written \(Not a directory\)"):
        project(tmp_path / "file" / "out", program, SMALL, images)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_verilog_is_the_same_for_every_program_and_engine(program: Program, tmp_path: Path) -> None:
    for name, arch in (("one", SMALL), ("other", replace(SMALL, simd=2))):
        project(tmp_path / name, program, arch, random_images(program, 1))
    files = sorted(path.name for path in (tmp_path / "one" / "verilog").iterdir())
    assert "engine.v" in files and "descriptor.vh" in files
    for path in (*(f"verilog/{name}" for name in files), "testbench.v", "Makefile"):
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes()
    assert (tmp_path / "one" / "vectors.vh").read_bytes() != (tmp_path / "other" / "vectors.vh").read_bytes()
