"""The published checkpoints where they are at hand, and small files laid out like them.

The small ones have depth 8, 4 channels and 10 classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"
KERAS = DATA / "CIFAR10_allparams.mat"
MATLAB = DATA / "TrainedWideResNet20-10_CIFAR10_1-bit-per-weight-4MB.mat"
ORACLES = {
    KERAS: DATA / "seed_keras_wrn20-10_cifar10.npz",
    MATLAB: DATA / "seed_matlab_wrn20-10_cifar10.npz",
}

needs_data = pytest.mark.skipif(not KERAS.is_file(), reason=f"the published files are not in {DATA}")


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
    import scipy.io

    scipy.io.savemat(path, variables, do_compression=True)
    return path
