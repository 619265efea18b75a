"""The tables of papers 1 and 2 (see `bnhw.export.paper_cases`): rows with the published figures, in percent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bnhw.export.normalisations import Normalisation, NormalisationConfig, Weights
from bnhw.export.paper_cases import Case, System, offline, with_rate
from bnhw.export.recipes import RECIPES, Recipe
from bnhw.export.schedules import ConstantClipping

VARIATIONS: Mapping[str, NormalisationConfig] = {
    "Baseline 1": NormalisationConfig(kind=Normalisation.BATCH_NORM, input="batch_norm_minus"),
    "Baseline 2": NormalisationConfig(kind=Normalisation.BATCH_NORM_MINUS, input="batch_norm_minus"),
    "Final BN only": NormalisationConfig(kind=Normalisation.FINAL_ONLY, input="batch_norm_minus"),
    "sReLU only": offline(Normalisation.SHIFTED_RELU),
    "ELU only": offline(Normalisation.ELU),
    "Mean-only BN": NormalisationConfig(kind=Normalisation.MEAN_ONLY, input="batch_norm_minus"),
}
"""Section IV, variations 1 to 6. Before the first weights stands a batch norm with nothing learned (section III-A), in
the networks without any batch norm constants in its place (figure 4)."""


def _variations(
    network: str, weights: Weights, dataset: str, published: Sequence[str], rows: Sequence[str] = tuple(VARIATIONS)
) -> Iterator[Case]:
    """One group of tables I and II; rows without a published figure are those of figures 5 and 6 and section IV."""
    bits = "1 bit" if weights == "1bit" else "32 bit"
    for row, figure in zip(rows, [*published, "", ""][: len(rows)], strict=True):
        yield Case(
            group=f"{network}, {bits} weights",
            row=row,
            column="",
            dataset=dataset,
            system=System(network=network, normalisation=VARIATIONS[row], weights=weights),
            recipe=RECIPES["paper-1"],
            published=figure,
            base=row == "Baseline 1",
        )


TABLE_1_I = (
    *_variations("wrn-20-4", "float", "cifar10", ("3.97", "3.80", "4.42", "4.67")),
    *_variations("wrn-20-10", "float", "cifar10", ("3.29", "3.57", "3.79", "4.36")),
    *_variations("wrn-20-4", "1bit", "cifar10", ("4.51", "4.65", "4.47", "4.66")),
    *_variations("wrn-20-10", "1bit", "cifar10", ("3.83", "3.65", "4.00", "3.74")),
)
TABLE_1_II = (
    *_variations("wrn-20-4", "float", "cifar100", ("22.10", "19.53", "20.18", "22.24")),
    *_variations("wrn-20-10", "float", "cifar100", ("20.99", "17.05", "18.25", "20.97")),
    *_variations("wrn-20-4", "1bit", "cifar100", ("22.82", "22.07", "22.31", "23.69")),
    *_variations("wrn-20-10", "1bit", "cifar100", ("20.61", "18.22", "19.42", "20.74")),
)


def _imagenet_1(
    network: str, weights: Weights, ensemble: int, centre: tuple[str, str], crops: tuple[str, str]
) -> Iterator[Case]:
    """Two lines of table III."""
    name = f"{network}, {'1 bit' if weights == '1bit' else '32 bit'} weights"
    name = f"{ensemble} x {name}" if ensemble > 1 else name
    for column, figures in (("centre crop", centre), ("multi crop", crops)):
        for row, figure in zip(("Baseline 1", "Final BN only"), figures, strict=True):
            yield Case(
                group=name,
                row=row,
                column=column,
                dataset="imagenet",
                system=System(network=network, normalisation=VARIATIONS[row], weights=weights),
                recipe=RECIPES["paper-1-imagenet"],
                published=figure,
                base=row == "Baseline 1",
                ensemble=ensemble,
                crops=column == "multi crop",
            )


TABLE_1_III = (
    *_imagenet_1("wrn-18-1", "float", 1, ("12.41", "15.50"), ("9.03", "14.70")),
    *_imagenet_1("wrn-18-1", "float", 3, ("10.70", "14.00"), ("7.95", "12.30")),
    *_imagenet_1("wrn-18-2.5", "float", 1, ("9.20", "9.51"), ("6.91", "8.83")),
    *_imagenet_1("wrn-18-1", "1bit", 1, ("17.55", "23.66"), ("12.80", "19.94")),
    *_imagenet_1("wrn-18-1", "1bit", 3, ("15.48", "22.18"), ("11.38", "18.85")),
    *_imagenet_1("wrn-18-2.5", "1bit", 1, ("11.51", "11.81"), ("8.48", "10.03")),
)

_MONOTONE = RECIPES["paper-2-monotone"]
_BATCH_NORMALISED = NormalisationConfig(kind=Normalisation.BATCH_NORM)
_UNNORMALISED = NormalisationConfig(kind=Normalisation.NONE)
_WEIGHT_NORM = NormalisationConfig(kind=Normalisation.WEIGHT_NORM)
_WITH_DROPOUT = replace(_WEIGHT_NORM, dropout=0.1)
"""The paper does not give the probability."""
_VANILLA = replace(with_rate(_MONOTONE, 0.1), clipping=None)


def _case_2(
    row: str, normalisation: NormalisationConfig, recipe: Recipe, published: str, network: str = "resnet-18"
) -> Case:
    return Case(
        group=network,
        row=row,
        column="",
        dataset="imagenet",
        system=System(network=network, normalisation=normalisation, weights="float"),
        recipe=recipe,
        published=published,
        base=normalisation.kind is Normalisation.BATCH_NORM,
    )


_BASE_2 = _case_2("batch normalized", _BATCH_NORMALISED, _VANILLA, "66.5")
_DROPOUT_2 = _case_2("adaptive clipping, dropout, 0.01", _WITH_DROPOUT, _MONOTONE, "64.7")
_WARM_2 = _case_2("adaptive clipping, dropout, warm-up", _WITH_DROPOUT, RECIPES["paper-2-warm-up"], "65.1")
_CONSTANT_CLIPPING = replace(with_rate(_MONOTONE, 0.001), clipping=ConstantClipping())
_NO_CLIPPING = replace(with_rate(_MONOTONE, 0.001), clipping=None)

TABLE_2_1 = (
    _BASE_2,
    _case_2("constant clipping", _UNNORMALISED, _CONSTANT_CLIPPING, "58.2"),
    _case_2("weight normalization", _WEIGHT_NORM, _NO_CLIPPING, "58.5"),
)
TABLE_2_2 = (
    _BASE_2,
    _DROPOUT_2,
    _case_2("adaptive clipping, 0.01", _WEIGHT_NORM, _MONOTONE, "63.6"),
    _case_2("adaptive clipping, 0.001", _WEIGHT_NORM, with_rate(_MONOTONE, 0.001), "59.6"),
)
TABLE_2_3 = tuple(
    _case_2(
        f"clipping from {start:g}",
        _WITH_DROPOUT,
        replace(_MONOTONE, clipping=replace(_MONOTONE.clipping, start=start)),  # type: ignore[type-var]  # a dataclass
        figure,
    )
    for start, figure in ((5.0, "64.7"), (10.0, "64.6"))
)
TABLE_2_4 = (
    _BASE_2,
    _DROPOUT_2,
    _case_2("cyclic, 0.01", _WITH_DROPOUT, with_rate(RECIPES["paper-2-cyclic"], 0.01), "54.87"),
    _case_2("cyclic, 0.001", _WITH_DROPOUT, RECIPES["paper-2-cyclic"], "59.7"),
    _case_2("step decrease, 0.001", _WITH_DROPOUT, RECIPES["paper-2-step"], "61.95"),
)
TABLE_2_6 = (
    _BASE_2,
    _DROPOUT_2,
    _WARM_2,
    *(
        case
        for network, figures in (("resnet-34", ("70.1", "67.4", "68.01")), ("resnet-50", ("72.6", "62.8", "62.22")))
        for case in (
            _case_2(_BASE_2.row, _BATCH_NORMALISED, _VANILLA, figures[0], network),
            _case_2(_DROPOUT_2.row, _WITH_DROPOUT, _MONOTONE, figures[1], network),
            _case_2(_WARM_2.row, _WITH_DROPOUT, RECIPES["paper-2-warm-up"], figures[2], network),
        )
    ),
)
TABLE_2_5 = (_BASE_2, _WARM_2)
