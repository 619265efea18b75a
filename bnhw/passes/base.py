"""What a pass is: a frozen value whose fields are its options, from one graph to the next."""

from collections.abc import Sequence
from typing import Protocol

from bnhw.graph import Graph
from bnhw.verify import check_graph


class Pass(Protocol):
    """One step of the compiler. `run` never changes the graph that it was given."""

    def run(self, graph: Graph) -> Graph:
        """The transformed graph; raises a BnhwError that names the node and the remedy if it cannot."""
        ...


def run_passes(graph: Graph, passes: Sequence[Pass]) -> Graph:
    """Run `passes` in order, checking the graph before the first and after each."""
    check_graph(graph)
    for step in passes:
        graph = step.run(graph)
        check_graph(graph)
    return graph
