"""Residual streams whose operands are multiples of one power of two are not rounded at all."""

import math
from dataclasses import replace

import pytest
from graph_helpers import affine, chain
from hypothesis import given
from hypothesis import strategies as st
from pass_helpers import CONV, SHIFT, convolution, images

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.graph import Graph
from bnhw.ops import Add, Affine, ChannelPad, MaxPool, Quantise, Role, Window
from bnhw.options import CompileOptions
from bnhw.passes.pipeline import quantise_graph
from bnhw.passes.scales import exact_residual_scale

CODES = Quantise(role=Role.ACTIVATION, quantisation=Quantisation(dtype=IntegerType(bits=4, signed=True), scale=0.25))


@given(scale=st.floats(1e-3, 1e3), exponents=st.lists(st.integers(0, 20), min_size=1, max_size=6))
def test_the_exact_scale_is_the_finest_step_of_power_of_two_multiples(scale: float, exponents: list[int]) -> None:
    steps = [scale * 2.0**exponent for exponent in exponents]
    assert exact_residual_scale(steps) == min(steps)


@pytest.mark.parametrize("steps", [[1.0, 3.0], [1.0, math.nan], [math.nan, 1.0], [math.nan], [0.5, 0.5 * 2**0.5]])
def test_there_is_no_exact_scale_for_other_steps(steps: list[float]) -> None:
    assert exact_residual_scale(steps) is None


def line(scale: float) -> Affine:
    return affine([scale, scale], [0, 0])


def residual(first: float, second: float) -> Graph:
    """Two convolutions of 4-bit codes of scale 1/4, scaled, and added."""
    return chain(
        ("codes", CODES, ("image",)),
        ("a", CONV, ("codes",)),
        ("b", convolution(2, 2, bits=1, seed=1), ("codes",)),
        ("a2", line(first), ("a",)),
        ("b2", line(second), ("b",)),
        ("sum", Add(), ("a2", "b2")),
        shape=(2, 6, 6),
    )


def residual_scales(graph: Graph, options: CompileOptions = SHIFT) -> set[float]:
    result = quantise_graph(graph, options, images(2, 6, 6))
    attributes = [node.attributes for node in result.nodes]
    return {a.quantisation.scale for a in attributes if isinstance(a, Quantise) and a.role is Role.RESIDUAL}


@pytest.mark.parametrize("options", [SHIFT, CompileOptions(), CompileOptions(requantise="csd:2")])
def test_operands_on_one_grid_are_added_on_it_in_every_mode(options: CompileOptions) -> None:
    assert residual_scales(residual(0.5, 0.125), options) == {0.25 * 0.125}


def test_operands_of_no_common_grid_are_rounded_as_before() -> None:
    assert residual_scales(residual(0.5, 0.125 * 3), CompileOptions()).isdisjoint({0.125, 0.25 * 0.125 * 3})


def test_a_stream_too_wide_for_its_bits_is_rounded_and_wider_bits_make_it_exact() -> None:
    graph = residual(0.5, 2.0**-9)
    assert residual_scales(graph, replace(SHIFT, residual_bits=8)) != {0.25 * 2.0**-9}
    assert residual_scales(graph, replace(SHIFT, residual_bits=20)) == {0.25 * 2.0**-9}


def test_codes_of_the_stream_s_own_coding_are_not_requantised_again() -> None:
    wide = Quantise(role=Role.RESIDUAL, quantisation=Quantisation(dtype=IntegerType(bits=16, signed=True), scale=0.125))
    for transparent in (ChannelPad(before=0, after=0), MaxPool(window=Window(kernel=(1, 1)))):
        graph = chain(
            ("codes", CODES, ("image",)),
            ("a", CONV, ("codes",)),
            ("a2", line(0.5), ("a",)),
            ("given", wide, ("a2",)),
            ("through", transparent, ("given",)),
            ("b", convolution(2, 2, bits=1, seed=1), ("codes",)),
            ("sum", Add(), ("b", "through")),
            shape=(2, 6, 6),
        )
        result = quantise_graph(graph, SHIFT, images(2, 6, 6))
        (total,) = [node for node in result.nodes if isinstance(node.attributes, Add)]
        assert total.inputs == ("b/residual", "through")
        (rounded,) = [node for node in result.nodes if node.output == "b/residual"]
        assert isinstance(rounded.attributes, Quantise)
        assert rounded.attributes.quantisation == wide.quantisation
