"""The float graph: what a model computes, in real numbers, before it becomes integers.

A value is one image's tensor, (channels, height, width); the batch axis is implied everywhere. Flat features
are (features, 1, 1). Every node has one output. The kind of a node is the class of its attributes, so that a
pass says `match node.attributes: case Convolution(): ...` and the type checker follows; the one table of all
kinds is `bnhw.ops.OPS`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Base of the attribute classes; one subclass is one kind of node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A graph input: its name and shape."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation. `source` is the ONNX node (name and type) that it came from, for messages."""

    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Attributes
    source: str = ""

    @property
    def op(self) -> str:
        """The kind, as printed."""
        return type(self.attributes).__name__

    @property
    def place(self) -> str:
        """How an error message names this node."""
        return f"{self.name!r} ({self.source})" if self.source and self.source != self.name else repr(self.name)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in topological order from `inputs` to `outputs`; immutable, every pass returns another one.

    `notes` are sentences for the user about what was read or changed (a softmax left out, say).
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that makes each value (graph inputs have none)."""
        return {node.output: node for node in self.nodes}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each value, in order, once each; values nobody reads are absent."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    def sole_consumer(self, value: str) -> Node | None:
        """The only reader of `value`, or None when it has several, none, or is a graph output."""
        readers = self.consumers.get(value, ())
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def with_nodes(self, nodes: Iterable[Node], *, outputs: tuple[str, ...] | None = None) -> "Graph":
        """The same graph with other nodes (and outputs)."""
        return replace(self, nodes=tuple(nodes), outputs=self.outputs if outputs is None else outputs)

    def with_notes(self, *notes: str) -> "Graph":
        """The same graph with more notes for the user."""
        return replace(self, notes=(*self.notes, *notes))


def unique_name(wanted: str, taken: Iterable[str]) -> str:
    """`wanted`, or `wanted_2`, `wanted_3`, ... if that is taken."""
    names = set(taken)
    if wanted not in names:
        return wanted
    number = 2
    while f"{wanted}_{number}" in names:
        number += 1
    return f"{wanted}_{number}"


def rename_inputs(nodes: Iterable[Node], names: Mapping[str, str]) -> list[Node]:
    """The nodes with every input that is a key of `names` replaced by its value."""
    return [
        replace(node, inputs=tuple(names.get(name, name) for name in node.inputs))
        if any(name in names for name in node.inputs)
        else node
        for node in nodes
    ]


def remove_dead(graph: Graph) -> Graph:
    """The graph without nodes that no output depends on."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    return graph.with_nodes(reversed(kept))
