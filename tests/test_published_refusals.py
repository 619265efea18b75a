"""Files that are laid out otherwise, damaged, too large or of another kind are refused with the reason."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="bnhw.export needs torch")
pytest.importorskip("scipy.io", reason="reading .mat files needs scipy")

from published_files import (
    KERAS,
    ORACLES,
    cells,
    needs_data,
    small_keras,
    small_matlab,
    write,
)

from bnhw.errors import BadInput, MissingDependency
from bnhw.export import containers
from bnhw.export.checkpoints import load_checkpoint
from bnhw.export.published import load_published


def altered(layout: Any, name: str, change: Any) -> dict[str, Any]:
    variables: dict[str, Any] = layout()
    return {**variables, name: change(variables[name])}


def without(layout: Any, name: str) -> dict[str, Any]:
    return {key: value for key, value in layout().items() if key != name}


def with_cell(index: int, value: Any) -> Any:
    def change(array: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
        items = list(array.ravel())
        return cells([*items[:index], value, *items[index + 1 :]])

    return change


WRONG = {
    "nothing known": ({"x": np.zeros(3)}, r"found the variables \[x\], expected `conv2d`"),
    "missing convolution": (without(small_keras, "conv2d_3"), "numbers of conv2d, ... have gaps"),
    "missing last convolution": (without(small_keras, "conv2d_7"), "found 7 convolutions and 9 batch norms"),
    "missing batch norm": (without(small_keras, "batch_normalization_v1_88"), "have gaps"),
    "third value": (
        altered(small_keras, "conv2d_2", lambda a: a.astype(np.uint8) * 2),
        "convolution 2 holds the value 2, expected only 0 and 1",
    ),
    "float weights": (
        altered(small_keras, "conv2d_2", lambda a: a.astype(np.float32)),
        "conv2d_2 has type float32, expected logical values",
    ),
    "wrong axes": (
        altered(small_keras, "conv2d_3", lambda a: a.transpose(0, 1, 2, 4, 3)),
        r"convolution 3 has \(out, in, height, width\) \(4, 8, 3, 3\), expected \(8, 4, 3, 3\)",
    ),
    "four dimensions": (
        altered(small_keras, "conv2d_3", lambda a: a[0]),
        "conv2d_3 has type uint8 and shape .* expected numbers in 5 dimensions",
    ),
    "three rows": (
        altered(small_keras, "batch_normalization_v1_86", lambda a: np.ones((3, 4))),
        "batch_normalization_v1_86 has 3 rows, expected 2",
    ),
    "wrong channels": (
        altered(small_keras, "batch_normalization_v1_86", lambda a: np.ones((2, 5))),
        "batch norm 2 has .* expected 4 channels",
    ),
    "negative variance": (
        altered(small_keras, "batch_normalization_v1_86", lambda a: -a),
        "batch norm 2 has a variance that is not above 0",
    ),
    "nan": (
        altered(small_keras, "batch_normalization_v1_86", lambda a: a * np.nan),
        "batch norm 2 has .* a non-finite value",
    ),
    "text": (
        altered(small_keras, "batch_normalization_v1_86", lambda a: "text"),
        "batch_normalization_v1_86 has type <U4",
    ),
    "cells missing": (without(small_matlab, "Moments"), "variable Moments is missing; found"),
    "not cells": (
        altered(small_matlab, "BNG", lambda a: np.ones(9)),
        "BNG has type float64, expected a cell array",
    ),
    "stride": (
        altered(small_matlab, "Stride", lambda a: a * 0 + 1),
        "convolution 3 has stride 1, expected 2; convolution 5 has stride 1, expected 2",
    ),
    "padding": (altered(small_matlab, "Padding", lambda a: a * 0), "Padding is .* expected 1 for all but"),
    "multipliers": (
        altered(small_matlab, "LayerWeights", lambda a: a - 0.5),
        "layer multipliers are .* expected numbers above 0",
    ),
    "few multipliers": (
        altered(small_matlab, "LayerWeights", lambda a: a[:3]),
        "LayerWeights has 3 values, expected 8",
    ),
    "plain network": (
        altered(small_matlab, "LayerTypes", lambda a: cells(["input", *["brw"] * 8, "brg"])),
        "LayerTypes has 10 layers .* expected the 14 of a wide residual network",
    ),
    "cell of cells": (
        altered(small_matlab, "Moments", with_cell(2, cells([np.ones(2)]))),
        "Moments 2 has type object",
    ),
    "one column": (
        altered(small_matlab, "Moments", with_cell(2, np.ones((4, 1)))),
        r"Moments has cells of shape \(4, 1\), expected \(channels, 2\)",
    ),
    "few gains": (altered(small_matlab, "BNG", lambda a: a[:4]), "found 4 BNG, 9 BNB and 9 Moments"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_laid_out_otherwise_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    variables, message = WRONG[case]
    path = write(tmp_path / "net.mat", variables)
    with pytest.raises(BadInput, match=message) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: not a published 1-bit wide residual network")
    assert "The files that can be read are" in str(caught.value)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = write(tmp_path / "whole.mat", small_matlab()).read_bytes()
    path = tmp_path / "net.mat"
    for kept in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:kept])
        with pytest.raises(BadInput):
            load_published(path)


def test_a_file_with_a_damaged_byte_never_raises_anything_else(tmp_path: Path) -> None:
    content = write(tmp_path / "whole.mat", small_matlab()).read_bytes()
    path = tmp_path / "net.mat"
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(124, len(content), 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            load_published(path)
        except BadInput:
            refused += 1
    assert refused > 50


def test_a_version_7_3_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(BadInput, match=r"is a MATLAB 7\.3 \(HDF5\) file.*'-v7'"):
        load_published(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    path.write_bytes(b"something else " * 100)
    with pytest.raises(BadInput, match="begins with b'something else some', expected a MATLAB 5 file"):
        load_published(path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_CONTENT_BYTES", 2**20)
    body = zlib.compress(bytes(2**24))
    path = tmp_path / "net.mat"
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    path.write_bytes(header + struct.pack("<II", 15, len(body)) + body)
    with pytest.raises(BadInput, match="would unpack to more than 1048576 bytes"):
        load_published(path)
    np.savez_compressed(tmp_path / "net.npz", x=np.zeros(2**22))
    with pytest.raises(BadInput, match="would unpack to 33554"):
        load_published(tmp_path / "net.npz")


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_FILE_BYTES", 100)
    path = write(tmp_path / "net.mat", small_keras())
    with pytest.raises(BadInput, match="expected at most 100"):
        load_published(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.mat: cannot be read \(No such file or directory\)"):
        load_published(tmp_path / "none.mat")


def test_an_npz_file_with_a_pickled_object_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", n_conv=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadInput, match=r"not a readable \.npz file without pickled objects"):
        load_published(tmp_path / "net.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_conv": np.array(10**9)}, "n_conv is 1000000000, expected 1 to 2000"),
        ({"residual": np.array(0)}, "residual is 0: a plain network without skips"),
        ({"pad_mode": np.array("odd")}, "pad_mode is 'odd', expected one of tf_same, symmetric1"),
        ({"stride": np.ones(3, np.int32)}, "found 20 layer_scale and 3 stride, expected 20"),
        ({"w03_bits": np.zeros(5, np.uint8)}, "w03_bits has 5 bytes of uint8, w03_shape is"),
        ({"w03_shape": np.array([-1, 3, 3, 3])}, "w03_shape is"),
    ],
)
@needs_data
def test_a_wrong_npz_file_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with np.load(ORACLES[KERAS]) as oracle:
        variables = {name: oracle[name] for name in oracle.files}
    np.savez(tmp_path / "net.npz", **{**variables, **changes})
    with pytest.raises(BadInput, match=message):
        load_checkpoint(tmp_path / "net.npz")


def test_a_missing_scipy_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "net.mat", small_keras())
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingDependency, match=r"scipy.*pip install 'bnhw\[torch\]'"):
        load_published(path)


def test_a_missing_torch_is_named_with_the_remedy() -> None:
    program = (
        "import sys, bnhw, bnhw.demo.digits\n"
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'torch' else find(name, package)\n"
        "from bnhw.errors import MissingDependency\n"
        "assert 'torch' not in sys.modules\n"
        "try:\n"
        "    import bnhw.export\n"
        "except MissingDependency as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'bnhw[torch]'" in done.stdout
