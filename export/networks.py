"""All networks that can be built, saved and exported: one row of `NETWORKS` each; and the papers' by name.

from bnhw.export.networks import PRESETS, build_network, with_normalisation

config = with_normalisation(PRESETS["wrn-20-4"], NormalisationConfig(kind=Normalisation.BATCH_NORM))
network = build_network(config)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, Self

from torch import nn

from bnhw.errors import BadInput
from bnhw.export.mobilenet import MobileNetV2, MobileNetV2Config
from bnhw.export.normalisations import NormalisationConfig
from bnhw.export.repvgg import RepVGG, RepVGGConfig
from bnhw.export.resnet import RESNETS, ResNet, ResNetConfig
from bnhw.export.zoo import WideResNet, WideResNetConfig


class NetworkConfig(Protocol):
    """Everything that fixes a network except its trained values: a frozen dataclass."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        ...

    @property
    def weight_count(self) -> int:
        """Weights of all convolutions and linear layers."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        ...

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; raises `BadInput`."""
        ...


NETWORKS: Mapping[str, tuple[type[NetworkConfig], type[nn.Module]]] = {
    "wide-resnet": (WideResNetConfig, WideResNet),
    "resnet": (ResNetConfig, ResNet),
    "mobilenet-v2": (MobileNetV2Config, MobileNetV2),
    "repvgg": (RepVGGConfig, RepVGG),
}
"""Kind of network: (class of its configuration, class of the network).

The network takes its configuration, holds it as `config`, and maps raw pixels (N, C, H, W), float32 values 0 to 255, to
logits (N, classes). The kind is written into checkpoints; "wide-resnet" is what files without one hold.
"""

DEFAULT_KIND = "wide-resnet"

_CIFAR: Mapping[str, Any] = {"stem": "cifar", "image_size": (32, 32), "classes": 10}

PRESETS: Mapping[str, NetworkConfig] = {
    "wrn-14-1": WideResNetConfig(
        depth=14, input_channels=1, image_size=(28, 28), input_mean=(33.3184,), input_std=(78.5675,)
    ),
    "wrn-20-4": WideResNetConfig(depth=20, width=4),
    "wrn-20-10": WideResNetConfig(depth=20, width=10),
    "wrn-18-1": WideResNetConfig(depth=18, base_width=64, form="imagenet", classes=1000, image_size=(224, 224)),
    "wrn-18-2.5": WideResNetConfig(
        depth=18, width=2.5, base_width=64, form="imagenet", classes=1000, image_size=(224, 224)
    ),
    **{f"resnet-{depth}": ResNetConfig(block=block, units=units) for depth, (block, units) in RESNETS.items()},
    "resnext-50": ResNetConfig(block="bottleneck", units=RESNETS[50][1], cardinality=32, group_width=4),
    "mobilenet-v2": MobileNetV2Config(),
    "repvgg-a0": RepVGGConfig(),
    **{
        f"resnet-{depth}-cifar": ResNetConfig(block=block, units=units, **_CIFAR)
        for depth, (block, units) in RESNETS.items()
    },
    "resnext-50-cifar": ResNetConfig(block="bottleneck", units=RESNETS[50][1], cardinality=32, group_width=4, **_CIFAR),
    "mobilenet-v2-cifar": MobileNetV2Config(**_CIFAR),
    "repvgg-a0-cifar": RepVGGConfig(**_CIFAR),
}
"""Networks of the papers by name, to be changed with `dataclasses.replace` and `with_normalisation`.

wrn-14-1 is for MNIST, wrn-20 for CIFAR-10, wrn-18 for ImageNet; they are the 1-bit shifted-ReLU networks of paper 1
(arXiv 1907.06916, section III-A). The others are the float batch-norm networks of papers 2, 3 and 4 for ImageNet,
and with "-cifar" the form of paper 3 for CIFAR-10.
"""


def preset(name: str) -> NetworkConfig:
    """`PRESETS[name]`; raises `BadInput` that lists the names there are."""
    if name not in PRESETS:
        raise BadInput(f"{name!r} is no network by name; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def build_network(config: NetworkConfig) -> nn.Module:
    """A network with random initial weights from torch's global generator."""
    return NETWORKS[kind_of(config)][1](config)


def kind_of(config: NetworkConfig) -> str:
    """The key of `config` in `NETWORKS`; raises `BadInput` for a class that is not there."""
    for kind, (config_class, _) in NETWORKS.items():
        if type(config) is config_class:
            return kind
    expected = ", ".join(config_class.__name__ for config_class, _ in NETWORKS.values())
    raise BadInput(f"{type(config).__name__} is no configuration of a network; expected one of {expected}")


def config_of(network: nn.Module) -> NetworkConfig:
    """The configuration that `network` was built with; raises `BadInput` for a module that is not in `NETWORKS`."""
    config = getattr(network, "config", None)
    for config_class, network_class in NETWORKS.values():
        if type(network) is network_class and isinstance(config, config_class):
            return config
    expected = ", ".join(network_class.__name__ for _, network_class in NETWORKS.values())
    raise BadInput(f"{type(network).__name__} is no network of bnhw.export; expected one of {expected}")


def with_normalisation(config: NetworkConfig, normalisation: NormalisationConfig) -> NetworkConfig:
    """The same network with another normalisation, that of the image included."""
    if isinstance(config, WideResNetConfig):
        return config.with_normalisation(normalisation)
    return replace(config, normalisation=normalisation)  # type: ignore[type-var]  # all others have this field
