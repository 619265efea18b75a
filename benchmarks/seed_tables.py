"""The tables of the four papers at a budget: mean, deviation, significance, and what the compiled networks cost.

    python benchmarks/seed_tables.py --out study --data cifar10=cifar-10-batches-bin --tables 1-I --only "1 bit" \
        --width 0.25 --units 2 --epochs 10 --train-images 10000 --seeds 3

runs rows of table I of paper 1 with networks a quarter as wide, three seeds each. Without --data for a data set its
rows are not run, and the tables say so. `--list` names the tables. The folder keeps everything done: the same command
continues a killed study, with more seeds or tables it does only what is missing. A result that is significantly better
than the base of its group (one-sided paired t-test over the seeds, p < 0.05, as in paper 3) is bold.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bnhw.datasets import load_train_and_test
from bnhw.errors import BnhwError
from bnhw.export.paper_cases import DATASETS, Case, Table
from bnhw.export.papers import TABLES
from bnhw.export.study import Budget, Cost, Images, Job, Run, make_job, measure_cost, run_case, take_evenly
from bnhw.export.study_files import Line, as_markdown, make_lines, read_rows, write_rows, write_table_csv
from bnhw.files import write_atomically


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    text = __doc__ or ""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the study")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), metavar="NAME", help="default: all")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="rows that contain one of these")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="NAME=PATH[,TEST]", help=f"NAME: one of {', '.join(DATASETS)}"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--units", type=int, help="most blocks of one image size")
    parser.add_argument("--side", type=int, help="of the network's input where images are larger")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--integer-images", type=int, default=1000, help="classified by the compiled networks")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--list", action="store_true", help="name the tables and rows, run nothing")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.tables if name not in TABLES]:
        parser.error(f"unknown tables {', '.join(unknown)}; there are {', '.join(TABLES)}")
    if unknown := [one for one in options.data if one.partition("=")[0] not in DATASETS or "=" not in one]:
        parser.error(f"--data {' '.join(unknown)}: expected NAME=PATH with a name among {', '.join(DATASETS)}")
    if options.out is None and not options.list:
        parser.error("--out: the folder of the study is needed")
    if options.seeds < 1:
        parser.error("--seeds: at least 1")
    return options


def chosen_cases(table: Table, only: Sequence[str]) -> list[Case]:
    """The cases of a table whose group, row and column contain one of the texts; bases of their groups as well."""
    if not only:
        return list(table.cases)
    named = {(c.group, c.column) for c in table.cases if any(text in _name(c) for text in only)}
    return [
        case
        for case in table.cases
        if any(text in _name(case) for text in only) or (case.base and (case.group, case.column) in named)
    ]


def _name(case: Case) -> str:
    return ", ".join(filter(None, (case.group, case.row, case.column)))


def load_images(options: argparse.Namespace) -> dict[str, Images]:
    """The data sets of the command line at the study's budget."""
    loaded = {}
    for one in options.data:
        name, _, paths = one.partition("=")
        train, _, test = paths.partition(",")
        pair = load_train_and_test(Path(train), Path(test) if test else None)
        loaded[name] = Images(
            train=take_evenly(pair[0], options.train_images), test=take_evenly(pair[1], options.test_images)
        )
    return loaded


def budget_of(options: argparse.Namespace) -> Budget:
    """The budget of the command line."""
    return Budget(
        epochs=options.epochs,
        width=options.width,
        units=options.units,
        side=options.side,
        precision=options.precision,
        device=options.device,
        integer_images=options.integer_images,
    )


class Study:
    """What is done in a folder, and the way to do more."""

    def __init__(self, options: argparse.Namespace, images: dict[str, Images]) -> None:
        self.options, self.images, self.budget = options, images, budget_of(options)
        self.folder: Path = options.out
        self.folder.mkdir(parents=True, exist_ok=True)
        self.runs = read_rows(self.folder / "runs.csv", Run)
        self.costs = {cost.key: cost for cost in read_rows(self.folder / "costs.csv", Cost)}
        self.tables = [
            (table, [(case, self._job(case)) for case in chosen_cases(table, options.only)])
            for table in (TABLES[name] for name in options.tables)
        ]

    def _job(self, case: Case) -> Job | None:
        images = self.images.get(case.dataset)
        return None if images is None else make_job(case, images, self.budget)

    def run(self) -> None:
        """Everything that is missing: the first seed of all rows, then the second, ..."""
        for seed in range(1, self.options.seeds + 1):
            for table, cases in self.tables:
                for case, job in cases:
                    if job is not None:
                        self._run_one(table, case, job, seed)
        self._write()

    def _run_one(self, table: Table, case: Case, job: Job, seed: int) -> None:
        key = (job.key, seed, case.ensemble, case.crops)
        if key not in {(run.key, run.seed, run.ensemble, run.crops) for run in self.runs}:
            start = time.monotonic()
            print(f"table {table.name}, {_name(case)}, seed {seed}: {job.config.weight_count:,} weights", flush=True)
            self.runs.append(run_case(case, job, self.images[case.dataset], seed, self.folder, self.budget, _say))
            write_rows(self.folder / "runs.csv", self.runs, Run)
            print(f"  {time.monotonic() - start:.0f} s", flush=True)
        if job.key not in self.costs and (self.folder / "checkpoints" / f"{job.key}-1.safetensors").exists():
            self.costs[job.key] = measure_cost(job, self.images[case.dataset], self.folder, self.budget)
            write_rows(self.folder / "costs.csv", list(self.costs.values()), Cost)
        self._write()

    def _write(self) -> None:
        """Both forms of the tables, from what there is so far."""
        parts, every = [_budget_text(self.options, self.images)], []
        runs = [run for run in self.runs if run.seed <= self.options.seeds]
        for table, cases in self.tables:
            lines = make_lines(table, [(c, j) for c, j in cases if j is not None], runs, self.costs)
            every += lines
            parts.append(_table_text(table, cases, lines))
        write_table_csv(self.folder / "tables.csv", every)
        write_atomically(self.folder / "tables.md", "\n\n".join(parts).encode() + b"\n")


def _say(text: str) -> None:
    print(text, flush=True)


def _table_text(table: Table, cases: Sequence[tuple[Case, Job | None]], lines: Sequence[Line]) -> str:
    head = f"## Table {table.name}: {table.title}\n\n"
    head += f"{table.measure.capitalize()} in percent; runs in the paper: {table.runs}."
    absent = sorted({case.dataset for case, job in cases if job is None})
    if absent:
        named = ", ".join(absent)
        head += f"\n\nRows on {named} were not run: no such data was given (`--data {absent[0]}=PATH`)."
    return head + ("\n\n" + as_markdown(table, lines) if lines else "")


def _budget_text(options: argparse.Namespace, images: dict[str, Images]) -> str:
    sets = "; ".join(f"{name}: {len(i.train):,} training and {len(i.test):,} test images" for name, i in images.items())
    changes = [
        f"epochs: {options.epochs or 'as in the paper'}",
        f"up to {options.seeds} seeds" if options.seeds > 1 else "1 seed",
        f"width times {options.width:g}",
        f"at most {options.units} blocks of one image size" if options.units else "full depth",
        f"{options.precision} convolutions in training",
    ]
    return (
        f"Budget: {', '.join(changes)}; {sets or 'no data'}.\n\n"
        "Here: mean ± standard deviation over the seeds, their number in brackets; bold: significantly better than the "
        "base of its group (one-sided paired t-test, p < 0.05). Integers: accuracy of the compiled network (8 bits, "
        f"default options, seed 1) less that of the float network, in points, on at most {options.integer_images:,} "
        "test images. Operations are those of one image, bits those of the whole network."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parse_options(arguments)
    if options.list:
        for name in options.tables:
            table = TABLES[name]
            print(f"{name}: {table.title}; {table.measure}")
            for case in chosen_cases(table, options.only):
                print(f"  {_name(case)} ({case.dataset}, published {case.published or '-'})")
        return
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        images = load_images(options)
        study = Study(options, images)
        study.run()
    except BnhwError as error:
        raise SystemExit(f"error: {error}") from error
    print((options.out / "tables.md").read_text())


if __name__ == "__main__":
    main()
