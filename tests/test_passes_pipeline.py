"""The passes in their order, and the normalisation of the input."""

import numpy as np
import pytest
from graph_helpers import chain, same_function
from hypothesis import given, settings
from model_strategies import Model, models, small_network
from pass_helpers import MULTIPLY, RELU, binarised

from bnhw.graph import Graph, Node
from bnhw.importer import import_onnx
from bnhw.options import CompileOptions
from bnhw.passes.base import Pass, run_passes
from bnhw.passes.fold import FoldConstants
from bnhw.passes.pipeline import float_passes, normalise_input
from bnhw.verify import evaluate_outputs


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
