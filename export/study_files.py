"""The files of a study: scores and costs as CSV to continue from, tables as CSV and Markdown to read."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from bnhw.errors import BadInput
from bnhw.export.paper_cases import Case, Measure, Table
from bnhw.export.study import Cost, Job, Run
from bnhw.export.study_statistics import Summary, summarise
from bnhw.files import write_atomically

Row = TypeVar("Row", Run, Cost)

_PARSERS: Mapping[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: text == "True",
    "float | None": lambda text: float(text) if text else None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One case with what was found: summary None where no seed has been run, or its training diverged."""

    table: Table
    case: Case
    summary: Summary | None
    diverged: int
    cost: Cost | None


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The lines of a file that `write_rows` wrote, none where it is not there. Raises `BadInput` for another file."""
    if not path.exists():
        return []
    columns = {field.name: _PARSERS[_type_name(field.type)] for field in fields(kind)}
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        if list(reader.fieldnames or ()) != list(columns):
            raise BadInput(f"{path}: its columns are {reader.fieldnames}, expected {list(columns)}; use another folder")
        return [kind(**{name: parse(line[name]) for name, parse in columns.items()}) for line in reader]


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def write_rows(path: Path, rows: Sequence[Row], kind: type[Row]) -> None:
    """One line a row under a line of names."""
    _write_csv(path, [field.name for field in fields(kind)], [asdict(row) for row in rows])


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def percent(run: Run, measure: Measure) -> float | None:
    """The run's score as the table has it, in percent; None where the training diverged."""
    part = run.top_5 if measure == "top-5 error" else run.top_1
    if part is None:
        return None
    return 100 * (part if measure == "top-1 accuracy" else 1 - part)


def make_lines(
    table: Table, jobs: Sequence[tuple[Case, Job]], runs: Sequence[Run], costs: Mapping[str, Cost]
) -> list[Line]:
    """Summaries of all cases of a table that have a job; the base is the case of the same group and column."""
    found = {(run.key, run.ensemble, run.crops, run.seed): run for run in runs}
    scores = [_scores(case, job, found, table.measure) for case, job in jobs]
    bases = {(case.group, case.column): own for (case, _), own in zip(jobs, scores, strict=True) if case.base}
    lines = []
    for (case, job), own in zip(jobs, scores, strict=True):
        values = [value for value in own.values() if value is not None]
        summary = _summarise(own, None if case.base else bases.get((case.group, case.column)), table.measure)
        lines.append(
            Line(table=table, case=case, summary=summary, diverged=len(own) - len(values), cost=costs.get(job.key))
        )
    return lines


def _scores(
    case: Case, job: Job, found: Mapping[tuple[str, int, bool, int], Run], measure: Measure
) -> dict[int, float | None]:
    """Percent by seed."""
    return {
        seed: percent(run, measure)
        for (key, ensemble, crops, seed), run in found.items()
        if (key, ensemble, crops) == (job.key, case.ensemble, case.crops)
    }


def _summarise(
    own: Mapping[int, float | None], base: Mapping[int, float | None] | None, measure: Measure
) -> Summary | None:
    """Summary of all seeds; the test is made over the seeds that both have."""
    values = [value for value in own.values() if value is not None]
    if not values:
        return None
    summary = summarise(values)
    shared = [(own[s], base[s]) for s in own if base and own[s] is not None and base.get(s) is not None]
    if len(shared) < 2:
        return summary
    first, second = zip(*shared, strict=True)
    tested = summarise(first, second, higher_is_better=measure == "top-1 accuracy")
    return Summary(runs=summary.runs, mean=summary.mean, deviation=summary.deviation, p_value=tested.p_value)


CSV_COLUMNS = (
    "table", "group", "row", "column", "measure", "published", "runs", "diverged", "mean", "deviation", "p_value",
    "better", "integer_images", "float_accuracy", "integer_accuracy", "multiplications", "additions", "comparisons",
    "multiplexers", "constant_bits", "weight_bits", "problem",
)  # fmt: skip


def write_table_csv(path: Path, lines: Sequence[Line]) -> None:
    """Every case on a line; figures in percent, costs for one image."""
    _write_csv(path, CSV_COLUMNS, [_csv_row(line) for line in lines])


def _csv_row(line: Line) -> dict[str, Any]:
    case, cost, summary = line.case, line.cost, line.summary
    row: dict[str, Any] = {
        "table": line.table.name,
        "group": case.group,
        "row": case.row,
        "column": case.column,
        "measure": line.table.measure,
        "published": case.published,
        "runs": summary.runs if summary else 0,
        "diverged": line.diverged,
    }
    if summary is not None:
        row |= {"mean": summary.mean, "deviation": summary.deviation, "p_value": summary.p_value}
        row["better"] = summary.better
    if cost is not None:
        row |= {"integer_images": cost.images, "float_accuracy": 100 * cost.float_top_1, "problem": cost.problem}
        row["integer_accuracy"] = 100 * cost.integer_top_1
        row |= {name: getattr(cost, name) for name in CSV_COLUMNS if name in COST_COLUMNS}
    return row


COST_COLUMNS = ("multiplications", "additions", "comparisons", "multiplexers", "constant_bits", "weight_bits")


def as_markdown(table: Table, lines: Sequence[Line]) -> str:
    """The table of a paper beside what was found; significantly better results are bold, as in paper 3."""
    head = ["Network", "Row", *([table.column.capitalize()] if table.column else []), "Paper", "Here", "p", "Integers"]
    head += ["Multiplications", "Additions", "Comparisons", "Constant bits", "Weight bits"]
    rows = [_markdown_row(line) for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _markdown_row(line: Line) -> list[str]:
    case, summary, cost = line.case, line.summary, line.cost
    cells = [case.group, case.row, *([case.column] if line.table.column else []), case.published or "-"]
    if summary is None:
        cells += [f"diverged ({line.diverged})" if line.diverged else "not run", "-"]
    else:
        found = f"**{summary}**" if summary.better else str(summary)
        runs = f"{summary.runs}, {line.diverged} diverged" if line.diverged else str(summary.runs)
        cells.append(f"{found} ({runs})")
        cells.append("-" if summary.p_value is None else f"{summary.p_value:.3f}")
    if cost is None or cost.problem:
        return [*cells, cost.problem if cost else "-", *["-"] * 5]
    integers = cost.integer_top_1 - cost.float_top_1
    numbers = (cost.multiplications, cost.additions, cost.comparisons, cost.constant_bits, cost.weight_bits)
    return [*cells, f"{100 * integers:+.2f}", *(f"{number:,}" for number in numbers)]
