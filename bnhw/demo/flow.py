"""`bnhw demo`: every stage of the product on a small trained network and real images.

The network is compiled twice: with a multiplier in each requantise step, and with shifts alone, which leaves no
multiplier anywhere.
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bnhw.compare import Fidelity, first_difference, measure_fidelity
from bnhw.compiler import compile_model
from bnhw.demo.digits import CHECKPOINT, ONNX, Digits, load_digits
from bnhw.dtypes import Array
from bnhw.errors import BadInput, ComparisonFailed
from bnhw.files import write_atomically
from bnhw.float_model import float_logits
from bnhw.machine import Machine, Result
from bnhw.options import CompileOptions
from bnhw.program import Program
from bnhw.reports.report import Report, build_report

CALIBRATION_IMAGES = 200
COMPARED_IMAGES = 16
"""Test images of which every tensor is compared with the reference."""

MODES = ("multiply:16", "shift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the demo measured for one requantise mode; `integers` were compared, all equal."""

    mode: str
    integers: int
    result: Result
    fidelity: Fidelity
    report: Report
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOutcome:
    """All modes, and the wall time of the whole demo in seconds."""

    outcomes: tuple[Outcome, ...]
    seconds: float


def run_demo(folder: Path, say: Callable[[str], None]) -> DemoOutcome:
    """Run every stage, tell `say` what is done, and write the files into `folder`.

    Raises MissingDependency without scikit-learn, BadInput if the folder cannot be made, ComparisonFailed if an
    integer differs from the reference.
    """
    start = time.perf_counter()
    digits = load_digits()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be made ({error.strerror}); choose another folder with -o") from error
    _write_images(folder / "train.npz", digits.train_images, digits.train_labels)
    _write_images(folder / "test.npz", digits.test_images, digits.test_labels)
    model = _export(folder, say)
    outcomes = tuple(_compile_and_run(model, mode, digits, folder, say) for mode in MODES)
    return DemoOutcome(outcomes=outcomes, seconds=time.perf_counter() - start)


def _write_images(path: Path, images: Array, labels: Array) -> None:
    """The images as a user would have them, so that every command can be tried on the demo's files."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, labels=labels)
    write_atomically(path, buffer.getvalue())


def _export(folder: Path, say: Callable[[str], None]) -> Path:
    """The ONNX file: exported from the checkpoint where torch is installed, else the shipped one."""
    model = folder / "digits.onnx"
    if find_spec("torch") is None:
        say("export: torch is not installed, so the shipped ONNX file is taken (pip install 'bnhw[torch]' exports it)")
        write_atomically(model, ONNX.read_bytes())
        return model
    from bnhw.export.checkpoints import load_wide_resnet  # noqa: PLC0415  (needs torch)
    from bnhw.export.to_onnx import to_onnx  # noqa: PLC0415

    say(f"export: {CHECKPOINT.name} -> {model}")
    network = load_wide_resnet(CHECKPOINT)
    to_onnx(network, model, input_shape=network.config.input_shape)
    return model


def _compile_and_run(model: Path, mode: str, digits: Digits, folder: Path, say: Callable[[str], None]) -> Outcome:
    path = folder / f"digits-{mode.replace(':', '')}.bnhw"
    say(f"compile: {model.name} -> {path}, requantise {mode}, calibrated on {CALIBRATION_IMAGES} training images")
    program = compile_model(model, digits.train_images[:CALIBRATION_IMAGES], CompileOptions(requantise=mode))
    program.save(path)
    integers = _verify(program, digits, say)
    say(f"run: all {len(digits.test_images)} test images")
    result = Machine(program).run(digits.test_images)
    reals = float_logits(model, program, digits.test_images)
    return Outcome(
        mode=mode,
        integers=integers,
        result=result,
        fidelity=measure_fidelity(result.logits, result.scale, reals, digits.test_labels.astype(np.int64)),
        report=build_report(program),
        path=path,
    )


def _verify(program: Program, digits: Digits, say: Callable[[str], None]) -> int:
    say(f"verify: every tensor of {COMPARED_IMAGES} test images, reference against kernels")
    comparison = first_difference(
        Machine(program, "reference"), Machine(program, "auto"), digits.test_images[:COMPARED_IMAGES]
    )
    if comparison.difference is not None:
        raise ComparisonFailed(str(comparison.difference))
    return comparison.integers
