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
from bnhw.hardware.arch_file import load_arch
from bnhw.machine import Machine, Result
from bnhw.options import CompileOptions
from bnhw.program import Program
from bnhw.reports.comparison import Column, compare_reports
from bnhw.reports.engine_run import run_on_engine
from bnhw.reports.html.comparison_page import comparison_page
from bnhw.reports.html.report_page import report_page
from bnhw.reports.report import Report, build_report

CALIBRATION_IMAGES = 200
COMPARED_IMAGES = 16
"""Test images of which every tensor is compared with the reference."""

MODES = ("multiply:16", "shift")

ENGINE, TECHNOLOGY = "engine-16x64", "28nm"
"""The engine whose post stage is built for each mode, and the constants that price it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the demo measured for one requantise mode; `integers` were compared, all equal. The report has an engine."""

    mode: str
    integers: int
    result: Result
    fidelity: Fidelity
    report: Report
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOutcome:
    """All modes, the pages written (none without plotly), and the wall time of the whole demo in seconds."""

    outcomes: tuple[Outcome, ...]
    pages: tuple[Path, ...]
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
    pages = _write_pages(outcomes, folder, say)
    return DemoOutcome(outcomes=outcomes, pages=pages, seconds=time.perf_counter() - start)


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
        report=_report(program, mode),
        path=path,
    )


def _report(program: Program, mode: str) -> Report:
    """Counts, cycles and energy, with a post stage that does what the mode asks for and no more."""
    post = mode.split(":", maxsplit=1)[0]
    arch = load_arch(ENGINE).with_options(name=f"{ENGINE}-{post}", post=post)
    return build_report(program, run_on_engine(program, arch, TECHNOLOGY))


def _write_pages(outcomes: tuple[Outcome, ...], folder: Path, say: Callable[[str], None]) -> tuple[Path, ...]:
    """The report of the last mode and the comparison of all, where plotly is installed."""
    if find_spec("plotly") is None:
        say("report: plotly is not installed, so there is no HTML report (pip install 'bnhw[html]' draws it)")
        return ()
    columns = [Column(label=outcome.path.stem, report=outcome.report) for outcome in outcomes]
    pages = {"report.html": report_page(outcomes[-1].report), "compare.html": comparison_page(compare_reports(columns))}
    for name, page in pages.items():
        say(f"report: {folder / name}")
        write_atomically(folder / name, page.encode())
    return tuple(folder / name for name in pages)


def _verify(program: Program, digits: Digits, say: Callable[[str], None]) -> int:
    say(f"verify: every tensor of {COMPARED_IMAGES} test images, reference against kernels")
    comparison = first_difference(
        Machine(program, "reference"), Machine(program, "auto"), digits.test_images[:COMPARED_IMAGES]
    )
    if comparison.difference is not None:
        raise ComparisonFailed(str(comparison.difference))
    return comparison.integers
