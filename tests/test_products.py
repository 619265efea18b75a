"""Products of two computed values: data-dependent scales as in RBN and IEBN, from float nodes to instructions."""

from collections.abc import Sequence

import numpy as np
import pytest
from graph_helpers import affine, chain
from pass_helpers import CONV, RELU, all_of, expect_same, kinds, only, placed, points

from bnhw.compiler import calibration_images
from bnhw.count import count_program
from bnhw.errors import PassFailed
from bnhw.fidelity import measure_layers
from bnhw.graph import Attributes, Graph
from bnhw.lower import lower
from bnhw.machine import Machine
from bnhw.monotone import Function
from bnhw.ops import Activation, Add, Affine, GlobalAveragePool, Product, Quantise, QuantisePoint, Role, Sign
from bnhw.options import CompileOptions
from bnhw.passes.base import run_passes
from bnhw.passes.calibrate import calibrate
from bnhw.passes.edges import find_edges
from bnhw.passes.floors import find_floors
from bnhw.passes.fold import FoldConstants
from bnhw.passes.pipeline import float_passes, quantise_graph
from bnhw.passes.scales import ChooseScales
from bnhw.program import LookUp, Multiply, Program, Provenance, Requantise, SumGlobal
from bnhw.program_check import check_program

Nodes = Attributes | tuple[str, Attributes, tuple[str, ...]]

SIGMOID = Activation(function=Function.SIGMOID)
ELU = Activation(function=Function.ELU)
POOL = GlobalAveragePool()
PROVENANCE = Provenance(producer="tests", source_name="built", source_sha256="0" * 64, options={})


def dynamic(*, of_normalised: bool) -> tuple[Nodes, ...]:
    """RBN (the mean of the normalised value) or IEBN (of the value), and what follows."""
    return (
        ("x", CONV, ("image",)),
        ("hat", affine([0.02, -0.03], [0.5, -0.25]), ("x",)),
        ("mean", POOL, ("hat" if of_normalised else "x",)),
        ("line", affine([0.5, 2], [1, -1]), ("mean",)),
        ("gate", SIGMOID, ("line",)),
        ("scaled", Product(), ("hat", "gate")),
        ("gained", affine([0.5, 2], [0.1, 0]), ("scaled",)),
        ("codes", RELU, ("gained",)),
        ("second", CONV, ("codes",)),
        ("end", POOL, ("second",)),
    )


SHAPE = (2, 6, 5)


def compiled(*nodes: Nodes, options: Sequence[tuple[str, object]] = ()) -> tuple[Graph, Program]:
    """The graph behind the float passes and the program, for raw pixels."""
    chosen = CompileOptions(**dict(options))  # type: ignore[arg-type]  # each test gives what its option takes
    graph = chain(*nodes, shape=SHAPE)
    pixels = np.random.default_rng(0).integers(0, 256, (16, SHAPE[1], SHAPE[2], SHAPE[0])).astype(np.uint8)
    reals = calibration_images(graph, pixels)
    program = lower(quantise_graph(graph, chosen, reals), PROVENANCE)
    check_program(program)
    return run_passes(graph, float_passes(chosen)), program


@pytest.mark.parametrize("of_normalised", [True, False])
def test_fold_case_11_the_mean_is_that_of_the_value_that_is_multiplied(of_normalised: bool) -> None:
    graph = chain(*dynamic(of_normalised=of_normalised), shape=SHAPE)
    result = expect_same(graph, FoldConstants().run(graph))
    (pool,) = [node for node in result.nodes if node.op == "GlobalAveragePool" and node.output != "end"]
    (product,) = [node for node in result.nodes if isinstance(node.attributes, Product)]
    assert pool.inputs[0] == product.inputs[0]
    line = result.producers[product.inputs[1]].inputs[0]
    wanted = ([0.5, 2.0], [1.0, -1.0])
    if not of_normalised:  # the mean of x is that of hat, less the shift, by the scale
        wanted = ([0.5 / 0.02, 2 / -0.03], [1 - 0.5 * 0.5 / 0.02, -1 - 2 * -0.25 / -0.03])
    found = result.producers[line].attributes
    assert isinstance(found, Affine)
    np.testing.assert_allclose((found.scale, found.shift), wanted, rtol=1e-12)


@pytest.mark.parametrize("mean_first", [True, False])
def test_fold_case_11_keeps_the_order_of_what_reads_the_affine(mean_first: bool) -> None:
    mean: list[Nodes] = [("mean", POOL, ("x",))]
    line: list[Nodes] = [("hat", affine([0.5, -2], [1, 3]), ("x",)), ("reader", CONV, ("hat",))]
    graph = chain(
        ("x", CONV, ("image",)),
        *(mean + line if mean_first else line + mean),
        ("gate", SIGMOID, ("mean",)),
        ("product", Product(), ("hat", "gate")),
        ("sum", Add(), ("product", "reader")),
        shape=SHAPE,
    )
    result = expect_same(graph, FoldConstants().run(graph))
    assert next(node.inputs for node in result.nodes if node.op == "GlobalAveragePool") == ("hat",)


def test_fold_case_11_an_affine_with_a_zero_has_no_inverse() -> None:
    nodes = list(dynamic(of_normalised=False))
    nodes[1] = ("hat", affine([0.02, 0], [0.5, -0.25]), ("x",))
    graph = chain(*nodes, shape=SHAPE)
    result = expect_same(graph, FoldConstants().run(graph))
    assert next(node.inputs for node in result.nodes if node.op == "GlobalAveragePool") == ("x",)


def test_fold_case_12_a_gain_of_the_gate_goes_behind_the_product() -> None:
    graph = chain(
        ("gate", SIGMOID, ("image",)),
        ("gained", affine([0.5, -2], [0, 0]), ("gate",)),
        ("product", Product(), ("image", "gained")),
        shape=SHAPE,
    )
    result = expect_same(graph, FoldConstants().run(graph))
    assert kinds(result) == ["Activation", "Product", "Affine"]
    assert only(result, Affine).scale.tolist() == [0.5, -2]


def test_fold_case_12_a_gate_with_a_shift_stays_as_it_is() -> None:
    graph = chain(
        ("gate", SIGMOID, ("image",)),
        ("raised", affine([0.5, 2], [0, 1]), ("gate",)),
        ("product", Product(), ("image", "raised")),
        shape=SHAPE,
    )
    assert kinds(expect_same(graph, FoldConstants().run(graph))) == ["Activation", "Affine", "Product"]


def test_place_case_6_mean_and_product_read_the_same_codes() -> None:
    graph = run_passes(chain(*dynamic(of_normalised=False), shape=SHAPE), float_passes(CompileOptions()))
    assert len(points(graph, Role.FACTOR)) == len(points(graph, Role.GATE)) == len(points(graph, Role.ARGUMENT)) == 1
    (factor,) = [
        node.output
        for node in graph.nodes
        if isinstance(node.attributes, QuantisePoint) and node.attributes.role is Role.FACTOR
    ]
    assert [node.op for node in graph.consumers[factor]] == ["GlobalAveragePool", "Product"]


def test_place_case_6_codes_that_are_there_are_multiplied_as_they_are() -> None:
    """The residual stream itself; a convolution that reads the same value gets codes of activation width."""
    graph = placed(
        ("a", CONV, ("image",)),
        ("b", CONV, ("image",)),
        ("sum", Add(), ("a", "b")),
        ("mean", POOL, ("sum",)),
        ("gate", SIGMOID, ("mean",)),
        ("product", Product(), ("a", "gate")),
        ("reader", CONV, ("a",)),
        ("last", Add(), ("product", "reader")),
        shape=SHAPE,
    )
    (product,) = [node for node in graph.nodes if isinstance(node.attributes, Product)]
    assert not points(graph, Role.FACTOR)
    assert product.inputs[0] in {node.output for node in graph.nodes if node.op == "QuantisePoint"}
    assert len(points(graph, Role.ACTIVATION)) == 1


def test_a_value_that_is_multiplied_and_convolved_has_codes_for_each() -> None:
    graph = placed(
        ("x", CONV, ("image",)),
        ("value", RELU, ("x",)),
        ("mean", POOL, ("value",)),
        ("gate", SIGMOID, ("mean",)),
        ("product", Product(), ("value", "gate")),
        ("reader", CONV, ("value",)),
        ("other", CONV, ("product",)),
        ("both", Product(), ("reader", "other")),
        shape=SHAPE,
    )
    assert {"value"} == set(points(graph, Role.FACTOR)) - {"reader"}
    assert "value" in points(graph, Role.ACTIVATION)


def test_a_product_is_negative_where_a_factor_can_be() -> None:
    bounds = {}
    for name, gate in (("positive", SIGMOID), ("signed", ELU)):
        graph = chain(
            ("value", RELU, ("image",)),
            ("gate", gate, ("value",)),
            ("product", Product(), ("value", "gate")),
            ("point", QuantisePoint(role=Role.ACTIVATION, group=0), ("product",)),
            shape=SHAPE,
        )
        bounds[name] = find_floors(graph)[0]
    assert bounds == {"positive": 0.0, "signed": -np.inf}


def test_a_step_behind_a_product_has_two_sources() -> None:
    graph = run_passes(chain(*dynamic(of_normalised=True), shape=SHAPE), float_passes(CompileOptions()))
    edges, _ = find_edges(graph)
    groups = {edge.role: edge.group for edge in edges}
    (behind,) = [edge for edge in edges if edge.role is Role.ACTIVATION]
    assert behind.unit.sources == (groups[Role.FACTOR], groups[Role.GATE])
    assert behind.unit.gains.tolist() == [[0.5, 2]]


@pytest.mark.parametrize(
    ("of_normalised", "requantise"),
    [(True, "auto"), (True, "shift"), (True, "threshold"), (False, "auto"), (False, "csd:3"), (False, "multiply:16")],
)
def test_a_data_dependent_scale_becomes_sum_lookup_and_product(of_normalised: bool, requantise: str) -> None:
    graph, program = compiled(*dynamic(of_normalised=of_normalised), options=[("requantise", requantise)])
    kinds_found = [type(instruction) for instruction in program.instructions]
    at = kinds_found.index(Multiply)
    assert kinds_found[at - 4 : at + 1] == [Requantise, SumGlobal, Requantise, LookUp, Multiply]
    product = program.instructions[at]
    first, second = (program.tensor[name] for name in product.inputs)
    assert (str(first.dtype), str(second.dtype)) == ("int12", "uint8")
    assert program.instructions[at - 3].inputs == (first.name,)
    result = program.tensor[product.output]
    assert result.scale == pytest.approx(first.scale * second.scale)
    counts = next(layer.counts for layer in count_program(program) if layer.instruction is product)
    assert counts.multipliers == 2 * 6 * 5
    assert any(note.startswith("1 product of two computed values, on multipliers") for note in program.provenance.notes)
    if requantise != "shift":  # whose ratios, one a channel here, are off by up to 40 %
        pixels = np.random.default_rng(1).integers(0, 256, (8, 6, 5, 2)).astype(np.uint8)
        assert min(layer.signal_to_noise_db for layer in measure_layers(program, graph, pixels)) > 30


def test_a_gate_that_falls_with_the_mean_is_no_shift() -> None:
    nodes = list(dynamic(of_normalised=True))
    nodes[3] = ("line", affine([0.5, -2], [1, -1]), ("mean",))
    with pytest.raises(PassFailed, match="'line/argument': 1 channels have a negative gain, which a shift cannot give"):
        compiled(*nodes, options=[("requantise", "shift")])


def test_a_brighter_image_has_another_gate_and_the_others_of_its_batch_keep_theirs() -> None:
    _, program = compiled(*dynamic(of_normalised=True))
    (gate,) = [i.inputs[1] for i in program.instructions if isinstance(i, Multiply)]
    pixels = np.random.default_rng(1).integers(0, 100, (2, 6, 5, 2)).astype(np.uint8)
    brighter = pixels.copy()
    brighter[1] += 150
    gates = [
        next(step.value for step in Machine(program).steps(batch) if step.instruction.output == gate)
        for batch in (pixels, brighter)
    ]
    assert np.array_equal(gates[0][0], gates[1][0])
    assert not np.array_equal(gates[0][1], gates[1][1])


def test_codes_of_means_have_room_for_images_that_calibration_has_not_seen() -> None:
    """One number a channel and image: few images do not show their range; many do, and pixels are many."""
    nodes = (("x", CONV, ("image",)), ("mean", POOL, ("x",)), ("a", RELU, ("mean",)), ("end", CONV, ("a",)))
    graph = run_passes(chain(*nodes, shape=SHAPE), float_passes(CompileOptions(ranges="min-max")))
    pixels = np.random.default_rng(0).integers(0, 256, (8, *SHAPE)).astype(np.float32)
    scales = []
    for count in (1, 128):
        calibration = calibrate(graph, np.tile(pixels, (count, 1, 1, 1)))
        quantised = ChooseScales(calibration=calibration, options=CompileOptions(ranges="min-max")).run(graph)
        (found,) = [q.quantisation for q in all_of(quantised, Quantise) if q.role is Role.ACTIVATION]
        scales.append(found.scale)
    highest = max(seen.high for seen in calibration.groups.values())
    assert scales[0] * 255 >= 1.25 * highest
    assert highest * 0.99 < scales[1] * 255 < 1.1 * highest


def test_one_bit_activations_are_not_multiplied() -> None:
    with pytest.raises(PassFailed, match=r"Product .* reads 1-bit activations; put the product before the sign"):
        compiled(
            ("x", CONV, ("image",)),
            ("bits", Sign(), ("x",)),
            ("mean", POOL, ("x",)),
            ("gate", SIGMOID, ("mean",)),
            ("product", Product(), ("bits", "gate")),
            ("end", POOL, ("product",)),
        )


def test_products_of_wide_residual_codes_say_what_to_choose() -> None:
    nodes = (
        ("a", CONV, ("image",)),
        ("b", CONV, ("image",)),
        ("sum", Add(), ("a", "b")),
        ("square", Product(), ("a", "a")),
        ("last", CONV, ("sum",)),
        ("all", Product(), ("square", "last")),
        ("end", POOL, ("all",)),
    )
    compiled(*nodes, options=[("residual_bits", 13)])
    with pytest.raises(PassFailed, match=r"its sums take \d+ bits with their sign"):
        compiled(*nodes, options=[("residual_bits", 20)])


def test_float_products_keep_their_values() -> None:
    graph = chain(*dynamic(of_normalised=True), shape=SHAPE)
    expect_same(graph, run_passes(graph, float_passes(CompileOptions())))
