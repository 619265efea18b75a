"""`bnhw rtl` and `bnhw verify --against rtl` on the command line."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from cli_helpers import Call
from rtl_helpers import MUX, cycles, keep_builds, needs_verilator
from verilog_helpers import needs_icarus, needs_yosys

import bnhw
from bnhw.hardware.arch import Arch
from bnhw.hardware.mapping import map_program
from bnhw.rtl import build
from bnhw.rtl.area import Target, report_from_json


@pytest.fixture(autouse=True)
def builds(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_builds(tmp_path_factory, monkeypatch)


def toml(arch: Arch) -> str:
    """The description of an engine as a file."""
    values = {name: value for name, value in arch.values().items() if name not in ("memories", "dram")}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    lines += [f"memories.{kind.value}.words = {memory.words}" for kind, memory in arch.memories.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture
def engine(files: Path) -> Path:
    """The file of an engine in the working folder."""
    path = files / "mux.toml"
    path.write_text(toml(MUX))
    return path


@needs_verilator
def test_verify_compares_integers_and_cycles_with_the_verilog(files: Path, call: Call, engine: Path) -> None:
    program = bnhw.load("digits.bnhw")
    expected = cycles(map_program(program, MUX))
    arguments = ("verify", "digits.bnhw", "--images", "images.npz", "--arch", "mux.toml", "--tensors", "3", "--json")
    done = call(*arguments, "--against", "rtl")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {
        "bit_exact": True,
        "against": "rtl",
        "images_compared": 3,
        "tensors_compared": len(program.instructions),
        "integers_compared": 3 * sum(program.tensor[i.output].size for i in program.instructions),
        "steps_compared": len(expected),
        "cycles": sum(expected),
    }
    both = json.loads(call(*arguments, "--against", "reference,rtl").out)
    assert both == {**json.loads(done.out), "against": "reference, rtl"}


@needs_verilator
def test_verify_fails_where_the_verilog_takes_other_cycles(
    files: Path, call: Call, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnhw.hardware.timing.DRAIN", 7)
    done = call("verify", "digits.bnhw", "--images", "images.npz", "--against", "rtl", "--arch", "mux.toml")
    assert done.code == 3
    assert re.search(
        r"error: digits.bnhw: first difference in the cycles of step 0 \(sum, writes '.*'\), image 0: "
        r"\d+ \(rtl mux\) against \d+ \(schedule\)",
        done.err,
    )


def test_verify_names_the_package_of_a_missing_tool(
    files: Path, call: Call, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.verilator_version.cache_clear()
    monkeypatch.setenv("PATH", str(files))
    done = call("verify", "digits.bnhw", "--images", "images.npz", "--against", "rtl", "--arch", "mux.toml")
    assert done.code == 2
    assert "error: verilator is not installed; on Debian: apt-get install verilator" in done.err


def test_rtl_writes_a_folder_that_says_how_it_is_run(files: Path, call: Call, engine: Path) -> None:
    done = call("rtl", "digits.bnhw", "--arch", "mux.toml", "-o", "out", "--images", "images.npz", "--limit", "2")
    assert (done.code, done.out) == (0, "")
    total = sum(cycles(map_program(bnhw.load("digits.bnhw"), MUX)))
    assert re.search(
        rf"wrote out: \d+ steps, {total:,} cycles an image, 2 image\(s\); `make -C out verilator`", done.err
    )
    assert {path.name for path in Path("out").iterdir()} == {
        *("Makefile", "README.md", "memory", "testbench.v", "vectors", "vectors.vh", "verilog")
    }
    text = Path("out/README.md").read_text()
    assert "make verilator" in text and "make icarus" in text and f"{total} cycles an image" in text


@pytest.mark.slow
@needs_icarus
def test_rtl_without_images_takes_one_of_random_pixels(files: Path, call: Call, engine: Path) -> None:
    assert call("rtl", "digits.bnhw", "--arch", "mux.toml", "-o", "out").code == 0
    command = ("make", "-C", "out", "icarus")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"PASS: 1 images, \d+ results each, cycles of all \d+ steps", done.stdout)


def test_rtl_refuses_an_engine_with_too_little_memory(files: Path, call: Call) -> None:
    Path("small.toml").write_text(toml(MUX).replace("memories.weights.words = 16384", "memories.weights.words = 9"))
    done = call("rtl", "digits.bnhw", "--arch", "small.toml", "-o", "out")
    assert done.code == 2
    assert re.search(r"1\. memories.weights has 9 words, (\d+) are needed; set words = \1", done.err)
    assert not Path("out").exists()


@needs_yosys
def test_synthesize_measures_the_parts_of_an_engine(files: Path, call: Call, engine: Path) -> None:
    arguments = ("rtl", "--synthesize", "--arch", "mux.toml:post=shift,comparators=0", "--targets", "generic")
    done = call(*arguments, "--json")
    assert (done.code, done.err) == (0, "")
    report = report_from_json(json.loads(done.out))
    multiplexer = report.find("dot", Target.GENERIC)
    assert multiplexer is not None and multiplexer.transistors > 0
    text = call(*arguments).out
    assert f"{multiplexer.transistors:,}" in text and "One processing element" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits.bnhw", "--synthesize"), "leave out MODEL, -o and --images"),
        (("--synthesize", "-o", "out"), "leave out MODEL, -o and --images"),
        (("--synthesize", "--targets", "generic,asic"), "--targets 'asic' is not available; choose liberty, generic"),
        (("--synthesize", "--targets", "liberty", "--liberty", "none.lib"), "none.lib"),
        ((), "name a program and a folder"),
        (("digits.bnhw", "--arch", "engine-16x64", "-o", "out", "--json"), "--json goes with --synthesize"),
        (("digits.bnhw", "-o", "out"), "name an engine with --arch"),
    ],
)
def test_rtl_refuses_options_that_do_not_go_together(
    files: Path, call: Call, arguments: tuple[str, ...], message: str
) -> None:
    done = call("rtl", *arguments)
    assert done.code == 2
    assert message in done.err
