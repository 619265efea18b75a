"""The papers' normalisations against their equations in plain arithmetic, their places and roles."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from torch import Tensor, nn  # noqa: E402 - after the skip

from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.layers import BinaryConv2d, Conv2d, InputNormalisation, ShiftedReLU, Temperature  # noqa: E402
from bnhw.export.normalisation_layers import (  # noqa: E402
    AffineLayer,
    InputBatchNorm2d,
    InstanceScaledBatchNorm2d,
    MeanOnlyBatchNorm2d,
    OuterGainBatchNorm2d,
    SigmoidGainBatchNorm2d,
    TwoGainBatchNorm2d,
    WeightNormConv2d,
)
from bnhw.export.normalisations import (  # noqa: E402
    BATCH_NORM_KINDS,
    PARAMETER_ROLES,
    SCALED_KINDS,
    Normalisation,
    NormalisationConfig,
    ParameterRole,
    Position,
    Weights,
    make_activation,
    make_convolution,
    make_dropout,
    make_normalisation,
    roles_of_parameters,
)

N = Normalisation
SHAPE = (5, 3, 4, 6)
EPSILON = 1e-3
GAIN, SHIFT, WEIGHT = ParameterRole.GAIN, ParameterRole.SHIFT, ParameterRole.WEIGHT

Floats = npt.NDArray[np.float64]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config_of(kind: Normalisation, **changes: Any) -> NormalisationConfig:
    return replace(NormalisationConfig(kind=kind, gain=0.25 if kind in SCALED_KINDS else 1.0), **changes)


def features(seed: int = 0) -> Tensor:
    values: Tensor = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 3 + 1
    return values


def scrambled(module: nn.Module, seed: int = 1) -> nn.Module:
    """The same module with other learned values and statistics than the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) * 3 + 0.1)
    return module


def wide(values: Tensor) -> Floats:
    """float64, and one number a channel in the shape of features."""
    array: Floats = values.detach().double().numpy()
    return array.reshape(1, -1, 1, 1) if array.ndim == 1 else array


def normalise(module: Any, x: Floats) -> Floats:
    """X^ in evaluation or in training (paper 3, equations 1 to 3)."""
    if module.training:
        axes = (0, 2, 3)
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    else:
        mean, variance = wide(module.running_mean), wide(module.running_var)
    result: Floats = (x - mean) / np.sqrt(variance + module.eps)
    return result


def sigmoid(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-x))
    return result


def expected_of(kind: Normalisation, m: Any, x: Floats) -> Floats:
    """The equation of each kind, written out."""
    match kind:
        case N.BATCH_NORM | N.SCALED:
            return wide(m.weight) * normalise(m, x) + wide(m.bias)
        case N.BATCH_NORM_MINUS:
            return normalise(m, x)
        case N.SCALED_A1:
            return wide(m.gain) * (normalise(m, x) + wide(m.shift))
        case N.SCALED_A2:
            return wide(m.gain) * (wide(m.inner_gain) * normalise(m, x) + wide(m.shift))
        case N.RBN_MINUS | N.IEBN_MINUS:
            return wide(m.gain) * sigmoid(wide(m.sigmoid_shift)) * normalise(m, x) + wide(m.shift)
        case N.RBN | N.IEBN:
            means = (normalise(m, x) if kind is N.RBN else x).mean((2, 3), keepdims=True)
            scale = sigmoid(wide(m.sigmoid_gain) * means + wide(m.sigmoid_shift))
            return wide(m.gain) * scale * normalise(m, x) + wide(m.shift)
        case N.AFFINE:
            return wide(m.gain) * x + wide(m.shift)
    raise AssertionError(kind)


NORMS = [*sorted(BATCH_NORM_KINDS), N.AFFINE]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_computes_the_equation_of_its_paper(kind: Normalisation, training: bool) -> None:
    module = make_normalisation(config_of(kind, epsilon=EPSILON), SHAPE[1], position=Position.HIDDEN)
    scrambled(module).train(training)
    x = features()
    expected = expected_of(kind, module, wide(x))  # before the running statistics move
    np.testing.assert_allclose(wide(module(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_every_learned_value_has_a_gradient(kind: Normalisation) -> None:
    module = make_normalisation(config_of(kind), SHAPE[1], position=Position.BRANCH).train()
    x = features().requires_grad_()
    (module(x) * features(2)).sum().backward()
    for name, tensor in [*module.named_parameters(), ("input", x)]:
        assert tensor.grad is not None and bool((tensor.grad != 0).any()), name


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        (N.BATCH_NORM, 1.0),
        (N.BATCH_NORM_MINUS, 1.0),
        (N.SCALED, 0.25),
        (N.SCALED_A1, 0.25),
        (N.SCALED_A2, 0.25),
        (N.RBN, 0.731),
        (N.RBN_MINUS, 0.731),
        (N.IEBN, 0.269),
        (N.IEBN_MINUS, 0.269),
    ],
)
def test_the_initial_scale_is_that_of_the_paper(kind: Normalisation, scale: float) -> None:
    module: Any = make_normalisation(config_of(kind), SHAPE[1], position=Position.HIDDEN).train()
    x = features()
    np.testing.assert_allclose(wide(module(x)), scale * normalise(module, wide(x)), rtol=1e-3, atol=1e-5)


def test_the_input_batch_norm_begins_at_058_of_the_gain_and_has_no_shift() -> None:
    module: Any = make_normalisation(config_of(N.SCALED, input="batch_norm"), 3, position=Position.INPUT).train()
    x = features()
    np.testing.assert_allclose(wide(module(x)), 0.58 * 0.25 * normalise(module, wide(x)), rtol=1e-3, atol=1e-5)
    assert [name for name, _ in module.named_parameters()] == ["gain"]


@pytest.mark.parametrize("training", [False, True])
def test_mean_only_subtracts_the_mean_and_learns_nothing(training: bool) -> None:
    module = scrambled(MeanOnlyBatchNorm2d(SHAPE[1])).train(training)
    x = features()
    before = wide(module.running_mean)  # type: ignore[arg-type]  # torch types attributes of modules loosely
    mean = wide(x).mean((0, 2, 3), keepdims=True) if training else before
    np.testing.assert_allclose(wide(module(x)), wide(x) - mean, rtol=1e-5, atol=1e-5)
    assert not list(module.parameters())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_running_mean_of_mean_only_is_that_of_torchs_batch_norm(momentum: float | None) -> None:
    ours, theirs = MeanOnlyBatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum, affine=False)
    for seed in range(4):
        ours(features(seed)), theirs(features(seed))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    assert ours.num_batches_tracked == theirs.num_batches_tracked
    ours.reset_running_stats()
    assert ours.num_batches_tracked == 0 and not ours.running_mean.any()


FOLDABLE = [N.SCALED_A1, N.SCALED_A2, N.RBN_MINUS, N.IEBN_MINUS, N.RBN, N.IEBN]


@pytest.mark.parametrize("kind", FOLDABLE)
def test_the_materialised_form_is_the_same_function(kind: Normalisation) -> None:
    module: Any = make_normalisation(config_of(kind), SHAPE[1], position=Position.HIDDEN)
    scrambled(module).eval()
    torch.testing.assert_close(module.materialise()(features()), module(features()), rtol=1e-4, atol=1e-5)
    assert not module.materialise().training


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 2, st.sampled_from([1, 3])),
    groups=st.integers(1, 2),
    binary=st.booleans(),
    seed=st.integers(0, 99),
)
def test_normalised_weights_have_the_norm_g_and_the_direction_of_v(
    shape: tuple[int, int, int], groups: int, binary: bool, seed: int
) -> None:
    outputs, inputs, kernel = shape
    layer = WeightNormConv2d(inputs * groups, outputs * groups, kernel, groups=groups, binary=binary)
    layer = scrambled(layer, seed)  # type: ignore[assignment]
    v, w, g = (t.detach().double().numpy() for t in (layer.weight, layer.effective_weight(), layer.gain))
    direction = np.where(v >= 0, 1.0, -1.0) if binary else v
    for channel in range(outputs * groups):
        assert math.isclose(np.linalg.norm(w[channel]), abs(g[channel]), rel_tol=1e-5)
        expected = g[channel] * direction[channel] / np.linalg.norm(direction[channel])
        np.testing.assert_allclose(w[channel], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", ["float", "1bit"])
def test_weight_norm_begins_with_the_weights_of_the_plain_convolution(weights: Weights) -> None:
    layers = []
    for kind in (N.WEIGHT_NORM, N.NONE):
        torch.manual_seed(3)
        layers.append(make_convolution(config_of(kind), 4, 6, 3, weights=weights, groups=2))
    normalised, plain = layers
    torch.testing.assert_close(normalised.effective_weight(), plain.effective_weight())
    torch.testing.assert_close(normalised(torch.ones(1, 4, 5, 5)), plain(torch.ones(1, 4, 5, 5)))
    assert normalised.bias is not None and plain.bias is None


@pytest.mark.parametrize("binary", [False, True])
def test_weight_norm_learns_direction_length_and_bias(binary: bool) -> None:
    layer = WeightNormConv2d(3, 4, 3, binary=binary)
    (layer(features()) * torch.randn(5, 4, 4, 6)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).all()), name
    if not binary:  # the loss does not change along v, so its gradient is at right angles to v
        assert layer.weight.grad is not None
        along = (layer.weight * layer.weight.grad).flatten(1).sum(1)
        torch.testing.assert_close(along, torch.zeros(4), rtol=0, atol=1e-4)


def test_one_bit_weight_norm_has_two_values_a_channel_and_can_begin_at_a_power_of_two() -> None:
    layer = make_convolution(config_of(N.WEIGHT_NORM), 3, 4, 3, weights="1bit", weight_scale="pow2")
    assert set(layer.effective_weight().abs().flatten().tolist()) == {0.25}  # sqrt(2 / 27) is 0.272
    scrambled(layer)
    assert all(len(set(channel.abs().flatten().tolist())) == 1 for channel in layer.effective_weight())


PLACES: list[tuple[Normalisation, Any, Any, Any]] = [
    # HIDDEN with ReLU, BRANCH, FINAL
    (N.BATCH_NORM, (nn.BatchNorm2d, nn.ReLU), nn.BatchNorm2d, nn.BatchNorm2d),
    (N.BATCH_NORM_MINUS, (nn.BatchNorm2d, nn.ReLU), nn.BatchNorm2d, nn.BatchNorm2d),
    (N.FINAL_ONLY, ShiftedReLU, nn.Identity, nn.BatchNorm2d),
    (N.MEAN_ONLY, ShiftedReLU, nn.Identity, (MeanOnlyBatchNorm2d, Temperature)),
    (N.AFFINE, (AffineLayer, nn.ReLU), AffineLayer, AffineLayer),
    (N.NONE, nn.ReLU, nn.Identity, nn.Identity),
    (N.SHIFTED_RELU, ShiftedReLU, nn.Identity, Temperature),
    (N.ELU, nn.ELU, nn.Identity, Temperature),
    (N.SCALED, (nn.BatchNorm2d, nn.ReLU), nn.BatchNorm2d, nn.BatchNorm2d),
    (N.SCALED_A1, (OuterGainBatchNorm2d, nn.ReLU), OuterGainBatchNorm2d, OuterGainBatchNorm2d),
    (N.SCALED_A2, (TwoGainBatchNorm2d, nn.ReLU), TwoGainBatchNorm2d, TwoGainBatchNorm2d),
    (N.RBN, (InstanceScaledBatchNorm2d, nn.ReLU), InstanceScaledBatchNorm2d, InstanceScaledBatchNorm2d),
    (N.RBN_MINUS, (SigmoidGainBatchNorm2d, nn.ReLU), SigmoidGainBatchNorm2d, SigmoidGainBatchNorm2d),
    (N.IEBN, (InstanceScaledBatchNorm2d, nn.ReLU), InstanceScaledBatchNorm2d, InstanceScaledBatchNorm2d),
    (N.IEBN_MINUS, (SigmoidGainBatchNorm2d, nn.ReLU), SigmoidGainBatchNorm2d, SigmoidGainBatchNorm2d),
    (N.WEIGHT_NORM, nn.ReLU, nn.Identity, nn.Identity),
]


def kinds_of(module: nn.Module) -> Any:
    return tuple(type(part) for part in module) if isinstance(module, nn.Sequential) else type(module)


@pytest.mark.parametrize(("kind", "hidden", "branch", "final"), PLACES)
def test_each_kind_stands_where_its_paper_puts_it(kind: Normalisation, hidden: Any, branch: Any, final: Any) -> None:
    config = config_of(kind)
    assert kinds_of(make_normalisation(config, 4, position=Position.HIDDEN, activation="relu")) == hidden
    assert kinds_of(make_normalisation(config, 4, position=Position.BRANCH)) == branch
    assert kinds_of(make_normalisation(config, 4, position=Position.FINAL)) == final


def test_the_table_of_places_has_every_kind() -> None:
    assert [kind for kind, *_ in PLACES] == list(Normalisation)


def test_relu6_stays_relu6_unless_the_kind_has_another_activation_function() -> None:
    assert isinstance(make_activation(config_of(N.BATCH_NORM), "relu6"), nn.ReLU6)
    assert isinstance(make_activation(config_of(N.SHIFTED_RELU), "relu6"), ShiftedReLU)


def test_an_activation_function_belongs_to_a_hidden_place_only() -> None:
    with pytest.raises(ValueError, match=r"expected one at Position\.HIDDEN only"):
        make_normalisation(config_of(N.NONE), 4, position=Position.BRANCH, activation="relu")


@pytest.mark.parametrize(
    ("changes", "module"),
    [
        ({"input": "fixed"}, InputNormalisation),
        ({"input": "offline", "input_mean": (1.0, 2.0, 3.0), "input_std": (1.0, 1.0, 2.0)}, InputNormalisation),
        ({"input": "batch_norm"}, InputBatchNorm2d),
        ({"input": "batch_norm_minus"}, nn.BatchNorm2d),
        ({"input": "none"}, nn.Identity),
    ],
)
def test_the_image_is_normalised_as_asked(changes: dict[str, Any], module: type[nn.Module]) -> None:
    found = make_normalisation(config_of(N.NONE, **changes), 3, position=Position.INPUT)
    assert type(found) is module
    assert found(features()).shape == SHAPE


def test_fixed_input_normalisation_maps_pixels_to_minus_one_to_one() -> None:
    module = make_normalisation(config_of(N.NONE), 1, position=Position.INPUT)
    assert module(torch.tensor([0.0, 128.0, 256.0]).reshape(1, 1, 1, 3)).flatten().tolist() == [-1, 0, 1]


def test_dropout_is_there_in_training_only() -> None:
    assert isinstance(make_dropout(config_of(N.WEIGHT_NORM)), nn.Identity)
    layer = make_dropout(config_of(N.WEIGHT_NORM, dropout=0.5))
    ones = torch.ones(1000)
    assert set(layer(ones).tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(ones), ones)


ROLES = {
    N.BATCH_NORM: {"norm.weight": GAIN, "norm.bias": SHIFT},
    N.AFFINE: {"norm.gain": GAIN, "norm.shift": SHIFT},
    N.SCALED: {"norm.weight": GAIN, "norm.bias": SHIFT},
    N.SCALED_A1: {"norm.gain": GAIN, "norm.shift": SHIFT},
    N.SCALED_A2: {"norm.gain": GAIN, "norm.shift": SHIFT, "norm.inner_gain": GAIN},
    N.RBN: {"norm.gain": GAIN, "norm.shift": SHIFT, "norm.sigmoid_gain": GAIN, "norm.sigmoid_shift": SHIFT},
    N.RBN_MINUS: {"norm.gain": GAIN, "norm.shift": SHIFT, "norm.sigmoid_shift": SHIFT},
    N.IEBN: {"norm.gain": GAIN, "norm.shift": SHIFT, "norm.sigmoid_gain": GAIN, "norm.sigmoid_shift": SHIFT},
    N.IEBN_MINUS: {"norm.gain": GAIN, "norm.shift": SHIFT, "norm.sigmoid_shift": SHIFT},
}


@pytest.mark.parametrize("weights", ["float", "1bit"])
@pytest.mark.parametrize("kind", Normalisation)
def test_every_parameter_has_its_role(kind: Normalisation, weights: Weights) -> None:
    config = config_of(kind, input="batch_norm")
    model = nn.ModuleDict(
        {
            "input": make_normalisation(config, 3, position=Position.INPUT),
            "conv": make_convolution(config, 3, 4, 3, weights=weights),
            "norm": make_normalisation(config, 4, position=Position.HIDDEN),
            "linear": nn.Linear(4, 2),
        }
    )
    convolution = {"conv.weight": WEIGHT}
    if kind is N.WEIGHT_NORM:
        convolution |= {"conv.bias": SHIFT, "conv.gain": GAIN}
    expected = {"input.gain": GAIN, **convolution, **ROLES.get(kind, {}), "linear.weight": WEIGHT, "linear.bias": SHIFT}
    assert roles_of_parameters(model) == expected
    assert list(roles_of_parameters(model)) == [name for name, _ in model.named_parameters()]


def test_a_parameter_of_an_unknown_module_is_refused() -> None:
    with pytest.raises(BadInput, match=r"0\.weight of PReLU; add their modules to PARAMETER_ROLES"):
        roles_of_parameters(nn.Sequential(nn.PReLU()))


def test_subclasses_stand_before_their_bases_in_the_table_of_roles() -> None:
    classes = [kind for kind, _ in PARAMETER_ROLES]
    for later, kind in enumerate(classes):
        assert not any(issubclass(kind, earlier) for earlier in classes[:later]), kind


@pytest.mark.parametrize(("weights", "expected"), [("float", Conv2d), ("1bit", BinaryConv2d)])
def test_convolutions_without_weight_norm_are_the_plain_ones(weights: Weights, expected: type[nn.Module]) -> None:
    layer = make_convolution(config_of(N.NONE), 4, 6, 3, weights=weights, stride=2, groups=2, padding="tf_same")
    assert type(layer) is expected
    assert layer(torch.zeros(1, 4, 7, 8)).shape == (1, 6, 4, 4)
