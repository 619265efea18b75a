"""Every pass: each case of its docstring, and that it keeps the meaning of random graphs."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Model, ModelBuilder, affine, chain, models, same_function, small_network

from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Attributes, Graph, Node
from bnhw.importer import import_onnx
from bnhw.ops import (
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Quantise,
    QuantisePoint,
    Role,
    Sign,
    Window,
    ZeroPad,
)
from bnhw.options import CompileOptions
from bnhw.passes.absorb import AbsorbFlatten, AbsorbZeroPads
from bnhw.passes.base import Pass, run_passes
from bnhw.passes.calibrate import BATCH, Range, observe_ranges
from bnhw.passes.fold import FoldConstants
from bnhw.passes.pipeline import float_passes, normalise_input, quantise_graph
from bnhw.passes.place import PlaceQuantisePoints
from bnhw.passes.scales import LOGIT_BITS, ChooseScales
from bnhw.passes.weight_scales import ExtractWeightScales
from bnhw.verify import check_graph, evaluate, evaluate_outputs

Kind = TypeVar("Kind", bound=Attributes)

RELU = Clamp(low=0.0)
SHIFTED = Clamp(low=-1.0)
SAME = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
PADDED_POOL = Window(kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1))
MULTIPLY = CompileOptions()
SHIFT = CompileOptions(requantise="shift")


def images(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, (3, *shape)).astype(np.float32)


def convolution(
    out: int, channels: int, *, window: Window = SAME, seed: int = 0, bits: int | None = None
) -> Convolution:
    random = np.random.default_rng(seed)
    shape = (out, channels, *window.kernel)
    if bits is None:
        return Convolution(weights=random.normal(0, 1, shape).astype(np.float32), window=window)
    weights = random.choice(np.array((-1, 1), np.int8), shape)
    return Convolution(weights=weights if bits == 1 else weights * np.int8(3), window=window, weight_bits=bits)


def expect_same(graph: Graph, result: Graph, seed: int = 0) -> Graph:
    check_graph(result)
    assert same_function(graph, result, images(*graph.inputs[0].shape, seed=seed))
    return result


def kinds(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def only(graph: Graph, kind: type[Kind]) -> Kind:
    (found,) = [node.attributes for node in graph.nodes if isinstance(node.attributes, kind)]
    return found


def all_of(graph: Graph, kind: type[Kind]) -> list[Kind]:
    return [node.attributes for node in graph.nodes if isinstance(node.attributes, kind)]


def binarised(graph: Graph) -> Graph:
    """The graph with 1-bit weights: the signs times the mean magnitude of each output channel."""
    nodes = []
    for node in graph.nodes:
        if isinstance(node.attributes, Convolution):
            weights = node.attributes.weights
            magnitude = np.abs(weights).mean(axis=(1, 2, 3), keepdims=True).astype(np.float32)
            signs = np.where(weights >= 0, magnitude, -magnitude)
            node = replace(node, attributes=replace(node.attributes, weights=signs))
        nodes.append(node)
    return graph.with_nodes(nodes)


# Absorbing shapes.


def test_absorb_case_1_zero_pad_becomes_padding_of_the_convolution() -> None:
    graph = chain(ZeroPad(pads=(1, 2, 0, 3)), convolution(4, 2), shape=(2, 5, 5))
    result = expect_same(graph, AbsorbZeroPads().run(graph))
    assert kinds(result) == ["Convolution"]
    assert only(result, Convolution).window.pads == (2, 3, 1, 4)


@pytest.mark.parametrize("pool", [
    AveragePool(window=Window(kernel=(2, 2))),
    AveragePool(window=PADDED_POOL, count_padding=True),
])  # fmt: skip
def test_absorb_case_2_zero_pad_counts_in_the_average(pool: AveragePool) -> None:
    graph = chain(ZeroPad(pads=(1, 0, 0, 1)), pool, shape=(2, 5, 5))
    result = expect_same(graph, AbsorbZeroPads().run(graph))
    assert kinds(result) == ["AveragePool"]
    assert only(result, AveragePool).count_padding


def test_absorb_case_2_pool_with_uncounted_padding_is_refused() -> None:
    graph = chain(ZeroPad(pads=(1, 0, 0, 1)), AveragePool(window=PADDED_POOL), shape=(2, 5, 5))
    with pytest.raises(PassFailed, match="AveragePool 'n1' reads a zero-padded value"):
        AbsorbZeroPads().run(graph)


@pytest.mark.parametrize("reader", [MaxPool(window=Window(kernel=(2, 2))), RELU, GlobalAveragePool()])
def test_absorb_case_3_zero_pad_before_anything_else_is_refused(reader: Attributes) -> None:
    graph = chain(ZeroPad(pads=(1, 0, 0, 1)), reader, shape=(2, 5, 5))
    with pytest.raises(PassFailed, match="'n1' reads a zero-padded value; only convolutions"):
        AbsorbZeroPads().run(graph)


def test_absorb_case_3_zero_pad_as_second_operand_or_output_is_refused() -> None:
    pad = ("pad", ZeroPad(pads=(0, 0, 0, 1)), ("image",))
    joined = chain(
        pad, ("half", convolution(2, 2, window=SAME), ("pad",)), ("sum", Add(), ("half", "pad")), shape=(2, 5, 5)
    )
    for graph in (joined, chain(pad, shape=(2, 5, 5))):
        with pytest.raises(PassFailed, match="ZeroPad 'pad' is not read by a convolution or an average pool"):
            AbsorbZeroPads().run(graph)


def test_absorbed_pad_stays_for_no_reader() -> None:
    pad = ("pad", ZeroPad(pads=(1, 1, 1, 1)), ("image",))
    first = ("first", convolution(2, 2, seed=1), ("pad",))
    graph = chain(
        pad,
        first,
        ("second", convolution(2, 2, seed=2), ("pad",)),
        ("sum", Add(), ("first", "second")),
        shape=(2, 4, 4),
    )
    result = expect_same(graph, AbsorbZeroPads().run(graph))
    assert kinds(result) == ["Convolution", "Convolution", "Add"]


@pytest.mark.parametrize("between", [(RELU,), (Sign(),), (affine([2] * 6 + [3] * 6, [1] * 6 + [0] * 6), SHIFTED)])
def test_absorb_case_4_flatten_moves_down_past_pointwise_nodes(between: tuple[Attributes, ...]) -> None:
    dense = convolution(4, 12, window=Window(kernel=(1, 1)))
    graph = chain(Flatten(), *between, dense, shape=(2, 3, 2))
    result = expect_same(graph, AbsorbFlatten().run(graph))
    assert "Flatten" not in kinds(result)
    assert only(result, Convolution).window.kernel == (3, 2)


def test_absorb_case_4_constants_that_differ_between_pixels_are_refused() -> None:
    numbers = [1.0] * 11 + [2.0]
    graph = chain(
        Flatten(), affine(numbers, [0.0] * 12), convolution(4, 12, window=Window(kernel=(1, 1))), shape=(2, 3, 2)
    )
    with pytest.raises(PassFailed, match="scales the pixels of a flattened image differently"):
        AbsorbFlatten().run(graph)


def test_absorb_case_5_dense_layer_becomes_an_image_sized_kernel() -> None:
    dense = convolution(4, 24, window=Window(kernel=(1, 1)))
    graph = chain(Flatten(), dense, shape=(2, 3, 4))
    result = expect_same(graph, AbsorbFlatten().run(graph))
    assert only(result, Convolution).weights.shape == (4, 2, 3, 4)
    np.testing.assert_array_equal(only(result, Convolution).weights.reshape(4, -1), dense.weights.reshape(4, -1))


def test_absorb_case_5_every_reader_of_the_flattened_image_becomes_a_convolution() -> None:
    one = Window(kernel=(1, 1))
    graph = chain(
        ("flat", Flatten(), ("image",)),
        ("a", convolution(3, 8, window=one, seed=1), ("flat",)),
        ("floor", RELU, ("flat",)),
        ("b", convolution(3, 8, window=one, seed=2), ("floor",)),
        ("sum", Add(), ("a", "b")),
        shape=(2, 2, 2),
    )
    result = expect_same(graph, AbsorbFlatten().run(graph))
    assert sorted(kinds(result)) == ["Add", "Clamp", "Convolution", "Convolution"]


def test_absorb_case_6_flatten_before_anything_else_is_refused() -> None:
    joined = chain(("flat", Flatten(), ("image",)), ("two", Concatenate(), ("flat", "flat")), shape=(2, 3, 3))
    with pytest.raises(PassFailed, match="Concatenate 'two' reads the flattened image 'flat'"):
        AbsorbFlatten().run(joined)
    with pytest.raises(PassFailed, match="the output is an image; expected one number a class"):
        AbsorbFlatten().run(chain(RELU, Flatten(), shape=(2, 3, 3)))


@settings(deadline=None, max_examples=60)
@given(models())
def test_absorbing_keeps_the_function(model: Model) -> None:
    graph = import_onnx(model.onnx)
    for step in (AbsorbZeroPads(), AbsorbFlatten()):
        result = step.run(graph)
        check_graph(result)
        assert same_function(graph, result, model.images)
        graph = result
    assert not {"ZeroPad", "Flatten"} & set(kinds(graph))


# Weights become integers.


def test_weight_scales_case_1_two_valued_channels_become_one_bit() -> None:
    signs = convolution(4, 2, bits=1).weights
    magnitudes = np.array([0.1, 2.0, 0.0, 1e-3], np.float32)
    graph = chain(Convolution(weights=signs * magnitudes[:, None, None, None], window=SAME), shape=(2, 4, 4))
    result = expect_same(graph, ExtractWeightScales().run(graph))
    found = only(result, Convolution)
    assert found.weight_bits == 1
    np.testing.assert_array_equal(found.weights[[0, 1, 3]], signs[[0, 1, 3]])
    np.testing.assert_array_equal(only(result, Affine).scale, magnitudes.astype(np.float64))
    assert not result.notes


def test_weight_scales_case_1_batch_norm_fused_by_an_exporter_leaves_one_bit() -> None:
    gain = np.array([0.7, -0.3, 0.0, 1.1], np.float32)
    weights = (0.25 * convolution(4, 2, bits=1).weights * gain[:, None, None, None]).astype(np.float32)
    graph = chain(Convolution(weights=weights, window=SAME), shape=(2, 4, 4))
    result = expect_same(graph, ExtractWeightScales().run(graph))
    assert only(result, Convolution).weight_bits == 1


def test_weight_scales_case_2_one_ulp_is_no_one_bit_weight() -> None:
    weights = convolution(4, 2, bits=1).weights.astype(np.float32)
    weights[2, 1, 0, 2] = np.nextafter(weights[2, 1, 0, 2], np.float32(9))
    graph = chain(Convolution(weights=weights, window=SAME), shape=(2, 4, 4))
    result = ExtractWeightScales(weight_bits=5).run(graph)
    assert only(result, Convolution).weight_bits == 5
    assert result.notes == ("1 layer has no 1-bit weights, rounded to 5 bits, on multipliers: n0",)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weight_scales_case_2_rounds_to_the_nearest_integer(bits: int) -> None:
    graph = chain(convolution(4, 2), shape=(2, 4, 4))
    result = ExtractWeightScales(weight_bits=bits).run(graph)
    check_graph(result)
    scale = only(result, Affine).scale[:, None, None, None]
    error = np.abs(only(result, Convolution).weights * scale - only(graph, Convolution).weights)
    assert (error <= scale * 0.5000001).all()


def test_weight_scales_rename_every_reader_and_the_output() -> None:
    graph = chain(
        ("a", convolution(2, 2, seed=1), ("image",)),
        ("b", convolution(2, 2, seed=2), ("a",)),
        ("sum", Add(), ("a", "b")),
        shape=(2, 4, 4),
    )
    for outputs in (("sum",), ("b",)):
        before = binarised(graph).with_nodes(binarised(graph).nodes, outputs=outputs)
        expect_same(before, ExtractWeightScales().run(before))


@settings(deadline=None, max_examples=60)
@given(models())
def test_weight_scales_keep_the_function_of_one_bit_networks(model: Model) -> None:
    graph = binarised(import_onnx(model.onnx))
    result = ExtractWeightScales().run(graph)
    check_graph(result)
    assert same_function(graph, result, model.images)
    assert all(found.weight_bits == 1 for found in all_of(result, Convolution))


# Folding.


def folded(*nodes: Attributes | tuple[str, Attributes, tuple[str, ...]], shape: tuple[int, int, int]) -> Graph:
    graph = chain(*nodes, shape=shape)
    return expect_same(graph, FoldConstants().run(graph))


def test_fold_case_1_affine_of_affine_is_one_in_float64() -> None:
    result = folded(affine([1 / 3, 2], [0.1, 5]), affine([3, -7], [0.7, 1]), shape=(2, 2, 2))
    assert kinds(result) == ["Affine"]
    np.testing.assert_array_equal(only(result, Affine).scale, [3 * (1 / 3), -14])
    np.testing.assert_array_equal(only(result, Affine).shift, [3 * 0.1 + 0.7, -7 * 5.0 + 1])


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        (RELU, Clamp(high=6.0), Clamp(low=0.0, high=6.0)),
        (Clamp(high=6.0), RELU, Clamp(low=0.0, high=6.0)),
        (SHIFTED, RELU, RELU),
        (Clamp(low=-1, high=2), Clamp(low=-3, high=1), Clamp(low=-1, high=1)),
    ],
)
def test_fold_case_2_clamp_of_clamp_is_one(inner: Clamp, outer: Clamp, expected: Clamp) -> None:
    assert only(folded(inner, outer, shape=(2, 3, 3)), Clamp) == expected


def test_fold_case_2_clamps_that_leave_one_number_stay() -> None:
    assert kinds(folded(Clamp(high=-1.0), RELU, shape=(2, 3, 3))) == ["Clamp", "Clamp"]


def test_fold_case_3_positive_affine_moves_in_front_of_the_clamp() -> None:
    result = folded(affine([1, 3], [0, 1]), Clamp(low=-1, high=4), affine([0.5, 0.5], [2, 2]), shape=(2, 3, 3))
    assert kinds(result) == ["Affine", "Clamp"]
    assert only(result, Clamp) == Clamp(low=1.5, high=4.0)


@pytest.mark.parametrize("outer", [affine([1, 2], [0, 0]), affine([-1, -1], [0, 0]), affine([2, 2], [0, 1])])
def test_fold_case_3_other_affines_stay_behind_the_clamp(outer: Affine) -> None:
    assert kinds(folded(RELU, outer, shape=(2, 3, 3))) == ["Clamp", "Affine"]


@pytest.mark.parametrize("pool", [GlobalAveragePool(), AveragePool(window=PADDED_POOL)])
def test_fold_case_4_average_pool_comes_first(pool: Attributes) -> None:
    assert kinds(folded(affine([-2, 3], [1, 5]), pool, shape=(2, 5, 5))) == [type(pool).__name__, "Affine"]


def test_fold_case_4_counted_padding_stops_a_shift_but_not_a_scale() -> None:
    pool = AveragePool(window=PADDED_POOL, count_padding=True)
    assert kinds(folded(affine([-2, 3], [1, 5]), pool, shape=(2, 5, 5))) == ["Affine", "AveragePool"]
    assert kinds(folded(affine([-2, 3], [0, 0]), pool, shape=(2, 5, 5))) == ["AveragePool", "Affine"]


@pytest.mark.parametrize("rising", [RELU, Sign(), affine([2, 3], [1, -5])])
def test_fold_case_5_max_pool_comes_behind_rising_functions(rising: Attributes) -> None:
    pool = MaxPool(window=PADDED_POOL)
    result = folded(pool, rising, shape=(2, 5, 5))
    assert kinds(result) == [type(rising).__name__, "MaxPool"]
    assert kinds(folded(rising, pool, shape=(2, 5, 5))) == kinds(result)


def test_fold_case_5_max_pool_stays_before_falling_and_shared_ones() -> None:
    pool = MaxPool(window=PADDED_POOL)
    for scale in ([2, -3], [2, 0]):
        assert kinds(folded(pool, affine(scale, [1, -5]), shape=(2, 5, 5))) == ["MaxPool", "Affine"]
        assert kinds(folded(affine(scale, [1, -5]), pool, shape=(2, 5, 5))) == ["Affine", "MaxPool"]
    shared = folded(("pool", pool, ("image",)), ("a", RELU, ("pool",)), ("sum", Add(), ("a", "pool")), shape=(2, 5, 5))
    assert kinds(shared) == ["MaxPool", "Clamp", "Add"]


def test_fold_case_6_positive_factor_moves_behind_the_convolution() -> None:
    result = folded(affine([2, 2], [0, 0]), convolution(4, 2), shape=(2, 4, 4))
    assert kinds(result) == ["Convolution", "Affine"]
    np.testing.assert_array_equal(only(result, Affine).scale, [2, 2, 2, 2])


@pytest.mark.parametrize("inner", [affine([2, 2], [1, 1]), affine([2, 3], [0, 0]), affine([-2, -2], [0, 0])])
def test_fold_case_6_anything_else_stays_in_front_of_the_convolution(inner: Affine) -> None:
    assert kinds(folded(inner, convolution(4, 2), shape=(2, 4, 4))) == ["Affine", "Convolution"]


@pytest.mark.parametrize("bits", [1, 8])
def test_fold_case_7_negative_gain_negates_the_weights(bits: int) -> None:
    weights = convolution(3, 2, bits=bits)
    result = folded(weights, affine([-2, 3, 0], [1, 1, 1]), shape=(2, 4, 4))
    np.testing.assert_array_equal(only(result, Affine).scale, [2, 3, 0])
    np.testing.assert_array_equal(only(result, Convolution).weights[0], -weights.weights[0])
    np.testing.assert_array_equal(only(result, Convolution).weights[1:], weights.weights[1:])


def test_fold_case_7_weights_that_something_else_reads_stay() -> None:
    result = folded(
        ("a", convolution(2, 2, bits=1), ("image",)),
        ("b", affine([-2, 3], [1, 1]), ("a",)),
        ("sum", Add(), ("a", "b")),
        shape=(2, 4, 4),
    )
    np.testing.assert_array_equal(only(result, Affine).scale, [-2, 3])


def test_fold_case_8_what_changes_nothing_is_dropped() -> None:
    result = folded(affine([1, 1], [0, 0]), Clamp(), RELU, affine([1, 1], [0, 0]), Clamp(), shape=(2, 3, 3))
    assert kinds(result) == ["Clamp"]
    assert result.outputs == ("n2",)


def test_fold_case_9_sign_of_a_clamp_around_zero_is_the_sign() -> None:
    for clamp in (Clamp(low=-1, high=1), Clamp(low=-0.1), Clamp(high=0.0), Clamp(low=-1e-30, high=0.0)):
        assert kinds(folded(clamp, Sign(), shape=(2, 3, 3))) == ["Sign"]
    for clamp in (RELU, Clamp(high=-0.5), Clamp(low=0.5)):
        assert kinds(folded(clamp, Sign(), shape=(2, 3, 3))) == ["Clamp", "Sign"]


def test_batch_norm_on_the_input_is_not_folded_into_a_zero_padded_convolution() -> None:
    """At the border the padding comes behind the norm: only inside could the shift become a bias."""
    builder = ModelBuilder(channels=2, height=5, width=5)
    value = builder.convolution(builder.batch_norm(builder.image), builder.signs((3, 2, 3, 3)), pads=(1, 1, 1, 1))
    graph = import_onnx(builder.model(builder.flatten(value)))
    graph = graph.with_nodes(graph.nodes[:-1], outputs=(graph.nodes[-2].output,))
    result = expect_same(graph, run_passes(graph, float_passes(MULTIPLY)[2:4]))
    assert kinds(result)[:2] == ["Affine", "Convolution"]
    zeros = np.zeros((1, 2, 5, 5), np.float32)
    before, after = (evaluate_outputs(g, zeros).reshape(3, 5, 5) for g in (graph, result))
    assert not np.allclose(before[:, 0, 0], before[:, 2, 2])  # the border differs from the inside
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_folding_leaves_shared_values_for_their_other_readers() -> None:
    folded(
        ("a", affine([2, 3], [1, 5]), ("image",)),
        ("pooled", GlobalAveragePool(), ("a",)),
        ("other", RELU, ("a",)),
        ("mean", GlobalAveragePool(), ("other",)),
        ("sum", Add(), ("pooled", "mean")),
        shape=(2, 4, 4),
    )


@settings(deadline=None, max_examples=80)
@given(models(), st.booleans())
def test_folding_keeps_the_function(model: Model, integers: bool) -> None:
    graph = import_onnx(model.onnx)
    if integers:
        graph = ExtractWeightScales().run(binarised(graph))
    result = FoldConstants().run(graph)
    check_graph(result)
    assert same_function(graph, result, model.images)
    again = FoldConstants().run(result)
    assert again is result


# Placing points.


def placed(*nodes: Attributes | tuple[str, Attributes, tuple[str, ...]], shape: tuple[int, int, int]) -> Graph:
    graph = chain(*nodes, shape=shape)
    return expect_same(graph, PlaceQuantisePoints().run(graph))


def points(graph: Graph, role: Role) -> dict[str, int]:
    """The value that each point of a role reads, and its group."""
    return {
        node.inputs[0]: node.attributes.group
        for node in graph.nodes
        if isinstance(node.attributes, QuantisePoint) and node.attributes.role is role
    }


CONV = convolution(2, 2, bits=1)


def test_place_case_1_operands_of_a_residual_add_share_a_group() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("b", CONV, ("image",)),
        ("sum", Add(), ("a", "b")),
        ("reader", CONV, ("sum",)),
        shape=(2, 4, 4),
    )
    assert points(graph, Role.RESIDUAL) == {"a": 0, "b": 0}
    assert points(graph, Role.ACTIVATION) == {"sum": 1}


def test_place_case_1_adds_that_feed_each_other_share_one_group() -> None:
    """Through a max pool and zero channels too, and when two streams meet late."""
    wide = convolution(3, 2, bits=1)
    graph = placed(
        ("a", CONV, ("image",)),
        ("b", CONV, ("image",)),
        ("first", Add(), ("a", "b")),
        ("other", Add(), ("b", "image")),
        ("pooled", MaxPool(window=SAME), ("first",)),
        ("padded", ChannelPad(before=0, after=1), ("pooled",)),
        ("c", wide, ("image",)),
        ("second", Add(), ("padded", "c")),
        ("d", ChannelPad(before=1, after=0), ("other",)),
        ("third", Add(), ("second", "d")),
        shape=(2, 4, 4),
    )
    groups = points(graph, Role.RESIDUAL)
    assert set(groups) == {"a", "b", "image", "c"}
    assert len(set(groups.values())) == 1


def test_place_case_1_independent_adds_keep_groups_of_their_own() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("first", Add(), ("a", "image")),
        ("b", CONV, ("first",)),
        ("c", RELU, ("first",)),
        ("second", Add(), ("b", "c")),
        shape=(2, 4, 4),
    )
    groups = points(graph, Role.RESIDUAL)
    assert groups["a"] != groups["b"]
    assert groups["b"] == groups["c"]


def test_place_case_1_other_readers_of_a_residual_value_read_its_codes() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("floor", RELU, ("a",)),
        ("b", CONV, ("floor",)),
        ("sum", Add(), ("a", "b")),
        shape=(2, 4, 4),
    )
    (floor,) = [node for node in graph.nodes if node.name == "floor"]
    assert floor.inputs == ("a/residual",)


def test_place_case_2_convolutions_read_activation_points() -> None:
    graph = placed(CONV, RELU, CONV, RELU, CONV, shape=(2, 4, 4))
    assert list(points(graph, Role.ACTIVATION)) == ["n1", "n3"]
    assert kinds(graph) == [
        "Convolution",
        "Clamp",
        "QuantisePoint",
        "Convolution",
        "Clamp",
        "QuantisePoint",
        "Convolution",
    ]


def test_place_case_2_only_pointwise_nodes_from_the_image_make_an_input_point() -> None:
    graph = placed(affine([2, 3], [1, 1]), CONV, affine([2, 3], [1, 1]), CONV, shape=(2, 4, 4))
    assert list(points(graph, Role.INPUT)) == ["n0"]
    assert list(points(graph, Role.ACTIVATION)) == ["n2"]


def test_place_case_2_convolution_of_the_image_itself_needs_no_point() -> None:
    assert kinds(placed(CONV, shape=(2, 4, 4))) == ["Convolution"]


def test_place_case_2_one_value_has_one_point_for_all_convolutions() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("f", RELU, ("a",)),
        ("b", CONV, ("f",)),
        ("c", CONV, ("f",)),
        ("sum", Add(), ("b", "c")),
        shape=(2, 4, 4),
    )
    assert len(points(graph, Role.ACTIVATION)) == 1


def test_place_case_3_pools_read_codes() -> None:
    window = Window(kernel=(2, 2))
    for pool in (AveragePool(window=window), MaxPool(window=window), GlobalAveragePool()):
        graph = placed(CONV, RELU, pool, shape=(2, 4, 4))
        assert kinds(graph)[1:4] == ["Clamp", "QuantisePoint", type(pool).__name__]


def test_place_case_3_concatenated_values_share_a_group() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("f", RELU, ("a",)),
        ("b", CONV, ("f",)),
        ("joined", Concatenate(), ("a", "b", "f")),
        ("reader", convolution(2, 6, bits=1), ("joined",)),
        shape=(2, 4, 4),
    )
    (joined,) = [node for node in graph.nodes if node.name == "joined"]
    made = {node.output: node.attributes for node in graph.nodes}
    shared = [made[name] for name in joined.inputs]
    assert len({point.group for point in shared if isinstance(point, QuantisePoint)}) == 1
    assert all(isinstance(point, QuantisePoint) for point in shared)
    (reader,) = [node for node in graph.nodes if node.name == "reader"]
    assert reader.inputs == ("joined",)


def test_place_case_4_chain_longer_than_affine_and_clamp_gets_a_point_between() -> None:
    graph = placed(CONV, affine([2, 3], [1, 1]), RELU, affine([2, 3], [1, 1]), RELU, CONV, shape=(2, 4, 4))
    assert kinds(graph) == [
        "Convolution", "Affine", "Clamp", "QuantisePoint", "Affine", "Clamp", "QuantisePoint", "Convolution",
    ]  # fmt: skip


@pytest.mark.parametrize("second", [Sign(), Clamp(low=0.5)])
def test_place_case_4_second_clamp_or_sign_gets_a_point_in_front(second: Attributes) -> None:
    graph = placed(CONV, RELU, second, CONV, shape=(2, 4, 4))
    assert kinds(graph)[1:5] == ["Clamp", "QuantisePoint", type(second).__name__, "QuantisePoint"]


def test_place_case_4_pool_with_different_divisors_starts_a_chain() -> None:
    graph = placed(CONV, AveragePool(window=PADDED_POOL), affine([2, 3], [1, 1]), RELU, CONV, shape=(2, 5, 5))
    assert kinds(graph)[1:5] == ["AveragePool", "Affine", "Clamp", "QuantisePoint"]


@pytest.mark.parametrize("tail", [(), (affine([2, 2], [0, 0]),)])
def test_place_case_5_logits_with_one_factor_need_no_point(tail: tuple[Attributes, ...]) -> None:
    assert not points(placed(CONV, GlobalAveragePool(), *tail, shape=(2, 4, 4)), Role.LOGITS)


@pytest.mark.parametrize("tail", [affine([2, 3], [0, 0]), affine([2, 2], [0, 1]), affine([-2, -2], [0, 0]), RELU])
def test_place_case_5_other_logits_get_a_point(tail: Attributes) -> None:
    assert points(placed(CONV, GlobalAveragePool(), tail, shape=(2, 4, 4)), Role.LOGITS) == {"n2": 0}


def test_sum_of_bipolar_values_is_a_sum_of_codes_of_one_width() -> None:
    graph = placed(("a", CONV, ("image",)), ("s", Sign(), ("a",)), ("sum", Add(), ("a", "s")), shape=(2, 4, 4))
    result = ChooseScales(ranges=observe_ranges(graph, images(2, 4, 4)), options=MULTIPLY).run(graph)
    check_graph(result)
    (added,) = [node for node in result.nodes if node.name == "sum"]
    made = {node.output: node.attributes for node in result.nodes}
    codings = [made[name] for name in added.inputs]
    assert all(isinstance(coding, Quantise) for coding in codings)
    assert len({coding.quantisation for coding in codings if isinstance(coding, Quantise)}) == 1


@settings(deadline=None, max_examples=80)
@given(models())
def test_placing_keeps_the_function_and_gives_integers_everywhere(model: Model) -> None:
    graph = run_passes(import_onnx(model.onnx), float_passes(MULTIPLY)[:4])
    result = PlaceQuantisePoints().run(graph)
    check_graph(result)
    assert same_function(graph, result, model.images)
    coded = {result.inputs[0].name}
    for node in result.nodes:
        if isinstance(node.attributes, Convolution | MaxPool | AveragePool | GlobalAveragePool | Add | Concatenate):
            exact = [name in coded for name in node.inputs]
            assert all(exact), f"{node.op} {node.name} reads a value that is neither codes nor an exact sum"
        if not isinstance(node.attributes, Affine | Clamp | Sign):
            coded.add(node.output)


# Calibration.


def test_ranges_are_those_of_all_images_whatever_the_batch() -> None:
    graph = placed(affine([2, -3], [1, 1]), RELU, CONV, RELU, CONV, shape=(2, 4, 4))
    many = np.random.default_rng(1).normal(0, 1, (2 * BATCH + 3, 2, 4, 4)).astype(np.float32)
    done: list[int] = []
    ranges = observe_ranges(graph, many, done.append)
    assert done == [BATCH, 2 * BATCH, 2 * BATCH + 3]
    values = dict(evaluate(graph, many))
    for node in graph.nodes:
        if isinstance(node.attributes, QuantisePoint):
            value = values[node.output]
            found = ranges[node.attributes.group]
            assert found.low == pytest.approx(float(value.min()), rel=1e-5)
            assert found.high == pytest.approx(float(value.max()), rel=1e-5)


def test_range_of_a_residual_group_holds_the_sums_too() -> None:
    graph = placed(
        ("a", affine([1, 1], [3, 3]), ("image",)), ("sum", Add(), ("a", "a")), ("r", CONV, ("sum",)), shape=(2, 4, 4)
    )
    (group,) = points(graph, Role.RESIDUAL).values()
    x = images(2, 4, 4)
    assert observe_ranges(graph, x)[group].high == pytest.approx(2 * (float(x.max()) + 3))


def test_ranges_join() -> None:
    assert Range(low=-1, high=2).joined(Range(low=-3, high=1)) == Range(low=-3, high=2)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_value_that_is_not_finite_is_refused() -> None:
    graph = PlaceQuantisePoints().run(chain(affine([1e38, 1], [0, 0]), CONV, shape=(2, 4, 4)))
    with pytest.raises(PassFailed, match="is not finite on the calibration images"):
        observe_ranges(graph, 1e6 * images(2, 4, 4))


# Scales.


def quantised(
    *nodes: Attributes | tuple[str, Attributes, tuple[str, ...]],
    shape: tuple[int, int, int] = (2, 4, 4),
    options: CompileOptions = MULTIPLY,
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
    assert largest * 1.25 <= found["a"].scale * found["a"].dtype.high <= largest * 1.25 * 1.02


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
    found = quantised(CONV, SHIFTED, CONV, options=CompileOptions(act_bits=3), factor=100.0)["n1"]
    largest = float(evaluate_outputs(chain(CONV, shape=(2, 4, 4)), 100 * images(2, 4, 4)).max())
    assert (found.dtype, found.zero_point) == (uint(3), 0)
    assert found.scale * 7 == pytest.approx(largest, rel=0.02)


@pytest.mark.parametrize("floor", [-1000.0, -3.4028235e38])
def test_scales_case_4_floor_that_is_never_reached_costs_no_range(floor: float) -> None:
    found = quantised(CONV, Clamp(low=floor, high=6.0), CONV)["n1"]
    assert found.dtype.signed
    largest = float(np.abs(np.minimum(evaluate_outputs(chain(CONV, shape=(2, 4, 4)), images(2, 4, 4)), 6)).max())
    assert found.scale * found.dtype.high == pytest.approx(largest, rel=0.02)


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
    largest = 2 ** (14 if requantise == "shift" else options.requantisation.multiplier_bits - 2)
    assert 1 / quantised(*residual, options=options)["a"].scale <= largest
    assert 2 / quantised(*logits, options=options)["l"].scale <= largest


@pytest.mark.parametrize("requantise", ["multiply:16", "shift"])
def test_logits_with_biases_of_their_own_are_finer_than_their_integers(requantise: str) -> None:
    options = CompileOptions(requantise=requantise)
    one, own = ((CONV, GlobalAveragePool(), affine([2, 2], shift)) for shift in ([0.3, 0.3], [0.3, 0.4]))
    unit = 2 / 16
    assert quantised(*one, options=options)["n2"].scale == unit
    found = quantised(*own, options=options)["n2"].scale
    assert found <= unit / 1024
    assert np.log2(unit / found).is_integer()


def test_value_that_is_zero_on_every_image_has_a_scale() -> None:
    found = quantised(CONV, affine([1, 1], [-1e6, -1e6]), RELU, CONV)["n2"]
    assert found.scale == 1 / 255


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


def test_mode_shift_makes_every_uniform_ratio_a_power_of_two() -> None:
    network = import_onnx(small_network(seed=5, shifted_relu=True).onnx)
    graph = quantise_graph(network, SHIFT, 100 * np.abs(images(3, 9, 7)))
    steps: dict[str, float] = {}
    powers = 0
    for node in graph.nodes:
        before = steps.get(node.inputs[0])
        match node.attributes:
            case Quantise(quantisation=quantisation, role=role):
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
    options = CompileOptions(act_bits=bits, requantise=mode)
    (group,) = points(graph, Role.ACTIVATION).values()
    grid = np.float64(np.float32(largest))
    place = float(np.frexp(grid)[0]) * 256 - 1e-3
    assume(abs(place - round(place)) > 2e-4)  # just at a step of the grid the noise decides
    found = [
        ChooseScales(ranges={group: Range(low=0.0, high=number)}, options=options).run(graph)
        for number in (grid, grid * (1 + noise))
    ]
    assert only(found[0], Quantise) == only(found[1], Quantise)


@pytest.mark.parametrize("number", [1.0, 255.0, 6.0, 0.5])
def test_noise_around_a_number_of_the_grid_does_not_change_a_scale(number: float) -> None:
    graph = placed(CONV, RELU, CONV, shape=(2, 4, 4))
    (group,) = points(graph, Role.ACTIVATION).values()
    found = {
        only(
            ChooseScales(ranges={group: Range(low=0.0, high=n)}, options=MULTIPLY).run(graph), Quantise
        ).quantisation.scale
        for n in (number, number * (1 + 2e-7), number * (1 - 2e-7))
    }
    assert found == {number / 255}


# The pipeline.


class Spoil:
    """A pass that makes a graph which is not well formed."""

    def run(self, graph: Graph) -> Graph:
        return graph.with_nodes([Node(name="x", inputs=("nothing",), output=graph.outputs[0], attributes=RELU)])


def test_broken_graph_is_reported_at_the_pass_that_broke_it() -> None:
    graph = chain(RELU, shape=(2, 2, 2))
    passes: tuple[Pass, ...] = (FoldConstants(), Spoil())
    with pytest.raises(Exception, match="reads 'nothing' before it is made"):
        run_passes(graph, passes)


@settings(deadline=None, max_examples=60)
@given(models())
def test_all_float_passes_keep_the_function_of_one_bit_networks(model: Model) -> None:
    graph = binarised(import_onnx(model.onnx))
    result = run_passes(graph, float_passes(MULTIPLY))
    assert same_function(graph, result, model.images)


@pytest.mark.parametrize("mean", [(0.0,), (125.0,), (125.0, 122.0, 114.0)])
@pytest.mark.parametrize("std", [(255.0,), (51.0, 52.0, 53.0)])
def test_normalised_input_is_pixel_minus_mean_over_std(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    graph = import_onnx(small_network().onnx)
    result = normalise_input(graph, CompileOptions(input_mean=mean, input_std=std))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 9, 7)).astype(np.float32)
    normal = (pixels - np.reshape(np.array(mean, np.float32), (1, -1, 1, 1))) / np.reshape(
        np.array(std, np.float32), (1, -1, 1, 1)
    )
    np.testing.assert_allclose(evaluate_outputs(result, pixels), evaluate_outputs(graph, normal), rtol=1e-4, atol=1e-4)


def test_no_normalisation_is_no_node() -> None:
    graph = import_onnx(small_network().onnx)
    assert normalise_input(graph, CompileOptions()) is graph


def test_normalisation_for_another_number_of_colours_is_refused() -> None:
    with pytest.raises(ValueError, match="input_mean has 2 numbers for 3 colours"):
        normalise_input(import_onnx(small_network().onnx), CompileOptions(input_mean=(1.0, 2.0)))
