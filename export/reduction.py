"""Smaller networks of the same kind, for studies at a small budget and for tests."""

from dataclasses import replace
from typing import Any

from bnhw.errors import BadInput
from bnhw.export.mobilenet import MobileNetV2Config
from bnhw.export.networks import NetworkConfig
from bnhw.export.repvgg import RepVGGConfig
from bnhw.export.resnet import ResNetConfig
from bnhw.export.zoo import WideResNetConfig


def first_channels(config: NetworkConfig) -> int:
    """Channels that `reduce_network` scales: of the stem, or of a wide residual network's first group."""
    if isinstance(config, WideResNetConfig):
        return config.group_channels[0]
    return _image_config(config).base_width


def reduce_network(config: NetworkConfig, *, width: float = 1.0, units: int | None = None) -> NetworkConfig:
    """The network with `width` times as many channels and at most `units` blocks of every image size.

    Channels are rounded, never to 0; ResNeXt loses groups, not channels of a group. Raises `BadInput` for a width or a
    number of units that is not above 0.
    """
    if width <= 0 or (units is not None and units < 1):
        raise BadInput(f"width {width} and units {units}: both must be above 0")
    channels = max(1, round(first_channels(config) * width))
    if isinstance(config, WideResNetConfig):
        groups = len(config.group_channels)
        depth = config.depth if units is None else min(config.depth, 2 * groups * units + 2)
        return replace(config, width=channels / config.base_width, depth=depth)
    image = _image_config(config)
    changes: dict[str, Any] = {"base_width": channels}
    if units is not None:
        changes["units"] = tuple(min(units, count) for count in image.units)
    if isinstance(image, ResNetConfig) and image.cardinality > 1:
        changes["cardinality"] = max(1, round(image.cardinality * width))
    return replace(image, **changes)


def _image_config(config: NetworkConfig) -> ResNetConfig | MobileNetV2Config | RepVGGConfig:
    if isinstance(config, ResNetConfig | MobileNetV2Config | RepVGGConfig):
        return config
    raise BadInput(f"{type(config).__name__}: no way is known to make it smaller; add it to bnhw.export.reduction")
