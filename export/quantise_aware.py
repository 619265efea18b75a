"""Networks with quantised activations, made from trained ones, to be fine-tuned and then compiled without loss.

    from bnhw.export.checkpoints import load_wide_resnet
    from bnhw.export.quantise_aware import quantise_aware
    from bnhw.export.train_digits import as_tensor, fine_tune

    network = quantise_aware(load_wide_resnet("net.safetensors"), as_tensor(images[:500]), bits=3)
    network = fine_tune(network, images, labels, epochs=10, seed=0)

`save_checkpoint` and `to_onnx` take the result like any other network. `bnhw compile --requantise shift` then gives
a program whose every code is that of the network, without multipliers, if the network has shifted ReLUs. Behind a
batch norm the same holds for `--requantise threshold`.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from bnhw.errors import BadInput
from bnhw.export.normalisations import TEMPERED_KINDS
from bnhw.export.quantisers import QuantisedActivation, calibrate_quantisers
from bnhw.export.zoo import ResidualUnit, WideResNet

RESIDUAL_HEADROOM = 4.0
"""How much larger than on the calibration images the residual stream may become, by training and on other images."""


def quantise_aware(
    network: WideResNet,
    images: Tensor,
    *,
    bits: int = 4,
    input_bits: int = 8,
    residual_bits: int = 16,
    power_of_two: bool = True,
) -> WideResNet:
    """A copy of `network` with quantised activations, in eval mode.

    images: float32 (N, C, H, W), raw pixels 0 to 255; the scales of the quantisers are fitted to them, in order, and
    stay. bits: of the codes that convolutions read, 2 to 8; input_bits: of the normalised image; residual_bits: of
    pooled shortcuts. power_of_two: weight scales become powers of two and pooling divides by 8, without which the
    codes of the integer program are not exactly those of the network. Weight-normalised convolutions keep their learned
    scales and biases, so that their programs are close, not exact.
    The temperature of a network that has one falls, where few codes leave the logits too small to learn from, to the
    power of two that gives them unit deviation. Raises `BadInput` for widths out of range, and where the residual
    stream is 0 or not finite.
    """
    constants = {"weight_scale": "pow2", "pool_divisor": "pow2"} if power_of_two else {}
    config = replace(network.config, act_bits=bits, input_bits=input_bits, residual_bits=residual_bits, **constants)  # type: ignore[arg-type]  # the keys are those of string fields
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced; leave the caller's numbers be
        result = WideResNet(config)
    values = result.state_dict()
    weight_scales = {f"{name}.scale" for name, module in result.named_modules() if hasattr(module, "effective_weight")}
    kept = {name for name in network.state_dict() if not (power_of_two and name in weight_scales)}
    result.load_state_dict(values | {name: network.state_dict()[name] for name in kept if name in values})
    result.eval()
    calibrate_quantisers(result, images)
    _share_residual_scale(result, images)
    if config.normalisation in TEMPERED_KINDS:
        result = _with_temperature(result, min(config.temperature, _fitted_temperature(result, images)))
    return result.eval()


def _fitted_temperature(network: WideResNet, images: Tensor) -> float:
    with torch.no_grad():
        deviation = float(network(images).std()) * network.config.temperature
    return 2.0 ** round(math.log2(deviation)) if 0 < deviation < math.inf else network.config.temperature


def _with_temperature(network: WideResNet, temperature: float) -> WideResNet:
    with torch.random.fork_rng(devices=[]):
        result = WideResNet(replace(network.config, temperature=temperature))
    result.load_state_dict(network.state_dict())
    return result


def _share_residual_scale(network: WideResNet, images: Tensor) -> None:
    """Give all quantisers of pooled shortcuts the finest scale that holds the whole residual stream with headroom."""
    largest = max(_stream_magnitudes(network, images))
    quantisers = [unit.pool_quantiser for unit in network.units if isinstance(unit.pool_quantiser, QuantisedActivation)]
    high = min(quantiser.code_range[1] for quantiser in quantisers)
    if not 0 < largest < math.inf:
        raise BadInput(f"the residual stream reaches {largest} on the images; use a trained network and real images")
    scale = 2.0 ** math.ceil(math.log2(largest * RESIDUAL_HEADROOM / high))
    for quantiser in quantisers:
        quantiser.set_scale(scale)


def _stream_magnitudes(network: WideResNet, images: Tensor) -> list[float]:
    """The largest magnitude behind the stem and behind each residual unit."""
    found: list[float] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(float(output.abs().max()))

    stream = [network.stem, *(unit for unit in network.units if isinstance(unit, ResidualUnit))]
    hooks = [module.register_forward_hook(watch) for module in stream]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found
