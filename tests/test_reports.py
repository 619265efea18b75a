"""Reports: keys that never change, numbers that are plain, and text against golden files.

BNHW_UPDATE_GOLDEN=1 writes the golden files anew.
"""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from program_builder import one_of_each
from program_strategies import programs

import bnhw
from bnhw.cli.console import as_text
from bnhw.count import count_program, total
from bnhw.demo.digits import ONNX, load_digits
from bnhw.program import Convolve, Program
from bnhw.reports.report import FORMAT_VERSION, build_report
from bnhw.reports.tables import format_bits, format_shape, program_tables, report_tables
from bnhw.storage import Storage

GOLDEN = Path(__file__).with_name("golden")

COUNT_KEYS = {"macs_full", "macs_trimmed", "actions", "multipliers_per_image", "weight_bits", "constant_bits"}
TOTAL_KEYS = COUNT_KEYS | {"multipliers_in_array_per_image", "peak_activation_bits"}
LAYER_KEYS = COUNT_KEYS | {"name", "kind", "source", "output_shape", "output_type", "peak_activation_bits"}


def assert_golden(name: str, found: str) -> None:
    """Equal to the golden file of that name."""
    path = GOLDEN / name
    if os.environ.get("BNHW_UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_a_report_has_the_agreed_keys_and_plain_values(program: Program) -> None:
    report = bnhw.report(program).as_json()
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert set(report) == {"format_version", "model", "arch", "tech", "totals", "layers"}
    assert report["format_version"] == FORMAT_VERSION == 1
    assert (report["arch"], report["tech"]) == (None, None)
    assert set(report["totals"]) == TOTAL_KEYS
    assert [layer["name"] for layer in report["layers"]] == [i.output for i in program.instructions]
    for layer in report["layers"]:
        assert set(layer) == LAYER_KEYS


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_totals_of_a_report_are_the_sums_of_its_layers(program: Program) -> None:
    report = bnhw.report(program).as_json()
    layers, totals = report["layers"], report["totals"]
    for key in COUNT_KEYS - {"actions"}:
        assert totals[key] == sum(layer[key] for layer in layers)
    actions: Counter[str] = Counter()
    for layer in layers:
        actions.update(layer["actions"])
    assert totals["actions"] == dict(actions)
    assert totals["peak_activation_bits"] == max(layer["peak_activation_bits"] for layer in layers)
    assert totals["peak_activation_bits"] == Storage(program=program).peak_bits
    in_array = sum(layer["multipliers_per_image"] for layer in layers if layer["kind"] == "Convolve")
    assert totals["multipliers_in_array_per_image"] == in_array


def test_a_report_is_the_same_every_time() -> None:
    texts = {json.dumps(build_report(one_of_each()).as_json()) for _ in range(3)}
    assert len(texts) == 1


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_tables_show_every_instruction_and_the_totals(program: Program) -> None:
    totals = total(count_program(program))
    report, info = as_text(report_tables(build_report(program))), as_text(program_tables(program))
    assert f"{totals.macs_full:,} full, {totals.macs_trimmed:,} without padded taps" in report
    for text in (report, info):
        lines = [line.split() for line in text.splitlines()]
        for instruction in program.instructions:
            assert any({instruction.kind, instruction.output} <= set(line) for line in lines)
    weights = sum(program.weight_storage_bits(i) for i in program.instructions if isinstance(i, Convolve))
    assert format_bits(weights) in info


@pytest.mark.parametrize("name", ["report", "info"])
def test_tables_are_those_of_the_golden_files(name: str) -> None:
    program = one_of_each()
    content = program_tables(program) if name == "info" else report_tables(build_report(program))
    assert_golden(f"{name}_one_of_each.txt", as_text(content))


def test_the_report_of_a_program_is_that_of_the_golden_file() -> None:
    assert_golden("report_one_of_each.json", json.dumps(build_report(one_of_each()).as_json(), indent=2) + "\n")


def without_rounding(report: Any) -> Any:
    """The report of a calibrated network without what one unit in the last place of a float may change.

    The largest activation is a float32 sum whose order is numpy's own on each machine; the constants of requantise
    steps, and so their widths, follow from it.
    """
    for counts in (report["totals"], *report["layers"]):
        del counts["constant_bits"]
        kinds: Counter[str] = Counter()
        for name, count in counts["actions"].items():
            kinds[name if name.startswith(("mux", "xnor", "popcount")) else name.split("_")[0]] += count
        counts["actions"] = dict(sorted(kinds.items()))
    return report


def test_the_report_of_the_demo_is_that_of_the_golden_file() -> None:
    pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")
    program = bnhw.compile(ONNX, load_digits().train_images[:200])
    report = json.loads(json.dumps(build_report(program).as_json()))
    assert_golden("report_digits.json", json.dumps(without_rounding(report), indent=1) + "\n")


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "0 bits"),
        (7999, "7,999 bits"),
        (8000, "8,000 bits (1.0 kB)"),
        (268_048, "268,048 bits (33.5 kB)"),
        (8_000_000, "8,000,000 bits (1.0 MB)"),
        (8 * 10**12, "8,000,000,000,000 bits (1000.0 GB)"),
    ],
)
def test_bits_are_given_in_bytes_too(bits: int, text: str) -> None:
    assert format_bits(bits) == text


def test_shapes_are_written_with_crosses() -> None:
    assert format_shape((32, 16, 3)) == "32x16x3"


def test_strides_and_pads_that_differ_are_shown() -> None:
    text = as_text(program_tables(one_of_each()))
    assert "2x2, stride 2, pads 0,0,1,0" in text
    assert "1-bit 1x1, stride 1, pads 0,0,0,0, 2 groups" in text
    assert "5-bit 3x3" in text
    assert "2 divisors" in text
    assert "2 tables of 256" in text
    assert "uint4 @3" in text


def test_files_are_as_wide_as_their_names_need() -> None:
    long = "stage.3.block.17.conv2/Conv/scale/residual/quantised"
    program = one_of_each()
    first, second, *others = program.instructions
    instructions = (replace(first, output=long), replace(second, inputs=(long,)), *others)
    tensors = tuple(replace(tensor, name=long) if tensor.name == "t0" else tensor for tensor in program.tensors)
    text = as_text(report_tables(build_report(replace(program, instructions=instructions, tensors=tensors))))
    assert long in text
    assert max(map(len, text.splitlines())) <= 160
