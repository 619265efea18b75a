"""The documentation is true: its commands run, its tables are those of the code, its figures are measured."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engine_runs import run_by_hand
from program_builder import one_of_each

from bnhw.datasets import DATASETS
from bnhw.demo.flow import DemoOutcome, run_demo
from bnhw.demo.table import ROWS
from bnhw.image_files.content import SPLITS
from bnhw.image_files.formats import FORMATS
from bnhw.image_files.layouts import LAYOUTS
from bnhw.options import CompileOptions, RequantiseMode
from bnhw.passes.pipeline import float_passes
from bnhw.program import FORMAT_VERSION, INSTRUCTIONS
from bnhw.reports.definitions import DEFINITIONS
from bnhw.reports.report import build_report

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
REPORTS = (ROOT / "docs" / "reports.md").read_text()
STUDY = (ROOT / "docs" / "seed-tables.md").read_text()
COUNTS = (ROOT / "docs" / "op-counts.md").read_text()
ENERGY = (ROOT / "docs" / "energy.md").read_text()
SEMANTICS = (ROOT / "docs" / "integer-semantics.md").read_text()


def table_after(text: str, marker: str) -> list[list[str]]:
    """The rows of the Markdown table behind `<!-- marker -->`, without its head."""
    lines = text.split(f"<!-- {marker} -->\n")[1].splitlines()
    rows = lines[: lines.index("")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def commands(text: str) -> list[str]:
    """What follows `$ ` in console blocks."""
    return [
        line[2:]
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoOutcome]:
    pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")
    folder = tmp_path_factory.mktemp("readme")
    return folder, run_demo(folder / "bnhw-demo", lambda _: None)


def test_commands_of_the_readme_run_as_they_stand(demo: tuple[Path, DemoOutcome]) -> None:
    pytest.importorskip("torch", reason="bnhw train needs torch")
    own = [command for command in commands(README) if command.startswith("bnhw ")]
    assert len(own) == 14
    for command in own:
        if "--against rtl" in command and shutil.which("verilator") is None:
            continue
        program = [sys.executable, "-c", "from bnhw.cli import main; main()", *shlex.split(command)[1:]]
        done = subprocess.run(program, cwd=demo[0], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_savings_in_the_readme_are_those_of_the_counted_networks() -> None:
    """Rows of docs/op-counts.md, which `benchmarks/op_counts.py` writes."""
    mode = COUNTS.split("## Requantise mode `auto`")[1].split("\n## ")[0]
    counted: dict[tuple[str, str], list[list[str]]] = {}
    for line in mode.splitlines():
        network, name, weights, *rest = [cell.strip() for cell in line.strip("|").split("|")] + [""] * 3
        if network == "wrn-20-10" and weights in ("1 bit", "8 bit"):
            counted.setdefault((name, weights), []).append(rest)
    names = {"batch norm": "Baseline 1", "shifted ReLU, powers of two": "sReLU only, powers of two"}
    rows = table_after(README, "saving table")
    assert len(rows) == 3
    for name, weights, *figures in rows:
        counts, costs = counted[names[name], weights]
        outside, additions, constants, weight_bits = counts[2], counts[3], counts[6], counts[7]
        assert outside == "0"
        assert figures == [counts[0], additions, constants, weight_bits, costs[0], costs[5]]


def test_make_commands_of_the_readme_are_targets_that_ci_calls() -> None:
    targets = [command.split()[1] for command in commands(README) if command.startswith("make ")]
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_python_of_the_readme_runs_as_it_stands(demo: tuple[Path, DemoOutcome]) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    printed = io.StringIO()
    before = Path.cwd()
    os.chdir(demo[0])
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "README.md", "exec"), {})  # noqa: S102  (our own text)
    finally:
        os.chdir(before)
    accuracy, *_, multiplications, cycles = printed.getvalue().split()
    assert float(accuracy) > 0.98
    assert (multiplications, cycles) == ("0", "8290")


def test_demo_table_of_the_readme_is_what_the_demo_prints(demo: tuple[Path, DemoOutcome]) -> None:
    printed = {name: [value(outcome) for outcome in demo[1].outcomes] for name, value in ROWS}
    rows = table_after(README, "demo table")
    assert rows
    for name, *cells in rows:
        assert cells == printed[name]


def test_pass_table_is_the_pipeline_in_its_order() -> None:
    names = [row[0].strip("`") for row in table_after(ARCHITECTURE, "pass table")]
    assert names == [type(step).__name__ for step in float_passes(CompileOptions())]


def test_instruction_table_is_complete_and_in_order() -> None:
    assert [row[0].strip("`") for row in table_after(SEMANTICS, "instruction table")] == list(INSTRUCTIONS)


def test_mode_table_is_complete() -> None:
    names = {row[0].strip("`") for row in table_after(SEMANTICS, "mode table")}
    assert names == {mode.value for mode in RequantiseMode}


def test_image_table_is_the_table_of_formats() -> None:
    assert [row[0] for row in table_after(README, "image table")] == [kind.name for kind in FORMATS]


def test_data_set_table_names_every_data_set_and_files_that_are_looked_for() -> None:
    rows = table_after(README, "data set table")
    assert [row[0] for row in rows] == list(DATASETS)
    for name, *cells in rows:
        for split, cell in zip(SPLITS, cells, strict=True):
            known = {file for layout in LAYOUTS if layout.dataset == name for file in layout.files(split)}
            assert set(re.findall(r"`(\w[^`]*)`", cell)) <= known


def test_system_table_is_what_the_tables_of_the_papers_hold() -> None:
    pytest.importorskip("torch", reason="bnhw.export needs torch")
    from bnhw.export.papers import describe_systems

    assert [tuple(row) for row in table_after(README, "system table")] == list(describe_systems())


def test_published_figures_of_the_study_are_those_of_the_papers() -> None:
    pytest.importorskip("torch", reason="bnhw.export needs torch")
    from bnhw.export.papers import TABLES

    known = {(case.group, case.row, case.published or "-") for table in TABLES.values() for case in table.cases}
    rows = [line.strip("| ").split(" | ")[:3] for line in STUDY.splitlines() if line.startswith("| wrn")]
    assert rows
    assert {tuple(row) for row in rows} <= known


def test_format_version_of_the_documentation_is_the_code_s() -> None:
    assert f"Format version: {FORMAT_VERSION}." in SEMANTICS


@pytest.mark.parametrize(
    "text", [README, ARCHITECTURE, SEMANTICS, ENERGY, REPORTS, (ROOT / "CONTRIBUTING.md").read_text()]
)
def test_files_that_the_documentation_names_exist(text: str) -> None:
    named = set(re.findall(r"[`(]((?:bnhw|kernels|export|tests|docs|benchmarks)/[\w./-]+\.(?:py|md|toml))[`)]", text))
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing


def test_definition_table_is_what_pages_say_on_hover() -> None:
    rows = [tuple(row) for row in table_after(REPORTS, "definition table")]
    assert rows == [(d.name, d.unit, d.text) for d in DEFINITIONS.values()]


def test_every_key_of_a_report_is_documented() -> None:
    report = build_report(one_of_each(), run_by_hand(one_of_each())).as_json()
    keys = {*report, *report["totals"], *report["layers"][0], *report["steps"][0]}
    assert keys <= set(re.findall(r"`(\w+)`", REPORTS))
