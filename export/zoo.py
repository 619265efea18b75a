"""Wide residual networks in the form of paper 1 (arXiv 1907.06916, figures 2 and 4) and of the published
1-bit-per-weight checkpoints.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnhw.errors import BadInput
from bnhw.export.layers import (
    AveragePool3x3,
    BinaryConv2d,
    Conv2d,
    InputNormalisation,
    Padding,
    PoolDivisor,
    ShiftedReLU,
    Temperature,
)
from bnhw.export.quantisers import QuantisedActivation

Normalisation = Literal["batch_norm", "shifted_relu"]
Weights = Literal["1bit", "float"]
WeightScale = Literal["he", "pow2"]

MAX_DEPTH = 2000
MAX_SIZE = 65536
MAX_WEIGHTS = 2**31

_TINY = 2.0**-126  # the smallest normal float32


@dataclass(frozen=True, slots=True, kw_only=True)
class WideResNetConfig:
    """Everything that fixes a `WideResNet` except its trained values. Invalid values raise `BadInput`.

    depth: convolutions, 6 n + 2 (three groups of n two-convolution units, the stem and the classifier).
    width, base_width: the groups have `width * base_width` channels, twice and four times as many.
    input_channels, image_size: images are (input_channels, image_size[0], image_size[1]), values 0 to 255.
    normalisation: "batch_norm" is figure 2 of paper 1, "shifted_relu" figure 4 (no batch norm at all).
    batch_norm_affine, input_batch_norm_affine: gain and shift are learned; the second is for the batch norm
        before the stem, the first for all others. batch_norm_epsilon: inside the square root.
    weights: "1bit" (`BinaryConv2d`) or "float".
    padding: of every 3 x 3 convolution and pooling ("tf_same" matters for stride 2).
    input_relu: the activation function stands between input normalisation and stem too.
    temperature, input_mean, input_std: used by "shifted_relu" only; mean and std are of raw pixel values, one
        for each input channel.
    weight_scale: of the 1-bit convolutions, see `BinaryConv2d`. pool_divisor: see `AveragePool3x3`. With "pow2" for
        both, a "shifted_relu" network has no real constant between image and logits that is not a power of two.
    act_bits: None for float activations; 2 to 8 for the network with quantised activations, in which the normalised
        image has signed codes of `input_bits` bits and pooled shortcuts such of `residual_bits` bits.
    """

    depth: int = 20
    width: int = 1
    classes: int = 10
    input_channels: int = 3
    image_size: tuple[int, int] = (32, 32)
    normalisation: Normalisation = "shifted_relu"
    batch_norm_affine: bool = False
    input_batch_norm_affine: bool = False
    batch_norm_epsilon: float = 1e-5
    weights: Weights = "1bit"
    padding: Padding = "symmetric"
    input_relu: bool = False
    temperature: float = 50.0
    input_mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    input_std: tuple[float, ...] = (64.0, 64.0, 64.0)
    base_width: int = 16
    weight_scale: WeightScale = "he"
    pool_divisor: PoolDivisor = "pixels"
    act_bits: int | None = None
    input_bits: int = 8
    residual_bits: int = 16

    def __post_init__(self) -> None:
        problems = _config_problems(self)
        if problems:
            raise BadInput("wide residual network configuration: " + "; ".join(problems))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (self.input_channels, *self.image_size)

    @property
    def group_channels(self) -> tuple[int, int, int]:
        """Output channels of the three groups of units."""
        channels = self.base_width * self.width
        return (channels, 2 * channels, 4 * channels)

    @property
    def units_per_group(self) -> int:
        """Two-convolution units in each of the three groups."""
        return (self.depth - 2) // 6

    @property
    def weight_count(self) -> int:
        """Convolution weights in the whole network."""
        first, *_ = channels = self.group_channels
        count = 9 * self.input_channels * first + channels[-1] * self.classes
        inputs = first
        for outputs in channels:
            count += 9 * outputs * (inputs + outputs) + (self.units_per_group - 1) * 18 * outputs * outputs
            inputs = outputs
        return count

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; tuples become lists."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "WideResNetConfig":
        """Inverse of `to_json`; raises `BadInput` that lists every unknown, missing or invalid field.

        Fields that the first checkpoints did not have may be missing.
        """
        known = {field.name for field in fields(cls)}
        problems = [f"unknown field {key!r}" for key in values if key not in known]
        problems += [f"field {key!r} is missing" for key in sorted(known - set(values) - _LATER_FIELDS)]
        if problems:
            raise BadInput("wide residual network configuration: " + "; ".join(problems))
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)


_CHOICES: Mapping[str, Any] = {
    "normalisation": Normalisation,
    "weights": Weights,
    "padding": Padding,
    "weight_scale": WeightScale,
    "pool_divisor": PoolDivisor,
}

_LATER_FIELDS = frozenset({"weight_scale", "pool_divisor", "act_bits", "input_bits", "residual_bits"})


def _config_problems(config: WideResNetConfig) -> list[str]:
    """Every reason why `config` cannot be built; checks types too, since values may come from a file."""
    rules: list[tuple[str, bool, str]] = [
        ("batch_norm_epsilon", _are_numbers((config.batch_norm_epsilon,), least=0.0), "a number from 0"),
        ("temperature", _are_numbers((config.temperature,), least=_TINY), "a number above 0"),
        ("image_size", _are_counts(config.image_size, 2), "two positive integers, height and width"),
    ]
    for name in ("depth", "width", "classes", "input_channels", "base_width"):
        rules.append((name, _are_counts((getattr(config, name),), 1), f"an integer from 1 to {MAX_SIZE}"))
    for name, (fewest, most) in (("act_bits", (2, 8)), ("input_bits", (2, 12)), ("residual_bits", (8, 24))):
        bits = getattr(config, name)
        good = (name == "act_bits" and bits is None) or (type(bits) is int and fewest <= bits <= most)
        rules.append((name, good, f"{'None or ' if name == 'act_bits' else ''}an integer from {fewest} to {most}"))
    for name, kind in _CHOICES.items():
        choices = get_args(kind)
        rules.append((name, getattr(config, name) in choices, f"one of {', '.join(choices)}"))
    for name in ("batch_norm_affine", "input_batch_norm_affine", "input_relu"):
        rules.append((name, type(getattr(config, name)) is bool, "true or false"))
    for name, least in (("input_mean", -math.inf), ("input_std", _TINY)):
        value = getattr(config, name)
        good = _are_numbers(value, least=least) and len(value) == config.input_channels
        rules.append((name, good, f"{config.input_channels!r} numbers{' above 0' if least > 0 else ''}"))
    problems = [f"{name} is {getattr(config, name)!r}, expected {wish}" for name, good, wish in rules if not good]
    if problems:
        return problems
    if config.depth % 6 != 2 or not 8 <= config.depth <= MAX_DEPTH:
        problems.append(f"depth is {config.depth}, expected 6 n + 2 with n >= 1, up to {MAX_DEPTH}")
    elif config.weight_count > MAX_WEIGHTS:
        problems.append(f"depth and width give {config.weight_count} weights, expected at most {MAX_WEIGHTS}")
    return problems


def _are_counts(values: object, count: int) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) == count
        and all(type(value) is int and 1 <= value <= MAX_SIZE for value in values)
    )


def _are_numbers(values: object, *, least: float) -> bool:
    return isinstance(values, tuple) and all(
        type(value) in (int, float) and math.isfinite(value) and value >= least for value in values
    )


class ResidualUnit(nn.Module):
    """Pre-activation unit: two convolutions beside a shortcut.

    r -> shortcut(r) + conv2(activation(norm2(conv1(activation(norm1(r))))))

    With stride 2 the shortcut is 3 x 3 average pooling followed by as many all-zero channels as are missing.
    """

    def __init__(self, config: WideResNetConfig, *, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.extra_channels = outputs - inputs
        self.norm1 = _norm(config, inputs)
        self.conv1 = _conv(config, inputs, outputs, stride=stride)
        self.norm2 = _norm(config, outputs)
        self.conv2 = _conv(config, outputs, outputs)
        self.activation1 = _quantised_activation(config)
        self.activation2 = _quantised_activation(config)
        self.pool: nn.Module = nn.Identity()
        self.pool_quantiser: nn.Module = nn.Identity()
        if stride == 2:
            self.pool = AveragePool3x3(padding=config.padding, divisor=config.pool_divisor)
            self.pool_quantiser = _signed_quantiser(config, config.residual_bits)

    def forward(self, residual: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        branch = self.conv1(self.activation1(self.norm1(residual)))
        branch = self.conv2(self.activation2(self.norm2(branch)))
        shortcut: Tensor = self.pool_quantiser(self.pool(residual))
        if self.extra_channels:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.extra_channels))
        total: Tensor = shortcut + branch
        return total


class WideResNet(nn.Module):
    """Wide residual network: raw pixels (N, C, H, W), float32 values 0 to 255, to logits (N, classes).

    Baseline form (paper 1, figure 2): batch norm stands before the stem, before the ReLU ahead of every other
    convolution, and after the 1 x 1 classifier; then global average pooling. Shifted-ReLU form (figure 4): no
    batch norm; fixed normalisation of the input, shifted ReLUs, and a division by the temperature after the
    classifier. The softmax is left to the loss.
    """

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__()
        self.config = config
        batch_norm = config.normalisation == "batch_norm"
        channels = config.group_channels
        self.input_norm: nn.Module
        if batch_norm:
            self.input_norm = _batch_norm(config, config.input_channels, affine=config.input_batch_norm_affine)
        else:
            self.input_norm = InputNormalisation(config.input_mean, config.input_std)
        self.input_activation = _activation(config) if config.input_relu else nn.Identity()
        self.input_quantiser = _signed_quantiser(config, config.input_bits)
        self.activation = _quantised_activation(config)
        self.stem = _conv(config, config.input_channels, channels[0])
        self.units = nn.ModuleList(_units(config))
        self.final_norm = _norm(config, channels[-1])
        self.classifier = _conv(config, channels[-1], config.classes, kernel=1)
        self.output_norm = _norm(config, config.classes) if batch_norm else Temperature(config.temperature)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, input channels, H, W) to logits (N, classes)."""
        x: Tensor = self.input_quantiser(self.input_activation(self.input_norm(image)))
        x = self.stem(x)
        for unit in self.units:
            x = unit(x)
        x = self.output_norm(self.classifier(self.activation(self.final_norm(x))))
        return torch.mean(x, dim=(2, 3))

    def convolutions(self) -> tuple[Conv2d, ...]:
        """All convolutions in forward order, `config.depth` of them."""
        return tuple(module for module in self.modules() if isinstance(module, Conv2d))

    def batch_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """All batch norms in forward order: one before each convolution and one at the end, or none."""
        return tuple(module for module in self.modules() if isinstance(module, nn.BatchNorm2d))


def _units(config: WideResNetConfig) -> list[ResidualUnit]:
    units = []
    inputs = config.group_channels[0]
    for group, outputs in enumerate(config.group_channels):
        for index in range(config.units_per_group):
            stride = 2 if group > 0 and index == 0 else 1
            units.append(ResidualUnit(config, inputs=inputs, outputs=outputs, stride=stride))
            inputs = outputs
    return units


def _conv(config: WideResNetConfig, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> Conv2d:
    if config.weights == "float":
        return Conv2d(inputs, outputs, kernel, stride=stride, padding=config.padding)
    return BinaryConv2d(
        inputs, outputs, kernel, stride=stride, padding=config.padding, weight_scale=config.weight_scale
    )


def _norm(config: WideResNetConfig, channels: int) -> nn.Module:
    if config.normalisation == "shifted_relu":
        return nn.Identity()
    return _batch_norm(config, channels, affine=config.batch_norm_affine)


def _batch_norm(config: WideResNetConfig, channels: int, *, affine: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=config.batch_norm_epsilon, affine=affine)


def _activation(config: WideResNetConfig) -> nn.Module:
    return nn.ReLU() if config.normalisation == "batch_norm" else ShiftedReLU()


def _quantised_activation(config: WideResNetConfig) -> nn.Module:
    if config.act_bits is None:
        return _activation(config)
    return QuantisedActivation(config.act_bits, floor=0.0 if config.normalisation == "batch_norm" else -1.0)


def _signed_quantiser(config: WideResNetConfig, bits: int) -> nn.Module:
    return nn.Identity() if config.act_bits is None else QuantisedActivation(bits, floor=None)
