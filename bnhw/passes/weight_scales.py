"""Float weights become integers; their real scale moves into an Affine behind the convolution.

Cases:
1. Every output channel holds two values -a and +a (a may differ by channel): 1-bit weights, exact.
2. Anything else: symmetric k-bit integers with one scale a channel, k = `weight_bits`; a note says so, because
   such a layer runs on multipliers.
Zeros among two values never come here: the importer refuses them with the layer's name.
"""

from dataclasses import dataclass, replace

import numpy as np

from bnhw.dtypes import Array
from bnhw.graph import Graph, Node, rename_inputs, unique_name
from bnhw.ops import Affine, Convolution, freeze
from bnhw.weights import channel_magnitudes, to_integers, to_signs


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractWeightScales:
    """See the module's list of cases. `weight_bits`: 2..8, the width of weights that are not 1-bit.

    `rounded`: false leaves k-bit weights unrounded (float32, in units of their integers), as a reference that the
    rounding of weights can be measured against; such a graph cannot be lowered.
    """

    weight_bits: int = 8
    rounded: bool = True

    def run(self, graph: Graph) -> Graph:
        """Every convolution gets integer weights."""
        names = {node.output for node in graph.nodes}
        nodes: list[Node] = []
        renamed: dict[str, str] = {}
        many_bits: list[str] = []
        for node in graph.nodes:
            (node,) = rename_inputs([node], renamed)
            nodes.append(node)
            if not isinstance(node.attributes, Convolution) or node.attributes.weight_bits is not None:
                continue
            weights, scale, bits = _integers(node.attributes.weights, self.weight_bits, rounded=self.rounded)
            nodes[-1] = replace(node, attributes=replace(node.attributes, weights=weights, weight_bits=bits))
            if bits > 1:
                many_bits.append(node.name)
            scaled = unique_name(f"{node.output}/scale", names)
            names.add(scaled)
            affine = Affine(scale=freeze(scale), shift=freeze(np.zeros_like(scale)))
            nodes.append(replace(node, name=scaled, inputs=(node.output,), output=scaled, attributes=affine))
            renamed[node.output] = scaled
        result = graph.with_nodes(nodes, outputs=tuple(renamed.get(name, name) for name in graph.outputs))
        return result.with_notes(*_multiplier_notes(many_bits, self.weight_bits))


def _integers(weights: Array, bits: int, *, rounded: bool) -> tuple[Array, Array, int]:
    magnitudes = channel_magnitudes(weights)
    if magnitudes is not None:
        return freeze(to_signs(weights)), magnitudes, 1
    integers, scales = to_integers(weights, bits)
    if not rounded:
        integers = (weights / scales[:, None, None, None]).astype(np.float32)
    return freeze(integers), scales, bits


def _multiplier_notes(names: list[str], bits: int) -> list[str]:
    if not names:
        return []
    which = "1 layer has" if len(names) == 1 else f"{len(names)} layers have"
    return [f"{which} no 1-bit weights, rounded to {bits} bits, on multipliers: {', '.join(names)}"]
