"""What a number of a paper's table stands for: system, training, published figure.

Paper 1: McDonnell et al., arXiv 1907.06916. Paper 2: Gaur, Folz, Dengel, arXiv 2008.07970. Paper 3: Davis, Frank,
"Revisiting Batch Normalization". Paper 4: Peerthum, Stamp, arXiv 2303.12818.

The tables themselves are in `papers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bnhw.export.networks import NetworkConfig, preset, with_normalisation
from bnhw.export.normalisations import Normalisation, NormalisationConfig, Weights
from bnhw.export.recipes import Recipe

Measure = Literal["top-1 accuracy", "top-1 error", "top-5 error"]

DATASETS: Mapping[str, tuple[int, int]] = {
    "cifar10": (32, 10),
    "cifar100": (32, 100),
    "imagenet": (224, 1000),
    "cub200": (224, 200),
    "stcars": (224, 196),
}
"""Side of the image that networks take, and number of classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What is trained.

    network: a name in `PRESETS`. With another data set or image size the configuration is changed by `config`.
    """

    network: str
    normalisation: NormalisationConfig
    weights: Weights

    def config(self, *, side: int, classes: int, channels: int = 3) -> NetworkConfig:
        """The network for images (channels, side, side)."""
        sizes: dict[str, Any] = {"image_size": (side, side), "classes": classes, "input_channels": channels}
        sizes["weights"] = self.weights
        return with_normalisation(replace(preset(self.network), **sizes), self.normalisation)  # type: ignore[type-var]  # a dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One number of a table.

    group, row, column: where it stands; rows of one group and column are compared with the one that is `base`.
    published: the paper's figure in percent, as printed; empty where it has none.
    ensemble: networks whose predictions are averaged. crops: 25 crops an image, not the centre alone (paper 1).
    """

    group: str
    row: str
    column: str
    dataset: str
    system: System
    recipe: Recipe
    published: str
    base: bool = False
    ensemble: int = 1
    crops: bool = False

    @property
    def side(self) -> int:
        """Side of the network's input in the paper."""
        return DATASETS[self.dataset][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a paper. column: what its columns differ in. runs: trainings behind each figure in the paper."""

    name: str
    title: str
    measure: Measure
    column: str
    runs: str
    cases: tuple[Case, ...]

    @property
    def paper(self) -> int:
        """1 to 4."""
        return int(self.name[0])


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe with another highest learning rate."""
    return replace(recipe, schedule=recipe.schedule.with_peak(rate))


CIFAR_MEAN, CIFAR_STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
"""Of the colours of CIFAR-10's training images."""


def offline(kind: Normalisation) -> NormalisationConfig:
    """A normalisation with CIFAR-10's statistics as constants before the first weights."""
    return NormalisationConfig(kind=kind, input="offline", input_mean=CIFAR_MEAN, input_std=CIFAR_STD)
