"""The published checkpoints: bit for bit, in both layouts, against the documented re-encoding, and run."""

import math
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")
scipy_io = pytest.importorskip("scipy.io", reason="reading .mat files needs scipy")

from torch import Tensor  # noqa: E402 - after the skips
from torch.nn import functional  # noqa: E402

from bnhw.errors import BadInput, MissingDependency  # noqa: E402
from bnhw.export import containers  # noqa: E402
from bnhw.export.checkpoints import load_checkpoint  # noqa: E402
from bnhw.export.layers import BinaryConv2d  # noqa: E402
from bnhw.export.published import load_published  # noqa: E402
from bnhw.export.to_onnx import to_onnx  # noqa: E402
from bnhw.export.zoo import WideResNet  # noqa: E402

DATA = Path(__file__).parents[2] / "shared" / "data"
KERAS = DATA / "CIFAR10_allparams.mat"
MATLAB = DATA / "TrainedWideResNet20-10_CIFAR10_1-bit-per-weight-4MB.mat"
ORACLES = {
    KERAS: DATA / "seed_keras_wrn20-10_cifar10.npz",
    MATLAB: DATA / "seed_matlab_wrn20-10_cifar10.npz",
}
IMAGES = DATA / "cifar10_test_first20_lossless.npz"

needs_data = pytest.mark.skipif(not KERAS.is_file(), reason=f"the published files are not in {DATA}")
published = pytest.mark.parametrize("path", [KERAS, MATLAB], ids=["keras", "matlab"])

_loaded: dict[Path, WideResNet] = {}


def load_once(path: Path) -> WideResNet:
    if path not in _loaded:
        _loaded[path] = load_checkpoint(path)
    return _loaded[path]


def oracle_bits(oracle: Any, index: int) -> npt.NDArray[np.uint8]:
    shape = tuple(oracle[f"w{index:02d}_shape"])
    return np.unpackbits(oracle[f"w{index:02d}_bits"])[: math.prod(shape)].reshape(shape)


@needs_data
@published
def test_every_bit_scale_and_stride_is_that_of_the_oracle(path: Path) -> None:
    oracle = np.load(ORACLES[path])
    convolutions = load_once(path).convolutions()
    assert len(convolutions) == oracle["n_conv"] == 20
    for index, layer in enumerate(convolutions):
        assert isinstance(layer, BinaryConv2d)
        np.testing.assert_array_equal(layer.weight.detach().numpy() > 0, oracle_bits(oracle, index) == 1)
        assert layer.scale.numpy() == oracle["layer_scale"][index]
        np.testing.assert_array_equal(layer.weight.detach().abs().numpy(), oracle["layer_scale"][index])
        assert layer.stride == (oracle["stride"][index],) * 2
        assert layer.kernel_size[0] // 2 == oracle["pad"][index]


@needs_data
@published
def test_every_batch_norm_is_that_of_the_oracle(path: Path) -> None:
    oracle = np.load(ORACLES[path])
    model = load_once(path)
    assert len(model.batch_norms()) == 21
    for index, norm in enumerate(model.batch_norms()):
        state = norm.state_dict()
        key = f"bn{index:02d}"
        np.testing.assert_array_equal(state["running_mean"].numpy(), oracle[f"{key}_mean"])
        if f"{key}_var" in oracle:
            np.testing.assert_array_equal(state["running_var"].numpy(), oracle[f"{key}_var"])
        else:
            sigma = oracle[f"{key}_sigma"].astype(np.float64)
            np.testing.assert_allclose(np.sqrt(state["running_var"].double().numpy()), sigma, rtol=1e-7)
        channels = norm.num_features
        np.testing.assert_array_equal(state.get("weight", torch.ones(channels)).numpy(), oracle[f"{key}_gamma"])
        np.testing.assert_array_equal(state.get("bias", torch.zeros(channels)).numpy(), oracle[f"{key}_beta"])
        assert norm.eps == pytest.approx(float(oracle["eps"]), rel=1e-6)


@needs_data
@published
def test_the_configuration_is_that_of_the_oracle(path: Path) -> None:
    oracle = np.load(ORACLES[path])
    config = load_once(path).config
    assert (config.depth, config.width, config.classes, config.base_width) == (20, 10, 10, 16)
    assert {"tf_same": "tf_same", "symmetric": "symmetric1"}[config.padding] == str(oracle["pad_mode"])
    assert config.input_relu == bool(oracle["input_relu"])
    assert config.input_batch_norm_affine and not config.batch_norm_affine
    assert not load_once(path).training


@needs_data
@published
def test_the_npz_file_loads_as_the_same_network(path: Path) -> None:
    from_mat, from_npz = load_once(path), load_checkpoint(ORACLES[path])
    assert from_npz.config.batch_norm_epsilon == pytest.approx(from_mat.config.batch_norm_epsilon, rel=1e-6)
    for name, tensor in from_mat.state_dict().items():
        assert torch.equal(from_npz.state_dict()[name], tensor), name


@needs_data
@published
def test_the_logits_are_those_of_the_documented_forward_pass(path: Path) -> None:
    image = torch.from_numpy(np.load(IMAGES)["images"][:2].transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(
            load_once(path)(image), documented_forward(np.load(ORACLES[path]), image), rtol=1e-3, atol=1e-4
        )


def documented_forward(oracle: Any, image: Tensor) -> Tensor:
    """The forward pass as the data's documentation writes it down, step by step."""
    after_only = str(oracle["pad_mode"]) == "tf_same"

    def norm(index: int, x: Tensor) -> Tensor:
        key = f"bn{index:02d}"
        gamma, beta, mean = (
            torch.from_numpy(oracle[f"{key}_{part}"])[:, None, None] for part in ("gamma", "beta", "mean")
        )
        variance = oracle.get(f"{key}_var")
        sigma = oracle[f"{key}_sigma"] if variance is None else np.sqrt(variance + oracle["eps"])
        normed: Tensor = gamma * (x - mean) / torch.from_numpy(sigma)[:, None, None] + beta
        return normed

    def pad(x: Tensor) -> Tensor:
        return functional.pad(x, (0, 1, 0, 1) if after_only else (1, 1, 1, 1))

    def convolve(index: int, x: Tensor) -> Tensor:
        weight = oracle["layer_scale"][index] * (2.0 * oracle_bits(oracle, index) - 1)
        if oracle["stride"][index] == 2:
            return functional.conv2d(pad(x), torch.from_numpy(weight).float(), stride=2)
        return functional.conv2d(x, torch.from_numpy(weight).float(), padding=int(oracle["pad"][index]))

    def pool(x: Tensor) -> Tensor:
        inside = pad(torch.ones_like(x))
        window = torch.ones(x.shape[1], 1, 3, 3)
        sums, counts = (functional.conv2d(value, window, stride=2, groups=x.shape[1]) for value in (pad(x), inside))
        return sums / counts

    x = norm(0, image)
    residual = convolve(0, torch.relu(x) if oracle["input_relu"] else x)
    for index in range(1, 19, 2):
        x = convolve(index, torch.relu(norm(index, residual)))
        x = convolve(index + 1, torch.relu(norm(index + 1, x)))
        if oracle["stride"][index] == 2:
            pooled = pool(residual)
            residual = torch.cat([pooled, torch.zeros_like(pooled)], dim=1)
        residual = residual + x
    logits: Tensor = torch.mean(norm(20, convolve(19, torch.relu(norm(19, residual)))), dim=(2, 3))
    return logits


@needs_data
@published
@pytest.mark.slow
def test_all_twenty_lossless_images_are_right_under_torch_and_onnxruntime(path: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    content = np.load(IMAGES)
    image = content["images"].transpose(0, 3, 1, 2).astype(np.float32)
    model = load_once(path)
    to_onnx(model, tmp_path / "net.onnx", input_shape=model.config.input_shape)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": image})
    with torch.no_grad():
        expected = model(torch.from_numpy(image)).numpy()
    np.testing.assert_array_equal(expected.argmax(axis=1), content["labels"])
    np.testing.assert_array_equal(logits.argmax(axis=1), content["labels"])
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


# Small files in the published layouts: depth 8, 4 channels, 10 classes.

SHAPES = [(4, 3), (4, 4), (4, 4), (8, 4), (8, 8), (16, 8), (16, 16), (10, 16)]  # (out, in)


def small_bits() -> list[npt.NDArray[np.bool_]]:
    """Signs of every convolution, axes (height, width, in, out)."""
    rng = np.random.default_rng(0)
    kernels = [3] * 7 + [1]
    return [
        rng.integers(0, 2, (kernel, kernel, inputs, outputs)).astype(bool)
        for kernel, (outputs, inputs) in zip(kernels, SHAPES, strict=True)
    ]


def small_keras() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    variables: dict[str, Any] = {}
    for index, bits in enumerate(small_bits()):
        variables["conv2d" + (f"_{index}" if index else "")] = bits[np.newaxis]
    channels = [inputs for _, inputs in SHAPES] + [10]
    for index, count in enumerate(channels):
        rows = 4 if index == 0 else 2
        variables[f"batch_normalization_v1_{index + 84}"] = rng.uniform(0.5, 2, (rows, count)).astype(np.float32)
    return variables


def small_matlab() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    channels = [inputs for _, inputs in SHAPES] + [10]
    layers = ["input", "brw", *["Residual_sum", "brw", "brw"] * 3, "Residual_sum", "brw", "brg"]
    ones = [np.ones((count, 1), np.float32) for count in channels]
    zeros = [np.zeros((count, 1), np.float32) for count in channels]
    return {
        "BinaryWeights": cells(small_bits()).reshape(1, -1),
        "Moments": cells([rng.uniform(0.5, 2, (count, 2)).astype(np.float32) for count in channels]),
        "BNG": cells([3 * ones[0], *ones[1:]]),
        "BNB": cells([ones[0], *zeros[1:]]),
        "LayerWeights": np.arange(1, 9, dtype=np.float32).reshape(-1, 1) / 8,
        "LayerTypes": cells(layers).reshape(1, -1),
        "Stride": np.array([[1, 1, 1, 2, 1, 2, 1, 1]], dtype=np.uint8),
        "Padding": np.array([[1, 1, 1, 1, 1, 1, 1, 0]], dtype=np.uint8),
    }


def cells(items: list[Any]) -> npt.NDArray[np.object_]:
    array = np.empty((len(items), 1), dtype=object)
    for index, item in enumerate(items):
        array[index, 0] = item
    return array


def write(path: Path, variables: dict[str, Any]) -> Path:
    scipy_io.savemat(path, variables, do_compression=True)
    return path


@pytest.mark.parametrize("layout", [small_keras, small_matlab])
def test_signs_land_at_out_in_height_width(layout: Any, tmp_path: Path) -> None:
    model = load_published(write(tmp_path / "net.mat", layout()))
    for layer, bits in zip(model.convolutions(), small_bits(), strict=True):
        for out in range(bits.shape[3]):
            for into in range(bits.shape[2]):
                found = layer.weight[out, into].detach().numpy() > 0
                np.testing.assert_array_equal(found, bits[:, :, into, out])


def test_keras_batch_norm_rows_are_gain_shift_mean_variance(tmp_path: Path) -> None:
    variables = small_keras()
    model = load_published(write(tmp_path / "net.mat", variables))
    first, second = model.batch_norms()[:2]
    rows = variables["batch_normalization_v1_84"]
    for name, row in zip(("weight", "bias", "running_mean", "running_var"), rows, strict=True):
        np.testing.assert_array_equal(first.state_dict()[name].numpy(), row)
    np.testing.assert_array_equal(second.state_dict()["running_var"].numpy(), variables["batch_normalization_v1_85"][1])
    assert "weight" not in second.state_dict()


def test_batch_norms_are_ordered_by_number_and_not_by_name(tmp_path: Path) -> None:
    renamed = {}
    for name, value in small_keras().items():
        number = name.removeprefix("batch_normalization_v1_")
        renamed[name if number == name else f"batch_normalization_v1_{int(number) + 12}"] = value
    assert {"batch_normalization_v1_96", "batch_normalization_v1_100"} <= renamed.keys()
    models = [
        load_published(write(tmp_path / f"{index}.mat", content))
        for index, content in enumerate((small_keras(), dict(sorted(renamed.items()))))
    ]
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], tensor), name


def test_matlab_multipliers_are_used_as_stored(tmp_path: Path) -> None:
    model = load_published(write(tmp_path / "net.mat", small_matlab()))
    scales = [layer.state_dict()["scale"].item() for layer in model.convolutions()]
    assert scales == [(index + 1) / 8 for index in range(8)]


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
