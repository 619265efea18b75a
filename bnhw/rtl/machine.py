"""Executes programs on the Verilog engine, with every tensor and the cycles of every step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import RtlFailed
from bnhw.hardware.arch import Arch
from bnhw.hardware.mapping import map_program
from bnhw.hardware.steps import Step as EngineStep
from bnhw.machine import Step
from bnhw.program import AddSaturating, Program
from bnhw.rtl.build import build_library
from bnhw.rtl.driver import Driver, Probe, Run
from bnhw.rtl.expected import StepProbes, step_tensors
from bnhw.rtl.image import host_words, image, tensor_codes, tensor_words
from bnhw.rtl.parameters import HOST_BITS, parameters


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageRun:
    """One image on the engine.

    tensors: of every instruction, int64 (height, width, channels), from the pipeline. output: the program's, read from
    memory. step_cycles: of every step. saturations: clamped sums, by instruction that adds.
    """

    tensors: Mapping[str, Array]
    output: Array
    step_cycles: tuple[int, ...]
    saturations: Mapping[str, int]
    run: Run


class RtlMachine:
    """A program in the memories of a Verilog engine under Verilator; an executor, see `bnhw.compare`.

    folder: of the Verilog sources, those of the package if None. most_cycles: a run that takes longer has failed.
    Raises ArchMismatch where the program does not run on the engine, BadInput where Verilator is missing.
    """

    def __init__(
        self,
        program: Program,
        arch: Arch,
        *,
        folder: Path | None = None,
        host_bits: int = HOST_BITS,
        most_cycles: int = 1 << 32,
    ) -> None:
        self.program = program
        self.engine = map_program(program, arch)
        memory_images = image(self.engine)
        self.driver = Driver(build_library(parameters(arch, host_bits), folder), arch, host_bits=host_bits)
        self.driver.load(memory_images)
        self.most_cycles = most_cycles
        self.last: ImageRun | None = None

    @property
    def name(self) -> str:
        """How differences refer to it."""
        return f"rtl {self.engine.arch.name}"

    def steps(self, images: Array) -> Iterator[Step]:
        """The result of every instruction, in order, for uint8 images (images, height, width, channels)."""
        runs = [self.run(one) for one in images]
        for instruction in self.program.instructions:
            name = instruction.output
            value = np.stack([run.tensors[name] for run in runs])
            saturations = sum(run.saturations.get(name, 0) for run in runs)
            yield Step(instruction=instruction, value=value, saturations=saturations)

    def run(self, pixels: Array) -> ImageRun:
        """Execute one image, uint8 (height, width, channels). Raises RtlFailed where the engine breaks its promises."""
        arch, places = self.engine.arch, self.engine.places
        entry, out = places[self.program.input], places[self.program.output]
        self.driver.write(entry.memory, host_words(arch, entry)[0], tensor_words(arch, entry, pixels))
        run = self.driver.run(self.most_cycles)
        output = tensor_codes(arch, out, self.driver.read(out.memory, *host_words(arch, out)))
        self.last = ImageRun(
            tensors=self._tensors(run),
            output=output,
            step_cycles=tuple(int(cycles) for cycles in run.step_cycles),
            saturations=self._saturations(run),
            run=run,
        )
        return self.last

    def entries(self, number: int) -> slice:
        """Which entries of a run's probes belong to a step."""
        counts = [step.pixels * step.blocks for step in self.engine.steps]
        return slice(sum(counts[:number]), sum(counts[: number + 1]))

    def cycle(self, name: str, row: int, column: int, channel: int) -> tuple[int, int]:
        """The step that makes an integer of a tensor, and the cycle of the last run in which a probe showed it."""
        assert self.last is not None
        pe = self.engine.arch.pe
        for number, step in enumerate(self.engine.steps):
            first = step.first_block * pe
            if name in step.instructions and first <= channel < first + step.channels:
                probe = self.last.run.number if name == step.name else self.last.run.q
                at = (row * step.columns + column) * step.blocks + (channel - first) // pe
                return number, int(probe.cycles[self.entries(number)][at])
        raise AssertionError(f"no step makes {name!r}")

    def _tensors(self, run: Run) -> Mapping[str, Array]:
        """Every instruction's tensor; the parts of a `Join` put together."""
        needed = sum(step.pixels * step.blocks for step in self.engine.steps)
        probes = (run.raw, run.q, run.number)
        if len(run.step_ends) != len(self.engine.steps) or any(len(probe.cycles) != needed for probe in probes):
            shown = ", ".join(str(len(probe.cycles)) for probe in probes)
            raise RtlFailed(
                f"the engine ran {len(run.step_ends)} steps and showed {shown} sums, results and numbers; "
                f"{len(self.engine.steps)} steps with {needed} of each were expected"
            )
        parts: dict[str, list[Array]] = {}
        for number, step in enumerate(self.engine.steps):
            raw, q, stored = (self._step_values(probe, number, step) for probe in probes)
            for name, value in step_tensors(self.engine, step, StepProbes(raw=raw, q=q, number=stored)).items():
                parts.setdefault(name, []).append(value)
        return {name: np.concatenate(values, axis=2) for name, values in parts.items()}

    def _step_values(self, probe: Probe, number: int, step: EngineStep) -> Array:
        values = probe.values[self.entries(number)]
        return np.asarray(values.reshape(step.rows, step.columns, -1)[:, :, : step.channels])

    def _saturations(self, run: Run) -> Mapping[str, int]:
        adding = {i.output for i in self.program.instructions if isinstance(i, AddSaturating)}
        steps = enumerate(self.engine.steps)
        return {step.name: int(run.saturations[number]) for number, step in steps if step.name in adding}
