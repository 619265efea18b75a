"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest
from folders import content, names_in

from bnhw.errors import BadInput
from bnhw.files import write_all_atomically, write_atomically


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.bnhw"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    elif step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(
        BadInput, match=r"p\.bnhw: cannot be written \(No space left on device\); choose an existing folder"
    ):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert content(tmp_path) == {"p.bnhw": b"old"}


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.bnhw"
    path.write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert content(tmp_path) == {"p.bnhw": b"old"}


def test_of_several_files_all_are_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(BadInput, match=r"missing/b: cannot be written"):
        write_all_atomically({tmp_path / "a": b"new", tmp_path / "missing" / "b": b"new"})
    assert content(tmp_path) == {"a": b"old"}
    write_all_atomically({tmp_path / "a": b"new", tmp_path / "b": b"other"})
    assert content(tmp_path) == {"a": b"new", "b": b"other"}


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "p.bnhw"
    write_atomically(path, b"a longer old content")
    write_atomically(path, b"new")
    assert content(tmp_path) == {"p.bnhw": b"new"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/p.bnhw", "No such file or directory"),
        ("file/p.bnhw", "Not a directory"),
        ("folder", "it is no regular file"),
        ("n" * 255, "File name too long"),
        ("n" * 300, "File name too long"),
        (".", "it is no regular file"),
        ("..", "it is no regular file"),
    ],
)
def test_places_that_cannot_be_written_are_named(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    Path("file").write_bytes(b"")
    Path("folder").mkdir()
    with pytest.raises(BadInput, match=message):
        write_atomically(Path(name), b"new")
    assert names_in(inside) == ["file", "folder"]
    assert names_in(tmp_path) == ["inside"]


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BadInput, match="it is no regular file"):
        write_atomically(pipe, b"new")
    assert pipe.is_fifo()
