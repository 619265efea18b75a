"""The rules of a well-formed float graph, its shapes, and its float evaluation.

The pipeline checks before and after every pass, so that a broken rule is reported at the pass that broke it.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import InvalidGraph
from bnhw.graph import Attributes, Graph, Node, Shape
from bnhw.ops import OPS, Affine, Convolution


def check_graph(graph: Graph) -> Mapping[str, Shape]:
    """Check every rule and return the shape of every value.

    Rules: names are unique; every input is made before it is read; the number of inputs and the shapes fit
    the operation; constants are finite; 1-bit weights are +1 and -1; outputs exist. Raises InvalidGraph that
    lists every broken rule.
    """
    shapes: dict[str, Shape] = {value.name: value.shape for value in graph.inputs}
    problems: list[str] = []
    names: set[str] = set()
    for node in graph.nodes:
        if node.name in names:
            problems.append(f"two nodes are named {node.name!r}")
        names.add(node.name)
        if node.output in shapes:
            problems.append(f"{node.place}: value {node.output!r} is made twice")
        problem = _node_problem(node, shapes)
        if problem:
            problems.append(f"{node.op} {node.place}: {problem}")
        else:
            shapes[node.output] = OPS[type(node.attributes)].shape(
                node.attributes, [shapes[name] for name in node.inputs]
            )
    problems += [f"output {name!r} is made by no node" for name in graph.outputs if name not in shapes]
    if problems:
        raise InvalidGraph(problems, graph=graph.name)
    return shapes


def _node_problem(node: Node, shapes: Mapping[str, Shape]) -> str | None:
    spec = OPS.get(type(node.attributes))
    if spec is None:
        return "no such operation in the table of operations"
    missing = [name for name in node.inputs if name not in shapes]
    if missing:
        return f"reads {', '.join(map(repr, missing))} before it is made"
    if spec.arity is not None and len(node.inputs) != spec.arity:
        return f"takes {spec.arity} inputs, found {len(node.inputs)}"
    if not node.inputs:
        return "has no input"
    try:
        spec.shape(node.attributes, [shapes[name] for name in node.inputs])
    except ValueError as error:
        return str(error)
    return _constants_problem(node.attributes)


def _constants_problem(attributes: Attributes) -> str | None:
    match attributes:
        case Affine(scale=scale, shift=shift):
            if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
                return "a scale or shift is not finite"
        case Convolution(weights=weights, weight_bits=None):
            if not np.isfinite(weights).all():
                return "a weight is not finite"
        case Convolution(weights=weights, weight_bits=1):
            if not (np.abs(weights) == 1).all():
                return "1-bit weights are not all +1 or -1"
        case _:
            return None
    return None


def evaluate(graph: Graph, images: Array) -> Iterator[tuple[str, Array]]:
    """Run the graph in float; yields (value name, batch) in order, the input first.

    `images`: float32 (images, channels, height, width) as the model takes them. Values are dropped after
    their last use, so that a whole network does not stay in memory.
    """
    (entry,) = graph.inputs
    last_use: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        last_use.update(dict.fromkeys(node.inputs, position))
    values: dict[str, Array] = {entry.name: images}
    yield entry.name, images
    for position, node in enumerate(graph.nodes):
        inputs = [values[name] for name in node.inputs]
        result = OPS[type(node.attributes)].evaluate(node.attributes, inputs)
        yield node.output, result
        values[node.output] = result
        for name in set(node.inputs):
            if last_use[name] == position and name not in graph.outputs:
                del values[name]


def evaluate_outputs(graph: Graph, images: Array) -> Array:
    """The single output of `graph` for a batch of images, as (images, features)."""
    result = dict.fromkeys(graph.outputs, images)
    for name, value in evaluate(graph, images):
        if name in result:
            result[name] = value
    (output,) = result.values()
    return output.reshape(len(images), -1)
