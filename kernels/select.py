"""Which kernel runs which convolution, and the set of operations that a program is executed with.

`choose` states the policy and `PLANE_LANES_LIMITS` the measurements behind it. CPU features, never CPU names,
decide; they are those that LLVM reports for this machine, so one table serves x86-64 and AArch64.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any, Literal, Self, TypeAlias

import numpy.typing as npt
from llvmlite import binding

from bnhw.kernels import reference
from bnhw.kernels.packing import WORD_BITS, count_words
from bnhw.kernels.permission import request_permission
from bnhw.kernels.types import (
    MAX_BIT_SERIAL_BITS,
    BinaryWeights,
    Coding,
    Geometry,
    IntArray,
    PreparedConvolution,
    Weights,
    check_convolution,
)

KERNEL_CHOICES = ("auto", "amx", "vnni", "avx2", "portable", "reference", "multiplexer", "bit_serial", "checked")
KERNELS_VARIABLE = "BNHW_KERNELS"
"""Environment variable that holds one of `KERNEL_CHOICES`."""

REFERENCE_CHOICES = frozenset({"reference", "checked"})
"""Choices that run the reference: int64 in and out. Whoever executes a `checked` program asserts its widths too."""

FUSED_CHOICES: Mapping[str, frozenset[str]] = {
    "amx": frozenset({"amx-int8", "amx-tile", "avx512f", "avx512bw", "avx512vl", "avx512dq"}),
    "vnni": frozenset({"avx512vnni", "avx512f", "avx512bw", "avx512vl", "avx512dq"}),
    "avx2": frozenset({"avx2"}),
    "portable": frozenset(),
}
"""Choices that execute a whole program in one compiled call, the fastest first, and the CPU features they need."""

AUTO_FEATURES: Mapping[str, str] = {"amx": "", "vnni": "", "avx2": "", "portable": "sse2"}
"""Those of `FUSED_CHOICES` that `auto` takes, the first that the machine can run and that has a CPU feature.

"portable" is taken on x86-64 alone, where it takes a sixth of the time of single instructions (a WRN-20-10 with 8-bit
codes, code generation limited to baseline x86-64): it has not run on other processors yet, only been compiled for
AArch64.
"""

COUNTED_PLANES: Mapping[str, tuple[str, int]] = {
    "amx": ("", 0),
    "vnni": ("avx512vpopcntdq", 3),
    "avx2": ("avx2", 1),
    "portable": ("", 4),
}
"""Of each of `FUSED_CHOICES`: how many bit planes are counted in less time than their codes are multiplied in, where
the machine has a CPU feature (the empty name is every machine); else none are counted.

Measured in the first cache, code generation limited to each choice on one machine (giga-MAC per second, planes counted
in one): vnni 227 against 1200, avx2 157 against 350, portable 26 against 110. Processors with two units for
`vpdpbusd` multiply twice as fast.
"""

TRANSFORMED_PLANES: Mapping[str, int] = {"amx": 0, "vnni": 3, "avx2": 1, "portable": 1}
"""The same of 3x3 convolutions that `bnhw.kernels.fused.winograd` could transform, in the same time whatever the bits.

Measured on layers of 64 to 640 channels (giga-MAC per second, one plane counted against codes transformed): vnni 910 to
1100 against 340 to 410 (3 planes are a tie: 360 to 390), avx2 290 to 330 against 235 to 265, portable on the same
features 290 to 340 against 220 to 245, on baseline x86-64 96 to 104 against 86 to 93.
"""

TABULATED_FEATURES: Mapping[str, frozenset[str]] = {"vnni": frozenset({"sse4a"})}
"""Choices that know `bnhw.kernels.fused.tabulated`, and features of processors on which tables are fast.

AMD's processors, which alone have "sse4a", finish a look-up in two registers of AVX-512 with every cycle (measured on
Zen 4). Others need two cycles, by published tables of instructions, which transforms are a match for.
"""

TABULATED_PLANES: Mapping[str, int] = {"vnni": 2}
"""Like `TRANSFORMED_PLANES`, of convolutions whose sums could be looked up, in the same time whatever the bits.

Measured on the same layers (giga-MAC per second): 2 planes 510 to 580 counted against 300 to 490 looked up, 3 planes
360 to 390.
"""

COUNTED_CHANNELS: Mapping[str, int] = {"amx": 64, "vnni": 32, "avx2": 64, "portable": 64}
"""Channels that each of `FUSED_CHOICES` counts in a word: AVX-512 counts 32 bits as fast as 64, and then needs no
narrowing and fills its words better; other machines count 64 bits in fewer instructions.
"""

WeightsKind: TypeAlias = Literal["binary", "integer"]

PLANE_LANES_LIMITS: tuple[tuple[str, float], ...] = (
    ("avx512vpopcntdq", 20),
    ("avx2", 11),
    ("neon", 11),
    ("", 8),
)
"""(CPU feature, most bit-plane lanes per channel at which popcounts still beat the multiplexer).

The first feature that the machine has counts; the empty name is every machine. Plane lanes per channel is
`bits * 64 * words / channels`, so k-bit codes in full words cost k. Measured as the crossover of the two
kernels on 3x3 layers of 3..160 input channels with 1..8-bit codes, code generation limited to each feature on
one machine; the value for "neon" is carried over from "avx2", not measured.
"""


def choose(
    choice: str,
    weights_kind: WeightsKind,
    coding: Coding,
    features: frozenset[str],
    channels_per_group: int = WORD_BITS,
) -> str:
    """Name of the kernel that convolves; `channels_per_group` are the input channels of one output channel.

    | weights | choice | codes | kernel |
    |---|---|---|---|
    | any | reference, checked | any | reference |
    | integer | any other | any | multiply |
    | binary | multiplexer | any | multiplexer |
    | binary | bit_serial, auto | more than 8 bits | multiplexer |
    | binary | auto | too many plane lanes per channel, see `PLANE_LANES_LIMITS` | multiplexer |
    | binary | bit_serial, auto | bipolar | xnor |
    | binary | bit_serial, auto | 1..8 bits | bit_serial |

    Those of `FUSED_CHOICES` execute whole programs (`fused_choice`); for single instructions they are as auto.
    A choice is made for a whole program, so "bit_serial" falls back to the multiplexer rather than refuse a
    program that has one wide tensor. Raises ValueError for an unknown choice or kind of weights.
    """
    check_choice(choice)
    if weights_kind not in {"binary", "integer"}:
        raise ValueError(f"kernels: weights kind {weights_kind!r}, expected 'binary' or 'integer'")
    if choice in REFERENCE_CHOICES:
        return "reference"
    if weights_kind == "integer":
        return "multiply"
    if choice == "multiplexer" or coding.bits > MAX_BIT_SERIAL_BITS:
        return "multiplexer"
    lanes_per_channel = coding.bits * count_words(channels_per_group) * WORD_BITS / channels_per_group
    limit = next(lanes for feature, lanes in PLANE_LANES_LIMITS if not feature or feature in features)
    if choice != "bit_serial" and lanes_per_channel > limit:
        return "multiplexer"
    return "xnor" if coding.bipolar else "bit_serial"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConvolution:
    """`reference.convolution` behind the interface of a prepared convolution (int64 in and out)."""

    weights: Weights
    geometry: Geometry
    coding: Coding
    kernel: str = "reference"

    @classmethod
    def prepare(cls, weights: Weights, geometry: Geometry, coding: Coding) -> Self:
        """Keep the weights as they are."""
        check_convolution(weights, geometry, coding)
        return cls(weights=weights, geometry=geometry, coding=coding)

    def __call__(self, codes: IntArray) -> IntArray:
        """Codes of any integer dtype (N, H, W, C) -> accumulators int64 (N, OH, OW, O)."""
        return reference.convolution(codes, self.weights.integers(), self.geometry, self.coding)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSet:
    """The operations that execute a program; arguments and meanings are those of `bnhw.kernels.reference`."""

    choice: str
    prepare_convolution: Callable[[Weights, Geometry, Coding], PreparedConvolution]
    requantise: Callable[
        [IntArray, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None, int, int], IntArray
    ]
    threshold: Callable[[IntArray, npt.ArrayLike, npt.ArrayLike | None, npt.ArrayLike | None, int], IntArray]
    lookup: Callable[[IntArray, npt.ArrayLike], IntArray]
    add: Callable[[IntArray, IntArray, int, int], tuple[IntArray, int]]
    multiply: Callable[[IntArray, IntArray, int, int], IntArray]
    sum_pool: Callable[[IntArray, Geometry, int], IntArray]
    max_pool: Callable[[IntArray, Geometry], IntArray]
    pad_channels: Callable[[IntArray, int, int, int], IntArray]
    concatenate: Callable[[Sequence[IntArray]], IntArray]
    global_sum: Callable[[IntArray, int], IntArray]


@cache
def host_features() -> frozenset[str]:
    """Features of this machine's CPU as LLVM names them, such as "avx512vpopcntdq" or "neon"."""
    return frozenset(name for name, present in binding.get_host_cpu_features().items() if present)


def generated_features() -> frozenset[str]:
    """Those of `host_features` that Numba's settings let it generate code for.

    Of a processor that is named there, only those are known that every one has.
    """
    features, settings = host_features(), os.environ  # not Numba's own table: loading Numba takes most of a second
    if settings.get("NUMBA_CPU_NAME") or "NUMBA_CPU_FEATURES" in settings:
        listed = settings.get("NUMBA_CPU_FEATURES", "").split(",")
        features &= {"sse2", "neon", *(name.strip()[1:] for name in listed if name.strip().startswith("+"))}
    if settings.get("NUMBA_ENABLE_AVX", "1") == "0":
        features = frozenset(name for name in features if not name.startswith("avx"))
    return features


def missing_for(choice: str) -> str:
    """What this machine lacks for one of `FUSED_CHOICES`, in words; empty where it has everything."""
    missing = FUSED_CHOICES[choice] - host_features()
    if missing:
        return f"the CPU features {', '.join(sorted(missing))}"
    if choice == "amx" and not request_permission():
        return "the operating system's permission to use AMX tiles"
    return ""


def counted_planes(choice: str) -> int:
    """How many bit planes whole programs count under one of `FUSED_CHOICES`; see `COUNTED_PLANES`."""
    feature, planes = COUNTED_PLANES[choice]
    return planes if not feature or feature in host_features() else 0


def tabulates(choice: str) -> bool:
    """Whether whole programs look sums up under one of `FUSED_CHOICES`; see `TABULATED_FEATURES`."""
    return choice in TABULATED_FEATURES and TABULATED_FEATURES[choice] <= host_features()


def check_runnable(choice: str) -> None:
    """Raise ValueError where this machine cannot run one of `FUSED_CHOICES`: its code would end the process."""
    missing = missing_for(choice)
    if missing:
        others = ", ".join(runnable_choices())
        raise ValueError(f"kernels: this machine cannot run {choice!r}, it lacks {missing}; choose one of {others}")


def runnable_choices() -> tuple[str, ...]:
    """Those of `KERNEL_CHOICES` that this machine can run."""
    return tuple(choice for choice in KERNEL_CHOICES if choice not in FUSED_CHOICES or not missing_for(choice))


def fused_choice(choice: str) -> str | None:
    """Which of `FUSED_CHOICES` executes whole programs under a choice of kernels, or None for single instructions.

    `auto` takes the first of `AUTO_FEATURES` that this machine can run, and Numba's settings let it.
    """
    if choice in FUSED_CHOICES:
        return choice
    if choice != "auto":
        return None
    features = generated_features() | {""}
    able = (fused for fused, has in AUTO_FEATURES.items() if {has, *FUSED_CHOICES[fused]} <= features)
    return next((fused for fused in able if not missing_for(fused)), None)


def default_choice() -> str:
    """The choice that BNHW_KERNELS names in the environment, else "auto"; ValueError on another name."""
    choice = os.environ.get(KERNELS_VARIABLE) or "auto"
    if choice not in KERNEL_CHOICES:
        raise ValueError(f"{KERNELS_VARIABLE}={choice!r}: expected one of {', '.join(KERNEL_CHOICES)}")
    return choice


def check_choice(choice: str) -> None:
    """Raise ValueError unless `choice` is one of `KERNEL_CHOICES`."""
    if choice not in KERNEL_CHOICES:
        raise ValueError(f"kernels: {choice!r} is no choice of kernels, expected one of {', '.join(KERNEL_CHOICES)}")


def prepare_convolution(weights: Weights, geometry: Geometry, coding: Coding, *, choice: str) -> PreparedConvolution:
    """Rearrange the weights for the kernel that `choose` names on this machine.

    Raises ValueError when weights, geometry and coding do not describe one convolution.
    """
    check_convolution(weights, geometry, coding)
    kind: WeightsKind = "binary" if isinstance(weights, BinaryWeights) else "integer"
    name = choose(choice, kind, coding, host_features(), weights.channels_per_group)
    return PREPARE[name](weights, geometry, coding)


def _prepare_with(module: str, name: str) -> Callable[[Any, Geometry, Coding], PreparedConvolution]:
    """The preparation of a class that is imported, and Numba with it, when the first convolution asks for it."""

    def prepare(weights: Any, geometry: Geometry, coding: Coding) -> PreparedConvolution:
        prepared: PreparedConvolution = getattr(import_module(module), name).prepare(weights, geometry, coding)
        return prepared

    return prepare


PREPARE: dict[str, Callable[[Any, Geometry, Coding], PreparedConvolution]] = {
    "reference": ReferenceConvolution.prepare,
    "xnor": _prepare_with("bnhw.kernels.convolution_xnor", "XnorConvolution"),
    "bit_serial": _prepare_with("bnhw.kernels.convolution_bit_serial", "BitSerialConvolution"),
    "multiplexer": _prepare_with("bnhw.kernels.convolution_multiplexer", "MultiplexerConvolution"),
    "multiply": _prepare_with("bnhw.kernels.convolution_multiply", "MultiplyConvolution"),
}
"""Kernel name -> its preparation; multiply takes IntegerWeights, the others but reference BinaryWeights."""


def check_kernels(choice: str) -> None:
    """Raise ValueError unless `choice` is one of `KERNEL_CHOICES` that this machine can run."""
    check_choice(choice)
    if choice in FUSED_CHOICES:
        check_runnable(choice)


def kernel_set(choice: str) -> KernelSet:
    """The operations under one of `KERNEL_CHOICES`; ValueError on any other name or one this machine cannot run.

    The sets of `REFERENCE_CHOICES` take and give int64, the others int32 (see `bnhw.kernels.portable`).
    """
    check_kernels(choice)
    operations: Any = reference if choice in REFERENCE_CHOICES else import_module("bnhw.kernels.portable")
    return KernelSet(
        choice=choice,
        prepare_convolution=partial(prepare_convolution, choice=choice),
        requantise=operations.requantise,
        threshold=operations.threshold,
        lookup=operations.lookup,
        add=operations.add,
        multiply=operations.multiply,
        sum_pool=operations.sum_pool,
        max_pool=operations.max_pool,
        pad_channels=operations.pad_channels,
        concatenate=operations.concatenate,
        global_sum=operations.global_sum,
    )
