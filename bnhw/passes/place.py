"""Where codes are needed: QuantisePoint nodes, before any range is known.

A value is *exact* when integers hold it without rounding (a convolution of codes, a sum of codes), *coded* behind
a QuantisePoint, and *pointwise* when it is an exact or coded value changed channel by channel (Affine, Clamp,
Sign, Activation, an average whose divisor differs at the border). Cases:
1. Operands of a residual Add get RESIDUAL points; all Adds that share an operand or feed each other, also through
   zero-channel padding and max pooling, form one group with one scale. Everything else that reads such a value reads
   its codes. Where an operand is a Quantise of the model's own, the point stands in front of the Add alone.
2. Inputs of convolutions get ACTIVATION points, INPUT points where only pointwise nodes stand between them and
   the image; none where the image itself, already codes, is read.
3. Inputs of pools get ACTIVATION points if they are pointwise, so a pool of a scaled value rounds it first.
   Concatenated values share a group: ACTIVATION codes where convolutions alone read them, else RESIDUAL codes, because
   a batch norm behind them may enlarge what is small.
4. A pointwise chain is Affine, then Sign, or Activation and Clamp; whatever is longer gets an ACTIVATION point in
   between. In front of an Activation stands an ARGUMENT point, whose codes a table turns into codes of the result; but
   not where `thresholds` express the function, which they do behind ACTIVATION points, and not behind the image.
5. A Quantise of the model's own is left as it is; convolutions read its codes if they have activation width.
6. Both operands of a Product are codes: those there are, else the gate gets a GATE point and the other a FACTOR point.
   A global average of what such a point reads reads its codes too: they are narrower than sums.
7. The output gets a LOGITS point unless it is exact up to one factor for all classes, which becomes the scale of
   the logits and costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from bnhw.graph import Graph, Node, Shape, rename_inputs, unique_name
from bnhw.ops import (
    Activation,
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Product,
    Quantise,
    QuantisePoint,
    Role,
    Sign,
    pool_divisors,
)
from bnhw.verify import check_graph


class State(Enum):
    """How far a value is from being codes; the order of a pointwise chain."""

    CODED = 0
    EXACT = 1
    DIVIDED = 2
    SCALED = 3
    ACTIVATED = 4
    CLAMPED = 5
    BIPOLAR = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceQuantisePoints:
    """See the module's list of cases. thresholds: whether requantise steps to activations can hold any function."""

    thresholds: bool = False

    def run(self, graph: Graph) -> Graph:
        """The graph with points, and every reader of codes reading them."""
        placer = _Placer(_place_residual_points(graph), thresholds=self.thresholds)
        for node in placer.source.nodes:
            placer.visit(node)
        placer.finish_output()
        placed = placer.source.with_nodes(placer.nodes, outputs=tuple(placer.outputs))
        return placed.with_notes(*_product_notes(placed))


def _product_notes(graph: Graph) -> list[str]:
    names = [node.name for node in graph.nodes if isinstance(node.attributes, Product)]
    if not names:
        return []
    which = "1 product" if len(names) == 1 else f"{len(names)} products"
    return [f"{which} of two computed values, on multipliers: {', '.join(names)}"]


def _place_residual_points(graph: Graph) -> Graph:
    groups = _residual_groups(graph)
    done = {node.output for node in graph.nodes if isinstance(node.attributes, Add)}
    nodes = list(graph.nodes)
    for node in graph.nodes:
        if not isinstance(node.attributes, Add):
            continue
        group = groups[node.output]
        for operand in node.inputs:
            value = _through_transparent(graph, operand)
            given = value in graph.producers and isinstance(graph.producers[value].attributes, Quantise)
            value = operand if given else value
            if value in done:
                continue
            done.add(value)
            name = unique_name(f"{value}/residual", (existing.output for existing in nodes))
            point = Node(
                name=name,
                inputs=(value,),
                output=name,
                attributes=QuantisePoint(role=Role.RESIDUAL, group=group),
                source=graph.producers[value].source if value in graph.producers else "",
            )
            nodes = _insert_after(nodes, value, point, adds_only=given)
    return graph.with_nodes(nodes)


def _insert_after(nodes: list[Node], value: str, point: Node, *, adds_only: bool) -> list[Node]:
    """`point` right behind the producer of `value`, and every other reader (or every Add) redirected to it."""
    at = next((i + 1 for i, node in enumerate(nodes) if node.output == value), 0)
    renamed = rename_inputs(nodes[at:], {value: point.output})
    readers = [
        old if adds_only and not isinstance(old.attributes, Add) else new
        for old, new in zip(nodes[at:], renamed, strict=True)
    ]
    return [*nodes[:at], point, *readers]


def _through_transparent(graph: Graph, value: str) -> str:
    """The value behind zero-channel padding and max pooling, which leave codes as they are."""
    while (node := graph.producers.get(value)) is not None and isinstance(node.attributes, ChannelPad | MaxPool):
        value = node.inputs[0]
    return value


def _residual_groups(graph: Graph) -> Mapping[str, int]:
    """The group of every value that an Add reads or makes: Adds that share an operand or feed each other share one."""
    groups: dict[str, int] = {}
    for node in graph.nodes:
        if not isinstance(node.attributes, Add):
            continue
        members = (node.output, *(_through_transparent(graph, name) for name in node.inputs))
        joined = {groups[member] for member in members if member in groups}
        group = min(joined, default=len(groups))
        groups = {value: group if old in joined else old for value, old in groups.items()}
        groups |= dict.fromkeys(members, group)
    return groups


class _Placer:
    """Walks the graph once; `state` of every value so far, `nodes` of the result."""

    def __init__(self, source: Graph, *, thresholds: bool) -> None:
        self.source = source
        self.thresholds = thresholds
        self.shapes: Mapping[str, Shape] = check_graph(source)
        self.nodes: list[Node] = []
        self.outputs = list(source.outputs)
        self.states: dict[str, State] = {value.name: State.EXACT for value in source.inputs}
        self.roles: dict[str, Role] = {}
        self.from_image: set[str] = {value.name for value in source.inputs}
        self.points: dict[tuple[str, int | None, Role | None], str] = {}
        self.arguments: dict[str, str] = {}
        existing = [n.attributes.group for n in source.nodes if isinstance(n.attributes, QuantisePoint)]
        self.next_group = max(existing, default=-1) + 1

    def visit(self, node: Node) -> None:
        """Append `node`, with points in front of it where it needs codes."""
        match node.attributes:
            case Convolution():
                node = replace(node, inputs=(self.activation_codes(node.inputs[0]),))
                state = State.EXACT
            case Concatenate():
                group = self.new_group()
                role = self.role_of_joined(node)
                node = replace(node, inputs=tuple(self.codes(name, group=group, role=role) for name in node.inputs))
                state = State.CODED
                self.roles[node.output] = role
            case Product():
                value, gate = node.inputs
                node = replace(node, inputs=(self.operand(value, Role.FACTOR), self.operand(gate, Role.GATE)))
                state = State.EXACT
            case GlobalAveragePool() if self.is_multiplied(node.inputs[0]):
                node = replace(node, inputs=(self.operand(node.inputs[0], Role.FACTOR),))
                state = State.EXACT
            case Affine():
                state = State.SCALED
                node = self.extend_chain(node, State.DIVIDED)
            case Sign():
                state = State.BIPOLAR
                node = self.extend_chain(node, State.SCALED)
            case Activation():
                state = State.ACTIVATED
                node = self.extend_chain(self.with_argument(node), State.SCALED)
            case Clamp():
                state = State.CLAMPED
                node = self.extend_chain(node, State.ACTIVATED)
            case QuantisePoint(role=role) | Quantise(role=role):
                node = self.extend_chain(node, State.CLAMPED)
                state = State.CODED
                self.roles[node.output] = role
            case _:
                node = self.exact_inputs(node)
                state = self.state_of_sum(node)
        if not isinstance(node.attributes, Convolution | Product) and set(node.inputs) <= self.from_image:
            self.from_image.add(node.output)
        self.states[node.output] = state
        self.nodes.append(node)

    def operand(self, value: str, role: Role) -> str:
        """Codes of an operand of a product (case 6)."""
        is_image = value == self.source.inputs[0].name
        return value if is_image or self.states[value] is State.CODED else self.codes(value, role=role)

    def is_multiplied(self, value: str) -> bool:
        """Whether a Product reads a value as what its gate multiplies."""
        readers = self.source.consumers.get(value, ())
        return any(isinstance(reader.attributes, Product) and reader.inputs[0] == value for reader in readers)

    def exact_inputs(self, node: Node) -> Node:
        """`node` reading codes or exact sums only."""
        inputs = tuple(
            name if self.states[name] in (State.CODED, State.EXACT) else self.codes(name) for name in node.inputs
        )
        return replace(node, inputs=inputs)

    def state_of_sum(self, node: Node) -> State:
        """The state of a pool, an addition or a padded value."""
        source = node.inputs[0]
        match node.attributes:
            case AveragePool(window=window, count_padding=counts):
                _, height, width = self.shapes[self.original(source)]
                divisors = pool_divisors(window, height, width, count_padding=counts)
                return State.EXACT if (divisors == divisors[0, 0]).all() else State.DIVIDED
            case ChannelPad() | MaxPool():
                if source in self.roles:
                    self.roles[node.output] = self.roles[source]
                return self.states[source]
        return State.EXACT

    def original(self, value: str) -> str:
        """A value of the source graph with the shape of `value` (a point has the shape of what it reads)."""
        while value not in self.shapes:
            value = next(node.inputs[0] for node in self.nodes if node.output == value)
        return value

    def extend_chain(self, node: Node, latest: State) -> Node:
        """`node` behind a chain that has come to `latest` at most, else behind a new point (case 4)."""
        source = node.inputs[0]
        if self.states[source].value <= latest.value:
            return node
        return replace(node, inputs=(self.codes(source),))

    def with_argument(self, node: Node) -> Node:
        """An Activation behind its ARGUMENT point, if it needs one (case 4)."""
        value = node.inputs[0]
        base = value
        while (producer := self.source.producers.get(base)) and isinstance(producer.attributes, Affine):
            base = producer.inputs[0]
        is_image = base == self.source.inputs[0].name
        if is_image or (self.thresholds and not self.is_read_finely(node.output)):
            return node
        if value not in self.arguments:
            self.arguments[value] = self.insert(value, Role.ARGUMENT, self.new_group())
        return replace(node, inputs=(self.arguments[value],))

    def is_read_finely(self, value: str) -> bool:
        """Whether points other than ACTIVATION read a value or its clamp."""
        readers = self.source.consumers.get(value, ())
        return value in self.source.outputs or any(
            isinstance(reader.attributes, QuantisePoint | Product)
            or (isinstance(reader.attributes, Concatenate) and self.role_of_joined(reader) is Role.RESIDUAL)
            or (isinstance(reader.attributes, Clamp) and self.is_read_finely(reader.output))
            for reader in readers
        )

    def activation_codes(self, value: str) -> str:
        """Codes of activation width for a convolution (case 2)."""
        is_image = value == self.source.inputs[0].name
        if is_image or self.roles.get(value) in (Role.ACTIVATION, Role.INPUT):
            return value
        return self.codes(value)

    def role_of_joined(self, node: Node) -> Role:
        """Activation codes where convolutions alone read the joined value; else residual codes, which lose little."""
        readers = self.source.consumers.get(node.output, ())
        plain = all(isinstance(reader.attributes, Convolution) for reader in readers)
        return Role.ACTIVATION if plain else Role.RESIDUAL

    def codes(self, value: str, *, group: int | None = None, role: Role | None = None) -> str:
        """The point behind `value`; made if there is none yet."""
        key = (value, group, role)
        if key not in self.points:
            role = role or (Role.INPUT if value in self.from_image else Role.ACTIVATION)
            self.points[key] = self.insert(value, role, self.new_group() if group is None else group)
        return self.points[key]

    def insert(self, value: str, role: Role, group: int) -> str:
        """Append a point that reads `value`; returns its name."""
        name = unique_name(f"{value}/{role.value}", (*self.states, *(n.output for n in self.source.nodes)))
        producer = self.source.producers.get(value)
        self.nodes.append(
            Node(
                name=name,
                inputs=(value,),
                output=name,
                attributes=QuantisePoint(role=role, group=group),
                source=producer.source if producer else "",
            )
        )
        self.states[name] = State.CODED
        self.roles[name] = role
        return name

    def new_group(self) -> int:
        """A group of its own."""
        self.next_group += 1
        return self.next_group - 1

    def finish_output(self) -> None:
        """Case 7."""
        (value,) = self.outputs
        if self.states[value] is State.EXACT or (self.states[value] is State.CODED and value in self.roles):
            return
        made = {node.output: node for node in self.nodes}
        node = made[value]
        if isinstance(node.attributes, Affine) and self.states[node.inputs[0]] is not State.DIVIDED:
            affine = node.attributes
            if (affine.scale == affine.scale[0]).all() and affine.scale[0] > 0 and not affine.shift.any():
                return
        if self.states[value] is State.BIPOLAR:
            value = self.codes(value)
        self.outputs = [self.insert(value, Role.LOGITS, self.new_group())]
