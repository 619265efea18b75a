"""ResNet, ResNeXt, MobileNetV2 and RepVGG compute what is documented, step by step."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from small_networks import CONFIGS, as_tensor, build, smooth_images  # noqa: E402
from torch import Tensor  # noqa: E402 - after the skip
from torch.nn import functional  # noqa: E402

from bnhw.export.mobilenet import MobileNetV2Config  # noqa: E402
from bnhw.export.repvgg import RepVGGConfig  # noqa: E402
from bnhw.export.resnet import ResNetConfig  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, variance, gain, shift = (
        state[f"{name}.{part}"].reshape(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    normed: Tensor = (x - mean) / torch.sqrt(variance + 1e-5) * gain + shift
    return normed


def documented_basic(state: dict[str, Tensor], x: Tensor, config: ResNetConfig) -> Tensor:
    x = functional.conv2d((x - 128) / 128, state["stem.weight"], padding=1)
    x = torch.relu(norm(state, "stem_norm.norm", x))
    for index, stride in enumerate((1, 2, 2)):
        block = f"blocks.{index}."
        y = functional.conv2d(x, state[block + "conv1.weight"], stride=stride, padding=1)
        y = torch.relu(norm(state, block + "norm1.norm", y))
        y = norm(state, block + "norm2", functional.conv2d(y, state[block + "conv2.weight"], padding=1))
        if stride == 2:
            x = functional.conv2d(x, state[block + "shortcut.0.weight"], stride=2)
            x = norm(state, block + "shortcut.1", x)
        x = torch.relu(x + y)
    return x


def documented_bottleneck(state: dict[str, Tensor], x: Tensor, config: ResNetConfig) -> Tensor:
    x = functional.conv2d((x - 128) / 128, state["stem.weight"], padding=1)
    x = torch.relu(norm(state, "stem_norm.norm", x))
    for index, stride in enumerate((1, 2)):
        block = f"blocks.{index}."
        y = torch.relu(norm(state, block + "norm1.norm", functional.conv2d(x, state[block + "conv1.weight"])))
        y = functional.conv2d(y, state[block + "conv2.weight"], stride=stride, padding=1, groups=config.cardinality)
        y = torch.relu(norm(state, block + "norm2.norm", y))
        y = norm(state, block + "norm3", functional.conv2d(y, state[block + "conv3.weight"]))
        x = functional.conv2d(x, state[block + "shortcut.0.weight"], stride=stride)
        x = torch.relu(norm(state, block + "shortcut.1", x) + y)
    return x


def documented_mobilenet(state: dict[str, Tensor], x: Tensor, config: MobileNetV2Config) -> Tensor:
    def layer(name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        y = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        return functional.relu6(norm(state, f"{name}.norm.norm", y))

    x = layer("stem", (x - 128) / 128)
    for index, stride in enumerate((1, 1, 1, 1, 2)):
        block = f"blocks.{index}."
        y = layer(block + "expand", x) if index else x
        y = layer(block + "depthwise", y, stride, groups=y.shape[1])
        y = norm(state, block + "project_norm", functional.conv2d(y, state[block + "project.weight"]))
        x = x + y if stride == 1 and x.shape[1] == y.shape[1] else y
    return layer("last", x)


def documented_repvgg(state: dict[str, Tensor], x: Tensor, config: RepVGGConfig) -> Tensor:
    x = (x - 128) / 128
    for index, stride in enumerate((1, 1, 2, 1, 2, 2)):
        block = f"blocks.{index}."
        y = norm(state, block + "norm3", functional.conv2d(x, state[block + "conv3.weight"], None, stride, 1))
        y = y + norm(state, block + "norm1", functional.conv2d(x, state[block + "conv1.weight"], None, stride))
        if stride == 1 and x.shape[1] == y.shape[1]:
            y = y + norm(state, block + "identity_norm", x)
        x = torch.relu(y)
    return x


DOCUMENTED: dict[str, Any] = {
    "basic": documented_basic,
    "bottleneck": documented_bottleneck,
    "resnext": documented_bottleneck,
    "mobilenet": documented_mobilenet,
    "repvgg": documented_repvgg,
}

FORWARD: dict[str, Any] = {"mobilenet": {"units": (1, 1, 2, 1)}}
"""Units that the documented passes have, where they are others than those of `CONFIGS`."""


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_forward_pass_is_the_documented_one_step_by_step(name: str) -> None:
    config = replace(CONFIGS[name], **FORWARD.get(name, {}))
    model = build(config)
    image = as_tensor(smooth_images(config, 3, seed=1))
    state = model.state_dict()
    features = DOCUMENTED[name](state, image, config).mean(dim=(2, 3))
    expected = features @ state["classifier.dense.weight"][:, :, 0, 0].T + state["classifier.dense.bias"]
    with torch.no_grad():
        torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)
