"""The float graph under onnxruntime equals its numpy evaluation, value by value."""

from collections.abc import Collection

import numpy as np
import pytest
from graph_helpers import affine, chain, largest_error, pointwise_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from model_strategies import Model, Network, models, networks
from pass_helpers import CONV, RELU, images

from bnhw import graph_onnx
from bnhw.compiler import calibration_images
from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.errors import BadInput, InvalidGraph
from bnhw.graph import Attributes, Graph
from bnhw.graph_onnx import GraphRunner, graph_to_onnx, run_outputs
from bnhw.importer import import_onnx
from bnhw.ops import (
    OPS,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Pads,
    Quantise,
    QuantisePoint,
    Role,
    Sign,
    Window,
    ZeroPad,
)
from bnhw.options import CompileOptions
from bnhw.passes.base import run_passes
from bnhw.passes.pipeline import float_passes, quantise_graph
from bnhw.verify import evaluate, evaluate_outputs

TOLERANCE = 1e-5
"""Relative to the largest number of a value; float32 sums in another order."""


def all_values(graph: Graph) -> list[str]:
    return [graph.inputs[0].name, *(node.output for node in graph.nodes)]


def assert_same_values(graph: Graph, batch: Array, values: Collection[str] | None = None) -> None:
    expected = dict(evaluate(graph, batch))
    wanted = all_values(graph) if values is None else values
    found = GraphRunner(graph, wanted, threads=1).run(batch)
    assert set(found) == set(wanted)
    for name in wanted:
        assert found[name].shape == expected[name].shape
        assert found[name].dtype == np.float32
        assert largest_error(found[name], expected[name]) <= TOLERANCE, name


@given(models())
def test_imported_models_have_the_same_values(model: Model) -> None:
    assert_same_values(import_onnx(model.onnx), model.images)


@given(models(), st.data())
def test_graphs_behind_the_float_passes_have_the_same_values(model: Model, data: st.DataObject) -> None:
    """All values, and few of them, where onnxruntime merges the nodes between."""
    graph = run_passes(import_onnx(model.onnx), float_passes(CompileOptions()))
    assert_same_values(graph, model.images)
    assert_same_values(graph, model.images, data.draw(st.sets(st.sampled_from(all_values(graph)))))


@settings(deadline=None)
@given(networks())
def test_quantised_graphs_have_the_same_codes_behind_equal_values(network: Network) -> None:
    """Value by value: one float32 rounding may move a code, and all behind it."""
    graph = import_onnx(network.onnx)
    batch = calibration_images(graph, network.pixels)
    graph = quantise_graph(graph, CompileOptions(), batch)
    values = dict(evaluate(graph, batch))
    for node in graph.nodes:
        if isinstance(node.attributes, Quantise):
            source, codes = values[node.inputs[0]], values[node.output]
            single = chain(node.attributes, shape=source.shape[1:])
            assert np.array_equal(run_outputs(single, source), codes.reshape(len(batch), -1))


UNEVEN = Window(kernel=(2, 3), stride=(2, 1), pads=(0, 1, 1, 2))
BEYOND = Window(kernel=(2, 2), stride=(1, 2), pads=(3, 0, 2, 4))
"""Padding larger than the kernel: some windows hold nothing else."""

SCALES = Quantisation(dtype=IntegerType(bits=8, signed=True), scale=0.1, zero_point=-3)

KINDS: dict[str, Attributes] = {
    "affine": affine([2, -3], [1, -1]),
    "floor": Clamp(low=-1.0),
    "ceiling": Clamp(high=0.5),
    "clip": Clamp(low=-0.5, high=0.5),
    "ReLU": RELU,
    "no clamp": Clamp(),
    "sign": Sign(),
    "average": AveragePool(window=UNEVEN),
    "average with padding": AveragePool(window=UNEVEN, count_padding=True),
    "average beyond": AveragePool(window=BEYOND),
    "average with padding beyond": AveragePool(window=BEYOND, count_padding=True),
    "maximum": MaxPool(window=UNEVEN),
    "global": GlobalAveragePool(),
    "zeros": ZeroPad(pads=(1, 0, 2, 3)),
    "channels": ChannelPad(before=1, after=2),
    "one operand": Concatenate(),
    "flat": Flatten(),
    "point": QuantisePoint(role=Role.ACTIVATION, group=0),
    "quantise": Quantise(role=Role.ACTIVATION, quantisation=SCALES),
    "int8 weights": Convolution(weights=np.full((2, 1, 2, 3), -7, np.int8), window=UNEVEN, groups=2, weight_bits=4),
    "float weights": Convolution(weights=np.full((3, 2, 2, 2), 0.3, np.float32), window=BEYOND),
    "float64 weights": Convolution(weights=np.full((3, 2, 1, 1), 0.3), window=Window(kernel=(1, 1))),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_operation_has_the_same_values(kind: Attributes) -> None:
    assert_same_values(chain(kind, shape=(2, 5, 4)), images(2, 5, 4))


@pytest.mark.parametrize("pool", [AveragePool(window=Window(kernel=(2, 2))), MaxPool(window=Window(kernel=(2, 2)))])
@pytest.mark.parametrize("pads", [(2, 0, 3, 1), (1, 1, 1, 1)])
def test_zeros_in_front_of_a_pool_stay_in_front_of_it(pads: Pads, pool: Attributes) -> None:
    """They count in an average and may win a maximum; a pool's own padding could not be so large either."""
    graph = chain(ZeroPad(pads=pads), pool, shape=(2, 5, 4))
    assert_same_values(graph, images(2, 5, 4) - 9, ["n1"])


def test_every_operation_is_covered() -> None:
    assert set(graph_onnx.WRITERS) == set(OPS)


def test_maximum_of_windows_that_are_all_padding_is_minus_infinity() -> None:
    graph = chain(MaxPool(window=BEYOND), shape=(2, 5, 4))
    batch = images(2, 5, 4)
    assert np.array_equal(run_outputs(graph, batch), evaluate_outputs(graph, batch))


def test_sign_of_both_zeros_is_plus_one() -> None:
    zeros = np.array([0.0, -0.0, -1e-30, 1e-30], np.float32).reshape(1, 1, 2, 2)
    assert run_outputs(chain(Sign(), shape=(1, 2, 2)), zeros).tolist() == [[1, 1, -1, 1]]


def test_ties_round_up_as_codes_do() -> None:
    exact = Quantisation(dtype=IntegerType(bits=8, signed=True), scale=0.25, zero_point=5)
    graph = chain(Quantise(role=Role.ACTIVATION, quantisation=exact), shape=(1, 1, 4))
    ties = np.array([0.125, -0.125, 0.375, 100.0], np.float32).reshape(1, 1, 1, 4)
    assert run_outputs(graph, ties).tolist() == [[0.25, 0.0, 0.5, 0.25 * (127 - 5)]]


def test_names_of_the_graph_may_be_those_of_onnx() -> None:
    graph = chain(("v1", RELU, ("image",)), ("batch", CONV, ("v1",)), ("v2", RELU, ("batch",)), shape=(2, 4, 4))
    assert_same_values(graph, images(2, 4, 4))


def test_input_and_points_are_values_too_and_no_node_is_needed_for_them() -> None:
    graph = chain(QuantisePoint(role=Role.INPUT, group=0), QuantisePoint(role=Role.LOGITS, group=1), shape=(2, 4, 4))
    assert not graph_to_onnx(graph, all_values(graph)).model.graph.node
    assert_same_values(graph, images(2, 4, 4))


def test_only_what_wanted_values_depend_on_is_written() -> None:
    graph = chain(RELU, CONV, Sign(), shape=(2, 4, 4))
    assert [node.op_type for node in graph_to_onnx(graph, ["n0"]).model.graph.node] == ["Relu"]


def test_integer_weights_take_one_byte_each_in_the_model() -> None:
    rows = np.where(np.random.default_rng(0).integers(0, 2, (300, 400)), 1, -1)
    graph = chain(pointwise_weights(rows.tolist(), bits=1), shape=(400, 1, 1))
    assert graph_to_onnx(graph, ["n0"]).model.ByteSize() < 1.05 * rows.size


def test_unknown_value_is_named() -> None:
    with pytest.raises(InvalidGraph, match="'nothing' is made by no node"):
        GraphRunner(chain(RELU, shape=(2, 4, 4)), ["nothing"])


def test_model_beyond_the_limit_of_onnx_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_onnx, "MAX_MODEL_BYTES", 100)
    with pytest.raises(BadInput, match=r"chain: its constants take [0-9,]+ bytes, ONNX holds 100"):
        GraphRunner(chain(CONV, shape=(2, 4, 4)), ["n0"])


def test_refusal_of_onnxruntime_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_onnx, "OPSET", 10_000)
    with pytest.raises(BadInput, match=r"(?s)chain: onnxruntime .* cannot load .*install another version"):
        GraphRunner(chain(RELU, shape=(2, 4, 4)), ["n0"])


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(BadInput, match=r"onnxruntime cannot run its float graph on images of shape \(3, 2, 5, 4"):
        GraphRunner(chain(RELU, shape=(2, 4, 4)), ["n0"]).run(np.zeros((3, 2, 5, 4), np.float32))
