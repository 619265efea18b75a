"""What does removing batch norm cost, and save? Trained 1-bit wide ResNets in pairs, one with batch norm, one without.

    python benchmarks/trained_twins.py mnist --data FOLDER [--act-bits 8] [--limit N] [--json FILE]
    python benchmarks/trained_twins.py cifar10 --data TRAIN --test-data TEST

FOLDER holds MNIST (`mnist.npz`, or the IDX files), TRAIN and TEST are CIFAR-10 as `bnhw train` takes it. The
checkpoints in `benchmarks/mnist` and `benchmarks/cifar10` hold signs alone; `docs/training.md` has the commands that
trained them, with the normalisation `shifted_relu` or `batch_norm` (gains and shifts learned); the epochs stand in the
CSV file beside each. Accuracy is that of the test images: of the float model under onnxruntime, and of the integer
program, bit-exact. Calibrated on 200 training images.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bnhw.compiler import compile_model
from bnhw.count import ActionKind, count_program, total
from bnhw.datasets import Dataset, load_train_and_test
from bnhw.dtypes import Array
from bnhw.errors import PassFailed
from bnhw.export.checkpoints import load_wide_resnet
from bnhw.export.to_onnx import to_onnx
from bnhw.float_model import float_logits
from bnhw.machine import Machine
from bnhw.options import CompileOptions
from bnhw.program import Convolve, Program

FOLDER = Path(__file__).parent
NORMALISATIONS = ("shifted_relu", "batch_norm")
NETWORKS: Mapping[str, str] = {"mnist": "wrn-14-1", "cifar10": "wrn-20-4"}
"""The twins' network, by data set."""
CHECKPOINTS: Mapping[str, Mapping[str, Path]] = {
    data: {name: FOLDER / data / f"{network}_{name}.safetensors" for name in NORMALISATIONS}
    for data, network in NETWORKS.items()
}
CALIBRATION_IMAGES = 200
MODES = ("multiply:16", "csd:2", "auto", "shift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program. Accuracies, and images with the float model's class, in per cent of the test images; operations
    behind the convolutions, for one image."""

    normalisation: str
    requantise: str
    act_bits: int
    float_accuracy: float
    integer_accuracy: float
    agreement: float
    multiplications: int
    adders: int
    comparators: int
    constant_bits: int


def measure(checkpoint: Path, train: Dataset, test: Dataset, *, act_bits: int, modes: tuple[str, ...]) -> list[Row]:
    """The rows of one checkpoint; modes that cannot compute it are left out."""
    network = load_wide_resnet(checkpoint)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        to_onnx(network, path, input_shape=network.config.input_shape)
        expected: Array | None = None
        for mode in modes:
            options = CompileOptions(act_bits=act_bits, requantise=mode, multipliers=mode != "auto")
            try:
                program = compile_model(path, train.images[:CALIBRATION_IMAGES], options)
            except PassFailed as error:  # a shift has no negative gain, which batch norm may learn
                print(f"left out: {checkpoint.stem}, {mode}: {error}", file=sys.stderr)
                continue
            if expected is None:
                expected = float_logits(path, program, test.images)
            found = Machine(program).run(test.images).logits
            rows.append(
                _row(checkpoint.stem.partition("_")[2], mode, act_bits, program, (expected, found), test.labels)
            )
    return rows


def _row(name: str, mode: str, act_bits: int, program: Program, logits: tuple[Array, Array], labels: Array) -> Row:
    """One row; logits: the float model's and the program's."""
    layers = count_program(program)
    costs = total(tuple(layer for layer in layers if not isinstance(layer.instruction, Convolve)))
    counted = {kind: sum(n for action, n in costs.actions.items() if action.kind is kind) for kind in ActionKind}
    expected, found = logits
    return Row(
        normalisation=name,
        requantise=mode,
        act_bits=act_bits,
        float_accuracy=accuracy(expected, labels),
        integer_accuracy=accuracy(found, labels),
        agreement=accuracy(found, expected.argmax(axis=1)),
        multiplications=total(layers).multipliers,
        adders=counted[ActionKind.ADD],
        comparators=counted[ActionKind.COMPARE],
        constant_bits=costs.constant_bits,
    )


def accuracy(logits: Array, labels: Array) -> float:
    """Per cent of images with the right class."""
    return float(100 * (logits.argmax(axis=1) == labels).mean())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", choices=tuple(NETWORKS), help="which twins")
    parser.add_argument("--data", type=Path, required=True, help="the data set, a file or a folder")
    parser.add_argument("--test-data", type=Path, help="test images, where --data has none")
    parser.add_argument("--act-bits", type=int, default=8)
    parser.add_argument("--limit", type=int, help="test images, the first")
    parser.add_argument("--json", type=Path, help="write the rows to this file, too")
    options = parser.parse_args()
    train, test = load_train_and_test(
        options.data, options.test_data, name=options.set if options.data.is_dir() else None
    )
    part = slice(options.limit)
    test = Dataset(images=test.images[part], labels=test.labels[part], classes=test.classes, split=test.split)
    rows = [
        row
        for checkpoint in CHECKPOINTS[options.set].values()
        for row in measure(checkpoint, train, test, act_bits=options.act_bits, modes=MODES)
    ]
    columns = ["network", "requantise", "float", "integers", "same class"]
    columns += ["multiplications", "adders", "comparators", "constant bits"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        shares = (f"{share:.2f} %" for share in (row.float_accuracy, row.integer_accuracy, row.agreement))
        counts = (f"{n:,}" for n in (row.multiplications, row.adders, row.comparators, row.constant_bits))
        print(f"| {' | '.join((row.normalisation, row.requantise, *shares, *counts))} |")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
