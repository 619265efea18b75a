"""The functions of `import bnhw`. Each imports what it needs when it is called, so that importing is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from bnhw.hardware.arch import Arch
    from bnhw.hardware.technology import Technology
    from bnhw.machine import Result
    from bnhw.options import CompileOptions
    from bnhw.program import Program
    from bnhw.reports.report import Report


def compile(  # noqa: A001  (bnhw.compile is what users expect to type)
    model: str | Path, calibration: NDArray[Any], options: CompileOptions | None = None
) -> Program:
    """Compile an ONNX file into an integer program.

    calibration: uint8 images (images, height, width, channels), or (images, height, width) for one channel.
    Raises `bnhw.errors.BadInput`, `UnsupportedModel` or `PassFailed` for what the user can mend.
    """
    from bnhw.compiler import compile_model

    return compile_model(model, calibration, options)


def load(path: str | Path) -> Program:
    """Read a `.bnhw` file. Raises `bnhw.errors.BadInput` or `InvalidProgram`."""
    from bnhw.program_file import load_program

    return load_program(Path(path))


def run(program: Program, images: NDArray[Any], *, kernels: str = "auto", threads: int = 1) -> Result:
    """Execute a program bit-exactly.

    images: uint8 as for `compile`. Returns integer logits, int64 (images, classes), and their real scale.
    Raises `bnhw.errors.BadInput` where images, kernels or threads do not fit.
    """
    from bnhw.machine import Machine

    return Machine(program, kernels).run(images, threads=threads)


def program_to_onnx(program: Program, *, expose_tensors: bool = False) -> ModelProto:
    """A program as a standard ONNX model of integers alone, for `onnx.save` or onnxruntime.

    Takes uint8 images (N, height, width, channels), returns integer logits, int64 (N, classes); expose_tensors: every
    tensor of the program, too, int32 (N, channels, height, width). Raises `bnhw.errors.BadInput` where it would
    exceed the 2 GiB of an ONNX file.
    """
    from bnhw.integer_onnx import program_to_onnx as build

    return build(program, expose_tensors=expose_tensors)


def report(
    program: Program, *, arch: str | Path | Arch | None = None, tech: str | Path | Technology | None = None
) -> Report:
    """Count the operations and the storage of a program, per instruction and in total.

    arch: an engine, by its shipped name ("engine-16x64"), as a TOML file or as a value; adds its steps, cycles and
    memories. tech: a technology, likewise ("28nm"); adds energy. Raises `bnhw.errors.BadInput` for a name or file that
    cannot be used, `ArchMismatch` where the engine cannot execute the program.
    """
    from bnhw.reports.engine_run import run_on_engine
    from bnhw.reports.report import build_report

    return build_report(program, run_on_engine(program, arch, tech))
