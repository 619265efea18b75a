"""Pickled batches: what is read equals what Python's unpickler reads, and nothing in a file is ever executed."""

import io
import os
import pickle
import pickletools
import subprocess
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from image_bytes import planes, python2_batch, python3_batch, random_pixels

from bnhw.errors import BadInput
from bnhw.image_files import cifar_python, pickles
from bnhw.image_files.pickles import NAMES, Refused, read_pickled_dict
from bnhw.images import read_images

PIXELS = random_pixels(3, 32, 32, 3)
LABELS = [7, 0, 9]

PROTOCOLS = (2, 3, 4, 5)


def plain(value: Any) -> Any:
    """Views of bytes as bytes, for comparison."""
    match value:
        case memoryview():
            return value.tobytes()
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return type(value)(map(plain, value))
        case pickles.PickledArray():
            return plain(value.values)
        case np.ndarray():
            return value.dtype.str, value.shape, value.tobytes()
    return value


# What is read.


@pytest.mark.parametrize("key", ["labels", "fine_labels"])
def test_batches_as_python_2_published_them(tmp_path: Path, key: str) -> None:
    data = python2_batch(PIXELS, LABELS, key=key)
    expected = pickle.loads(data, encoding="bytes")  # noqa: S301 - our own
    np.testing.assert_array_equal(expected[b"data"], planes(PIXELS))
    (tmp_path / "data_batch_1").write_bytes(data)
    found = read_images(tmp_path / "data_batch_1")
    np.testing.assert_array_equal(found.pixels, PIXELS)
    assert found.labels is not None
    assert found.labels.tolist() == LABELS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_batches_that_newer_versions_saved_again(tmp_path: Path, protocol: int) -> None:
    labels: tuple[Any, ...] = (LABELS, tuple(LABELS), np.array(LABELS), np.array(LABELS, np.uint8))
    for listed in labels:
        (tmp_path / "batch").write_bytes(python3_batch(PIXELS, listed, protocol=protocol))
        found = read_images(tmp_path / "batch")
        np.testing.assert_array_equal(found.pixels, PIXELS)
        assert found.labels is not None
        assert found.labels.tolist() == LABELS


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.binary(min_size=1),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
arrays = st.sampled_from((np.uint8, np.int32, np.int64)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=4, max_side=4))
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=9), values | arrays, max_size=4), st.sampled_from(PROTOCOLS), st.booleans())
def test_plain_data_are_read_as_python_reads_them(data: dict[str, Any], protocol: int, optimised: bool) -> None:
    dumped = pickle.dumps(data, protocol)
    assert plain(read_pickled_dict(pickletools.optimize(dumped) if optimised else dumped)) == plain(data)


def test_arrays_by_columns_and_of_big_endian_bytes() -> None:
    whole = np.arange(12, dtype=">i4").reshape(3, 4)
    for array in (whole, np.asfortranarray(whole), whole.astype(np.uint8), np.asfortranarray(whole.astype("<i8"))):
        for protocol in PROTOCOLS:
            np.testing.assert_array_equal(read_pickled_dict(pickle.dumps({"a": array}, protocol))["a"], array)


def test_bytes_are_views_of_the_file() -> None:
    dumped = python2_batch(PIXELS, LABELS)
    array = read_pickled_dict(dumped)["data"]
    assert np.shares_memory(array, np.frombuffer(dumped, np.uint8))
    assert not array.flags.writeable


# What is refused.


class Attack:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(trap: Path) -> dict[str, Any]:
    """Objects whose unpickling leaves a file `trap`, or does what no data do."""
    return {
        "command": Attack(os.system, f"touch {trap}"),
        "program": Attack(subprocess.check_output, ["touch", str(trap)]),
        "evaluation": Attack(eval, f"open({str(trap)!r}, 'w')"),
        "execution": Attack(exec, f"open({str(trap)!r}, 'w')"),
        "file": Attack(open, str(trap), "w"),
        "import": Attack(__import__, "this"),
        "attribute": Attack(getattr, "", "join"),
        "partial": Attack(partial, os.system, f"touch {trap}"),
        "nested": {"labels": [(Attack(os.system, f"touch {trap}"),)]},
        "pickle in pickle": Attack(pickle.loads, pickle.dumps(Attack(os.system, f"touch {trap}"))),
        "numpy loads": Attack(np.load, str(trap), None, True),
        "class": Path("x"),
        "subclass": OrderedDict(a=1),
        "number": 1.5,
        "set": {1},
        "objects": np.array([Attack(os.system, f"touch {trap}")], object),
        "record": np.zeros(2, [("a", "i4")]),
        "float array": np.zeros(2),
        "text array": np.array(["a"]),
    }


@pytest.mark.parametrize("protocol", (0, 1, *PROTOCOLS))
@pytest.mark.parametrize("name", attacks(Path("x")))
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path, name: str, protocol: int) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "data_batch_1"
    for content in ({"data": attacks(trap)[name], "labels": LABELS}, attacks(trap)[name]):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(BadInput, match="data_batch_1: "):
            read_images(path)
        assert not trap.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    for name in ("command", "program", "evaluation", "execution", "file", "nested", "pickle in pickle"):
        trap = tmp_path / "trap"
        pickle.loads(pickle.dumps(attacks(trap)[name]))  # noqa: S301 - what must not happen elsewhere
        assert trap.exists()
        trap.unlink()


def test_calls_outside_of_arrays_are_refused_though_their_names_are_known() -> None:
    text = b"X\x01\x00\x00\x00a"
    for call in (
        b"cnumpy\nndarray\n(K\x02\x85tR",
        b"cnumpy\ndtype\n" + text + b"\x85R",
        b"cnumpy\ndtype\n)R",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R",
        b"c_codecs\nencode\n" + text + b"X\x06\x00\x00\x00base64\x86R",
        b"c_codecs\nencode\nX\x02\x00\x00\x00\xc4\x80X\x06\x00\x00\x00latin1\x86R",
        b"K\x01)R",
        b"}}b",
        b"cnumpy\ndtype\nU\x02u1\x85RNb",
    ):
        with pytest.raises(Refused, match=r"at byte \d+: it "):
            read_pickled_dict(b"\x80\x02}U\x01a" + call + b"s.")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"c" + b"x" * 1000, "a name without an end"),
        (b"cposix\nsystem\n", "asks for 'posix.system', which is never loaded"),
        (b"X\x05\x00\x00\x00posixX\x06\x00\x00\x00system\x93", "asks for 'posix.system'"),
        (b"K\x01K\x02\x93", "asks for 'a name of another kind'"),
        (b"\x8e" + b"\xff" * 8, "18446744073709551615 more bytes are announced"),
        (b"T\xff\xff\xff\xff", "-1 more bytes are announced"),
        (b"h\x07", "takes value 7, which it did not store"),
        (b"j\xff\xff\xff\xff", "takes value 4294967295"),
        (b"0", "operation b'0' is not known"),
        (b"\x82\x01", "operation b'\\\\x82' is not known"),
        (b"\x97", "operation b'\\\\x97' is not known"),
        (b"Pname\n", "operation b'P' is not known"),
        (b"a", "takes more values"),
        (b"t", "takes more values than it made"),
        (b"q\x01", "stores a value that it did not make"),
        (b"K\x01a", "changes a list where there is none"),
        (b"K\x01K\x01s", "changes a dict where there is none"),
        (b"}(K\x01u", "a key without a value"),
        (b"}K\x01K\x01s", "a key is a int; text is expected"),
        (b"}]K\x01s", "a key is a list; text is expected"),
        (b"}X\x00\x02\x00\x00" + b"k" * 512 + b"Ns", "a name has 512 bytes, at most 256"),
        (b"}U\x01\xffNs", "text that is not UTF-8"),
        (b"].", "holds no dict"),
        (b".", "takes more values"),
        (b"}", "cut off: 1 more bytes are announced, 0 are there"),
        (b"\x80\x01", "of protocol 1; 2 to 5 are read"),
    ],
)
def test_damage_is_named(body: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message):
        read_pickled_dict(b"\x80\x02" + body)


def dtype_of(code: bytes, order: bytes) -> bytes:
    minus = b"J\xff\xff\xff\xff"
    return (
        b"cnumpy\ndtype\nU" + bytes((len(code),)) + code + b"\x85R(K\x03U\x01" + order + b"NNN" + minus * 2 + b"K\x00tb"
    )


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (b"K\x02\x85", dtype_of(b"u1", b"|"), "shape 2 and type u1, but 3 bytes"),
        (b"K\x03\x85", dtype_of(b"i4", b"<"), "shape 3 and type i4, but 3 bytes"),
        (b"J\xff\xff\xff\xff\x85", dtype_of(b"u1", b"|"), "shape is not 1 to 4 lengths"),
        (b")", dtype_of(b"u1", b"|"), "shape is not 1 to 4 lengths"),
        (b"(K\x01K\x01K\x01K\x01K\x03t", dtype_of(b"u1", b"|"), "shape is not 1 to 4 lengths"),
        (b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85", dtype_of(b"u1", b"|"), "shape huge and type u1"),
        (b"N\x85", dtype_of(b"u1", b"|"), "shape is not 1 to 4 lengths"),
        (b"K\x03\x85", dtype_of(b"u1", b"?"), "unknown byte order"),
        (b"K\x03\x85", dtype_of(b"i4", b"|"), "unknown byte order"),
        (b"K\x03\x85", dtype_of(b"O8", b"|"), "an array of 'O8'; one of u1, i4, i8 is expected"),
    ],
)
def test_arrays_that_are_not_what_their_bytes_say_are_refused(shape: bytes, dtype: bytes, message: str) -> None:
    start = b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    with pytest.raises(Refused, match=message):
        read_pickled_dict(start + shape + dtype + b"\x89U\x03xyztbs.")


def test_small_files_that_would_take_memory_or_time_are_refused_at_once() -> None:
    text = b"X" + (50_000).to_bytes(4, "little") + b"x" * 50_000 + b"q\x01"
    many_bytes = b"\x80\x02}]" + text + b"X\x06\x00\x00\x00latin1q\x02" + b"c_codecs\nencode\nh\x01h\x02\x86R" * 5000
    many_keys = b"\x80\x02}U\x01a" + text + b"s" + b"h\x01Ns" * 5000
    deep = b")" + b"\x85" * 500_000
    endless = b"\x80\x02}" + b"K\x00" * (pickles.MAX_OPERATIONS + 1)
    start = time.perf_counter()
    for data, message in (
        (many_bytes, "makes more bytes than it holds"),
        (many_keys, "at most 256 are read"),
        (b"\x80\x02}" + deep + b"Ns.", "a key is a tuple"),
        (endless, "more than 1048576 operations"),
    ):
        with pytest.raises(Refused, match=message):
            read_pickled_dict(data)
    assert len(read_pickled_dict(b"\x80\x02}U\x01a" + deep + b"s.")) == 1
    assert time.perf_counter() - start < 30


def test_only_the_names_that_arrays_need_are_known() -> None:
    assert {module.split(".")[0] for module, _ in NAMES} == {"numpy", "_codecs"}
    assert {name for _, name in NAMES} == {"_reconstruct", "_frombuffer", "ndarray", "dtype", "encode"}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, r"data is NoneType; uint8 \(N, 3072\) is expected"),
        ({"data": 3}, "data is int"),
        ({"data": np.zeros((2, 3072), np.int64)}, r"data is int64 \(2, 3072\)"),
        ({"data": np.zeros((2, 3071), np.uint8)}, r"data is uint8 \(2, 3071\)"),
        ({"data": np.zeros((0, 3072), np.uint8)}, r"data is uint8 \(0, 3072\)"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, r"labels are 10 to 10; 0 to 9 are expected"),
        ({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [100]}, r"labels are 100 to 100; 0 to 99"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2]}, r"labels are int64 of shape \(2,\); 1 integers"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, "its labels are no list of small integers"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [2**70]}, "no list of small integers"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [True]}, "no list of small integers"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": "a"}, "no list of small integers"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": 3}, "no list of small integers"),
    ],
)
def test_dicts_that_are_no_batch_are_refused(tmp_path: Path, batch: dict[str, Any], message: str) -> None:
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, 4))
    with pytest.raises(BadInput, match=message):
        read_images(tmp_path / "batch")


def test_a_batch_without_labels_is_images_alone(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": planes(PIXELS)}, 4))
    assert read_images(tmp_path / "batch").labels is None


def test_a_batch_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "batch").write_bytes(python2_batch(PIXELS, LABELS))
    monkeypatch.setattr(cifar_python, "MAX_BATCH_BYTES", 1000)
    with pytest.raises(BadInput, match="at most 1000 are read of a pickled batch"):
        read_images(tmp_path / "batch")


operations = st.sampled_from(sorted(pickles.OPERATIONS)).map(lambda code: bytes((code,)))
names = st.sampled_from(sorted(f"c{module}\n{name}\n".encode() for module, name in NAMES))
small = st.binary(max_size=3)


@settings(max_examples=500, deadline=None)
@given(st.lists(operations | names | small, max_size=40).map(b"".join))
@example(b"}h\x00")
def test_random_operations_are_read_or_refused(body: bytes) -> None:
    try:
        found = read_pickled_dict(b"\x80\x04" + body + b".")
    except Refused:
        return
    assert isinstance(found, dict)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_batch_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    dumped = data.draw(st.sampled_from([python2_batch(PIXELS[:1], [3])] + [
        python3_batch(PIXELS[:1], [3], protocol=protocol) for protocol in PROTOCOLS
    ]))  # fmt: skip
    content = bytearray(dumped)
    head = st.integers(0, 400) | st.integers(len(content) - 200, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(head)] = data.draw(st.integers(0, 255))
    (tmp_path / "batch").write_bytes(content)
    try:
        found = read_images(tmp_path / "batch")
    except BadInput as error:
        assert "batch: " in str(error)
    else:
        assert found.pixels.dtype == np.uint8


def test_every_truncation_of_a_batch_is_refused() -> None:
    whole = python2_batch(PIXELS[:1], [3])
    for length in (*range(500), *range(len(whole) - 100, len(whole))):
        with pytest.raises(Refused):
            read_pickled_dict(whole[:length])
    assert io.BytesIO(whole).read(1) == b"\x80"
