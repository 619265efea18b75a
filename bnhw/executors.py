"""Every independent executor of programs that kernels can be compared with, by name."""

from collections.abc import Callable, Mapping

from bnhw.compare import Executor
from bnhw.machine import Machine
from bnhw.onnx_machine import OnnxMachine
from bnhw.program import Program


def _reference(program: Program) -> Executor:
    return Machine(program, "reference")


EXECUTORS: Mapping[str, Callable[[Program], Executor]] = {"reference": _reference, "onnx": OnnxMachine}
"""What `bnhw verify --against` takes."""
