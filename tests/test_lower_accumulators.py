"""Declared widths hold every sum, and are no wider than the worst image needs."""

import numpy as np
import pytest
from exact_evaluation import PROVENANCE, quantised_and_lowered, run_all
from graph_helpers import affine, chain
from hypothesis import given, settings
from hypothesis import strategies as st
from model_builder import as_nhwc
from model_strategies import SEEDS, Network, networks

from bnhw.compare import first_difference
from bnhw.dtypes import Array
from bnhw.errors import PassFailed
from bnhw.importer import import_onnx
from bnhw.lower import lower
from bnhw.machine import Machine
from bnhw.ops import Convolution, Sign, Window
from bnhw.options import CompileOptions


def random_convolution(seed: int, bits: int, groups: int) -> Convolution:
    """An unpadded convolution with 1-bit or k-bit weights; on an image of the kernel's size it gives one pixel."""
    random = np.random.default_rng(seed)
    per_group, out = int(random.integers(1, 30)), groups * int(random.integers(1, 5))
    kernel = (int(random.integers(1, 4)), int(random.integers(1, 4)))
    limit = max(1, 2 ** (bits - 1) - 1)
    weights = random.integers(-limit, limit + 1, (out, per_group, *kernel)).astype(np.int8)
    if bits == 1:
        weights = np.where(weights >= 0, np.int8(1), np.int8(-1))
    return Convolution(weights=weights, window=Window(kernel=kernel), groups=groups, weight_bits=bits)


def input_shape(convolution: Convolution) -> tuple[int, int, int]:
    return (convolution.weights.shape[1] * convolution.groups, *convolution.window.kernel)


def extreme_pixels(convolution: Convolution, *, largest: bool, low_value: int = 0) -> Array:
    """The black-and-white image (1, height, width, channels) for which one output reaches its bound.

    `low_value`: what a black pixel counts beside 1 for a white one.
    """
    weights = convolution.weights.astype(np.int64)
    favoured = weights if largest else -weights
    sums = np.where(favoured > 0, favoured, low_value * favoured).sum(axis=(1, 2, 3))
    best = int(sums.argmax())
    per_group, out_group = weights.shape[1], weights.shape[0] // convolution.groups
    pixels = np.zeros((1, *input_shape(convolution)), np.uint8)
    first = best // out_group * per_group
    pixels[0, first : first + per_group] = np.where(favoured[best] > 0, 255, 0)
    return as_nhwc(pixels)


CONVOLUTIONS = settings(deadline=None, max_examples=60)
CASES = given(SEEDS, st.integers(1, 8), st.integers(1, 3))


@CONVOLUTIONS
@CASES
def test_accumulator_range_is_reached_by_the_worst_image(seed: int, bits: int, groups: int) -> None:
    convolution = random_convolution(seed, bits, groups)
    program = lower(chain(convolution, shape=input_shape(convolution)), PROVENANCE)
    dtype = program.tensor["n0"].dtype
    low, high = (run_all(program, extreme_pixels(convolution, largest=m))["n0"] for m in (False, True))
    assert dtype.low <= low.min() <= high.max() <= dtype.high
    assert type(dtype).containing(min(int(low.min()), 0), max(int(high.max()), 0)) == dtype


@CONVOLUTIONS
@CASES
def test_accumulator_range_of_bipolar_codes_is_reached(seed: int, bits: int, groups: int) -> None:
    convolution = random_convolution(seed, bits, groups)
    channels = input_shape(convolution)[0]
    halves = affine([1.0] * channels, [-127.5] * channels)
    graph = chain(halves, Sign(), convolution, shape=input_shape(convolution))
    pixels = np.concatenate([extreme_pixels(convolution, largest=m, low_value=-1) for m in (False, True)])
    _, program = quantised_and_lowered(graph, pixels)
    found = run_all(program, pixels)["n2"]
    dtype = program.tensor["n2"].dtype
    largest = int(np.abs(convolution.weights.astype(np.int64)).sum(axis=(1, 2, 3)).max())
    assert type(dtype).containing(-largest, largest) == dtype
    assert (found.min(), found.max()) == (-largest, largest)


@settings(deadline=None, max_examples=15)
@given(networks(), SEEDS)
def test_no_image_leaves_a_declared_width(network: Network, seed: int) -> None:
    """first_difference asserts the declared width of every tensor; black, white and noise are no calibration images."""
    _, program = quantised_and_lowered(import_onnx(network.onnx), network.pixels)
    random = np.random.default_rng(seed)
    shape = (1, *network.pixels.shape[1:])
    extremes = [np.full(shape, 255), np.zeros(shape), 255 * random.integers(0, 2, shape)]
    images = np.concatenate(extremes).astype(np.uint8)
    reference = Machine(program, "reference")
    assert first_difference(reference, reference, images).difference is None


def test_sum_beyond_32_bits_is_refused_with_the_layer() -> None:
    channels = 1 << 13
    weights = np.ones((2, channels, 1, 1), np.float32)
    weights[0, 0] = 0.5
    norm = affine([1.0] * channels, [0.0] * channels)
    shifted = affine([1.0] * channels, [0.5] * channels)
    graph = chain(norm, shifted, Convolution(weights=weights, window=Window(kernel=(1, 1))), shape=(channels, 1, 1))
    pixels = np.full((1, 1, 1, channels), 255, np.uint8)
    with pytest.raises(PassFailed, match=r"Convolution 'n2': its sums take 33 bits with their sign, at most 32"):
        quantised_and_lowered(graph, pixels, CompileOptions(input_bits=12))
