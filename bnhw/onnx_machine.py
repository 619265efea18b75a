"""Integer programs under onnxruntime: an executor that shares no arithmetic with the machine's kernels."""

from collections.abc import Iterator

import numpy as np
import onnx

from bnhw.compare import first_difference
from bnhw.dtypes import Array
from bnhw.errors import ComparisonFailed
from bnhw.integer_onnx import program_to_onnx
from bnhw.machine import Machine, Step, fit_images
from bnhw.onnx_session import open_session
from bnhw.program import AddSaturating, Program


class OnnxMachine:
    """A program's integer ONNX graph ready to run, every tensor an output. Raises as `program_to_onnx` does."""

    name = "onnx"

    def __init__(self, program: Program, *, threads: int = 1) -> None:
        self.program = program
        model = program_to_onnx(program, expose_tensors=True).SerializeToString()
        self.session = open_session(model, origin=_origin(program), threads=threads)

    def steps(self, images: Array) -> Iterator[Step]:
        """Execute `images` (uint8, (images, height, width, channels)) and yield every instruction's result as int64.

        All tensors of all images are in memory at once.
        """
        program = self.program
        names = [instruction.output for instruction in program.instructions]
        found = self.session.run(names, {program.input: np.ascontiguousarray(images)})
        values: dict[str, Array] = {program.input: images.astype(np.int64)}
        values |= {name: value.transpose(0, 2, 3, 1).astype(np.int64) for name, value in zip(names, found, strict=True)}
        for instruction in program.instructions:
            value = values[instruction.output]
            clamped = 0
            if isinstance(instruction, AddSaturating):
                first, second = (values[name] for name in instruction.inputs)
                clamped = int(np.count_nonzero(first + second != value))
            yield Step(instruction=instruction, value=value, saturations=clamped)


def onnx_logits(model: bytes, images: Array, *, origin: str = "the model", threads: int = 1) -> Array:
    """The logits, int64 (images, classes), of a serialised model that `program_to_onnx` made.

    images: uint8 (images, height, width, channels). Raises BadInput where onnxruntime cannot load the model.
    """
    session = open_session(model, origin=origin, threads=threads)
    (entry,) = session.get_inputs()
    logits: Array = session.run([session.get_outputs()[0].name], {entry.name: np.ascontiguousarray(images)})[0]
    return logits


def checked_onnx(program: Program, images: Array) -> onnx.ModelProto:
    """The integer ONNX of a program, after every tensor of `images` was the same integers as the reference's.

    images: uint8 as the program takes them. The returned model itself is run too, because onnxruntime may arrange a
    graph with fewer outputs in another way. Raises ComparisonFailed where an integer differs, which would be a bug.
    """
    reference = Machine(program, "reference")
    difference = first_difference(reference, OnnxMachine(program), images).difference
    if difference is not None:
        raise ComparisonFailed(f"the integer ONNX graph is wrong: {difference}; please report this as a bug")
    model = program_to_onnx(program)
    batch = fit_images(program, images)
    expected = reference.run(batch).logits
    found = onnx_logits(model.SerializeToString(), batch, origin=_origin(program))
    if not np.array_equal(expected, found):
        raise ComparisonFailed(
            f"the integer ONNX graph of {program.name!r} returns logits {found.tolist()} where the reference returns "
            f"{expected.tolist()}; please report this as a bug"
        )
    return model


def _origin(program: Program) -> str:
    return f"the integer ONNX of program {program.name!r}"
