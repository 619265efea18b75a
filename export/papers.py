"""Every table of the four papers, and the systems in them: network, normalisation, weights.

`TABLES` is what `benchmarks/seed_tables.py` runs; `list_systems` is what tests export and compile, and what the
README lists.
"""

from collections.abc import Mapping
from types import MappingProxyType

from bnhw.export import papers_1_2 as one
from bnhw.export import papers_3_4 as three
from bnhw.export.paper_cases import Case, Measure, Table

_ERROR: Measure = "top-1 error"
_ACCURACY: Measure = "top-1 accuracy"
_IMAGENET = "ImageNet, validation"
_TEN = "10 at wrn-20-4, 1 at wrn-20-10"


def _table(name: str, title: str, measure: Measure, runs: str, cases: tuple[Case, ...], column: str = "") -> Table:
    return Table(name=name, title=title, measure=measure, column=column, runs=runs, cases=cases)


_RATE, _BATCH = "learning rate", "batch"
_RBN = "Representative and instance enhancement batch norm"

_TABLES = (
    _table("1-I", "Wide ResNets on CIFAR-10 (with figure 5)", _ERROR, _TEN, one.TABLE_1_I),
    _table("1-II", "Wide ResNets on CIFAR-100 (with figure 6)", _ERROR, _TEN, one.TABLE_1_II),
    _table("1-III", "Wide ResNets on ImageNet", "top-5 error", "1", one.TABLE_1_III, "test"),
    _table("2-1", f"First networks without batch norm, {_IMAGENET}", _ACCURACY, "1", one.TABLE_2_1),
    _table("2-2", f"Adaptive clipping and dropout, {_IMAGENET}", _ACCURACY, "1", one.TABLE_2_2),
    _table("2-3", f"First clipping threshold, {_IMAGENET}", _ACCURACY, "1", one.TABLE_2_3),
    _table("2-4", f"Schedules, {_IMAGENET}", _ACCURACY, "1", one.TABLE_2_4),
    _table("2-5", f"Warm-up, {_IMAGENET}", _ACCURACY, "1", one.TABLE_2_5),
    _table("2-6", f"Depth, {_IMAGENET}", _ACCURACY, "1", one.TABLE_2_6),
    _table("3-1", "Initial gain, ResNet-18 on CIFAR-10", _ACCURACY, "15", three.TABLE_3_1, _RATE),
    _table("3-2", "Formulations of the gain, ResNet-18 on CIFAR-10", _ACCURACY, "15", three.TABLE_3_2, _RATE),
    _table("3-3", "Other data sets", _ACCURACY, "15", three.TABLE_3_3, _RATE),
    _table("3-4", "Depths and architectures on CIFAR-10", _ACCURACY, "15", three.TABLE_3_4, _RATE),
    _table("3-5", "Normalisations of the input, ResNet-18 on CIFAR-10", _ACCURACY, "15", three.TABLE_3_5, _RATE),
    _table("3-6", _RBN, _ACCURACY, "15", three.TABLE_3_6, _RATE),
    _table("4-4", "ResNet-18 on CIFAR-10", _ACCURACY, "4", three.TABLE_4_4, _BATCH),
    _table("4-5", "ResNet-50 on CIFAR-10", _ACCURACY, "4", three.TABLE_4_5, _BATCH),
    _table("4-6", "ResNet-34 on CIFAR-10", _ACCURACY, "4", three.TABLE_4_6, _BATCH),
    _table("4-7", "ResNet-101 on CIFAR-10", _ACCURACY, "4", three.TABLE_4_7, _BATCH),
)

TABLES: Mapping[str, Table] = MappingProxyType({table.name: table for table in _TABLES})
"""By paper and number."""


def list_systems() -> tuple[tuple[int, Case], ...]:
    """Every (network, normalisation, normalisation of the image, weights) of a paper once, by its first case."""
    found: dict[tuple[object, ...], tuple[int, Case]] = {}
    for table in TABLES.values():
        for case in table.cases:
            norm = case.system.normalisation
            key = (table.paper, case.system.network, norm.kind, norm.input, norm.dropout > 0, case.system.weights)
            found.setdefault(key, (table.paper, case))
    return tuple(found.values())


def describe_systems() -> tuple[tuple[str, str, str, str], ...]:
    """Paper, network, normalisations and weights: a line for each network, as in the README."""
    lines: dict[tuple[int, str], tuple[list[str], list[str]]] = {}
    for paper, case in list_systems():
        kinds, weights = lines.setdefault((paper, case.system.network), ([], []))
        for values, value in ((kinds, case.system.normalisation.kind.value), (weights, case.system.weights)):
            if value not in values:
                values.append(value)
    return tuple((str(p), n, ", ".join(kinds), ", ".join(w)) for (p, n), (kinds, w) in lines.items())
