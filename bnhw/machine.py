"""Bit-exact execution of integer programs; no clock and no energy here.

A `Machine` is a program made ready for one set of kernels. Every instruction is executed as NUMERICS defines
it; which kernels do it changes the time and nothing else.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bnhw.checked import check_widths, kernel_coding, kernel_geometry
from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.fused import FusedProgram
from bnhw.images import fit_pixels
from bnhw.kernels.packing import pack_bits
from bnhw.kernels.select import FUSED_CHOICES, REFERENCE_CHOICES, KernelSet, check_kernels, fused_choice, kernel_set
from bnhw.kernels.types import BinaryWeights, IntegerWeights, PreparedConvolution
from bnhw.plan_order import unplanned_kinds
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    LookUp,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Tensor,
    Threshold,
)

CHUNK_BYTES = 64 << 20
"""Images are executed in chunks whose largest tensor takes about this much, so memory does not grow with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What `run` returns.

    logits: int64 (images, classes); real logits are `scale * logits`. saturations: by instruction, how many
    sums of residual additions were clamped. kernels: by convolution, the kernel that ran it, such as
    "multiplexer", or in whole programs "vnni counted" (see `bnhw.plan_methods`). seconds: wall time of the execution
    without preparation.
    """

    logits: Array
    scale: float
    saturations: Mapping[str, int]
    kernels: Mapping[str, str]
    seconds: float

    @property
    def predictions(self) -> Array:
        """The class of each image, int64 (images,); the lowest number wins a tie."""
        return np.asarray(self.logits.argmax(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One executed instruction: its result (images, height, width, channels) and the saturated sums."""

    instruction: Instruction
    value: Array
    saturations: int


Outcome = tuple[Array, Mapping[str, int]]
"""Logits and saturations of some images."""

Spread = Callable[[Callable[[slice], Outcome], list[slice]], Iterator[Outcome]]


@contextmanager
def _workers(threads: int) -> Iterator[Spread]:
    """`map` over so many threads; on one, none is started, which takes as long as a small network."""
    if threads <= 1:
        yield map
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        yield pool.map


class Machine:
    """A program ready to run with one of `bnhw.kernels.select.KERNEL_CHOICES`.

    `run` executes whole programs in one compiled call where `fused_choice` names a way, else instruction by
    instruction as `steps` always does. Raises BadInput for an unknown choice, or one that this machine cannot have.
    """

    def __init__(self, program: Program, kernels: str = "auto") -> None:
        self.program = program
        try:
            check_kernels(kernels)
        except ValueError as error:
            raise BadInput(str(error)) from error
        self.choice = kernels
        unplanned = unplanned_kinds(program)
        if unplanned and kernels in FUSED_CHOICES:
            raise BadInput(f"kernels: {kernels!r} cannot run the instructions {', '.join(unplanned)}; choose auto")
        self.fused_kernels = None if unplanned else fused_choice(kernels)

    @cached_property
    def kernel_set(self) -> KernelSet:
        """The operations that `steps` runs with."""
        return kernel_set(self.choice)

    @cached_property
    def convolutions(self) -> Mapping[str, PreparedConvolution]:
        """The convolutions as `steps` runs them, by instruction."""
        return {i.output: self._prepare(i) for i in self.program.instructions if isinstance(i, Convolve)}

    @cached_property
    def fused(self) -> FusedProgram | None:
        """The whole program as `run` runs it, or None where it runs instruction by instruction."""
        return FusedProgram(self.program, self.fused_kernels) if self.fused_kernels else None

    @property
    def executors(self) -> "tuple[Machine | FusedMachine, ...]":
        """All ways in which this machine may execute the program, to be compared with others."""
        return (self, FusedMachine(self.program, self.fused_kernels)) if self.fused_kernels else (self,)

    @property
    def name(self) -> str:
        """The choice of kernels."""
        return self.choice

    def _prepare(self, instruction: Convolve) -> PreparedConvolution:
        weights = self.program.weights_of(instruction)
        packed: BinaryWeights | IntegerWeights
        if instruction.weight_bits == 1:
            packed = BinaryWeights(words=pack_bits(weights > 0), channels_per_group=weights.shape[3])
        else:
            packed = IntegerWeights(values=weights)
        source = self.program.tensor[instruction.inputs[0]]
        geometry = kernel_geometry(instruction.window, instruction.groups)
        return self.kernel_set.prepare_convolution(packed, geometry, kernel_coding(source))

    def steps(self, images: Array) -> Iterator[Step]:
        """Execute `images` (uint8, (images, height, width, channels)) and yield every instruction's result.

        Raises WidthExceeded in checked mode, see `bnhw.checked`.
        """
        dtype = np.int64 if self.choice in REFERENCE_CHOICES else np.int32
        values: dict[str, Array] = {self.program.input: np.ascontiguousarray(images, dtype)}
        for position, instruction in enumerate(self.program.instructions):
            inputs = [values[name] for name in instruction.inputs]
            value, saturations = self._execute(instruction, inputs)
            if self.choice == "checked":
                check_widths(self.program, instruction, inputs, value)
            yield Step(instruction=instruction, value=value, saturations=saturations)
            values[instruction.output] = value
            for name in set(instruction.inputs):
                if self.program.last_uses[name] == position:
                    del values[name]

    def _execute(self, instruction: Instruction, inputs: list[Array]) -> tuple[Array, int]:
        program, kernels = self.program, self.kernel_set
        zero_point = program.tensor[instruction.inputs[0]].zero_point
        match instruction:
            case Convolve():
                return self.convolutions[instruction.output](inputs[0]), 0
            case Requantise():
                return self._requantise(instruction, inputs[0]), 0
            case Threshold():
                return self._threshold(instruction, inputs[0]), 0
            case LookUp(table=table):
                return kernels.lookup(inputs[0], program.constants[table]), 0
            case AddSaturating(low=low, high=high):
                return kernels.add(inputs[0], inputs[1], low, high)
            case Multiply(inputs=(_, second)):
                return kernels.multiply(inputs[0], inputs[1], zero_point, program.tensor[second].zero_point), 0
            case PoolSum(window=window):
                return kernels.sum_pool(inputs[0], kernel_geometry(window), zero_point), 0
            case PoolMaximum(window=window):
                return kernels.max_pool(inputs[0], kernel_geometry(window)), 0
            case PadChannels(before=before, after=after):
                return kernels.pad_channels(inputs[0], before, after, zero_point), 0
            case Join():
                return kernels.concatenate(inputs), 0
            case SumGlobal():
                return kernels.global_sum(inputs[0], zero_point), 0
        raise AssertionError(f"no execution for {instruction.kind}")

    def _requantise(self, instruction: Requantise, acc: Array) -> Array:
        constants = self.program.constants
        offset, shift = constants[instruction.offset], constants[instruction.shift]
        multiplier = constants[instruction.multiplier] if instruction.multiplier else np.ones_like(offset)
        classes = constants[instruction.position_classes] if instruction.position_classes else None
        return self.kernel_set.requantise(acc, multiplier, offset, shift, classes, instruction.low, instruction.high)

    def _threshold(self, instruction: Threshold, acc: Array) -> Array:
        constants = self.program.constants
        falling = constants[instruction.falling] if instruction.falling else None
        classes = constants[instruction.position_classes] if instruction.position_classes else None
        return self.kernel_set.threshold(acc, constants[instruction.thresholds], falling, classes, instruction.low)

    def run(self, images: Array, *, threads: int = 1, progress: Callable[[int], None] | None = None) -> Result:
        """Execute a batch of images.

        images: uint8 (images, height, width, channels), or (images, height, width) for one channel. threads:
        images are split over so many worker threads. progress: called with the number of images done.
        Raises BadInput where the images do not fit the program.
        """
        batch = fit_images(self.program, images)
        if threads < 1:
            raise BadInput(f"threads is {threads}; at least 1 is needed")
        kernels = self._prepared
        chunks = self._chunks(len(batch), threads)
        logits = np.zeros((len(batch), self.program.tensor[self.program.output].shape[2]), np.int64)
        saturations: dict[str, int] = {}
        start = time.perf_counter()
        done = 0
        with _workers(min(threads, len(chunks))) as spread:
            for chunk, (values, clamped) in zip(
                chunks, spread(lambda part: self._run_chunk(batch[part]), chunks), strict=True
            ):
                logits[chunk] = values
                for name, count in clamped.items():
                    saturations[name] = saturations.get(name, 0) + count
                done += len(values)
                if progress is not None:
                    progress(done)
        return Result(
            logits=logits,
            scale=self.program.tensor[self.program.output].scale,
            saturations=saturations,
            kernels=kernels,
            seconds=time.perf_counter() - start,
        )

    @cached_property
    def _prepared(self) -> Mapping[str, str]:
        """Make ready what `run` needs, once; the kernel of each convolution."""
        if self.fused is None:
            return {name: prepared.kernel for name, prepared in self.convolutions.items()}
        self.fused.prepare()
        return {name: f"{self.fused.kernels} {method}" for name, method in self.fused.plan.methods.items()}

    @cached_property
    def _largest_bytes(self) -> int:
        return 8 * max(tensor.size for tensor in self.program.tensors)

    def _chunks(self, images: int, threads: int) -> list[slice]:
        size = max(1, min(CHUNK_BYTES // self._largest_bytes, -(-images // threads)))
        return [slice(start, start + size) for start in range(0, images, size)]

    def _run_chunk(self, images: Array) -> tuple[Array, Mapping[str, int]]:
        if self.fused is not None:
            return self.fused.run(images)
        saturations: dict[str, int] = {}
        value = images
        output = self.program.output
        for step in self.steps(images):
            if step.instruction.output == output:
                value = step.value
            if isinstance(step.instruction, AddSaturating):
                saturations[step.instruction.output] = step.saturations
        return value.reshape(len(images), -1).astype(np.int64), saturations


class FusedMachine:
    """A whole program in one compiled call, with every tensor to be seen: what `Machine.run` runs, to be compared.

    kernels: one of `bnhw.kernels.select.FUSED_CHOICES` that this machine can run.
    """

    def __init__(self, program: Program, kernels: str) -> None:
        self.program = program
        self.fused = FusedProgram(program, kernels, store_all=True)
        self.name = f"{kernels}, whole program"

    def steps(self, images: Array) -> Iterator[Step]:
        """Every instruction's result, as `Machine.steps` gives it; the saturated sums of all images together."""
        values, counts = self.fused.tensor_values(images)
        for instruction in self.program.instructions:
            name = instruction.output
            yield Step(instruction=instruction, value=values[name], saturations=counts.get(name, 0))


def image_tensor(program: Program) -> Tensor:
    """The tensor that images are."""
    return program.tensor[program.input]


def fit_images(program: Program, images: Array) -> Array:
    """`images` as uint8 (images, height, width, channels) of the program's size; see `fit_pixels`."""
    return fit_pixels(images, image_tensor(program).shape)
