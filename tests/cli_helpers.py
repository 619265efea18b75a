"""What the tests of the command line share: outcomes of commands, common options, altered models."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from bnhw.demo.digits import ONNX


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


def in_new_process(*arguments: object, before: str = "", cwd: Path | None = None) -> Done:
    """Run `bnhw ARGUMENTS` in a process of its own, behind a line of Python."""
    script = f"import sys\n{before}\nfrom bnhw.cli import main\nmain()"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


ORIGINAL = onnx.load(ONNX)


def model(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], bytes]:
    """The demo's model, altered."""

    def make(_: Path) -> bytes:
        altered = onnx.ModelProto()
        altered.CopyFrom(ORIGINAL)
        change(altered)
        return bytes(altered.SerializeToString())

    return make


def first_kernel(proto: onnx.ModelProto) -> onnx.TensorProto:
    """The weights of the first 3x3 convolution behind the stem."""
    tensors: list[onnx.TensorProto] = list(proto.graph.initializer)
    return next(tensor for tensor in tensors if tuple(tensor.dims[1:]) == (16, 3, 3))


def set_weight(value: float) -> Callable[[onnx.ModelProto], object]:
    def change(proto: onnx.ModelProto) -> None:
        tensor = first_kernel(proto)
        weights = numpy_helper.to_array(tensor).copy()
        weights[1, 2, 0, 1] = value
        tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))

    return change


def assert_refused(done: Done, message: str) -> None:
    assert done.code == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.startswith(("error: ", "Usage: "))
    assert done.err.count("error: ") <= 1
    assert re.search(message, done.err), done.err


IMAGES = ("--images", "images.npz")
CALIBRATE = ("--calibrate", "images.npz")
NEW = ("compile", "digits.onnx", "-o", "new.bnhw", *CALIBRATE)
