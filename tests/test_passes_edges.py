"""The steps that a graph will have: gains and shares on the way from one group to the next."""

import numpy as np
import pytest
from graph_helpers import affine
from pass_helpers import CONV, PADDED_POOL, RELU, SAME, convolution, placed

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.graph import Attributes
from bnhw.ops import (
    Add,
    AveragePool,
    ChannelPad,
    GlobalAveragePool,
    MaxPool,
    Quantise,
    Role,
    Sign,
    Window,
    pool_divisors,
)
from bnhw.passes.edges import Edge, find_edges

Nodes = Attributes | tuple[str, Attributes, tuple[str, ...]]


def edges_of(*nodes: Nodes, shape: tuple[int, int, int] = (2, 6, 6)) -> dict[str, Edge]:
    edges, _ = find_edges(placed(*nodes, shape=shape))
    return {edge.point: edge for edge in edges}


def edge_of(role: Role, *nodes: Nodes, shape: tuple[int, int, int] = (2, 6, 6)) -> Edge:
    (found,) = [edge for edge in edges_of(*nodes, shape=shape).values() if edge.role is role]
    return found


def test_a_convolution_s_gains_are_those_of_the_lines_behind_it() -> None:
    edge = edge_of(Role.ACTIVATION, CONV, affine([2, -3], [0.5, 0]), RELU, CONV)
    assert edge.unit.gains.tolist() == [[2, -3]]
    assert (edge.unit.sources, edge.unit.is_image, edge.common_gains, edge.is_step) == ((), False, (), True)
    assert edge.size == 2 * 6 * 6


@pytest.mark.parametrize(("gains", "common"), [([2, 2], (2.0,)), ([-2, -2], ()), ([2, 3], ())])
def test_only_one_positive_gain_for_all_is_common(gains: list[float], common: tuple[float, ...]) -> None:
    assert edge_of(Role.ACTIVATION, CONV, affine(gains, [0.5, 0]), RELU, CONV).common_gains == common


def test_the_image_behind_its_norm_is_a_lookup() -> None:
    edge = edge_of(Role.INPUT, affine([2, 3], [0.5, 0]), CONV)
    assert edge.unit.is_image
    assert not edge.is_step


def test_a_sign_is_no_step() -> None:
    edge = edge_of(Role.ACTIVATION, CONV, affine([2, 3], [0.5, 0]), Sign(), CONV)
    assert edge.unit.is_sign
    assert not edge.is_step


@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("window", [SAME, PADDED_POOL], ids=["every pixel", "every second"])
def test_a_pool_has_a_gain_for_each_divisor_and_its_share_of_the_pixels(window: Window, size: int) -> None:
    pool = AveragePool(window=window)
    edge = edge_of(Role.ACTIVATION, CONV, pool, affine([2, 2], [0.5, 0]), RELU, CONV, shape=(2, size, size))
    divisors = pool_divisors(pool.window, size, size, count_padding=False)
    assert edge.unit.gains.shape[0] == len(edge.unit.shares)
    for gain, share in zip(edge.unit.gains[:, 0], edge.unit.shares, strict=True):
        assert (divisors == round(2 / gain)).mean() == pytest.approx(share)
    assert edge.unit.shares.sum() == pytest.approx(1)
    assert len(edge.common_gains) == len(edge.unit.shares)


def test_a_pool_that_counts_its_padding_has_one_divisor() -> None:
    pool = AveragePool(window=PADDED_POOL, count_padding=True)
    edge = edge_of(Role.ACTIVATION, CONV, pool, RELU, CONV)
    assert edge.common_gains == (1 / 9,)


def test_a_mean_divides_by_all_pixels() -> None:
    edge = edge_of(Role.LOGITS, CONV, GlobalAveragePool(), affine([1, 3], [0, 0.5]))
    np.testing.assert_allclose(edge.unit.gains, [[1 / 36, 3 / 36]])


def test_residual_operands_share_a_group_and_each_has_its_source() -> None:
    edges = edges_of(
        ("a", CONV, ("image",)),
        ("r", RELU, ("a",)),
        ("b", convolution(2, 2, bits=1, seed=1), ("r",)),
        ("b2", affine([0.5, 0.5], [0, 0]), ("b",)),
        ("pooled", AveragePool(window=SAME), ("a",)),
        ("sum", Add(), ("b2", "pooled")),
        ("padded", ChannelPad(before=1, after=0), ("sum",)),
        ("max", MaxPool(window=PADDED_POOL), ("padded",)),
        ("r2", RELU, ("max",)),
        ("last", convolution(2, 3, bits=1), ("r2",)),
    )
    stream = [edge for edge in edges.values() if edge.role is Role.RESIDUAL]
    activations = [edge for edge in edges.values() if edge.role is Role.ACTIVATION]
    first, second = activations
    by_source = {edge.unit.sources: edge for edge in stream}
    assert by_source[first.group,].common_gains == (0.5,)
    (group,) = {edge.group for edge in stream if edge.unit.sources == (first.group,)}
    assert second.unit.sources == (group,)
    assert second.common_gains == (1.0,)


def test_codings_of_the_model_have_negative_groups() -> None:
    coding = Quantisation(dtype=IntegerType(bits=4, signed=True), scale=0.25)
    graph = placed(CONV, Quantise(role=Role.ACTIVATION, quantisation=coding), CONV, RELU, CONV, shape=(2, 6, 6))
    edges, given = find_edges(graph)
    assert given == {-1: coding}
    (behind,) = [edge for edge in edges if edge.unit.sources == (-1,)]
    assert behind.role is Role.ACTIVATION
    assert [edge.group for edge in edges if edge.point == "n1"] == [-1]
