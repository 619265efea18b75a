"""Small float graphs written down directly, and whether two graphs compute the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnhw.dtypes import Array
from bnhw.graph import Attributes, Graph, Node, Value
from bnhw.ops import Affine, Convolution, Window
from bnhw.verify import evaluate_outputs


def largest_error(found: Array, expected: Array) -> float:
    """The largest difference, relative to the largest expected number (or to 1)."""
    assert found.size == expected.size
    difference = np.abs(found.reshape(-1).astype(np.float64) - expected.reshape(-1))
    return float(difference.max() / max(1.0, float(np.abs(expected).max())))


def same_function(first: Graph, second: Graph, images: Array, tolerance: float = 1e-4) -> bool:
    """Whether two graphs return the same, up to float32 rounding."""
    return largest_error(evaluate_outputs(second, images), evaluate_outputs(first, images)) <= tolerance


def chain(*kinds: Attributes | tuple[str, Attributes, tuple[str, ...]], shape: tuple[int, int, int]) -> Graph:
    """A graph of nodes n0, n1, ... in a row from "image"; a triple gives name and inputs itself."""
    nodes: list[Node] = []
    last = "image"
    for kind in kinds:
        match kind:
            case (name, attributes, inputs):
                node = Node(name=name, inputs=inputs, output=name, attributes=attributes)
            case _:
                label = f"n{len(nodes)}"
                node = Node(name=label, inputs=(last,), output=label, attributes=kind)
        nodes.append(node)
        last = node.output
    entry = Value(name="image", shape=shape)
    return Graph(name="chain", inputs=(entry,), outputs=(last,), nodes=tuple(nodes))


def affine(scale: Sequence[float], shift: Sequence[float]) -> Affine:
    """An Affine from plain numbers."""
    return Affine(scale=np.array(scale, np.float64), shift=np.array(shift, np.float64))


def pointwise_weights(rows: Sequence[Sequence[float]], bits: int | None = None) -> Convolution:
    """A 1x1 convolution from a matrix (out, in)."""
    dtype: Any = np.float32 if bits is None else np.int8
    return Convolution(weights=np.array(rows, dtype)[:, :, None, None], window=Window(kernel=(1, 1)), weight_bits=bits)
