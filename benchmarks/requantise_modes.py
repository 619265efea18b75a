"""What do fewer bits and cheaper constants cost, and save? Every requantise mode at every width, on one network.

    python benchmarks/requantise_modes.py MODEL.onnx --data FOLDER [--bits 8,4] [--modes csd:2,auto] [--limit N]

MODEL.onnx is one of the published CIFAR-10 networks (`bnhw export FILE.mat -o MODEL.onnx`), FOLDER holds the image
sets. Calibrated on the first 200 lossless training images; compared with the float model under onnxruntime on 1000
images of the JPEG test set (random, seed 0) and on 1020 lossless images: training images 1000 to 1999 and the 20 test
images.
Multiplications, adders and comparators are those of requantise steps for one image; a convolution of 1-bit weights has
no multiplier. `auto` is not allowed to multiply.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bnhw.compare import measure_fidelity
from bnhw.compiler import calibration_images
from bnhw.count import ActionKind, count_program, total
from bnhw.dtypes import Array
from bnhw.graph import Graph
from bnhw.graph_onnx import GraphRunner
from bnhw.importer import import_onnx, read_onnx
from bnhw.lower import lower
from bnhw.machine import Machine
from bnhw.options import CompileOptions
from bnhw.passes.base import run_passes
from bnhw.passes.calibrate import Calibration, calibrate
from bnhw.passes.pipeline import float_passes
from bnhw.passes.scales import ChooseScales
from bnhw.program import Convolve, Program, Provenance
from bnhw.program_check import check_program

BATCH = 20
CALIBRATION_IMAGES = 200
TEST_IMAGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images, their labels (None where not all are known), and the float logits."""

    name: str
    pixels: Array
    labels: Array | None
    logits: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program: agreement and accuracy in per cent, costs of the requantise steps for one image."""

    bits: int
    mode: str
    ranges: str
    agreement: dict[str, float]
    accuracy: dict[str, float]
    float_accuracy: dict[str, float]
    multiplications: int
    adders: int
    comparators: int
    constant_bits: int


def float_logits(graph: Graph, pixels: Array) -> Array:
    """The logits of the float graph under onnxruntime, batch by batch."""
    (output,) = graph.outputs
    runner = GraphRunner(graph, [output])
    parts = [runner.run(calibration_images(graph, pixels[at : at + BATCH])) for at in range(0, len(pixels), BATCH)]
    return np.concatenate([part[output].reshape(len(part[output]), -1) for part in parts])


def load_sets(folder: Path, graph: Graph, limit: int) -> tuple[Array, list[ImageSet]]:
    """Calibration images, and the two sets that programs are compared on, the first `limit` images of each."""
    train = np.load(folder / "cifar10_train_first4000_lossless.npz")
    jpeg = np.load(folder / "cifar10_test_jpegq75_decoded.npz")
    first = np.load(folder / "cifar10_test_first20_lossless.npz")
    chosen = np.random.default_rng(0).choice(len(jpeg["images"]), TEST_IMAGES, replace=False)
    clean = slice(1000, 1000 + TEST_IMAGES)
    sets = {
        "jpeg": (jpeg["images"][chosen], jpeg["labels"][chosen]),
        "lossless": (
            np.concatenate([train["images"][clean], first["images"]]),
            np.concatenate([train["labels"][clean], first["labels"]]),
        ),
    }
    return train["images"][:CALIBRATION_IMAGES], [
        ImageSet(
            name=name,
            pixels=pixels[:limit],
            labels=labels[:limit],
            logits=float_logits(graph, pixels[:limit]),
        )
        for name, (pixels, labels) in sets.items()
    ]


def build(placed: Graph, calibration: Calibration, options: CompileOptions) -> Program:
    """The program under some options; calibration is shared by all."""
    quantised = run_passes(placed, (ChooseScales(calibration=calibration, options=options),))
    origin = Provenance(producer="benchmark", source_name=placed.name, source_sha256="0" * 64, options={})
    program = lower(quantised, origin)
    check_program(program)
    return program


def measure(program: Program, options: CompileOptions, sets: Iterable[ImageSet], threads: int) -> Row:
    """Run one program on all sets and count it."""
    machine = Machine(program)
    agreement, accuracy, float_accuracy = {}, {}, {}
    for images in sets:
        result = machine.run(images.pixels, threads=threads)
        found = measure_fidelity(result.logits, result.scale, images.logits, images.labels)
        agreement[images.name] = 100 * found.agreement
        accuracy[images.name] = 100 * (found.integer_accuracy or 0.0)
        float_accuracy[images.name] = 100 * (found.float_accuracy or 0.0)
    steps = tuple(layer for layer in count_program(program) if not isinstance(layer.instruction, Convolve))
    costs = total(steps)
    counted = {kind: sum(n for action, n in costs.actions.items() if action.kind is kind) for kind in ActionKind}
    return Row(
        bits=options.act_bits_listed[0],
        mode=options.requantise,
        ranges=options.ranges,
        agreement=agreement,
        accuracy=accuracy,
        float_accuracy=float_accuracy,
        multiplications=total(count_program(program)).multipliers,
        adders=counted[ActionKind.ADD],
        comparators=counted[ActionKind.COMPARE],
        constant_bits=costs.constant_bits,
    )


def as_table(rows: Iterable[Row], title: str) -> Table:
    """All rows, per cent with one digit."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in ("bits", "requantise", "ranges", "agree jpeg", "agree lossless", "accuracy jpeg (float)"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("multiplications", "adders", "comparators", "constant bits"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.bits), row.mode, row.ranges,
            *(f"{row.agreement[name]:.2f}" for name in ("jpeg", "lossless")),
            f"{row.accuracy['jpeg']:.1f} ({row.float_accuracy['jpeg']:.1f})",
            *(f"{n:,}" for n in (row.multiplications, row.adders, row.comparators, row.constant_bits)),
        )  # fmt: skip
    return table


def main() -> None:
    """Print the table as it grows on stderr, at the end on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", default="8,6,5,4,3,2")
    parser.add_argument("--modes", default="multiply:16,csd:3,csd:2,shift,threshold,auto")
    parser.add_argument("--ranges", default=CompileOptions().ranges)
    parser.add_argument("--limit", type=int, default=2 * TEST_IMAGES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    options = CompileOptions()
    graph = import_onnx(read_onnx(chosen.model).model, name=chosen.model.stem)
    placed = {
        mode: run_passes(graph, float_passes(CompileOptions(requantise=mode))) for mode in chosen.modes.split(",")
    }
    calibration_pixels, sets = load_sets(chosen.data, graph, chosen.limit)
    calibration = calibrate(run_passes(graph, float_passes(options)), calibration_images(graph, calibration_pixels))
    rows = []
    for bits in map(int, chosen.bits.split(",")):
        for mode, points in placed.items():
            wanted = CompileOptions(
                act_bits=bits, requantise=mode, ranges=chosen.ranges, multipliers=mode.startswith("multiply")
            )
            rows.append(measure(build(points, calibration, wanted), wanted, sets, chosen.threads))
            print(rows[-1], file=sys.stderr, flush=True)
    Console(width=160).print(
        as_table(rows, f"{chosen.model.stem}: {len(sets[0].pixels)} + {len(sets[1].pixels)} images")
    )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
