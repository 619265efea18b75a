"""Layers, and programs that are chains of them, for `benchmarks/kernels.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from turns import Contender

from bnhw.dtypes import Array, IntegerType
from bnhw.fused import FusedProgram
from bnhw.kernels.packing import pack_bits
from bnhw.machine import Machine
from bnhw.ops import Window
from bnhw.options import RequantiseMode
from bnhw.plan import make_plan
from bnhw.plan_interpreter import interpreter_of
from bnhw.plan_methods import Method
from bnhw.program import Convolve, Instruction, Program, Provenance, Requantise, SumGlobal, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A 3x3 convolution with as many output as input channels on size x size pixels."""

    channels: int
    size: int
    bits: int
    bipolar: bool = False

    @property
    def name(self) -> str:
        """Channels @ size, and what the activations are."""
        return f"{self.channels}@{self.size} {'bipolar' if self.bipolar else f'{self.bits}-bit'}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, padded taps included."""
        return 9 * self.channels**2 * self.size**2


SIZES = ((3, 32), (16, 32), (64, 32), (160, 32), (320, 16), (640, 8))
BITS = (8, 4, 2)
TABLE_SIZES = ((64, 32), (128, 16), (160, 32), (320, 16), (256, 8), (640, 8))


def all_layers() -> list[Layer]:
    """Every size with k-bit and with bipolar activations."""
    sized = [Layer(channels=c, size=s, bits=b) for c, s in SIZES for b in BITS]
    return sized + [Layer(channels=c, size=s, bits=1, bipolar=True) for c, s in SIZES]


def table_layers() -> list[Layer]:
    """Those of the table that other engines are compared on: 8-bit activations."""
    return [Layer(channels=c, size=s, bits=8) for c, s in TABLE_SIZES]


def chain(layer: Layer, length: int) -> Program:
    """A stem from 3 channels and `length` layers, each requantised to the layer's codes."""
    random = np.random.default_rng(0)
    bits = IntegerType(bits=layer.bits, signed=False)
    shape = (layer.size, layer.size, layer.channels)
    tensors = [Tensor(name="image", shape=(*shape[:2], 3), dtype=IntegerType(bits=8, signed=False), scale=1.0)]
    instructions: list[Instruction] = []
    constants: dict[str, Array] = {"shift": np.full((1, 1), 8 + layer.channels.bit_length() // 2 - layer.bits)}
    constants["offset"] = np.full((1, 1), 1 << 7)
    for number in range(length + 1):
        source, sums, codes = tensors[-1], f"sums{number}", f"codes{number}"
        weight_shape = (layer.channels, 3, 3, source.shape[2])
        constants[f"weights{number}"] = pack_bits(random.integers(0, 2, weight_shape).astype(bool).reshape(-1))
        limit = int(np.prod(weight_shape[1:])) * source.dtype.high
        instructions.append(_convolve(source.name, sums, f"weights{number}", weight_shape))
        instructions.append(_requantise(sums, codes, bits.high))
        tensors.append(Tensor(name=sums, shape=shape, dtype=IntegerType.containing(-limit, limit), scale=1.0))
        tensors.append(Tensor(name=codes, shape=shape, dtype=bits, scale=1.0, bipolar=layer.bipolar))
    total = IntegerType(bits=8 + layer.bits + layer.channels.bit_length() + 2 * layer.size.bit_length(), signed=True)
    instructions.append(SumGlobal(inputs=(codes,), output="logits"))
    tensors.append(Tensor(name="logits", shape=(1, 1, layer.channels), dtype=total, scale=1.0))
    return Program(
        name=layer.name,
        instructions=tuple(instructions),
        tensors=tuple(tensors),
        constants=constants,
        input="image",
        output="logits",
        provenance=Provenance(producer="benchmark", source_name="", source_sha256="0" * 64, options={}),
    )


def method_of(layer: Layer, kernels: str) -> Method:
    """How a program's interpreter does the layer."""
    return make_plan(chain(layer, 1), interpreter_of(kernels)).methods["sums1"]


def _convolve(source: str, sums: str, weights: str, weight_shape: tuple[int, int, int, int]) -> Convolve:
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    return Convolve(
        inputs=(source,), output=sums, weights=weights, weight_bits=1, weight_shape=weight_shape, window=window
    )


def _requantise(sums: str, codes: str, high: int) -> Requantise:
    return Requantise(
        inputs=(sums,),
        output=codes,
        mode=RequantiseMode.SHIFT,
        multiplier="",
        offset="offset",
        shift="shift",
        position_classes="",
        multiplier_bits=2,
        digits=0,
        low=0,
        high=high,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """The stem alone and the stem with `length` layers behind it, random images, and the last one's logits of both."""

    layer: Layer
    length: int
    programs: tuple[Program, Program]
    images: Array
    expected: tuple[Array, Array]

    @classmethod
    def make(cls, layer: Layer, length: int, batch: int) -> "Chains":
        """Both programs, and what they must give by the reference."""
        random = np.random.default_rng(1)
        images = random.integers(0, 256, (batch, layer.size, layer.size, 3)).astype(np.uint8)
        programs = (chain(layer, 0), chain(layer, length))
        stem, whole = (Machine(program, "reference").run(images[-1:]).logits for program in programs)
        return cls(layer=layer, length=length, programs=programs, images=images, expected=(stem, whole))

    def compiled(self, kernels: str) -> tuple[FusedProgram, FusedProgram]:
        """Both programs under one of `FUSED_CHOICES`; raises AssertionError if one is not exact."""
        made = (FusedProgram(self.programs[0], kernels), FusedProgram(self.programs[1], kernels))
        for program, expected in zip(made, self.expected, strict=True):
            logits, _ = program.run(self.images)
            assert np.array_equal(logits[-1:], expected), f"{kernels} is not exact on {self.layer.name}"
        return made

    def contender(self, made: tuple[FusedProgram, FusedProgram]) -> Contender:
        """What `compiled` made, to be timed."""
        return Contender(short=_call(made[0], self.images), long=_call(made[1], self.images), layers=self.length)


def _call(program: FusedProgram, images: Array) -> Callable[[], Any]:
    return lambda: program.run(images)


def memory_bytes(program: FusedProgram) -> int:
    """What a thread works in, and all constants."""
    return program.plan.arena_bytes + program.plan.constants.nbytes


def overhead(made: tuple[FusedProgram, FusedProgram], chains: Chains) -> Mapping[str, Contender]:
    """The long chain through `Machine.run`, as `auto` chooses, beside the bare compiled one."""
    machine = Machine(chains.programs[1], "auto")
    bare = _call(made[1], chains.images)
    assert np.array_equal(machine.run(chains.images[-1:]).logits, chains.expected[1]), "Machine is not exact"
    nothing: Callable[[], Any] = lambda: None  # noqa: E731
    through = Contender(short=nothing, long=lambda: machine.run(chains.images), layers=1)
    return {"bare": Contender(short=nothing, long=bare, layers=1), "machine": through}
