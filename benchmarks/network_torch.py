"""Whole networks under PyTorch, from the checkpoint that `bnhw export` takes, for `benchmarks/network.py`.

The network is put into torch's own layers, with constant padding and effective weights, pixels in the order of
`channels_last`; batch norms behind convolutions are folded into them. int8 is FX graph mode quantisation with oneDNN's
kernels, everything quantised that torch quantises by default.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, fuse_fx, prepare_fx

from bnhw.dtypes import Array
from bnhw.export.checkpoints import load_checkpoint
from bnhw.export.layers import AveragePool3x3, Conv2d, zero_padding
from bnhw.export.to_onnx import Materialises

warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes to it

Engine = Callable[[Array], Array]
Sizes = Mapping[str, tuple[int, int]]
"""By the name of a module: rows and columns of what it takes."""


def torch_builders(checkpoint: Path, images: Array, threads: int) -> dict[str, Callable[[], Engine]]:
    """By name, what makes an engine; `images` are for the calibration of int8."""
    return {
        "torch fp32": lambda: _engine(fuse_fx(standard(checkpoint, images)), threads, torch.float32),
        "torch bf16": lambda: _engine(fuse_fx(standard(checkpoint, images)), threads, torch.bfloat16),
        "torch int8": lambda: _engine(quantised(standard(checkpoint, images), images), threads, torch.float32),
    }


def to_tensor(images: Array, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 (images, height, width, channels) -> (images, channels, height, width), `channels_last` in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype, memory_format=torch.channels_last)


def _engine(network: nn.Module, threads: int, dtype: torch.dtype) -> Engine:
    ready = network.to(dtype)
    for parameter in ready.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def run(images: Array) -> Array:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return np.asarray(ready(to_tensor(images, dtype)).to(torch.float32).numpy())

    return run


def standard(checkpoint: Path, images: Array) -> nn.Module:
    """The network in torch's own layers; AssertionError unless the logits of an image stay what they were."""
    network = load_checkpoint(checkpoint).requires_grad_(False)
    image = to_tensor(images[:1])
    with torch.no_grad():
        before = network(image)
        changed = _standard(network, "", _sizes(network, image))
        error = float((changed(image) - before).abs().max() / before.abs().max())
    assert error < 1e-4, f"the network in torch's own layers is off by {error:.1e}"
    return changed


def quantised(network: nn.Module, images: Array) -> nn.Module:
    """The network in int8, calibrated on the images."""
    torch.backends.quantized.engine = "onednn"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecations
        prepared = prepare_fx(network, get_default_qconfig_mapping("onednn"), (to_tensor(images[:1]),))
        prepared(to_tensor(images))
        return convert_fx(prepared)


def _sizes(network: nn.Module, image: torch.Tensor) -> Sizes:
    found: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, inputs: Any) -> None:
            found[name] = tuple(inputs[0].shape[-2:])

        return hook

    handles = [module.register_forward_pre_hook(note(name)) for name, module in network.named_modules()]
    network(image)
    for handle in handles:
        handle.remove()
    return found


def _standard(module: nn.Module, name: str, sizes: Sizes) -> nn.Module:
    """A module whose forward looks at no shapes, so that it can be traced."""
    if isinstance(module, Materialises):
        module = module.materialise()
    match module:
        case Conv2d():
            return _convolution(module, sizes[name]).eval()
        case AveragePool3x3() if module.divisor == "pixels":
            same = module.padding_rule == "tf_same"
            return nn.AvgPool2d(3, 2, 0 if same else 1, ceil_mode=same, count_include_pad=False)
        case nn.BatchNorm2d() if not module.affine:  # torch quantises only those with gain and shift
            norm = nn.BatchNorm2d(module.num_features, eps=module.eps)
            norm.running_mean, norm.running_var = module.running_mean, module.running_var
            return norm.requires_grad_(False).eval()
    for child_name, child in module.named_children():
        setattr(module, child_name, _standard(child, f"{name}.{child_name}".lstrip("."), sizes))
    return module


def _convolution(layer: Conv2d, size: tuple[int, int]) -> nn.Module:
    (top, bottom), (left, right) = (
        zero_padding(pixels, kernel=kernel, stride=stride, padding=layer.padding_rule)
        for pixels, kernel, stride in zip(size, layer.kernel_size, layer.stride, strict=True)
    )
    even = (top, left) == (bottom, right)
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size[0], layer.kernel_size[1]),
        (layer.stride[0], layer.stride[1]),
        (top, left) if even else 0,
        groups=layer.groups,
        bias=False,
    )
    plain.weight = nn.Parameter(layer.effective_weight().detach().clone(), requires_grad=False)
    return plain if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), plain)
