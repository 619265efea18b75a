"""Shape-only nodes disappear: zero padding into windows, flattening into convolutions.

Cases:
1. ZeroPad before a convolution becomes the convolution's own padding; several in a row add up.
2. ZeroPad before an average pool becomes padding that counts in the divisor (it is part of the image there);
   refused when the pool has padding of its own that does not count.
3. ZeroPad before a max pool is refused (a padded zero can win there, NUMERICS knows no such padding), as it is
   before anything else.
4. Flatten moves down past clamps, signs, activation functions, quantisers, and affine nodes whose constants are the
   same over each channel's pixels.
5. Flatten of an image before a dense layer: the layer becomes a convolution with a kernel of the image's size.
6. Flatten before anything else is refused.
"""

from dataclasses import dataclass, replace

import numpy as np

from bnhw.errors import PassFailed
from bnhw.graph import Graph, Node, Shape, remove_dead, unique_name
from bnhw.ops import (
    Activation,
    Affine,
    AveragePool,
    Clamp,
    Convolution,
    Flatten,
    Quantise,
    Sign,
    Window,
    ZeroPad,
    freeze,
)
from bnhw.verify import check_graph


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsorbZeroPads:
    """Cases 1 to 3."""

    def run(self, graph: Graph) -> Graph:
        """See the module's list of cases."""
        nodes = []
        for node in graph.nodes:
            reads = not isinstance(node.attributes, ZeroPad)  # of pads in a row, the reader of the last takes all
            while reads and isinstance(pad := _producer(graph, node), ZeroPad):
                source = graph.producers[node.inputs[0]]
                node = replace(node, inputs=source.inputs, attributes=_padded(node, pad))
            nodes.append(node)
        cleaned = remove_dead(graph.with_nodes(nodes))
        for node in cleaned.nodes:
            if isinstance(node.attributes, ZeroPad):
                raise PassFailed(
                    f"ZeroPad {node.place} is not read by a convolution or an average pool; move it in front of one"
                )
        return cleaned


def _producer(graph: Graph, node: Node) -> object:
    source = graph.producers.get(node.inputs[0])
    return source.attributes if source is not None else None


def _padded(node: Node, pad: ZeroPad) -> Convolution | AveragePool:
    match node.attributes:
        case Convolution(window=window):
            return replace(node.attributes, window=window.padded_by(pad.pads))
        case AveragePool(window=window, count_padding=counts) if counts or not any(window.pads):
            return AveragePool(window=window.padded_by(pad.pads), count_padding=True)
    raise PassFailed(
        f"{node.op} {node.place} reads a zero-padded value; only convolutions, and average pools without "
        "uncounted padding of their own, can absorb zero padding"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsorbFlatten:
    """Cases 4 to 6."""

    def run(self, graph: Graph) -> Graph:
        """See the module's list of cases."""
        while (index := _first_flatten(graph)) is not None:  # a loop: networks may be deeper than Python recurses
            shape = check_graph(graph)[graph.nodes[index].inputs[0]]
            nodes, outputs = _sink(list(graph.nodes), index, shape, graph.outputs)
            graph = remove_dead(graph.with_nodes(nodes, outputs=outputs))
        return graph


def _first_flatten(graph: Graph) -> int | None:
    return next((index for index, node in enumerate(graph.nodes) if isinstance(node.attributes, Flatten)), None)


def _sink(nodes: list[Node], index: int, shape: Shape, outputs: tuple[str, ...]) -> tuple[list[Node], tuple[str, ...]]:
    """Move the Flatten at `index` one step down (or into a convolution) for each of its readers."""
    flatten = nodes[index]
    if flatten.output in outputs:
        raise PassFailed(f"Flatten {flatten.place}: the output is an image; expected one number a class")
    result: list[Node] = [*nodes[:index]]
    for node in nodes[index + 1 :]:
        if flatten.output not in node.inputs:
            result.append(node)
            continue
        match node.attributes:
            case Convolution():
                result.append(replace(node, inputs=flatten.inputs, attributes=_image_kernel(node.attributes, shape)))
            case Clamp() | Sign() | Activation() | Quantise() | Affine():
                taken = {name for other in (*nodes, *result) for name in (other.name, other.output)}
                inner = unique_name(f"{node.output}/image", taken)
                attributes = _image_attributes(node, shape)
                result.append(replace(node, name=inner, output=inner, inputs=flatten.inputs, attributes=attributes))
                result.append(replace(flatten, name=node.name, inputs=(inner,), output=node.output))
            case _:
                raise PassFailed(
                    f"{node.op} {node.place} reads the flattened image {flatten.place}; only dense layers, clamps, "
                    "signs and constants can follow"
                )
    return result, outputs


def _image_kernel(dense: Convolution, shape: Shape) -> Convolution:
    """The dense layer of flattened (channels, height, width) features as a convolution of the image."""
    weights = dense.weights.reshape(dense.weights.shape[0], *shape)
    return replace(dense, weights=freeze(weights), window=Window(kernel=shape[1:]))


def _image_attributes(node: Node, shape: Shape) -> Affine | Activation | Clamp | Sign | Quantise:
    match node.attributes:
        case Affine(scale=scale, shift=shift):
            rows = [constants.reshape(shape[0], -1) for constants in (scale, shift)]
            if any((row != row[:, :1]).any() for row in rows):
                raise PassFailed(
                    f"Affine {node.place} scales the pixels of a flattened image differently; put the batch norm "
                    "in front of the flattening"
                )
            return Affine(scale=freeze(np.array(rows[0][:, 0])), shift=freeze(np.array(rows[1][:, 0])))
        case Clamp() | Sign() | Activation() | Quantise():
            return node.attributes
    raise AssertionError(node.op)
