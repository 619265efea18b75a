"""What calibration images show: ranges, histograms, moments."""

import warnings

import numpy as np
import pytest
from graph_helpers import affine, chain
from pass_helpers import CONV, PADDED_POOL, RELU, images, placed, points

from bnhw.dtypes import Array
from bnhw.errors import PassFailed
from bnhw.graph import Attributes
from bnhw.ops import Add, Clamp, MaxPool, QuantisePoint, Role
from bnhw.passes.calibrate import BATCH, Moments, calibrate
from bnhw.passes.place import PlaceQuantisePoints
from bnhw.verify import evaluate


def test_ranges_are_those_of_all_images_whatever_the_batch() -> None:
    graph = placed(affine([2, -3], [1, 1]), RELU, CONV, RELU, CONV, shape=(2, 4, 4))
    many = np.random.default_rng(1).normal(0, 1, (2 * BATCH + 3, 2, 4, 4)).astype(np.float32)
    done: list[int] = []
    calibration = calibrate(graph, many, done.append)
    assert done == [BATCH, 2 * BATCH, 2 * BATCH + 3]
    values = dict(evaluate(graph, many))
    for node in graph.nodes:
        if isinstance(node.attributes, QuantisePoint):
            value = values[node.output]
            found = calibration.groups[node.attributes.group]
            assert found.low == pytest.approx(float(value.min()), rel=1e-5)
            assert found.high == pytest.approx(float(value.max()), rel=1e-5)
            assert found.histogram.counts.sum() == value.size


def test_range_of_a_residual_group_holds_the_sums_too() -> None:
    graph = placed(
        ("a", affine([1, 1], [3, 3]), ("image",)), ("sum", Add(), ("a", "a")), ("r", CONV, ("sum",)), shape=(2, 4, 4)
    )
    (group,) = points(graph, Role.RESIDUAL).values()
    x = images(2, 4, 4)
    seen = calibrate(graph, x).groups[group]
    assert seen.high == pytest.approx(2 * (float(x.max()) + 3))
    assert seen.histogram.counts.sum() == 2 * x.size  # the operand and the sum


def expected_moments(value: Array, low: float, high: float) -> tuple[Array, Array, Array]:
    """Share, mean and variance of the values strictly between the bounds, a channel, in numpy."""
    rows = value.transpose(1, 0, 2, 3).reshape(value.shape[1], -1).astype(np.float64)
    kept = [row[(row > low) & (row < high)] for row in rows]
    share = np.array([len(row) / rows.shape[1] for row in kept])
    mean, variance = (np.array([of(row) if len(row) else 0.0 for row in kept]) for of in (np.mean, np.var))
    return share, mean, variance


def expect_moments(found: Moments, value: Array, low: float, high: float) -> None:
    for name, wanted in zip(("share", "mean", "variance"), expected_moments(value, low, high), strict=True):
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-3, atol=1e-6, err_msg=name)


CLAMPS = [
    (RELU, 0.0, np.inf),
    (Clamp(low=-1.0, high=1.5), -1.0, 1.5),
    (affine([1.5, -0.5], [0.25, 0]), -np.inf, np.inf),
]


@pytest.mark.parametrize("batch", [1, 3, BATCH, 100])
@pytest.mark.parametrize(("attributes", "low", "high"), CLAMPS)
@pytest.mark.parametrize("pooled", [False, True])
def test_moments_are_those_of_what_no_clamp_has_cut_whatever_the_batch(
    attributes: Attributes, low: float, high: float, pooled: bool, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnhw.passes.calibrate.BATCH", batch)
    pool = (MaxPool(window=PADDED_POOL),) if pooled else ()
    graph = placed(CONV, affine([0.3, 0.2], [-0.2, 0.1]), attributes, *pool, CONV, shape=(2, 6, 6))
    many = np.random.default_rng(2).normal(0, 1, (BATCH + 3, 2, 6, 6)).astype(np.float32)
    values, calibration = dict(evaluate(graph, many)), calibrate(graph, many)
    roles = {n.output: n.attributes.role for n in graph.nodes if isinstance(n.attributes, QuantisePoint)}
    assert set(calibration.points) == set(roles)
    assert Role.ACTIVATION in roles.values()
    for name, role in roles.items():
        limits = (low, high) if role is Role.ACTIVATION else (-np.inf, np.inf)
        expect_moments(calibration.points[name], values[name], *limits)


@pytest.mark.parametrize("pools", [0, 1, 2])
def test_what_a_clamp_has_cut_is_known_through_max_pools(pools: int) -> None:
    point = QuantisePoint(role=Role.ACTIVATION, group=0)
    graph = chain(CONV, Clamp(low=-1.0, high=1.5), *[MaxPool(window=PADDED_POOL)] * pools, point, CONV, shape=(2, 8, 8))
    x = images(2, 8, 8)
    (moments,) = calibrate(graph, x).points.values()
    expect_moments(moments, dict(evaluate(graph, x))[f"n{2 + pools}"], -1.0, 1.5)
    assert (moments.share < 1).all()


def test_a_channel_that_a_clamp_always_cuts_has_no_moments() -> None:
    graph = placed(CONV, affine([1, 1], [-1e6, 0]), RELU, CONV, shape=(2, 4, 4))
    found = calibrate(graph, images(2, 4, 4)).points
    (moments,) = [found[node.output] for node in graph.nodes if node.output in found and node.inputs[0] == "n2"]
    assert (moments.share[0], moments.mean[0], moments.variance[0]) == (0, 0, 0)
    assert moments.share[1] > 0


def test_what_is_kept_does_not_grow_with_the_images() -> None:
    graph = placed(affine([2, -3], [1, 1]), RELU, CONV, RELU, CONV, shape=(2, 4, 4))
    many = np.random.default_rng(1).normal(0, 1, (5 * BATCH, 2, 4, 4)).astype(np.float32)

    def kept_bytes(count: int) -> list[int]:
        calibration = calibrate(graph, many[:count])
        moments = [getattr(found, name).nbytes for found in calibration.points.values() for name in Moments.__slots__]
        return [seen.histogram.counts.nbytes for seen in calibration.groups.values()] + moments

    assert kept_bytes(1) == kept_bytes(len(many))


def test_value_that_is_not_finite_is_refused() -> None:
    graph = PlaceQuantisePoints().run(chain(affine([1e38, 1], [0, 0]), CONV, shape=(2, 4, 4)))
    with pytest.raises(PassFailed, match="is not finite on the calibration images"):
        calibrate(graph, 1e6 * images(2, 4, 4))


@pytest.mark.parametrize(("factor", "value"), [(1, "n3/activation"), (1e6, "n0/input")])
def test_what_overflows_is_refused_without_a_warning(factor: float, value: str) -> None:
    """In the sums of a convolution (behind them 0 times infinity is no number either), or in front of it."""
    nodes = (affine([1e38, 1e38], [0, 0]), CONV, affine([0, 1], [0, 0]), RELU, CONV)
    graph = PlaceQuantisePoints().run(chain(*nodes, shape=(2, 4, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PassFailed, match=f"'{value}' is not finite on the calibration images"):
            calibrate(graph, np.float32(factor) * images(2, 4, 4))
