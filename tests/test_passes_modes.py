"""Mode `auto`: the cheapest constants that keep a budget of noise."""

from itertools import product

import numpy as np
import pytest
from graph_helpers import affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_strategies import Network, networks
from pass_helpers import CONV, RELU, all_of, images, placed

from bnhw.compiler import compile_model
from bnhw.count import ActionKind, count_program, total
from bnhw.dtypes import Array
from bnhw.graph import Graph
from bnhw.ops import Quantise, Role
from bnhw.options import CompileOptions, Requantisation, RequantiseMode
from bnhw.passes.calibrate import Calibration, Moments, calibrate
from bnhw.passes.edges import ALL, Edge, Unit
from bnhw.passes.modes import COHERENCE, _channel_noise, _fewest_digits, choose_step, known_mode, step_noise
from bnhw.passes.scales import ChooseScales
from bnhw.program import Requantise
from bnhw.requantise_constants import round_ratios

LEAST_DIGITS, MOST_DIGITS = 1, 4
RATIOS = st.lists(st.floats(0.01, 1), min_size=1, max_size=4)


def edge_with(channels: int, role: Role = Role.ACTIVATION) -> Edge:
    unit = Unit(gains=np.ones((1, channels)), shares=ALL)
    return Edge(point="p", group=0, role=role, unit=unit, size=channels)


def moments_of(variance: Array) -> Moments:
    return Moments(share=np.ones(len(variance)), mean=np.zeros(len(variance)), variance=variance)


def noise_table(edge: Edge, ratios: Array, moments: Moments) -> Array:
    """Noise of each number of digits, (4, channels)."""
    rows = []
    for number in range(LEAST_DIGITS, MOST_DIGITS + 1):
        found = round_ratios(ratios, Requantisation(mode=RequantiseMode.CSD, number=number))
        rows.append(_channel_noise(edge, ratios, *found, moments))
    return np.stack(rows)


def is_concave(table: Array) -> bool:
    gains = table[:-1] - table[1:]
    return bool((gains[1:] <= gains[:-1]).all())


@settings(deadline=None, max_examples=150)
@given(RATIOS, st.floats(1e-7, 1e-1), st.integers(0, 999))
def test_the_digits_keep_the_budget_and_are_the_fewest(numbers: list[float], budget: float, seed: int) -> None:
    """By brute force over all numbers of digits; where each digit gains less than the one before it, the fewest."""
    ratios = np.array([numbers])
    edge, moments = edge_with(len(numbers)), moments_of(np.random.default_rng(seed).uniform(0.1, 10, len(numbers)))
    digits, noise = _fewest_digits(edge, ratios, moments, budget)
    table = noise_table(edge, ratios, moments)
    channels = range(len(numbers))
    assert noise == pytest.approx(table[digits - 1, list(channels)].mean(), rel=1e-6, abs=1e-12)
    within = [
        sum(choice)
        for choice in product(range(LEAST_DIGITS, MOST_DIGITS + 1), repeat=len(numbers))
        if np.mean([table[count - 1, c] for count, c in zip(choice, channels, strict=True)]) <= budget * (1 - 1e-9)
    ]
    if not within:
        assert noise >= budget * (1 - 1e-9)
        return
    assert noise <= budget * (1 + 1e-9)
    if is_concave(table):
        assert digits.sum() <= min(within)
    else:
        assert digits.sum() <= min(within) + len(numbers)


@settings(deadline=None)
@given(RATIOS, st.floats(1e-7, 1e-1), st.floats(1, 100))
def test_a_tighter_budget_never_gives_fewer_digits(numbers: list[float], budget: float, factor: float) -> None:
    ratios, edge, moments = np.array([numbers]), edge_with(len(numbers)), moments_of(np.ones(len(numbers)))
    loose, tight = (_fewest_digits(edge, ratios, moments, b)[0] for b in (budget, budget / factor))
    assert (tight >= loose).all()


def test_operations_of_a_step_are_the_additions_beyond_the_first() -> None:
    edge = edge_with(1)
    calibration = Calibration(groups={}, points={"p": moments_of(np.ones(1))})
    for mode, ratio, operations in (
        ("csd:2", 0.25, 0),
        ("csd:2", 0.75, 1),
        ("csd:3", 0.6875, 2),
        ("multiply:16", 0.5, 0),
        ("multiply:16", 0.75, 1),
        ("multiply:16", -0.5, 1),
        ("shift", 0.5, 0),
        ("threshold", 0.7, 0),
    ):
        found = step_noise(edge, np.array([[ratio]]), calibration, CompileOptions(requantise=mode))
        assert found == (0.0, operations), (mode, ratio)
    assert step_noise(edge, np.array([[-0.5]]), calibration, CompileOptions(requantise="shift")) == (np.inf, np.inf)


def test_noise_is_the_relative_error_of_the_ratio_times_the_spread() -> None:
    """csd:1 makes 0.75 to 0.5 or 1: an error of a third of it."""
    calibration = Calibration(groups={}, points={"p": moments_of(np.array([9.0]))})
    noise, _ = step_noise(edge_with(1), np.array([[0.75]]), calibration, CompileOptions(requantise="csd:1"))
    assert noise == pytest.approx(COHERENCE * 9 * (1 / 3) ** 2)


@pytest.mark.parametrize("role", list(Role))
def test_thresholds_are_for_activations(role: Role) -> None:
    mode = known_mode(role, CompileOptions(requantise="threshold"))
    assert (mode.mode is RequantiseMode.THRESHOLD) == (role is Role.ACTIVATION)


def normalised(bits: int, *, requantise: str = "auto", multipliers: bool = True) -> tuple[Graph, CompileOptions]:
    graph = placed(CONV, affine([0.37, -0.21], [0.1, 0.2]), RELU, CONV, RELU, CONV, shape=(2, 6, 6))
    return graph, CompileOptions(act_bits=bits, requantise=requantise, multipliers=multipliers)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_thresholds_win_at_2_bits_alone(bits: int) -> None:
    graph, options = normalised(bits, requantise="auto:0.1")
    result = ChooseScales(calibration=calibrate(graph, images(2, 6, 6)), options=options).run(graph)
    modes = {step.requantisation.mode for step in all_of(result, Quantise) if step.role is Role.ACTIVATION}
    assert (RequantiseMode.THRESHOLD in modes) == (bits == 2)


def test_a_budget_below_all_digits_gets_multipliers_where_they_are_allowed() -> None:
    for multipliers in (True, False):
        graph, options = normalised(8, requantise="auto:1e-6", multipliers=multipliers)
        result = ChooseScales(calibration=calibrate(graph, images(2, 6, 6)), options=options).run(graph)
        modes = {step.requantisation.mode for step in all_of(result, Quantise)}
        assert (RequantiseMode.MULTIPLY in modes) == multipliers


def test_a_lookup_and_the_model_s_own_steps_have_no_centre() -> None:
    image = Edge(
        point="p", group=0, role=Role.INPUT, unit=Unit(gains=np.ones((1, 1)), shares=ALL, is_image=True), size=1
    )
    calibration = Calibration(groups={}, points={"p": moments_of(np.ones(1))})
    assert choose_step(image, {}, calibration, CompileOptions()).centre is None
    assert choose_step(edge_with(1), {}, Calibration(groups={}, points={}), CompileOptions()).centre is None
    assert choose_step(edge_with(1), {}, calibration, CompileOptions()).centre is not None


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from((2, 4, 8)), st.sampled_from(("auto", "auto:0.01", "auto:3")))
def test_without_multipliers_no_step_multiplies(
    tmp_path_factory: pytest.TempPathFactory, network: Network, bits: int, requantise: str
) -> None:
    path = tmp_path_factory.mktemp("auto") / "model.onnx"
    path.write_bytes(network.onnx.SerializeToString())
    options = CompileOptions(act_bits=bits, requantise=requantise, multipliers=False)
    program = compile_model(path, network.pixels, options)
    steps = [step for step in program.instructions if isinstance(step, Requantise)]
    assert all(step.mode is not RequantiseMode.MULTIPLY for step in steps)
    one_bit = all(getattr(step, "weight_bits", 1) == 1 for step in program.instructions)
    kinds = {action.kind for action in total(count_program(program)).actions}
    assert ActionKind.MULTIPLY not in kinds or not one_bit
