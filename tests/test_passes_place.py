"""Where quantise points stand: the cases of `bnhw.passes.place`, and the function is kept."""

import pytest
from graph_helpers import affine, chain, same_function
from hypothesis import given, settings
from model_strategies import Model, models
from pass_helpers import (
    CONV,
    MULTIPLY,
    PADDED_POOL,
    RELU,
    SAME,
    convolution,
    expect_same,
    images,
    kinds,
    placed,
    points,
)

from bnhw.graph import Attributes, Graph
from bnhw.importer import import_onnx
from bnhw.monotone import Function
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
    Quantise,
    QuantisePoint,
    Role,
    Sign,
    Window,
)
from bnhw.passes.base import run_passes
from bnhw.passes.calibrate import calibrate
from bnhw.passes.pipeline import float_passes
from bnhw.passes.place import PlaceQuantisePoints
from bnhw.passes.scales import ChooseScales
from bnhw.verify import check_graph


def test_place_case_1_operands_of_a_residual_add_share_a_group() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("b", CONV, ("image",)),
        ("sum", Add(), ("a", "b")),
        ("reader", CONV, ("sum",)),
        shape=(2, 4, 4),
    )
    assert points(graph, Role.RESIDUAL) == {"a": 0, "b": 0}
    assert points(graph, Role.ACTIVATION) == {"sum": 1}


def test_place_case_1_adds_that_feed_each_other_share_one_group() -> None:
    """Through a max pool and zero channels too, and when two streams meet late."""
    wide = convolution(3, 2, bits=1)
    graph = placed(
        ("a", CONV, ("image",)),
        ("b", CONV, ("image",)),
        ("first", Add(), ("a", "b")),
        ("other", Add(), ("b", "image")),
        ("pooled", MaxPool(window=SAME), ("first",)),
        ("padded", ChannelPad(before=0, after=1), ("pooled",)),
        ("c", wide, ("image",)),
        ("second", Add(), ("padded", "c")),
        ("d", ChannelPad(before=1, after=0), ("other",)),
        ("third", Add(), ("second", "d")),
        shape=(2, 4, 4),
    )
    groups = points(graph, Role.RESIDUAL)
    assert set(groups) == {"a", "b", "image", "c"}
    assert len(set(groups.values())) == 1


def test_place_case_1_independent_adds_keep_groups_of_their_own() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("first", Add(), ("a", "image")),
        ("b", CONV, ("first",)),
        ("c", RELU, ("first",)),
        ("second", Add(), ("b", "c")),
        shape=(2, 4, 4),
    )
    groups = points(graph, Role.RESIDUAL)
    assert groups["a"] != groups["b"]
    assert groups["b"] == groups["c"]


def test_place_case_1_other_readers_of_a_residual_value_read_its_codes() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("floor", RELU, ("a",)),
        ("b", CONV, ("floor",)),
        ("sum", Add(), ("a", "b")),
        shape=(2, 4, 4),
    )
    (floor,) = [node for node in graph.nodes if node.name == "floor"]
    assert floor.inputs == ("a/residual",)


def test_place_case_2_convolutions_read_activation_points() -> None:
    graph = placed(CONV, RELU, CONV, RELU, CONV, shape=(2, 4, 4))
    assert list(points(graph, Role.ACTIVATION)) == ["n1", "n3"]
    assert kinds(graph) == [
        "Convolution",
        "Clamp",
        "QuantisePoint",
        "Convolution",
        "Clamp",
        "QuantisePoint",
        "Convolution",
    ]


def test_place_case_2_only_pointwise_nodes_from_the_image_make_an_input_point() -> None:
    graph = placed(affine([2, 3], [1, 1]), CONV, affine([2, 3], [1, 1]), CONV, shape=(2, 4, 4))
    assert list(points(graph, Role.INPUT)) == ["n0"]
    assert list(points(graph, Role.ACTIVATION)) == ["n2"]


def test_place_case_2_convolution_of_the_image_itself_needs_no_point() -> None:
    assert kinds(placed(CONV, shape=(2, 4, 4))) == ["Convolution"]


def test_place_case_2_one_value_has_one_point_for_all_convolutions() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("f", RELU, ("a",)),
        ("b", CONV, ("f",)),
        ("c", CONV, ("f",)),
        ("sum", Add(), ("b", "c")),
        shape=(2, 4, 4),
    )
    assert len(points(graph, Role.ACTIVATION)) == 1


def test_place_case_3_pools_read_codes() -> None:
    window = Window(kernel=(2, 2))
    for pool in (AveragePool(window=window), MaxPool(window=window), GlobalAveragePool()):
        graph = placed(CONV, RELU, pool, shape=(2, 4, 4))
        assert kinds(graph)[1:4] == ["Clamp", "QuantisePoint", type(pool).__name__]


def test_place_case_3_concatenated_values_share_a_group() -> None:
    graph = placed(
        ("a", CONV, ("image",)),
        ("f", RELU, ("a",)),
        ("b", CONV, ("f",)),
        ("joined", Concatenate(), ("a", "b", "f")),
        ("reader", convolution(2, 6, bits=1), ("joined",)),
        shape=(2, 4, 4),
    )
    (joined,) = [node for node in graph.nodes if node.name == "joined"]
    made = {node.output: node.attributes for node in graph.nodes}
    shared = [made[name] for name in joined.inputs]
    assert len({point.group for point in shared if isinstance(point, QuantisePoint)}) == 1
    assert all(isinstance(point, QuantisePoint) for point in shared)
    (reader,) = [node for node in graph.nodes if node.name == "reader"]
    assert reader.inputs == ("joined",)


def test_place_case_4_chain_longer_than_affine_and_clamp_gets_a_point_between() -> None:
    graph = placed(CONV, affine([2, 3], [1, 1]), RELU, affine([2, 3], [1, 1]), RELU, CONV, shape=(2, 4, 4))
    assert kinds(graph) == [
        "Convolution", "Affine", "Clamp", "QuantisePoint", "Affine", "Clamp", "QuantisePoint", "Convolution",
    ]  # fmt: skip


@pytest.mark.parametrize("second", [Sign(), Clamp(low=0.5)])
def test_place_case_4_second_clamp_or_sign_gets_a_point_in_front(second: Attributes) -> None:
    graph = placed(CONV, RELU, second, CONV, shape=(2, 4, 4))
    assert kinds(graph)[1:5] == ["Clamp", "QuantisePoint", type(second).__name__, "QuantisePoint"]


def test_place_case_4_pool_with_different_divisors_starts_a_chain() -> None:
    graph = placed(CONV, AveragePool(window=PADDED_POOL), affine([2, 3], [1, 1]), RELU, CONV, shape=(2, 5, 5))
    assert kinds(graph)[1:5] == ["AveragePool", "Affine", "Clamp", "QuantisePoint"]


ELU = Activation(function=Function.ELU)


def test_place_case_4_an_activation_reads_an_argument_point() -> None:
    """One for all functions of a value; a convolution of that value has codes of its own."""
    graph = placed(
        ("a", CONV, ("image",)),
        ("elu", ELU, ("a",)),
        ("tanh", Activation(function=Function.TANH), ("a",)),
        ("b", CONV, ("elu",)),
        ("c", CONV, ("tanh",)),
        ("d", CONV, ("a",)),
        ("joined", Concatenate(), ("b", "c", "d")),
        ("e", convolution(2, 6, bits=1), ("joined",)),
        shape=(2, 4, 4),
    )
    assert list(points(graph, Role.ARGUMENT)) == ["a"]
    assert {"elu", "tanh", "a"} <= set(points(graph, Role.ACTIVATION))


def test_place_case_4_a_function_of_the_scaled_image_is_a_table_of_its_own() -> None:
    graph = placed(affine([2, -3], [0, 1]), ELU, CONV, shape=(2, 4, 4))
    assert not points(graph, Role.ARGUMENT)
    assert list(points(graph, Role.INPUT)) == ["n1"]
    assert points(placed(RELU, ELU, CONV, shape=(2, 4, 4)), Role.ARGUMENT)


def by_thresholds(*nodes: Attributes | tuple[str, Attributes, tuple[str, ...]]) -> Graph:
    graph = chain(*nodes, shape=(2, 4, 4))
    return expect_same(graph, PlaceQuantisePoints(thresholds=True).run(graph))


def test_place_case_4_thresholds_need_no_argument_point_behind_activations() -> None:
    graph = by_thresholds(CONV, affine([1, -2], [0, 1]), ELU, Clamp(high=1.0), CONV, ELU, MaxPool(window=SAME), CONV)
    assert not points(graph, Role.ARGUMENT)
    assert list(points(graph, Role.ACTIVATION)) == ["n3", "n5"]


@pytest.mark.parametrize(
    "behind",
    [
        (("sum", Add(), ("elu", "a")), ("last", CONV, ("sum",))),
        (("clamped", Clamp(high=1.0), ("elu",)), ("sum", Add(), ("clamped", "a")), ("last", CONV, ("sum",))),
        (("two", Concatenate(), ("elu", "a")), ("last", affine([1] * 4, [2] * 4), ("two",))),
        (),
    ],
)
def test_place_case_4_finer_codes_than_activations_need_an_argument_point(
    behind: tuple[tuple[str, Attributes, tuple[str, ...]], ...],
) -> None:
    graph = by_thresholds(("a", CONV, ("image",)), ("elu", ELU, ("a",)), *behind)
    assert len(points(graph, Role.ARGUMENT)) == 1


@pytest.mark.parametrize("tail", [(), (affine([2, 2], [0, 0]),)])
def test_place_case_5_logits_with_one_factor_need_no_point(tail: tuple[Attributes, ...]) -> None:
    assert not points(placed(CONV, GlobalAveragePool(), *tail, shape=(2, 4, 4)), Role.LOGITS)


@pytest.mark.parametrize("tail", [affine([2, 3], [0, 0]), affine([2, 2], [0, 1]), affine([-2, -2], [0, 0]), RELU])
def test_place_case_5_other_logits_get_a_point(tail: Attributes) -> None:
    assert points(placed(CONV, GlobalAveragePool(), tail, shape=(2, 4, 4)), Role.LOGITS) == {"n2": 0}


def test_sum_of_bipolar_values_is_a_sum_of_codes_of_one_width() -> None:
    graph = placed(("a", CONV, ("image",)), ("s", Sign(), ("a",)), ("sum", Add(), ("a", "s")), shape=(2, 4, 4))
    result = ChooseScales(calibration=calibrate(graph, images(2, 4, 4)), options=MULTIPLY).run(graph)
    check_graph(result)
    (added,) = [node for node in result.nodes if node.name == "sum"]
    made = {node.output: node.attributes for node in result.nodes}
    codings = [made[name] for name in added.inputs]
    assert all(isinstance(coding, Quantise) for coding in codings)
    assert len({coding.quantisation for coding in codings if isinstance(coding, Quantise)}) == 1


@settings(deadline=None, max_examples=80)
@given(models())
def test_placing_keeps_the_function_and_gives_integers_everywhere(model: Model) -> None:
    graph = run_passes(import_onnx(model.onnx), float_passes(MULTIPLY)[:4])
    result = PlaceQuantisePoints().run(graph)
    check_graph(result)
    assert same_function(graph, result, model.images)
    coded = {result.inputs[0].name}
    for node in result.nodes:
        if isinstance(node.attributes, Convolution | MaxPool | AveragePool | GlobalAveragePool | Add | Concatenate):
            exact = [name in coded for name in node.inputs]
            assert all(exact), f"{node.op} {node.name} reads a value that is neither codes nor an exact sum"
        if not isinstance(node.attributes, Affine | Clamp | Sign):
            coded.add(node.output)
