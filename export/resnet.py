"""Residual networks: ResNet-18, 34, 50, 101, 152 (He et al., arXiv 1512.03385) and ResNeXt-50 32x4d (Xie et al.,
arXiv 1611.05431), in the forms of papers 2, 3 and 4 (see `bnhw.export.image_networks`).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from bnhw.export.config_rules import is_count
from bnhw.export.image_networks import (
    COUNT,
    MAX_STAGES,
    MAX_UNITS,
    Classifier,
    ImageNetworkConfig,
    Rule,
    are_units,
    convolution,
)
from bnhw.export.normalisations import Position, make_dropout, make_normalisation

Block = Literal["basic", "bottleneck"]

EXPANSION: dict[Block, int] = {"basic": 1, "bottleneck": 4}
"""Output channels of a block for each channel of `base_width` in its stage."""

STEM_KERNEL = {"imagenet": 7, "cifar": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Residual blocks of one image size: `inputs` channels into the first, `inner` within, `outputs` out of each."""

    inputs: int
    inner: int
    outputs: int
    units: int
    stride: int

    @property
    def projects(self) -> bool:
        """Whether the first block's shortcut is a 1 x 1 convolution; all others are the identity."""
        return self.stride != 1 or self.inputs != self.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetConfig(ImageNetworkConfig):
    """Everything that fixes a `ResNet` except its trained values; for the common fields see `ImageNetworkConfig`.

    block: "basic" (two 3 x 3 convolutions) or "bottleneck" (1 x 1, 3 x 3, 1 x 1).
    units: residual blocks of each stage; each stage but the first halves the image and doubles the channels.
    base_width: channels of the stem and of the first stage's basic blocks.
    cardinality, group_width: the 3 x 3 convolution of a bottleneck block of the first stage has `cardinality` groups of
        `group_width` channels, "32x4d" being 32 and 4; group_width None is base_width.
    stem: "imagenet" is a 7 x 7 convolution and a 3 x 3 max pooling, both of stride 2; "cifar" a 3 x 3 convolution of
        stride 1 (paper 3, section 4.1).
    """

    family: ClassVar[str] = "residual network"

    block: Block = "basic"
    units: tuple[int, ...] = (2, 2, 2, 2)
    base_width: int = 64
    cardinality: int = 1
    group_width: int | None = None

    def rules(self) -> tuple[Rule, ...]:
        """The checks of the fields that only residual networks have."""
        return (
            ("block", self.block in get_args(Block), f"one of {', '.join(get_args(Block))}"),
            ("units", are_units(self.units, stages=MAX_STAGES), f"1 to {MAX_STAGES} integers from 1 to {MAX_UNITS}"),
            ("base_width", is_count(self.base_width), COUNT),
            ("cardinality", is_count(self.cardinality), COUNT),
            ("group_width", self.group_width is None or is_count(self.group_width), f"None or {COUNT}"),
        )

    def contradictions(self) -> tuple[str, ...]:
        """Groups belong to bottleneck blocks."""
        if self.block == "basic" and (self.cardinality, self.group_width) != (1, None):
            return (
                f"cardinality is {self.cardinality} and group_width {self.group_width}, expected 1 and None for basic "
                "blocks",
            )
        return ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in forward order."""
        found: list[Stage] = []
        for index, units in enumerate(self.units):
            base = self.base_width << index
            group_width = (self.base_width if self.group_width is None else self.group_width) << index
            stage = Stage(
                inputs=found[-1].outputs if found else self.base_width,
                inner=base if self.block == "basic" else self.cardinality * group_width,
                outputs=base * EXPANSION[self.block],
                units=units,
                stride=2 if index else 1,
            )
            found.append(stage)
        return tuple(found)

    @property
    def weight_count(self) -> int:
        """Weights of all convolutions and of the classifier; gains, shifts and biases do not count."""
        count = STEM_KERNEL[self.stem] ** 2 * self.input_channels * self.base_width
        for stage in self.stages:
            count += self._block_weights(stage, stage.inputs)
            count += self._block_weights(stage, stage.outputs) * (stage.units - 1)
            count += stage.inputs * stage.outputs if stage.projects else 0
        return count + self.stages[-1].outputs * self.classes

    def _block_weights(self, stage: Stage, inputs: int) -> int:
        if self.block == "basic":
            return 9 * stage.inner * (inputs + stage.outputs)
        return stage.inner * (inputs + 9 * stage.inner // self.cardinality + stage.outputs)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, a ReLU behind the addition.

    With weight normalisation this is the modified basic block of paper 2 (figure 1b): the normalisation is part of the
    convolutions, so that a ReLU and dropout stand between them, and nothing but the addition behind them.
    """

    def __init__(self, config: ResNetConfig, *, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        norm = config.normalisation
        self.conv1 = convolution(config, inputs, inner, 3, stride=stride)
        self.norm1 = make_normalisation(norm, inner, position=Position.HIDDEN, activation="relu")
        self.dropout = make_dropout(norm)
        self.conv2 = convolution(config, inner, outputs, 3)
        self.norm2 = make_normalisation(norm, outputs, position=Position.BRANCH, activation=None)
        self.shortcut = _shortcut(config, inputs, outputs, stride)
        self.activation = nn.ReLU()

    def forward(self, residual: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        branch = self.dropout(self.norm1(self.conv1(residual)))
        branch = self.norm2(self.conv2(branch))
        result: Tensor = self.activation(branch + self.shortcut(residual))
        return result


class BottleneckBlock(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut; the 3 x 3 one has the stride and the groups.

    Dropout, where the normalisation asks for it, stands before the last convolution as in `BasicBlock`.
    """

    def __init__(self, config: ResNetConfig, *, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        norm = config.normalisation
        self.conv1 = convolution(config, inputs, inner, 1)
        self.norm1 = make_normalisation(norm, inner, position=Position.HIDDEN, activation="relu")
        self.conv2 = convolution(config, inner, inner, 3, stride=stride, groups=config.cardinality)
        self.norm2 = make_normalisation(norm, inner, position=Position.HIDDEN, activation="relu")
        self.dropout = make_dropout(norm)
        self.conv3 = convolution(config, inner, outputs, 1)
        self.norm3 = make_normalisation(norm, outputs, position=Position.BRANCH, activation=None)
        self.shortcut = _shortcut(config, inputs, outputs, stride)
        self.activation = nn.ReLU()

    def forward(self, residual: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        branch = self.norm1(self.conv1(residual))
        branch = self.dropout(self.norm2(self.conv2(branch)))
        branch = self.norm3(self.conv3(branch))
        result: Tensor = self.activation(branch + self.shortcut(residual))
        return result


def _shortcut(config: ResNetConfig, inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    norm = make_normalisation(config.normalisation, outputs, position=Position.BRANCH, activation=None)
    return nn.Sequential(convolution(config, inputs, outputs, 1, stride=stride), norm)


BLOCKS: dict[Block, type[BasicBlock] | type[BottleneckBlock]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class ResNet(nn.Module):
    """Residual network: raw pixels (N, C, H, W), float32 values 0 to 255, to logits (N, classes).

    Input normalisation, stem, stages of residual blocks, and the classifier. The softmax is left to the loss.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        norm, channels = config.normalisation, config.input_channels
        large = config.stem == "imagenet"
        self.input_norm = make_normalisation(norm, channels, position=Position.INPUT, activation=None)
        self.stem = convolution(config, channels, config.base_width, STEM_KERNEL[config.stem], stride=2 if large else 1)
        self.stem_norm = make_normalisation(norm, config.base_width, position=Position.HIDDEN, activation="relu")
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.blocks = nn.ModuleList(_blocks(config))
        self.classifier = Classifier(config, config.stages[-1].outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, input channels, H, W) to logits (N, classes)."""
        x: Tensor = self.pool(self.stem_norm(self.stem(self.input_norm(image))))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(x)
        return logits


def _blocks(config: ResNetConfig) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for stage in config.stages:
        for index in range(stage.units):
            block = BLOCKS[config.block](
                config,
                inputs=stage.outputs if index else stage.inputs,
                inner=stage.inner,
                outputs=stage.outputs,
                stride=1 if index else stage.stride,
            )
            blocks.append(block)
    return blocks


RESNETS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
"""Block and residual blocks of each stage by depth (He et al., table 1)."""
