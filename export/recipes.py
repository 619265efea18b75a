"""How each of the four papers trains: one table.

Paper 1: McDonnell et al., arXiv 1907.06916. Paper 2: Gaur, Folz, Dengel, arXiv 2008.07970. Paper 3: Davis, Frank,
"Revisiting Batch Normalization". Paper 4: Peerthum, Stamp, arXiv 2303.12818.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from bnhw.errors import BadInput
from bnhw.export.augmentation import Augmentation
from bnhw.export.normalisations import ParameterRole
from bnhw.export.schedules import (
    Clipping,
    Constant,
    ConstantThen,
    Cosine,
    Drops,
    LogarithmicClipping,
    Schedule,
    Triangles,
    WarmUp,
)

Optimiser = Literal["sgd", "adam"]
ALL_ROLES = (ParameterRole.WEIGHT, ParameterRole.GAIN, ParameterRole.SHIFT)
WEIGHTS_ALONE = (ParameterRole.WEIGHT,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything about a training but network, data and seed. Raises `BadInput` that lists every invalid value.

    schedule: of the learning rate; its peak is what the papers name.
    momentum: of "sgd"; "adam" has the betas 0.9 and 0.999.
    weight_decay, decayed: what is added to the gradient, and the roles of the parameters that it is for.
    gain_rate_divisor: the learning rate of gains is the schedule's divided by this (c of paper 3, section 3.2).
    clipping: None for gradients as they are.
    validation_part: part of the training images of every class that is held out; with `choose_best` the epoch with
        the best accuracy on them gives the trained network.
    reestimate_batch_norm: after the last epoch batch norms get the mean statistics of one epoch.
    """

    source: str
    epochs: int
    batch_size: int
    schedule: Schedule
    optimiser: Optimiser = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    decayed: tuple[ParameterRole, ...] = ALL_ROLES
    gain_rate_divisor: float = 1.0
    clipping: Clipping | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    validation_part: float = 0.0
    choose_best: bool = False
    reestimate_batch_norm: bool = False

    def __post_init__(self) -> None:
        rules = (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("momentum", 0 <= self.momentum < 1, "from 0, below 1"),
            ("weight_decay", self.weight_decay >= 0, "0 or above"),
            ("gain_rate_divisor", self.gain_rate_divisor > 0, "above 0"),
            ("validation_part", 0 <= self.validation_part < 1, "from 0, below 1"),
            ("choose_best", self.validation_part > 0 or not self.choose_best, "False without a validation part"),
        )
        problems = [f"{name} is {getattr(self, name)}, expected {wish}" for name, holds, wish in rules if not holds]
        if problems:
            raise BadInput("recipe: " + "; ".join(problems))


_CIFAR = Augmentation(flip=True, padding=4)
_PAPER_1 = Recipe(
    source="paper 1, section III-A",
    epochs=300,
    batch_size=125,
    schedule=Cosine(0.1, 1e-5),
    weight_decay=5e-4,
    augmentation=replace(_CIFAR, cutout=18),
    reestimate_batch_norm=True,
)
_PAPER_2 = Recipe(
    source="paper 2, section 4: monotonically decreasing",
    epochs=90,
    batch_size=256,  # not given; that of Goyal et al. on one machine, as are momentum and weight decay
    schedule=Drops(0.01),
    weight_decay=1e-4,
    clipping=LogarithmicClipping(5.0),
    augmentation=_CIFAR,
)
_PAPER_3 = Recipe(
    source="paper 3, sections 3.2, 4.2 and 4.3",
    epochs=180,
    batch_size=128,
    schedule=Cosine(0.1),
    weight_decay=1e-4,
    decayed=WEIGHTS_ALONE,
    gain_rate_divisor=100.0,
    augmentation=Augmentation(flip=True),
    validation_part=0.1,
    choose_best=True,
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "paper-1": _PAPER_1,
        "paper-1-imagenet": replace(_PAPER_1, epochs=60, augmentation=_CIFAR),
        "paper-2-monotone": _PAPER_2,
        "paper-2-step": replace(
            _PAPER_2,
            source="paper 2, section 4 and footnote 6: step decrease",
            schedule=ConstantThen(1 / 3, Drops(0.001)),
        ),
        "paper-2-cyclic": replace(
            _PAPER_2,
            source="paper 2, section 4: cyclic",
            schedule=Triangles(0.0001, 0.001, 9),
        ),
        "paper-2-warm-up": replace(
            _PAPER_2,
            source="paper 2, section 4, footnote 5 and table 6: warm-up",
            epochs=120,
            schedule=WarmUp(5 / 120, 0.1, Drops(0.005, drops=(1 / 4, 1 / 2, 3 / 4))),
        ),
        "paper-3": _PAPER_3,
        "paper-3-base": replace(_PAPER_3, source="paper 3, section 4.2: BASE, with c = 1", gain_rate_divisor=1.0),
        "paper-4": Recipe(
            source="paper 4, section 3.2",
            epochs=15,
            batch_size=20,  # the other of its two is 50
            optimiser="adam",
            schedule=Constant(1e-3),
        ),
        "mnist": Recipe(
            source="no paper: few epochs on a small network; 1-bit weights change sign sooner under Adam",
            epochs=8,
            batch_size=125,
            optimiser="adam",
            schedule=Cosine(3e-3, 1e-5),
            augmentation=Augmentation(padding=1, fill="zero"),
            reestimate_batch_norm=True,
        ),
    }
)
"""Every recipe by its name. Where a paper gives no number, the schedule's or recipe's own documentation says whose."""

PAPER_3_SEEDS = range(1, 16)
"""Paper 3, section 4.3; every seed goes through `spread_seed`."""


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises `BadInput` that lists them all."""
    if name not in RECIPES:
        raise BadInput(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def spread_seed(seed: int, *purpose: object) -> int:
    """64 bits from a small seed and a purpose, by MD5.

    Paper 3 (section 4.3) makes its sequential seeds "more complex using MD5". With a purpose such as ("epoch", 7) one
    seed gives many independent streams, so that an epoch's random numbers depend on nothing that ran before it.
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8])
