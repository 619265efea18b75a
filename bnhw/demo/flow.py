"""`bnhw demo`: every stage of the product on a small trained network and real images."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bnhw.compare import first_difference, measure_fidelity
from bnhw.compiler import compile_model
from bnhw.demo.digits import CHECKPOINT, ONNX, Digits, load_digits
from bnhw.errors import BadInput, ComparisonFailed
from bnhw.float_model import float_logits
from bnhw.machine import Machine, Result
from bnhw.options import CompileOptions
from bnhw.program import Program
from bnhw.program_file import write_atomically
from bnhw.reports.report import Report, build_report
from bnhw.reports.tables import format_bits

CALIBRATION_IMAGES = 200
COMPARED_IMAGES = 16
"""Test images of which every tensor is compared with the reference."""


def run_demo(folder: Path, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Run every stage, tell `say` what is done, write the files into `folder`; returns the rows of a table.

    Raises MissingDependency without scikit-learn, ComparisonFailed if an integer differs from the reference.
    """
    start = time.perf_counter()
    digits = load_digits()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be made ({error.strerror}); choose another folder with -o") from error
    model = _export(folder, say)
    program = _compile(model, digits, folder, say)
    integers = _verify(program, digits, say)
    say(f"run: all {len(digits.test_images)} test images")
    result = Machine(program).run(digits.test_images)
    reals = float_logits(model, program, digits.test_images)
    fidelity = measure_fidelity(result.logits, result.scale, reals, digits.test_labels.astype(np.int64))
    report = build_report(program)
    assert fidelity.float_accuracy is not None
    assert fidelity.integer_accuracy is not None
    return [
        ("float accuracy", f"{100 * fidelity.float_accuracy:.2f} % of {fidelity.images} test images"),
        ("integer accuracy", f"{100 * fidelity.integer_accuracy:.2f} %"),
        ("agreement", f"{100 * fidelity.agreement:.2f} % of the classes"),
        ("bit-exact", f"yes: {integers:,} integers, reference = kernels"),
        *_cost_rows(report),
        ("speed", _speed(result)),
        ("time", f"{time.perf_counter() - start:.1f} s in all"),
        ("files", f"{folder}"),
    ]


def _export(folder: Path, say: Callable[[str], None]) -> Path:
    """The ONNX file: exported from the checkpoint where torch is installed, else the shipped one."""
    model = folder / "digits.onnx"
    try:
        from bnhw.export.checkpoints import load_checkpoint  # noqa: PLC0415  (needs torch)
        from bnhw.export.to_onnx import to_onnx  # noqa: PLC0415
    except ImportError:
        raise
    except Exception as error:
        from bnhw.errors import MissingDependency  # noqa: PLC0415

        if not isinstance(error, MissingDependency):
            raise
        say("export: torch is not installed, so the shipped ONNX file is taken (pip install 'bnhw[torch]' exports it)")
        write_atomically(model, ONNX.read_bytes())
        return model
    say(f"export: {CHECKPOINT.name} -> {model}")
    network = load_checkpoint(CHECKPOINT)
    to_onnx(network, model, input_shape=network.config.input_shape)
    return model


def _compile(model: Path, digits: Digits, folder: Path, say: Callable[[str], None]) -> Program:
    path = folder / "digits.bnhw"
    say(f"compile: {model} -> {path}, calibrated on {CALIBRATION_IMAGES} training images")
    program = compile_model(model, digits.train_images[:CALIBRATION_IMAGES], CompileOptions())
    program.save(path)
    return program


def _verify(program: Program, digits: Digits, say: Callable[[str], None]) -> int:
    say(f"verify: every tensor of {COMPARED_IMAGES} test images, reference against kernels")
    comparison = first_difference(
        Machine(program, "reference"), Machine(program, "auto"), digits.test_images[:COMPARED_IMAGES]
    )
    if comparison.difference is not None:
        raise ComparisonFailed(str(comparison.difference))
    return comparison.integers


def _cost_rows(report: Report) -> list[tuple[str, str]]:
    totals = report.totals
    return [
        ("weights", format_bits(totals.weight_bits)),
        ("MACs", f"{totals.macs_full:,} per image"),
        (
            "multipliers",
            f"{report.array_multiplications} in the array; {totals.multipliers:,} requantise steps per image",
        ),
        ("peak live activations", format_bits(report.peak_activation_bits)),
    ]


def _speed(result: Result) -> str:
    return f"{len(result.logits) / result.seconds:,.0f} images per second, one thread"
