"""The published checkpoints: bit for bit, in both layouts, against the documented re-encoding, and run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")
pytest.importorskip("scipy.io", reason="reading .mat files needs scipy")

from published_files import (  # noqa: E402 - after the skips
    DATA,
    KERAS,
    MATLAB,
    ORACLES,
    needs_data,
    small_bits,
    small_keras,
    small_matlab,
    write,
)
from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402

from bnhw.export.checkpoints import load_wide_resnet  # noqa: E402
from bnhw.export.layers import BinaryConv2d  # noqa: E402
from bnhw.export.published import load_published  # noqa: E402
from bnhw.export.to_onnx import to_onnx  # noqa: E402
from bnhw.export.zoo import WideResNet  # noqa: E402

IMAGES = DATA / "cifar10_test_first20_lossless.npz"
published = pytest.mark.parametrize("path", [KERAS, MATLAB], ids=["keras", "matlab"])

_loaded: dict[Path, WideResNet] = {}


def load_once(path: Path) -> WideResNet:
    if path not in _loaded:
        _loaded[path] = load_wide_resnet(path)
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
    from_mat, from_npz = load_once(path), load_wide_resnet(ORACLES[path])
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
