"""The networks of the field in small: each block form once, with random weights and random batch-norm statistics."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from bnhw.export.layers import BinaryConv2d

SIZE = 32
CLASSES = 10
WIDTH = 16

Body = Callable[[], nn.Module]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, its batch norms with gains of one sign and statistics near those of its input."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            module.weight.data = 0.6 + 0.8 * torch.rand(module.weight.shape, generator=generator)
            module.bias.data = 0.3 * torch.randn(module.bias.shape, generator=generator)
    pixels = torch.randint(0, 256, (16, 3, SIZE, SIZE), generator=generator).float()
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(pixels)
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


def projection(channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if channels == out_channels and stride == 1:
        return None
    return nn.Sequential(convolution(channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels))


def basic(channels: int, out_channels: int, stride: int = 1, *, binary: bool = False) -> Block:
    def conv(inputs: int, outputs: int, step: int) -> nn.Module:
        return BinaryConv2d(inputs, outputs, 3, stride=step) if binary else convolution(inputs, outputs, 3, stride=step)

    branch = nn.Sequential(
        conv(channels, out_channels, stride),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        conv(out_channels, out_channels, 1),
        nn.BatchNorm2d(out_channels),
    )
    return Block(branch, projection(channels, out_channels, stride))


def bottleneck(channels: int, middle: int, out_channels: int, stride: int = 1, *, groups: int = 1) -> Block:
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
    norm: Callable[[int], nn.Module],
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


FORMS: Mapping[str, Callable[[], nn.Module]] = {
    "resnet basic": lambda: Normalised(*stem(16), basic(16, 16), basic(16, 32, 2), basic(32, 32), *head(32)),
    "resnet basic, 1-bit": lambda: Normalised(
        *stem(16, binary=True),
        basic(16, 16, binary=True),
        basic(16, 32, 2, binary=True),
        basic(32, 32, binary=True),
        *head(32),
    ),
    "resnet bottleneck": lambda: Normalised(
        *stem(16), bottleneck(16, 8, 32), bottleneck(32, 16, 64, 2), bottleneck(64, 16, 64), *head(64)
    ),
    "resnet deep": lambda: Normalised(*stem(16), *[basic(16, 16) for _ in range(12)], *head(16)),
    "resnext": lambda: Normalised(
        *stem(32), bottleneck(32, 64, 64, groups=32), bottleneck(64, 64, 64, 2, groups=32), *head(64)
    ),
    "mobilenet": lambda: Normalised(
        convolution(3, 16, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        Inverted(16, 16, 1, 1, nn.ReLU6),
        Inverted(16, 24, 2, 6, nn.ReLU6),
        Inverted(24, 24, 1, 6, nn.ReLU6),
        Inverted(24, 24, 1, 6, nn.ReLU6),
        convolution(24, 64, 1),
        nn.BatchNorm2d(64),
        nn.ReLU6(),
        *head(64),
    ),
    "mobilenet, max and min": lambda: Normalised(
        convolution(3, 16, stride=2),
        nn.BatchNorm2d(16),
        MaxMin(),
        Inverted(16, 24, 2, 6, MaxMin),
        Inverted(24, 24, 1, 6, MaxMin),
        *head(24),
    ),
    "hard tanh": lambda: plain(nn.BatchNorm2d, nn.Hardtanh),
    "repvgg": lambda: Normalised(
        RepVgg(3, 16, 2), RepVgg(16, 16), RepVgg(16, 16), RepVgg(16, 32, 2), RepVgg(32, 32), *head(32)
    ),
    "no normalisation, bias": lambda: plain(lambda channels: nn.Identity(), bias=True),
    "no normalisation": lambda: plain(lambda channels: nn.Identity()),
    "no normalisation, 1-bit": lambda: plain(lambda channels: nn.Identity(), binary=True),
    "affine": lambda: plain(AffineLayer),
    "elu": lambda: plain(nn.BatchNorm2d, nn.ELU),
    "elu, no normalisation": lambda: plain(lambda channels: nn.Identity(), nn.ELU, bias=True),
    "rbn": lambda: plain(lambda channels: DynamicNorm(channels, of_normalised=True)),
    "iebn": lambda: plain(lambda channels: DynamicNorm(channels, of_normalised=False)),
    "rbn, 1-bit": lambda: plain(
        lambda channels: DynamicNorm(channels, of_normalised=True, gain_first=True), binary=True
    ),
}
