"""What calibration saw becomes scales: every QuantisePoint turns into a Quantise with a coding and a requantise mode.

What form the codes of a group have is said in `bnhw.passes.codings`; this pass chooses the scales, jointly. Residual
groups come first, then the others in the order of the graph, each from a list of candidates: what the range asks for
and up to twice that, and the scales that turn the ratio of a step before or behind the group, where all channels have
one gain, into a sum of few powers of two. A candidate's noise is that of its codes (rounding and clipping, from the
histogram) and that of the constants of the steps around it; among candidates of nearly the least noise the one with
the fewest operations wins. Cases:
1. The second convolution of a residual block writes into the stream with a shift, because the scale of the codes that
   it reads is free; with few bits, or few digits in front of it, only where that adds next to no noise.
2. A pool on the stream that divides by 9, 6 and 4 does so in at most two digits, because its result is scaled by 8/9.
3. A residual group whose operands all have known steps, a power of two apart, gets the finest of these if its width
   holds the range: nothing is rounded.
4. With shifted ReLU, code 0 is the floor: scales are floor / zero point, and in mode `shift` also such that the gain is
   a power of two; where all of these are finer than the range asks for, any. Mode `shift` prefers powers of two
   everywhere, so that a network of power-of-two constants is computed exactly.
A Quantise of the model's own keeps its coding; a point that would give its codes again goes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bnhw.dtypes import Quantisation
from bnhw.errors import BadInput, PassFailed
from bnhw.graph import Graph, Node, rename_inputs
from bnhw.ops import ChannelPad, MaxPool, Quantise, QuantisePoint, Role, freeze
from bnhw.options import CompileOptions, RequantiseMode
from bnhw.passes.calibrate import Calibration
from bnhw.passes.codings import (
    BIPOLAR,
    FEW_HEADROOM,
    FEW_NUMBERS,
    STEPS_PER_OCTAVE,
    Form,
    fewest_bits,
    find_form,
)
from bnhw.passes.edges import Edge, find_edges
from bnhw.passes.floors import find_floors
from bnhw.passes.modes import Step, choose_step, known_mode, step_noise
from bnhw.requantise_constants import sums_of_digits

SHIFT_RATIO_BITS = 14
"""Finer than 2^-14 of the integer before it is no code in modes without multipliers; 2^24 is what shifts can hold."""

SLACK = 1.05
"""A candidate with at most so much more noise than the best may win by its fewer operations: 0.2 dB."""

NEGLIGIBLE = 1e-4
"""Noise 40 dB below the values may be added for fewer operations: 8-bit codes may be twice as coarse for a shift.

Not in mode `multiply`, which is for those who want precision.
"""

EXACT = 1e-20
"""Noise of constants, relative to the values, that is the rounding of float64 scales."""

Codings = Mapping[int, Quantisation]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseScales:
    """See the module's description. `calibration` comes from `calibrate` of the same graph."""

    calibration: Calibration
    options: CompileOptions

    def run(self, graph: Graph) -> Graph:
        """Replace every QuantisePoint by a Quantise.

        The first round shows how fine each group's scale may be for all its steps, the second keeps to it. Raises
        BadInput where the number of `act_bits` is not that of the activations, PassFailed where points that cannot
        share a coding must.
        """
        edges, given = find_edges(graph)
        search = _Search(
            calibration=self.calibration, options=self.options, edges=edges, given=given, floors=find_floors(graph)
        )
        first = search.codings({}, {})
        codings = search.codings(first, search.finest(first))
        steps = {edge.point: choose_step(edge, codings, self.calibration, self.options) for edge in edges}
        groups = {edge.point: edge.group for edge in edges}
        nodes = [
            _quantised(node, codings[groups[node.output]], steps[node.output]) if node.output in groups else node
            for node in graph.nodes
        ]
        return _without_repeats(graph.with_nodes(nodes))


def _quantised(node: Node, coding: Quantisation, step: Step) -> Node:
    assert isinstance(node.attributes, QuantisePoint | Quantise)
    attributes = Quantise(
        role=node.attributes.role,
        quantisation=coding,
        requantisation=step.requantisation,
        centre=None if step.centre is None else freeze(step.centre),
        digits=None if step.digits is None else freeze(step.digits),
    )
    return replace(node, attributes=attributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A coding and its cost. Noise is relative to the values' mean square; operations are those of an image."""

    coding: Quantisation
    code_noise: float
    constant_noise: float
    operations: float

    @property
    def noise(self) -> float:
        """That of the codes and of the constants around them."""
        return self.code_noise + self.constant_noise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """The joint choice of all scales; see the module."""

    calibration: Calibration
    options: CompileOptions
    edges: tuple[Edge, ...]
    given: Codings
    floors: Mapping[int, float]

    def codings(self, first: Codings, finest: Mapping[int, float]) -> Codings:
        """A coding for every group. `first`: those of the round before, `finest`: bounds of the scales by group."""
        chosen = dict(self.given)
        chosen |= {edge.group: BIPOLAR for edge in self.edges if edge.unit.is_sign and edge.group not in chosen}
        _require_one_kind(self.edges, chosen)
        bits = self.bits()
        groups = {edge.group: edge.role for edge in self.edges if edge.group not in chosen}
        for group, role in sorted(groups.items(), key=lambda item: item[1] is not Role.RESIDUAL):
            seen = self.calibration.groups[group]
            least = finest.get(group, 0.0)
            is_rare = role is Role.ACTIVATION and self.is_seen_rarely(group)
            form = find_form(role, self.floors[group], seen, self.options, bits.get(group, 0), least, is_rare=is_rare)
            if is_rare:
                form = form.within(FEW_HEADROOM * form.least, FEW_HEADROOM * form.most)
            exact = self.exact(group, role, form, first)
            chosen[group] = exact or self.best(group, role, form, chosen)
        return chosen

    def is_seen_rarely(self, group: int) -> bool:
        """Whether a group holds one number a channel and image, and calibration had few images."""
        edges = [edge for edge in self.edges if edge.group == group]
        numbers = sum(edge.size for edge in edges)
        channels = sum(len(self.calibration.points[edge.point].mean) for edge in edges)
        images = self.calibration.groups[group].histogram.counts.sum() / numbers
        return numbers == channels and images < FEW_NUMBERS

    def bits(self) -> Mapping[int, int]:
        """The width of each group of activations that has a scale to choose, in the order of the graph."""
        signs = {edge.group for edge in self.edges if edge.unit.is_sign}
        groups = [edge.group for edge in self.edges if edge.role is Role.ACTIVATION and edge.group not in self.given]
        groups = [group for group in dict.fromkeys(groups) if group not in signs]
        wanted_db = self.options.act_signal_to_noise_db
        if wanted_db is not None:
            return {
                group: fewest_bits(
                    Role.ACTIVATION, self.floors[group], self.calibration.groups[group], self.options, wanted_db
                )
                for group in groups
            }
        listed = self.options.act_bits_listed
        if len(listed) not in (1, len(groups)):
            first = {edge.group: edge.point for edge in reversed(self.edges)}
            raise BadInput(
                f"act_bits lists {len(listed)} widths, the network has {len(groups)} quantised activations: "
                f"{', '.join(first[group] for group in groups)}; give one width, or one for each in this order"
            )
        return dict(zip(groups, listed * len(groups) if len(listed) == 1 else listed, strict=True))

    def finest(self, codings: Codings) -> Mapping[int, float]:
        """For each group the finest scale that all its steps can reach."""
        mode = self.options.requantisation
        multiplies = mode.mode is RequantiseMode.MULTIPLY
        largest_ratio = float(1 << (mode.number - 2 if multiplies else SHIFT_RATIO_BITS))
        finest: dict[int, float] = {}
        for edge in self.edges:
            largest = float(np.abs(edge.unit.gains).max()) * edge.scale_before(codings) / largest_ratio
            finest[edge.group] = max(largest, finest.get(edge.group, 0.0))
        return finest

    def exact(self, group: int, role: Role, form: Form, first: Codings) -> Quantisation | None:
        """Case 3."""
        if role is not Role.RESIDUAL or not first:
            return None
        steps = [
            gain * edge.scale_before(first)
            for edge in self.edges
            if edge.group == group
            for gain in (edge.common_gains or (math.nan,))
        ]
        scale = exact_residual_scale(steps)
        return form.at(scale) if scale is not None and scale >= form.least else None

    def best(self, group: int, role: Role, form: Form, chosen: Codings) -> Quantisation:
        """The candidate with the fewest operations among those of nearly the least noise."""
        before = [edge for edge in self.edges if edge.group == group and edge.is_step]
        behind = [  # but for the model's own steps, of which no moments are kept
            edge
            for edge in self.edges
            if edge.unit.sources == (group,) and edge.group in chosen and edge.group not in self.given
            if edge.common_gains and edge.is_step
        ]
        scored = [
            self.score(coding, group, before, behind, chosen)
            for coding in dict.fromkeys(self.candidates(group, role, form, before, behind, chosen))
        ]
        if self.options.requantisation.mode is RequantiseMode.SHIFT:
            scored = [candidate for candidate in scored if candidate.constant_noise <= EXACT] or scored
        least = min(candidate.noise for candidate in scored)
        multiplies = self.options.requantisation.mode is RequantiseMode.MULTIPLY  # chosen for precision
        most = max(SLACK * least, least + (0.0 if multiplies else NEGLIGIBLE))
        good = [candidate for candidate in scored if candidate.noise <= most]
        return min(good, key=lambda candidate: (candidate.operations, candidate.noise)).coding

    def score(
        self, coding: Quantisation, group: int, before: list[Edge], behind: list[Edge], chosen: Codings
    ) -> _Candidate:
        """A coding of a group with what it and the steps around it cost."""
        histogram = self.calibration.groups[group].histogram
        power = max(histogram.power, 1e-300)
        constants, operations = 0.0, 0.0
        for edge in before:
            source = self.scale_before(edge, chosen)
            if source is not None:
                added, count = step_noise(
                    edge, edge.unit.gains * (source / coding.scale), self.calibration, self.options
                )
                constants, operations = constants + added / power, operations + count
        for edge in behind:
            ratios = edge.unit.gains * (coding.scale / chosen[edge.group].scale)
            added, count = step_noise(edge, ratios, self.calibration, self.options)
            constants, operations = constants + added / max(self.power(edge), 1e-300), operations + count
        return _Candidate(
            coding=coding,
            code_noise=histogram.noise(coding) / power,
            constant_noise=constants,
            operations=operations,
        )

    def power(self, edge: Edge) -> float:
        """The mean square of what a step makes."""
        moments = self.calibration.points[edge.point]
        return float((moments.share * (moments.variance + moments.mean**2)).mean())

    def scale_before(self, edge: Edge, chosen: Codings) -> float | None:
        """The scale of the integers before a step, as far as it is fixed: in part by a floor, else None."""
        if all(source in chosen for source in edge.unit.sources):
            return edge.scale_before(chosen)
        if len(edge.unit.sources) > 1:
            return None
        floor = self.floors[edge.unit.sources[0]]
        return -floor if edge.common_gains and -math.inf < floor < 0 else None

    def candidates(
        self, group: int, role: Role, form: Form, before: list[Edge], behind: list[Edge], chosen: Codings
    ) -> Iterator[Quantisation]:
        """Codings to choose from, the plainest first."""
        if form.floor and role is not Role.ARGUMENT:
            yield from (form.at(scale) for scale in form.exact_scales if form.least <= scale <= form.most)
            is_coarse = form.least > -form.floor  # no scale has the floor exact and the range whole
            if self.options.requantisation.mode is not RequantiseMode.SHIFT and not is_coarse:
                yield form.plain
                return
        aligned = list(self.aligned(form, before, behind, chosen))
        octaves = math.log2(form.most / form.least)
        for step in range(max(1, math.ceil(octaves * STEPS_PER_OCTAVE))):
            scale = form.least * 2.0 ** (step / STEPS_PER_OCTAVE)
            if all(abs(scale / other - 1) > 1e-9 for other in aligned):  # else the exact one stands for both
                yield form.at(scale)
        yield from map(form.at, aligned)

    def aligned(self, form: Form, before: list[Edge], behind: list[Edge], chosen: Codings) -> Iterator[float]:
        """Scales that turn the ratio of a step before or behind into a sum of few powers of two."""
        anchors = [
            gain * source
            for edge in before
            if (source := self.scale_before(edge, chosen)) is not None
            for gain in edge.common_gains
        ]
        anchors += [chosen[edge.group].scale / gain for edge in behind for gain in edge.common_gains[:1]]
        mode = known_mode((before or behind)[0].role, self.options) if before or behind else None
        digits = mode.number if mode is not None and mode.mode is RequantiseMode.CSD else 1
        for anchor in anchors:
            for factor in sums_of_digits(min(digits, 3)):
                for scale in (anchor * factor, anchor / factor):
                    octave = math.ceil(math.log2(form.least / scale) - 1e-9)
                    if scale * 2.0**octave <= form.most * (1 + 1e-9):
                        yield scale * 2.0**octave


def exact_residual_scale(steps: list[float]) -> float | None:
    """The scale in which integers of these steps need a left shift at most: the finest step.

    None where a step is not known (not a number), or where their ratios are no powers of two.
    """
    finest = min(steps)
    return finest if all(math.frexp(step / finest)[0] == 0.5 for step in steps) else None


def _require_one_kind(edges: tuple[Edge, ...], chosen: Codings) -> None:
    for edge in edges:
        if edge.group in chosen and chosen[edge.group].bipolar and not edge.unit.is_sign:
            raise PassFailed(
                f"{edge.point!r}: 1-bit and k-bit activations are concatenated, so that they cannot share a scale; "
                "concatenate values of one kind"
            )


def _without_repeats(graph: Graph) -> Graph:
    """The graph without Quantise nodes that read codes of their own coding."""
    codings: dict[str, Quantisation] = {}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        (node,) = rename_inputs([node], names)
        match node.attributes:
            case Quantise(quantisation=coding) if codings.get(node.inputs[0]) == coding:
                names[node.output] = node.inputs[0]
                continue
            case Quantise(quantisation=coding):
                codings[node.output] = coding
            case ChannelPad() | MaxPool() if node.inputs[0] in codings:
                codings[node.output] = codings[node.inputs[0]]
        nodes.append(node)
    return graph.with_nodes(nodes, outputs=tuple(names.get(name, name) for name in graph.outputs))
