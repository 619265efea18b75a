"""Weights become integers and a scale: the cases of `bnhw.passes.weight_scales`, and the function is kept."""

import numpy as np
import pytest
from graph_helpers import chain, same_function
from hypothesis import given, settings
from model_strategies import Model, models
from pass_helpers import SAME, all_of, binarised, convolution, expect_same, only

from bnhw.importer import import_onnx
from bnhw.ops import Add, Affine, Convolution
from bnhw.passes.weight_scales import ExtractWeightScales
from bnhw.verify import check_graph


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
