"""The `.bnhw` file: safetensors with a JSON header.

The safetensors metadata holds one entry, `bnhw`, a JSON object with the format version, the program without its
arrays, and a SHA-256 over both. Reading writes the program again in memory and compares the bytes, so that a
single flipped bit anywhere in the file is noticed; nothing is executed and no size is trusted.
"""

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from bnhw.dtypes import Array
from bnhw.errors import InvalidProgram
from bnhw.files import read_file, write_all_atomically
from bnhw.program import FORMAT_VERSION, INSTRUCTIONS, Instruction, Program, Provenance, Tensor
from bnhw.program_check import check_program

METADATA_KEY = "bnhw"

MAX_PROGRAM_BYTES = 1 << 32
"""Eight times the 1-bit weights of the largest networks there are."""


def describe_program(program: Program) -> Mapping[str, Any]:
    """The program without its arrays, as plain values for `json.dumps`."""
    return {
        "format_version": program.format_version,
        "name": program.name,
        "input": program.input,
        "output": program.output,
        "provenance": _encode(program.provenance),
        "tensors": [_encode(tensor) for tensor in program.tensors],
        "instructions": [{"kind": i.kind, **_encode(i)} for i in program.instructions],
    }


def program_to_bytes(program: Program) -> bytes:
    """The file's content; the same program always gives the same bytes."""
    arrays = {name: program.constants[name] for name in sorted(program.constants)}
    header = dict(describe_program(program))
    header["sha256"] = _digest(header, arrays)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True)
    return bytes(safetensors.numpy.save(dict(arrays), metadata={METADATA_KEY: text}))


def save_program(program: Program, path: Path, *, beside: Mapping[Path, bytes] | None = None) -> None:
    """Write a `.bnhw` file: to a temporary name, flushed, renamed, so that no half file is ever seen.

    beside: contents of more files; all are written or none. Raises BadInput when a folder does not exist or cannot
    be written.
    """
    check_program(program)
    write_all_atomically({path: program_to_bytes(program), **(beside or {})})


def load_program(path: Path) -> Program:
    """Read and check a `.bnhw` file.

    Raises BadInput when there is no such file or it cannot be read, InvalidProgram when it is truncated, altered, of
    another format version, or not well formed.
    """
    missing = f"`bnhw compile MODEL.onnx -o {path.stem}.bnhw` makes one"
    data = read_file(path, missing=missing, max_bytes=MAX_PROGRAM_BYTES)
    return program_from_bytes(data, origin=str(path))


def program_from_bytes(data: bytes, *, origin: str) -> Program:
    """The program in the content of a `.bnhw` file; errors as in `load_program`."""
    header = _read_header(data, origin)
    try:
        arrays = safetensors.numpy.load(data)
    except Exception as error:  # safetensors raises errors of several kinds for a damaged file
        raise InvalidProgram(f"{origin}: damaged or cut short ({error}); compile or copy it again") from error
    for array in arrays.values():
        array.setflags(write=False)
    try:
        program = _decode_program(header, arrays)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidProgram(f"{origin}: its header is not that of a program ({error}); compile it again") from error
    if program_to_bytes(program) != data:
        raise InvalidProgram(
            f"{origin}: altered after it was written (its bytes do not match its digest "
            f"{header.get('sha256')!s:.12}...); compile or copy it again"
        )
    check_program(program, origin=origin)
    return program


def _read_header(data: bytes, origin: str) -> Mapping[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise InvalidProgram(f"{origin}: not a .bnhw file, or cut short after {len(data)} bytes; compile it again")
    try:
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        header = json.loads(metadata[METADATA_KEY])
        version = header["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidProgram(
            f"{origin}: not a .bnhw file, or damaged in its header ({type(error).__name__}: {error}); compile it again"
        ) from error
    if type(version) is not int or version != FORMAT_VERSION:  # true == 1
        raise InvalidProgram(
            f"{origin}: format version {version!r}, this bnhw reads version {FORMAT_VERSION}; compile it again"
        )
    return typing.cast("Mapping[str, Any]", header)


def _digest(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _encode(value: Any) -> Any:
    """Dataclasses, tuples, enums and plain numbers as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _encode(value[key]) for key in sorted(value)}
    return value


def _decode_program(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Program:
    instructions = []
    for entry in header["instructions"]:
        kind = INSTRUCTIONS[entry["kind"]]
        instructions.append(_decode(kind, {k: v for k, v in entry.items() if k != "kind"}))
    return Program(
        name=_decode(str, header["name"]),
        instructions=typing.cast("tuple[Instruction, ...]", tuple(instructions)),
        tensors=tuple(_decode(Tensor, entry) for entry in header["tensors"]),
        constants=arrays,
        input=_decode(str, header["input"]),
        output=_decode(str, header["output"]),
        provenance=_decode(Provenance, header["provenance"]),
        format_version=header["format_version"],
    )


def _decode(kind: Any, value: Any) -> Any:
    """A value of the annotated type `kind` from JSON; raises TypeError or ValueError if it is another."""
    origin = typing.get_origin(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != set(hints):
            raise TypeError(f"{getattr(kind, '__name__', kind)} has the fields {sorted(hints)}, found {value!s:.80}")
        return kind(**{name: _decode(hint, value[name]) for name, hint in hints.items()})
    if origin is tuple:
        items = typing.get_args(kind)
        if not isinstance(value, list) or (Ellipsis not in items and len(value) != len(items)):
            raise TypeError(f"expected {kind}, found {value!s:.80}")
        kinds = [items[0]] * len(value) if Ellipsis in items else items
        return tuple(_decode(item, entry) for item, entry in zip(kinds, value, strict=True))
    if origin is Mapping:
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise TypeError(f"expected text by name, found {value!s:.80}")
        return value
    if issubclass(kind, Enum):
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {value!s:.80}")
    if kind is str:
        value.encode()  # half a surrogate pair is text that cannot be printed
    return value
