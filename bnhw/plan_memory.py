"""What a plan keeps in memory: forms of tensors, when each is in use, and arrays of constants."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bnhw.dtypes import Array
from bnhw.plan_order import Step
from bnhw.plan_storage import Area, Form, Place, Placing, code_form, place_tensors, planes_form
from bnhw.plan_words import word_form, words_name
from bnhw.program import Convolve, Program


@dataclass(kw_only=True)
class Store:
    """Arrays one behind the other, each aligned to 64 bytes."""

    parts: list[Array] = field(default_factory=list)
    size: int = 0

    def add(self, array: Array) -> int:
        """Keep an array's bytes; returns their offset."""
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        at = self.size
        missing = -flat.size % 64
        self.parts.append(flat)
        if missing:
            self.parts.append(np.zeros(missing, np.uint8))
        self.size += flat.size + missing
        return at

    def joined(self) -> Array:
        """All of them, aligned."""
        joined = aligned_bytes(self.size)
        at = 0
        for part in self.parts:
            joined[at : at + part.size] = part
            at += part.size
        return joined


def aligned_bytes(size: int) -> Array:
    """Zeros, aligned to 64 bytes."""
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def planes_name(name: str) -> str:
    """What the planes of a tensor's codes are called in a plan; no name in a program has a control character."""
    return f"{name}\0planes"


def list_forms(program: Program, steps: tuple[Step, ...], words: Mapping[str, int]) -> Mapping[str, Form]:
    """The form of every tensor in memory; its borders are as wide as its convolutions' padding.

    words: see `bnhw.plan_words.choose_words`.
    """
    pads: dict[str, tuple[int, int, int, int]] = {}
    for instruction in program.instructions:
        if isinstance(instruction, Convolve):
            name = instruction.inputs[0]
            before = pads.get(name, (0, 0, 0, 0))
            top, left, bottom, right = (max(pair) for pair in zip(before, instruction.window.pads, strict=True))
            pads[name] = (top, left, bottom, right)
    forms: dict[str, Form] = {}
    for name in [program.input, *(name for step in steps for name in step.writes)]:
        tensor = program.tensor[name]
        if tensor.dtype.bits > 8:
            forms[name] = code_form(tensor, (0, 0, 0, 0))
            if name in pads:
                forms[planes_name(name)] = planes_form(tensor, pads[name])
        else:
            forms[name] = code_form(tensor, pads.get(name, (0, 0, 0, 0)))
    for instruction in program.instructions:
        if instruction.output in words:
            name = instruction.inputs[0]
            forms[words_name(name)] = word_form(forms[name], words[instruction.output])
    return forms


def list_uses(
    program: Program, steps: Sequence[Step], forms: Mapping[str, Form], words: Mapping[str, int]
) -> Sequence[tuple[Sequence[str], Sequence[str]]]:
    """What each step reads and writes in memory; planes and words are written by the first convolution that reads them.

    words: see `bnhw.plan_words.choose_words`.
    """
    uses: list[tuple[Sequence[str], Sequence[str]]] = [((), (program.input,))]
    split: set[str] = set()
    for step in steps:
        reads, writes = list(step.reads), list(step.writes)
        if isinstance(step.main, Convolve):
            name = step.main.inputs[0]
            other = words_name(name) if step.main.output in words else planes_name(name)
            if other in forms:
                (reads if other in split else writes).append(other)
                split.add(other)
        uses.append((reads, writes))
    return [*uses, ((program.output,), ())]


def first_narrow(program: Program, steps: Sequence[Step], most_pixels: int) -> int:
    """The step from which on no convolution has more pixels than that: there, weights cost the most."""
    wide = [
        number
        for number, step in enumerate(steps)
        if isinstance(step.main, Convolve) and math.prod(program.tensor[step.main.output].shape[:2]) > most_pixels
    ]
    return wide[-1] + 1 if wide else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where tensors lie: those of one image at a time, and those of each image of a group.

    own_from: the first step that a group of images runs together.
    """

    forms: Mapping[str, Form]
    own_from: int
    shared: Placing
    own: Placing

    def place(self, name: str) -> tuple[Place, Area]:
        """A tensor's place in its area."""
        if name in self.own.places:
            return self.own.places[name], Area.OWN
        return self.shared.places[name], Area.SHARED

    def planes_of(self, name: str) -> str | None:
        """The name of the planes of a tensor's codes, if it has any."""
        return planes_name(name) if planes_name(name) in self.forms else None


def lay_out(
    program: Program, steps: tuple[Step, ...], words: Mapping[str, int], narrow_pixels: int, *, share: bool
) -> Layout:
    """Place every tensor.

    narrow_pixels: see `bnhw.plan_interpreter.Interpreter`. share: see `bnhw.plan_storage.place_tensors`.
    """
    forms = list_forms(program, steps, words)
    uses = list_uses(program, steps, forms, words)
    own_from = first_narrow(program, steps, narrow_pixels)
    names = {name for reads, writes in uses[1 + own_from :] for name in (*reads, *writes)}
    shared = {name: form for name, form in forms.items() if name not in names}
    own = {name: form for name, form in forms.items() if name in names}
    return Layout(
        forms=forms,
        own_from=own_from,
        shared=place_tensors(shared, uses, share=share),
        own=place_tensors(own, uses, share=share),
    )
