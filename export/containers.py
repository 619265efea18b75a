"""Reading of `.mat` (MATLAB 5) and `.npz` files that nobody vouches for: sizes are checked before use."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bnhw.errors import BadInput, MissingDependency

MAX_FILE_BYTES = 256 * 2**20
MAX_CONTENT_BYTES = 2**30

_MAT_HEADER_BYTES = 128
_MAT_MATRIX = 14  # miMATRIX: one variable
_MAT_COMPRESSED = 15  # miCOMPRESSED: one variable, deflated
_CHUNK_BYTES = 2**20


def read_mat(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All variables of a MATLAB 5 file; cells are object arrays of arrays.

    Raises `BadInput` where the file is missing, larger than `MAX_FILE_BYTES`, truncated, of another format
    (MATLAB 7.3 is HDF5) or would unpack to more than `MAX_CONTENT_BYTES`; `MissingDependency` without scipy.
    """
    try:
        from scipy.io import loadmat  # noqa: PLC0415 - scipy is needed for these files only
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"{path}: reading .mat files needs scipy, which is not installed; "
            "install it with: pip install 'bnhw[torch]'"
        ) from error
    content = _read_bytes(path)
    _check_mat(path, content)
    try:
        variables = loadmat(path, chars_as_strings=True)
    except Exception as error:  # on a damaged file scipy raises errors of many kinds
        raise BadInput(f"{path}: damaged MATLAB file ({error}); fetch it again") from error
    return {name: value for name, value in variables.items() if isinstance(value, np.ndarray)}


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an `.npz` file without pickled objects; the limits and errors are those of `read_mat`."""
    _read_bytes(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_CONTENT_BYTES:
            raise BadInput(f"{path}: would unpack to {size} bytes, expected at most {MAX_CONTENT_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except BadInput:
        raise
    except Exception as error:  # on a damaged file numpy and zipfile raise errors of many kinds
        raise BadInput(f"{path}: not a readable .npz file without pickled objects ({error})") from error


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BadInput(f"{path}: has {size} bytes, expected at most {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _check_mat(path: Path, content: bytes) -> None:
    """Walk the variables' headers: right format, nothing cut off, unpacked size within the limit."""
    if content.startswith((b"MATLAB 7.3", b"\x89HDF")) or content[124:126] == b"\x00\x02":
        raise BadInput(
            f"{path}: is a MATLAB 7.3 (HDF5) file, expected MATLAB 5; "
            "in MATLAB, load it and save it again with: save(name, '-v7')"
        )
    if not content.startswith(b"MATLAB 5.0 MAT-file") or content[126:128] not in (b"IM", b"MI"):
        raise BadInput(f"{path}: begins with {content[:19]!r}, expected a MATLAB 5 file")
    order = "<" if content[126:128] == b"IM" else ">"
    position, total = _MAT_HEADER_BYTES, 0
    while position < len(content):
        tag = content[position : position + 8]
        kind, size = struct.unpack(order + "II", tag) if len(tag) == 8 else (0, 0)
        body = content[position + 8 : position + 8 + size]
        if kind not in (_MAT_MATRIX, _MAT_COMPRESSED) or len(body) < size:
            raise BadInput(f"{path}: damaged or cut off at byte {position} of {len(content)}; fetch it again")
        if kind == _MAT_COMPRESSED:
            size = _inflated_bytes(path, body, MAX_CONTENT_BYTES - total)
        total += size
        if total > MAX_CONTENT_BYTES:
            raise BadInput(f"{path}: would unpack to more than {MAX_CONTENT_BYTES} bytes, the most that is read")
        position += 8 + len(body)


def _inflated_bytes(path: Path, body: bytes, limit: int) -> int:
    """Unpacked size of a deflated variable, found by unpacking in small pieces; stops past `limit`."""
    inflater = zlib.decompressobj()
    total, rest = 0, body
    try:
        while rest and not inflater.eof and total <= limit:
            total += len(inflater.decompress(rest, _CHUNK_BYTES))
            rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise BadInput(f"{path}: damaged MATLAB file ({error}); fetch it again") from error
    if not inflater.eof and total <= limit:
        raise BadInput(f"{path}: a variable is cut off; fetch it again")
    return total
