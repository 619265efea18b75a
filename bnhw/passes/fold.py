"""Constants meet: every chain of scales and shifts becomes one Affine, as late as it can stand.

A batch norm, a bias, a temperature, a weight scale are all Affine nodes. Cases, applied until none is left:
1. Affine of Affine: one Affine, computed in float64.
2. Clamp of Clamp: one Clamp.
3. Affine of a Clamp, with one positive scale and one shift for all channels: they change places.
4. Average or global average pool of an Affine: the pool first. Not when padding counts and the shift is not 0.
5. Clamp, Sign, Activation, Quantise, or Affine with positive scales, of a max pool that nothing else reads: the pool
   last, because the maximum commutes with rising functions and then compares narrow codes, not wide sums.
6. Convolution of an Affine that is one positive factor for all channels: the convolution first.
7. 1-bit or k-bit convolution read only by an Affine: channels with a negative scale negate their weights.
8. Affine and Clamp nodes that change nothing are dropped.
9. Sign of a Clamp whose bounds lie on both sides of 0: the Sign alone, which stays exact.
10. Affine with a scale that is not positive, of a max pool of an Affine with positive scales: the pool first, on exact
    sums, and one Affine.
11. Global average pool of a value of which a Product reads an Affine without zeros: of that Affine, whose codes the
   Product needs anyway, and the inverse Affine behind. There case 4 does not apply.
12. Product with an Affine without shift as its gate: the Product first.
What is refused elsewhere stays: an Affine before a zero-padded convolution with a shift is not folded into it,
because the padding comes after it (the border would be wrong).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bnhw.graph import Graph, Node, remove_dead, rename_inputs, unique_name
from bnhw.ops import (
    Activation,
    Affine,
    AveragePool,
    Clamp,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Product,
    Quantise,
    Sign,
    freeze,
)

Rewrite = Callable[[Graph, Node], Graph | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldConstants:
    """See the module's list of cases."""

    def run(self, graph: Graph) -> Graph:
        """Apply the cases until none applies."""
        while (better := _first_rewrite(graph)) is not None:
            graph = remove_dead(better)
        return graph


def _first_rewrite(graph: Graph) -> Graph | None:
    for node in graph.nodes:
        for rewrite in REWRITES:
            result = rewrite(graph, node)
            if result is not None:
                return result
    return None


def _substitute(graph: Graph, node: Node, *replacement: Node) -> Graph:
    """`node` replaced by nodes of which the last makes the same value."""
    nodes: list[Node] = []
    for existing in graph.nodes:
        nodes.extend(replacement if existing is node else (existing,))
    return graph.with_nodes(nodes)


def _source(graph: Graph, node: Node) -> Node | None:
    return graph.producers.get(node.inputs[0])


def _merge_affines(graph: Graph, node: Node) -> Graph | None:
    source = _source(graph, node)
    match (node.attributes, source and source.attributes):
        case (Affine() as outer, Affine() as inner):
            assert source is not None
            merged = Affine(
                scale=freeze(inner.scale * outer.scale), shift=freeze(inner.shift * outer.scale + outer.shift)
            )
            return _substitute(graph, node, replace(node, inputs=source.inputs, attributes=merged))
    return None


def _merge_clamps(graph: Graph, node: Node) -> Graph | None:
    source = _source(graph, node)
    match (node.attributes, source and source.attributes):
        case (Clamp() as outer, Clamp() as inner):
            assert source is not None
            low, high = (float(np.clip(bound, outer.low, outer.high)) for bound in (inner.low, inner.high))
            if low < high:
                return _substitute(
                    graph, node, replace(node, inputs=source.inputs, attributes=Clamp(low=low, high=high))
                )
    return None


def _is_uniform(affine: Affine) -> bool:
    return bool((affine.scale == affine.scale[0]).all() and (affine.shift == affine.shift[0]).all())


def _swap(graph: Graph, outer: Node, inner: Node, first: Node, second: Node) -> Graph:
    """outer(inner(x)) becomes second(first(x)); `inner` stays for its other readers."""
    fresh = unique_name(f"{outer.output}/{inner.op.lower()}", {node.output for node in graph.nodes})
    return _substitute(
        graph,
        outer,
        replace(first, name=fresh, output=fresh, inputs=inner.inputs),
        replace(second, name=outer.name, output=outer.output, inputs=(fresh,)),
    )


def _affine_before_clamp(graph: Graph, node: Node) -> Graph | None:
    source = _source(graph, node)
    match (node.attributes, source and source.attributes):
        case (Affine() as affine, Clamp() as clamp) if _is_uniform(affine) and affine.scale[0] > 0:
            assert source is not None
            scale, shift = float(affine.scale[0]), float(affine.shift[0])
            bounds = Clamp(low=clamp.low * scale + shift, high=clamp.high * scale + shift)
            return _swap(graph, node, source, node, replace(source, attributes=bounds))
    return None


def _pool_before_affine(graph: Graph, node: Node) -> Graph | None:
    source = _source(graph, node)
    if source is None or not isinstance(source.attributes, Affine):
        return None
    affine = source.attributes
    match node.attributes:
        case GlobalAveragePool():
            movable = not _is_multiplied(graph, source)
        case AveragePool(count_padding=counts):
            movable = not (counts and affine.shift.any())
        case Convolution():
            return _convolution_before_factor(graph, node, source)
        case _:
            movable = False
    return _swap(graph, node, source, node, source) if movable else None


def _is_multiplied(graph: Graph, node: Node) -> bool:
    """Whether a Product reads a value as what its gate multiplies."""
    readers = graph.consumers.get(node.output, ())
    return any(isinstance(reader.attributes, Product) and reader.inputs[0] == node.output for reader in readers)


def _pool_of_factor(graph: Graph, node: Node) -> Graph | None:
    if not isinstance(node.attributes, GlobalAveragePool):
        return None
    for scaled in graph.consumers[node.inputs[0]]:
        match scaled.attributes:
            case Affine(scale=scale, shift=shift) if scale.all() and _is_multiplied(graph, scaled):
                inverse = Affine(scale=freeze(1 / scale), shift=freeze(-shift / scale))
                names = {existing.output for existing in graph.nodes}
                fresh = unique_name(f"{node.output}/{scaled.op.lower()}", names)
                pool = replace(node, name=fresh, output=fresh, inputs=(scaled.output,))
                behind = (pool, replace(node, inputs=(fresh,), attributes=inverse))
                if graph.nodes.index(scaled) < graph.nodes.index(node):
                    return _substitute(graph, node, *behind)
                apart = graph.with_nodes(existing for existing in graph.nodes if existing is not scaled)
                return _substitute(apart, node, scaled, *behind)
    return None


def _product_before_factor(graph: Graph, node: Node) -> Graph | None:
    if not isinstance(node.attributes, Product):
        return None
    gate = graph.producers.get(node.inputs[1])
    match gate and gate.attributes:
        case Affine(shift=shift) as affine if not shift.any():
            assert gate is not None
            fresh = unique_name(f"{node.output}/product", {existing.output for existing in graph.nodes})
            product = replace(node, name=fresh, output=fresh, inputs=(node.inputs[0], gate.inputs[0]))
            return _substitute(graph, node, product, replace(node, inputs=(fresh,), attributes=affine))
    return None


def _max_pool_last(graph: Graph, node: Node) -> Graph | None:
    source = _source(graph, node)
    if source is None or not isinstance(source.attributes, MaxPool) or graph.sole_consumer(source.output) is not node:
        return None
    match node.attributes:
        case Affine(scale=scale):
            rising = bool((scale > 0).all())
        case Clamp() | Sign() | Activation() | Quantise():
            rising = True
        case _:
            rising = False
    return _swap(graph, node, source, node, source) if rising else None


def _max_pool_first(graph: Graph, node: Node) -> Graph | None:
    pool = _source(graph, node)
    if pool is None or not isinstance(pool.attributes, MaxPool) or graph.sole_consumer(pool.output) is not node:
        return None
    inner = _source(graph, pool)
    match (node.attributes, inner and inner.attributes):
        case (Affine() as outer, Affine() as scaled) if (outer.scale <= 0).any() and (scaled.scale > 0).all():
            assert inner is not None
            fresh = unique_name(f"{node.output}/maxpool", {existing.output for existing in graph.nodes})
            merged = Affine(
                scale=freeze(scaled.scale * outer.scale), shift=freeze(scaled.shift * outer.scale + outer.shift)
            )
            return _substitute(
                graph,
                node,
                replace(pool, name=fresh, output=fresh, inputs=inner.inputs),
                replace(node, inputs=(fresh,), attributes=merged),
            )
    return None


def _convolution_before_factor(graph: Graph, node: Node, source: Node) -> Graph | None:
    affine, convolution = source.attributes, node.attributes
    assert isinstance(affine, Affine)
    assert isinstance(convolution, Convolution)
    if affine.shift.any() or not _is_uniform(affine) or affine.scale[0] <= 0:
        return None
    channels = convolution.weights.shape[0]
    factor = Affine(scale=freeze(np.full(channels, affine.scale[0])), shift=freeze(np.zeros(channels)))
    return _swap(graph, node, source, node, replace(source, attributes=factor))


def _negate_weights(graph: Graph, node: Node) -> Graph | None:
    source = _source(graph, node)
    match (node.attributes, source and source.attributes):
        case (Affine() as affine, Convolution(weight_bits=int()) as convolution) if (affine.scale < 0).any():
            assert source is not None
            if graph.sole_consumer(source.output) is not node:
                return None
            sign = np.where(affine.scale < 0, -1, 1).astype(np.int8)
            weights = freeze(convolution.weights * sign[:, None, None, None])
            nodes = (
                replace(existing, attributes=replace(convolution, weights=weights))
                if existing is source
                else replace(existing, attributes=replace(affine, scale=freeze(np.abs(affine.scale))))
                if existing is node
                else existing
                for existing in graph.nodes
            )
            return graph.with_nodes(nodes)
    return None


def _sign_without_clamp(graph: Graph, node: Node) -> Graph | None:
    source = _source(graph, node)
    match (node.attributes, source and source.attributes):
        case (Sign(), Clamp(low=low, high=high)) if low < 0 <= high:
            assert source is not None
            return _substitute(graph, node, replace(node, inputs=source.inputs))
    return None


def _drop_identity(graph: Graph, node: Node) -> Graph | None:
    match node.attributes:
        case Affine(scale=scale, shift=shift) if (scale == 1).all() and not shift.any():
            pass
        case Clamp(low=low, high=high) if low == -np.inf and high == np.inf:
            pass
        case _:
            return None
    names = {node.output: node.inputs[0]}
    nodes = rename_inputs((other for other in graph.nodes if other is not node), names)
    return graph.with_nodes(nodes, outputs=tuple(names.get(name, name) for name in graph.outputs))


REWRITES: tuple[Rewrite, ...] = (
    _drop_identity,
    _merge_affines,
    _merge_clamps,
    _affine_before_clamp,
    _pool_before_affine,
    _pool_of_factor,
    _product_before_factor,
    _max_pool_last,
    _max_pool_first,
    _sign_without_clamp,
    _negate_weights,
)
