"""Export to ONNX: the same logits under onnxruntime, two-valued weights, and an untouched model."""

import copy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from torch import Tensor, nn  # noqa: E402 - after the skip

from bnhw.demo import digits as demo  # noqa: E402
from bnhw.errors import BadInput, MissingDependency  # noqa: E402
from bnhw.export import train_digits  # noqa: E402
from bnhw.export.checkpoints import load_wide_resnet, read_metadata  # noqa: E402
from bnhw.export.layers import BinaryConv2d  # noqa: E402
from bnhw.export.to_onnx import IR_VERSION, OPSET_VERSION, to_onnx  # noqa: E402
from bnhw.export.zoo import WideResNet, WideResNetConfig  # noqa: E402
from bnhw.version import producer  # noqa: E402

SMALL = WideResNetConfig(depth=8, base_width=2, image_size=(10, 8))
CONFIGS = {
    "shifted_relu": replace(SMALL, input_channels=1, input_mean=(120.0,), input_std=(60.0,)),
    "shifted_relu_tf_same": replace(SMALL, padding="tf_same", input_relu=True),
    "batch_norm": replace(SMALL, normalisation="batch_norm", input_relu=True),
    "batch_norm_tf_same": replace(SMALL, normalisation="batch_norm", padding="tf_same", batch_norm_affine=True),
    "odd_sizes_tf_same": replace(SMALL, normalisation="batch_norm", padding="tf_same", image_size=(9, 6)),
    "float": replace(SMALL, weights="float"),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str) -> WideResNet:
    torch.manual_seed(0)
    model = WideResNet(CONFIGS[name])
    with torch.no_grad():
        model.train()(pixels(model.config.input_shape, 16))  # batch norms get statistics of their own
    return model.eval()


def pixels(shape: tuple[int, int, int], count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values: Tensor = torch.randint(0, 256, (count, *shape), generator=generator).float()
    return values


def run(proto: onnx.ModelProto, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: npt.NDArray[np.float32] = session.run(None, {"image": image})[0]
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_onnxruntime_gives_the_logits_of_torch_for_any_batch(name: str) -> None:
    model = build(name)
    proto = to_onnx(model, input_shape=model.config.input_shape)
    for count in (1, 5):
        image = pixels(model.config.input_shape, count)
        with torch.no_grad():
            expected = model(image).numpy()
        logits = run(proto, image.numpy())
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("name", CONFIGS)
def test_only_the_operators_of_the_network_are_left(name: str) -> None:
    model = build(name)
    found = Counter(node.op_type for node in to_onnx(model, input_shape=model.config.input_shape).graph.node)
    expected = {"Conv": 8, "Add": 3, "AveragePool": 2, "Pad": 2, "ReduceMean": 1}
    activations = 7 + model.config.input_relu
    if model.config.normalisation == "batch_norm":
        expected |= {"BatchNormalization": 9, "Relu": activations}
    else:
        expected |= {"Clip": activations, "Sub": 1, "Div": 2}
    assert found == expected


def test_every_one_bit_weight_is_an_initializer_with_two_values() -> None:
    model = build("batch_norm")
    proto = to_onnx(model, input_shape=model.config.input_shape)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    layers = dict(model.named_modules())
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 8
    for node in convolutions:
        layer = layers[node.name.removesuffix("/Conv")]
        assert isinstance(layer, BinaryConv2d)
        expected = np.where(layer.weight.detach().numpy() >= 0, 1, -1) * np.float32(layer.scale.item())
        np.testing.assert_array_equal(weights[node.input[1]], expected.astype(np.float32))
        assert len(node.input) == 2, "a bias has come from nowhere"


def test_batch_norms_keep_their_constants() -> None:
    model = build("batch_norm_tf_same")
    proto = to_onnx(model, input_shape=model.config.input_shape)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    layers = dict(model.named_modules())
    nodes = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert len(nodes) == len(model.batch_norms()) == 9
    for node in nodes:
        state = layers[node.name.removesuffix("/BatchNormalization")].state_dict()
        channels = len(state["running_mean"])
        constants = [state.get("weight", torch.ones(channels)), state.get("bias", torch.zeros(channels))]
        constants += [state["running_mean"], state["running_var"]]
        for name, constant in zip(node.input[1:], constants, strict=True):
            np.testing.assert_array_equal(weights[name], constant.numpy())


def test_the_file_has_the_promised_header_and_no_trace_of_the_machine(tmp_path: Path) -> None:
    model = build("shifted_relu")
    path = tmp_path / "net.onnx"
    proto = to_onnx(model, path, input_shape=model.config.input_shape)
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    assert written == proto
    assert list(tmp_path.iterdir()) == [path], "one file, no external data"
    assert written.ir_version == IR_VERSION
    assert [(opset.domain, opset.version) for opset in written.opset_import] == [("", OPSET_VERSION)]
    assert {entry.key: entry.value for entry in written.metadata_props} == {"producer": producer()}
    assert [value.name for value in written.graph.input] == ["image"]
    assert [value.name for value in written.graph.output] == ["logits"]
    for value, shape in (
        (written.graph.input[0], ["batch", 1, 10, 8]),
        (written.graph.output[0], ["batch", 10]),
    ):
        tensor = value.type.tensor_type
        assert tensor.elem_type == onnx.TensorProto.FLOAT
        assert [axis.dim_param or axis.dim_value for axis in tensor.shape.dim] == shape
    names = [node.name for node in written.graph.node]
    assert len(set(names)) == len(names) and all(names)
    assert "units.0.conv1/Conv" in names
    assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()


def test_exporting_twice_gives_the_same_bytes() -> None:
    model = build("batch_norm_tf_same")
    first, second = (to_onnx(model, input_shape=model.config.input_shape) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_the_first_export_of_a_process_is_quiet() -> None:
    program = (
        "from bnhw.export.to_onnx import to_onnx\n"
        "from bnhw.export.layers import BinaryConv2d\n"
        "to_onnx(BinaryConv2d(1, 2, 3), input_shape=(1, 4, 4))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


class Awkward(nn.Module):
    """Holds a batch norm, mixed training flags, a frozen parameter, a gradient and a hook."""

    def __init__(self, *, broken: bool) -> None:
        super().__init__()
        self.conv = BinaryConv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.dropout = nn.Dropout(0.5)
        self.broken = broken
        self.calls = 0
        self.norm.eval()
        self.norm.weight.requires_grad_(False)
        self.conv.weight.grad = torch.ones_like(self.conv.weight)

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        if self.broken and image.mean() > 0:  # a branch on values cannot be exported
            raise RuntimeError("never exported")
        logits: Tensor = torch.mean(self.dropout(self.norm(self.conv(image))), dim=(2, 3))
        return logits


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_unaltered_also_when_the_export_fails(
    broken: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = Awkward(broken=broken)
    seen: list[Any] = []
    model.conv.register_forward_hook(lambda *arguments: seen.append(arguments))
    model.register_forward_pre_hook(lambda *arguments: seen.append(arguments))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identities = {name: id(parameter) for name, parameter in model.named_parameters()}
    random_state = torch.random.get_rng_state()
    if broken:
        with pytest.raises(BadInput, match=r"cannot export Awkward for images of shape \(1, 4, 4\)"):
            to_onnx(model, tmp_path / "net.onnx", input_shape=(1, 4, 4))
        assert not list(tmp_path.iterdir())
    else:
        to_onnx(model, tmp_path / "net.onnx", input_shape=(1, 4, 4))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert not seen and model.calls == 0
    assert model.training and not model.norm.training and model.dropout.training
    assert type(model.conv) is BinaryConv2d and len(model.conv._forward_hooks) == 1
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == identities
    assert model.conv.weight.requires_grad and not model.norm.weight.requires_grad
    assert model.conv.weight.grad is not None and bool((model.conv.weight.grad == 1).all())
    assert torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), random_state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("model", [Awkward(broken=False), build("batch_norm_tf_same")])
def test_export_runs_in_eval_mode(model: Awkward | WideResNet) -> None:
    shape = model.config.input_shape if isinstance(model, WideResNet) else (1, 4, 4)
    image = pixels(shape, 3)
    logits = run(to_onnx(model.train(), input_shape=shape), image.numpy())
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(image).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_single_binary_convolution_can_be_exported() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(2, 3, 3, stride=2, padding="tf_same")
    proto = to_onnx(layer, input_shape=(2, 6, 6))
    image = pixels((2, 6, 6), 2)
    np.testing.assert_allclose(run(proto, image.numpy()), layer(image).detach().numpy(), rtol=1e-4, atol=1e-3)
    (node,) = proto.graph.node
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes["pads"] == [0, 0, 1, 1]


def test_non_finite_values_are_named() -> None:
    model = build("batch_norm")
    with torch.no_grad():
        model.stem.weight[0, 0, 0, 0] = torch.nan
        model.batch_norms()[1].state_dict()["running_var"][0] = torch.inf
    with pytest.raises(BadInput, match=r"NaN or infinity in stem\.weight, units\.0\.norm1\.running_var"):
        to_onnx(model, input_shape=model.config.input_shape)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (32, 32), (3, 32, 0), (3, 32.0, 32)])
def test_a_wrong_input_shape_is_refused(shape: Any) -> None:
    with pytest.raises(BadInput, match=r"expected \(channels, height, width\), without the batch"):
        to_onnx(build("shifted_relu"), input_shape=shape)


def test_the_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(BadInput, match="check input_shape"):
        to_onnx(build("batch_norm"), input_shape=(5, 10, 8))


def test_an_unwritable_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be written"):
        to_onnx(build("shifted_relu"), tmp_path / "none" / "net.onnx", input_shape=(1, 10, 8))


@pytest.fixture(scope="module")
def shipped() -> WideResNet:
    return load_wide_resnet(demo.CHECKPOINT)


@pytest.fixture(scope="module")
def digits() -> demo.Digits:
    pytest.importorskip("sklearn", reason="the images of the demo come with scikit-learn")
    return demo.load_digits()


def test_the_shipped_onnx_file_is_the_shipped_checkpoint(shipped: WideResNet, digits: demo.Digits) -> None:
    image = train_digits.as_tensor(digits.test_images).numpy()
    exported = run(to_onnx(shipped, input_shape=shipped.config.input_shape), image)
    np.testing.assert_array_equal(run(onnx.load(demo.ONNX), image), exported)
    with torch.no_grad():
        expected = shipped(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(exported, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(exported.argmax(axis=1), expected.argmax(axis=1))


def test_the_shipped_accuracy_is_what_the_metadata_says(shipped: WideResNet, digits: demo.Digits) -> None:
    metadata = read_metadata(demo.CHECKPOINT)
    correct = train_digits.count_correct(shipped, digits.test_images, digits.test_labels)
    assert (metadata["test_images"], metadata["test_correct"]) == (len(digits.test_images), correct)
    assert correct / len(digits.test_images) >= 0.98


def test_the_shipped_network_has_one_bit_weights_and_no_batch_norm(shipped: WideResNet) -> None:
    assert not shipped.batch_norms()
    assert all(isinstance(layer, BinaryConv2d) for layer in shipped.convolutions())
    assert demo.CHECKPOINT.stat().st_size < 2e6 and demo.ONNX.stat().st_size < 2e6


def test_training_and_test_digits_do_not_overlap(digits: demo.Digits) -> None:
    assert len(digits.train_images) + len(digits.test_images) == 1797
    assert digits.test_images.shape[1:] == (8, 8, 1) and digits.test_images.dtype == np.uint8
    assert digits.train_images.max() == 16
    counts = np.bincount(digits.test_labels, minlength=10)
    assert counts.min() >= 35 and counts.max() <= 37
    train = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in train for image in digits.test_images)


def test_training_starts_to_learn_and_is_repeatable(digits: demo.Digits, tmp_path: Path) -> None:
    few = demo.Digits(
        train_images=digits.train_images[:250],
        train_labels=digits.train_labels[:250],
        test_images=digits.test_images[:50],
        test_labels=digits.test_labels[:50],
    )
    random_state = torch.random.get_rng_state()
    first, second = (train_digits.train_digits(few, epochs=1, seed=7) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    metadata = train_digits.write_demo(first, few, tmp_path, epochs=1, seed=7)
    assert metadata["test_images"] == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.onnx", "digits.safetensors"]


def test_the_learning_rate_falls_along_a_cosine() -> None:
    assert train_digits.cosine_rate(0.0) == 0.1
    assert train_digits.cosine_rate(0.25) == pytest.approx(0.0853567, rel=1e-4)
    assert train_digits.cosine_rate(0.5) == pytest.approx((0.1 + 1e-5) / 2)
    assert train_digits.cosine_rate(1.0) == pytest.approx(1e-5)


def test_shifts_move_by_at_most_one_pixel_and_fill_with_zero() -> None:
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 5, 5)
    image[:, 0, 2, 2] = 1.0
    moved = train_digits.shift_randomly(image)
    assert bool((moved.sum(dim=(1, 2, 3)) == 1).all())
    assert {tuple(place) for place in moved.nonzero()[:, 2:].tolist()} == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}


def test_a_missing_scikit_learn_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match=r"pip install 'bnhw\[demo\]'"):
        demo.load_digits()
