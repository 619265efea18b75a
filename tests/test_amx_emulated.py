"""The tile kernels give the reference's integers on processors without tiles, too: these are emulated.

The emulator computes what Intel's manual says of each instruction, and ends the process where a tile is used that is
not configured, or has the wrong shape.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from bnhw.kernels.select import FUSED_CHOICES, host_features

TESTS = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")
TILES = frozenset({"amx-int8", "amx-tile"})


def why_not() -> str:
    """Why tiles cannot be emulated here, or empty."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return "the emulator is for x86-64 Linux"
    if host_features() >= TILES:
        return "this processor has tiles: tests/test_fused.py runs on them"
    missing = FUSED_CHOICES["amx"] - TILES - host_features()
    if missing:
        return f"this processor lacks {', '.join(sorted(missing))}, which the kernels need besides tiles"
    return "" if COMPILER else "there is no C compiler"


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("emulator") / "amx_emulator.so"
    command = [str(COMPILER), "-O3", "-march=native", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-ftls-model=initial-exec", "-o", str(library), str(TESTS / "amx_emulator.c"), "-ldl"]
    subprocess.run(command, check=True)
    return library


def run_tests(emulator: Path, *arguments: str, fault: bool = False) -> subprocess.CompletedProcess[str]:
    """Run tests in a process that has tiles; with `fault`, one sum of every product is wrong."""
    features = {**binding.get_host_cpu_features(), **dict.fromkeys(TILES, True)}
    environment = {
        **os.environ,
        "LD_PRELOAD": str(emulator),
        "NUMBA_CPU_NAME": "sapphirerapids",
        "NUMBA_CPU_FEATURES": ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(features.items())),
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    if fault:
        environment["AMX_EMULATOR_FAULT"] = "1"
    # faulthandler would take the signal of an unknown instruction for itself
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:faulthandler", "-p", "amx_emulation"]
    command += ["-p", "no:cacheprovider", "--hypothesis-profile", "repeatable", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=TESTS.parent)


def test_tile_kernels_give_the_integers_of_the_reference(emulator: Path) -> None:
    done = run_tests(emulator, str(TESTS / "test_fused.py"), str(TESTS / "test_fused_layers.py"), "-k", "amx")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-1000:]
    assert "passed" in done.stdout


def test_one_wrong_sum_of_a_tile_is_found(emulator: Path) -> None:
    done = run_tests(emulator, str(TESTS / "test_fused.py"), "-k", "amx and every_kind", fault=True)
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr[-2000:]
    assert "1 failed" in done.stdout
    assert "Mismatched elements" in done.stdout
