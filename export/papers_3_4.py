"""The tables of papers 3 and 4 (see `bnhw.export.paper_cases`): rows with the published figures, in percent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bnhw.export.normalisations import Normalisation, NormalisationConfig
from bnhw.export.paper_cases import Case, System, offline, with_rate
from bnhw.export.recipes import RECIPES, Recipe

BASE_3 = NormalisationConfig(kind=Normalisation.BATCH_NORM, input="batch_norm")


def scaled(gain: float, kind: Normalisation = Normalisation.SCALED) -> NormalisationConfig:
    """Scale-initialised batch norm with paper 3's batch norm of the input."""
    return NormalisationConfig(kind=kind, gain=gain, input="batch_norm")


def _related(kind: Normalisation) -> NormalisationConfig:
    return NormalisationConfig(kind=kind, input="batch_norm")


RATES_3 = (0.1, 0.01, 0.001)
_ONE_GAIN = (0.1, 0.1, 0.1)


def _rows_3(
    group: str,
    network: str,
    dataset: str,
    rows: Mapping[str, tuple[NormalisationConfig | Sequence[NormalisationConfig], Sequence[str]]],
) -> Iterator[Case]:
    """Rows of one group; a row has one normalisation, or one for each learning rate."""
    for row, (normalisations, figures) in rows.items():
        for index, (rate, figure) in enumerate(zip(RATES_3, figures, strict=False)):
            one = normalisations if isinstance(normalisations, NormalisationConfig) else normalisations[index]
            slow = one.gain_rate_divisor > 1
            yield Case(
                group=group,
                row=row,
                column=f"{rate:g}",
                dataset=dataset,
                system=System(network=network, normalisation=one, weights="float"),
                recipe=_recipe_3(slow=slow, rate=rate, large=dataset in ("cub200", "stcars")),
                published=figure,
                base=row == "BASE",
            )


def _recipe_3(*, slow: bool, rate: float, large: bool) -> Recipe:
    """Section 4.2: 180 epochs, batches of 128, of large images 64 and random crops."""
    recipe = with_rate(RECIPES["paper-3" if slow else "paper-3-base"], rate)
    return replace(recipe, batch_size=64) if large else recipe


_BASE_FIGURES = ("89.44 ± 0.45", "84.64 ± 0.25", "71.32 ± 0.60")
TABLE_3_1 = tuple(
    _rows_3(
        "resnet-18-cifar",
        "resnet-18-cifar",
        "cifar10",
        {
            "0.01": (scaled(0.01), ("85.50 ± 0.39", "87.11 ± 0.23", "80.37 ± 0.58")),
            "0.05": (scaled(0.05), ("90.19 ± 0.32", "88.84 ± 0.32", "76.98 ± 0.71")),
            "0.10": (scaled(0.1), ("90.80 ± 0.20", "87.31 ± 0.37", "74.48 ± 0.55")),
            "0.25": (scaled(0.25), ("90.32 ± 0.24", "85.33 ± 0.43", "73.83 ± 0.64")),
            "0.50": (scaled(0.5), ("90.17 ± 0.19", "84.60 ± 0.35", "72.80 ± 0.68")),
            "0.75": (scaled(0.75), ("90.19 ± 0.18", "84.43 ± 0.30", "72.01 ± 0.58")),
            "1.00": (scaled(1.0), ("89.81 ± 0.46", "84.48 ± 0.33", "71.15 ± 0.56")),
            "BASE": (BASE_3, _BASE_FIGURES),
        },
    )
)
_BEST = (0.1, 0.05, 0.01)
"""The gain of the best row of table 1 at each learning rate."""

TABLE_3_2 = tuple(
    _rows_3(
        "resnet-18-cifar",
        "resnet-18-cifar",
        "cifar10",
        {
            "Ours": ([scaled(gain) for gain in _BEST], ("90.80 ± 0.20", "88.84 ± 0.32", "80.37 ± 0.58")),
            "A1": (
                [scaled(gain, Normalisation.SCALED_A1) for gain in _BEST],
                ("90.89 ± 0.18", "88.01 ± 0.25", "73.34 ± 0.70"),
            ),
            "A2": (
                [scaled(gain, Normalisation.SCALED_A2) for gain in _BEST],
                ("90.95 ± 0.21", "87.89 ± 0.19", "73.53 ± 0.61"),
            ),
            "BASE": (BASE_3, _BASE_FIGURES),
        },
    )
)


def _gains(
    group: str, network: str, dataset: str, cells: Sequence[tuple[str, str]], base: NormalisationConfig = BASE_3
) -> Iterator[Case]:
    """Rows 0.05, 0.10, 0.50 and BASE at the learning rates 0.1 and 0.01."""
    norms = [replace(base, kind=Normalisation.SCALED, gain=gain) for gain in (0.05, 0.1, 0.5)]
    rows = dict(zip(("0.05", "0.10", "0.50", "BASE"), zip([*norms, base], cells, strict=True), strict=True))
    return _rows_3(group, network, dataset, rows)


TABLE_3_3 = (
    *_gains(
        "CIFAR-100, resnet-34-cifar",
        "resnet-34-cifar",
        "cifar100",
        (
            ("68.18 ± 0.30", "64.01 ± 0.54"),
            ("68.80 ± 0.49", "62.83 ± 0.48"),
            ("67.74 ± 0.44", "59.05 ± 0.41"),
            ("66.01 ± 0.95", "58.48 ± 0.53"),
        ),
    ),
    *_gains(
        "CUB-200, resnet-50",
        "resnet-50",
        "cub200",
        (
            ("58.32 ± 0.54", "34.23 ± 0.86"),
            ("58.52 ± 0.69", "39.92 ± 0.76"),
            ("50.45 ± 1.22", "45.31 ± 0.59"),
            ("46.26 ± 1.59", "41.61 ± 1.03"),
        ),
    ),
    *_gains(
        "ST-Cars, resnet-50",
        "resnet-50",
        "stcars",
        (
            ("78.29 ± 0.44", "44.18 ± 1.29"),
            ("78.26 ± 0.61", "48.60 ± 1.02"),
            ("70.17 ± 1.45", "51.18 ± 2.16"),
            ("64.73 ± 2.87", "51.86 ± 1.80"),
        ),
    ),
)
_CELLS_3_4: Mapping[str, Sequence[tuple[str, str]]] = {
    "resnet-50-cifar": (
        ("91.23 ± 0.20", "89.60 ± 0.19"),
        ("91.28 ± 0.26", "87.67 ± 0.20"),
        ("89.49 ± 0.27", "84.74 ± 0.37"),
        ("86.94 ± 1.23", "85.04 ± 0.32"),
    ),
    "resnet-101-cifar": (
        ("91.58 ± 0.22", "90.02 ± 0.22"),
        ("91.26 ± 0.18", "88.35 ± 0.28"),
        ("89.89 ± 0.74", "85.23 ± 0.50"),
        ("88.28 ± 1.39", "84.74 ± 0.56"),
    ),
    "resnet-152-cifar": (
        ("91.20 ± 0.16", "90.00 ± 0.17"),
        ("90.89 ± 0.41", "88.31 ± 0.33"),
        ("90.17 ± 0.23", "85.23 ± 0.62"),
        ("88.73 ± 0.62", "84.15 ± 0.79"),
    ),
    "repvgg-a0-cifar": (
        ("89.71 ± 0.30", "88.08 ± 0.26"),
        ("90.63 ± 0.26", "86.67 ± 0.28"),
        ("89.96 ± 0.20", "84.28 ± 0.47"),
        ("89.59 ± 0.27", "83.92 ± 0.38"),
    ),
    "mobilenet-v2-cifar": (
        ("88.32 ± 0.21", "87.02 ± 0.38"),
        ("91.14 ± 0.17", "85.10 ± 0.30"),
        ("91.07 ± 0.21", "81.25 ± 0.41"),
        ("90.60 ± 0.19", "80.03 ± 0.57"),
    ),
    "resnext-50-cifar": (
        ("92.04 ± 0.22", "89.06 ± 0.24"),
        ("92.02 ± 0.19", "86.10 ± 0.24"),
        ("91.21 ± 0.47", "80.31 ± 0.53"),
        ("88.60 ± 1.57", "82.60 ± 0.43"),
    ),
}
TABLE_3_4 = tuple(case for network, cells in _CELLS_3_4.items() for case in _gains(network, network, "cifar10", cells))
_INPUTS_3: Mapping[str, tuple[NormalisationConfig, Sequence[tuple[str, str]]]] = {
    "Fixed": (
        NormalisationConfig(kind=Normalisation.BATCH_NORM, input="fixed"),
        (
            ("90.30 ± 0.21", "88.96 ± 0.21"),
            ("90.84 ± 0.27", "87.13 ± 0.33"),
            ("90.19 ± 0.19", "84.65 ± 0.21"),
            ("89.55 ± 0.32", "84.42 ± 0.32"),
        ),
    ),
    "Offline": (
        offline(Normalisation.BATCH_NORM),
        (
            ("90.25 ± 0.22", "89.03 ± 0.20"),
            ("90.74 ± 0.27", "87.34 ± 0.31"),
            ("90.21 ± 0.27", "84.69 ± 0.40"),
            ("89.40 ± 0.39", "84.42 ± 0.38"),
        ),
    ),
    "Proposed": (
        BASE_3,
        (
            ("90.19 ± 0.32", "88.84 ± 0.32"),
            ("90.80 ± 0.20", "87.31 ± 0.37"),
            ("90.17 ± 0.19", "84.60 ± 0.35"),
            ("89.44 ± 0.45", "84.64 ± 0.25"),
        ),
    ),
}
TABLE_3_5 = tuple(
    case
    for group, (base, cells) in _INPUTS_3.items()
    for case in _gains(f"{group}, resnet-18-cifar", "resnet-18-cifar", "cifar10", cells, base)
)
_ROWS_3_6: Mapping[tuple[str, str, str], tuple[Sequence[float], Sequence[tuple[str, str]]]] = {
    ("CIFAR-10", "resnet-18-cifar", "cifar10"): (
        (0.1, 0.05),
        (
            ("90.17 ± 0.22", "84.72 ± 0.29"),
            ("90.11 ± 0.24", "84.50 ± 0.36"),
            ("90.18 ± 0.26", "85.34 ± 0.39"),
            ("90.15 ± 0.24", "85.29 ± 0.35"),
            ("90.80 ± 0.20", "88.84 ± 0.32"),
            ("89.44 ± 0.45", "84.64 ± 0.25"),
        ),
    ),
    ("CIFAR-100", "resnet-34-cifar", "cifar100"): (
        (0.1, 0.05),
        (
            ("66.95 ± 0.57", "58.95 ± 0.42"),
            ("66.82 ± 0.55", "58.90 ± 0.61"),
            ("66.94 ± 0.39", "60.61 ± 0.40"),
            ("66.95 ± 0.32", "60.89 ± 0.41"),
            ("68.80 ± 0.49", "64.01 ± 0.54"),
            ("66.01 ± 0.95", "58.48 ± 0.53"),
        ),
    ),
    ("CUB-200", "resnet-50", "cub200"): (
        (0.1, 0.5),
        (
            ("48.68 ± 1.56", "44.68 ± 0.59"),
            ("47.14 ± 2.72", "43.02 ± 1.22"),
            ("54.12 ± 0.60", "44.92 ± 0.74"),
            ("53.81 ± 0.76", "44.09 ± 0.65"),
            ("58.52 ± 0.69", "45.31 ± 0.59"),
            ("46.26 ± 1.59", "41.61 ± 1.03"),
        ),
    ),
    ("ST-Cars", "resnet-50", "stcars"): (
        (0.05, 0.5),
        (
            ("68.17 ± 1.84", "51.87 ± 1.34"),
            ("67.84 ± 2.96", "52.30 ± 1.73"),
            ("73.60 ± 0.92", "51.06 ± 0.87"),
            ("74.04 ± 1.55", "51.08 ± 0.78"),
            ("78.29 ± 0.44", "51.18 ± 2.16"),
            ("64.73 ± 2.87", "51.86 ± 1.80"),
        ),
    ),
}
"""(data set, network, its name here): the gains of "Proposed" at both learning rates, and the cells."""

TABLE_3_6 = tuple(
    case
    for (title, network, dataset), (gains, cells) in _ROWS_3_6.items()
    for case in _rows_3(
        f"{title}, {network}",
        network,
        dataset,
        {
            "RBN": (_related(Normalisation.RBN), cells[0]),
            "RBN-": (_related(Normalisation.RBN_MINUS), cells[1]),
            "IEBN": (_related(Normalisation.IEBN), cells[2]),
            "IEBN-": (_related(Normalisation.IEBN_MINUS), cells[3]),
            "Proposed": ([scaled(gain) for gain in gains], cells[4]),
            "BASE": (BASE_3, cells[5]),
        },
    )
)

FORMS_4 = {
    "BatchNorm": Normalisation.BATCH_NORM,
    "AffineLayer": Normalisation.AFFINE,
    "BatchNorm-minus": Normalisation.BATCH_NORM_MINUS,
    "None": Normalisation.NONE,
}


def _table_4(network: str, cells: Sequence[tuple[str, str]]) -> tuple[Case, ...]:
    """Batches of 20 and 50. The networks are those of PyTorch's builder, with the stem for large images."""
    return tuple(
        Case(
            group=network,
            row=row,
            column=f"{batch}",
            dataset="cifar10",
            system=System(network=network, normalisation=NormalisationConfig(kind=kind), weights="float"),
            recipe=replace(RECIPES["paper-4"], batch_size=batch),
            published=figure,
            base=kind is Normalisation.BATCH_NORM,
        )
        for (row, kind), figures in zip(FORMS_4.items(), cells, strict=True)
        for batch, figure in zip((20, 50), figures, strict=True)
    )


TABLE_4_4 = _table_4("resnet-18", (("76.65", "75.69"), ("67.94", "69.04"), ("77.30", "76.44"), ("66.43", "68.77")))
TABLE_4_5 = _table_4("resnet-50", (("74.69", "74.24"), ("69.57", "69.86"), ("55.97", "65.40"), ("67.86", "69.39")))
TABLE_4_6 = _table_4("resnet-34", (("77.17", "75.54"), ("68.56", "68.37"), ("77.19", "75.57"), ("66.61", "67.82")))
TABLE_4_7 = _table_4("resnet-101", (("69.71", "67.46"), ("70.32", "69.59"), ("44.12", "41.28"), ("68.19", "68.45")))
