"""The study of the papers' tables: statistics, files, and tables run in small."""

import csv
import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")
stats = pytest.importorskip("scipy.stats", reason="the t-test is scipy's")

from bnhw.compiler import compile_model  # noqa: E402 - after the skip
from bnhw.datasets import load_train_and_test  # noqa: E402
from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.checkpoints import load_checkpoint  # noqa: E402
from bnhw.export.paper_cases import Case, Table  # noqa: E402
from bnhw.export.papers import TABLES  # noqa: E402
from bnhw.export.reduction import first_channels, reduce_network  # noqa: E402
from bnhw.export.study import Budget, Cost, Images, Job, Run, make_job, take_evenly  # noqa: E402
from bnhw.export.study_files import as_markdown, make_lines, read_rows, write_rows  # noqa: E402
from bnhw.export.study_statistics import compare_pairs, summarise  # noqa: E402
from bnhw.export.to_onnx import to_onnx  # noqa: E402
from bnhw.reports.report import build_report  # noqa: E402

ROOT = Path(__file__).parent.parent
BETTER, WORSE = [90.1, 90.4, 90.9, 90.3], [89.2, 89.9, 89.6, 89.5]


def seed_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("seed_tables", ROOT / "benchmarks" / "seed_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    summary = summarise([1.0, 2.0, 6.0])
    assert summary.mean == 3.0
    assert summary.deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert (summary.runs, summary.p_value, summary.better) == (3, None, False)
    assert str(summary) == "3.00 ± 2.65"
    assert str(summarise([4.0])) == "4.00"


def test_p_is_that_of_students_t_of_the_differences() -> None:
    differences = np.subtract(BETTER, WORSE)
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(len(differences)))
    expected = float(stats.t.sf(t, len(differences) - 1))
    assert summarise(BETTER, WORSE).p_value == pytest.approx(expected)
    assert expected < 0.05
    assert summarise(WORSE, BETTER).p_value == pytest.approx(1 - expected)
    assert summarise(WORSE, BETTER, higher_is_better=False).p_value == pytest.approx(expected)


def test_pairing_counts() -> None:
    """The same scores against the base's in another order are less sure."""
    assert compare_pairs([1.0, 2.0, 3.0, 4.1], [0.9, 1.8, 2.9, 3.8]) < 0.05
    assert compare_pairs([1.0, 2.0, 3.0, 4.1], [3.8, 2.9, 1.8, 0.9]) > 0.05


@pytest.mark.parametrize(("difference", "expected"), [(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0)])
def test_equal_differences_have_no_variance(difference: float, expected: float) -> None:
    assert compare_pairs([3.0 + difference, 4.0 + difference], [3.0, 4.0]) == expected


def test_one_run_is_never_significant() -> None:
    assert not summarise([99.0], [1.0]).better


def test_scores_without_partners_are_refused() -> None:
    with pytest.raises(ValueError, match="as many are needed"):
        summarise([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="0 scores"):
        summarise([])


TABLE = TABLES["3-1"]
CASES: dict[str, Case] = {case.row: case for case in TABLE.cases if case.column == "0.1"}


def lines_of(scores: dict[str, list[float | None]], table: Table = TABLE) -> list[Any]:
    """Lines of rows of table 3-1 with these accuracies in percent of seeds 1, 2, ..."""
    config = TABLE.cases[0].system.config(side=32, classes=10)
    jobs = [(CASES[row], Job(key=row, config=config, recipe=CASES[row].recipe)) for row in scores]
    runs = [
        Run(key=row, seed=seed, ensemble=1, crops=False, train_accuracy=None, top_5=None, seconds=1.0, top_1=part)
        for row, values in scores.items()
        for seed, part in enumerate((None if v is None else v / 100 for v in values), 1)
    ]
    return make_lines(table, jobs, runs, {})


def test_a_significant_result_is_bold_and_no_other_one() -> None:
    lines = lines_of({"0.10": [*BETTER], "0.05": [*WORSE], "0.50": [89.9, 89.5, 89.9, 89.8], "BASE": [*WORSE]})
    assert 0.1 < lines[2].summary.p_value < 0.3
    assert [line.summary.better for line in lines] == [True, False, False, False]
    marked = as_markdown(TABLE, lines).splitlines()[2:]
    assert ["**" in line for line in marked] == [True, False, False, False]
    assert "**90.42 ± 0.34** (4)" in marked[0]
    assert lines[3].summary.p_value is None


def test_every_table_of_the_papers_is_there_with_one_base_a_group() -> None:
    numbers = {1: ("I", "II", "III"), 2: range(1, 7), 3: range(1, 7), 4: range(4, 8)}
    assert list(TABLES) == [f"{paper}-{number}" for paper, those in numbers.items() for number in those]
    for table in TABLES.values():
        cells = [(case.group, case.row, case.column) for case in table.cases]
        assert len(set(cells)) == len(cells)
        bases = [(case.group, case.column) for case in table.cases if case.base]
        assert len(set(bases)) == len(bases)
        if table.name != "2-3":  # it compares two clipping thresholds with each other
            assert set(bases) == {(case.group, case.column) for case in table.cases}


def test_less_error_is_better_where_a_table_holds_errors() -> None:
    errors = replace(TABLE, measure="top-1 error")
    (line, _) = lines_of({"0.10": [*BETTER], "BASE": [*WORSE]}, errors)
    assert line.summary.mean == pytest.approx(100 - np.mean(BETTER))
    assert line.summary.better


def test_the_test_is_made_over_the_seeds_that_both_have() -> None:
    own: list[float | None] = [*BETTER, 10.0]
    (line, _) = lines_of({"0.10": own, "BASE": [*WORSE, None]})
    assert line.summary.runs == 5
    assert line.summary.p_value == pytest.approx(compare_pairs(BETTER, WORSE))


def test_diverged_runs_are_counted_and_not_averaged() -> None:
    lines = lines_of({"0.10": [90.0, None, 92.0], "0.05": [None, None], "BASE": [*WORSE]})
    assert (lines[0].summary.mean, lines[0].diverged) == (pytest.approx(91.0), 1)
    text = as_markdown(TABLE, lines)
    assert "(2, 1 diverged)" in text
    assert "diverged (2)" in text


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    run = Run(key="a", seed=2, ensemble=3, crops=True, train_accuracy=None, top_1=1 / 3, top_5=None, seconds=0.1)
    costs = [Cost(key="a", additions=3, float_top_1=0.1), Cost(key="b", problem='no, "really"')]
    write_rows(tmp_path / "runs.csv", [run, replace(run, crops=False)], Run)
    write_rows(tmp_path / "costs.csv", costs, Cost)
    assert read_rows(tmp_path / "runs.csv", Run) == [run, replace(run, crops=False)]
    assert read_rows(tmp_path / "costs.csv", Cost) == costs
    assert read_rows(tmp_path / "none.csv", Cost) == []
    with pytest.raises(BadInput, match="use another folder"):
        read_rows(tmp_path / "runs.csv", Cost)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """12 x 12 images of ten classes, 40 to train on and 20 to test, sorted by class."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 40), ("test", 20)):
        labels = np.arange(count) * 10 // count
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
        noise = random.integers(0, 120, (count, 12, 12, 3))
        arrays[f"{split}_images"] = (noise + 12 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "images.npz", **arrays)
    return tmp_path / "images.npz"


SMALL = ("--width", "0.0625", "--units", "1", "--epochs", "1", "--side", "8", "--threads", "1")


def read_lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_table_in_small_holds_the_scores_of_its_runs_and_the_costs_of_its_programs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    only = ("--only", "wrn-20-4, 1 bit weights, sReLU", "--tables", "1-I", "1-II")
    arguments = ["--out", str(out), "--data", f"cifar10={data}", *only, *SMALL, "--seeds", "2", "--epochs", "1"]
    seed_tables().main(arguments)
    printed = capsys.readouterr().out
    assert "Rows on cifar100 were not run" in printed
    lines = {(line["group"], line["row"]): line for line in read_lines(out / "tables.csv")}
    assert [row for group, row in lines if group.startswith("wrn-20-4,")] == ["Baseline 1", "sReLU only"]
    runs = read_rows(out / "runs.csv", Run)
    assert len(runs) == 2 * len(lines) == 4
    base, own = (lines["wrn-20-4, 1 bit weights", row] for row in ("Baseline 1", "sReLU only"))
    jobs = dict.fromkeys(run.key for run in runs)
    found = [[100 * (1 - (run.top_1 or 0)) for run in runs if run.key == key] for key in jobs]
    assert float(own["mean"]) == pytest.approx(np.mean(found[1]))
    assert float(own["deviation"]) == pytest.approx(np.std(found[1], ddof=1))
    assert float(own["p_value"]) == pytest.approx(compare_pairs(found[0], found[1]))
    assert base["p_value"] == ""
    check_cost(own, out / "checkpoints" / f"{list(jobs)[1]}-1.safetensors", data, tmp_path)
    continue_without_training_again(out, arguments, capsys)


def check_cost(line: dict[str, str], checkpoint: Path, data: Path, folder: Path) -> None:
    network = load_checkpoint(checkpoint)
    to_onnx(network, folder / "net.onnx", input_shape=(3, 8, 8))
    train, _ = load_train_and_test(data)
    totals = build_report(compile_model(folder / "net.onnx", train.images[:, 2:-2, 2:-2])).totals
    assert int(line["multiplications"]) == totals.multipliers
    assert int(line["weight_bits"]) == totals.weight_bits
    assert int(line["constant_bits"]) == totals.constant_bits
    additions = sum(count for action, count in totals.actions.items() if action.name.startswith("add"))
    assert int(line["additions"]) == additions > 0


def continue_without_training_again(out: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = (out / "tables.csv").read_bytes()
    runs = read_rows(out / "runs.csv", Run)
    write_rows(out / "runs.csv", runs[:-1], Run)
    trained = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()}
    last = max(trained, key=lambda path: trained[path])
    last.unlink()
    seed_tables().main(arguments)
    again = capsys.readouterr().out
    assert again.count("epoch 1/1") == 1
    assert (out / "tables.csv").read_bytes() == before
    changed = {path for path, time in trained.items() if path.stat().st_mtime_ns != time}
    assert changed == {last}


def test_ensembles_and_crops_are_scored_from_the_networks_that_were_trained(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    arguments = ["--out", str(out), "--data", f"imagenet={data}", "--only", "3 x wrn-18-1, 1 bit weights, Baseline"]
    seed_tables().main([*arguments, "--tables", "1-III", *SMALL])
    assert len(list((out / "checkpoints").glob("*.safetensors"))) == 3
    lines = read_lines(out / "tables.csv")
    assert [line["column"] for line in lines] == ["centre crop", "multi crop"]
    assert all(line["mean"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--out", "x", "--tables", "5-1"], "unknown tables 5-1"),
        (["--out", "x", "--data", "mnist=y"], "expected NAME=PATH"),
        (["--tables", "1-I"], "--out"),
        (["--out", "x", "--seeds", "0"], "at least 1"),
    ],
)
def test_bad_options_are_named(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        seed_tables().main(arguments)
    assert expected in capsys.readouterr().err


def test_the_list_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    seed_tables().main(["--list"])
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in TABLES)


def test_networks_become_smaller_and_stay_what_they_are() -> None:
    for table in TABLES.values():
        for case in table.cases:
            config = case.system.config(side=case.side, classes=10)
            small = reduce_network(config, width=0.25, units=1)
            assert first_channels(small) == first_channels(config) / 4
            assert small.weight_count < config.weight_count / 4
            assert reduce_network(config) == config
    with pytest.raises(BadInput, match="above 0"):
        reduce_network(config, units=0)


def test_images_are_taken_evenly(data: Path) -> None:
    train, _ = load_train_and_test(data)
    assert take_evenly(train, 20).labels.tolist() == sorted([*range(10)] * 2)
    assert take_evenly(train, None) is take_evenly(train, 40) is train


def test_jobs_that_differ_have_keys_that_differ(data: Path) -> None:
    train, test = load_train_and_test(data)
    images = Images(train=train, test=test)
    case = TABLES["3-1"].cases[0]
    budgets = [Budget(), Budget(epochs=3), Budget(width=0.5), Budget(units=1), Budget(precision="bfloat16")]
    jobs = [make_job(case, images, budget) for budget in budgets]
    jobs += [make_job(case, Images(train=take_evenly(train, 30), test=test), Budget())]
    jobs += [make_job(other, images, Budget()) for other in TABLES["3-1"].cases[1:]]
    assert len({job.key for job in jobs}) == len(jobs)


def test_offline_statistics_are_those_of_the_training_images(data: Path) -> None:
    train, test = load_train_and_test(data)
    case = next(case for case in TABLES["1-I"].cases if case.row == "sReLU only")
    config = make_job(case, Images(train=train, test=test), Budget()).config
    assert config.to_json()["input_mean"] == pytest.approx(train.images.mean(axis=(0, 1, 2)), abs=1e-4)
