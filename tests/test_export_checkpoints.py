"""Checkpoints: round trips, and what is said about files that are not what they should be."""

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

import safetensors.torch  # noqa: E402 - after the skip

from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.checkpoints import load_checkpoint, load_wide_resnet, read_metadata, save_checkpoint  # noqa: E402
from bnhw.export.layers import BinaryConv2d  # noqa: E402
from bnhw.export.zoo import WideResNet, WideResNetConfig  # noqa: E402
from bnhw.version import producer  # noqa: E402

CONFIGS = {
    "shifted_relu": WideResNetConfig(depth=8, base_width=2, input_channels=1, input_mean=(4.9,), input_std=(6.0,)),
    "batch_norm": WideResNetConfig(
        depth=8,
        base_width=2,
        normalisation="batch_norm",
        batch_norm_affine=True,
        input_batch_norm_affine=True,
        padding="tf_same",
        input_relu=True,
    ),
    "float": WideResNetConfig(depth=14, base_width=1, weights="float", normalisation="batch_norm"),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> WideResNet:
    torch.manual_seed(0)
    network = WideResNet(CONFIGS[request.param])
    with torch.no_grad():
        network.train()(image_of(network))  # batch norms get statistics of their own
    return network.eval()


@pytest.fixture
def small() -> WideResNet:
    torch.manual_seed(0)
    return WideResNet(CONFIGS["shifted_relu"])


def image_of(network: WideResNet) -> Any:
    return torch.rand(2, *network.config.input_shape, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_checkpoint_comes_back_bit_for_bit(model: WideResNet, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    save_checkpoint(model, path, metadata={"epochs": 3})
    loaded = load_checkpoint(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded(image_of(model)), model(image_of(model)))
    assert read_metadata(path)["epochs"] == 3
    assert read_metadata(path)["producer"] == producer()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_signs_only_keeps_the_logits_with_one_bit_a_weight(model: WideResNet, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"signs{suffix}"
    save_checkpoint(model, path, signs_only=True)
    loaded = load_wide_resnet(path)
    assert torch.equal(loaded(image_of(model)), model(image_of(model)))
    for layer in loaded.convolutions():
        if isinstance(layer, BinaryConv2d):
            assert set(layer.weight.abs().flatten().tolist()) == {layer.scale.item()}


def test_a_network_of_bits_takes_an_eighth_of_a_byte_a_weight(small: WideResNet, tmp_path: Path) -> None:
    save_checkpoint(small, tmp_path / "net.safetensors", signs_only=True)
    stored = safetensors.torch.load_file(tmp_path / "net.safetensors")
    for name, tensor in small.state_dict().items():
        if name.removesuffix(".weight") + ".scale" in stored and name.endswith(".weight"):
            assert (stored[name].dtype, stored[name].numel()) == (torch.uint8, -(-tensor.numel() // 8))


def test_bits_behind_the_last_weight_are_refused(small: WideResNet, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(small, path, signs_only=True)
    tensors = safetensors.torch.load_file(path)
    shapes = {name: tensor.numel() for name, tensor in small.state_dict().items()}
    name = next(name for name, found in tensors.items() if found.dtype == torch.uint8 and shapes[name] % 8)
    tensors[name][-1] |= 1
    write_safetensors(path, tensors, small.config.to_json())
    with pytest.raises(BadInput, match=f"{name} has bits behind the last of {shapes[name]} weights"):
        load_checkpoint(path)


def test_signs_in_bytes_load_like_signs_in_bits(small: WideResNet, tmp_path: Path) -> None:
    tensors = dict(small.state_dict())
    tensors["stem.weight"] = torch.where(tensors["stem.weight"] >= 0, 1, -1).to(torch.int8)
    write_safetensors(tmp_path / "bytes.safetensors", tensors, small.config.to_json())
    save_checkpoint(small, tmp_path / "bits.safetensors", signs_only=True)
    weights = [
        load_wide_resnet(tmp_path / f"{name}.safetensors").state_dict()["stem.weight"] for name in ("bytes", "bits")
    ]
    assert torch.equal(*weights)


def test_a_stored_scale_is_used_and_not_computed_anew(small: WideResNet, tmp_path: Path) -> None:
    small.stem.scale.fill_(0.5)  # type: ignore[operator]  # torch types attributes of modules loosely
    save_checkpoint(small, tmp_path / "net.safetensors")
    assert load_checkpoint(tmp_path / "net.safetensors").state_dict()["stem.scale"].item() == 0.5


def test_loading_leaves_the_random_state_alone(small: WideResNet, tmp_path: Path) -> None:
    save_checkpoint(small, tmp_path / "net.safetensors")
    state = torch.random.get_rng_state()
    load_checkpoint(tmp_path / "net.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_survives_json(name: str) -> None:
    config = CONFIGS[name]
    assert WideResNetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weight_count_is_that_of_the_network(name: str) -> None:
    network = WideResNet(CONFIGS[name])
    assert CONFIGS[name].weight_count == sum(layer.weight.numel() for layer in network.convolutions())
    assert len(network.convolutions()) == CONFIGS[name].depth


def test_the_published_topology_has_26737120_weights() -> None:
    assert WideResNetConfig(depth=20, width=10).weight_count == 26_737_120


def test_a_wrong_configuration_lists_every_problem() -> None:
    with pytest.raises(BadInput) as caught:
        WideResNetConfig(
            width=0,
            padding="odd",  # type: ignore[arg-type]
            image_size=(32,),  # type: ignore[arg-type]
            temperature=-1.0,
            input_relu=1,  # type: ignore[arg-type]
            input_std=(1.0, 0.0, 1.0),
        )
    for part in (
        "width is 0, expected an integer from 1 to 65536",
        "padding is 'odd', expected one of symmetric, tf_same",
        "image_size is (32,), expected two positive integers, height and width",
        "temperature is -1.0, expected a number above 0",
        "input_relu is 1, expected true or false",
        "input_std is (1.0, 0.0, 1.0), expected 3 numbers above 0",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 21}, "depth is 21, expected 6 n \\+ 2"),
        ({"depth": 2}, "depth is 2, expected 6 n \\+ 2"),
        ({"depth": 1994, "width": 4000}, "weights, expected at most 2147483648"),
        ({"normalisation": ["batch_norm"]}, "normalisation is \\('batch_norm',\\)"),
        ({"batch_norm_epsilon": "small"}, "batch_norm_epsilon is 'small'"),
        ({"colour": 3}, "unknown field 'colour'"),
    ],
)
def test_a_configuration_from_a_file_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        WideResNetConfig.from_json({**CONFIGS["shifted_relu"].to_json(), **changes})


def test_a_missing_field_is_named() -> None:
    values = CONFIGS["shifted_relu"].to_json()
    del values["classes"]
    with pytest.raises(BadInput, match="field 'classes' is missing"):
        WideResNetConfig.from_json(values)


def test_every_wrong_tensor_is_listed_at_once(small: WideResNet, tmp_path: Path) -> None:
    tensors = dict(small.state_dict())
    del tensors["stem.weight"]
    tensors["units.0.conv1.weight"] = tensors["units.0.conv1.weight"][:1].clone()
    tensors["units.0.conv2.weight"] = tensors["units.0.conv2.weight"].double()
    tensors["units.1.conv1.weight"] = torch.zeros_like(tensors["units.1.conv1.weight"], dtype=torch.int8)
    tensors["units.2.conv1.weight"] = torch.zeros(3, dtype=torch.uint8)
    tensors["units.1.conv2.weight"] = torch.full_like(tensors["units.1.conv2.weight"], torch.nan)
    tensors["classifier.scale"] = torch.tensor(-1.0)
    tensors["extra"] = torch.zeros(1)
    path = tmp_path / "net.safetensors"
    write_safetensors(path, tensors, small.config.to_json())
    with pytest.raises(BadInput) as caught:
        load_checkpoint(path)
    for part in (
        str(path),
        "stem.weight is missing",
        "extra is unknown to this network",
        "units.0.conv1.weight is torch.float32 (1, 2, 3, 3), expected torch.float32 (2, 2, 3, 3)",
        "units.0.conv2.weight is torch.float64",
        "units.1.conv1.weight holds int8 values other than -1 and +1",
        "units.2.conv1.weight is bits in uint8 (3,), expected (",
        "units.1.conv2.weight holds NaN or infinity",
        "classifier.scale holds values that are not above 0",
        "save_checkpoint",
    ):
        assert part in str(caught.value)


def test_a_configuration_of_a_huge_network_is_refused_before_it_is_built(small: WideResNet, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_safetensors(path, dict(small.state_dict()), {**small.config.to_json(), "width": 1000})
    with pytest.raises(BadInput, match="the tensors do not fit"):
        load_checkpoint(path)


def test_a_long_listing_is_cut(small: WideResNet, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_safetensors(path, {f"t{i}": torch.zeros(1) for i in range(100)}, small.config.to_json())
    with pytest.raises(BadInput, match=r"and \d+ more$"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0, 1, 7, 100, -1])
def test_a_truncated_file_is_refused(small: WideResNet, tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"net{suffix}"
    save_checkpoint(small, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BadInput, match="damaged"):
        load_checkpoint(path)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BadInput, match="damaged or not a safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize("config", ["{", "[" * 100_000, "null", "[]", '"depth"', '{"depth": 20}'])
def test_a_malformed_configuration_is_refused(tmp_path: Path, config: str) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}, {"config": config}))
    with pytest.raises(BadInput, match=r"net\.safetensors.*save_checkpoint"):
        load_checkpoint(path)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}))
    with pytest.raises(BadInput, match="has no network configuration in its header"):
        load_checkpoint(path)


class Burglar:
    """Unpickling this would create a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pickled_object_is_refused_and_not_run(small: WideResNet, tmp_path: Path) -> None:
    path, folder = tmp_path / "net.pt", tmp_path / "burgled"
    torch.save({"config": small.config.to_json(), "state_dict": Burglar(folder)}, path)
    with pytest.raises(BadInput, match="Python objects other than tensors"):
        load_checkpoint(path)
    assert not folder.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_module_is_refused(small: WideResNet, tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "net.pt"
    torch.save(small, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BadInput, match="Python objects other than tensors"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stem.weight": torch.zeros(1)}, r"holds \['stem.weight'\], expected a dictionary with 'config'"),
        (torch.zeros(1), "holds Tensor, expected a dictionary"),
        ({"config": [1], "state_dict": 2}, "config is a list, expected a dictionary; state_dict is a int"),
        ({"config": {}, "state_dict": {"a": 1}}, "a is a int, expected a tensor"),
        ({"config": {}, "state_dict": {3: torch.zeros(1)}}, "state_dict is a dict, expected a dictionary"),
    ],
)
def test_a_pt_file_of_another_layout_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "net.pt"
    torch.save(content, path)
    with pytest.raises(BadInput, match=message):
        load_checkpoint(path)


def test_an_unknown_suffix_is_refused(small: WideResNet, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"unknown suffix '.h5'; expected .safetensors or .pt"):
        save_checkpoint(small, tmp_path / "net.h5")
    with pytest.raises(BadInput, match=r"unknown suffix '.h5'; expected one of .safetensors, .pt, .pth, .mat"):
        load_checkpoint(tmp_path / "net.h5")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.pt: no such file; check the path"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_missing_folder_is_named_and_nothing_is_left(small: WideResNet, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be written .*existing folder"):
        save_checkpoint(small, tmp_path / "none" / "net.pt")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(
    small: WideResNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(small, path)
    before = path.read_bytes()

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(small, path, signs_only=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write_safetensors(path: Path, tensors: dict[str, Any], config: dict[str, Any]) -> None:
    path.write_bytes(safetensors.torch.save(tensors, {"config": json.dumps(config)}))


def test_written_files_have_the_usual_permissions(small: WideResNet, tmp_path: Path) -> None:
    save_checkpoint(small, tmp_path / "net.pt")
    (tmp_path / "plain").write_bytes(io.BytesIO().getvalue())
    assert (tmp_path / "net.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode
