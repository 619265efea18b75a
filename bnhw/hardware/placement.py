"""In which memory each tensor lies, in how many planes, and from which word on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnhw.hardware.arch import Arch
from bnhw.hardware.fusing import FusedStep
from bnhw.hardware.steps import Place
from bnhw.hardware.trace import MemoryKind
from bnhw.program import Convolve, Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """The steps, first to last, during which a buffer holds its tensors; `size` in words."""

    tensors: tuple[str, ...]
    first: int
    last: int
    size: int


def place_tensors(
    program: Program, arch: Arch, steps: Sequence[FusedStep]
) -> tuple[Mapping[str, Place], Mapping[MemoryKind, int]]:
    """The place of every stored tensor, and how many words the two tensor memories need."""
    convolved = {step.source for step in steps if isinstance(step.first, Convolve)}
    stored = (program.input, *dict.fromkeys(step.output for step in steps))
    places = {name: _place(program, arch, name, name in convolved) for name in stored}
    required: dict[MemoryKind, int] = {}
    for memory in (MemoryKind.ACTIVATIONS, MemoryKind.RESIDUALS):
        inside = {name: place for name, place in places.items() if place.memory is memory}
        bases, required[memory] = allocate(_lifetimes(program, steps, inside))
        for name, base in bases.items():
            places[name] = _place(program, arch, name, name in convolved, base)
    return places, required


def _place(program: Program, arch: Arch, name: str, convolved: bool, base: int = 0) -> Place:
    tensor = program.tensor[name]
    activation = convolved or tensor.dtype.bits <= arch.act_bits
    lane_bits = arch.act_bits if activation else arch.residual_bits
    width = arch.simd if activation else arch.pe
    return Place(
        tensor=name,
        memory=MemoryKind.ACTIVATIONS if activation else MemoryKind.RESIDUALS,
        base=base,
        shape=tensor.shape,
        bits=tensor.dtype.bits,
        low=tensor.dtype.low,
        bipolar=tensor.bipolar,
        lane_bits=lane_bits,
        planes=-(-tensor.dtype.bits // lane_bits),
        blocks=-(-tensor.shape[2] // arch.pe),
        pixel_words=-(-tensor.shape[2] // width),
    )


def _lifetimes(program: Program, steps: Sequence[FusedStep], places: Mapping[str, Place]) -> tuple[Lifetime, ...]:
    """One buffer a tensor, or a chain of tensors of which each is written over the one before (see `_overwritten`)."""
    first = {name: -1 for name in places if name == program.input}
    last = dict.fromkeys(places, -1)
    for at, step in enumerate(steps):
        for name in step.reads:
            if name in places:
                last[name] = at
        if step.output in places:
            first.setdefault(step.output, at)
            last[step.output] = max(last[step.output], at)
    if program.output in places:
        last[program.output] = len(steps)
    chains: dict[str, tuple[str, ...]] = {name: (name,) for name in places}
    for at, step in enumerate(steps):
        before = _overwritten(step, at, places, last)
        if before is not None:
            chain = chains.pop(before)
            chains[step.output] = (*chain, step.output)
    return tuple(
        Lifetime(tensors=chain, first=first[chain[0]], last=last[chain[-1]], size=places[chain[0]].size)
        for chain in chains.values()
    )


def _overwritten(step: FusedStep, at: int, places: Mapping[str, Place], last: Mapping[str, int]) -> str | None:
    """The operand of a saturating addition in whose words the result may be written: read there for the last time.

    Each word is read before its new content is written, because both go through the pixels and blocks alike.
    """
    name, result = step.other, step.output
    if name not in places or result not in places or last[name] != at or name == step.source:
        return None
    same = places[name].planes == places[result].planes and places[name].size == places[result].size
    return name if same else None


def allocate(buffers: Sequence[Lifetime]) -> tuple[Mapping[str, int], int]:
    """The first word of every tensor, and the words that all take: largest first, each as low as it fits.

    Buffers that are alive in one step do not overlap.
    """
    placed: list[tuple[int, Lifetime]] = []
    for buffer in sorted(buffers, key=lambda one: (-one.size, one.first, one.tensors)):
        base = 0
        for start, other in sorted(placed, key=lambda pair: pair[0]):
            alive_together = buffer.first <= other.last and other.first <= buffer.last
            if alive_together and start < base + buffer.size and base < start + other.size:
                base = start + other.size
        placed.append((base, buffer))
    bases = {name: base for base, buffer in placed for name in buffer.tensors}
    return bases, max((base + buffer.size for base, buffer in placed), default=0)
