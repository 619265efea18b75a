"""RepVGG-A0 (Ding et al., arXiv 2101.03697): its training form, its inference form, and the way from one to the other.

A block of the training form has three branches side by side (3 x 3 convolution, 1 x 1 convolution, identity), each with
a normalisation of its own, and a ReLU behind their sum. With float weights the branches merge into one 3 x 3
convolution with a bias (`reparameterise`). With 1-bit weights they cannot: the sum of +-a on nine positions, +-b on the
middle one and a gain on the diagonal has more than two values. The inference form of a 1-bit network is therefore the
three-branch form itself, and that is what is exported and compiled: two 1-bit convolutions and an identity that are
added, as in a residual network.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnhw.errors import BadInput
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
from bnhw.export.normalisations import Normalisation, Position, make_normalisation

Form = Literal["training", "inference"]

STAGES = 5
CIFAR_STRIDE_ONE_STAGES = (0, 1)
"""Stages that lose their stride on small images (paper 3, section 4.4)."""

DATA_DEPENDENT = (Normalisation.RBN, Normalisation.RBN_MINUS, Normalisation.IEBN, Normalisation.IEBN_MINUS)
"""Normalisations whose gain depends on the image: no constant weights hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """Channels and stride of one block."""

    inputs: int
    outputs: int
    stride: int

    @property
    def has_identity(self) -> bool:
        """Whether the input itself is the third conv."""
        return self.stride == 1 and self.inputs == self.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class RepVGGConfig(ImageNetworkConfig):
    """Everything that fixes a `RepVGG` except its trained values; for the common fields see `ImageNetworkConfig`.

    units: blocks of the five stages, of which the first block of each halves the image. base_width: before scaling, the
        stages have 1, 1, 2, 4 and 8 times base_width channels. width_factor: scales the channels of all stages but the
        last (the paper's a; the first stage never gets more than base_width), last_width_factor: of the last (b).
    form: "training" has three branches in a block, "inference" one 3 x 3 convolution with bias and no normalisation
        behind it; the second is for float weights.
    stem: with "cifar" the first two stages keep the size of the image (paper 3, section 4.4).
    """

    family: ClassVar[str] = "RepVGG"

    units: tuple[int, ...] = (1, 2, 4, 14, 1)
    base_width: int = 64
    width_factor: float = 0.75
    last_width_factor: float = 2.5
    form: Form = "training"

    def rules(self) -> tuple[Rule, ...]:
        """The checks of the fields that only RepVGG has."""
        good_units = are_units(self.units, stages=STAGES) and len(self.units) == STAGES
        factor = "a number from 1 / 64 to 64"
        return (
            (
                "units",
                good_units,
                f"{STAGES} integers from 1 to {MAX_UNITS}",
            ),
            ("base_width", is_count(self.base_width), COUNT),
            ("width_factor", is_number(self.width_factor, least=1 / 64, most=64), factor),
            ("last_width_factor", is_number(self.last_width_factor, least=1 / 64, most=64), factor),
            ("form", self.form in get_args(Form), f"one of {', '.join(get_args(Form))}"),
        )

    def contradictions(self) -> tuple[str, ...]:
        """The inference form exists where the branches merge; every stage has a channel."""
        problems = [] if self.form == "training" else list(_obstacles(self))
        if min(self.stage_channels) < 1:
            problems.append(
                f"base_width and the factors give stages of {self.stage_channels} channels, expected 1 or more"
            )
        return tuple(problems)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Output channels of the five stages."""
        base, scaled = self.base_width, self.base_width * self.width_factor
        last = 8 * base * self.last_width_factor
        return (min(base, int(scaled)), int(scaled), int(2 * scaled), int(4 * scaled), int(last))

    @property
    def blocks(self) -> tuple[BlockShape, ...]:
        """The blocks in forward order."""
        found: list[BlockShape] = []
        inputs = self.input_channels
        for stage, (outputs, units) in enumerate(zip(self.stage_channels, self.units, strict=True)):
            shrinks = not (self.stem == "cifar" and stage in CIFAR_STRIDE_ONE_STAGES)
            for index in range(units):
                found.append(BlockShape(inputs=inputs, outputs=outputs, stride=2 if shrinks and index == 0 else 1))
                inputs = outputs
        return tuple(found)

    @property
    def weight_count(self) -> int:
        """Weights of all convolutions and of the classifier; gains, shifts and biases do not count."""
        per_pair = 10 if self.form == "training" else 9
        count = sum(per_pair * block.inputs * block.outputs for block in self.blocks)
        return count + self.stage_channels[-1] * self.classes


def _obstacles(config: RepVGGConfig) -> Iterator[str]:
    """Why the branches of a network cannot merge."""
    if config.weights == "1bit":
        yield (
            "weights is '1bit', expected 'float' in the inference form: the sum of 1-bit branches has more than two "
            "values; compile the training form"
        )
    if config.normalisation.kind in DATA_DEPENDENT:
        yield (
            f"normalisation is {config.normalisation.kind.value}, whose gain depends on the image and merges into no "
            "convolution; compile the training form"
        )


class BranchedBlock(nn.Module):
    """The training form: 3 x 3 and 1 x 1 convolution and identity, a normalisation on each, their sum, a ReLU."""

    def __init__(self, config: RepVGGConfig, shape: BlockShape) -> None:
        super().__init__()
        inputs, outputs = shape.inputs, shape.outputs
        self.conv3 = convolution(config, inputs, outputs, 3, stride=shape.stride)
        self.norm3 = _branch_norm(config, outputs)
        self.conv1 = convolution(config, inputs, outputs, 1, stride=shape.stride)
        self.norm1 = _branch_norm(config, outputs)
        self.identity_norm = _branch_norm(config, outputs) if shape.has_identity else None
        self.activation = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        total: Tensor = self.norm3(self.conv3(image)) + self.norm1(self.conv1(image))
        if self.identity_norm is not None:
            total = total + self.identity_norm(image)
        result: Tensor = self.activation(total)
        return result


def _branch_norm(config: RepVGGConfig, channels: int) -> nn.Module:
    return make_normalisation(config.normalisation, channels, position=Position.BRANCH, activation=None)


class MergedBlock(nn.Module):
    """The inference form: one 3 x 3 convolution with a bias, and a ReLU."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape.inputs, shape.outputs, 3, shape.stride, 1)
        self.activation = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        result: Tensor = self.activation(self.conv(image))
        return result


class RepVGG(nn.Module):
    """RepVGG in the form that its configuration names: raw pixels (N, C, H, W), 0 to 255, to logits (N, classes)."""

    def __init__(self, config: RepVGGConfig) -> None:
        super().__init__()
        self.config = config
        self.input_norm = make_normalisation(
            config.normalisation, config.input_channels, position=Position.INPUT, activation=None
        )
        blocks = (
            BranchedBlock(config, shape) if config.form == "training" else MergedBlock(shape) for shape in config.blocks
        )
        self.blocks = nn.ModuleList(blocks)
        self.classifier = Classifier(config, config.stage_channels[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, input channels, H, W) to logits (N, classes)."""
        x: Tensor = self.input_norm(image)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(x)
        return logits


def reparameterise(model: RepVGG) -> RepVGG:
    """The inference form of a trained network, in eval mode; `model` is left as it was.

    Batch norms enter with their running statistics (Ding et al., equations 3 and 4). The logits are equal up to float
    rounding. Raises `BadInput` where the branches do not merge: with 1-bit weights, and with a gain that depends on
    the image; such a network is exported and compiled in its training form.
    """
    if model.config.form == "inference":
        raise BadInput("the network is in its inference form already; reparameterise takes the training form")
    problems = tuple(_obstacles(model.config))
    if problems:
        raise BadInput("the network has no inference form: " + "; ".join(problems))
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced; leave the caller's numbers be
        merged = RepVGG(replace(model.config, form="inference"))
    merged.input_norm.load_state_dict(model.input_norm.state_dict())
    merged.classifier.load_state_dict(model.classifier.state_dict())
    with torch.no_grad():
        for block, source in zip(merged.blocks, model.blocks, strict=True):
            weight, bias = _merge(cast(BranchedBlock, source))
            target = cast(MergedBlock, block).conv
            target.weight.copy_(weight)
            cast(Tensor, target.bias).copy_(bias)
    return merged.eval()


def _merge(block: BranchedBlock) -> tuple[Tensor, Tensor]:
    """Weights (outputs, inputs, 3, 3) and bias (outputs,) of one block, in float64."""
    channels = block.conv3.out_channels
    weight = torch.zeros(channels, block.conv3.in_channels, 3, 3, dtype=torch.float64)
    bias = torch.zeros(channels, dtype=torch.float64)
    for conv, norm in ((block.conv3, block.norm3), (block.conv1, block.norm1)):
        gain, shift = _gain_and_shift(norm, channels)
        halo = (3 - conv.kernel_size[0]) // 2
        branch_weight = conv.effective_weight().detach().double()
        weight += functional.pad(branch_weight, (halo,) * 4) * gain[:, None, None, None]
        bias += shift if conv.bias is None else shift + gain * conv.bias.detach().double()
    if block.identity_norm is not None:
        gain, shift = _gain_and_shift(block.identity_norm, channels)
        weight[:, :, 1, 1] += torch.diag(gain)
        bias += shift
    return weight, bias


def _gain_and_shift(norm: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies by and adds in eval mode, float64 (channels,), from its answers to 0 and 1."""
    norm = copy.deepcopy(norm).double().eval()
    zero = torch.zeros(1, channels, 1, 1, dtype=torch.float64)
    shift = norm(zero).detach().flatten()
    return norm(zero + 1).detach().flatten() - shift, shift
