"""The coding that each quantise point gets: the cases of `bnhw.passes.scales`."""

from dataclasses import replace

import numpy as np
import pytest
from graph_helpers import affine, chain
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model_strategies import small_network
from pass_helpers import CONV, PADDED_POOL, RELU, SHIFT, SHIFTED, convolution, images, only, placed

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Attributes, Graph
from bnhw.importer import import_onnx
from bnhw.monotone import Function
from bnhw.ops import (
    Activation,
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Quantise,
    QuantisePoint,
    Role,
    Sign,
    Window,
)
from bnhw.options import EXACT_DIGITS, CompileOptions, RequantiseMode
from bnhw.passes.calibrate import Calibration, Moments, Observed
from bnhw.passes.codings import LOGIT_BITS
from bnhw.passes.histogram import BINS, Histogram, reach_of
from bnhw.passes.pipeline import quantise_graph
from bnhw.passes.scales import ChooseScales
from bnhw.verify import check_graph, evaluate, evaluate_outputs

WHOLE = CompileOptions(ranges="min-max")
"""Every value that calibration saw is held."""


def seen(low: float, high: float) -> Observed:
    """What calibration keeps of values spread evenly over [low, high]."""
    reach = reach_of(max(-low, high))
    counts, _ = np.histogram(np.linspace(low, high, 4001), BINS, (-reach, reach))
    return Observed(low=low, high=high, histogram=Histogram(reach=reach, counts=counts))


def spread(graph: Graph, high: float) -> Calibration:
    """What calibration keeps where the one activation of a graph is spread evenly over [0, high]."""
    ((group, point),) = [
        (node.attributes.group, node.output)
        for node in graph.nodes
        if isinstance(node.attributes, QuantisePoint) and node.attributes.role is Role.ACTIVATION
    ]
    each = np.ones(2)
    moments = Moments(share=each, mean=high / 2 * each, variance=high**2 / 12 * each)
    return Calibration(groups={group: seen(0.0, high)}, points={point: moments})


def quantised(
    *nodes: Attributes | tuple[str, Attributes, tuple[str, ...]],
    shape: tuple[int, int, int] = (2, 4, 4),
    options: CompileOptions = WHOLE,
    factor: float = 1.0,
) -> dict[str, Quantisation]:
    """The coding that each point gets, by the value that it reads."""
    graph = chain(*nodes, shape=shape)
    result = quantise_graph(graph, options, factor * images(*shape))
    check_graph(result)
    return {n.inputs[0]: n.attributes.quantisation for n in result.nodes if isinstance(n.attributes, Quantise)}


def uint(bits: int) -> IntegerType:
    return IntegerType(bits=bits, signed=False)


def int_(bits: int) -> IntegerType:
    return IntegerType(bits=bits, signed=True)


def test_scales_case_1_sign_is_one_bipolar_bit() -> None:
    assert quantised(CONV, Sign(), CONV)["n1"] == Quantisation(dtype=uint(1), scale=1.0, bipolar=True)


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_scales_case_2_residual_group_is_signed_with_room(bits: int) -> None:
    options = CompileOptions(residual_bits=bits, requantise="multiply:24")
    found = quantised(("a", CONV, ("image",)), ("sum", Add(), ("a", "image")), ("r", CONV, ("sum",)), options=options)
    assert found["a"] == found["image"]
    assert found["a"].dtype == int_(bits)
    assert found["a"].zero_point == 0
    x = images(2, 4, 4)
    values = dict(evaluate(chain(("a", CONV, ("image",)), ("sum", Add(), ("a", "image")), shape=(2, 4, 4)), x))
    largest = max(float(np.abs(value).max()) for value in values.values())
    assert largest * 1.25 <= found["a"].scale * found["a"].dtype.high <= 2 * largest * 1.25 * 1.02


@pytest.mark.parametrize("bits", range(2, 9))
def test_scales_case_3_relu_is_unsigned(bits: int) -> None:
    found = quantised(CONV, RELU, CONV, options=CompileOptions(act_bits=bits))["n1"]
    assert (found.dtype, found.zero_point) == (uint(bits), 0)


@pytest.mark.parametrize("bits", range(2, 9))
def test_scales_case_4_shifted_relu_has_its_floor_at_code_0(bits: int) -> None:
    found = quantised(CONV, affine([0.2, 0.2], [0, 0]), SHIFTED, CONV, options=CompileOptions(act_bits=bits))["n2"]
    assert found.dtype == uint(bits)
    assert found.zero_point >= 1
    assert found.scale == 1 / found.zero_point
    assert found.slope * 0 + found.intercept == -1.0


def test_scales_case_4_floor_that_is_nothing_beside_the_range_is_zero() -> None:
    """A floor of -1 under values in the hundreds: one code holds it, and the range is kept."""
    found = quantised(CONV, SHIFTED, CONV, options=replace(WHOLE, act_bits=3), factor=100.0)["n1"]
    largest = float(evaluate_outputs(chain(CONV, shape=(2, 4, 4)), 100 * images(2, 4, 4)).max())
    assert (found.dtype, found.zero_point) == (uint(3), 0)
    assert largest <= found.scale * 7 <= 2 * 1.02 * largest


@pytest.mark.parametrize(("bits", "ranges"), [(8, "min-max"), (5, "min-max"), (8, "percentile:100")])
def test_scales_case_4_floor_of_most_of_a_code_keeps_zero_point_and_range(bits: int, ranges: str) -> None:
    """Scale 1 would have the floor exact, but clip; zero point 0 would be wrong by all of the floor."""
    convolved = evaluate_outputs(chain(CONV, shape=(2, 4, 4)), images(2, 4, 4))
    factor = 1.2 * (2**bits - 2) / float(convolved.max())
    options = CompileOptions(act_bits=bits, ranges=ranges)
    found = quantised(CONV, SHIFTED, CONV, options=options, factor=factor)["n1"]
    assert (found.dtype, found.zero_point) == (uint(bits), 1)
    assert 1.2 * (1 - 1e-6) <= found.scale < 2
    assert float(factor * convolved.max()) <= found.scale * found.high_value * (1 + 1e-6)


@pytest.mark.parametrize("floor", [-1000.0, -3.4028235e38])
def test_scales_case_4_floor_that_is_never_reached_costs_no_range(floor: float) -> None:
    found = quantised(CONV, Clamp(low=floor, high=6.0), CONV)["n1"]
    assert found.dtype.signed
    largest = float(np.abs(np.minimum(evaluate_outputs(chain(CONV, shape=(2, 4, 4)), images(2, 4, 4)), 6)).max())
    assert largest <= found.scale * found.dtype.high <= 2 * 1.02 * largest


def test_scales_case_3_and_4_hold_behind_pools() -> None:
    pool = MaxPool(window=PADDED_POOL)
    for floor, zero in ((RELU, True), (SHIFTED, False)):
        found = quantised(
            ("c", CONV, ("image",)),
            ("f", floor, ("c",)),
            ("p", pool, ("f",)),
            ("a", AveragePool(window=Window(kernel=(2, 2))), ("p",)),
            ("r", CONV, ("a",)),
        )
        assert all(not coding.dtype.signed and (coding.zero_point == 0) == zero for coding in found.values())


def test_scales_case_5_anything_else_is_signed_and_symmetric() -> None:
    found = quantised(CONV, affine([0.2, 0.3], [0.1, 0]), CONV)["n1"]
    assert (found.dtype, found.zero_point) == (int_(8), 0)


def test_image_behind_its_norm_has_the_width_of_the_input() -> None:
    options = CompileOptions(input_bits=11, act_bits=4)
    assert quantised(affine([1, 2], [-0.1, 0]), CONV, options=options)["n0"].dtype == int_(11)
    assert quantised(affine([1, 2], [0.1, 0]), CONV, options=options)["n0"].dtype == uint(11)  # pixels are positive


def test_logits_have_room_and_width() -> None:
    found = quantised(CONV, GlobalAveragePool(), affine([1, 2], [0.5, 0]))["n2"]
    assert found.dtype == int_(LOGIT_BITS)


@pytest.mark.parametrize("requantise", ["multiply:4", "multiply:16", "multiply:24", "shift"])
def test_no_scale_is_finer_than_the_multiplier_reaches(requantise: str) -> None:
    """Sums of two codes of one bit: at 24 bits their ratio would need 22-bit multipliers."""
    options = CompileOptions(requantise=requantise, residual_bits=24)
    signed = ("s", Sign(), ("image",))
    residual = (signed, ("a", CONV, ("s",)), ("sum", Add(), ("a", "a")), ("r", CONV, ("sum",)))
    logits = (signed, ("a", CONV, ("s",)), ("l", affine([1, 2], [0, 0.25]), ("a",)))
    largest = 2 ** (14 if requantise == "shift" else options.requantisation.number - 2)
    assert 1 / quantised(*residual, options=options)["a"].scale <= largest
    assert 2 / quantised(*logits, options=options)["l"].scale <= largest


@pytest.mark.parametrize("requantise", ["multiply:16", "shift"])
def test_logits_with_biases_are_finer_than_their_integers(requantise: str) -> None:
    options = CompileOptions(requantise=requantise)
    one, own = ((CONV, GlobalAveragePool(), affine([2, 2], shift)) for shift in ([0.3, 0.3], [0.3, 0.4]))
    unit = 2 / 16
    for nodes in (one, own):
        found = quantised(*nodes, options=options)["n2"].scale
        assert found <= unit / 1024
        assert np.log2(unit / found).is_integer()


def test_value_that_is_zero_on_every_image_has_a_scale() -> None:
    found = quantised(CONV, affine([1, 1], [-1e6, -1e6]), RELU, CONV)["n2"]
    assert 1 / 255 <= found.scale < 2 / 255


def test_concatenation_of_one_bit_and_many_bit_values_is_refused() -> None:
    nodes = (
        ("a", CONV, ("image",)),
        ("s", Sign(), ("a",)),
        ("f", RELU, ("a",)),
        ("joined", Concatenate(), ("s", "f")),
        ("r", convolution(2, 4, bits=1), ("joined",)),
    )
    with pytest.raises(PassFailed, match="1-bit and k-bit activations are concatenated"):
        quantised(*nodes)


def test_mode_shift_reads_the_stream_with_powers_of_two() -> None:
    network = import_onnx(small_network(seed=5, shifted_relu=True).onnx)
    graph = quantise_graph(network, SHIFT, 100 * np.abs(images(3, 9, 7)))
    steps: dict[str, float] = {}
    powers = 0
    for node in graph.nodes:
        before = steps.get(node.inputs[0])
        match node.attributes:
            case Quantise(quantisation=quantisation, role=role):
                if role is Role.RESIDUAL:
                    steps[node.output] = quantisation.scale
                if before is not None and role is Role.ACTIVATION:
                    powers += 1
                    assert np.log2(quantisation.scale / before) == pytest.approx(
                        round(np.log2(quantisation.scale / before))
                    )
            case Convolution() | Clamp() | Add() | ChannelPad() if before is not None:
                steps[node.output] = before
            case Affine(scale=scale) if before is not None and (scale == scale[0]).all():
                steps[node.output] = before * float(scale[0])
    assert powers >= 3


@settings(deadline=None, max_examples=200)
@given(st.floats(1e-3, 1e6), st.floats(-3e-7, 3e-7), st.integers(2, 8), st.sampled_from(("shift", "multiply")))
def test_float_noise_does_not_change_a_scale(largest: float, noise: float, bits: int, mode: str) -> None:
    """Sums in another order differ in the last float32 bits; the program must not."""
    graph = placed(CONV, RELU, CONV, shape=(2, 4, 4))
    options = CompileOptions(act_bits=bits, requantise=mode, ranges="min-max")
    grid = np.float64(np.float32(largest))
    place = float(np.frexp(grid)[0]) * 256 - 1e-3
    assume(abs(place - round(place)) > 2e-4)  # just at a step of the grid the noise decides
    found = [
        ChooseScales(calibration=spread(graph, float(number)), options=options).run(graph)
        for number in (grid, grid * (1 + noise))
    ]
    assert only(found[0], Quantise) == only(found[1], Quantise)


@pytest.mark.parametrize("number", [1.0, 255.0, 6.0, 0.5])
def test_noise_around_a_number_of_the_grid_does_not_change_a_scale(number: float) -> None:
    graph = placed(CONV, RELU, CONV, shape=(2, 4, 4))
    found = {
        only(ChooseScales(calibration=spread(graph, n), options=WHOLE).run(graph), Quantise).quantisation.scale
        for n in (number, number * (1 + 2e-7), number * (1 - 2e-7))
    }
    (scale,) = found
    assert number / 255 <= scale < 2 * number / 255


def test_scales_case_6_arguments_are_places_in_a_table() -> None:
    nodes = (CONV, affine([0.1, -0.3], [0, 1]), Activation(function=Function.ELU), CONV)
    coding = quantised(*nodes)["n1"]
    assert coding.dtype == uint(12)
    assert 0 < coding.zero_point < 4095
    seen = [value for name, value in evaluate(chain(*nodes, shape=(2, 4, 4)), images(2, 4, 4)) if name == "n1"]
    least, most = (coding.scale * (code - coding.zero_point) for code in (-0.5, 4095.5))
    assert least <= seen[0].min() <= seen[0].max() <= most


@pytest.mark.parametrize(
    ("function", "floor"), [(Function.ELU, -0.5), (Function.SIGMOID, 0), (Function.SOFTPLUS, 0), (Function.TANH, -1)]
)
def test_a_function_with_a_lower_limit_has_unsigned_codes(function: Function, floor: float) -> None:
    coding = quantised(CONV, affine([5, -5], [0, 1]), Activation(function=function, alpha=0.5), CONV)["n2"]
    assert coding.dtype == uint(8)
    assert coding.scale * -coding.zero_point == pytest.approx(floor)
    leaky = quantised(CONV, affine([5, -5], [0, 1]), Activation(function=Function.LEAKY_RELU), CONV)["n2"]
    assert leaky.dtype.signed


def test_thresholds_are_for_activations_alone() -> None:
    nodes = (CONV, RELU, CONV, affine([1, 2], [0, 1]))
    result = quantise_graph(chain(*nodes, shape=(2, 4, 4)), CompileOptions(requantise="threshold"), images(2, 4, 4))
    modes = {n.attributes.role: n.attributes.requantisation for n in result.nodes if isinstance(n.attributes, Quantise)}
    assert modes[Role.ACTIVATION].mode is RequantiseMode.THRESHOLD
    assert modes[Role.LOGITS] == EXACT_DIGITS
