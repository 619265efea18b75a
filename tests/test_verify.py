"""The rules of a well-formed graph, each broken once."""

import numpy as np
import pytest
from graph_helpers import affine, chain, pointwise_weights

from bnhw.errors import InvalidGraph
from bnhw.graph import Attributes, Graph, Node
from bnhw.ops import Add, AveragePool, Clamp, Concatenate, Convolution, MaxPool, Window
from bnhw.verify import check_graph, evaluate, evaluate_outputs

RELU = Clamp(low=0.0)


def graph_of(*nodes: tuple[str, Attributes, tuple[str, ...]]) -> Graph:
    return chain(*nodes, shape=(2, 4, 4))


def wide_kernel(size: int) -> Convolution:
    return Convolution(weights=np.ones((1, 2, size, size), np.float32), window=Window(kernel=(size, size)))


CASES = {
    "unmade input": (graph_of(("a", RELU, ("nothing",))), "reads 'nothing' before it is made"),
    "wrong order": (graph_of(("a", RELU, ("b",)), ("b", RELU, ("image",))), "reads 'b' before it is made"),
    "too many inputs": (graph_of(("a", RELU, ("image", "image"))), "takes 1 inputs, found 2"),
    "no input": (graph_of(("a", Concatenate(), ())), "has no input"),
    "unequal operands": (
        graph_of(("a", wide_kernel(1), ("image",)), ("b", Add(), ("image", "a"))),
        "operands differ in shape: (2, 4, 4), (1, 4, 4)",
    ),
    "unequal sizes": (
        graph_of(("a", wide_kernel(3), ("image",)), ("b", Concatenate(), ("image", "a"))),
        "operands differ in height or width",
    ),
    "channels": (graph_of(("a", pointwise_weights([[1, 1, 1]]), ("image",))), "take 3 channels, found 2"),
    "window": (graph_of(("a", wide_kernel(5), ("image",))), "a 5x5 window does not fit a 4x4 image"),
    "pool": (graph_of(("a", MaxPool(window=Window(kernel=(5, 1))), ("image",))), "a 5x1 window does not fit"),
    "average": (graph_of(("a", AveragePool(window=Window(kernel=(1, 6))), ("image",))), "a 1x6 window does not fit"),
    "constants": (graph_of(("a", affine([1, 1, 1], [0, 0, 0]), ("image",))), "3 scales and 3 shifts for 2 channels"),
    "infinite scale": (graph_of(("a", affine([1, np.inf], [0, 0]), ("image",))), "a scale or shift is not finite"),
    "NaN shift": (graph_of(("a", affine([1, 1], [0, np.nan]), ("image",))), "a scale or shift is not finite"),
    "NaN weight": (graph_of(("a", pointwise_weights([[1, np.nan]]), ("image",))), "a weight is not finite"),
    "1-bit weight": (graph_of(("a", pointwise_weights([[1, 0]], bits=1), ("image",))), "not all +1 or -1"),
    "unknown operation": (graph_of(("a", Attributes(), ("image",))), "no such operation in the table"),
    "output": (chain(RELU, shape=(1, 1, 1)).with_nodes([], outputs=("n0",)), "output 'n0' is made by no node"),
}


@pytest.mark.parametrize(("graph", "fragment"), CASES.values(), ids=CASES.keys())
def test_broken_rule_is_named(graph: Graph, fragment: str) -> None:
    with pytest.raises(InvalidGraph) as caught:
        check_graph(graph)
    assert fragment in str(caught.value)
    assert "'chain'" in str(caught.value)


def test_twice_made_value_and_twice_used_name_are_named() -> None:
    nodes = [
        Node(name="a", inputs=("image",), output="x", attributes=RELU),
        Node(name="a", inputs=("image",), output="x", attributes=RELU, source="Relu r"),
    ]
    with pytest.raises(InvalidGraph) as caught:
        check_graph(graph_of().with_nodes(nodes, outputs=("x",)))
    assert caught.value.problems == ("two nodes are named 'a'", "'a' (Relu r): value 'x' is made twice")


def test_every_broken_rule_is_listed() -> None:
    graph = graph_of(("a", wide_kernel(5), ("image",)), ("b", RELU, ("a",)), ("c", RELU, ("nothing",)))
    with pytest.raises(InvalidGraph) as caught:
        check_graph(graph)
    assert len(caught.value.problems) == 4  # a, b behind it, c, and the output


def test_evaluation_yields_every_value_in_order() -> None:
    graph = graph_of(("a", RELU, ("image",)), ("b", wide_kernel(3), ("a",)))
    images = np.random.default_rng(0).normal(0, 1, (3, 2, 4, 4)).astype(np.float32)
    values = list(evaluate(graph, images))
    assert [name for name, _ in values] == ["image", "a", "b"]
    np.testing.assert_array_equal(values[1][1], np.maximum(images, 0))
    np.testing.assert_array_equal(evaluate_outputs(graph, images), values[2][1].reshape(3, -1))


def test_evaluation_keeps_an_output_that_others_read() -> None:
    graph = graph_of(("a", RELU, ("image",)), ("b", RELU, ("a",)))
    first = graph.with_nodes(graph.nodes, outputs=("a",))
    images = np.full((1, 2, 4, 4), -1, np.float32)
    assert not evaluate_outputs(first, images).any()


def test_evaluation_does_not_change_the_images() -> None:
    images = np.full((1, 2, 4, 4), -1, np.float32)
    before = images.copy()
    evaluate_outputs(graph_of(("a", RELU, ("image",)), ("b", affine([2, 2], [1, 1]), ("a",))), images)
    np.testing.assert_array_equal(images, before)
