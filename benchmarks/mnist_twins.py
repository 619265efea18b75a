"""What does removing batch norm cost, and save? Two trained 1-bit wide ResNets 14-1 on MNIST, one with and one without.

    python benchmarks/mnist_twins.py --data FOLDER [--act-bits 8] [--limit N] [--json FILE]

FOLDER holds MNIST (`mnist.npz`, or the IDX files). The checkpoints in `benchmarks/mnist` hold signs alone; each was
trained by `bnhw train mnist --data FOLDER --network wrn-14-1 --norm NORM --temperature 30 --precision bfloat16`, with
NORM `shifted_relu` or `batch_norm` (gains and shifts learned); its epochs stand in the CSV file beside it. Accuracy is
that of the test images: of the float model under onnxruntime, and of the integer program, bit-exact. Calibrated on 200
training images.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bnhw.compiler import compile_model
from bnhw.count import ActionKind, count_program, total
from bnhw.datasets import Dataset, load_train_and_test
from bnhw.dtypes import Array
from bnhw.export.checkpoints import load_wide_resnet
from bnhw.export.to_onnx import to_onnx
from bnhw.float_model import float_logits
from bnhw.machine import Machine
from bnhw.options import CompileOptions
from bnhw.program import Convolve

FOLDER = Path(__file__).parent / "mnist"
CHECKPOINTS: Mapping[str, Path] = {
    name: FOLDER / f"wrn-14-1_{name}.safetensors" for name in ("shifted_relu", "batch_norm")
}
CALIBRATION_IMAGES = 200
MODES = ("multiply:16", "csd:2", "auto", "shift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program. Accuracies in per cent of the test images; operations behind the convolutions, for one image."""

    normalisation: str
    requantise: str
    act_bits: int
    float_accuracy: float
    integer_accuracy: float
    multiplications: int
    adders: int
    comparators: int
    constant_bits: int


def measure(name: str, train: Dataset, test: Dataset, *, act_bits: int, modes: tuple[str, ...]) -> list[Row]:
    """The rows of one checkpoint."""
    network = load_wide_resnet(CHECKPOINTS[name])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        to_onnx(network, path, input_shape=network.config.input_shape)
        rows = []
        for mode in modes:
            options = CompileOptions(act_bits=act_bits, requantise=mode, multipliers=mode != "auto")
            program = compile_model(path, train.images[:CALIBRATION_IMAGES], options)
            layers = count_program(program)
            costs = total(tuple(layer for layer in layers if not isinstance(layer.instruction, Convolve)))
            counted = {
                kind: sum(n for action, n in costs.actions.items() if action.kind is kind) for kind in ActionKind
            }
            rows.append(
                Row(
                    normalisation=name,
                    requantise=mode,
                    act_bits=act_bits,
                    float_accuracy=accuracy(float_logits(path, program, test.images), test.labels),
                    integer_accuracy=accuracy(Machine(program).run(test.images).logits, test.labels),
                    multiplications=total(layers).multipliers,
                    adders=counted[ActionKind.ADD],
                    comparators=counted[ActionKind.COMPARE],
                    constant_bits=costs.constant_bits,
                )
            )
    return rows


def accuracy(logits: Array, labels: Array) -> float:
    """Per cent of images with the right class."""
    return float(100 * (logits.argmax(axis=1) == labels).mean())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST")
    parser.add_argument("--act-bits", type=int, default=8)
    parser.add_argument("--limit", type=int, help="test images, the first")
    parser.add_argument("--json", type=Path, help="write the rows to this file, too")
    options = parser.parse_args()
    train, test = load_train_and_test(options.data, name="mnist")
    part = slice(options.limit)
    test = Dataset(images=test.images[part], labels=test.labels[part], classes=test.classes, split=test.split)
    rows = [row for name in CHECKPOINTS for row in measure(name, train, test, act_bits=options.act_bits, modes=MODES)]
    print("| network | requantise | float | integers | multiplications | adders | comparators | constant bits |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.normalisation} | {row.requantise} | {row.float_accuracy:.2f} % | {row.integer_accuracy:.2f} % | "
            f"{row.multiplications:,} | {row.adders:,} | {row.comparators:,} | {row.constant_bits:,} |"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
