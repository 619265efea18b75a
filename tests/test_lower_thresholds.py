"""Thresholds and tables of functions: every code is that of the quantised graph, exactly."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_evaluation import PROVENANCE, expected_codes, power_of_two_network, quantised_and_lowered, run_all
from exact_rounding import expected_code
from graph_helpers import chain
from hypothesis import given, settings
from hypothesis import strategies as st
from model_builder import ModelBuilder, as_nhwc, random_pixels, run_onnxruntime

from bnhw.compare import measure_fidelity
from bnhw.compiler import compile_model
from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Attributes, Graph, Node
from bnhw.importer import import_onnx
from bnhw.lower import lower
from bnhw.machine import Machine
from bnhw.monotone import Function
from bnhw.ops import (
    Activation,
    Affine,
    AveragePool,
    Clamp,
    Convolution,
    GlobalAveragePool,
    Quantise,
    Role,
    Sign,
    Window,
    freeze,
    pool_divisors,
)
from bnhw.options import CompileOptions, Requantisation, RequantiseMode
from bnhw.program import LookUp, Program, Requantise, Threshold
from bnhw.program_check import check_program
from bnhw.threshold_constants import Rounding

THRESHOLD = Requantisation(mode=RequantiseMode.THRESHOLD)
SAME = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
BORDERED = Window(kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1))
LOGITS = Quantise(role=Role.LOGITS, quantisation=Quantisation(dtype=IntegerType(bits=24, signed=True), scale=1e-4))
POINTS = st.one_of(st.sampled_from((0.25, 0.5, 1.0)), st.floats(0.05, 2))


# The oracle: what the chain in front of a Quantise gives for the integers that the program made before it.


def exact_unit(graph: Graph, value: str, row: int, column: int) -> tuple[Fraction, Fraction]:
    """(a, b) of real = a * integer + b at a pixel of an exact value, from the graph alone."""
    node = graph.producers[value]
    match node.attributes:
        case Quantise(quantisation=coding) if coding.bipolar:
            return 2 * Fraction(coding.scale), -Fraction(coding.scale)
        case Quantise(quantisation=coding):
            return Fraction(coding.scale), -Fraction(coding.scale) * coding.zero_point
        case Convolution():
            source = graph.producers[node.inputs[0]].attributes
            assert isinstance(source, Quantise)
            return Fraction(source.quantisation.scale), Fraction(0)
        case AveragePool(window=window, count_padding=counts):
            source = graph.producers[node.inputs[0]].attributes
            assert isinstance(source, Quantise)
            divisors = pool_divisors(window, *SIZE, count_padding=counts)
            return Fraction(source.quantisation.scale) / int(divisors[row, column]), Fraction(0)
    raise AssertionError(node.op)


SIZE = (5, 6)


def chain_before(graph: Graph, node: Node) -> tuple[str, Affine | None, Rounding]:
    """The exact value, the Affine, and the rest of the chain that a Quantise reads."""
    assert isinstance(node.attributes, Quantise)
    rounding, line, value = Rounding(quantisation=node.attributes.quantisation), None, node.inputs[0]
    while isinstance((before := graph.producers[value]).attributes, Affine | Activation | Clamp):
        match before.attributes:
            case Affine() as affine:
                line = affine
            case Activation() as activation:
                rounding = replace(rounding, activation=activation)
            case Clamp(low=low, high=high):
                rounding = replace(rounding, low=low, high=high)
        value = before.inputs[0]
    return value, line, rounding


def exact_results(graph: Graph, program: Program, pixels: Array) -> Iterator[tuple[str, Array, Array]]:
    """(value, codes of the program, codes by definition) of every activation."""
    made = run_all(program, pixels)
    for node in graph.nodes:
        if not isinstance(node.attributes, Quantise) or node.attributes.role is not Role.ACTIVATION:
            continue
        value, line, rounding = chain_before(graph, node)
        known: dict[tuple[int, Fraction, Fraction], int] = {}
        expected = np.empty(made[node.output].shape, np.int64)
        for n, c, y, x in np.ndindex(expected.shape):
            slope, intercept = exact_unit(graph, value, y, x)
            if line is not None:
                scale = Fraction(float(line.scale[c]))
                slope, intercept = scale * slope, scale * intercept + Fraction(float(line.shift[c]))
            key = (int(made[value][n, c, y, x]), slope, intercept)
            if key not in known:
                known[key] = expected_code(rounding, slope * key[0] + intercept)
            expected[n, c, y, x] = known[key]
        yield node.output, made[node.output], expected


def point(bits: int, scale: float, *, signed: bool = False, zero_point: int = 0) -> Quantise:
    coding = Quantisation(dtype=IntegerType(bits=bits, signed=signed), scale=scale, zero_point=zero_point)
    return Quantise(role=Role.ACTIVATION, quantisation=coding, requantisation=THRESHOLD)


def signs(random: np.random.Generator, out: int, channels: int, window: Window = SAME) -> Convolution:
    weights = random.choice(np.array((-1, 1), np.int8), (out, channels, *window.kernel))
    return Convolution(weights=freeze(weights), window=window, weight_bits=1)


def gains(random: np.random.Generator, channels: int, size: float) -> Affine:
    """Of both signs, now and then 0."""
    scale = random.normal(0, size, channels) * random.choice((0, 1), channels, p=(0.1, 0.9))
    return Affine(scale=freeze(scale), shift=freeze(random.normal(0, 0.5, channels)))


@st.composite
def threshold_graphs(draw: st.DrawFn) -> Graph:
    """Image codes, convolution, function, pool with uneven divisors, clamp, convolution, function, logits."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    functions = st.one_of(
        st.none(),
        st.builds(
            Activation,
            function=st.sampled_from(Function),
            alpha=st.sampled_from((0.25, 1.0, 1.6)),
            gain=st.sampled_from((1.0, 1.05)),
        ),
    )
    clamps = st.sampled_from((None, Clamp(low=0.0), Clamp(low=-1.0), Clamp(low=-0.5, high=0.7)))
    codings = st.builds(
        lambda bits, scale, signed, zero: point(bits, scale, signed=signed, zero_point=0 if signed else zero),
        st.integers(1, 5),
        POINTS,
        st.booleans(),
        st.integers(0, 1),
    )
    pool = AveragePool(window=BORDERED, count_padding=draw(st.booleans()))
    last = draw(st.sampled_from(((Sign(), _sign_point()), ())))
    nodes: list[Attributes | None] = [
        replace(point(8, 1.0), role=Role.INPUT),
        signs(random, 5, 2),
        gains(random, 5, 0.01),
        draw(functions),
        draw(clamps),
        draw(codings),
        pool,
        draw(st.sampled_from((None, gains(random, 5, 1.0)))),
        draw(functions),
        draw(clamps),
        draw(codings),
        signs(random, 4, 5),
        *last,
        GlobalAveragePool() if not last else None,
        LOGITS,
    ]
    if last:
        nodes[-2:] = [signs(random, 3, 4, Window(kernel=(3, 3)))]
    return chain(*(node for node in nodes if node is not None), shape=(2, *SIZE))


def _sign_point() -> Quantise:
    coding = Quantisation(dtype=IntegerType(bits=1, signed=False), scale=1.0, bipolar=True)
    return Quantise(role=Role.INPUT, quantisation=coding, requantisation=THRESHOLD)


@settings(deadline=None, max_examples=40)
@given(threshold_graphs(), st.integers(0, 99))
def test_thresholds_are_lossless(graph: Graph, seed: int) -> None:
    program = lower(graph, PROVENANCE)
    check_program(program)
    pixels = np.random.default_rng(seed).integers(0, 256, (2, *SIZE, 2)).astype(np.uint8)
    results = list(exact_results(graph, program, pixels))
    assert len(results) == sum(isinstance(i, Threshold) for i in program.instructions) == 2
    for name, found, expected in results:
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_averages_over_six_are_sixths_and_not_the_float_nearest_to_one() -> None:
    """Three of 6 pixels at 1 are exactly 1/2, which rounds up; 3 * float64(1/6) is less."""
    window = Window(kernel=(2, 3))
    image = replace(point(8, 1.0), role=Role.INPUT)
    graph = chain(image, AveragePool(window=window), point(2, 1.0), GlobalAveragePool(), LOGITS, shape=(1, 2, 3))
    pixels = np.array([1, 1, 1, 0, 0, 0], np.uint8).reshape(1, 2, 3, 1)
    assert 3 * Fraction(1 / 6) < Fraction(1, 2)
    assert run_all(lower(graph, PROVENANCE), pixels)["n2"].item() == 1


def test_channels_without_batch_norm_share_one_set() -> None:
    random = np.random.default_rng(0)
    uniform = Affine(scale=freeze(np.full(8, 0.01)), shift=freeze(np.zeros(8)))
    nodes = (replace(point(8, 1.0), role=Role.INPUT), signs(random, 8, 2))
    shared, own = (
        lower(chain(*nodes, line, Clamp(low=0.0), point(4, 0.3), GlobalAveragePool(), shape=(2, *SIZE)), PROVENANCE)
        for line in (uniform, gains(random, 8, 0.01))
    )
    (step,) = (i for i in shared.instructions if isinstance(i, Threshold))
    assert shared.constants[step.thresholds].shape == (1, 1, 15)
    assert shared.constants[step.thresholds].dtype == np.int16
    assert (step.falling, step.position_classes) == ("", "")
    (step,) = (i for i in own.instructions if isinstance(i, Threshold))
    assert own.constants[step.thresholds].shape[1] == 8
    assert own.constants[step.falling].any()


@pytest.mark.parametrize("bits", [2, 4])
def test_a_network_of_powers_of_two_is_lossless_by_thresholds(bits: int) -> None:
    """Float64 is exact enough here: no real number lies on a boundary.

    At 8 bits some do, because scales are chosen for simple ratios; `test_thresholds_are_lossless` has fractions.
    """
    builder = power_of_two_network(3, shifted_relu=False)
    graph = import_onnx(builder.model(builder.nodes[-1].output[0]))
    options = CompileOptions(requantise="threshold", act_bits=bits)
    pixels = as_nhwc(random_pixels(builder, 4))
    quantised, program = quantised_and_lowered(graph, pixels, options)
    steps = {i.output for i in program.instructions if isinstance(i, Threshold)}
    assert len(steps) == 3
    for name, found, expected in expected_codes(quantised, program, pixels):
        if name in steps:
            np.testing.assert_array_equal(found, expected, err_msg=name)


ACTIVATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Elu", {"alpha": 0.7}),
    ("Selu", {}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("Sigmoid", {}),
    ("Softplus", {}),
    ("Tanh", {}),
    ("HardSigmoid", {}),
)


@pytest.mark.parametrize("requantise", ["threshold", "multiply:16", "csd:4"])
@pytest.mark.parametrize(("op", "attributes"), ACTIVATIONS)
def test_a_network_of_any_activation_is_faithful(
    tmp_path: Path, op: str, attributes: dict[str, Any], requantise: str
) -> None:
    builder = ModelBuilder(channels=2, height=8, width=6, seed=4)
    pads = (1, 1, 1, 1)
    value = builder.convolution(builder.image, builder.signs((6, 2, 3, 3)), pads=pads)
    value = builder.apply(builder.batch_norm(value, measured=True, negative=True), op, **attributes)
    value = builder.convolution(value, builder.signs((5, 6, 3, 3)), pads=pads)
    value = builder.batch_norm(value, measured=True)
    branch = builder.apply(value, op, **attributes)
    value = builder.add(branch, builder.convolution(branch, builder.signs((5, 5, 3, 3)), pads=pads))
    value = builder.apply(builder.batch_norm(value, measured=True), op, **attributes)
    model = builder.model(builder.reduce_mean(builder.convolution(value, builder.signs((3, 5, 1, 1))), keep=False))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    pixels = random_pixels(builder, 12)
    program = compile_model(path, as_nhwc(pixels), CompileOptions(requantise=requantise))
    result = Machine(program).run(as_nhwc(pixels))
    expected = run_onnxruntime(model, pixels.astype(np.float32))
    assert measure_fidelity(result.logits, result.scale, expected).signal_to_noise_db > 25
    kinds = [type(i) for i in program.instructions]
    tables = 0 if op == "HardSigmoid" else 1 if requantise == "threshold" else 3
    assert kinds.count(LookUp) == tables  # behind the residual point a table stands in every mode
    assert (Threshold in kinds) is (requantise == "threshold")


def test_a_table_of_a_function_holds_exact_codes() -> None:
    random = np.random.default_rng(1)
    argument = Quantisation(dtype=IntegerType(bits=12, signed=False), scale=1 / 256, zero_point=2000)
    for function in Function:
        activation = Activation(function=function, alpha=0.5, gain=1.5)
        result = replace(point(8, 0.05, zero_point=30), requantisation=Requantisation(mode=RequantiseMode.SHIFT))
        graph = chain(
            replace(point(8, 1.0), role=Role.INPUT),
            signs(random, 3, 2),
            Quantise(role=Role.ARGUMENT, quantisation=argument),
            activation,
            result,
            GlobalAveragePool(),
            shape=(2, *SIZE),
        )
        program = lower(graph, PROVENANCE)
        table = program.constants["n4/table"]
        rounding = Rounding(quantisation=result.quantisation, activation=activation)
        expected = [expected_code(rounding, Fraction(code - 2000, 256)) for code in range(1 << 12)]
        assert table.tolist() == [expected]


def test_each_step_follows_its_own_mode() -> None:
    random = np.random.default_rng(2)
    multiply = replace(point(4, 0.3), requantisation=Requantisation(mode=RequantiseMode.MULTIPLY, number=12))
    nodes = (replace(point(8, 1.0), role=Role.INPUT), signs(random, 3, 2), gains(random, 3, 0.01), point(4, 0.3))
    graph = chain(*nodes, signs(random, 3, 3), gains(random, 3, 0.01), multiply, GlobalAveragePool(), shape=(2, *SIZE))
    kinds = [type(i) for i in lower(graph, PROVENANCE).instructions]
    assert kinds.index(Threshold) < kinds.index(Requantise)


def test_too_many_thresholds_name_the_node() -> None:
    random = np.random.default_rng(3)
    wide = point(16, 1e-3, signed=True)
    graph = chain(
        replace(point(8, 1.0), role=Role.INPUT), signs(random, 3, 2), wide, GlobalAveragePool(), shape=(2, 4, 4)
    )
    with pytest.raises(PassFailed, match=r"requantise step of 'n2': .* thresholds a channel; .* use multiply"):
        lower(graph, PROVENANCE)
