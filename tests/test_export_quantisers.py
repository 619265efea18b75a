"""Quantised activations, power-of-two constants, and the networks made with them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from torch import Tensor, nn  # noqa: E402 - after the skip

from bnhw.dtypes import Array, IntegerType, Quantisation  # noqa: E402 - after the skip
from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.checkpoints import load_wide_resnet, save_checkpoint  # noqa: E402
from bnhw.export.layers import AveragePool3x3, BinaryConv2d, he_standard_deviation  # noqa: E402
from bnhw.export.quantise_aware import quantise_aware  # noqa: E402
from bnhw.export.quantisers import QuantisedActivation, calibrate_quantisers  # noqa: E402
from bnhw.export.to_onnx import to_onnx  # noqa: E402
from bnhw.export.train_digits import fine_tune  # noqa: E402
from bnhw.export.zoo import WideResNet, WideResNetConfig  # noqa: E402
from bnhw.ops import quantise  # noqa: E402

SMALL = WideResNetConfig(
    depth=8, base_width=2, input_channels=1, image_size=(8, 8), input_mean=(120.0,), input_std=(60.0,)
)


def network(config: WideResNetConfig = SMALL) -> WideResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WideResNet(config).eval()


def images(count: int = 8, seed: int = 0) -> Tensor:
    pixels: Tensor = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return pixels.float()


def coding(layer: QuantisedActivation) -> Quantisation:
    dtype = IntegerType(bits=layer.bits, signed=layer.floor is None)
    return Quantisation(dtype=dtype, scale=float(layer.scale), zero_point=layer.zero_point)


@given(
    bits=st.integers(2, 16),
    floor=st.sampled_from((0.0, -1.0, None)),
    exponent=st.integers(0, 5),
    values=st.lists(st.integers(-4096, 4096), min_size=1, max_size=20),
)
def test_codes_are_those_of_the_integer_program(
    bits: int, floor: float | None, exponent: int, values: list[int]
) -> None:
    """On halves of a code, so that every other value is a tie."""
    layer = QuantisedActivation(bits, floor=floor)
    layer.set_scale(2.0 ** -min(exponent, bits - 1))
    x = np.array(values) * coding(layer).scale / 2
    codes = quantise(x, coding(layer))
    expected = (codes - layer.zero_point) * coding(layer).scale
    real = torch.from_numpy(x.astype(np.float32))
    np.testing.assert_array_equal(layer(real).numpy(), expected)
    np.testing.assert_array_equal(layer.materialise()(real).numpy(), expected)


def test_the_saturation_is_the_activation_function() -> None:
    x = torch.linspace(-3, 3, 1001)
    relu, shifted = QuantisedActivation(8, floor=0.0), QuantisedActivation(8, floor=-1.0)
    assert (relu(x) - x.clamp(0, 3)).abs().max() <= relu.scale / 2
    assert (shifted(x) - x.clamp(-1, 3)).abs().max() <= shifted.scale / 2 + 0.02  # the largest code is below 3


def test_the_gradient_passes_between_the_smallest_and_the_largest_code() -> None:
    layer = QuantisedActivation(3, floor=-1.0)
    layer.set_scale(0.5)  # codes for -1 .. 2.5
    x = torch.tensor([-1.5, -0.9, 0.3, 2.2, 4.0], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("floor", [0.0, -1.0, None])
def test_the_fitted_scale_has_the_least_squared_error_of_all_powers_of_two(floor: float | None) -> None:
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 1.7
    layer = QuantisedActivation(4, floor=floor)
    layer.fit(values)
    chosen = float(layer.scale)
    wanted = values if floor is None else values.clamp(min=floor)

    def error(scale: float) -> float:
        layer.set_scale(scale)
        return float(((layer(values) - wanted) ** 2).mean())

    everything = [2.0**-e for e in (range(4) if floor == -1.0 else range(-6, 12))]
    assert error(chosen) == min(error(scale) for scale in everything)


def test_a_quantiser_that_sees_nothing_keeps_its_scale() -> None:
    layer = QuantisedActivation(4, floor=0.0)
    before = float(layer.scale)
    layer.fit(-torch.ones(5))
    assert float(layer.scale) == before


@pytest.mark.parametrize("scale", [0.3, -0.5, 0.0, float("nan"), float("inf"), 2.0, 1 / 16])
def test_scales_that_no_integer_zero_point_fits_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"for codes 0..15; expected a power of two from 1/8 to 1"):
        QuantisedActivation(4, floor=-1.0).set_scale(scale)


def test_widths_and_floors_that_are_no_quantiser_are_refused() -> None:
    with pytest.raises(ValueError, match="bits is 1; expected 2 to 24"):
        QuantisedActivation(1, floor=0.0)
    with pytest.raises(ValueError, match="floor is -2; expected 0"):
        QuantisedActivation(4, floor=-2)


def test_calibration_shows_each_quantiser_what_the_ones_before_it_have_rounded() -> None:
    first, second = QuantisedActivation(2, floor=0.0), QuantisedActivation(8, floor=0.0)
    model = nn.Sequential(first, second)
    calibrate_quantisers(model, torch.rand(64, generator=torch.Generator().manual_seed(0)) * 3)
    assert float(second.scale) == 2.0**-6  # its input reaches 3, in steps of 1: two bits would do, 8 lose nothing
    assert not first._forward_pre_hooks


@pytest.mark.parametrize("shape", [(16, 16, 3), (64, 64, 3), (10, 64, 1), (8, 1, 3)])
def test_weight_scale_pow2_is_the_power_of_two_nearest_in_ratio(shape: tuple[int, int, int]) -> None:
    out, channels, kernel = shape
    layer = BinaryConv2d(channels, out, kernel, weight_scale="pow2")
    he = he_standard_deviation(layer.weight.shape)
    assert np.frexp(float(layer.scale))[0] == 0.5
    assert 2**-0.5 <= float(layer.scale) / he <= 2**0.5
    assert set(layer.effective_weight().abs().flatten().tolist()) == {float(layer.scale)}


@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_pool_divisor_pow2_is_an_exact_sum_and_a_shift(padding: str, size: tuple[int, int]) -> None:
    x = torch.randint(-(2**15), 2**15, (2, 3, *size), generator=torch.Generator().manual_seed(0)).float()
    pooled = AveragePool3x3(padding=padding, divisor="pow2")(x)  # type: ignore[arg-type]  # one of the two literals
    same = AveragePool3x3(padding=padding)(x)  # type: ignore[arg-type]
    assert pooled.shape == same.shape
    kernel = torch.ones(3, 1, 3, 3, dtype=torch.float64)
    ones = torch.ones(1, 1, *size)
    counts = AveragePool3x3(padding=padding, divisor="pow2")(ones) * 8  # type: ignore[arg-type]
    sums = torch.round(same.double() * counts.double())
    assert kernel.sum() == 27
    assert torch.equal(pooled.double() * 8, sums)


CONFIGS = {
    "shifted_relu": SMALL,
    "batch_norm": replace(SMALL, normalisation="batch_norm", batch_norm_affine=True, input_relu=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_quantised_network_comes_back_from_its_checkpoint_bit_for_bit(name: str, tmp_path: Path) -> None:
    aware = quantise_aware(network(CONFIGS[name]), images(), bits=3, input_bits=6, residual_bits=12)
    for signs_only in (False, True):
        save_checkpoint(aware, tmp_path / "net.safetensors", signs_only=signs_only)
        loaded = load_wide_resnet(tmp_path / "net.safetensors")
        assert loaded.config == aware.config
        assert (loaded.config.act_bits, loaded.config.input_bits, loaded.config.residual_bits) == (3, 6, 12)
        assert torch.equal(loaded(images()), aware(images()))


def test_configurations_of_the_first_checkpoints_still_load() -> None:
    values = SMALL.to_json()
    for name in ("weight_scale", "pool_divisor", "act_bits", "input_bits", "residual_bits"):
        del values[name]
    assert WideResNetConfig.from_json(values) == SMALL
    del values["padding"]
    with pytest.raises(BadInput, match="field 'padding' is missing"):
        WideResNetConfig.from_json(values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("act_bits", 1, "act_bits is 1, expected None or an integer from 2 to 8"),
        ("act_bits", 4.0, "act_bits is 4.0, expected None or an integer"),
        ("input_bits", None, "input_bits is None, expected an integer from 2 to 12"),
        ("residual_bits", 25, "residual_bits is 25, expected an integer from 8 to 24"),
        ("weight_scale", "xavier", "weight_scale is 'xavier', expected one of he, pow2"),
        ("pool_divisor", 8, "pool_divisor is 8, expected one of pixels, pow2"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(SMALL, **{field: value})  # type: ignore[arg-type]  # wrong types on purpose


@pytest.mark.parametrize("name", CONFIGS)
def test_quantise_aware_keeps_the_network_and_takes_its_signs(name: str) -> None:
    original = network(CONFIGS[name])
    before = {key: value.clone() for key, value in original.state_dict().items()}
    aware = quantise_aware(original, images(), bits=4)
    assert not aware.training
    assert all(torch.equal(value, before[key]) for key, value in original.state_dict().items())
    for mine, theirs in zip(aware.convolutions(), original.convolutions(), strict=True):
        assert torch.equal(mine.weight, theirs.weight)
    assert {float(np.frexp(float(b))[0]) for key, b in aware.named_buffers() if key.endswith("scale")} == {0.5}


def test_without_powers_of_two_constants_stay_and_many_bits_change_little() -> None:
    original = network()
    aware = quantise_aware(original, images(), bits=8, input_bits=12, power_of_two=False)
    assert aware.config.weight_scale == "he"
    noise = (aware(images(seed=1)) * aware.config.temperature - original(images(seed=1)) * SMALL.temperature).std()
    assert noise < 0.1 * original(images(seed=1)).std() * SMALL.temperature


def test_pooled_shortcuts_share_one_scale_with_room_for_the_whole_stream() -> None:
    aware = quantise_aware(network(), images(), bits=4, residual_bits=12)
    scales = {float(b) for key, b in aware.named_buffers() if key.endswith("pool_quantiser.scale")}
    (scale,) = scales
    stream: list[float] = []
    for unit in aware.units:
        unit.register_forward_hook(lambda module, inputs, output: stream.append(float(output.detach().abs().max())))
    aware(images())
    assert max(stream) * 2 < scale * 2047 < max(stream) * 16


def test_few_bits_lower_the_temperature_to_a_power_of_two() -> None:
    trained = network(replace(SMALL, temperature=5000.0))
    aware = quantise_aware(trained, images(), bits=2)
    assert np.frexp(aware.config.temperature)[0] == 0.5
    assert 0.5 < float(aware(images()).std()) < 2
    assert quantise_aware(network(replace(SMALL, temperature=0.001)), images(), bits=4).config.temperature == 0.001


def test_a_network_whose_stream_is_empty_or_infinite_is_refused() -> None:
    dead = network(replace(SMALL, weights="float"))
    with torch.no_grad():
        for convolution in dead.convolutions():
            convolution.weight.zero_()
    with pytest.raises(BadInput, match=r"the residual stream reaches 0.0 on the images; use a trained network"):
        quantise_aware(dead, images())


@pytest.mark.parametrize("name", CONFIGS)
def test_export_uses_standard_operations_only(name: str) -> None:
    proto = to_onnx(quantise_aware(network(CONFIGS[name]), images()), input_shape=(1, 8, 8))
    assert {node.domain for node in proto.graph.node} == {""}
    counts = Counter(node.op_type for node in proto.graph.node)
    assert counts["Floor"] == 1 + 2 * 3 + 1 + 2  # input, two a unit, the last, pooled shortcuts
    assert counts["Div"] + counts["Mul"] >= 2 * counts["Floor"]


def test_fine_tuning_trains_a_copy_and_repeats_itself() -> None:
    pixels: Array = images(125).numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    labels = np.arange(125).astype(np.uint8) % 10
    aware = quantise_aware(network(), images(), bits=2)
    before = aware.stem.weight.clone()
    state = torch.get_rng_state()
    first, second = (fine_tune(aware, pixels, labels, epochs=1, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(aware.stem.weight, before)
    assert not torch.equal(first.stem.weight, before)
    assert not first.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(BadInput, match="epochs is 0; expected at least 1"):
        fine_tune(aware, pixels, labels, epochs=0, seed=0)
