"""Graphs as text: one line a node, stable, for people, golden files and messages."""

import hashlib
from dataclasses import fields
from enum import Enum

import numpy as np

from bnhw.dtypes import Quantisation
from bnhw.graph import Graph, Node
from bnhw.ops import Window
from bnhw.verify import check_graph


def print_graph(graph: Graph) -> str:
    """The graph as text; arrays appear as type, shape and a digest of their bytes."""
    shapes = check_graph(graph)
    lines = [f"graph {graph.name}"]
    lines += [f"  input {value.name}: {_shape(value.shape)}" for value in graph.inputs]
    for node in graph.nodes:
        lines.append(f"  {node.output}: {_shape(shapes[node.output])} = {_call(node)}")
    lines += [f"  output {name}" for name in graph.outputs]
    return "\n".join(lines) + "\n"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _call(node: Node) -> str:
    attributes = (f"{f.name}={_constant(getattr(node.attributes, f.name))}" for f in fields(node.attributes))
    return f"{node.op}({', '.join((*node.inputs, *attributes))})"


def _constant(value: object) -> str:
    match value:
        case np.ndarray() if value.size == 1:
            return f"{value.item():.9g}"
        case np.ndarray():
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:8]
            return f"{value.dtype}[{_shape(value.shape)}]#{digest}"
        case Window():
            return f"{_shape(value.kernel)}/{_shape(value.stride)}+{','.join(map(str, value.pads))}"
        case Quantisation():
            return f"{value}*{value.scale:.6g}@{value.zero_point}"
        case Enum():
            return str(value.value)
        case float():
            return f"{value:.9g}"
        case _:
            return str(value)
