"""What single operations are lowered to, and what integers cannot express."""

import numpy as np
import pytest
from exact_evaluation import PROVENANCE, SAME, expected_codes, power_of_two_network, quantised_and_lowered
from graph_helpers import affine, chain
from model_builder import as_nhwc, random_pixels

from bnhw.errors import PassFailed
from bnhw.graph import Attributes
from bnhw.importer import import_onnx
from bnhw.lower import lower
from bnhw.ops import (
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
)
from bnhw.options import CompileOptions
from bnhw.program import AddSaturating, Convolve, LookUp, PoolSum, Requantise


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
    assert ratio.shape[0] == 3
    assert (ratio == ratio[:, :1]).all()  # the offsets differ between channels, each exact at a channel's own centre
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
    program = lower(chain(convolution, GlobalAveragePool(), shape=(4, 5, 5)), PROVENANCE)
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
