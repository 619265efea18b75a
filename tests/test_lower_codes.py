"""The codes of a program against exact evaluation of the quantised graph."""

import numpy as np
import pytest
from exact_evaluation import (
    evaluate_all,
    expected_codes,
    power_of_two_network,
    quantised_and_lowered,
    run_all,
    to_float,
)
from graph_helpers import affine, chain
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_builder import ModelBuilder, as_nhwc, random_pixels
from model_strategies import SEEDS, Network, networks

from bnhw.dtypes import Array
from bnhw.graph import Graph
from bnhw.importer import import_onnx
from bnhw.machine import Machine
from bnhw.ops import Convolution, Quantise, Sign, Window
from bnhw.options import CompileOptions

# Requantise steps.


@settings(deadline=None, max_examples=15)
@given(networks(), st.integers(2, 8))
def test_codes_are_within_one_of_the_quantised_graph(network: Network, bits: int) -> None:
    options = CompileOptions(requantise="multiply:24", act_bits=bits)
    graph, program = quantised_and_lowered(import_onnx(network.onnx), network.pixels, options)
    count = 0
    for name, found, expected in expected_codes(graph, program, network.pixels[:3]):
        assert np.abs(found - expected).max() <= 1, name
        count += 1
    assert count >= 5


@settings(deadline=None, max_examples=20)
@example(32846, False, 2, 8)  # an offset on an integer
@given(SEEDS, st.booleans(), st.integers(2, 8), st.integers(8, 20))
def test_codes_are_exact_where_every_ratio_is_a_power_of_two(
    seed: int, shifted_relu: bool, bits: int, residual_bits: int
) -> None:
    builder = power_of_two_network(seed, shifted_relu=shifted_relu)
    model = builder.model(builder.nodes[-1].output[0])
    pixels = as_nhwc(random_pixels(builder, 8))
    options = CompileOptions(requantise="shift", act_bits=bits, residual_bits=residual_bits)
    graph, program = quantised_and_lowered(import_onnx(model), pixels, options)
    assert not program.provenance.notes
    for name, found, expected in expected_codes(graph, program, pixels):
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_mode_shift_that_rounds_says_so() -> None:
    builder = ModelBuilder(channels=2, height=4, width=4)
    value = builder.batch_norm(builder.convolution(builder.image, builder.signs((4, 2, 3, 3))), measured=True)
    value = builder.convolution(builder.apply(value, "Relu"), builder.signs((3, 4, 1, 1)))
    model = builder.model(builder.reduce_mean(value, keep=False))
    _, program = quantised_and_lowered(
        import_onnx(model), as_nhwc(random_pixels(builder, 4)), CompileOptions(requantise="shift")
    )
    (note,) = program.provenance.notes
    assert "could not hold their ratio in mode shift" in note


# 1-bit activations.


def one_bit_network(seed: int, *, from_pixels: bool, padded: bool, op: str = "GreaterOrEqual") -> tuple[Graph, Array]:
    """Convolutions and batch norms of either sign with sign activations; and pixels."""
    builder = ModelBuilder(channels=3, height=7, width=7, seed=seed)
    value = builder.image
    if not from_pixels:
        value = builder.sign(builder.apply(value, "Sub", builder.constant(127.0)), op=op)
    pads = (1, 1, 1, 1) if padded else (0, 0, 0, 0)
    for out in (9, 70):
        value = builder.convolution(value, builder.signs((out, value.channels, 3, 3)), pads=pads)
        value = builder.batch_norm(value, negative=True, measured=True)
        value = builder.clip(value, -1.0, 1.0)  # hard tanh, which training puts in front of the sign
        value = builder.sign(value, op=op, scale=0.5)
    value = builder.convolution(value, builder.signs((5, 70, 1, 1)))
    model = builder.model(builder.reduce_mean(value, keep=False))
    return import_onnx(model), as_nhwc(random_pixels(builder, 16))


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.booleans(), st.booleans(), st.sampled_from(("GreaterOrEqual", "Less")))
def test_network_of_one_bit_activations_is_lossless(seed: int, from_pixels: bool, padded: bool, op: str) -> None:
    graph, pixels = one_bit_network(seed, from_pixels=from_pixels, padded=padded, op=op)
    quantised, program = quantised_and_lowered(graph, pixels, CompileOptions())
    made, exact = run_all(program, pixels), evaluate_all(graph, to_float(pixels))
    signs = [node.output for node in graph.nodes if isinstance(node.attributes, Sign)]
    coded = {n.inputs[0]: n.output for n in quantised.nodes if isinstance(n.attributes, Quantise)}
    assert len(signs) == 2 + (not from_pixels)
    for name in signs:
        np.testing.assert_array_equal(2 * made[coded[name]] - 1, exact[name], err_msg=name)
    logits = program.tensor[program.output]
    np.testing.assert_allclose(made[logits.name] * logits.scale, exact[graph.outputs[0]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("requantise", ["multiply:16", "shift"])
def test_biases_of_the_classes_decide_between_equal_sums(requantise: str) -> None:
    random = np.random.default_rng(0)
    weights = random.choice(np.array((-1, 1), np.float32), (6, 8, 1, 1))
    graph = chain(
        affine([1.0] * 8, [-127.5] * 8),
        Sign(),
        Convolution(weights=weights, window=Window(kernel=(1, 1))),
        affine([0.125] * 6, random.uniform(-0.2, 0.2, 6).tolist()),
        shape=(8, 1, 1),
    )
    pixels = random.integers(0, 256, (300, 1, 1, 8)).astype(np.uint8)
    _, program = quantised_and_lowered(graph, pixels, CompileOptions(requantise=requantise))
    expected = evaluate_all(graph, to_float(pixels))["n3"].reshape(300, 6)
    sums = np.sort(evaluate_all(graph, to_float(pixels))["n2"].reshape(300, 6), axis=1)
    assert (sums[:, -1] == sums[:, -2]).sum() > 30
    np.testing.assert_array_equal(Machine(program).run(pixels).predictions, expected.argmax(axis=1))
