"""Small networks of the papers' families for tests, with statistics and learned values of their own."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from bnhw.dtypes import Array
from bnhw.export.image_networks import ImageNetworkConfig
from bnhw.export.mobilenet import MobileNetV2, MobileNetV2Config
from bnhw.export.normalisations import Normalisation, NormalisationConfig
from bnhw.export.repvgg import RepVGG, RepVGGConfig
from bnhw.export.resnet import ResNet, ResNetConfig

_BASIC = ResNetConfig(base_width=8, units=(1, 1, 1), classes=5, image_size=(16, 16), stem="cifar")
_BOTTLENECK = replace(_BASIC, block="bottleneck", units=(1, 1))

CONFIGS: dict[str, ImageNetworkConfig] = {
    "basic": _BASIC,
    "basic_imagenet": replace(_BASIC, stem="imagenet", units=(1, 1)),
    "bottleneck": _BOTTLENECK,
    "resnext": replace(_BOTTLENECK, cardinality=4, group_width=4),
    "mobilenet": MobileNetV2Config(base_width=8, units=(1, 1, 2), classes=5, image_size=(16, 16), stem="cifar"),
    "mobilenet_imagenet": MobileNetV2Config(base_width=8, units=(1, 2), classes=5, image_size=(32, 24), dropout=0.0),
    "repvgg": RepVGGConfig(base_width=8, units=(1, 1, 2, 1, 1), classes=5, image_size=(16, 16), stem="cifar"),
    "repvgg_imagenet": RepVGGConfig(base_width=8, units=(1, 2, 1, 1, 1), classes=5, image_size=(32, 32)),
    "repvgg_inference": RepVGGConfig(
        base_width=8, units=(1, 1, 2, 1, 1), classes=5, image_size=(16, 16), stem="cifar", form="inference"
    ),
}
"""Float batch-norm networks; other kinds and 1-bit weights by `with_normalisation` and `dataclasses.replace`."""


def with_normalisation(config: ImageNetworkConfig, kind: Normalisation) -> ImageNetworkConfig:
    """The same network with the input and the numbers that the kind's paper uses."""
    scaled = kind in (Normalisation.SCALED, Normalisation.SCALED_A1, Normalisation.SCALED_A2)
    norm = NormalisationConfig(
        kind=kind,
        gain=0.1 if scaled else 1.0,
        dropout=0.1 if kind is Normalisation.WEIGHT_NORM else 0.0,
        input="fixed" if kind in (Normalisation.WEIGHT_NORM, Normalisation.NONE) else "batch_norm",
    )
    return replace(config, normalisation=norm)


def new_network(config: ImageNetworkConfig) -> nn.Module:
    """The network of a configuration as it is before training."""
    match config:
        case ResNetConfig():
            return ResNet(config)
        case MobileNetV2Config():
            return MobileNetV2(config)
        case RepVGGConfig():
            return RepVGG(config)
    raise AssertionError(f"no network for {type(config).__name__}")


def build(config: ImageNetworkConfig, *, seed: int = 0) -> nn.Module:
    """A network in eval mode whose gains, shifts and biases differ from channel to channel, with true statistics."""
    torch.manual_seed(seed)
    model = new_network(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                spread = 0.5 if name.endswith("sigmoid_gain") else 0.1 * float(parameter.abs().clamp(min=0.5).mean())
                parameter.add_(spread * torch.randn(parameter.shape))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        model.train()(as_tensor(smooth_images(config, 32)))
    return model.eval()


def smooth_images(config: ImageNetworkConfig, count: int, *, seed: int = 0) -> Array:
    """uint8 images (count, height, width, channels) of coarse patches and a little noise."""
    channels, height, width = config.input_shape
    generator = np.random.default_rng(seed)
    patches = generator.integers(0, 256, (count, -(-height // 4), -(-width // 4), channels))
    coarse = patches.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    images: Array = np.clip(coarse + generator.integers(-30, 31, coarse.shape), 0, 255).astype(np.uint8)
    return images


def as_tensor(images: Array) -> Tensor:
    """The same images as networks take them, float32 (count, channels, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()
