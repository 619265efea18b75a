"""Hypothesis strategies for what kernels take: codings, geometries, weights and codes that fit them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from bnhw.kernels.types import BinaryWeights, Coding, Geometry, IntegerWeights, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A convolution and int32 codes (N, H, W, C) for it."""

    weights: Weights
    geometry: Geometry
    coding: Coding
    codes: npt.NDArray[np.int32]


BIPOLAR = Coding(bits=1, signed=False, zero_point=0, bipolar=True)


@st.composite
def codings(draw: st.DrawFn, max_bits: int = 8) -> Coding:
    """Codes of 1..max_bits bits, signed or not, any zero point (0 and the extremes often)."""
    bits = draw(st.integers(1, max_bits))
    signed = draw(st.booleans())
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    zero_point = draw(st.one_of(st.just(0), st.sampled_from((low, high)), st.integers(low, high)))
    return Coding(bits=bits, signed=signed, zero_point=zero_point)


@st.composite
def geometries(draw: st.DrawFn, groups: int = 1) -> Geometry:
    """Kernels up to 5x5 (1x1 and 3x3 often), strides 1..3, any pads smaller than the kernel."""
    side = st.one_of(st.sampled_from((1, 3)), st.integers(1, 5))
    kernel = draw(st.tuples(side, side))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    vertical, horizontal = st.integers(0, kernel[0] - 1), st.integers(0, kernel[1] - 1)
    pads = draw(st.tuples(vertical, horizontal, vertical, horizontal))
    return Geometry(kernel=kernel, stride=stride, pads=pads, groups=groups)


CHANNELS = st.one_of(st.sampled_from((1, 3, 63, 64, 65, 128, 129)), st.integers(1, 200))


@st.composite
def convolutions(
    draw: st.DrawFn, coding: st.SearchStrategy[Coding], *, binary: bool = True, tiny: bool = False
) -> Convolution:
    """Whole convolutions: 1..200 channels (tiny: 1..5), groups up to depthwise, 1 or 2 small images."""
    groups = draw(st.one_of(st.just(1), st.integers(1, 5)))
    if tiny:
        per_group, out_per_group = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    elif groups == 1:
        per_group, out_per_group = draw(CHANNELS), draw(st.integers(1, 40))
    else:
        per_group, out_per_group = draw(st.sampled_from((1, 1, 2, 7, 64, 70))), draw(st.integers(1, 18))
    geometry = draw(geometries(groups=groups))
    top, left, bottom, right = geometry.pads
    height = draw(st.integers(max(1, geometry.kernel[0] - top - bottom), 7))
    width = draw(st.integers(max(1, geometry.kernel[1] - left - right), 7))
    chosen = draw(coding)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 2)), height, width, per_group * groups)
    codes = random.integers(chosen.low, chosen.high + 1, shape).astype(np.int32)
    weights_shape = (out_per_group * groups, *geometry.kernel, per_group)
    weights: Weights
    if binary:
        weights = BinaryWeights.from_signs(random.choice(np.array((-1, 1), np.int8), weights_shape))
    else:
        high = 1 << (draw(st.integers(2, 8)) - 1)
        weights = IntegerWeights(values=random.integers(-high, high, weights_shape).astype(np.int8))
    return Convolution(weights=weights, geometry=geometry, coding=chosen, codes=codes)


@st.composite
def tensors(draw: st.DrawFn, low: int = -(2**15), high: int = 2**15 - 1) -> npt.NDArray[np.int32]:
    """int32 NHWC of up to 2 images, 6x6 pixels, 70 channels, with values in [low, high]."""
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6), st.integers(1, 70)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.integers(low, high + 1, shape).astype(np.int32)
