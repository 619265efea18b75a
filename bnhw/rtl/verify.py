"""The Verilog engine against an executor and a schedule: integers, clamped sums, cycles and memory traffic."""

from collections.abc import Callable
from dataclasses import dataclass

from bnhw.compare import Difference, Executor, first_difference
from bnhw.dtypes import Array
from bnhw.hardware.trace import Trace
from bnhw.machine import fit_images
from bnhw.program import AddSaturating
from bnhw.rtl.machine import RtlMachine


@dataclass(frozen=True, slots=True, kw_only=True)
class RtlComparison:
    """How far two executions were compared; `difference` names the first one, or is empty."""

    tensors: int
    integers: int
    steps: int
    cycles: int
    difference: str


def compare_rtl(
    machine: RtlMachine,
    executor: Executor,
    trace: Trace,
    images: Array,
    progress: Callable[[int], None] | None = None,
) -> RtlComparison:
    """Compare image by image; stops at the first difference.

    trace: the schedule's, of the same program and engine. images: as `Machine.run` takes them. Raises BadInput if they
    do not fit, RtlFailed if the engine breaks its promises.
    """
    integers = cycles = 0
    difference = ""
    for number, pixels in enumerate(fit_images(machine.program, images)):
        compared = first_difference(executor, machine, pixels[None])
        integers += compared.integers
        if compared.difference is not None:
            difference = _with_cycle(machine, compared.difference, number)
        else:
            difference = (
                _cycle_difference(machine, trace, number)
                or _traffic_difference(machine, trace, number)
                or _saturation_difference(machine, executor, pixels, number)
                or _output_difference(machine, number)
            )
        if difference:
            break
        assert machine.last is not None
        cycles = sum(machine.last.step_cycles)
        if progress is not None:
            progress(number + 1)
    return RtlComparison(
        tensors=len(machine.program.instructions),
        integers=integers,
        steps=len(machine.engine.steps),
        cycles=cycles,
        difference=difference,
    )


def _with_cycle(machine: RtlMachine, difference: Difference, image: int) -> str:
    """The difference, and where the engine shows it."""
    step, cycle = machine.cycle(difference.instruction.output, difference.row, difference.column, difference.channel)
    assert machine.last is not None
    before = int(machine.last.run.step_ends[step - 1]) if step else 0
    text = str(difference).replace(", image 0,", f", image {image},", 1)
    return f"{text}; in the Verilog it leaves step {step} in cycle {cycle}, the step's cycle {cycle - before}"


def _cycle_difference(machine: RtlMachine, trace: Trace, image: int) -> str:
    assert machine.last is not None
    step_cycles = [step.cycles.total for step in trace.steps]
    for number, (found, expected) in enumerate(zip(machine.last.step_cycles, step_cycles, strict=True)):
        if found != expected:
            step = machine.engine.steps[number]
            return (
                f"first difference in the cycles of step {number} ({step.main.value}, writes {step.name!r}), "
                f"image {image}: {found} ({machine.name}) against {expected} (schedule)"
            )
    return ""


def _traffic_difference(machine: RtlMachine, trace: Trace, image: int) -> str:
    """Bits that pass each memory's ports."""
    assert machine.last is not None
    run, arch = machine.last.run, machine.engine.arch
    for number, step in enumerate(trace.steps):
        for verb, words, bits in (("read", run.reads, step.reads_bits), ("written", run.writes, step.writes_bits)):
            for memory, counts in words.items():
                found, expected = int(counts[number]) * arch.word_bits(memory), bits.get(memory, 0)
                if found != expected:
                    return (
                        f"first difference in the bits {verb} in step {number} (writes {step.name!r}) in memory "
                        f"{memory.value}, image {image}: {found} ({machine.name}) against {expected} (schedule)"
                    )
    return ""


def _saturation_difference(machine: RtlMachine, executor: Executor, pixels: Array, image: int) -> str:
    assert machine.last is not None
    if not machine.last.saturations:
        return ""
    for step in executor.steps(pixels[None]):
        name = step.instruction.output
        if isinstance(step.instruction, AddSaturating) and step.saturations != machine.last.saturations[name]:
            return (
                f"first difference in the clamped sums of {name!r} (AddSaturating), image {image}: "
                f"{step.saturations} ({executor.name}) against {machine.last.saturations[name]} ({machine.name})"
            )
    return ""


def _output_difference(machine: RtlMachine, image: int) -> str:
    """What the host reads from memory is what left the pipeline."""
    assert machine.last is not None
    name = machine.program.output
    if (machine.last.output == machine.last.tensors[name]).all():
        return ""
    return f"first difference in memory: {name!r} of image {image} is not what the pipeline wrote"
