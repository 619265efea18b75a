"""The `.bnhw` file: whatever is damaged or forged is refused."""

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program_builder import Builder, one_of_each

from bnhw.compiler import compile_model
from bnhw.demo.digits import ONNX
from bnhw.dtypes import Array, IntegerType
from bnhw.errors import InvalidProgram
from bnhw.program import FORMAT_VERSION, Program, Tensor
from bnhw.program_file import METADATA_KEY, describe_program, program_from_bytes, program_to_bytes

ANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def tiny_program() -> Program:
    """As few bytes as a program can have, but with an array of each kind."""
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, 2))
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=2, signed=False), scale=0.5)
    bit = builder.requantise(builder.tensors["image"], code, multiplier_bits=3)
    return builder.program(builder.sum_global(bit))


@pytest.fixture(scope="module")
def digits() -> bytes:
    """The demo's network, compiled on noise: what counts here is its file."""
    noise = np.random.default_rng(0).integers(0, 17, (8, 8, 8, 1)).astype(np.uint8)
    return program_to_bytes(compile_model(ONNX, noise))


def test_every_flipped_bit_of_a_small_file_is_noticed() -> None:
    data = program_to_bytes(tiny_program())
    assert len(data) < 4000
    for position in range(len(data)):
        for bit in (0, position % 7 + 1):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(InvalidProgram, match="memory"):
                program_from_bytes(bytes(damaged), origin="memory")


def test_every_byte_replaced_by_any_other_is_noticed() -> None:
    data = program_to_bytes(tiny_program())
    differences = np.random.default_rng(0).integers(1, 256, len(data))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= int(differences[position])
        with pytest.raises(InvalidProgram):
            program_from_bytes(bytes(damaged), origin="memory")


def test_every_truncation_of_a_small_file_is_noticed() -> None:
    data = program_to_bytes(tiny_program())
    for length in range(len(data)):
        with pytest.raises(InvalidProgram):
            program_from_bytes(data[:length], origin="memory")


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"more"])
def test_bytes_behind_the_end_are_noticed(extra: bytes) -> None:
    with pytest.raises(InvalidProgram):
        program_from_bytes(program_to_bytes(tiny_program()) + extra, origin="memory")


def test_flips_and_truncations_of_a_network_are_noticed(digits: bytes) -> None:
    positions = np.random.default_rng(1).integers(0, len(digits), 150)
    for at in map(int, positions):
        damaged = bytearray(digits)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(InvalidProgram):
            program_from_bytes(bytes(damaged), origin="memory")
        with pytest.raises(InvalidProgram):
            program_from_bytes(digits[:at], origin="memory")


@ANY
@given(st.binary(max_size=400))
def test_random_bytes_are_no_program(data: bytes) -> None:
    with pytest.raises(InvalidProgram):
        program_from_bytes(data, origin="memory")


# Files that are damaged on purpose, with a digest that fits.


def forged(change: Callable[[dict[str, Any]], object], arrays: dict[str, Array] | None = None) -> bytes:
    """`one_of_each` with an altered header and the digest of that header."""
    program = one_of_each()
    header = copy.deepcopy(dict(describe_program(program)))
    change(header)
    stored = dict(sorted({**program.constants, **(arrays or {})}.items()))
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in stored.items():
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    header["sha256"] = digest.hexdigest()
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True)
    return bytes(safetensors.numpy.save(stored, metadata={METADATA_KEY: text}))


def test_the_forger_of_these_tests_forges_well() -> None:
    assert forged(lambda header: None) == program_to_bytes(one_of_each())


def put(*path: Any) -> Callable[[dict[str, Any]], object]:
    """Put the last item at the place that the others name."""
    *places, last, value = path

    def change(header: dict[str, Any]) -> None:
        target: Any = header
        for place in places:
            target = target[place]
        target[last] = value

    return change


def drop(*path: Any) -> Callable[[dict[str, Any]], object]:
    """Delete what the path names."""

    def change(header: dict[str, Any]) -> None:
        target: Any = header
        for place in path[:-1]:
            target = target[place]
        del target[path[-1]]

    return change


FORGERIES: tuple[tuple[Callable[[dict[str, Any]], object], str], ...] = (
    (put("format_version", FORMAT_VERSION + 1), f"format version {FORMAT_VERSION + 1}, this bnhw reads version 1"),
    (put("format_version", 0), "format version 0, this bnhw reads"),
    (put("format_version", "1"), "format version '1'"),
    (put("format_version", True), "format version True"),
    (put("format_version", 1.0), "format version 1.0"),
    (put("format_version", None), "format version None"),
    (drop("format_version"), "damaged in its header .KeyError"),
    (drop("name"), "not that of a program .'name'"),
    (drop("tensors"), "not that of a program .'tensors'"),
    (put("name", 3), "expected str, found 3"),
    (put("name", "\ud800"), "surrogates not allowed"),
    (put("input", None), "expected str, found None"),
    (put("output", ["t14"]), "expected str"),
    (put("instructions", {}), "its bytes do not match|not a well-formed program"),
    (put("instructions", 7), "not that of a program"),
    (put("instructions", 0, "kind", "Execute"), "not that of a program .'Execute'"),
    (put("instructions", 0, "kind", ["LookUp"]), "not that of a program"),
    (put("instructions", 0, "PadChannels"), "not that of a program"),
    (drop("instructions", 0, "kind"), "not that of a program .'kind'"),
    (drop("instructions", 0, "table"), "LookUp has the fields"),
    (put("instructions", 0, "command", "rm"), "LookUp has the fields"),
    (put("instructions", 0, "inputs", "image"), "expected tuple"),
    (put("instructions", 0, "inputs", [1]), "expected str, found 1"),
    (put("instructions", 1, "before", 1.0), "expected int, found 1.0"),
    (put("instructions", 1, "before", True), "expected int, found True"),
    (put("instructions", 1, "before", "1"), "expected int, found 1"),
    (put("instructions", 2, "window", []), "Window has the fields"),
    (put("instructions", 2, "window", "kernel", [3]), "expected tuple"),
    (put("instructions", 2, "window", "pads", [1, 1, 1]), "expected tuple"),
    (put("instructions", 2, "weight_shape", [4, 3, 3, 3, 1]), "expected tuple"),
    (put("instructions", 2, "weight_shape", [4, 3, 3, None]), "expected int, found None"),
    (put("instructions", 3, "mode", "table"), "'table' is not a valid RequantiseMode"),
    (put("instructions", 3, "mode", []), "is not a valid RequantiseMode"),
    (put("tensors", {}), "not a well-formed|bytes do not match"),
    (put("tensors", 0, "shape", [5, 4]), "expected tuple"),
    (put("tensors", 0, "shape", [5, 4, 2.0]), "expected int, found 2.0"),
    (put("tensors", 0, "bipolar", 0), "expected bool, found 0"),
    (put("tensors", 0, "scale", "1"), "expected float, found 1"),
    (put("tensors", 0, "scale", 10**400), "too large to convert to float"),
    (put("tensors", 0, "scale", 1), "bytes do not match its digest"),
    (put("tensors", 0, "scale", float("nan")), "has scale nan"),
    (put("tensors", 0, "scale", float("inf")), "has scale inf"),
    (put("tensors", 0, "dtype", "uint8"), "IntegerType has the fields"),
    (put("tensors", 0, "dtype", "bits", 0), "1..64 bits, not 0"),
    (put("tensors", 0, "dtype", "bits", 10**30), "1..64 bits"),
    (put("tensors", 0, "dtype", "signed", 1), "expected bool, found 1"),
    (put("tensors", 3, "shape", [10**9, 10**9, 10**9]), "not a well-formed program"),
    (put("tensors", 3, "shape", [2**15, 2**15, 2**15]), "not a well-formed program"),
    (put("tensors", 3, "zero_point", 10**30), "not a well-formed program"),
    (put("instructions", 2, "weight_shape", [10**9, 3, 3, 10**9]), "not a well-formed program"),
    (put("instructions", 8, "window", "pads", [10**30, 0, 0, 0]), "not a well-formed program"),
    (put("instructions", 3, "inputs", ["t13"]), "before it is made"),
    (put("instructions", 3, "high", 10**30), "clamps to"),
    (put("provenance", []), "Provenance has the fields"),
    (put("provenance", "options", "act_bits", 8), "expected text by name"),
    (put("provenance", "options", []), "expected text by name"),
    (put("provenance", "notes", "note"), "expected tuple"),
    (put("extra", 1), "bytes do not match its digest"),
)


@pytest.mark.parametrize(("change", "message"), FORGERIES, ids=[str(n) for n in range(len(FORGERIES))])
def test_a_forged_header_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(InvalidProgram, match=message):
        program_from_bytes(forged(change), origin="memory")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 256), np.int16),
        np.zeros((2, 256), np.float64),
        np.full((2, 256), np.nan),
        np.zeros((2, 256), bool),
        np.zeros((0, 256), np.int16),
        np.zeros((), np.int16),
    ],
)
def test_a_forged_array_is_refused(array: Array) -> None:
    with pytest.raises(InvalidProgram, match="LookUp -> 't0'"):
        program_from_bytes(forged(lambda header: None, {"t0/table": array}), origin="memory")


def with_metadata(metadata: dict[str, str] | None) -> bytes:
    return bytes(safetensors.numpy.save({"a": np.zeros(1, np.int8)}, metadata=metadata))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        (2**63).to_bytes(8, "little") + b"{}",
        with_metadata(None),
        with_metadata({"other": "x"}),
        with_metadata({METADATA_KEY: "not JSON"}),
        with_metadata({METADATA_KEY: "[]"}),
        with_metadata({METADATA_KEY: '"text"'}),
        with_metadata({METADATA_KEY: "null"}),
        with_metadata({METADATA_KEY: "[" * 100_000}),
        with_metadata({METADATA_KEY: "9" * 10_000}),
    ],
)
def test_other_content_is_no_program(data: bytes) -> None:
    with pytest.raises(InvalidProgram, match=r"memory: not a .bnhw file"):
        program_from_bytes(data, origin="memory")


def test_a_claimed_array_beyond_the_file_is_refused_without_memory_for_it() -> None:
    data = program_to_bytes(tiny_program())
    size = int.from_bytes(data[:8], "little")
    layout = json.loads(data[8 : 8 + size])
    layout["t0/offset"]["shape"] = [2**40, 2**20]
    layout["t0/offset"]["data_offsets"] = [0, 2**63 - 1]
    text = json.dumps(layout).encode()
    with pytest.raises(InvalidProgram, match="damaged or cut short"):
        program_from_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :], origin="memory")
