"""Two executions of one program, integer by integer; the first difference by name.

Also the comparison of an integer program with the float model it came from, which is called faithful, never
exact (NUMERICS, section 5).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.machine import Step, fit_images
from bnhw.program import Instruction, Program, Requantise


class Executor(Protocol):
    """Whatever executes a program and shows every tensor."""

    program: Program

    @property
    def name(self) -> str:
        """How differences refer to it."""
        ...

    def steps(self, images: Array) -> Iterator[Step]:
        """The result of every instruction, in order, for uint8 images (images, height, width, channels)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first integer in which two executions differ."""

    instruction: Instruction
    image: int
    row: int
    column: int
    channel: int
    first: int
    second: int
    first_executor: str
    second_executor: str
    differing: int

    def __str__(self) -> str:
        cause = "rounding, saturation or a constant" if isinstance(self.instruction, Requantise) else "padding or a sum"
        return (
            f"first difference in {self.instruction.kind} {self.instruction.output!r} ({self.instruction.source}), "
            f"image {self.image}, row {self.row}, column {self.column}, channel {self.channel}: "
            f"{self.first} ({self.first_executor}) against {self.second} ({self.second_executor}); "
            f"{self.differing} integers of this tensor differ; look for {cause}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far two executions were compared, and the first difference or None."""

    tensors: int
    integers: int
    difference: Difference | None


def first_difference(
    first: Executor, second: Executor, images: Array, progress: Callable[[int], None] | None = None
) -> Comparison:
    """Compare every tensor of every image; stops at the first difference. Also asserts the declared widths.

    `images` as `Machine.run` takes them. Raises BadInput if they do not fit.
    """
    batch = fit_images(first.program, images)
    integers = 0
    for index in range(len(batch)):
        image = batch[index : index + 1]
        for one, other in zip(first.steps(image), second.steps(image), strict=True):
            integers += one.value.size
            _require_declared_width(first, one.instruction, one.value)
            if not np.array_equal(one.value, other.value):
                found = _describe(one.instruction, index, one.value, other.value, first, second)
                return Comparison(tensors=len(first.program.instructions), integers=integers, difference=found)
        if progress is not None:
            progress(index + 1)
    return Comparison(tensors=len(first.program.instructions), integers=integers, difference=None)


def _require_declared_width(executor: Executor, instruction: Instruction, value: Array) -> None:
    dtype = executor.program.tensor[instruction.output].dtype
    if value.min() < dtype.low or value.max() > dtype.high:
        raise AssertionError(
            f"{instruction.kind} {instruction.output!r} left its declared {dtype}: {value.min()}..{value.max()}"
        )


def _describe(
    instruction: Instruction, image: int, one: Array, other: Array, first: Executor, second: Executor
) -> Difference:
    differs = np.argwhere(one != other)
    _, row, column, channel = (int(n) for n in differs[0])
    return Difference(
        instruction=instruction,
        image=image,
        row=row,
        column=column,
        channel=channel,
        first=int(one[0, row, column, channel]),
        second=int(other[0, row, column, channel]),
        first_executor=first.name,
        second_executor=second.name,
        differing=len(differs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Integer program against float model on the same images.

    agreement: share of images with the same class. signal_to_noise_db: power of the float logits over the power
    of the difference, in decibels. float_accuracy, integer_accuracy: None without labels.
    """

    images: int
    agreement: float
    signal_to_noise_db: float
    float_accuracy: float | None
    integer_accuracy: float | None


def measure_fidelity(integer_logits: Array, scale: float, float_logits: Array, labels: Array | None = None) -> Fidelity:
    """Compare integer logits (int64) times `scale` with float logits, both (images, classes).

    Raises BadInput when the shapes differ.
    """
    if integer_logits.shape != float_logits.shape:
        raise BadInput(
            f"the program returns logits {integer_logits.shape}, the float model {float_logits.shape}; they are not "
            "the same network"
        )
    real = integer_logits * scale
    noise = float(((real - float_logits) ** 2).sum())
    signal = float((float_logits.astype(np.float64) ** 2).sum())
    ours, theirs = integer_logits.argmax(axis=1), float_logits.argmax(axis=1)
    return Fidelity(
        images=len(ours),
        agreement=float((ours == theirs).mean()),
        signal_to_noise_db=float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise)),
        float_accuracy=None if labels is None else float((theirs == labels).mean()),
        integer_accuracy=None if labels is None else float((ours == labels).mean()),
    )
