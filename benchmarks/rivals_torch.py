"""Chains under PyTorch's oneDNN kernels on one thread, pixels in the order of `channels_last`."""

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from rivals import Build, Chain, Values
from torch.nn import functional

LAST = torch.channels_last
warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)  # deprecated, not gone
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def float_chain(dtype: torch.dtype) -> Build:
    """`conv2d` and ReLU in one type of floats; the scale is in the weights."""

    def build(values: Values, length: int) -> Chain:
        torch.set_num_threads(1)
        first = torch.from_numpy(values.codes).permute(0, 3, 1, 2).to(dtype).contiguous(memory_format=LAST)
        weights = [
            (torch.from_numpy(signs).to(torch.float64) / values.scale).to(dtype).contiguous(memory_format=LAST)
            for signs in values.signs[:length]
        ]

        def run() -> torch.Tensor:
            result = first
            with torch.inference_mode():
                for weight in weights:
                    result = functional.relu_(functional.conv2d(result, weight, padding=1))
            return result

        return Chain(run=run, first_image=_first_image(lambda: run().to(torch.float64)), tolerance=TOLERANCE[dtype])

    return build


def integer_chain(values: Values, length: int) -> Chain:
    """Quantised convolutions with ReLU: unsigned codes, signed weights, requantised to unsigned codes."""
    torch.set_num_threads(1)
    torch.backends.quantized.engine = "onednn"
    codes = torch.from_numpy(values.codes).permute(0, 3, 1, 2).to(torch.float32).contiguous(memory_format=LAST)
    first = torch.quantize_per_tensor(codes, 1.0, 0, torch.quint8)
    packed = [
        torch.ops.quantized.conv2d_prepack(_quantised(signs), None, [1, 1], [1, 1], [1, 1], 1)
        for signs in values.signs[:length]
    ]
    # Codes of scale s times weights of scale 1, requantised to codes of scale s * values.scale.
    scales = [values.scale ** (number + 1) for number in range(length)]

    def run() -> torch.Tensor:
        result = first
        with torch.inference_mode():
            for weight, scale in zip(packed, scales, strict=True):
                result = torch.ops.quantized.conv2d_relu(result, weight, scale, 0)
        return result

    return Chain(run=run, first_image=_first_image(lambda: run().int_repr()))


def _quantised(signs: npt.NDArray[np.int8]) -> torch.Tensor:
    weights = torch.from_numpy(signs).to(torch.float32)
    return torch.quantize_per_tensor(weights, 1.0, 0, torch.qint8).contiguous(memory_format=LAST)


def _first_image(run: Callable[[], torch.Tensor]) -> Callable[[], npt.NDArray[np.float64]]:
    return lambda: np.asarray(run()[0].permute(1, 2, 0).numpy(), np.float64)


BUILDS = {
    "torch fp32": {"channels last": float_chain(torch.float32)},
    "torch bf16": {"channels last": float_chain(torch.bfloat16)},
    "torch int8": {"channels last": integer_chain},
}
