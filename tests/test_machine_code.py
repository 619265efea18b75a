"""Interpreters kept as machine code: whole or not at all, and loaded without the compiler."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from program_builder import one_of_each
from test_fused import CHOICES, assert_equal_to_reference

from bnhw.kernels.fused import machine_code
from bnhw.kernels.fused.machine_code import cache_folders, read_code, write_code

RUN = """
import sys
from pathlib import Path
import numpy as np
import bnhw
from bnhw.machine import Machine
program = bnhw.load(sys.argv[1])
Machine(program, sys.argv[2]).run(np.zeros((2, *program.tensor[program.input].shape), np.uint8))
print("numba" in sys.modules)
"""


def test_code_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "code.o"
    assert write_code(path, b"machine code")
    assert read_code(path) == b"machine code"
    assert [file.name for file in path.parent.iterdir()] == ["code.o"], "nothing else is left behind"


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c[1:], lambda c: b"x" + c[1:], lambda c: b""])
def test_a_file_that_is_not_whole_is_not_read(tmp_path: Path, change: object) -> None:
    path = tmp_path / "code.o"
    write_code(path, b"machine code")
    assert callable(change)
    path.write_bytes(change(path.read_bytes()))
    assert read_code(path) is None


def test_no_file_is_no_code(tmp_path: Path) -> None:
    assert read_code(tmp_path / "code.o") is None
    (tmp_path / "file").write_text("no folder")
    assert not write_code(tmp_path / "file" / "code.o", b"machine code")


def test_the_cache_folder_is_numbas_where_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = cache_folders()
    assert (first.name, second) == ("__pycache__", tmp_path / "bnhw")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "named"))
    assert cache_folders() == (tmp_path / "named",)


@pytest.mark.parametrize("name", machine_code.COMPILER_VARIABLES)
def test_code_for_another_processor_has_another_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    key = machine_code._key()
    monkeypatch.setenv(name, "other")
    assert machine_code._key() != key


@pytest.mark.skipif(not CHOICES, reason="no interpreter of whole programs runs on this processor")
def test_a_program_starts_without_loading_the_compiler(tmp_path: Path) -> None:
    program = one_of_each()
    path = tmp_path / "program.bnhw"
    program.save(path)
    images = np.zeros((1, *program.tensor[program.input].shape), np.uint8)
    assert_equal_to_reference(program, images, CHOICES[0])  # its machine code is on disk now
    command = [sys.executable, "-c", RUN, str(path), CHOICES[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.split() == ["False"]
