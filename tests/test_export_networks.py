"""Networks by name, wide residual networks with every normalisation, and their way to files and ONNX."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

import safetensors  # noqa: E402 - after the skip
import safetensors.torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bnhw.cli.build import export  # noqa: E402
from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.checkpoints import load_checkpoint, load_wide_resnet, save_checkpoint  # noqa: E402
from bnhw.export.layers import Conv2d, InputNormalisation, ShiftedReLU, Temperature  # noqa: E402
from bnhw.export.networks import (  # noqa: E402
    NETWORKS,
    PRESETS,
    build_network,
    config_of,
    kind_of,
    preset,
    with_normalisation,
)
from bnhw.export.normalisation_layers import InputBatchNorm2d  # noqa: E402
from bnhw.export.normalisations import (  # noqa: E402
    SCALED_KINDS,
    InputKind,
    Normalisation,
    NormalisationConfig,
    Weights,
    roles_of_parameters,
)
from bnhw.export.to_onnx import to_onnx  # noqa: E402
from bnhw.export.zoo import WideResNet, WideResNetConfig  # noqa: E402

N = Normalisation
SMALL = WideResNetConfig(depth=8, base_width=2, image_size=(9, 8))
SMALL_IMAGENET = WideResNetConfig(
    depth=10, base_width=4, width=1.5, form="imagenet", image_size=(64, 48), classes=7, normalisation="batch_norm"
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normalisation(kind: Normalisation, **changes: Any) -> NormalisationConfig:
    return replace(NormalisationConfig(kind=kind, gain=0.25 if kind in SCALED_KINDS else 1.0), **changes)


def images(shape: tuple[int, int, int], count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values: Tensor = torch.randint(0, 256, (count, *shape), generator=generator).float()
    return values


def trained(config: WideResNetConfig) -> WideResNet:
    """A network after two steps, so that statistics, gains and shifts are not the initial ones."""
    torch.manual_seed(0)
    network = WideResNet(config).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(2):
        loss = nn.functional.cross_entropy(network(images(config.input_shape, 16)), torch.arange(16) % 7)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("wrn-14-1", 171_280),
        ("wrn-20-4", 4_280_512),
        ("wrn-20-10", 26_737_120),  # as published
        ("wrn-18-1", 11_506_880),  # 11.5 M in table III of paper 1
        ("wrn-18-2.5", 69_962_720),  # 70 M there
    ],
)
def test_the_networks_of_paper_1_have_its_numbers_of_weights(name: str, weights: int) -> None:
    config = preset(name)
    assert config.weight_count == weights
    with torch.device("meta"):
        network = build_network(config)
    found = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert sum(found.values()) == weights, "a network without batch norm learns weights alone"


@pytest.mark.parametrize("name", PRESETS)
def test_every_network_by_name_takes_its_images(name: str) -> None:
    with torch.device("meta"):
        network = build_network(preset(name))
    assert kind_of(config_of(network)) in NETWORKS
    config = preset(name)
    assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config
    classes = network(torch.empty(2, *config.input_shape, device="meta"))
    assert classes.shape == (2, config.classes)  # type: ignore[attr-defined]  # all of them have this field


def test_learned_gains_and_shifts_of_baseline_1_change_the_papers_rounded_count_by_nothing() -> None:
    baseline = with_normalisation(preset("wrn-18-1"), normalisation(N.BATCH_NORM, input="batch_norm_minus"))
    with torch.device("meta"):
        learned = sum(parameter.numel() for parameter in build_network(baseline).parameters())
    assert round(learned / 1e6, 1) == 11.5
    assert learned > baseline.weight_count


def test_the_imagenet_form_halves_the_image_five_times() -> None:
    network = WideResNet(SMALL_IMAGENET).eval()
    shapes: list[Any] = []
    for module in (network.stem, network.stem_pool, *network.units):
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(images(SMALL_IMAGENET.input_shape, 1))
    assert shapes == [(6, 32, 24), (6, 16, 12), (6, 16, 12), (12, 8, 6), (24, 4, 3), (48, 2, 2)]
    assert [layer.kernel_size[0] for layer in network.convolutions()] == [7, *[3] * 8, 1]
    assert network.classifier.out_channels == 7


def test_widened_shortcuts_are_padded_with_zero_channels() -> None:
    network = WideResNet(SMALL_IMAGENET).eval()
    unit: Any = network.units[1]
    with torch.no_grad():
        unit.conv2.weight.zero_()
        unit.conv2.scale.zero_()  # the branch is silent
        residual = torch.rand(1, 6, 16, 12)
        result = unit(residual)
    torch.testing.assert_close(result[:, :6], nn.functional.avg_pool2d(residual, 3, 2, 1, count_include_pad=False))
    assert not result[:, 6:].any()


SIX_VARIANTS: list[tuple[Normalisation, type[nn.Module], tuple[type[nn.Module], ...], int]] = [
    # paper 1, section IV: activation function, what stands behind the classifier, parameters that are no weights
    (N.BATCH_NORM, nn.ReLU, (nn.BatchNorm2d,), 2 * (2 + 2 + 2 + 2 + 4 + 4 + 8 + 8 + 10 - 2)),
    (N.BATCH_NORM_MINUS, nn.ReLU, (nn.BatchNorm2d,), 0),
    (N.FINAL_ONLY, ShiftedReLU, (nn.BatchNorm2d,), 0),
    (N.SHIFTED_RELU, ShiftedReLU, (Temperature,), 0),
    (N.ELU, nn.ELU, (Temperature,), 0),
    (N.MEAN_ONLY, ShiftedReLU, (nn.Sequential,), 0),
]


@pytest.mark.parametrize(("kind", "activation", "last", "others"), SIX_VARIANTS)
def test_the_six_variants_of_paper_1(
    kind: Normalisation, activation: type[nn.Module], last: tuple[type[nn.Module], ...], others: int
) -> None:
    config = SMALL.with_normalisation(normalisation(kind, input="batch_norm_minus"))
    network = WideResNet(config)
    assert isinstance(network.activation, activation)
    assert isinstance(network.output_norm, last)
    assert isinstance(network.input_norm, nn.BatchNorm2d)
    learned = sum(parameter.numel() for parameter in network.parameters())
    assert learned - config.weight_count == others
    inner_norms = 8 if kind in (N.BATCH_NORM, N.BATCH_NORM_MINUS) else 1 if kind is N.FINAL_ONLY else 0
    assert len(network.batch_norms()) == inner_norms + 1


@pytest.mark.parametrize(
    ("kind", "weights"),
    [*((kind, "1bit") for kind in Normalisation), (N.BATCH_NORM, "float"), (N.WEIGHT_NORM, "float")],
)
def test_every_normalisation_trains_a_step_and_exports_what_it_computes(kind: Normalisation, weights: Weights) -> None:
    network = trained(replace(SMALL, weights=weights).with_normalisation(normalisation(kind, input="batch_norm")))
    assert len(roles_of_parameters(network)) == len(list(network.parameters()))
    onnx_logits, logits = both_logits(network)
    np.testing.assert_allclose(onnx_logits, logits, rtol=1e-3, atol=1e-4)
    assert np.ptp(logits) > 1e-3, "there is something to compare"


def both_logits(network: WideResNet) -> tuple[Any, Any]:
    image = images(network.config.input_shape, 3)
    session = onnxruntime.InferenceSession(
        to_onnx(network, input_shape=network.config.input_shape).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    with torch.no_grad():
        return session.run(None, {"image": image.numpy()})[0], network(image).numpy()


def test_the_imagenet_form_exports_what_it_computes() -> None:
    network = trained(SMALL_IMAGENET)
    np.testing.assert_allclose(*both_logits(network), rtol=1e-3, atol=1e-4)


def test_the_command_line_exports_any_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = trained(SMALL_IMAGENET)
    save_checkpoint(network, tmp_path / "net.safetensors")
    export(tmp_path / "net.safetensors", tmp_path / "net.onnx")
    written = onnx.load(tmp_path / "net.onnx").SerializeToString()
    assert written == to_onnx(network, input_shape=network.config.input_shape).SerializeToString()
    assert f"{network.config.weight_count:,} weights" in capsys.readouterr().err


def nodes_of(network: WideResNet) -> list[onnx.NodeProto]:
    return list(to_onnx(network, input_shape=network.config.input_shape).graph.node)


@pytest.mark.parametrize("kind", [N.SCALED, N.SCALED_A1, N.SCALED_A2, N.RBN_MINUS, N.IEBN_MINUS])
def test_what_is_constant_after_training_exports_as_plain_batch_norm(kind: Normalisation) -> None:
    ours = nodes_of(WideResNet(SMALL.with_normalisation(normalisation(kind))))
    plain = nodes_of(WideResNet(SMALL.with_normalisation(normalisation(N.BATCH_NORM))))
    assert [node.op_type for node in ours] == [node.op_type for node in plain]


@pytest.mark.parametrize("kind", [N.RBN, N.IEBN])
def test_instance_statistics_export_as_seven_nodes(kind: Normalisation) -> None:
    nodes = nodes_of(WideResNet(SMALL.with_normalisation(normalisation(kind))))
    found = sorted(node.op_type for node in nodes if node.name.startswith("units.0.norm1"))
    assert found == ["Add", "Add", "BatchNormalization", "Mul", "Mul", "ReduceMean", "Sigmoid"]


def test_weight_norm_exports_as_plain_weights() -> None:
    network = WideResNet(SMALL.with_normalisation(normalisation(N.WEIGHT_NORM, dropout=0.25)))
    found = {node.op_type for node in nodes_of(network)}
    assert found == {"Sub", "Div", "Conv", "Relu", "Add", "AveragePool", "Pad", "ReduceMean"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", Normalisation)
def test_a_checkpoint_holds_any_normalisation(kind: Normalisation, suffix: str, tmp_path: Path) -> None:
    network = trained(SMALL.with_normalisation(normalisation(kind, input="batch_norm")))
    for signs_only in (False, True):
        path = tmp_path / f"net-{signs_only}{suffix}"
        save_checkpoint(network, path, signs_only=signs_only)
        loaded = load_checkpoint(path)
        assert config_of(loaded) == network.config
        image = images(SMALL.input_shape, 2)
        assert torch.equal(loaded(image), network(image))


def test_a_checkpoint_without_a_kind_is_a_wide_residual_network(tmp_path: Path) -> None:
    network = WideResNet(replace(SMALL, normalisation="batch_norm")).eval()
    later = {"form", "gain", "dropout", "input_normalisation"}
    config = {key: value for key, value in network.config.to_json().items() if key not in later}
    path = tmp_path / "old.safetensors"
    safetensors.torch.save_file(network.state_dict(), path, {"config": json.dumps(config)})
    loaded = load_wide_resnet(path)
    assert loaded.config == network.config
    assert torch.equal(loaded(images(SMALL.input_shape, 2)), network(images(SMALL.input_shape, 2)))


def test_a_checkpoint_names_its_kind(tmp_path: Path) -> None:
    save_checkpoint(WideResNet(SMALL), tmp_path / "net.safetensors")
    with safetensors.safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert file.metadata()["network"] == "wide-resnet"


@pytest.mark.parametrize(
    ("kind", "part"), [("perceptron", "kind 'perceptron', expected one of"), (3, "network is a int, expected a string")]
)
def test_an_unknown_kind_of_network_is_refused(kind: object, part: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"network": kind, "config": SMALL.to_json(), "state_dict": {}}, path)
    with pytest.raises(BadInput, match=part):
        load_checkpoint(path)


class Other(nn.Linear):
    config = SMALL


def test_a_module_that_is_in_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"Other is no network of bnhw\.export; expected one of WideResNet"):
        save_checkpoint(Other(1, 1), tmp_path / "net.pt")
    with pytest.raises(BadInput, match="NormalisationConfig is no configuration of a network; expected one of Wide"):
        kind_of(normalisation(N.ELU))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="'wrn-19' is no network by name; expected one of wrn-14-1"):
        preset("wrn-19")


def test_another_kind_of_network_is_no_wide_residual_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnhw.export.checkpoints.load_checkpoint", lambda path: nn.Identity())
    with pytest.raises(BadInput, match="holds a Identity, expected a wide residual network"):
        load_wide_resnet(tmp_path / "net.pt")


@pytest.mark.parametrize("kind", Normalisation)
@pytest.mark.parametrize("input_kind", ["fixed", "offline", "batch_norm", "batch_norm_minus", "none"])
def test_a_normalisation_comes_back_from_the_fields(kind: Normalisation, input_kind: InputKind) -> None:
    statistics = {"input_mean": (1.0, 2.0, 3.0), "input_std": (4.0, 5.0, 6.0)} if input_kind == "offline" else {}
    wanted = normalisation(kind, input=input_kind, epsilon=1e-4, temperature=40.0, dropout=0.1, **statistics)
    config = SMALL.with_normalisation(wanted)
    assert config.normalisation_config == wanted
    assert WideResNetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("input_kind", "module"),
    [("fixed", InputNormalisation), ("batch_norm", InputBatchNorm2d), ("batch_norm_minus", nn.BatchNorm2d)],
)
def test_the_image_is_normalised_as_asked(input_kind: InputKind, module: type[nn.Module]) -> None:
    for kind in (N.BATCH_NORM, N.SHIFTED_RELU):
        network = WideResNet(SMALL.with_normalisation(normalisation(kind, input=input_kind)))
        assert type(network.input_norm) is module


def test_dropout_stands_before_the_second_convolution_of_a_unit() -> None:
    network = WideResNet(SMALL.with_normalisation(normalisation(N.WEIGHT_NORM, dropout=0.5))).train()
    seen: list[float] = []
    unit: Any = network.units[0]
    unit.conv2.register_forward_pre_hook(lambda module, inputs: seen.append(float((inputs[0] == 0).float().mean())))
    unit.activation2 = nn.Sigmoid()  # nothing is 0 but what dropout makes 0
    unit(torch.rand(8, 2, 9, 8))
    assert 0.4 < seen[0] < 0.6


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"normalisation": "odd"}, "normalisation is 'odd', expected one of batch_norm, batch_norm_minus"),
        ({"normalisation": []}, r"normalisation is \[\], expected one of"),
        ({"gain": 0.5}, "gain is 0.5, expected 1, since only"),
        ({"dropout": 2}, "dropout is 2, expected a number from 0"),
        ({"normalisation": "elu", "act_bits": 4}, "act_bits is 4, expected None with ELU"),
        ({"normalisation": "elu", "batch_norm_affine": True}, "batch_norm_affine is true, expected false for 'elu'"),
        ({"form": "mnist"}, "form is 'mnist', expected one of cifar, imagenet"),
        ({"form": "imagenet"}, "depth is 8, expected 8 n [+] 2"),
        ({"form": "imagenet", "depth": 10, "padding": "tf_same"}, "padding is 'tf_same', expected 'symmetric'"),
        ({"width": 0.3}, "width 0.3 times base_width 2 is not a number of channels"),
        ({"input_normalisation": "odd"}, "input_normalisation is 'odd', expected one of fixed"),
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(BadInput, match=part):
        replace(SMALL, **changes)


@pytest.mark.parametrize("kind", [N.SHIFTED_RELU, N.BATCH_NORM, N.WEIGHT_NORM])
def test_all_convolutions_are_those_of_the_form(kind: Normalisation) -> None:
    network = WideResNet(SMALL.with_normalisation(normalisation(kind)))
    assert len(network.convolutions()) == 8
    assert all(isinstance(layer, Conv2d) for layer in network.convolutions())
