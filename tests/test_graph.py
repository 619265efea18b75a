"""Graphs as values: readers and makers, names, dead nodes."""

from dataclasses import FrozenInstanceError

import pytest
from graph_helpers import chain
from hypothesis import given, settings
from hypothesis import strategies as st
from model_strategies import Model, models

from bnhw.graph import Graph, Node, remove_dead, rename_inputs, unique_name
from bnhw.importer import import_onnx
from bnhw.ops import Add, Clamp, GlobalAveragePool
from bnhw.verify import check_graph, evaluate_outputs

RELU = Clamp(low=0.0)


def diamond() -> Graph:
    """image -> a -> (b, c) -> sum, and a dead node behind c."""
    return chain(
        ("a", RELU, ("image",)),
        ("b", RELU, ("a",)),
        ("c", RELU, ("a",)),
        ("dead", RELU, ("c",)),
        ("sum", Add(), ("b", "c")),
        shape=(2, 3, 3),
    )


def test_producers_and_consumers_are_those_of_the_nodes() -> None:
    graph = diamond()
    assert {name: node.name for name, node in graph.producers.items()} == {n: n for n in ("a", "b", "c", "dead", "sum")}
    readers = {name: [node.name for node in nodes] for name, nodes in graph.consumers.items()}
    assert readers == {"image": ["a"], "a": ["b", "c"], "b": ["sum"], "c": ["dead", "sum"]}


def test_node_that_reads_a_value_twice_consumes_it_once() -> None:
    graph = chain(RELU, ("sum", Add(), ("n0", "n0")), shape=(1, 1, 1))
    assert [node.name for node in graph.consumers["n0"]] == ["sum"]


def test_sole_consumer_is_the_only_reader_of_an_inner_value() -> None:
    graph = diamond()
    sole = graph.sole_consumer("b")
    assert sole is not None
    assert sole.name == "sum"
    assert graph.sole_consumer("a") is None  # two readers
    assert graph.sole_consumer("dead") is None  # none
    assert chain(RELU, RELU, shape=(1, 1, 1)).with_nodes(diamond().nodes, outputs=("b",)).sole_consumer("b") is None


def test_dead_nodes_are_removed_and_nothing_else() -> None:
    assert [node.name for node in remove_dead(diamond()).nodes] == ["a", "b", "c", "sum"]


@settings(deadline=None, max_examples=30)
@given(models())
def test_removing_dead_nodes_keeps_the_function(model: Model) -> None:
    graph = import_onnx(model.onnx)
    spoilt = graph.with_nodes(
        [*graph.nodes, Node(name="dead", inputs=graph.outputs, output="dead", attributes=GlobalAveragePool())]
    )
    cleaned = remove_dead(spoilt)
    assert cleaned == graph
    assert (evaluate_outputs(cleaned, model.images) == evaluate_outputs(graph, model.images)).all()


def test_graph_and_node_are_immutable() -> None:
    graph = diamond()
    with pytest.raises(FrozenInstanceError):
        graph.name = "other"  # type: ignore[misc]  # that is the point
    with pytest.raises(FrozenInstanceError):
        graph.nodes[0].name = "other"  # type: ignore[misc]  # that is the point


@given(st.text(max_size=3), st.lists(st.sampled_from(("x", "x_2", "x_3", "y"))))
def test_unique_name_is_not_taken(wanted: str, taken: list[str]) -> None:
    name = unique_name(wanted, taken)
    assert name not in taken
    assert name == wanted or wanted in taken


def test_unique_names_count_from_two() -> None:
    assert [unique_name("x", taken) for taken in ((), ("x",), ("x", "x_2"))] == ["x", "x_2", "x_3"]


def test_renaming_touches_only_readers() -> None:
    nodes = diamond().nodes
    renamed = rename_inputs(nodes, {"a": "z"})
    assert [node.inputs for node in renamed] == [("image",), ("z",), ("z",), ("c",), ("b", "c")]
    assert renamed[0] is nodes[0]


def test_place_names_the_onnx_node() -> None:
    node = Node(name="a", inputs=(), output="a", attributes=RELU, source="Relu block1/relu")
    assert node.place == "'a' (Relu block1/relu)"
    assert node.op == "Clamp"
    assert check_graph(diamond())["sum"] == (2, 3, 3)
