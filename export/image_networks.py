"""What ResNet, ResNeXt, MobileNetV2 and RepVGG share: their configuration, its checks, and the classifier.

"Paper 2" is Gaur, Folz and Dengel (arXiv 2008.07970), "paper 3" Davis and Frank (Revisiting Batch Normalization, 2021),
"paper 4" Peerthum and Stamp (arXiv 2303.12818).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from bnhw.errors import BadInput
from bnhw.export.config_rules import MAX_SIZE, are_counts, from_json_values, is_count, to_json_values
from bnhw.export.layers import WEIGHT_SCALES, BinaryConv2d, Conv2d
from bnhw.export.normalisations import Normalisation, NormalisationConfig, Weights, make_convolution

Stem = Literal["imagenet", "cifar"]
Rule = tuple[str, bool, str]
"""A field's name, whether its value is good, and what is expected."""

MAX_STAGES = 8
MAX_UNITS = 256
MAX_WEIGHTS = 2**31

KINDS = (
    Normalisation.BATCH_NORM,
    Normalisation.BATCH_NORM_MINUS,
    Normalisation.AFFINE,
    Normalisation.NONE,
    Normalisation.SCALED,
    Normalisation.SCALED_A1,
    Normalisation.SCALED_A2,
    Normalisation.RBN,
    Normalisation.RBN_MINUS,
    Normalisation.IEBN,
    Normalisation.IEBN_MINUS,
    Normalisation.WEIGHT_NORM,
)
"""The normalisations of papers 2, 3 and 4; those of paper 1 belong to wide residual networks."""


BATCH_NORM = NormalisationConfig(kind=Normalisation.BATCH_NORM)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNetworkConfig:
    """Everything that fixes a network except its trained values. Invalid values raise `BadInput` that lists them all.

    classes: logits. input_channels, image_size: images are (input_channels, image_size[0], image_size[1]), values 0 to
        255.
    stem: "imagenet" is the form for large images, "cifar" the one for small images, with fewer strides.
    normalisation: of the input and behind every convolution; one of `KINDS`.
    weights: "1bit" (every convolution and the classifier, whose bias stays float) or "float".
    weight_scale: of 1-bit convolutions, see `bnhw.export.layers.BinaryConv2d`.
    """

    family: ClassVar[str] = "network"

    classes: int = 1000
    input_channels: int = 3
    image_size: tuple[int, int] = (224, 224)
    stem: Stem = "imagenet"
    normalisation: NormalisationConfig = BATCH_NORM
    weights: Weights = "float"
    weight_scale: str = "he"

    def __post_init__(self) -> None:
        rules = (*_common_rules(self), *self.rules())
        problems = [f"{name} is {getattr(self, name)!r}, expected {wish}" for name, good, wish in rules if not good]
        if not problems:
            problems = [*_input_problems(self), *self.contradictions()]
        if not problems and self.weight_count > MAX_WEIGHTS:
            problems = [f"the network has {self.weight_count} weights, expected at most {MAX_WEIGHTS}"]
        if problems:
            raise BadInput(f"{self.family} configuration: " + "; ".join(problems))

    def rules(self) -> tuple[Rule, ...]:
        """The checks of the family's own fields."""
        return ()

    def contradictions(self) -> tuple[str, ...]:
        """Problems between fields that are good one by one."""
        return ()

    @property
    def weight_count(self) -> int:
        """Weights of all convolutions and of the classifier; gains, shifts and biases do not count."""
        raise NotImplementedError

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (self.input_channels, *self.image_size)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; tuples become lists, the normalisation a dictionary."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return to_json_values(values) | {"normalisation": self.normalisation.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; raises `BadInput` that lists every unknown, missing or invalid field."""
        known = {field.name for field in fields(cls)}
        what = f"{cls.family} configuration"
        arguments = from_json_values(values, known=known, optional=frozenset(), what=what)
        if isinstance(arguments["normalisation"], Mapping):
            arguments["normalisation"] = NormalisationConfig.from_json(arguments["normalisation"])
        return cls(**arguments)


def _common_rules(config: ImageNetworkConfig) -> tuple[Rule, ...]:
    kind = config.normalisation.kind if isinstance(config.normalisation, NormalisationConfig) else None
    return (
        ("classes", is_count(config.classes), COUNT),
        ("input_channels", is_count(config.input_channels), COUNT),
        ("image_size", are_counts(config.image_size, 2), "two positive integers, height and width"),
        ("stem", config.stem in get_args(Stem), f"one of {', '.join(get_args(Stem))}"),
        ("normalisation", kind in KINDS, f"a NormalisationConfig with a kind among {', '.join(KINDS)}"),
        ("weights", config.weights in get_args(Weights), f"one of {', '.join(get_args(Weights))}"),
        ("weight_scale", config.weight_scale in tuple(WEIGHT_SCALES), f"one of {', '.join(WEIGHT_SCALES)}"),
    )


def _input_problems(config: ImageNetworkConfig) -> list[str]:
    statistics = len(config.normalisation.input_mean)
    if config.normalisation.input != "offline" or statistics == config.input_channels:
        return []
    return [f"normalisation.input_mean has {statistics} numbers, expected {config.input_channels}, one for each colour"]


COUNT = f"an integer from 1 to {MAX_SIZE}"


def are_units(values: object, *, stages: int) -> bool:
    """Whether `values` is a tuple of 1 to `stages` integers from 1 to `MAX_UNITS`."""
    length = len(values) if isinstance(values, tuple) else 0
    return 1 <= length <= stages and are_counts(values, length) and max(cast(tuple[int, ...], values)) <= MAX_UNITS


def convolution(
    config: ImageNetworkConfig, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> Conv2d:
    """A convolution of the configuration's kind of weights, kernel // 2 zero pixels on every side."""
    return make_convolution(
        config.normalisation,
        inputs,
        outputs,
        kernel,
        weights=config.weights,
        stride=stride,
        groups=groups,
        weight_scale=config.weight_scale,
    )


class DenseConv2d(Conv2d):
    """A fully connected layer as a 1 x 1 convolution with bias, drawn as in paper 3 (section 4.1)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def reset_parameters(self) -> None:
        """Draw the weights anew from the uniform distribution between -1 / sqrt(fan in) and 1 / sqrt(fan in)."""
        bound = self.in_channels**-0.5
        nn.init.uniform_(self.weight, -bound, bound)


class BinaryDenseConv2d(BinaryConv2d):
    """A fully connected layer with 1-bit weights and a float bias, as a 1 x 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, weight_scale: str) -> None:
        super().__init__(in_channels, out_channels, 1, weight_scale=weight_scale)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def materialise(self) -> Conv2d:
        """The same layer in float32 form."""
        layer = super().materialise()
        layer.bias = self.bias
        return layer


class Classifier(nn.Module):
    """Global average pooling, dropout, and a fully connected layer: (N, features, H, W) to logits (N, classes)."""

    def __init__(self, config: ImageNetworkConfig, features: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.dense: Conv2d
        if config.weights == "1bit":
            self.dense = BinaryDenseConv2d(features, config.classes, weight_scale=config.weight_scale)
        else:
            self.dense = DenseConv2d(features, config.classes)

    def forward(self, image: Tensor) -> Tensor:
        """Classify (N, features, H, W)."""
        pooled = self.dropout(torch.mean(image, dim=(2, 3), keepdim=True))
        return torch.flatten(self.dense(pooled), 1)
