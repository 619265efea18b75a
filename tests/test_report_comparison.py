"""Comparisons: every figure by its stage, ratios and differences as defined, columns that pair as asked for."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import Call, assert_refused
from engine_runs import run_by_hand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program_builder import one_of_each
from program_strategies import programs

import bnhw
from bnhw.cli.console import as_text
from bnhw.program import Program
from bnhw.reports.comparison import Column, Comparison, Stage, column_labels, compare_reports, comparison_warnings
from bnhw.reports.comparison_tables import comparison_tables
from bnhw.reports.definitions import DEFINITIONS
from bnhw.reports.report import build_report

ANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def compared(*listed: Program, priced: bool = True, engine: bool = True) -> Comparison:
    """Programs side by side, each with a run made by hand."""
    columns = []
    for number, program in enumerate(listed):
        run = run_by_hand(program, seed=number, priced=priced) if engine else None
        columns.append(Column(label=f"program {number}", report=build_report(program, run)))
    return compare_reports(columns)


@ANY
@given(programs(), programs())
def test_operations_of_the_stages_are_all_operations(first: Program, second: Program) -> None:
    comparison = compared(first, second, engine=False)
    for number, column in enumerate(comparison.columns):
        by_kind: Counter[str] = Counter()
        for action, count in column.report.totals.actions.items():
            by_kind[action.kind.value] += count
        found: Counter[str] = Counter()
        for stage in (Stage.ARRAY, Stage.POST):
            for figure in comparison.of(stage):
                found[figure.definition] += int(figure.values[number] or 0)
        assert +found == +by_kind


@ANY
@given(programs(), programs(), st.booleans())
def test_ratios_and_differences_are_to_the_first_column(first: Program, second: Program, priced: bool) -> None:
    comparison = compared(first, second, priced=priced)
    keys = [figure.key for figure in comparison.figures]
    assert len(set(keys)) == len(keys)
    for figure in comparison.figures:
        base, value = figure.values
        assert base is not None
        assert value is not None
        assert list(figure.differences) == [0, value - base]
        assert list(figure.ratios) == ([1, value / base] if base else [None, None])
        assert figure.definition in DEFINITIONS
        if figure.low:
            for low, middle, high in zip(figure.low, figure.values, figure.high, strict=True):
                assert (low or 0) <= (middle or 0) <= (high or 0)
    plain = comparison.as_json()
    assert plain == json.loads(json.dumps(plain, allow_nan=False))
    assert plain["reports"] == [column.report.as_json() for column in comparison.columns]


@ANY
@given(programs())
def test_energy_of_the_stages_is_the_energy_of_the_whole(program: Program) -> None:
    figures = {figure.key: figure for figure in compared(program, program).figures}
    parts = [figure.values[0] or 0 for key, figure in figures.items() if ".energy." in key]
    assert (figures["whole.energy"].values[0] or 0) == pytest.approx(sum(parts))


def test_cycles_by_cause_add_up_to_the_cycles() -> None:
    figures = {figure.key: figure for figure in compared(one_of_each(), one_of_each()).figures}
    causes = ("compute", "weight_load", "activation_load", "writeback", "drain", "stall")
    for number in range(2):
        assert figures["whole.cycles_total"].values[number] == sum(
            figures[f"whole.{cause}"].values[number] or 0 for cause in causes
        )


def test_a_column_without_an_engine_has_gaps_and_no_ratio() -> None:
    program = one_of_each()
    columns = [
        Column(label="with", report=build_report(program, run_by_hand(program))),
        Column(label="without", report=build_report(program)),
    ]
    figure = next(f for f in compare_reports(columns).figures if f.key == "whole.cycles_total")
    assert figure.values[1] is figure.ratios[1] is figure.differences[1] is None
    assert "with" in as_text(comparison_tables(compare_reports(columns)))


def test_warnings_name_the_columns_that_they_hold_for() -> None:
    program = one_of_each()
    priced, plain = build_report(program, run_by_hand(program)), build_report(program)
    both = compare_reports([Column(label="a", report=priced), Column(label="b", report=priced)])
    one = compare_reports([Column(label="a", report=priced), Column(label="b", report=plain)])
    assert comparison_warnings(both) == ("made by hand",)
    assert comparison_warnings(one) == ("made by hand (a)",)


@pytest.mark.parametrize(
    ("models", "archs", "labels"),
    [
        (("a", "b"), ("", ""), ("a", "b")),
        (("a", "a"), ("x", "y"), ("x", "y")),
        (("a", "a", "b"), ("x", "y", "x"), ("a on x", "a on y", "b on x")),
        (("a", "b"), ("x", "y"), ("a", "b")),
        (("a", "a"), ("x", "x"), ("a (1)", "a (2)")),
        (("a", "b", "a"), ("x", "x", "x"), ("a (1)", "b", "a (2)")),
    ],
)
def test_labels_tell_columns_apart(models: tuple[str, ...], archs: tuple[str, ...], labels: tuple[str, ...]) -> None:
    assert column_labels(models, archs) == labels


def test_programs_are_compared_by_counts_alone_where_no_engine_is_named(files: Path, call: Call) -> None:
    images = np.load("images.npz")["images"]
    bnhw.compile("digits.onnx", images, bnhw.CompileOptions(requantise="shift")).save("s.bnhw")
    done = call("compare", "digits.bnhw", "s.bnhw", "--format", "json")
    found = json.loads(done.out)
    assert found["columns"] == ["digits", "s"]
    by_key: dict[str, Any] = {figure["key"]: figure for figure in found["figures"]}
    assert by_key["whole.multipliers_per_image"]["values"] == [17280, 0]
    ratio = by_key["array.mux"]["ratios"][1]
    assert 0.98 < ratio < 1, "taps in borders count where the zero point is 1, of which shifts have none"
    assert not [key for key in by_key if "energy" in key or "cycles" in key]


ONE_ALONE = "one program alone cannot be compared; name two programs, or two engines with --arch"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits.bnhw",), ONE_ALONE),
        (("digits.bnhw", "--arch", "engine-16x64"), ONE_ALONE),
        (("digits.bnhw", "digits.bnhw", "digits.bnhw", *["--arch", "x", "--arch", "y"]), "3 programs and 2 engines do"),
        (("digits.bnhw", "digits.bnhw", *["--arch", "x"] * 3), "2 programs and 3 engines do not pair; name one engine"),
        (("digits.bnhw", "digits.bnhw", "--arch", "gone"), "gone"),
        (("digits.bnhw", "digits.bnhw", "--arch", "engine-16x64", "--tech", "gone"), "gone"),
        (("digits.bnhw", "digits.bnhw", "--tech", "28nm"), "name an engine, too"),
        (("digits.bnhw", "digits.bnhw", "--format", "pdf"), "'pdf' is not available; choose text, json or html"),
        (("digits.bnhw", "digits.bnhw", "--format", "html"), "--format html makes a file; name it with -o"),
        (("digits.bnhw", "gone.bnhw"), "gone.bnhw: no such file"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: tuple[str, ...], message: str, files: Path, call: Call) -> None:
    assert_refused(call("compare", *arguments), message)
