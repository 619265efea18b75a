"""MobileNetV2 (Sandler et al., arXiv 1801.04381), in the form of its paper and in that of paper 3 for small images
(see `bnhw.export.image_networks`).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bnhw.export.config_rules import is_count, is_number
from bnhw.export.image_networks import (
    COUNT,
    MAX_UNITS,
    Classifier,
    ImageNetworkConfig,
    Rule,
    are_units,
    convolution,
)
from bnhw.export.normalisations import Position, make_normalisation

ROWS: tuple[tuple[int, int, int], ...] = (
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 2),
    (6, 64, 2),
    (6, 96, 1),
    (6, 160, 2),
    (6, 320, 1),
)
"""Rows of bottlenecks (Sandler et al., table 2): expansion t, channels c, stride s of the first."""

UNITS = (1, 2, 3, 4, 3, 3, 1)
"""Bottlenecks of each row, n of the same table."""

STEM_CHANNELS = 32
LAST_CHANNELS = 1280
CHANNEL_MULTIPLE = 8

CIFAR_STRIDE_ONE_ROWS = (1, 2)
"""Rows that lose their stride on small images: "second and third bottleneck blocks" (paper 3, section 4.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """One inverted residual: `hidden` channels between its `inputs` and `outputs`."""

    inputs: int
    hidden: int
    outputs: int
    stride: int

    @property
    def expands(self) -> bool:
        """Whether a 1 x 1 convolution stands in front."""
        return self.hidden != self.inputs

    @property
    def adds(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.inputs == self.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNetV2Config(ImageNetworkConfig):
    """Everything that fixes a `MobileNetV2` except its trained values; for the common fields see `ImageNetworkConfig`.

    units: bottlenecks of each row; fewer than seven numbers leave the last rows out.
    base_width: channels of the stem; base_width / 32 is the width multiplier of the paper. All channels are multiples
        of 8, and the last convolution has at least 1280.
    dropout: share of the pooled features that training leaves out before the classifier.
    stem: "imagenet" halves the image five times, "cifar" twice, since the stem and the second and third row of
        bottlenecks have stride 1 (paper 3, section 4.4).
    """

    family: ClassVar[str] = "MobileNetV2"

    units: tuple[int, ...] = UNITS
    base_width: int = STEM_CHANNELS
    dropout: float = 0.2

    def rules(self) -> tuple[Rule, ...]:
        """The checks of the fields that only MobileNetV2 has."""
        is_share = is_number(self.dropout, least=0.0) and self.dropout < 1
        return (
            ("units", are_units(self.units, stages=len(ROWS)), f"1 to {len(ROWS)} integers from 1 to {MAX_UNITS}"),
            ("base_width", is_count(self.base_width), COUNT),
            ("dropout", is_share, "a number from 0 to below 1"),
        )

    @property
    def stem_channels(self) -> int:
        """Output channels of the first convolution."""
        return self._scaled(STEM_CHANNELS)

    @property
    def last_channels(self) -> int:
        """Output channels of the last convolution, features of the classifier."""
        return max(LAST_CHANNELS, self._scaled(LAST_CHANNELS))

    @property
    def bottlenecks(self) -> tuple[Bottleneck, ...]:
        """The inverted residuals in forward order."""
        found: list[Bottleneck] = []
        inputs = self.stem_channels
        for row, units in enumerate(self.units):
            expansion, channels, row_stride = ROWS[row]
            shrinks = row_stride == 2 and not (self.stem == "cifar" and row in CIFAR_STRIDE_ONE_ROWS)
            for index in range(units):
                outputs, stride = self._scaled(channels), 2 if shrinks and index == 0 else 1
                found.append(Bottleneck(inputs=inputs, hidden=inputs * expansion, outputs=outputs, stride=stride))
                inputs = outputs
        return tuple(found)

    @property
    def weight_count(self) -> int:
        """Weights of all convolutions and of the classifier; gains, shifts and biases do not count."""
        count = 9 * self.input_channels * self.stem_channels
        for unit in self.bottlenecks:
            count += unit.hidden * ((unit.inputs if unit.expands else 0) + 9 + unit.outputs)
        return count + self.last_channels * (self.bottlenecks[-1].outputs + self.classes)

    def _scaled(self, channels: int) -> int:
        """The multiple of 8 nearest to the scaled number, but no less than 9 / 10 of it."""
        wanted = channels * self.base_width / STEM_CHANNELS
        nearest = max(CHANNEL_MULTIPLE, math.floor(wanted / CHANNEL_MULTIPLE + 0.5) * CHANNEL_MULTIPLE)
        return nearest if nearest >= 0.9 * wanted else nearest + CHANNEL_MULTIPLE


class ConvolutionLayer(nn.Sequential):
    """Convolution, normalisation and ReLU6."""

    def __init__(
        self, config: MobileNetV2Config, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = convolution(config, inputs, outputs, kernel, stride=stride, groups=groups)
        self.norm = make_normalisation(config.normalisation, outputs, position=Position.HIDDEN, activation="relu6")


class InvertedResidual(nn.Module):
    """1 x 1 expansion, 3 x 3 convolution of each channel, 1 x 1 projection without activation; the input is added
    where it has the shape of the output.
    """

    def __init__(self, config: MobileNetV2Config, unit: Bottleneck) -> None:
        super().__init__()
        hidden = unit.hidden
        self.expand = ConvolutionLayer(config, unit.inputs, hidden, 1) if unit.expands else nn.Identity()
        self.depthwise = ConvolutionLayer(config, hidden, hidden, 3, stride=unit.stride, groups=hidden)
        self.project = convolution(config, hidden, unit.outputs, 1)
        self.project_norm = make_normalisation(
            config.normalisation, unit.outputs, position=Position.BRANCH, activation=None
        )
        self.adds = unit.adds

    def forward(self, residual: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        branch: Tensor = self.project_norm(self.project(self.depthwise(self.expand(residual))))
        return residual + branch if self.adds else branch


class MobileNetV2(nn.Module):
    """MobileNetV2: raw pixels (N, C, H, W), float32 values 0 to 255, to logits (N, classes)."""

    def __init__(self, config: MobileNetV2Config) -> None:
        super().__init__()
        self.config = config
        channels, last = config.input_channels, config.last_channels
        self.input_norm = make_normalisation(config.normalisation, channels, position=Position.INPUT, activation=None)
        self.stem = ConvolutionLayer(
            config, channels, config.stem_channels, 3, stride=2 if config.stem == "imagenet" else 1
        )
        self.blocks = nn.ModuleList(InvertedResidual(config, unit) for unit in config.bottlenecks)
        self.last = ConvolutionLayer(config, config.bottlenecks[-1].outputs, last, 1)
        self.classifier = Classifier(config, last, dropout=config.dropout)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, input channels, H, W) to logits (N, classes)."""
        x: Tensor = self.stem(self.input_norm(image))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(self.last(x))
        return logits
