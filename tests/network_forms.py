"""The networks of the field in small: each block form once, with random weights and random batch-norm statistics."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from bnhw.dtypes import Array
from bnhw.export.layers import BinaryConv2d

SIZE = 32
CLASSES = 10
WIDTH = 16

Body = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]


def randomise(model: nn.Module, pixels: Array) -> nn.Module:
    """The model in evaluation mode; its batch norms have random gains, and statistics of `pixels` (NHWC)."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of what was seen
            if module.affine:
                nn.init.uniform_(module.weight, 0.6, 1.4)
                nn.init.normal_(module.bias, 0.0, 0.3)
    model.train()
    with torch.no_grad():
        model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)))
    return model.eval()


def convolution(channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


class Normalised(nn.Module):
    """Raw pixels around 0, then the layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(image / 64 - 2)
        return logits


def stem(channels: int, *, binary: bool = False) -> list[nn.Module]:
    """7x7/2 convolution, batch norm, ReLU, 3x3/2 max pool."""
    first = BinaryConv2d(3, channels, 7, stride=2) if binary else convolution(3, channels, 7, stride=2)
    return [first, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]


def head(channels: int) -> list[nn.Module]:
    """Global average, flattening, and a dense layer with bias."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)): post-activation order."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, *, last: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()
        self.last = last or nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.branch(x) + self.shortcut(x))
        return result


def projection(channels: int, out_channels: int, stride: int, norm: Norm = nn.BatchNorm2d) -> nn.Module | None:
    """A strided 1x1 convolution with its norm, where sizes change."""
    if channels == out_channels and stride == 1:
        return None
    return nn.Sequential(convolution(channels, out_channels, 1, stride=stride), norm(out_channels))


def basic(
    channels: int, out_channels: int, stride: int = 1, *, binary: bool = False, norm: Norm = nn.BatchNorm2d
) -> Block:
    """Two 3x3 convolutions."""
    make = BinaryConv2d if binary else convolution
    branch = nn.Sequential(
        make(channels, out_channels, 3, stride=stride),
        norm(out_channels),
        nn.ReLU(),
        make(out_channels, out_channels, 3),
        norm(out_channels),
    )
    return Block(branch, projection(channels, out_channels, stride, norm))


def bottleneck(channels: int, middle: int, out_channels: int, stride: int = 1, *, groups: int = 1) -> Block:
    """1x1, 3x3 and 1x1 convolutions; with groups that of ResNeXt."""
    branch = nn.Sequential(
        convolution(channels, middle, 1),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        convolution(middle, middle, 3, stride=stride, groups=groups),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        convolution(middle, out_channels, 1),
        nn.BatchNorm2d(out_channels),
    )
    return Block(branch, projection(channels, out_channels, stride))


class Inverted(nn.Module):
    """MobileNetV2's inverted residual: expansion, depthwise, linear projection."""

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int, bound: Body) -> None:
        super().__init__()
        middle = channels * expansion
        self.layers = nn.Sequential(
            convolution(channels, middle, 1),
            nn.BatchNorm2d(middle),
            bound(),
            convolution(middle, middle, 3, stride=stride, groups=middle),
            nn.BatchNorm2d(middle),
            bound(),
            convolution(middle, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.layers(x) if self.residual else self.layers(x)
        return result


class RepVgg(nn.Module):
    """relu(3x3 + 1x1 + identity), each with its batch norm."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.dense = nn.Sequential(convolution(channels, out_channels, 3, stride=stride), nn.BatchNorm2d(out_channels))
        self.point = nn.Sequential(convolution(channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels))
        self.identity = nn.BatchNorm2d(channels) if stride == 1 and channels == out_channels else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.dense(x) + self.point(x)
        if self.identity is not None:
            total = total + self.identity(x)
        result: torch.Tensor = nn.functional.relu(total)
        return result


class MaxMin(nn.Module):
    """ReLU6 as Max and Min with constants."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.minimum(torch.maximum(x, torch.tensor(0.0)), torch.tensor(6.0))


class AffineLayer(nn.Module):
    """A gain and a shift for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(0.5 + torch.rand(1, channels, 1, 1))
        self.shift = nn.Parameter(0.1 * torch.randn(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * x + self.shift


class DynamicNorm(nn.Module):
    """gamma * S * xhat + beta with S = sigmoid(w * mean(chi) + b): RBN where chi is xhat, IEBN where it is x."""

    def __init__(self, channels: int, *, of_normalised: bool, gain_first: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        shape = (1, channels, 1, 1)
        self.of_normalised = of_normalised
        self.gain_first = gain_first
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter((1.0 if of_normalised else -1.0) + 0.5 * torch.randn(shape))
        self.gamma = nn.Parameter(0.5 + torch.rand(shape))
        self.beta = nn.Parameter(0.3 * torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalised = self.norm(x)
        pooled = (normalised if self.of_normalised else x).mean((2, 3), keepdim=True)
        gate = torch.sigmoid(self.weight * pooled + self.bias)
        scaled = (self.gamma * gate) * normalised if self.gain_first else self.gamma * (gate * normalised)
        result: torch.Tensor = scaled + self.beta
        return result


def plain(
    norm: Norm,
    activation: Body = nn.ReLU,
    *,
    layers: int = 4,
    bias: bool = False,
    binary: bool = False,
) -> nn.Module:
    """Convolutions in a row."""
    modules: list[nn.Module] = []
    for number in range(layers):
        inputs = WIDTH if number else 3
        conv = (
            BinaryConv2d(inputs, WIDTH, 3, stride=1 + number % 2)
            if binary
            else nn.Conv2d(inputs, WIDTH, 3, 1 + number % 2, 1, bias=bias)
        )
        modules += [conv, norm(WIDTH), activation()]
    return Normalised(*modules, *head(WIDTH))


class Excited(nn.Module):
    """Squeeze and excitation: every channel times a gate that two dense layers make of the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        result: torch.Tensor = x * self.gate(x)
        return result


def mobilenet(bound: Body) -> nn.Module:
    """MobileNetV2 with few layers."""
    blocks = ((16, 16, 1, 1), (16, 24, 2, 6), (24, 24, 1, 6), (24, 24, 1, 6))
    return Normalised(
        convolution(3, 16, stride=2),
        nn.BatchNorm2d(16),
        bound(),
        *(Inverted(*block, bound) for block in blocks),
        convolution(24, 64, 1),
        nn.BatchNorm2d(64),
        bound(),
        *head(64),
    )


def resnet(*, binary: bool = False, norm: Norm = nn.BatchNorm2d) -> nn.Module:
    """ResNet with basic blocks, of which one has a projection shortcut."""
    blocks = ((16, 16, 1), (16, 32, 2), (32, 32, 1))
    stages = (basic(*block, binary=binary, norm=norm) for block in blocks)
    return Normalised(*stem(16, binary=binary), *stages, *head(32))


def no_norm(_: int) -> nn.Module:
    return nn.Identity()


def rbn(channels: int) -> nn.Module:
    return DynamicNorm(channels, of_normalised=True)


def iebn(channels: int) -> nn.Module:
    return DynamicNorm(channels, of_normalised=False)


def rbn_gain_first(channels: int) -> nn.Module:
    return DynamicNorm(channels, of_normalised=True, gain_first=True)


FORMS: Mapping[str, Callable[[], nn.Module]] = {
    "resnet, basic": resnet,
    "resnet, basic, 1-bit": lambda: resnet(binary=True),
    "resnet, basic, deep": lambda: Normalised(*stem(16), *(basic(16, 16) for _ in range(8)), *head(16)),
    "resnet, bottleneck": lambda: Normalised(
        *stem(16), bottleneck(16, 8, 32), bottleneck(32, 16, 64, 2), bottleneck(64, 16, 64), *head(64)
    ),
    "resnext": lambda: Normalised(
        *stem(32), bottleneck(32, 64, 64, groups=32), bottleneck(64, 64, 64, 2, groups=32), *head(64)
    ),
    "mobilenet": lambda: mobilenet(nn.ReLU6),
    "mobilenet, ReLU": lambda: mobilenet(nn.ReLU),
    "mobilenet, max and min": lambda: mobilenet(MaxMin),
    "repvgg": lambda: Normalised(RepVgg(3, 16, 2), RepVgg(16, 16), RepVgg(16, 32, 2), RepVgg(32, 32), *head(32)),
    "hard tanh": lambda: plain(nn.BatchNorm2d, nn.Hardtanh),
    "elu": lambda: plain(nn.BatchNorm2d, nn.ELU),
    "elu, no normalisation": lambda: plain(no_norm, nn.ELU, bias=True),
    "no normalisation, bias": lambda: plain(no_norm, bias=True),
    "no normalisation": lambda: plain(no_norm),
    "no normalisation, 1-bit": lambda: plain(no_norm, binary=True),
    "affine": lambda: plain(AffineLayer),
    "rbn": lambda: plain(rbn),
    "rbn, 1-bit": lambda: plain(rbn_gain_first, binary=True),
    "iebn": lambda: plain(iebn),
    "iebn, 1-bit": lambda: plain(iebn, binary=True),
    "rbn, resnet": lambda: resnet(norm=rbn),
    "iebn, resnet, 1-bit": lambda: resnet(binary=True, norm=iebn),
    "squeeze and excitation": lambda: plain(Excited),
}
"""Untrained; the batch norms keep every value in range."""
