"""ResNet, ResNeXt, MobileNetV2 and RepVGG: sizes, counts, configurations and one step of training."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from small_networks import CONFIGS, as_tensor, build, new_network, smooth_images, with_normalisation  # noqa: E402
from torch import nn  # noqa: E402 - after the skip
from torch.nn import functional  # noqa: E402

from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from bnhw.export.image_networks import KINDS, ImageNetworkConfig  # noqa: E402
from bnhw.export.layers import BinaryConv2d, Conv2d  # noqa: E402
from bnhw.export.mobilenet import MobileNetV2Config  # noqa: E402
from bnhw.export.networks import PRESETS, config_of  # noqa: E402
from bnhw.export.normalisation_layers import WeightNormConv2d  # noqa: E402
from bnhw.export.normalisations import (  # noqa: E402
    Normalisation,
    NormalisationConfig,
    ParameterRole,
    roles_of_parameters,
)
from bnhw.export.repvgg import RepVGGConfig  # noqa: E402
from bnhw.export.resnet import RESNETS, ResNetConfig  # noqa: E402
from bnhw.export.to_onnx import to_onnx  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def resnet(depth: int, **others: Any) -> ResNetConfig:
    block, units = RESNETS[depth]
    return ResNetConfig(block=block, units=units, **others)


def on_meta(config: ImageNetworkConfig) -> nn.Module:
    with torch.device("meta"):
        return new_network(config)


# Published totals: all learned numbers of the float networks for 1000 classes, batch norms and the bias included.
PARAMETERS = {
    "resnet-18": (resnet(18), 11_689_512),
    "resnet-34": (resnet(34), 21_797_672),
    "resnet-50": (resnet(50), 25_557_032),
    "resnet-101": (resnet(101), 44_549_160),
    "resnet-152": (resnet(152), 60_192_808),
    "resnext-50": (replace(resnet(50), cardinality=32, group_width=4), 25_028_904),
    "mobilenet-v2": (MobileNetV2Config(), 3_504_872),
    "mobilenet-v2-half": (MobileNetV2Config(base_width=16), 1_968_680),
}


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("weights", ["float", "1bit"])
def test_learned_numbers_are_as_many_as_published(name: str, weights: Any) -> None:
    config, expected = PARAMETERS[name]
    model = on_meta(replace(config, weights=weights))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_repvgg_a0_has_the_learned_numbers_of_its_table() -> None:
    # Ding et al., table 2: 1, 2, 4, 14, 1 blocks of 48, 48, 96, 192, 1280 channels; all but the first of each stage
    # keep their shape and have a third batch norm.
    entries = [(3, 48), (48, 48), (48, 96), (96, 192), (192, 1280)]
    repeats = [(1, 48), (3, 96), (13, 192)]
    pairs = sum(a * b for a, b in entries) + sum(n * c * c for n, c in repeats)
    channels = sum(b for _, b in entries) + sum(n * c for n, c in repeats)
    kept = sum(n * c for n, c in repeats)
    classifier = 1280 * 1000 + 1000
    training, inference = (on_meta(RepVGGConfig(form=form)) for form in ("training", "inference"))
    found = [sum(parameter.numel() for parameter in model.parameters()) for model in (training, inference)]
    assert found == [10 * pairs + 4 * channels + 2 * kept + classifier, 9 * pairs + channels + classifier]
    assert [round(number / 1e6, 2) for number in found] == [9.11, 8.31]


ALL = {name: config for name, (config, _) in PARAMETERS.items()} | {
    "repvgg-a0": RepVGGConfig(),
    "repvgg-a0-inference": RepVGGConfig(form="inference"),
    **{f"resnet-{depth}-cifar": resnet(depth, stem="cifar", classes=10) for depth in RESNETS},
    **CONFIGS,
}


@pytest.mark.parametrize("name", ALL)
def test_weight_count_is_that_of_the_convolutions(name: str) -> None:
    convolutions = [module for module in on_meta(ALL[name]).modules() if isinstance(module, nn.Conv2d)]
    assert sum(layer.weight.numel() for layer in convolutions) == ALL[name].weight_count


@pytest.mark.parametrize("depth", RESNETS)
def test_a_residual_network_is_as_deep_as_its_name(depth: int) -> None:
    layers = [name for name, layer in on_meta(resnet(depth)).named_modules() if isinstance(layer, nn.Conv2d)]
    assert len([name for name in layers if "shortcut" not in name]) == depth


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (resnet(18), 7),
        (resnet(18, stem="cifar", image_size=(32, 32)), 4),
        (resnet(50, image_size=(32, 32)), 1),
        (MobileNetV2Config(), 7),
        (MobileNetV2Config(stem="cifar", image_size=(32, 32)), 8),
        (RepVGGConfig(), 7),
        (RepVGGConfig(stem="cifar", image_size=(32, 32)), 4),
    ],
)
def test_the_last_features_have_the_size_that_the_strides_leave(config: ImageNetworkConfig, size: int) -> None:
    model = on_meta(config)
    seen: list[tuple[int, ...]] = []
    model.get_submodule("classifier").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    logits = model.eval()(torch.empty(2, *config.input_shape, device="meta"))
    assert logits.shape == (2, config.classes)
    assert seen[0][2:] == (size, size)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(16, 16), (9, 13), (1, 1)])
def test_any_image_gives_one_logit_a_class(name: str, size: tuple[int, int]) -> None:
    config = replace(CONFIGS[name], image_size=size)
    model = new_network(config).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, *config.input_shape)).shape == (2, config.classes)


FAMILIES = ("basic", "bottleneck", "resnext", "mobilenet", "repvgg")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("weights", ["float", "1bit"])
def test_one_training_step_changes_every_weight(name: str, kind: Normalisation, weights: Any) -> None:
    torch.manual_seed(0)
    config = replace(with_normalisation(CONFIGS[name], kind), weights=weights)
    model = new_network(config).train()
    roles = roles_of_parameters(model)
    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    assert set(roles) == set(before)
    loss = functional.cross_entropy(model(as_tensor(smooth_images(config, 4))), torch.tensor([0, 1, 2, 3]))
    torch.autograd.backward(loss)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for path, parameter in model.named_parameters():
        assert bool(torch.isfinite(parameter).all()), path
        if roles[path] is ParameterRole.WEIGHT:
            assert not torch.equal(parameter, before[path]), path


@pytest.mark.parametrize("kind", [Normalisation.BATCH_NORM, Normalisation.WEIGHT_NORM])
@pytest.mark.parametrize("name", FAMILIES)
def test_one_bit_weights_are_in_every_layer(name: str, kind: Normalisation) -> None:
    config = replace(with_normalisation(CONFIGS[name], kind), weights="1bit")
    layers = [module for module in build(config).modules() if isinstance(module, nn.Conv2d)]
    for layer in layers:
        assert isinstance(layer, BinaryConv2d) or (isinstance(layer, WeightNormConv2d) and layer.binary)
        magnitude = layer.effective_weight().detach().abs().flatten(1)
        torch.testing.assert_close(magnitude, magnitude[:, :1].expand_as(magnitude), rtol=0, atol=0)


def test_the_classifier_begins_uniform_by_fan_in_and_without_bias() -> None:
    layer = new_network(CONFIGS["mobilenet"]).get_submodule("classifier.dense")
    assert isinstance(layer, Conv2d) and layer.bias is not None
    bound = layer.in_channels**-0.5
    assert 0.99 * bound < layer.weight.detach().abs().max() <= bound
    assert not layer.bias.any()


def test_dropout_stands_between_the_convolutions_of_the_modified_basic_block() -> None:
    norm_config = NormalisationConfig(kind=Normalisation.WEIGHT_NORM, dropout=0.25)
    for name in ("basic", "bottleneck"):
        model = new_network(replace(CONFIGS[name], normalisation=norm_config))
        found = [path for path, module in model.named_modules() if isinstance(module, nn.Dropout)]
        assert found == [f"blocks.{index}.dropout" for index in range(len(found))] and found
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    block = new_network(replace(CONFIGS["basic"], normalisation=norm_config)).get_submodule("blocks.0").train()
    zeros: list[float] = []
    block.get_submodule("conv2").register_forward_pre_hook(lambda _, i: zeros.append(float((i[0] == 0).float().mean())))
    for mode in (True, False):
        torch.manual_seed(0)
        block.train(mode)(torch.ones(8, 8, 16, 16))
    assert zeros[0] > zeros[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_comes_back_from_json(name: str) -> None:
    norm_config = NormalisationConfig(kind=Normalisation.SCALED, gain=0.1, input="batch_norm")
    config = replace(CONFIGS[name], normalisation=norm_config)
    assert type(config).from_json(config.to_json()) == config


def test_every_field_that_is_wrong_is_listed() -> None:
    values = {
        "classes": 0,
        "input_channels": True,
        "image_size": (32,),
        "stem": "large",
        "weights": "2bit",
        "weight_scale": "none",
        "normalisation": NormalisationConfig(kind=Normalisation.SHIFTED_RELU),
    }
    families: list[tuple[Any, dict[str, Any]]] = [
        (ResNetConfig, {"block": "wide", "units": (), "base_width": -1, "cardinality": 0, "group_width": 1.5}),
        (MobileNetV2Config, {"units": (1,) * 8, "base_width": 0, "dropout": 1.0}),
        (RepVGGConfig, {"units": (1, 2), "base_width": 0, "width_factor": 0, "last_width_factor": True, "form": "x"}),
    ]
    for config, own in families:
        with pytest.raises(BadInput) as error:
            config(**(values | own))
        for name in (*values, *own):
            assert f"{name} is " in str(error.value), name
        assert set(values) | set(own) == {field.name for field in fields(config)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ResNetConfig(cardinality=32), "expected 1 and None for basic blocks"),
        (lambda: ResNetConfig(group_width=4), "expected 1 and None for basic blocks"),
        (lambda: ResNetConfig(base_width=65536, block="bottleneck"), r"the network has \d+ weights, expected at most"),
        (lambda: RepVGGConfig(base_width=1), r"give stages of \(0, 0, 1, 3, 20\) channels, expected 1 or more"),
        (lambda: RepVGGConfig(form="inference", weights="1bit"), "the sum of 1-bit branches has more than two values"),
        (
            lambda: ResNetConfig(
                normalisation=NormalisationConfig(
                    kind=Normalisation.BATCH_NORM, input="offline", input_mean=(1.0,), input_std=(1.0,)
                )
            ),
            "input_mean has 1 numbers, expected 3, one for each colour",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        wrong()


def test_json_problems_are_listed_together() -> None:
    values = ResNetConfig().to_json() | {"stemm": "cifar"}
    del values["stem"]
    with pytest.raises(
        BadInput, match="residual network configuration: unknown field 'stemm'; field 'stem' is missing"
    ):
        ResNetConfig.from_json(values)
    values = ResNetConfig().to_json() | {"normalisation": {"kind": "batch", "epsilon": -1}}
    with pytest.raises(BadInput, match=r"normalisation: kind is 'batch', .*; epsilon is -1"):
        ResNetConfig.from_json(values)
    with pytest.raises(BadInput, match="normalisation is 'batch_norm', expected a NormalisationConfig"):
        ResNetConfig.from_json(ResNetConfig().to_json() | {"normalisation": "batch_norm"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("weights", ["float", "1bit"])
def test_a_network_comes_back_from_its_checkpoint(name: str, kind: Normalisation, weights: Any, tmp_path: Path) -> None:
    model = build(replace(with_normalisation(CONFIGS[name], kind), weights=weights))
    save_checkpoint(model, tmp_path / "net.safetensors")
    loaded = load_checkpoint(tmp_path / "net.safetensors")
    assert type(loaded) is type(model) and config_of(loaded) == config_of(model)
    for path, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[path], tensor), path


def test_a_channel_without_signal_comes_back_and_a_negative_variance_does_not(tmp_path: Path) -> None:
    model = build(CONFIGS["basic"])
    for variance in (0.0, -1.0):
        model.get_buffer("stem_norm.norm.running_var")[0] = variance
        save_checkpoint(model, tmp_path / "net.pt")
        if variance == 0:
            load_checkpoint(tmp_path / "net.pt")
    with pytest.raises(BadInput, match=r"stem_norm.norm.running_var holds values below 0"):
        load_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("name", [*FAMILIES, "repvgg_inference"])
def test_the_inference_form_and_signs_alone_come_back_with_the_same_logits(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name] if name == "repvgg_inference" else replace(CONFIGS[name], weights="1bit")
    model = build(config)
    save_checkpoint(model, tmp_path / "net.pt", signs_only=True)
    image = as_tensor(smooth_images(config, 2))
    with torch.no_grad():
        torch.testing.assert_close(load_checkpoint(tmp_path / "net.pt")(image), model(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("basic", Normalisation.WEIGHT_NORM),
        ("bottleneck", Normalisation.SCALED_A2),
        ("resnext", Normalisation.IEBN),
        ("mobilenet", Normalisation.AFFINE),
        ("repvgg", Normalisation.RBN),
    ],
)
@pytest.mark.parametrize("weights", ["float", "1bit"])
def test_onnxruntime_gives_the_logits_of_torch(name: str, kind: Normalisation, weights: Any) -> None:
    config = replace(with_normalisation(CONFIGS[name], kind), weights=weights)
    model = build(config)
    proto = to_onnx(model, input_shape=config.input_shape)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = as_tensor(smooth_images(config, 3, seed=1))
    with torch.no_grad():
        expected = model(image).numpy()
    np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, rtol=1e-3, atol=1e-3)


def test_networks_by_name_are_those_of_the_papers() -> None:
    for name, (config, _) in PARAMETERS.items():
        if name in PRESETS:
            assert PRESETS[name] == config
    assert {name for name in PARAMETERS if name != "mobilenet-v2-half"} | {"repvgg-a0"} <= set(PRESETS)
    for name in ("resnet-18", "resnext-50", "mobilenet-v2", "repvgg-a0"):
        small = replace(PRESETS[name], stem="cifar", image_size=(32, 32), classes=10)  # type: ignore[type-var]
        assert PRESETS[f"{name}-cifar"] == small


def test_scaled_channels_are_multiples_of_eight_that_lose_no_tenth() -> None:
    config = MobileNetV2Config(base_width=24)  # width multiplier 0.75: 18 channels become 24, since 16 are too few
    assert config.stem_channels == 24
    assert sorted({unit.outputs for unit in config.bottlenecks}) == [16, 24, 48, 72, 120, 240]
    assert config.last_channels == 1280
    assert MobileNetV2Config(base_width=64).last_channels == 2560
