"""What the tests of the passes share: graphs, images, and questions about results."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
from graph_helpers import chain, same_function

from bnhw.dtypes import Array
from bnhw.graph import Attributes, Graph
from bnhw.ops import Clamp, Convolution, QuantisePoint, Role, Window
from bnhw.options import CompileOptions
from bnhw.passes.place import PlaceQuantisePoints
from bnhw.verify import check_graph

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
