"""Compiled programs stay near the float model, whatever the graph looks like: against onnxruntime, in decibels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnhw.compare import measure_fidelity
from bnhw.compiler import LEAST_AGREEMENT, LEAST_SIGNAL_TO_NOISE_DB, check, compile_model
from bnhw.errors import PassFailed
from bnhw.float_model import float_logits
from bnhw.machine import Machine
from bnhw.options import CompileOptions

pytest.importorskip("torch", reason="the networks are built with torch")

import torch
from torch import nn
from torch.nn import functional

from bnhw.export.layers import BinaryConv2d
from bnhw.export.to_onnx import to_onnx

CHANNELS = 12


class Network(nn.Module):
    """A stem, a body made of `blocks`, and a classifier; batch norms have gains of both signs."""

    def __init__(self, body: Callable[["Network", torch.Tensor], torch.Tensor], classifier_inputs: int) -> None:
        super().__init__()
        self.stem = BinaryConv2d(3, CHANNELS, 3)
        self.convolutions = nn.ModuleList(BinaryConv2d(CHANNELS, CHANNELS, 3) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(5))
        self.joined_norm = nn.BatchNorm2d(2 * CHANNELS)
        self.classifier = nn.Conv2d(classifier_inputs, 5, 1)
        self.body = body

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.norms[4](self.stem(image / 128 - 1))
        logits: torch.Tensor = self.classifier(functional.relu(self.body(self, x))).mean((2, 3))
        return logits

    def branch(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """Pre-activation: batch norm, ReLU, convolution."""
        branch: torch.Tensor = self.convolutions[index](functional.relu(self.norms[index](x)))
        return branch


def two_sums_of_one_operand(net: Network, x: torch.Tensor) -> torch.Tensor:
    first, second = x + net.branch(0, x), x + 4 * net.branch(1, x)
    return net.branch(2, first) + net.branch(3, second)


def sums_that_meet_through_their_operands(net: Network, x: torch.Tensor) -> torch.Tensor:
    y = net.branch(0, x)
    return torch.cat([net.branch(1, x) + y, y + 8 * net.branch(2, x)], 1)


def joined_then_normalised(net: Network, x: torch.Tensor) -> torch.Tensor:
    return functional.relu(net.joined_norm(torch.cat([30 * x, net.branch(0, x)], 1)))


def pooled_then_normalised(net: Network, x: torch.Tensor) -> torch.Tensor:
    return functional.relu(net.norms[0](functional.max_pool2d(net.branch(1, x), 2)))


def plain(net: Network, x: torch.Tensor) -> torch.Tensor:
    return net.branch(1, x + net.branch(0, x))


Body = Callable[[Network, torch.Tensor], torch.Tensor]

BODIES: dict[Body, int] = {
    plain: CHANNELS,
    two_sums_of_one_operand: CHANNELS,
    sums_that_meet_through_their_operands: 2 * CHANNELS,
    joined_then_normalised: 2 * CHANNELS,
    pooled_then_normalised: CHANNELS,
}


def pixels(count: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Smooth random images (count, 8, 8, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (count, 4, 4, 3)).repeat(2, 1).repeat(2, 2)
    return np.asarray(coarse + random.integers(0, 56, (count, 8, 8, 3)), np.uint8)


def trained(body: Body, seed: int) -> Network:
    """A network whose batch norms have seen images."""
    torch.manual_seed(seed)
    net = Network(body, BODIES[body])
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 1.0, 0.6)
            nn.init.normal_(norm.bias, 0.0, 0.3)
    images = torch.from_numpy(pixels(64, seed).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        for _ in range(30):
            net(images)
    return net.eval()


@settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(BODIES)), st.integers(0, 1000))
def test_eight_bits_stay_25_decibels_above_the_noise(
    tmp_path_factory: pytest.TempPathFactory, body: Body, seed: int
) -> None:
    path = tmp_path_factory.mktemp("faithful") / "model.onnx"
    to_onnx(trained(body, seed), path, input_shape=(3, 8, 8))
    program = compile_model(path, pixels(64, seed))
    images = pixels(32, seed + 1)
    result = Machine(program).run(images)
    fidelity = measure_fidelity(result.logits, result.scale, float_logits(path, program, images))
    assert fidelity.signal_to_noise_db > 25


def test_a_program_far_from_its_model_says_so(tmp_path: Path) -> None:
    to_onnx(trained(plain, 0), tmp_path / "model.onnx", input_shape=(3, 8, 8))
    near = compile_model(tmp_path / "model.onnx", pixels(32, 0))
    far = compile_model(tmp_path / "model.onnx", pixels(32, 0), CompileOptions(act_bits=2, input_bits=2))
    assert not [note for note in near.provenance.notes if "dB" in note]
    assert [note for note in far.provenance.notes if "dB from the float model's" in note]


def test_other_classes_than_the_model_are_said_though_the_logits_are_near(tmp_path: Path) -> None:
    """Classes that differ by far less than the logits are large: noise chooses among them."""
    net = trained(plain, 0)
    with torch.no_grad():
        net.classifier.weight.copy_(
            net.classifier.weight[:1].repeat(5, 1, 1, 1) + 1e-5 * torch.randn(5, CHANNELS, 1, 1)
        )
        net.classifier.bias.fill_(1.0)  # type: ignore[union-attr]  # this layer has one
    to_onnx(net, tmp_path / "model.onnx", input_shape=(3, 8, 8))
    program = compile_model(tmp_path / "model.onnx", pixels(32, 0))
    result = Machine(program).run(pixels(32, 0)[:16])
    reals = float_logits(tmp_path / "model.onnx", program, pixels(32, 0)[:16])
    fidelity = measure_fidelity(result.logits, result.scale, reals)
    assert fidelity.signal_to_noise_db >= LEAST_SIGNAL_TO_NOISE_DB
    assert fidelity.agreement < LEAST_AGREEMENT
    (note,) = (note for note in program.provenance.notes if "dB from the float model's" in note)
    assert f"but only {100 * fidelity.agreement:.0f} % of the classes are equal" in note


def test_check_finds_what_only_lowering_refuses(tmp_path: Path) -> None:
    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = BinaryConv2d(3, 4, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.where(self.stem(image) >= 0, 1.0, -1.0).mean((2, 3))

    to_onnx(Averaged(), tmp_path / "model.onnx", input_shape=(3, 8, 8))
    with pytest.raises(PassFailed, match="averages 1-bit activations"):
        check(tmp_path / "model.onnx")


def test_a_model_that_only_rescales_its_image_is_refused(tmp_path: Path) -> None:
    class Rescaled(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.flatten(1) * 2

    to_onnx(Rescaled(), tmp_path / "model.onnx", input_shape=(3, 1, 1))
    with pytest.raises(PassFailed, match="the model has no layer to compile"):
        check(tmp_path / "model.onnx")
