"""Execution of plans: whole programs, image by image, in one compiled call per thread."""

import math
from collections import Counter
from collections.abc import Mapping
from queue import Empty, SimpleQueue

import numpy as np

from bnhw.dtypes import Array
from bnhw.kernels.fused.machine_code import Run, load_interpreter
from bnhw.kernels.permission import tile_configuration
from bnhw.kernels.select import FUSED_CHOICES, TABULATED_FEATURES, check_runnable
from bnhw.plan import Plan, make_plan
from bnhw.plan_interpreter import interpreter_of
from bnhw.plan_memory import aligned_bytes
from bnhw.plan_storage import Form
from bnhw.program import Program

MODULES: Mapping[str, str] = {choice: f"bnhw.kernels.fused.run_{choice}" for choice in FUSED_CHOICES}
"""The interpreter of each choice of kernels; imported only where the machine has its instructions."""


class FusedProgram:
    """A planned program; `run` may be called from several threads at once.

    kernels: one of `MODULES`. store_all: keep every tensor for `tensor_values`. Raises ValueError where this machine
    cannot run the kernels.
    """

    def __init__(self, program: Program, kernels: str, *, store_all: bool = False) -> None:
        check_runnable(kernels)
        self.program = program
        self.kernels = kernels
        self.plan: Plan = make_plan(program, interpreter_of(kernels), store_all=store_all)
        assert kernels in TABULATED_FEATURES or "tabulated" not in self.plan.methods.values()
        self._run: Run = load_interpreter(MODULES[kernels])
        configuration = tile_configuration()
        self._tiles = aligned_bytes(configuration.size)
        self._tiles[:] = configuration
        self._addresses = (self.plan.constants.ctypes.data, self._tiles.ctypes.data)  # asking costs a microsecond each
        self._arenas: SimpleQueue[Array] = SimpleQueue()

    def run(self, images: Array) -> tuple[Array, Mapping[str, int]]:
        """uint8 (images, height, width, channels) -> logits int64 (images, classes), and clamped sums by addition."""
        arena = self._take_arena()
        logits, counts = self._run_in(arena, np.ascontiguousarray(images))
        self._arenas.put(arena)
        return logits, counts

    def tensor_values(self, images: Array) -> tuple[Mapping[str, Array], Mapping[str, int]]:
        """Every tensor in memory, int64 (images, height, width, channels), and clamped sums by addition.

        With `store_all` that is every tensor, else what no other tensor has taken the place of.
        """
        arena = self._take_arena()
        places = {name: place for name, place in self.plan.places.items() if name in self.program.tensor}
        values: dict[str, list[Array]] = {name: [] for name in places}
        counts: Counter[str] = Counter(dict.fromkeys(self.plan.additions, 0))
        for index in range(len(images)):
            _, clamped = self._run_in(arena, np.ascontiguousarray(images[index : index + 1], np.uint8))
            counts.update(clamped)
            for name, place in places.items():
                values[name].append(read_codes(arena, place.form, place.offset))
        self._arenas.put(arena)
        return {name: np.stack(of_images) for name, of_images in values.items()}, counts

    def prepare(self) -> None:
        """Compile what `run` calls, or load it, and get one arena ready."""
        arena = self._take_arena()
        self._run_in(arena, np.zeros((0, *self.program.tensor[self.program.input].shape), np.uint8))
        self._arenas.put(arena)

    def _take_arena(self) -> Array:
        try:
            return self._arenas.get_nowait()
        except Empty:
            return new_arena(self.plan)

    def _run_in(self, arena: Array, images: Array) -> tuple[Array, Mapping[str, int]]:
        plan = self.plan
        start = arena.ctypes.data
        classes = self.program.tensor[self.program.output].shape[2]
        logits = np.zeros((len(images), classes), np.int64)
        counts = np.zeros(max(1, len(plan.additions)), np.int64)
        scratch = (start + plan.slots, start + plan.sums, start + plan.panel)
        constants, tiles = self._addresses
        self._run(
            plan.table,
            constants,
            start,
            counts.ctypes.data,
            *scratch,
            tiles,
            images.ctypes.data,
            math.prod(images.shape[1:]),
            len(images),
            logits.ctypes.data,
            8 * classes,
        )
        return logits, dict(zip(plan.additions, counts.tolist(), strict=False))


def new_arena(plan: Plan) -> Array:
    """Memory for one thread, with borders filled."""
    arena = aligned_bytes(plan.arena_bytes)
    for fill in plan.fills:
        part = arena[fill.offset : fill.offset + fill.size_bytes]
        unsigned = fill.element_bytes == 1
        part.view(np.uint8 if unsigned else f"i{fill.element_bytes}")[:] = fill.element
    return arena


def read_codes(arena: Array, form: Form, offset: int) -> Array:
    """The codes of a stored tensor, int64 (height, width, channels)."""
    height, width, channels = form.shape
    parts = []
    for number in range(-(-form.channels // 64)):
        start, pitch = form.block(number)
        part = arena[offset + start : offset + start + form.pixels * pitch]
        typed = part.view("u1" if form.size == 1 else f"i{form.size}").astype(np.int64)
        plane = typed.reshape(-1, form.row_pixels, pitch // form.size)
        parts.append(plane[form.pads[0] : form.pads[0] + height, form.pads[1] : form.pads[1] + width])
    stored = np.concatenate(parts, axis=2)[:, :, :channels]
    return (stored >> form.shift) + form.bias
