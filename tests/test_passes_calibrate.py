"""Ranges seen on calibration images."""

import warnings

import numpy as np
import pytest
from graph_helpers import affine, chain
from pass_helpers import CONV, RELU, images, placed, points

from bnhw.errors import PassFailed
from bnhw.ops import Add, QuantisePoint, Role
from bnhw.passes.calibrate import BATCH, Range, observe_ranges
from bnhw.passes.place import PlaceQuantisePoints
from bnhw.verify import evaluate


def test_ranges_are_those_of_all_images_whatever_the_batch() -> None:
    graph = placed(affine([2, -3], [1, 1]), RELU, CONV, RELU, CONV, shape=(2, 4, 4))
    many = np.random.default_rng(1).normal(0, 1, (2 * BATCH + 3, 2, 4, 4)).astype(np.float32)
    done: list[int] = []
    ranges = observe_ranges(graph, many, done.append)
    assert done == [BATCH, 2 * BATCH, 2 * BATCH + 3]
    values = dict(evaluate(graph, many))
    for node in graph.nodes:
        if isinstance(node.attributes, QuantisePoint):
            value = values[node.output]
            found = ranges[node.attributes.group]
            assert found.low == pytest.approx(float(value.min()), rel=1e-5)
            assert found.high == pytest.approx(float(value.max()), rel=1e-5)


def test_range_of_a_residual_group_holds_the_sums_too() -> None:
    graph = placed(
        ("a", affine([1, 1], [3, 3]), ("image",)), ("sum", Add(), ("a", "a")), ("r", CONV, ("sum",)), shape=(2, 4, 4)
    )
    (group,) = points(graph, Role.RESIDUAL).values()
    x = images(2, 4, 4)
    assert observe_ranges(graph, x)[group].high == pytest.approx(2 * (float(x.max()) + 3))


def test_ranges_join() -> None:
    assert Range(low=-1, high=2).joined(Range(low=-3, high=1)) == Range(low=-3, high=2)


def test_value_that_is_not_finite_is_refused() -> None:
    graph = PlaceQuantisePoints().run(chain(affine([1e38, 1], [0, 0]), CONV, shape=(2, 4, 4)))
    with pytest.raises(PassFailed, match="is not finite on the calibration images"):
        observe_ranges(graph, 1e6 * images(2, 4, 4))


@pytest.mark.parametrize(("factor", "value"), [(1, "n3/activation"), (1e6, "n0/input")])
def test_what_overflows_is_refused_without_a_warning(factor: float, value: str) -> None:
    """In the sums of a convolution (behind them 0 times infinity is no number either), or in front of it."""
    nodes = (affine([1e38, 1e38], [0, 0]), CONV, affine([0, 1], [0, 0]), RELU, CONV)
    graph = PlaceQuantisePoints().run(chain(*nodes, shape=(2, 4, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PassFailed, match=f"'{value}' is not finite on the calibration images"):
            observe_ranges(graph, np.float32(factor) * images(2, 4, 4))
