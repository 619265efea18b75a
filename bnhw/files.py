"""Reading files of a known greatest size, and writing them so that a killed process leaves no half file."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bnhw.errors import BadInput


def read_file(path: Path, *, missing: str, max_bytes: int) -> bytes:
    """The bytes of a regular file.

    Raises BadInput when there is none (`missing` says what to do), it has more than `max_bytes`, or cannot be read.
    """
    try:
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; a file is expected")
        if not path.is_file():
            raise BadInput(f"{path}: no such file; {missing}")
        size = path.stat().st_size
        if size > max_bytes:
            raise BadInput(f"{path}: {size} bytes, at most {max_bytes} are read; is this the right file?")
        return path.read_bytes()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a temporary file in the same folder.

    Raises BadInput if that fails, or if `path` is a folder or a device; then nothing is left behind.
    """
    write_all_atomically({path: data})


def write_all_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write several files as `write_atomically` does one: where one cannot be written, none is.

    A process killed between two renames leaves whole files, but not all of them.
    """
    with ExitStack() as cleaning:
        written = []
        for path, data in contents.items():
            temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
            cleaning.callback(_remove, temporary)
            with _refusal(path):
                if not path.name or (path.exists() and not path.is_file()):
                    raise OSError(errno.EINVAL, "it is no regular file")
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            written.append((temporary, path))
        for temporary, path in written:
            with _refusal(path):
                temporary.replace(path)


@contextmanager
def _refusal(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "choose an existing folder that you may write to"
        raise BadInput(f"{path}: cannot be written ({error.strerror}); {remedy}") from error


def _remove(temporary: Path) -> None:
    with suppress(OSError):  # there is none, or its folder is none
        temporary.unlink()
