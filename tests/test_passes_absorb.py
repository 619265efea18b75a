"""Zero padding and flattening disappear: the cases of `bnhw.passes.absorb`, and the function is kept."""

import numpy as np
import pytest
from graph_helpers import affine, chain, same_function
from hypothesis import given, settings
from model_strategies import Model, models
from pass_helpers import PADDED_POOL, RELU, SAME, SHIFTED, convolution, expect_same, kinds, only

from bnhw.errors import PassFailed
from bnhw.graph import Attributes
from bnhw.importer import import_onnx
from bnhw.monotone import Function
from bnhw.ops import (
    Activation,
    Add,
    AveragePool,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Sign,
    Window,
    ZeroPad,
)
from bnhw.passes.absorb import AbsorbFlatten, AbsorbZeroPads
from bnhw.verify import check_graph

TANH = Activation(function=Function.TANH)


def test_absorb_case_1_zero_pad_becomes_padding_of_the_convolution() -> None:
    graph = chain(ZeroPad(pads=(1, 2, 0, 3)), convolution(4, 2), shape=(2, 5, 5))
    result = expect_same(graph, AbsorbZeroPads().run(graph))
    assert kinds(result) == ["Convolution"]
    assert only(result, Convolution).window.pads == (2, 3, 1, 4)


def test_absorb_case_1_zero_pads_in_a_row_add_up() -> None:
    pads = ZeroPad(pads=(1, 2, 0, 3)), ZeroPad(pads=(0, 1, 1, 0)), ZeroPad(pads=(4, 0, 0, 1))
    graph = chain(*pads, convolution(4, 2), shape=(2, 5, 5))
    result = expect_same(graph, AbsorbZeroPads().run(graph))
    assert kinds(result) == ["Convolution"]
    assert only(result, Convolution).window.pads == (6, 4, 2, 5)


def test_absorb_case_2_zero_pads_in_a_row_count_in_the_average() -> None:
    pads = ZeroPad(pads=(1, 0, 0, 1)), ZeroPad(pads=(0, 1, 0, 0))
    graph = chain(*pads, AveragePool(window=Window(kernel=(2, 2))), shape=(2, 5, 5))
    result = expect_same(graph, AbsorbZeroPads().run(graph))
    assert only(result, AveragePool).window.pads == (1, 1, 0, 1)


@pytest.mark.parametrize("pool", [
    AveragePool(window=Window(kernel=(2, 2))),
    AveragePool(window=PADDED_POOL, count_padding=True),
])  # fmt: skip
def test_absorb_case_2_zero_pad_counts_in_the_average(pool: AveragePool) -> None:
    graph = chain(ZeroPad(pads=(1, 0, 0, 1)), pool, shape=(2, 5, 5))
    result = expect_same(graph, AbsorbZeroPads().run(graph))
    assert kinds(result) == ["AveragePool"]
    assert only(result, AveragePool).count_padding


def test_absorb_case_2_pool_with_uncounted_padding_is_refused() -> None:
    graph = chain(ZeroPad(pads=(1, 0, 0, 1)), AveragePool(window=PADDED_POOL), shape=(2, 5, 5))
    with pytest.raises(PassFailed, match="AveragePool 'n1' reads a zero-padded value"):
        AbsorbZeroPads().run(graph)


@pytest.mark.parametrize("reader", [MaxPool(window=Window(kernel=(2, 2))), RELU, GlobalAveragePool()])
def test_absorb_case_3_zero_pad_before_anything_else_is_refused(reader: Attributes) -> None:
    graph = chain(ZeroPad(pads=(1, 0, 0, 1)), reader, shape=(2, 5, 5))
    with pytest.raises(PassFailed, match="'n1' reads a zero-padded value; only convolutions"):
        AbsorbZeroPads().run(graph)


def test_absorb_case_3_zero_pad_as_second_operand_or_output_is_refused() -> None:
    pad = ("pad", ZeroPad(pads=(0, 0, 0, 1)), ("image",))
    joined = chain(
        pad, ("half", convolution(2, 2, window=SAME), ("pad",)), ("sum", Add(), ("half", "pad")), shape=(2, 5, 5)
    )
    for graph in (joined, chain(pad, shape=(2, 5, 5))):
        with pytest.raises(PassFailed, match="ZeroPad 'pad' is not read by a convolution or an average pool"):
            AbsorbZeroPads().run(graph)


def test_absorb_case_3_zero_pads_in_a_row_before_anything_else_are_refused() -> None:
    pads = ZeroPad(pads=(1, 0, 0, 1)), ZeroPad(pads=(0, 1, 0, 0))
    with pytest.raises(PassFailed, match="Clamp 'n2' reads a zero-padded value; only convolutions"):
        AbsorbZeroPads().run(chain(*pads, RELU, shape=(2, 5, 5)))


def test_absorbed_pad_stays_for_no_reader() -> None:
    pad = ("pad", ZeroPad(pads=(1, 1, 1, 1)), ("image",))
    first = ("first", convolution(2, 2, seed=1), ("pad",))
    graph = chain(
        pad,
        first,
        ("second", convolution(2, 2, seed=2), ("pad",)),
        ("sum", Add(), ("first", "second")),
        shape=(2, 4, 4),
    )
    result = expect_same(graph, AbsorbZeroPads().run(graph))
    assert kinds(result) == ["Convolution", "Convolution", "Add"]


@pytest.mark.parametrize(
    "between", [(RELU,), (Sign(),), (TANH,), (affine([2] * 6 + [3] * 6, [1] * 6 + [0] * 6), SHIFTED)]
)
def test_absorb_case_4_flatten_moves_down_past_pointwise_nodes(between: tuple[Attributes, ...]) -> None:
    dense = convolution(4, 12, window=Window(kernel=(1, 1)))
    graph = chain(Flatten(), *between, dense, shape=(2, 3, 2))
    result = expect_same(graph, AbsorbFlatten().run(graph))
    assert "Flatten" not in kinds(result)
    assert only(result, Convolution).window.kernel == (3, 2)


def test_absorb_case_4_constants_that_differ_between_pixels_are_refused() -> None:
    numbers = [1.0] * 11 + [2.0]
    graph = chain(
        Flatten(), affine(numbers, [0.0] * 12), convolution(4, 12, window=Window(kernel=(1, 1))), shape=(2, 3, 2)
    )
    with pytest.raises(PassFailed, match="scales the pixels of a flattened image differently"):
        AbsorbFlatten().run(graph)


def test_absorb_case_5_dense_layer_becomes_an_image_sized_kernel() -> None:
    dense = convolution(4, 24, window=Window(kernel=(1, 1)))
    graph = chain(Flatten(), dense, shape=(2, 3, 4))
    result = expect_same(graph, AbsorbFlatten().run(graph))
    assert only(result, Convolution).weights.shape == (4, 2, 3, 4)
    np.testing.assert_array_equal(only(result, Convolution).weights.reshape(4, -1), dense.weights.reshape(4, -1))


def test_absorb_case_5_every_reader_of_the_flattened_image_becomes_a_convolution() -> None:
    one = Window(kernel=(1, 1))
    graph = chain(
        ("flat", Flatten(), ("image",)),
        ("a", convolution(3, 8, window=one, seed=1), ("flat",)),
        ("floor", RELU, ("flat",)),
        ("b", convolution(3, 8, window=one, seed=2), ("floor",)),
        ("sum", Add(), ("a", "b")),
        shape=(2, 2, 2),
    )
    result = expect_same(graph, AbsorbFlatten().run(graph))
    assert sorted(kinds(result)) == ["Add", "Clamp", "Convolution", "Convolution"]


def test_absorb_case_5_names_that_are_taken_are_not_given_again() -> None:
    graph = chain(
        ("floor/image", Sign(), ("image",)),
        ("flat", Flatten(), ("floor/image",)),
        ("floor", RELU, ("flat",)),
        ("dense", convolution(3, 8, window=Window(kernel=(1, 1))), ("floor",)),
        shape=(2, 2, 2),
    )
    result = expect_same(graph, AbsorbFlatten().run(graph))
    assert kinds(result) == ["Sign", "Clamp", "Convolution"]


def test_absorb_case_6_flatten_before_anything_else_is_refused() -> None:
    joined = chain(("flat", Flatten(), ("image",)), ("two", Concatenate(), ("flat", "flat")), shape=(2, 3, 3))
    with pytest.raises(PassFailed, match="Concatenate 'two' reads the flattened image 'flat'"):
        AbsorbFlatten().run(joined)
    with pytest.raises(PassFailed, match="the output is an image; expected one number a class"):
        AbsorbFlatten().run(chain(RELU, Flatten(), shape=(2, 3, 3)))


@settings(deadline=None, max_examples=60)
@given(models())
def test_absorbing_keeps_the_function(model: Model) -> None:
    graph = import_onnx(model.onnx)
    for step in (AbsorbZeroPads(), AbsorbFlatten()):
        result = step.run(graph)
        check_graph(result)
        assert same_function(graph, result, model.images)
        graph = result
    assert not {"ZeroPad", "Flatten"} & set(kinds(graph))
