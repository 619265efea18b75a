"""Constants are folded: the cases of `bnhw.passes.fold`, and the function is kept."""

import numpy as np
import pytest
from graph_helpers import affine, chain, same_function
from hypothesis import given, settings
from hypothesis import strategies as st
from model_builder import ModelBuilder
from model_strategies import Model, models
from pass_helpers import MULTIPLY, PADDED_POOL, RELU, SHIFTED, binarised, convolution, expect_same, kinds, only

from bnhw.graph import Attributes, Graph
from bnhw.importer import import_onnx
from bnhw.monotone import Function
from bnhw.ops import Activation, Add, Affine, AveragePool, Clamp, Convolution, GlobalAveragePool, MaxPool, Sign
from bnhw.passes.base import run_passes
from bnhw.passes.fold import FoldConstants
from bnhw.passes.pipeline import float_passes
from bnhw.passes.weight_scales import ExtractWeightScales
from bnhw.verify import check_graph, evaluate_outputs


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


@pytest.mark.parametrize("rising", [RELU, Sign(), Activation(function=Function.TANH), affine([2, 3], [1, -5])])
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
    result = folded(
        ("a", affine([2, 3], [1, 5]), ("image",)),
        ("pooled", GlobalAveragePool(), ("a",)),
        ("other", RELU, ("a",)),
        ("mean", GlobalAveragePool(), ("other",)),
        ("sum", Add(), ("pooled", "mean")),
        shape=(2, 4, 4),
    )
    assert result.producers["other"].inputs == ("a",)
    assert isinstance(result.producers["a"].attributes, Affine)
    assert result.producers["pooled"].inputs != ("a",)


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
