"""Other engines on chains of 3x3 convolutions, for `benchmarks/kernels.py`.

All compute on the same values: codes of a batch of images, and for each layer other weights of +1 and -1. An engine
builds a chain of any length (`Build`); before its time counts, its first layer, and the whole chain, are compared
with float64 by `check`. Engines that are not installed are left out, those that fail are named with their error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from chains import Layer
from turns import Contender, one_line, timed

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """What a chain computes on. Weights are (output, input, 3, 3), codes and sums (images, height, width, channels)."""

    codes: npt.NDArray[np.uint8]
    signs: tuple[npt.NDArray[np.int8], ...]
    scale: float

    @classmethod
    def make(cls, layer: Layer, length: int, batch: int) -> "Values":
        """Random codes of 8 bits and weights; `scale` keeps the size of the codes from layer to layer."""
        random = np.random.default_rng(0)
        shape = (layer.channels, layer.channels, 3, 3)
        codes = random.integers(0, 256, (batch, layer.size, layer.size, layer.channels)).astype(np.uint8)
        signs = tuple(random.choice(np.array([-1, 1], np.int8), shape) for _ in range(length))
        return cls(codes=codes, signs=signs, scale=(4.5 * layer.channels) ** 0.5)

    @cached_property
    def expected_codes(self) -> tuple[Floats, ...]:
        """The first image behind each layer: rectified sums over `scale`, rounded to codes."""
        values, found = self.codes[0].astype(np.float64), []
        for signs in self.signs:
            values = (rectified_sums(values, signs) / self.scale).round().clip(0, 255)
            found.append(values)
        return tuple(found)

    @cached_property
    def expected_floats(self) -> tuple[Floats, ...]:
        """The first image behind each layer, neither rounded nor clamped above."""
        values, found = self.codes[0].astype(np.float64), []
        for signs in self.signs:
            values = rectified_sums(values, signs) / self.scale
            found.append(values)
        return tuple(found)


def rectified_sums(values: Floats, signs: npt.NDArray[np.int8]) -> Floats:
    """One layer in float64: (height, width, channels), zeros around it, to as many; below 0 becomes 0."""
    height, width, channels = values.shape
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
    sums = np.zeros((height * width, channels))
    for row in range(3):
        for column in range(3):
            part = padded[row : row + height, column : column + width].reshape(-1, channels)
            sums += part @ signs[:, :, row, column].T.astype(np.float64)
    return np.maximum(sums, 0).reshape(values.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain under another engine: `run` is what is timed, `first_image` its last outcome (height, width, channels).

    tolerance: greatest error of one layer, relative to the greatest value; None: one code.
    """

    run: Callable[[], Any]
    first_image: Callable[[], npt.NDArray[Any]]
    tolerance: float | None = None


Build = Callable[[Values, int], Chain]
"""A chain of the first so many layers."""

MODULES = {"torch": "rivals_torch", "openvino": "rivals_openvino", "onnxruntime": "rivals_onnxruntime"}
"""What must be installed -> the module whose `BUILDS` holds, by name of the rival, its `Build`s, of which the fastest
counts (layouts, say)."""


def check(chain: Chain, values: Values, length: int) -> None:
    """Raise AssertionError unless the first image is that of float64, within the tolerance of a layer for each."""
    chain.run()
    found = chain.first_image().astype(np.float64)
    exact = values.expected_codes if chain.tolerance is None else values.expected_floats
    expected = exact[length - 1]
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    unit = 1.0 if chain.tolerance is None else chain.tolerance * expected.max()
    error = np.abs(found - expected).max()
    assert error <= length * unit, f"off by {error:.3g} behind {length} layers, {length * unit:.3g} are allowed"


def prepare(build: Build, values: Values) -> Contender:
    """One layer, and all of them, both checked."""
    length = len(values.signs)
    short, long = build(values, 1), build(values, length)
    check(short, values, 1)
    check(long, values, length)
    return Contender(short=short.run, long=long.run, layers=length - 1)


def prepare_fastest(builds: Mapping[str, Build], values: Values) -> Contender:
    """The fastest of several builds of one rival; raises the last error where none works."""
    found: list[Contender] = []
    failed: Exception | None = None
    for build in builds.values():
        try:
            found.append(prepare(build, values))
        except Exception as error:  # whatever a rival raises
            failed = error
    if not found:
        assert failed is not None
        raise failed
    return (
        found[0]
        if len(found) == 1
        else min(found, key=lambda contender: min(timed(contender.long), timed(contender.long)))
    )


def rivals(layer: Layer, length: int, batch: int) -> tuple[dict[str, Contender], dict[str, str]]:
    """Every rival that is installed on a chain `length` layers longer than one, and the errors of those that failed."""
    values = Values.make(layer, length + 1, batch)
    found: dict[str, Contender] = {}
    errors: dict[str, str] = {}
    for package, module in MODULES.items():
        if find_spec(package) is None:
            continue
        try:
            builds: Mapping[str, Mapping[str, Build]] = import_module(module).BUILDS
        except Exception as error:  # an installation that is broken
            errors[package] = one_line(error)
            continue
        for name, ways in builds.items():
            try:
                found[name] = prepare_fastest(ways, values)
            except Exception as error:  # whatever a rival raises
                errors[name] = one_line(error)
    return found, errors
