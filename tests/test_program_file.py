"""The `.bnhw` file: what is written is read again; missing and unreadable files are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import content, names_in
from hypothesis import HealthCheck, given, settings
from program_builder import one_of_each
from program_strategies import programs

import bnhw
from bnhw.errors import BadInput, InvalidProgram
from bnhw.machine import Machine
from bnhw.program import Program
from bnhw.program_file import describe_program, load_program, program_from_bytes, program_to_bytes, save_program

ANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_equal(one: Program, other: Program) -> None:
    """Equal in everything, arrays included."""
    assert describe_program(one) == describe_program(other)
    assert (one.name, one.instructions, one.tensors) == (other.name, other.instructions, other.tensors)
    assert (one.input, one.output, one.format_version) == (other.input, other.output, other.format_version)
    assert one.provenance == other.provenance
    assert one.constants.keys() == other.constants.keys()
    for name, array in one.constants.items():
        assert array.dtype == other.constants[name].dtype
        np.testing.assert_array_equal(array, other.constants[name])


# Round trips.


@ANY
@given(programs())
def test_a_read_program_equals_the_written_one(program: Program) -> None:
    data = program_to_bytes(program)
    read = program_from_bytes(data, origin="memory")
    assert_equal(read, program)
    assert program_to_bytes(read) == data


def test_a_saved_file_is_loaded_and_saved_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.bnhw", tmp_path / "second.bnhw"
    one_of_each().save(first)
    loaded = bnhw.load(str(first))
    assert_equal(loaded, one_of_each())
    loaded.save(str(second))
    assert first.read_bytes() == second.read_bytes()
    assert names_in(tmp_path) == ["first.bnhw", "second.bnhw"]


def test_a_loaded_program_computes_what_the_saved_one_does() -> None:
    program = one_of_each()
    images = np.random.default_rng(5).integers(0, 256, (4, 5, 4, 2)).astype(np.uint8)
    loaded = program_from_bytes(program_to_bytes(program), origin="memory")
    np.testing.assert_array_equal(Machine(loaded).run(images).logits, Machine(program).run(images).logits)


def test_loaded_arrays_cannot_be_changed() -> None:
    loaded = program_from_bytes(program_to_bytes(one_of_each()), origin="memory")
    for array in loaded.constants.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_text_of_any_language_survives() -> None:
    program = replace(one_of_each(), name="Ziffern \u00e4\u03b2\u5b57 \U0001f642 [/red]")
    assert program_from_bytes(program_to_bytes(program), origin="memory").name == program.name


def test_a_program_that_is_not_well_formed_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidProgram, match="is made by no instruction"):
        save_program(replace(one_of_each(), output="image"), tmp_path / "p.bnhw")
    assert content(tmp_path) == {}


# Reading from disk.


def test_a_missing_file_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.bnhw: no such file; `bnhw compile MODEL.onnx -o gone\.bnhw` makes one"):
        load_program(tmp_path / "gone.bnhw")
    with pytest.raises(BadInput, match="is a folder; a file is expected"):
        load_program(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"cannot be read \(File name too long\)"):
        load_program(tmp_path / ("n" * 300))

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    one_of_each().save(tmp_path / "p.bnhw")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadInput, match=r"p\.bnhw: cannot be read \(Permission denied\); check its name"):
        load_program(tmp_path / "p.bnhw")


def test_the_message_of_a_damaged_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "half.bnhw"
    path.write_bytes(program_to_bytes(one_of_each())[:500])
    with pytest.raises(InvalidProgram, match=r"half\.bnhw: not a \.bnhw file, or cut short after 500 bytes; compile"):
        load_program(path)
