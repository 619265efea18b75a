# ruff: noqa: N818  (the names are those of the design: what happened, not the suffix Error)
"""Every exception that bnhw raises on purpose.

A message says what is wrong, where (node and its ONNX name, or file), what was found against what was
expected, and what to do about it. The command line turns any `BnhwError` into one message and the class's
`exit_code`; anything else that escapes is a bug of ours and ends in exit code 1 with a traceback.
"""

from collections.abc import Sequence
from typing import ClassVar


class BnhwError(Exception):
    """Base of all intended errors; `exit_code` is what the command line returns for it."""

    exit_code: ClassVar[int] = 2


class BadInput(BnhwError):
    """Something the user handed over (a file, images, labels, an option) cannot be used as it is."""


class MissingDependency(BnhwError):
    """An optional package is needed for this; the message names the extra that brings it."""


class UnsupportedModel(BnhwError):
    """The ONNX model cannot be compiled. `problems` lists every reason found, `advice` helps with all of them."""

    def __init__(self, problems: Sequence[str], *, model: str = "the model", advice: str = "") -> None:
        self.problems = tuple(problems)
        noun = "problem stands" if len(self.problems) == 1 else "problems stand"
        listing = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(self.problems, start=1))
        super().__init__(
            f"{len(self.problems)} {noun} in the way of compiling {model}:\n{listing}" + (advice and f"\n{advice}")
        )


class InvalidGraph(BnhwError):
    """A float graph breaks one of the rules of `bnhw.verify`. `problems` lists every broken rule."""

    def __init__(self, problems: Sequence[str], *, graph: str) -> None:
        self.problems = tuple(problems)
        super().__init__(f"graph {graph!r} is not well formed:\n" + "\n".join(f"  - {p}" for p in self.problems))


class PassFailed(BnhwError):
    """A compiler pass met a graph that it cannot transform; the message names the node and the remedy."""


class InvalidProgram(BnhwError):
    """A `.bnhw` file or an integer program is truncated, altered or not well formed."""


class ArchMismatch(BnhwError):
    """A program does not run on an engine as described. `problems` lists all that does not fit, each with a remedy."""

    def __init__(self, problems: Sequence[str], *, model: str, arch: str) -> None:
        self.problems = tuple(problems)
        listing = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(self.problems, start=1))
        super().__init__(f"{model!r} does not run on the engine {arch!r}:\n{listing}")


class RtlFailed(BnhwError):
    """The Verilog engine did not do what its ports promise: a bug of ours."""

    exit_code: ClassVar[int] = 1


class TrainingDiverged(BnhwError):
    """The loss of a training is no longer a number; the message names the place and what to try."""


class WidthExceeded(BnhwError):
    """An integer of an execution in checked mode left its declared width: a bug of ours in the range analysis."""

    exit_code: ClassVar[int] = 1


class ComparisonFailed(BnhwError):
    """Two executions that must give the same integers did not; the message names the first difference."""

    exit_code: ClassVar[int] = 3
