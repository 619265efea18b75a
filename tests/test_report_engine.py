"""Reports with an engine: nothing counted twice, keys keep their meaning, figures follow their definitions."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_runs import run_by_hand, trace_of
from hardware_strategies import archs_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program_builder import one_of_each
from program_strategies import programs
from test_reports import LAYER_KEYS, TOTAL_KEYS, assert_golden

import bnhw
from bnhw.cli.console import as_text
from bnhw.count import ActionKind
from bnhw.errors import ArchMismatch, BadInput
from bnhw.hardware.arch import Arch
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.technology_file import load_technology
from bnhw.hardware.trace import MemoryKind
from bnhw.program import Convolve, Join, Program, Requantise, Threshold
from bnhw.reports.definitions import DEFINITIONS
from bnhw.reports.engine import CAUSES
from bnhw.reports.html.report_charts import port_bits, roofline_points
from bnhw.reports.report import build_report
from bnhw.reports.rows import columns, rows, total_row
from bnhw.reports.tables import report_tables

WORK_KEYS = {
    "hardware",
    "cycles",
    "cycles_total",
    "utilisation",
    "macs_executed",
    "border_macs",
    "repeated_macs",
    "idle_macs",
    "reads_bits",
    "writes_bits",
}
ENGINE_TOTAL_KEYS = {
    "latency_us",
    "images_per_second",
    "memory_capacity_bits",
    "memory_needed_bits",
    "multiplications_baseline",
    "weight_bits_baseline",
}
TOP_KEYS = {"format_version", "model", "arch", "tech", "totals", "layers", "steps", "engine", "technology", "warnings"}
SUMMED = ("macs_full", "macs_trimmed", "multipliers_per_image", "weight_bits", "constant_bits")
WORK_SUMMED = ("cycles_total", "macs_executed", "border_macs", "repeated_macs", "idle_macs")

ANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def summed(entries: list[Any], key: str) -> dict[str, float]:
    """The sum of a table of numbers over entries, by its keys."""
    result: Counter[str] = Counter()
    for entry in entries:
        result.update(entry[key])
    return dict(result)


@ANY
@given(programs(), st.integers(0, 1000))
def test_totals_are_the_sums_of_layers_and_of_steps(program: Program, seed: int) -> None:
    report = build_report(program, run_by_hand(program, seed=seed)).as_json()
    totals = report["totals"]
    for entries in (report["layers"], report["steps"]):
        for key in (*SUMMED, *WORK_SUMMED):
            assert totals[key] == sum(entry[key] for entry in entries), key
        for key in ("actions", "cycles", "reads_bits", "writes_bits"):
            found = {name: number for name, number in summed(entries, key).items() if number}
            assert found == {name: number for name, number in totals[key].items() if number}, key
        for end in ("low", "nominal", "high"):
            for part, energy in totals["energy_pj"].items():
                parts = [entry["energy_pj"][part][end] for entry in entries if part in entry.get("energy_pj", {})]
                assert energy[end] == pytest.approx(sum(parts), rel=1e-12)
        assert max(entry["peak_activation_bits"] for entry in entries) == totals["peak_activation_bits"]
    assert totals["cycles_total"] == sum(totals["cycles"].values())
    for entry in (totals, *report["layers"], *report["steps"]):
        components = [e["nominal"] for part, e in entry.get("energy_pj", {}).items() if part != "total"]
        assert sum(components) == pytest.approx(entry.get("energy_pj", {}).get("total", {"nominal": 0})["nominal"])


def test_hardware_of_a_step_is_that_of_the_units_that_work_in_it() -> None:
    report = of_each_on_an_engine().as_json()
    by_kind = {step["kind"]: step["hardware"] for step in report["steps"]}
    lanes = {"add_32": 1, "compare_32": 1}
    arithmetic = {"multiply_32x18": 1, "add_50": 1, "shift_50": 1, "compare_50": 2}
    assert by_kind["sum"] == by_kind["maximum"] == lanes
    assert by_kind["multiply"] == {"multiply_16x16": 1}
    assert by_kind["sum + threshold"] == lanes | {"compare_33": 15}
    assert by_kind["sum + lookup"] == lanes | {"lookup": 1}
    assert by_kind["convolve + arithmetic + add"] == {
        "multiply_8x8": 16,
        "add_32": 16,
        **arithmetic,
        "add_16": 1,
        "compare_17": 2,
    }
    for layer in report["layers"]:
        own = [step["hardware"] for step in report["steps"] if step["instructions"][0] == layer["name"]]
        assert layer["hardware"] == (own[0] if own else {})
    whole = report["totals"]["hardware"]
    assert {name for hardware in by_kind.values() for name in hardware} == set(whole)
    assert whole["add_32"] == 16 + 1


@ANY
@given(programs(), st.booleans())
def test_an_engine_adds_keys_and_changes_none(program: Program, priced: bool) -> None:
    plain = dict(bnhw.report(program).as_json())
    report = build_report(program, run_by_hand(program, priced=priced)).as_json()
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert set(report) == TOP_KEYS
    assert (report["arch"], report["tech"]) == ("engine-16x64", "28nm" if priced else None)
    energy = {"energy_pj"} if priced else set()
    assert set(report["totals"]) == TOTAL_KEYS | WORK_KEYS | ENGINE_TOTAL_KEYS | energy | (
        {"tops_per_watt", "energy_groups_pj"} if priced else set()
    )
    for layer, before in zip(report["layers"], plain["layers"], strict=True):
        assert set(layer) <= LAYER_KEYS | WORK_KEYS | {"steps", "energy_pj"}
        assert {key: layer[key] for key in LAYER_KEYS} == before
    assert {key: report["totals"][key] for key in TOTAL_KEYS} == plain["totals"]


def test_a_join_of_two_steps_is_counted_once() -> None:
    program = one_of_each()
    (join,) = (i.output for i in program.instructions if isinstance(i, Join))
    report = build_report(program, run_by_hand(program))
    layer = next(entry for entry in report.as_json()["layers"] if entry["name"] == join)
    assert layer["steps"] == [join, join]
    own = [step.work.cycles.total for step in report.steps if step.instructions[0] == join]
    assert len(own) == 2
    assert layer["cycles_total"] == sum(own)


@ANY
@given(programs())
def test_the_work_of_a_step_stands_at_its_first_instruction(program: Program) -> None:
    report = build_report(program, run_by_hand(program))
    layers = {layer["name"]: layer for layer in report.as_json()["layers"]}
    for step in report.steps:
        first, *others = step.instructions
        assert layers[first]["cycles_total"] >= step.work.cycles.total > 0
        assert [layers[name]["cycles_total"] for name in others] == [0] * len(others)
        assert all(step.name in layers[name]["steps"] for name in step.instructions)


def test_figures_of_the_whole_follow_their_definitions() -> None:
    run = run_by_hand(one_of_each())
    totals = build_report(one_of_each(), run).as_json()["totals"]
    cycles = totals["cycles_total"]
    assert totals["latency_us"] == pytest.approx(cycles / 200)
    assert totals["images_per_second"] == pytest.approx(200e6 / cycles)
    assert totals["utilisation"] == pytest.approx(totals["macs_trimmed"] / (cycles * 16 * 64)) == run.trace.utilisation
    assert totals["border_macs"] == totals["macs_full"] - totals["macs_trimmed"]
    shares = sum(totals[key] for key in ("macs_full", "repeated_macs", "idle_macs"))
    assert totals["macs_executed"] == shares
    energy, efficiency = totals["energy_pj"]["total"], totals["tops_per_watt"]
    groups = totals["energy_groups_pj"]
    assert set(groups) == {"core", "on_chip_memories", "dram", "leakage"}
    assert sum(group["nominal"] for group in groups.values()) == pytest.approx(energy["nominal"])
    for end, other in (("low", "high"), ("nominal", "nominal"), ("high", "low")):
        assert efficiency[end] == pytest.approx(2 * totals["macs_trimmed"] / energy[other])
    assert efficiency["low"] < efficiency["nominal"] < efficiency["high"]


def test_a_trace_that_leaves_an_instruction_out_is_a_bug() -> None:
    program = one_of_each()
    run = run_by_hand(program)
    short = replace(run, trace=trace_of(program, run.arch, run.trace.steps[:-1]))
    with pytest.raises(AssertionError, match="leaves out"):
        _ = build_report(program, short).steps


@ANY
@given(programs())
def test_the_baseline_multiplies_wherever_a_weight_or_a_gain_can(program: Program) -> None:
    report = bnhw.report(program)
    found = report.headlines
    taps = sum(
        count
        for layer in report.layers
        if isinstance(layer.instruction, Convolve)
        for action, count in layer.counts.actions.items()
        if action.kind in (ActionKind.MUX, ActionKind.XNOR, ActionKind.MULTIPLY)
    )
    sizes = {i.output: program.tensor[i.output].size for i in program.instructions}
    gains = sum(sizes[i.output] for i in program.instructions if isinstance(i, Requantise | Threshold))
    products = sum(sizes[i.output] for i in program.instructions if i.kind == "Multiply")
    assert found.multiplications_baseline == taps + gains + products
    assert found.multiplications == report.totals.multipliers <= found.multiplications_baseline
    assert 0 <= found.multiplications_avoided <= 1
    assert report.totals.weight_bits <= found.weight_bits_baseline <= 8 * report.totals.weight_bits


@ANY
@given(programs(), st.sampled_from(("plain", "engine", "energy")))
def test_the_table_of_a_report_has_the_sums_below_it(program: Program, kind: str) -> None:
    run = None if kind == "plain" else run_by_hand(program, priced=kind == "energy")
    report = build_report(program, run)
    whole = total_row(report)
    for column in columns(report):
        values = [column.value(row) or 0 for row in rows(report)]
        if column.key == "peak_activation_bits":
            assert column.value(whole) == max(values)
        elif column.key != "utilisation":
            assert column.value(whole) == pytest.approx(sum(values), rel=1e-12)
        assert column.key in DEFINITIONS


def test_text_tables_show_every_step_cause_and_component() -> None:
    run = run_by_hand(one_of_each())
    report = build_report(one_of_each(), run)
    text = as_text(report_tables(report))
    lines = [line.split() for line in text.splitlines()]
    for step in report.steps:
        assert any(step.name in line and f"{step.work.cycles.total:,}" in line for line in lines)
    for cause in CAUSES:
        assert cause.replace("_", " ") in text
    for part in run.energy.parts if run.energy else ():
        assert part.value in text
    assert "warning: made by hand" in text
    assert "TOPS/W" in text


ENGINE, TECHNOLOGY = "engine-16x64", "28nm"


def wide_engine() -> Arch:
    """An engine for every kind of instruction, whose blocks fit the narrow tensors of `one_of_each`."""
    return load_arch(f"{ENGINE}-mul8").with_options(name="wide", pe=1, simd=16, lookups=1, product_bits=16)


def of_each_on_an_engine() -> Any:
    """The report of the program with every instruction, on an engine that has all it needs."""
    return bnhw.report(one_of_each(), arch=wide_engine(), tech=TECHNOLOGY)


def test_the_report_on_an_engine_is_that_of_the_golden_file() -> None:
    assert_golden("report_engine.json", json.dumps(of_each_on_an_engine().as_json(), indent=1) + "\n")


def test_the_tables_on_an_engine_are_those_of_the_golden_file() -> None:
    assert_golden("report_engine.txt", as_text(report_tables(of_each_on_an_engine())))


@ANY
@given(st.data())
def test_traces_of_engines_agree_with_the_counts(data: st.DataObject) -> None:
    program = data.draw(programs())
    report = bnhw.report(program, arch=data.draw(archs_for(program)), tech=TECHNOLOGY)
    assert report.engine is not None
    actions: Counter[str] = Counter()
    for step in report.engine.trace.steps:
        actions.update({action.name: count for action, count in step.actions.items()})
    totals = report.as_json()["totals"]
    assert dict(actions) == totals["actions"]
    assert sum(step.macs_trimmed for step in report.engine.trace.steps) == totals["macs_trimmed"]
    assert sum(step.macs_full for step in report.engine.trace.steps) == totals["macs_full"]
    assert min(totals[key] for key in ("border_macs", "repeated_macs", "idle_macs")) >= 0
    assert totals["utilisation"] == pytest.approx(report.engine.trace.utilisation)


def test_ports_of_the_tensor_memories_are_those_of_the_engine() -> None:
    arch = load_arch(ENGINE)
    assert port_bits(arch, MemoryKind.ACTIVATIONS) == 64 * 8 + 16 * 8
    assert port_bits(arch, MemoryKind.RESIDUALS) == 2 * 16 * 16
    two = arch.with_options(memories={"residuals": {"words": 64, "read_ports": 2}})
    assert port_bits(two, MemoryKind.RESIDUALS) == 3 * 16 * 16


@ANY
@given(st.data())
def test_no_convolution_lies_above_the_roofline(data: st.DataObject) -> None:
    program = data.draw(programs())
    run = bnhw.report(program, arch=data.draw(archs_for(program))).engine
    assert run is not None
    roof = roofline_points(run)
    for _, intensity, rate in roof.points:
        assert rate <= roof.peak * (1 + 1e-12)
        assert rate <= intensity * roof.bandwidth * (1 + 1e-12)


def test_engines_and_technologies_are_taken_by_name_file_and_value(tmp_path: Path) -> None:
    text = (Path(bnhw.__file__).parent / "hardware" / "archs" / f"{ENGINE}-mul8.toml").read_text()
    for parameter, value in (("pe", 1), ("simd", 16), ("lookups", 1), ("product_bits", 16)):
        text = re.sub(rf"^{parameter} = \d+$", f"{parameter} = {value}", text, flags=re.MULTILINE)
    file = tmp_path / "wide.toml"
    file.write_text(text)
    given = bnhw.report(one_of_each(), arch=str(file), tech=TECHNOLOGY).as_json()
    assert given == bnhw.report(one_of_each(), arch=file, tech=load_technology(TECHNOLOGY)).as_json()
    assert given == bnhw.report(one_of_each(), arch=load_arch(file), tech=TECHNOLOGY).as_json()
    assert given["arch"] == "wide"
    assert given["totals"] == of_each_on_an_engine().as_json()["totals"]


def test_a_technology_alone_is_refused() -> None:
    with pytest.raises(BadInput, match="a technology prices what happens on an engine; name an engine, too"):
        bnhw.report(one_of_each(), tech=TECHNOLOGY)


def test_unknown_engines_and_technologies_are_refused_with_the_shipped_names() -> None:
    with pytest.raises(BadInput, match="engine-16x64"):
        bnhw.report(one_of_each(), arch="engine-1x1")
    with pytest.raises(BadInput, match="28nm"):
        bnhw.report(one_of_each(), arch=ENGINE, tech="1nm")


def test_an_engine_that_cannot_execute_the_program_is_refused() -> None:
    with pytest.raises(ArchMismatch, match=ENGINE):
        bnhw.report(one_of_each(), arch=ENGINE)
