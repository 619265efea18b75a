"""Layers of `bnhw.export`: signs, gradients, scales, padding and pooling against slow references."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.export.layers import (  # noqa: E402 - after the skip
    AveragePool3x3,
    BinaryConv2d,
    Conv2d,
    InputNormalisation,
    Padding,
    ShiftedReLU,
    Temperature,
    bipolar,
    he_standard_deviation,
    sign_straight_through,
    zero_padding,
)

Array = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float32]

no_deadline = settings(deadline=None)  # the first call pays for torch's start
FLOATS = hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32))
SIZES = [1, 2, 3, 4, 5, 7, 8]


@no_deadline
@given(FLOATS, FLOATS)
def test_straight_through_gradient_is_the_identity_bit_for_bit(weight: Floats, gradient: Floats) -> None:
    w = torch.from_numpy(weight).requires_grad_()
    torch.autograd.backward(sign_straight_through(w), torch.from_numpy(gradient))
    assert w.grad is not None
    assert w.grad.numpy().tobytes() == gradient.tobytes()


@no_deadline
@given(FLOATS)
def test_sign_is_bipolar_with_zero_positive(weight: Floats) -> None:
    expected = np.array([[1.0 if value >= 0 else -1.0 for value in row] for row in weight], dtype=np.float32)
    np.testing.assert_array_equal(sign_straight_through(torch.from_numpy(weight)).numpy(), expected)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_sign_of_either_zero_is_plus_one(zero: float) -> None:
    assert bipolar(torch.tensor([zero])).item() == 1.0


def test_scale_is_the_he_standard_deviation_of_the_fan_in() -> None:
    assert he_standard_deviation((160, 3, 3, 3)) == math.sqrt(2 / 27)
    assert BinaryConv2d(160, 320, 3).scale.item() == np.float32(math.sqrt(2 / (9 * 160)))
    assert BinaryConv2d(640, 10, 1).scale.item() == np.float32(math.sqrt(2 / 640))
    assert BinaryConv2d(12, 6, 3, groups=3).scale.item() == np.float32(math.sqrt(2 / (9 * 4)))


def test_initial_weights_have_the_he_standard_deviation() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(64, 64, 3)
    assert layer.weight.std().item() == pytest.approx(layer.scale.item(), rel=0.02)
    assert abs(layer.weight.mean().item()) < 0.02 * layer.scale.item()


def test_unknown_weight_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_scale is 'nothing'; expected one of he"):
        BinaryConv2d(1, 1, 1, weight_scale="nothing")


def test_gradient_of_the_weight_is_that_of_the_effective_weight_times_scale() -> None:
    torch.manual_seed(1)
    image = torch.randn(2, 3, 5, 6)
    binary = BinaryConv2d(3, 4, 3, stride=2, padding="tf_same")
    plain = binary.materialise()
    torch.square(binary(image)).sum().backward()
    torch.square(plain(image)).sum().backward()
    assert binary.weight.grad is not None and plain.weight.grad is not None
    torch.testing.assert_close(binary.weight.grad, plain.weight.grad * binary.scale)


def test_materialised_weights_have_two_values_and_the_same_outputs() -> None:
    layer = BinaryConv2d(4, 6, 3, groups=2)
    plain = layer.materialise()
    scale = layer.scale.item()
    assert set(plain.weight.flatten().tolist()) == {-scale, scale}
    assert type(plain) is Conv2d
    image = torch.randn(1, 4, 5, 5)
    assert torch.equal(plain(image), layer(image))


@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(size, SIZES[-1 - i]) for i, size in enumerate(SIZES)])
def test_convolution_equals_the_slow_reference(padding: Padding, stride: int, height: int, width: int) -> None:
    torch.manual_seed(2)
    layer = BinaryConv2d(3, 2, 3, stride=stride, padding=padding)
    image = torch.randint(-8, 8, (2, 3, height, width)).float()
    signs = np.where(layer.weight.detach().numpy() >= 0, 1.0, -1.0)
    expected = _slow_windows(image.numpy(), stride, padding, lambda taps: np.einsum("nihw,oihw->no", taps, signs))
    np.testing.assert_allclose(layer(image).detach().numpy(), expected * layer.scale.item(), atol=1e-5)


@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("height", SIZES)
@pytest.mark.parametrize("width", SIZES)
def test_average_pool_divides_by_the_pixels_inside(padding: Padding, height: int, width: int) -> None:
    torch.manual_seed(3)
    image = torch.randint(0, 100, (2, 3, height, width)).double()
    counts = _slow_windows(np.ones((2, 3, height, width)), 2, padding, lambda taps: taps.sum(axis=(2, 3)))
    sums = _slow_windows(image.numpy(), 2, padding, lambda taps: taps.sum(axis=(2, 3)))
    pooled = AveragePool3x3(padding=padding)(image).numpy()
    assert pooled.shape == (2, 3, -(-height // 2), -(-width // 2))
    np.testing.assert_allclose(pooled, sums / counts, rtol=1e-12)


def _slow_windows(image: Array, stride: int, padding: Padding, value: Callable[[Array], Array]) -> Array:
    """Apply `value` to every 3 x 3 window (N, C, 3, 3); what lies outside the image is 0.

    The first pixel of the window of output k is written out here for each rule, not taken from the layers.
    """
    height, width = image.shape[2:]
    first = [0, 0]
    for axis, size in enumerate((height, width)):
        even_strided = padding == "tf_same" and stride == 2 and size % 2 == 0
        first[axis] = 0 if even_strided else -1
    rows = []
    for y in range(-(-height // stride)):
        row = []
        for x in range(-(-width // stride)):
            taps = np.zeros((*image.shape[:2], 3, 3))
            for dy in range(3):
                for dx in range(3):
                    source_y, source_x = stride * y + first[0] + dy, stride * x + first[1] + dx
                    if 0 <= source_y < height and 0 <= source_x < width:
                        taps[:, :, dy, dx] = image[:, :, source_y, source_x]
            row.append(value(taps))
        rows.append(np.stack(row, axis=-1))
    return np.stack(rows, axis=-2)


@given(size=st.integers(1, 100), kernel=st.integers(1, 7), stride=st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_tf_same_padding_is_the_least_that_gives_the_outputs(size: int, kernel: int, stride: int) -> None:
    before, after = zero_padding(size, kernel=kernel, stride=stride, padding="tf_same")
    outputs = math.ceil(size / stride)
    assert after - before in (0, 1)
    assert (size + before + after - kernel) // stride + 1 >= outputs
    if before + after > 0:
        assert (size + before + after - 1 - kernel) // stride + 1 < outputs


def test_tf_same_pads_an_even_size_after_only() -> None:
    assert zero_padding(32, kernel=3, stride=2, padding="tf_same") == (0, 1)
    assert zero_padding(31, kernel=3, stride=2, padding="tf_same") == (1, 1)
    assert zero_padding(32, kernel=3, stride=2, padding="symmetric") == (1, 1)


@no_deadline
@given(FLOATS)
def test_shifted_relu_is_the_maximum_with_minus_one(x: Floats) -> None:
    np.testing.assert_array_equal(ShiftedReLU()(torch.from_numpy(x)).numpy(), np.maximum(x, np.float32(-1)))


def test_temperature_divides() -> None:
    assert torch.equal(Temperature(50.0)(torch.tensor([100.0, -25.0])), torch.tensor([2.0, -0.5]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperature_must_be_positive_and_finite(temperature: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number above 0"):
        Temperature(temperature)


def test_input_normalisation_is_fixed_and_per_colour() -> None:
    layer = InputNormalisation((10.0, 100.0), (2.0, 50.0))
    image = torch.tensor([[[[14.0]], [[50.0]]]])
    assert layer(image).flatten().tolist() == [2.0, -1.0]
    assert not list(layer.parameters()) and not layer.state_dict()


@pytest.mark.parametrize(("mean", "std"), [((1.0,), (1.0, 2.0)), ((1.0,), (0.0,)), ((1.0,), (math.nan,))])
def test_impossible_input_normalisation_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must have equal lengths"):
        InputNormalisation(mean, std)
