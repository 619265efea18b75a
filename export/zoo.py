"""Wide residual networks in the form of paper 1 (arXiv 1907.06916, figures 2 and 4) and of the published
1-bit-per-weight checkpoints.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnhw.errors import BadInput
from bnhw.export import config_rules
from bnhw.export.config_rules import MAX_SIZE, TINY
from bnhw.export.layers import AveragePool3x3, Conv2d, Padding, PoolDivisor
from bnhw.export.normalisations import (
    BATCH_NORM_KINDS,
    SHIFTED_KINDS,
    InputKind,
    Normalisation,
    NormalisationConfig,
    Position,
    Weights,
    make_activation,
    make_convolution,
    make_dropout,
    make_normalisation,
)
from bnhw.export.quantisers import QuantisedActivation

WeightScale = Literal["he", "pow2"]
Form = Literal["cifar", "imagenet"]

MAX_DEPTH = 2000
MAX_WEIGHTS = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class WideResNetConfig:
    """Everything that fixes a `WideResNet` except its trained values. Invalid values raise `BadInput`.

    depth: convolutions, 6 n + 2 (three groups of n two-convolution units, the stem and the classifier); in the
        ImageNet form 8 n + 2 (four groups).
    width, base_width: the groups have `width * base_width` channels, twice, four (and eight) times as many; width may
        be a fraction, the product not.
    input_channels, image_size: images are (input_channels, image_size[0], image_size[1]), values 0 to 255.
    normalisation: a value of `Normalisation`. "batch_norm" is figure 2 of paper 1, "shifted_relu" figure 4 (no batch
        norm at all). `with_normalisation` sets this field and those that go with it from a `NormalisationConfig`.
    batch_norm_affine, input_batch_norm_affine: whether gain and shift are learned; the first is for all batch norms of
        normalisation "batch_norm", which without it is "batch_norm_minus", the second for the batch norm before the
        stem where `input_normalisation` is None. batch_norm_epsilon: inside the square root.
    weights: "1bit" (`BinaryConv2d`) or "float".
    padding: of every 3 x 3 convolution and pooling ("tf_same" matters for stride 2).
    input_relu: the activation function stands between input normalisation and stem too.
    temperature: used by the kinds of `TEMPERED_KINDS` only.
    input_mean, input_std: of raw pixel values, one for each input channel.
    weight_scale: of the 1-bit convolutions, see `BinaryConv2d`. pool_divisor: see `AveragePool3x3`. With "pow2" for
        both, a "shifted_relu" network has no real constant between image and logits that is not a power of two.
    act_bits: None for float activations; 2 to 8 for the network with quantised activations, in which the normalised
        image has signed codes of `input_bits` bits and pooled shortcuts such of `residual_bits` bits. Not for "elu".
    form: "cifar" has a 3 x 3 stem and three groups of units; "imagenet" a 7 x 7 stem with stride 2, 3 x 3 max pooling
        with stride 2 and four groups, "symmetric" padding only.
    gain, dropout: see `NormalisationConfig`; dropout stands before the second convolution of a unit.
    input_normalisation: see `NormalisationConfig.input`, where "offline" is by `input_mean` and `input_std`. None is
        batch norm for kinds of `BATCH_NORM_KINDS` and "offline" for all others.
    """

    depth: int = 20
    width: float = 1
    classes: int = 10
    input_channels: int = 3
    image_size: tuple[int, int] = (32, 32)
    normalisation: str = "shifted_relu"
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
    form: Form = "cifar"
    gain: float = 1.0
    dropout: float = 0.0
    input_normalisation: InputKind | None = None

    def __post_init__(self) -> None:
        problems = _config_problems(self)
        if problems:
            raise BadInput("wide residual network configuration: " + "; ".join(problems))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (self.input_channels, *self.image_size)

    @property
    def group_channels(self) -> tuple[int, ...]:
        """Output channels of the groups of units."""
        channels = round(self.base_width * self.width)
        return tuple(channels << group for group in range(self.groups))

    @property
    def groups(self) -> int:
        """Groups of units: 3, or 4 in the ImageNet form."""
        return 3 if self.form == "cifar" else 4

    @property
    def units_per_group(self) -> int:
        """Two-convolution units in each group."""
        return (self.depth - 2) // (2 * self.groups)

    @property
    def stem_kernel(self) -> int:
        """Pixels on a side of the stem's kernel."""
        return 3 if self.form == "cifar" else 7

    @property
    def weight_count(self) -> int:
        """Convolution weights in the whole network."""
        first, *_ = channels = self.group_channels
        count = self.stem_kernel**2 * self.input_channels * first + channels[-1] * self.classes
        inputs = first
        for outputs in channels:
            count += 9 * outputs * (inputs + outputs) + (self.units_per_group - 1) * 18 * outputs * outputs
            inputs = outputs
        return count

    @property
    def normalisation_config(self) -> NormalisationConfig:
        """Normalisation, its constants, and that of the image, as the factory takes them."""
        kind = Normalisation(self.normalisation)
        input_kind = self.input_normalisation
        if input_kind is None:
            input_kind = "batch_norm_minus" if kind in BATCH_NORM_KINDS else "offline"
        if kind is Normalisation.BATCH_NORM and not self.batch_norm_affine:
            kind = Normalisation.BATCH_NORM_MINUS
        return NormalisationConfig(
            kind=kind,
            gain=self.gain,
            epsilon=self.batch_norm_epsilon,
            temperature=self.temperature,
            dropout=self.dropout,
            input=input_kind,
            input_mean=self.input_mean if input_kind == "offline" else (),
            input_std=self.input_std if input_kind == "offline" else (),
        )

    def with_normalisation(self, normalisation: NormalisationConfig) -> "WideResNetConfig":
        """The same network with this normalisation, that of the image included; inverse of `normalisation_config`."""
        offline = {"input_mean": normalisation.input_mean, "input_std": normalisation.input_std}
        return replace(
            self,
            normalisation=normalisation.kind.value,
            batch_norm_affine=normalisation.kind is Normalisation.BATCH_NORM,
            input_batch_norm_affine=False,
            batch_norm_epsilon=normalisation.epsilon,
            gain=normalisation.gain,
            temperature=normalisation.temperature,
            dropout=normalisation.dropout,
            input_normalisation=normalisation.input,
            **(offline if normalisation.input == "offline" else {}),  # type: ignore[arg-type]  # the keys are those of tuple fields
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; tuples become lists, members of enumerations their values."""
        return config_rules.to_json_values(asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "WideResNetConfig":
        """Inverse of `to_json`; raises `BadInput` that lists every unknown, missing or invalid field.

        Fields that the first checkpoints did not have may be missing.
        """
        known = {field.name for field in fields(cls)}
        what = "wide residual network configuration"
        return cls(**config_rules.from_json_values(values, known=known, optional=_LATER_FIELDS, what=what))


_CHOICES: Mapping[str, tuple[str | None, ...]] = {
    "normalisation": tuple(Normalisation),
    "weights": get_args(Weights),
    "padding": get_args(Padding),
    "weight_scale": get_args(WeightScale),
    "pool_divisor": get_args(PoolDivisor),
    "form": get_args(Form),
    "input_normalisation": (*get_args(InputKind), None),
}

_LATER_FIELDS = frozenset(
    {"weight_scale", "pool_divisor", "act_bits", "input_bits", "residual_bits"}
    | {"form", "gain", "dropout", "input_normalisation"}
)


def _config_problems(config: WideResNetConfig) -> list[str]:
    """Every reason why `config` cannot be built; checks types too, since values may come from a file."""
    problems = [
        f"{name} is {getattr(config, name)!r}, expected {wish}" for name, good, wish in _field_rules(config) if not good
    ]
    if problems:
        return problems
    try:
        kind = config.normalisation_config.kind
    except BadInput as error:
        return [str(error)]
    step = 2 * config.groups
    rules = (
        (
            config.depth % step == 2 and step + 2 <= config.depth <= MAX_DEPTH,
            f"depth is {config.depth}, expected {step} n + 2 with n >= 1, up to {MAX_DEPTH}",
        ),
        (
            config.base_width * config.width == config.group_channels[0] > 0,
            f"width {config.width} times base_width {config.base_width} is not a number of channels",
        ),
        (
            config.form == "cifar" or config.padding == "symmetric",
            f"padding is {config.padding!r}, expected 'symmetric' in the ImageNet form",
        ),
        (
            kind is not Normalisation.ELU or config.act_bits is None,
            f"act_bits is {config.act_bits}, expected None with ELU: saturated codes are ReLU or shifted ReLU",
        ),
        (
            config.normalisation == "batch_norm" or not config.batch_norm_affine,
            f"batch_norm_affine is true, expected false for {config.normalisation!r}: it is for 'batch_norm' only",
        ),
    )
    problems = [problem for good, problem in rules if not good]
    if not problems and config.weight_count > MAX_WEIGHTS:
        problems.append(f"depth and width give {config.weight_count} weights, expected at most {MAX_WEIGHTS}")
    return problems


def _field_rules(config: WideResNetConfig) -> list[tuple[str, bool, str]]:
    """(field, whether its value can be, what is expected) for every field on its own."""
    rules: list[tuple[str, bool, str]] = [
        ("batch_norm_epsilon", config_rules.is_number(config.batch_norm_epsilon, least=0.0), "a number from 0"),
        ("temperature", config_rules.is_number(config.temperature, least=TINY), "a number above 0"),
        (
            "width",
            config_rules.is_number(config.width, least=TINY, most=MAX_SIZE),
            f"an integer from 1 to {MAX_SIZE}, or a fraction above 0",
        ),
        ("image_size", config_rules.are_counts(config.image_size, 2), "two positive integers, height and width"),
    ]
    for name in ("depth", "classes", "input_channels", "base_width"):
        rules.append((name, config_rules.is_count(getattr(config, name)), f"an integer from 1 to {MAX_SIZE}"))
    for name, (fewest, most) in (("act_bits", (2, 8)), ("input_bits", (2, 12)), ("residual_bits", (8, 24))):
        bits = getattr(config, name)
        good = (name == "act_bits" and bits is None) or (type(bits) is int and fewest <= bits <= most)
        rules.append((name, good, f"{'None or ' if name == 'act_bits' else ''}an integer from {fewest} to {most}"))
    for name, choices in _CHOICES.items():
        rules.append((name, getattr(config, name) in choices, f"one of {', '.join(map(str, choices))}"))
    for name in ("batch_norm_affine", "input_batch_norm_affine", "input_relu"):
        rules.append((name, type(getattr(config, name)) is bool, "true or false"))
    for name, least in (("input_mean", None), ("input_std", TINY)):
        value = getattr(config, name)
        good = config_rules.are_numbers(value) if least is None else config_rules.are_numbers(value, least=least)
        good = good and len(value) == config.input_channels
        rules.append((name, good, f"{config.input_channels!r} numbers{' above 0' if least else ''}"))
    return rules


class ResidualUnit(nn.Module):
    """Pre-activation unit: two convolutions beside a shortcut.

    r -> shortcut(r) + conv2(activation(norm2(conv1(activation(norm1(r))))))

    With stride 2 the shortcut is 3 x 3 average pooling followed by as many all-zero channels as are missing.
    """

    def __init__(self, config: WideResNetConfig, *, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        normalisation = config.normalisation_config
        self.extra_channels = outputs - inputs
        self.norm1 = make_normalisation(normalisation, inputs, position=Position.HIDDEN)
        self.conv1 = _conv(config, inputs, outputs, stride=stride)
        self.norm2 = make_normalisation(normalisation, outputs, position=Position.HIDDEN)
        self.conv2 = _conv(config, outputs, outputs)
        self.activation1 = _activation(config)
        self.activation2 = _activation(config)
        self.dropout = make_dropout(normalisation)
        self.pool: nn.Module = nn.Identity()
        self.pool_quantiser: nn.Module = nn.Identity()
        if stride == 2:
            self.pool = AveragePool3x3(padding=config.padding, divisor=config.pool_divisor)
            self.pool_quantiser = _signed_quantiser(config, config.residual_bits)

    def forward(self, residual: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        branch = self.conv1(self.activation1(self.norm1(residual)))
        branch = self.conv2(self.dropout(self.activation2(self.norm2(branch))))
        shortcut: Tensor = self.pool_quantiser(self.pool(residual))
        if self.extra_channels:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.extra_channels))
        total: Tensor = shortcut + branch
        return total


class WideResNet(nn.Module):
    """Wide residual network: raw pixels (N, C, H, W), float32 values 0 to 255, to logits (N, classes).

    Baseline (paper 1, figure 2): batch norm stands before the stem, before the ReLU ahead of every other
    convolution, and after the 1 x 1 classifier; then global average pooling. Shifted ReLUs (figure 4): no
    batch norm; fixed normalisation of the input, and a division by the temperature after the classifier. Other
    normalisations stand at the same places. The softmax is left to the loss.
    """

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__()
        self.config = config
        normalisation = config.normalisation_config
        channels = config.group_channels
        self.input_norm = _input_norm(config)
        self.input_activation = make_activation(normalisation, "relu") if config.input_relu else nn.Identity()
        self.input_quantiser = _signed_quantiser(config, config.input_bits)
        self.activation = _activation(config)
        cifar = config.form == "cifar"
        kernel, stride = config.stem_kernel, 1 if cifar else 2
        self.stem = _conv(config, config.input_channels, channels[0], kernel=kernel, stride=stride)
        self.stem_pool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, padding=1)
        self.units = nn.ModuleList(_units(config))
        self.final_norm = make_normalisation(normalisation, channels[-1], position=Position.HIDDEN)
        self.classifier = _conv(config, channels[-1], config.classes, kernel=1)
        self.output_norm = make_normalisation(normalisation, config.classes, position=Position.FINAL)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, input channels, H, W) to logits (N, classes)."""
        x: Tensor = self.input_quantiser(self.input_activation(self.input_norm(image)))
        x = self.stem_pool(self.stem(x))
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
    return make_convolution(
        config.normalisation_config,
        inputs,
        outputs,
        kernel,
        weights=config.weights,
        stride=stride,
        padding=config.padding,
        weight_scale=config.weight_scale,
    )


def _input_norm(config: WideResNetConfig) -> nn.Module:
    normalisation = config.normalisation_config
    if config.input_normalisation is None and normalisation.input == "batch_norm_minus":
        # the published networks learned gain and shift here, or did not
        affine = config.input_batch_norm_affine
        return nn.BatchNorm2d(config.input_channels, eps=config.batch_norm_epsilon, affine=affine)
    return make_normalisation(normalisation, config.input_channels, position=Position.INPUT)


def _activation(config: WideResNetConfig) -> nn.Module:
    normalisation = config.normalisation_config
    if config.act_bits is None:
        return make_activation(normalisation, "relu")
    return QuantisedActivation(config.act_bits, floor=-1.0 if normalisation.kind in SHIFTED_KINDS else 0.0)


def _signed_quantiser(config: WideResNetConfig, bits: int) -> nn.Module:
    return nn.Identity() if config.act_bits is None else QuantisedActivation(bits, floor=None)
