"""What does each network of the papers cost in integers, with and without batch norm, with 1-bit and 8-bit weights?

    python benchmarks/op_counts.py --out op-counts [--papers 1] [--networks wrn-20-4 wrn-20-10] [--only "Baseline 1"]
        [--requantise multiply:16 auto] [--act-bits 8] [--arch engine-16x64 --technology 28nm]

builds every network at its full size, compiles it, and counts the operations and the storage of one image. Each
normalisation has two rows: 1-bit weights, and float weights rounded to 8 bits. Weights are random: counts follow from
shapes, widths and constants, and no image is classified. So that no constant is 1 or 0 by luck of an initial value,
gains and shifts are spread at random, and batch norms hold the statistics of one batch. Calibrated on a few random
images. Requantise mode `auto` is not allowed to multiply here. The shifted-ReLU networks of paper 1 have one more row,
whose weight scales and pool divisors are powers of two. With `--arch` cycles and energy come along, on engines of that
size with multiplexers for 1-bit weights, multipliers for 8-bit ones, and the requantise unit that the mode needs.

The folder keeps compiled programs (`*.bnhw`) and rows (`rows.jsonl`, one each, appended as it is done): the same
command continues where it was stopped. `op-counts.json` and `op-counts.md` are written after every row.
"""

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from op_counts_hardware import run_hardware
from op_counts_networks import Job, build_program, list_jobs
from op_counts_tables import as_markdown, with_twins

from bnhw.count import ActionKind, Counts, count_program, total
from bnhw.errors import BnhwError
from bnhw.files import write_atomically
from bnhw.options import CompileOptions, options_as_text
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    LookUp,
    Multiply,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Threshold,
)
from bnhw.program_file import load_program
from bnhw.storage import Storage

PARTS: Mapping[type[Instruction], str] = {
    Convolve: "array",
    Requantise: "requantise",
    Threshold: "requantise",
    LookUp: "requantise",
    Multiply: "products",
    SumGlobal: "pools",
    PoolSum: "pools",
    PoolMaximum: "pools",
    AddSaturating: "residual",
}
"""The part of an engine that an instruction keeps busy; the others only move codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Operations and storage bits; multiplier_bits and adder_bits weigh each with its operands' widths.

    A multiplier of a by b bits counts a * b, about the full adders in it; an adder of n bits counts n.
    """

    macs: int
    multiplications: int
    multiplier_bits: int
    additions: int
    adder_bits: int
    comparisons: int
    multiplexers: int
    lookups: int
    shifts: int
    constant_bits: int
    weight_bits: int


def cost_of(counts: Counts) -> Cost:
    """The operations of some instructions, by kind."""
    number: Counter[ActionKind] = Counter()
    bits: Counter[ActionKind] = Counter()
    for action, count in counts.actions.items():
        number[action.kind] += count
        bits[action.kind] += count * int(np.prod(action.widths))
    return Cost(
        macs=counts.macs_full,
        multiplications=number[ActionKind.MULTIPLY],
        multiplier_bits=bits[ActionKind.MULTIPLY],
        additions=number[ActionKind.ADD],
        adder_bits=bits[ActionKind.ADD],
        comparisons=number[ActionKind.COMPARE],
        multiplexers=number[ActionKind.MUX] + number[ActionKind.XNOR],
        lookups=number[ActionKind.LOOKUP],
        shifts=number[ActionKind.SHIFT],
        constant_bits=counts.constant_bits,
        weight_bits=counts.weight_bits,
    )


def parts_of(program: Program) -> Iterator[dict[str, Any]]:
    """The cost of every part of the engine at every size of image, in the order of the program."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for layer in count_program(program):
        height, width, _ = program.tensor[layer.instruction.output].shape
        part = PARTS.get(type(layer.instruction))
        if part is not None:
            groups.setdefault((f"{height}x{width}", part), []).append(layer)
    for (image, part), layers in groups.items():
        yield {"image": image, "part": part, **asdict(cost_of(total(tuple(layers))))}


def make_row(job: Job, options: CompileOptions, program: Program) -> dict[str, Any]:
    """Everything counted on one program, as plain values."""
    return {
        **job.description,
        "requantise": options.requantise,
        "options": options_as_text(options),
        "totals": asdict(cost_of(total(count_program(program)))),
        "peak_activation_bits": Storage(program=program).peak_bits,
        "parts": list(parts_of(program)),
        "problem": "",
    }


class Study:
    """What is done in a folder, and the way to do more."""

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.images = folder, images
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "rows.jsonl"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, filter(None, lines))}
        self.hardware: dict[str, dict[str, Any]] = {}

    def key(self, job: Job, options: CompileOptions) -> str:
        """Names a row's files: two rows that differ have two keys."""
        what = (job.name, job.config, options_as_text(options), self.images)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:12]

    def run(self, wanted: Sequence[tuple[Job, CompileOptions]]) -> None:
        """Everything that is missing, in this order. The time left follows from the weights done."""
        missing = [one for one in wanted if self.key(*one) not in self.rows]
        print(f"{len(wanted)} rows, {len(wanted) - len(missing)} of them done", flush=True)
        begin, done, weight = time.monotonic(), 0, sum(job.config.weight_count for job, _ in missing)
        for number, (job, options) in enumerate(missing, start=1):
            start = time.monotonic()
            row = {"key": self.key(job, options), **self._row(job, options)}
            row["seconds"] = round(time.monotonic() - start, 1)
            self.rows[row["key"]] = row
            with self.file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            self.write(wanted)
            done += job.config.weight_count
            left = (time.monotonic() - begin) / done * (weight - done) / 60
            told = row["problem"] or f"{row['totals']['multiplications']:,} multiplications"
            name = f"{job.name}, {options.requantise}"
            print(f"{number}/{len(missing)} {name}: {told}, {row['seconds']} s, {left:.1f} min left", flush=True)
        self.write(wanted)

    def run_on(self, wanted: Sequence[tuple[Job, CompileOptions]], arch: str, technology: str) -> None:
        """Cycles and energy of all rows. Raises `BadInput` for an engine or a technology that is not there."""
        rows = [(self.rows[self.key(*one)], partial(self.program, *one)) for one in wanted]
        self.hardware = run_hardware(self.folder, rows, arch, technology)
        self.write(wanted)

    def program(self, job: Job, options: CompileOptions) -> Program:
        """The compiled network, from its file where there is one. Raises `BnhwError` where it does not compile."""
        path = self.folder / f"{self.key(job, options)}.bnhw"
        if path.exists():
            return load_program(path)
        program = build_program(job, options, self.images, path.with_suffix(".onnx"))
        program.save(path)
        return program

    def _row(self, job: Job, options: CompileOptions) -> dict[str, Any]:
        try:
            return make_row(job, options, self.program(job, options))
        except BnhwError as error:
            problem = " ".join(str(error).split())
            return {**job.description, "requantise": options.requantise, "problem": problem}

    def write(self, wanted: Iterable[tuple[Job, CompileOptions]]) -> None:
        """Both forms of the tables, from what is done of these rows."""
        keys = [key for key in (self.key(*one) for one in wanted) if key in self.rows]
        rows = with_twins([{**self.rows[key], **self.hardware.get(key, {})} for key in keys])
        write_atomically(self.folder / "op-counts.json", json.dumps(rows, indent=1).encode() + b"\n")
        write_atomically(self.folder / "op-counts.md", as_markdown(rows).encode())


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of programs, rows and tables")
    parser.add_argument("--papers", type=int, nargs="+", default=[1], help="default: 1")
    parser.add_argument("--networks", nargs="+", default=[], metavar="NAME", help="networks by name; default: all")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="rows whose name holds one of these")
    parser.add_argument("--act-bits", type=int, default=8)
    parser.add_argument("--requantise", nargs="+", default=["multiply:16", "auto"], metavar="MODE")
    parser.add_argument("--images", type=int, default=4, help="of the batch that sets statistics and ranges")
    parser.add_argument("--arch", help="engine whose size is used, by name or file; without it no cycles")
    parser.add_argument("--technology", default="28nm")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--list", action="store_true", help="name the networks, run nothing")
    options = parser.parse_args(arguments)
    if options.out is None and not options.list:
        parser.error("--out: the folder of the counts is needed")
    if options.images < 2:
        parser.error("--images: at least 2, for statistics")
    return options


def chosen_jobs(options: argparse.Namespace) -> list[Job]:
    """The networks that the command line asks for; raises SystemExit where there is none."""
    jobs = [
        job
        for job in list_jobs()
        if job.paper in options.papers
        and (not options.networks or job.network.split(",")[0] in options.networks)
        and (not options.only or any(text in job.name for text in options.only))
    ]
    if not jobs:
        raise SystemExit("error: no network has these papers, names and texts; --list shows what there is")
    return jobs


def compile_options(mode: str, act_bits: int) -> CompileOptions:
    """The options of a row: only mode `multiply` may multiply. Raises `BadInput`."""
    return CompileOptions(act_bits=act_bits, requantise=mode, multipliers=mode.startswith("multiply"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parse_options(arguments)
    jobs = chosen_jobs(options)
    if options.list:
        print("\n".join(job.name for job in jobs))
        return
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        modes = [compile_options(mode, options.act_bits) for mode in options.requantise]
        wanted = [(job, mode) for mode in modes for job in jobs]
        study = Study(options.out, options.images)
        study.run(wanted)
        if options.arch:
            study.run_on(wanted, options.arch, options.technology)
    except BnhwError as error:
        raise SystemExit(f"error: {error}") from error
    print((options.out / "op-counts.md").read_text())


if __name__ == "__main__":
    main()
