"""Quantisers in the model become Quantise nodes: the cases of `bnhw.passes.quantisers`."""

import numpy as np
import pytest
from graph_helpers import affine, chain
from hypothesis import given
from hypothesis import strategies as st
from model_builder import ModelBuilder, run_onnxruntime
from pass_helpers import CONV, SAME, convolution, kinds, only, points

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Attributes, Graph
from bnhw.importer import import_onnx
from bnhw.ops import (
    Add,
    Affine,
    ChannelPad,
    Clamp,
    Convolution,
    Flatten,
    Floor,
    MaxPool,
    Quantise,
    QuantisePoint,
    Role,
    Window,
)
from bnhw.options import Requantisation
from bnhw.passes.absorb import AbsorbFlatten
from bnhw.passes.fold import FoldConstants
from bnhw.passes.place import PlaceQuantisePoints
from bnhw.passes.quantisers import RecogniseQuantisers
from bnhw.verify import check_graph, evaluate_outputs

Kinds = Attributes | tuple[str, Attributes, tuple[str, ...]]


def line(scale: float, shift: float = 0.0, channels: int = 2) -> Affine:
    return affine([scale] * channels, [shift] * channels)


def quantiser(scale: float, zero: int, low: int, high: int) -> list[Attributes]:
    """scale * (clamp(floor(x / scale + zero + 0.5), low, high) - zero) as torch exports it."""
    return [
        line(1 / scale),
        line(1, zero + 0.5),
        Floor(),
        Clamp(low=low),
        Clamp(high=high),
        line(1, -zero),
        line(scale),
    ]


def grid(shape: tuple[int, int, int] = (2, 8, 8)) -> np.ndarray:
    """Multiples of 1/64 between -8 and 8, so that every tie and every bound is met."""
    return np.random.default_rng(0).integers(-512, 513, (20, *shape)).astype(np.float32) / 64


def recognised(*nodes: Kinds, shape: tuple[int, int, int] = (2, 8, 8)) -> Graph:
    """The folded graph, which returns exactly what the given one does."""
    graph = chain(*nodes, shape=shape)
    result = FoldConstants().run(RecogniseQuantisers().run(graph))
    check_graph(result)
    np.testing.assert_array_equal(evaluate_outputs(result, grid(shape)), evaluate_outputs(graph, grid(shape)))
    return result


def coding(bits: int, scale: float, zero_point: int = 0, *, signed: bool = False) -> Quantisation:
    return Quantisation(dtype=IntegerType(bits=bits, signed=signed), scale=scale, zero_point=zero_point)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0.25, 0, 0, 15), coding(4, 0.25)),
        ((0.5, 2, 0, 7), coding(3, 0.5, 2)),
        ((0.5, 0, -2, 5), coding(3, 0.5, 2)),
        ((0.125, 0, -8, 7), coding(4, 0.125, signed=True)),
        ((0.125, 3, -8, 7), coding(4, 0.125, 3, signed=True)),
        ((1.0, 1, 0, 3), coding(2, 1.0, 1)),
    ],
)
def test_quantisers_case_1_codes_are_signed_or_counted_from_the_floor(
    given: tuple[float, int, int, int], expected: Quantisation
) -> None:
    result = recognised(CONV, *quantiser(*given))
    assert kinds(result) == ["Convolution", "Quantise"]
    assert only(result, Quantise).quantisation == expected


@given(
    bits=st.integers(2, 16),
    exponent=st.integers(-6, 2),
    signed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_quantisers_case_1_holds_for_every_width(*, bits: int, exponent: int, signed: bool, seed: int) -> None:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    zero = int(np.random.default_rng(seed).integers(low, high + 1))
    result = recognised(*quantiser(2.0**exponent, zero, low, high))
    assert kinds(result) == ["Quantise"]
    assert only(result, Quantise).quantisation == coding(bits, 2.0**exponent, zero, signed=signed)


def test_quantisers_case_2_any_other_function_in_front_of_the_floor_stays() -> None:
    rounding_down = [line(4.0), Floor(), Clamp(low=0, high=15), line(0.25)]
    result = recognised(*rounding_down)
    assert kinds(result) == ["Affine", "Quantise"]
    np.testing.assert_array_equal(only(result, Affine).shift, -0.125)
    mismatched = [line(2.0, 0.5), Floor(), Clamp(low=0, high=15), line(0.25)]
    result = recognised(*mismatched)
    np.testing.assert_array_equal(only(result, Affine).scale, 0.5)


def test_quantisers_case_2_a_batch_norm_in_front_keeps_its_very_constants() -> None:
    norm = affine([0.3, -0.7], [0.1, 1 / 3])
    result = FoldConstants().run(RecogniseQuantisers().run(chain(norm, *quantiser(0.25, 4, 0, 15), shape=(2, 8, 8))))
    assert kinds(result) == ["Affine", "Quantise"]
    np.testing.assert_array_equal(only(result, Affine).scale, norm.scale)
    np.testing.assert_array_equal(only(result, Affine).shift, norm.shift)


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 0.7, 1e-3])
def test_quantisers_case_2_reciprocals_of_any_scale_are_recognised(scale: float) -> None:
    graph = RecogniseQuantisers().run(chain(*quantiser(scale, 3, 0, 15), shape=(2, 2, 2)))
    assert kinds(graph) == ["Quantise"]
    assert only(graph, Quantise).quantisation == coding(4, scale, 3)


def test_quantisers_case_3_what_0_is_no_code_of_stays_behind() -> None:
    result = recognised(*quantiser(0.5, 0, 0, 15), line(1, 0.3))
    assert kinds(result) == ["Quantise", "Affine"]
    result = recognised(*quantiser(0.5, 0, 0, 15), affine([1, 2], [0, 0]))
    assert kinds(result) == ["Quantise", "Affine"]
    result = recognised(*quantiser(0.5, 2, 0, 15), line(2.0))
    assert only(result, Quantise).quantisation == coding(4, 1.0, 2)


def test_quantisers_case_4_the_role_follows_place_and_width() -> None:
    assert only(recognised(line(0.5, 3), *quantiser(0.5, 0, -512, 511)), Quantise).role is Role.INPUT
    assert only(recognised(*quantiser(0.5, 0, -(2**15), 2**15 - 1)), Quantise).role is Role.RESIDUAL
    assert only(recognised(CONV, *quantiser(0.5, 0, 0, 255)), Quantise).role is Role.ACTIVATION
    assert only(recognised(CONV, *quantiser(0.5, 0, -256, 255)), Quantise).role is Role.RESIDUAL


def test_the_requantise_mode_of_the_options_is_that_of_the_steps() -> None:
    mode = Requantisation.parse("csd:3")
    graph = RecogniseQuantisers(requantisation=mode).run(chain(CONV, *quantiser(0.5, 0, 0, 15), shape=(2, 4, 4)))
    assert only(graph, Quantise).requantisation == mode


def test_refused_a_floor_that_is_no_quantiser() -> None:
    for nodes in ([Floor()], [Floor(), line(2.0)], [Floor(), Floor(), Clamp(low=0, high=15)]):
        with pytest.raises(PassFailed, match="only the floor of a quantiser, which one clamp"):
            RecogniseQuantisers().run(chain(*nodes, shape=(2, 2, 2)))
    shared = chain(Floor(), Clamp(low=0, high=15), ("sum", Add(), ("n0", "n1")), shape=(2, 2, 2))
    with pytest.raises(PassFailed, match="is read by Clamp 'n1', Add 'sum'"):
        RecogniseQuantisers().run(shared)


@pytest.mark.parametrize("bounds", [(0, 14), (-7, 7), (0.5, 15.5), (0, np.inf), (-np.inf, 7), (0, 1), (0, 2**25 - 1)])
def test_refused_bounds_that_give_no_codes(bounds: tuple[float, float]) -> None:
    with pytest.raises(PassFailed, match=r"keeps floors from .* 2\^k codes with k of 2..24 are expected"):
        RecogniseQuantisers().run(chain(Floor(), Clamp(low=bounds[0], high=bounds[1]), shape=(2, 2, 2)))


def test_refused_codes_without_0() -> None:
    with pytest.raises(PassFailed, match="none of the 16 codes of the quantiser 'n0' stands for 0"):
        RecogniseQuantisers().run(chain(Floor(), Clamp(low=5, high=20), shape=(2, 2, 2)))
    assert kinds(recognised(Floor(), Clamp(low=5, high=20), line(1, -6))) == ["Affine", "Quantise"]


def test_a_quantiser_moves_in_front_of_a_max_pool_and_a_flattening() -> None:
    pool = MaxPool(window=Window(kernel=(2, 2), stride=(2, 2)))
    assert kinds(recognised(CONV, line(0.5), pool, *quantiser(0.25, 0, 0, 15))) == [
        "Convolution", "Affine", "Quantise", "MaxPool"
    ]  # fmt: skip
    dense = Convolution(weights=np.ones((3, 128, 1, 1), np.int8), window=Window(kernel=(1, 1)), weight_bits=1)
    wide = [line(4.0, 0.5, 128), Floor(), Clamp(low=0, high=15), line(0.25, 0, 128)]
    flat = RecogniseQuantisers().run(chain(CONV, Flatten(), *wide, dense, shape=(2, 8, 8)))
    assert kinds(AbsorbFlatten().run(flat)) == ["Convolution", "Quantise", "Convolution"]


def placed(*nodes: Kinds) -> Graph:
    return PlaceQuantisePoints().run(recognised(*nodes))


def test_convolutions_read_given_codes_as_they_are() -> None:
    graph = placed(CONV, *quantiser(0.25, 0, 0, 15), CONV)
    assert not [node for node in graph.nodes if isinstance(node.attributes, QuantisePoint)]
    wide = placed(CONV, *quantiser(0.25, 0, -2048, 2047), CONV)
    assert len(points(wide, Role.ACTIVATION)) == 1


def test_an_addition_of_given_codes_leaves_them_to_their_other_readers() -> None:
    nodes = quantiser(0.25, 0, 0, 15)
    codes = f"n{len(nodes)}"
    graph = placed(
        CONV,
        *nodes,
        ("conv", convolution(2, 2, bits=1), (codes,)),
        ("sum", Add(), (codes, "conv")),
        ("wide", convolution(3, 2, bits=1), (codes,)),
        ("padded", ChannelPad(before=0, after=1), (codes,)),
        ("last", Add(), ("padded", "wide")),
        ("joined", convolution(2, 3, bits=1), ("last",)),
        ("end", Add(), ("joined", "sum")),
    )
    groups = points(graph, Role.RESIDUAL)
    assert set(groups) == {codes, "padded", "conv", "wide", "joined"}
    assert groups[codes] == groups["conv"]
    readers = {node.output: node.inputs for node in graph.nodes}
    assert readers["conv"] == readers["wide"] == readers["padded"] == (codes,)
    assert readers["sum"] == (f"{codes}/residual", "conv/residual")


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_a_quantiser_in_onnx_is_read_from_clip_and_floor(opset: int) -> None:
    builder = ModelBuilder(channels=2, height=5, width=5, opset=opset)
    value = builder.convolution(builder.image, builder.signs((3, 2, 3, 3), 0.5), pads=SAME.pads)
    value = builder.apply(builder.apply(value, "Div", builder.constant(0.5)), "Add", builder.constant(2.5))
    value = builder.apply(builder.clip(builder.apply(value, "Floor"), 0.0, 7.0), "Sub", builder.constant(2.0))
    value = builder.apply(value, "Mul", builder.constant(0.5))
    model = builder.model(value)
    graph = RecogniseQuantisers().run(import_onnx(model))
    assert kinds(graph) == ["Convolution", "Quantise"]
    assert only(graph, Quantise).quantisation == coding(3, 0.5, 2)
    images = grid((2, 5, 5))
    found = evaluate_outputs(graph, images).reshape(-1)
    np.testing.assert_array_equal(found, run_onnxruntime(model, images).reshape(-1))
