"""The integer program against exact evaluation of the quantised graph."""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    SEEDS,
    ModelBuilder,
    Network,
    Tensor,
    affine,
    as_nhwc,
    chain,
    networks,
    random_pixels,
)

from bnhw.compare import first_difference
from bnhw.dtypes import Array
from bnhw.errors import PassFailed
from bnhw.graph import Attributes, Graph
from bnhw.importer import import_onnx
from bnhw.lower import lower
from bnhw.machine import Machine
from bnhw.ops import (
    OPS,
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Quantise,
    Sign,
    Window,
    quantise,
    windows_of,
)
from bnhw.options import CompileOptions
from bnhw.passes.pipeline import quantise_graph
from bnhw.program import AddSaturating, Convolve, LookUp, PoolSum, Program, Provenance, Requantise
from bnhw.program_check import check_program

SAME = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
PROVENANCE = Provenance(producer="test", source_name="test", source_sha256="", options={})
FINE = CompileOptions(requantise="multiply:24")


def to_float(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)


def quantised_and_lowered(graph: Graph, pixels: Array, options: CompileOptions = FINE) -> tuple[Graph, Program]:
    quantised = quantise_graph(graph, options, to_float(pixels))
    program = lower(quantised, options.requantisation, PROVENANCE)
    check_program(program)
    return quantised, program


def evaluate_exactly(attributes: Attributes, inputs: list[Array]) -> Array:
    """As the table of operations, in float64 throughout."""
    match attributes:
        case Convolution(weights=weights, window=window, groups=groups):
            view = windows_of(inputs[0], window)
            parts = zip(np.split(view, groups, axis=1), np.split(weights.astype(np.float64), groups), strict=True)
            return np.concatenate([np.einsum("ncxyij,ocij->noxy", x, w) for x, w in parts], axis=1)
        case Affine(scale=scale, shift=shift):
            return np.asarray(inputs[0] * scale[:, None, None] + shift[:, None, None])
        case _:
            return OPS[type(attributes)].evaluate(attributes, inputs)


def evaluate_all(graph: Graph, images: Array) -> Mapping[str, Array]:
    """Every value of a float graph in float64."""
    values: dict[str, Array] = {graph.inputs[0].name: images.astype(np.float64)}
    for node in graph.nodes:
        values[node.output] = evaluate_exactly(node.attributes, [values[name] for name in node.inputs])
    return values


def run_all(program: Program, pixels: Array) -> Mapping[str, Array]:
    """Every tensor of the program, (images, channels, height, width), by the reference."""
    steps = Machine(program, "reference").steps(pixels)
    return {step.instruction.output: step.value.transpose(0, 3, 1, 2) for step in steps}


def expected_codes(graph: Graph, program: Program, pixels: Array) -> Iterator[tuple[str, Array, Array]]:
    """(value, codes of the program, codes by exact evaluation) of every point of the quantised graph.

    What stands behind a point continues from the program's own codes, so that no difference grows on its way.
    """
    made = run_all(program, pixels)
    values: dict[str, Array] = {graph.inputs[0].name: to_float(pixels).astype(np.float64)}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        if isinstance(node.attributes, Quantise):
            coding = node.attributes.quantisation
            codes = made[node.output]
            yield node.output, codes, quantise(inputs[0], coding)
            values[node.output] = codes * coding.slope + coding.intercept
        elif isinstance(node.attributes, Add):  # saturates on images that leave the calibrated range
            tensor = program.tensor[node.output]
            exact = (inputs[0] + inputs[1]) / tensor.scale
            np.testing.assert_allclose(
                made[node.output], np.clip(exact, tensor.dtype.low, tensor.dtype.high), atol=1e-6
            )
            values[node.output] = made[node.output] * tensor.scale
        else:
            values[node.output] = evaluate_exactly(node.attributes, inputs)


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


def power_of_two_network(seed: int, *, shifted_relu: bool) -> ModelBuilder:
    """A residual network in which every real ratio is a power of two; its output is the last node's."""
    builder = ModelBuilder(channels=2, height=8, width=6, seed=seed)
    pads = (1, 1, 1, 1)
    value = builder.convolution(builder.image, builder.signs((4, 2, 3, 3), 2**-9), pads=pads)

    def activation(value: Tensor) -> Tensor:
        return builder.apply(value, "Max", builder.constant(-1.0)) if shifted_relu else builder.apply(value, "Relu")

    inner = builder.convolution(activation(value), builder.signs((4, 4, 3, 3), 2**-4), pads=pads)
    inner = builder.convolution(activation(inner), builder.signs((6, 4, 3, 3), 2**-3), stride=(2, 2), pads=pads)
    value = builder.pool(value, "AveragePool", Window(kernel=(2, 2), stride=(2, 2)))
    value = builder.add(builder.pad(value, (1, 0, 0), (1, 0, 0)), inner)
    value = builder.convolution(activation(value), builder.signs((5, 6, 1, 1), 2**-2))
    builder.node("GlobalAveragePool", value.name)
    return builder


@settings(deadline=None, max_examples=20)
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


# Accumulators.


def random_convolution(seed: int, bits: int, groups: int) -> Convolution:
    """An unpadded convolution with 1-bit or k-bit weights; on an image of the kernel's size it gives one pixel."""
    random = np.random.default_rng(seed)
    per_group, out = int(random.integers(1, 30)), groups * int(random.integers(1, 5))
    kernel = (int(random.integers(1, 4)), int(random.integers(1, 4)))
    limit = max(1, 2 ** (bits - 1) - 1)
    weights = random.integers(-limit, limit + 1, (out, per_group, *kernel)).astype(np.int8)
    if bits == 1:
        weights = np.where(weights >= 0, np.int8(1), np.int8(-1))
    return Convolution(weights=weights, window=Window(kernel=kernel), groups=groups, weight_bits=bits)


def input_shape(convolution: Convolution) -> tuple[int, int, int]:
    return (convolution.weights.shape[1] * convolution.groups, *convolution.window.kernel)


def extreme_pixels(convolution: Convolution, *, largest: bool, low_value: int = 0) -> Array:
    """The black-and-white image (1, height, width, channels) for which one output reaches its bound.

    `low_value`: what a black pixel counts beside 1 for a white one.
    """
    weights = convolution.weights.astype(np.int64)
    favoured = weights if largest else -weights
    sums = np.where(favoured > 0, favoured, low_value * favoured).sum(axis=(1, 2, 3))
    best = int(sums.argmax())
    per_group, out_group = weights.shape[1], weights.shape[0] // convolution.groups
    pixels = np.zeros((1, *input_shape(convolution)), np.uint8)
    first = best // out_group * per_group
    pixels[0, first : first + per_group] = np.where(favoured[best] > 0, 255, 0)
    return as_nhwc(pixels)


CONVOLUTIONS = settings(deadline=None, max_examples=60)
CASES = given(SEEDS, st.integers(1, 8), st.integers(1, 3))


@CONVOLUTIONS
@CASES
def test_accumulator_range_is_reached_by_the_worst_image(seed: int, bits: int, groups: int) -> None:
    convolution = random_convolution(seed, bits, groups)
    program = lower(chain(convolution, shape=input_shape(convolution)), FINE.requantisation, PROVENANCE)
    dtype = program.tensor["n0"].dtype
    low, high = (run_all(program, extreme_pixels(convolution, largest=m))["n0"] for m in (False, True))
    assert dtype.low <= low.min() <= high.max() <= dtype.high
    assert type(dtype).containing(min(int(low.min()), 0), max(int(high.max()), 0)) == dtype


@CONVOLUTIONS
@CASES
def test_accumulator_range_of_bipolar_codes_is_reached(seed: int, bits: int, groups: int) -> None:
    convolution = random_convolution(seed, bits, groups)
    channels = input_shape(convolution)[0]
    halves = affine([1.0] * channels, [-127.5] * channels)
    graph = chain(halves, Sign(), convolution, shape=input_shape(convolution))
    pixels = np.concatenate([extreme_pixels(convolution, largest=m, low_value=-1) for m in (False, True)])
    _, program = quantised_and_lowered(graph, pixels)
    found = run_all(program, pixels)["n2"]
    dtype = program.tensor["n2"].dtype
    largest = int(np.abs(convolution.weights.astype(np.int64)).sum(axis=(1, 2, 3)).max())
    assert type(dtype).containing(-largest, largest) == dtype
    assert (found.min(), found.max()) == (-largest, largest)


@settings(deadline=None, max_examples=15)
@given(networks(), SEEDS)
def test_no_image_leaves_a_declared_width(network: Network, seed: int) -> None:
    """first_difference asserts the declared width of every tensor; black, white and noise are no calibration images."""
    _, program = quantised_and_lowered(import_onnx(network.onnx), network.pixels)
    random = np.random.default_rng(seed)
    shape = (1, *network.pixels.shape[1:])
    extremes = [np.full(shape, 255), np.zeros(shape), 255 * random.integers(0, 2, shape)]
    images = np.concatenate(extremes).astype(np.uint8)
    reference = Machine(program, "reference")
    assert first_difference(reference, reference, images).difference is None


def test_sum_beyond_32_bits_is_refused_with_the_layer() -> None:
    channels = 1 << 13
    weights = np.ones((2, channels, 1, 1), np.float32)
    weights[0, 0] = 0.5
    norm = affine([1.0] * channels, [0.0] * channels)
    shifted = affine([1.0] * channels, [0.5] * channels)
    graph = chain(norm, shifted, Convolution(weights=weights, window=Window(kernel=(1, 1))), shape=(channels, 1, 1))
    pixels = np.full((1, 1, 1, channels), 255, np.uint8)
    with pytest.raises(PassFailed, match=r"Convolution 'n2': its sums take 33 bits with their sign, at most 32"):
        quantised_and_lowered(graph, pixels, CompileOptions(input_bits=12))


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


# Single instructions.


def test_norm_of_the_image_is_one_table_a_colour() -> None:
    norm = affine([0.02, -0.013, 0.0], [-2.5, 1.0, 0.25])
    convolution = Convolution(weights=np.ones((2, 3, 1, 1), np.int8), window=Window(kernel=(1, 1)), weight_bits=1)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    graph, program = quantised_and_lowered(chain(norm, convolution, GlobalAveragePool(), shape=(3, 16, 16)), pixels)
    (look_up,) = [i for i in program.instructions if isinstance(i, LookUp)]
    table = program.constants[look_up.table]
    (coding,) = [n.attributes.quantisation for n in graph.nodes if isinstance(n.attributes, Quantise)]
    assert table.shape == (3, 256)
    exact = norm.scale[:, None] * np.arange(256) + norm.shift[:, None]
    np.testing.assert_array_equal(table, quantise(exact, coding))
    assert not any(isinstance(i, Requantise) and i.inputs[0] == program.input for i in program.instructions)


def test_same_function_for_all_colours_is_one_table() -> None:
    convolution = Convolution(weights=np.ones((2, 3, 1, 1), np.int8), window=Window(kernel=(1, 1)), weight_bits=1)
    graph = chain(affine([0.5] * 3, [-1.0] * 3), convolution, shape=(3, 1, 1))
    _, program = quantised_and_lowered(graph, np.full((2, 1, 1, 3), (0, 128, 255), np.uint8))
    (look_up,) = [i for i in program.instructions if isinstance(i, LookUp)]
    assert program.constants[look_up.table].shape == (1, 256)


def test_padded_average_has_one_constant_a_divisor() -> None:
    """A 3x3 window of stride 1 divides by 9 inside, 6 at the edges, 4 in the corners."""
    random = np.random.default_rng(0)
    first = Convolution(
        weights=random.choice(np.array((-1, 1), np.int8), (2, 3, 1, 1)), window=Window(kernel=(1, 1)), weight_bits=1
    )
    last = Convolution(weights=np.ones((2, 2, 5, 5), np.int8), window=Window(kernel=(5, 5)), weight_bits=1)
    graph = chain(first, AveragePool(window=SAME), Clamp(low=0.0), last, shape=(3, 5, 5))
    pixels = random.integers(0, 256, (4, 5, 5, 3)).astype(np.uint8)
    quantised, program = quantised_and_lowered(graph, pixels)
    (pool,) = [i for i in program.instructions if isinstance(i, PoolSum)]
    (step,) = [i for i in program.instructions if isinstance(i, Requantise) and i.inputs == (pool.output,)]
    classes = program.constants[step.position_classes]
    expected = np.full((5, 5), 9)
    expected[[0, -1]], expected[:, [0, -1]] = 6, 6
    expected[np.ix_([0, -1], [0, -1])] = 4
    ratio = program.constants[step.multiplier] / np.exp2(program.constants[step.shift])
    assert ratio.shape == (3, 1)
    np.testing.assert_allclose(ratio[classes][..., 0] * expected, ratio[classes][2, 2, 0] * 9, rtol=1e-6)
    for name, found, exact in expected_codes(quantised, program, pixels):
        assert np.abs(found - exact).max() <= 1, name


def test_shifted_relu_is_the_lower_clamp_alone() -> None:
    """Code 0 is the floor -1 and stands for it exactly; the clamp is that of the width."""
    random = np.random.default_rng(0)
    weights = random.choice(np.array((-1, 1), np.float32), (2, 3, 1, 1)) / np.float32(200)
    last = Convolution(weights=np.ones((2, 2, 1, 1), np.float32), window=Window(kernel=(1, 1)))
    graph = chain(Convolution(weights=weights, window=Window(kernel=(1, 1))), Clamp(low=-1.0), last, shape=(3, 1, 1))
    pixels = random.integers(0, 256, (50, 1, 1, 3)).astype(np.uint8)
    _, program = quantised_and_lowered(graph, pixels)
    (step,) = [i for i in program.instructions if isinstance(i, Requantise)]
    tensor = program.tensor[step.output]
    assert (step.low, step.high) == (tensor.dtype.low, tensor.dtype.high)
    assert tensor.scale * (0 - tensor.zero_point) == -1.0


@pytest.mark.parametrize(
    "middle",
    [
        (affine([2.0, -3.0], [0.1, 0.2]),),
        (ChannelPad(before=1, after=1), affine([2.0, -3.0, 1.0, 0.5], [0.1, 0.2, 0.3, 0.4])),
        (MaxPool(window=SAME), affine([2.0, -3.0], [0.1, 0.2])),
        (AveragePool(window=SAME), affine([2.0, -3.0], [0.1, 0.2]), Clamp(low=-0.5)),
        (Sign(),),
    ],
    ids=["affine", "channel pad", "max pool", "average pool", "sign"],
)
def test_codes_with_a_zero_point_are_read_as_their_real_values(middle: tuple[Attributes, ...]) -> None:
    random = np.random.default_rng(0)
    weights = random.choice(np.array((-1, 1), np.float32), (2, 3, 1, 1)) / np.float32(100)
    channels = 4 if isinstance(middle[0], ChannelPad) else 2
    last = Convolution(
        weights=random.choice(np.array((-1, 1), np.float32), (2, channels, 5, 5)), window=Window(kernel=(5, 5))
    )
    first = Convolution(weights=weights, window=Window(kernel=(1, 1)))
    graph = chain(first, Clamp(low=-1.0, high=0.5), *middle, last, shape=(3, 5, 5))
    pixels = random.integers(0, 256, (4, 5, 5, 3)).astype(np.uint8)
    quantised, program = quantised_and_lowered(graph, pixels)
    zero_points = [n.attributes.quantisation.zero_point for n in quantised.nodes if isinstance(n.attributes, Quantise)]
    assert any(zero_points) or isinstance(middle[0], Sign)
    for name, found, expected in expected_codes(quantised, program, pixels):
        assert np.abs(found - expected).max() <= 1, name


def test_residual_additions_have_one_scale() -> None:
    builder = power_of_two_network(1, shifted_relu=True)
    model = builder.model(builder.nodes[-1].output[0])
    _, program = quantised_and_lowered(import_onnx(model), as_nhwc(random_pixels(builder, 4)))
    (addition,) = [i for i in program.instructions if isinstance(i, AddSaturating)]
    codings = {(t.dtype, t.scale, t.zero_point) for t in map(program.tensor.get, addition.inputs) if t is not None}
    assert len(codings) == 1


def test_groups_and_weights_are_kept() -> None:
    random = np.random.default_rng(0)
    weights = random.integers(-7, 8, (4, 2, 3, 3)).astype(np.int8)
    convolution = Convolution(weights=weights, window=SAME, groups=2, weight_bits=4)
    program = lower(chain(convolution, GlobalAveragePool(), shape=(4, 5, 5)), FINE.requantisation, PROVENANCE)
    (convolve,) = [i for i in program.instructions if isinstance(i, Convolve)]
    assert (convolve.groups, convolve.weight_bits, convolve.weight_shape) == (2, 4, (4, 3, 3, 2))
    np.testing.assert_array_equal(program.weights_of(convolve), weights.transpose(0, 2, 3, 1))


ONE = Convolution(weights=np.ones((2, 2, 1, 1), np.int8), window=Window(kernel=(1, 1)), weight_bits=1)


@pytest.mark.parametrize(
    ("nodes", "fragment"),
    [
        ((ONE, Sign(), GlobalAveragePool()), "GlobalAveragePool 'n2' averages 1-bit activations"),
        ((ONE, Sign(), AveragePool(window=Window(kernel=(2, 2)))), "AveragePool 'n2' averages 1-bit activations"),
        ((ONE, Sign(), ChannelPad(before=1, after=0)), "ChannelPad 'n2': zero channels have no 1-bit code"),
        (
            (ONE, AveragePool(window=Window(kernel=(1, 1), pads=(1, 0, 0, 0)))),
            "AveragePool 'n1': a window holds nothing but padding",
        ),
        ((ONE,), "the output 'n0' has 3x3 positions; expected one number a class"),
    ],
)
def test_what_integers_cannot_express_is_refused(nodes: tuple[Attributes, ...], fragment: str) -> None:
    graph = chain(*nodes, shape=(2, 3, 3))
    with pytest.raises(PassFailed, match=fragment):
        quantised_and_lowered(graph, np.zeros((1, 3, 3, 2), np.uint8))


def test_negative_gain_that_no_weight_can_take_is_refused_by_shift() -> None:
    graph = chain(ONE, GlobalAveragePool(), Clamp(low=-1.0), affine([1.0, -2.0], [0.0, 0.0]), ONE, shape=(2, 3, 3))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 2)).astype(np.uint8)
    with pytest.raises(PassFailed, match=r"requantise step of .*: 1 channels have a negative gain"):
        quantised_and_lowered(graph, pixels, CompileOptions(requantise="shift"))
