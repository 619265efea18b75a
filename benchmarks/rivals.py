"""Chains of 3x3 convolutions under PyTorch's oneDNN kernels, for `benchmarks/kernels.py`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Greatest error of a float chain's first layer, relative to its greatest sum."""
LAST = torch.channels_last


def torch_chains(channels: int, size: int, length: int, batch: int) -> Mapping[str, Callable[[], Any]]:
    """Chains of `length` layers of as many output as input channels on one thread, by name, all on the same values.

    Raises AssertionError where the first layer of one is not that of float64; codes of int8 may be off by one.
    """
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    signs = torch.from_numpy(random.choice(np.array([-1.0, 1.0]), (channels, channels, 3, 3)))
    codes = torch.from_numpy(random.integers(0, 256, (batch, channels, size, size)).astype(np.float64))
    exact = functional.conv2d(codes[:1], signs, padding=1)
    scale = 3.0 * channels**0.5
    chains = {f"torch {name}": _float_chain(codes, signs, exact, length, dtype) for name, dtype in FLOATS.items()}
    return {**chains, "torch int8": _integer_chain(codes, signs, exact, length, scale)}


FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _float_chain(
    codes: torch.Tensor, signs: torch.Tensor, exact: torch.Tensor, length: int, dtype: torch.dtype
) -> Callable[[], Any]:
    factor = 1 / (3.0 * codes.shape[1] ** 0.5)
    first = codes.to(dtype).contiguous(memory_format=LAST)
    weights = (signs * factor).to(dtype).contiguous(memory_format=LAST)

    def run(layers: int = length, images: int = len(codes)) -> torch.Tensor:
        values = first[:images]
        with torch.inference_mode():
            for _ in range(layers):
                values = functional.relu_(functional.conv2d(values, weights, padding=1))
        return values

    expected = functional.relu(exact) * factor
    error = (run(1, 1).to(torch.float64) - expected).abs().max() / expected.abs().max()
    assert error <= TOLERANCE[dtype], f"{dtype} is off by {error:.1e} on {codes.shape[1]} channels"
    return run


def _integer_chain(
    codes: torch.Tensor, signs: torch.Tensor, exact: torch.Tensor, length: int, scale: float
) -> Callable[[], Any]:
    torch.backends.quantized.engine = "onednn"
    weights = torch.quantize_per_tensor(signs.to(torch.float32), 1.0, 0, torch.qint8).contiguous(memory_format=LAST)
    first = torch.quantize_per_tensor(codes.to(torch.float32).contiguous(memory_format=LAST), 1.0, 0, torch.quint8)
    packed = torch.ops.quantized.conv2d_prepack(weights, None, [1, 1], [1, 1], [1, 1], 1)

    def run(layers: int = length, images: int = len(codes)) -> torch.Tensor:
        values = first[:images]
        with torch.inference_mode():
            for _ in range(layers):
                values = torch.ops.quantized.conv2d_relu(values, packed, scale, 0)
        return values

    expected = (functional.relu(exact) / scale).round().clamp(0, 255)
    error = (run(1, 1).int_repr().to(torch.float64) - expected).abs().max()
    assert error <= 1, f"int8 is off by {error} codes on {codes.shape[1]} channels"
    return run
