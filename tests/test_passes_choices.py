"""Scales are chosen jointly: what residual blocks, pools and lists of widths get."""

import math
from dataclasses import replace

import numpy as np
import pytest
from graph_helpers import affine, chain
from model_strategies import small_network
from pass_helpers import CONV, RELU, all_of, images, placed

from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.errors import BadInput
from bnhw.graph import Graph
from bnhw.importer import import_onnx
from bnhw.lower import lower
from bnhw.ops import Quantise, Role
from bnhw.options import CompileOptions, RequantiseMode
from bnhw.passes.base import run_passes
from bnhw.passes.calibrate import calibrate
from bnhw.passes.edges import find_edges
from bnhw.passes.histogram import Histogram
from bnhw.passes.pipeline import float_passes, quantise_graph
from bnhw.passes.scales import ChooseScales
from bnhw.program import PoolSum, Program, Provenance, Requantise
from bnhw.requantise_constants import count_signed_digits

PROVENANCE = Provenance(producer="test", source_name="test", source_sha256="", options={})


def batch_norm_network(seed: int) -> tuple[Graph, Array]:
    """As the published ones: batch norm, ReLU, 1-bit convolution, twice a block; pooled shortcuts."""
    network = small_network(seed=seed, widths=(8, 12, 16))
    return import_onnx(network.onnx), network.pixels.transpose(0, 3, 1, 2).astype(np.float32)


def program_of(graph: Graph, pixels: Array, options: CompileOptions) -> Program:
    return lower(quantise_graph(graph, options, pixels), PROVENANCE)


def steps_behind(program: Program, kind: type) -> list[Requantise]:
    made = {instruction.output for instruction in program.instructions if isinstance(instruction, kind)}
    return [step for step in program.instructions if isinstance(step, Requantise) and step.inputs[0] in made]


def writing_steps(program: Program) -> list[Requantise]:
    """The steps that write into the residual stream, but for those behind pools."""
    pools = {step.output for step in steps_behind(program, PoolSum)}
    steps = [step for step in program.instructions if isinstance(step, Requantise)]
    return [step for step in steps if step.output.endswith("/residual") and step.output not in pools]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("requantise", ["shift", "csd:2"])
def test_choice_case_1_what_is_written_into_the_stream_has_an_exact_ratio(requantise: str, seed: int) -> None:
    """The scale that the second convolution reads is free, so that its ratio is whatever the mode can hold."""
    graph, pixels = batch_norm_network(seed)
    steps = writing_steps(program_of(graph, pixels, CompileOptions(requantise=requantise, ranges="min-max")))
    assert len(steps) == 4
    for step in steps:
        if requantise == "shift":
            assert step.mode is RequantiseMode.SHIFT
        assert step.digits <= 2


@pytest.mark.parametrize("requantise", ["csd:4", "threshold"])
def test_choice_case_1_second_convolutions_write_into_the_stream_with_a_shift(requantise: str) -> None:
    modes = set()
    for seed in range(3):
        graph, pixels = batch_norm_network(seed)
        modes |= {step.mode for step in writing_steps(program_of(graph, pixels, CompileOptions(requantise=requantise)))}
    assert modes == {RequantiseMode.SHIFT}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("requantise", ["csd:4", "multiply:16", "threshold"])
def test_choice_case_1_a_shift_is_chosen_wherever_its_codes_are_nearly_as_fine(requantise: str, seed: int) -> None:
    options = CompileOptions(requantise=requantise)
    graph, pixels = batch_norm_network(seed)
    placed_graph = run_passes(graph, float_passes(options))
    calibration, (edges, _) = calibrate(placed_graph, pixels), find_edges(placed_graph)
    result = ChooseScales(calibration=calibration, options=options).run(placed_graph)
    made = {node.output: node.attributes for node in result.nodes if isinstance(node.attributes, Quantise)}
    codings = {edge.group: made[edge.point].quantisation for edge in edges}
    written = [edge for edge in edges if edge.role is Role.RESIDUAL and len(edge.common_gains) == 1]
    assert len(written) == 4
    for edge in written:
        (source,) = edge.unit.sources
        coding, histogram = codings[source], calibration.groups[source].histogram
        octaves = math.log2(codings[edge.group].scale / (edge.common_gains[0] * coding.scale))
        above = math.ceil(octaves - 1e-9) - octaves  # to the next coarser scale whose ratio is a power of two
        if above > 1e-6:
            coarser = replace(coding, scale=coding.scale * 2**above)
            assert histogram.noise(coarser) > 1.03 * histogram.noise(coding)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("requantise", ["csd:2", "csd:4", "auto"])
def test_choice_case_2_pools_take_at_most_two_digits(requantise: str, seed: int) -> None:
    """Their divisors are 9, 6 and 4."""
    graph, pixels = batch_norm_network(seed)
    program = program_of(graph, pixels, CompileOptions(requantise=requantise))
    pools = steps_behind(program, PoolSum)
    assert len(pools) == 2
    for step in pools:
        multiplier, shift = program.constants[step.multiplier], program.constants[step.shift]
        assert len(multiplier) == 3
        assert count_signed_digits(multiplier).max() <= 2
        wanted = (multiplier / np.exp2(shift))[:, 0] * np.array([4, 6, 9])  # the classes, by divisor
        spread = np.max(wanted) / np.min(wanted)
        assert spread < 1.04


def activations(graph: Graph) -> dict[str, Quantise]:
    return {
        node.output: node.attributes
        for node in graph.nodes
        if isinstance(node.attributes, Quantise) and node.attributes.role is Role.ACTIVATION
    }


def decibels(histogram: Histogram, coding: Quantisation) -> float:
    return 10 * math.log10(histogram.power / histogram.noise(coding))


def three_activations() -> Graph:
    return chain(CONV, RELU, CONV, affine([0.3, 0.2], [0.1, 0]), RELU, CONV, RELU, CONV, shape=(2, 6, 6))


@pytest.mark.parametrize("widths", [(2, 3, 4), (8, 2, 8)])
def test_each_activation_has_the_width_listed_for_it(widths: tuple[int, ...]) -> None:
    found = activations(quantise_graph(three_activations(), CompileOptions(act_bits=widths), images(2, 6, 6)))
    assert tuple(step.quantisation.dtype.bits for step in found.values()) == widths


@pytest.mark.parametrize("widths", [(4, 4), (4, 4, 4, 4)])
def test_a_list_of_another_length_is_refused_with_the_names(widths: tuple[int, ...]) -> None:
    expected = (
        f"act_bits lists {len(widths)} widths, the network has 3 quantised activations: "
        "n1/activation, n4/activation, n6/activation; give one width, or one for each in this order"
    )
    with pytest.raises(BadInput, match=expected):
        quantise_graph(three_activations(), CompileOptions(act_bits=widths), images(2, 6, 6))


@pytest.mark.parametrize("wanted_db", [10, 20, 30])
def test_automatic_widths_keep_the_decibels_and_one_bit_less_does_not(wanted_db: int) -> None:
    options = CompileOptions(act_bits=f"auto:{wanted_db}")
    placed_graph = run_passes(three_activations(), float_passes(options))
    calibration = calibrate(placed_graph, images(2, 6, 6))
    groups = {edge.point: edge.group for edge in find_edges(placed_graph)[0]}
    found = activations(quantise_graph(three_activations(), options, images(2, 6, 6)))
    assert len(found) == 3
    for point, step in found.items():
        histogram, coding = calibration.groups[groups[point]].histogram, step.quantisation
        assert decibels(histogram, coding) >= wanted_db - 0.3  # the slack of cheaper scales
        less = IntegerType(bits=coding.dtype.bits - 1, signed=False) if coding.dtype.bits > 2 else None
        if less is not None:
            scales = coding.scale * 2.0 ** np.arange(-1, 3, 0.05)
            tried = [Quantisation(dtype=less, scale=float(scale)) for scale in scales]
            assert max(decibels(histogram, coding) for coding in tried) < wanted_db + 0.3


@pytest.mark.parametrize("requantise", ["shift", "csd:2", "multiply:16", "threshold", "auto"])
def test_a_free_scale_in_front_of_a_step_of_the_model_is_chosen(requantise: str) -> None:
    """Here no moments were kept of the step behind."""
    given = Quantise(
        role=Role.ACTIVATION, quantisation=Quantisation(dtype=IntegerType(bits=4, signed=True), scale=0.25)
    )
    nodes = (affine([1, 1.5], [0.1, 0.2]), CONV, affine([0.5, 0.5], [0, 0]), given, CONV)
    result = quantise_graph(chain(*nodes, shape=(2, 6, 6)), CompileOptions(requantise=requantise), images(2, 6, 6))
    assert [step.quantisation for step in all_of(result, Quantise)][1] == given.quantisation


@pytest.mark.parametrize("ranges", ["min-max", "mse"])
@pytest.mark.parametrize("gain", [1.0, 0.37, 3.1])
def test_mode_shift_has_an_exact_ratio_wherever_one_gain_serves_all(gain: float, ranges: str) -> None:
    options = CompileOptions(requantise="shift", ranges=ranges)
    graph = placed(CONV, affine([gain, gain], [0.1, 0]), RELU, CONV, shape=(2, 6, 6))
    result = quantise_graph(graph, options, images(2, 6, 6))
    (step,) = [found for found in all_of(result, Quantise) if found.role is Role.ACTIVATION]
    assert math.frexp(step.quantisation.scale / gain)[0] == pytest.approx(0.5, rel=1e-9)
