"""Graphs as text, against golden files; BNHW_UPDATE_GOLDEN=1 writes them anew."""

import os
from pathlib import Path

import numpy as np
import pytest
from graph_helpers import affine, chain, pointwise_weights
from model_builder import ModelBuilder
from model_strategies import small_network

from bnhw.graph import Graph
from bnhw.importer import import_onnx
from bnhw.ops import AveragePool, ChannelPad, Clamp, MaxPool, QuantisePoint, Role, Sign, Window
from bnhw.options import CompileOptions
from bnhw.passes.base import run_passes
from bnhw.passes.pipeline import float_passes, quantise_graph
from bnhw.text import print_graph

GOLDEN = Path(__file__).with_name("golden")


def nodes_of_every_kind() -> Graph:
    return chain(
        affine([0.5, 0.5], [0.1, -0.2]),
        Clamp(low=-1.0),
        ChannelPad(before=0, after=1),
        MaxPool(window=Window(kernel=(2, 3), stride=(1, 2), pads=(0, 1, 0, 1))),
        AveragePool(window=Window(kernel=(2, 2)), count_padding=True),
        QuantisePoint(role=Role.RESIDUAL, group=3),
        Sign(),
        pointwise_weights([[1, -1, 1]], bits=1),
        affine([1 / 3], [0.0]),
        shape=(2, 4, 5),
    )


def exact_network() -> Graph:
    """Random signs and powers of two only: no digest depends on how a machine rounds."""
    builder = ModelBuilder(channels=2, height=5, width=5, seed=3)
    value = builder.convolution(builder.image, builder.signs((4, 2, 3, 3), 2**-9), pads=(1, 1, 1, 1))
    inner = builder.apply(value, "Max", builder.constant(-1.0))
    inner = builder.convolution(inner, builder.signs((6, 4, 3, 3), 0.5), pads=(1, 1, 1, 1), stride=(2, 2))
    window = Window(kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1))
    value = builder.add(builder.pad(builder.pool(value, "AveragePool", window), (0, 0, 0), (2, 0, 0)), inner)
    value = builder.convolution(builder.apply(value, "Relu"), builder.signs((3, 6, 1, 1), 2.0))
    return import_onnx(builder.model(builder.reduce_mean(value, keep=False)), name="exact")


def placed_network() -> Graph:
    return run_passes(exact_network(), float_passes(CompileOptions()))


def quantised_network() -> Graph:
    images = np.random.default_rng(4).integers(0, 256, (4, 2, 5, 5)).astype(np.float32)
    return quantise_graph(exact_network(), CompileOptions(act_bits=4), images)


GRAPHS = {
    "kinds": nodes_of_every_kind,
    "imported": exact_network,
    "placed": placed_network,
    "quantised": quantised_network,
}


@pytest.mark.parametrize("name", GRAPHS)
def test_text_is_that_of_the_golden_file(name: str) -> None:
    text = print_graph(GRAPHS[name]())
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BNHW_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_text_is_stable_and_shows_every_change() -> None:
    first, second, other = (print_graph(import_onnx(small_network(seed=s).onnx)) for s in (1, 1, 2))
    assert first == second
    assert first != other
