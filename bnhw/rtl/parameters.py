"""The parameters of the Verilog engine, from an engine's description."""

from collections.abc import Mapping

from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import Arch, Dataflow, Datapath, Post
from bnhw.hardware.trace import MemoryKind

DATAPATHS = (Datapath.MUX, Datapath.AND, Datapath.XNOR, Datapath.MUL)
"""By the number that `dot.v` knows them by."""

POSTS = (Post.SHIFT, Post.CSD, Post.MULTIPLY)
"""By the number that `post_arithmetic.v` knows them by."""

HOST_MEMORIES = (
    MemoryKind.ACTIVATIONS,
    MemoryKind.RESIDUALS,
    MemoryKind.WEIGHTS,
    MemoryKind.CONSTANTS,
    MemoryKind.THRESHOLDS,
    MemoryKind.LOOKUPS,
    MemoryKind.CLASSES,
    MemoryKind.DESCRIPTORS,
)
"""By the number that `host_port.v` knows them by."""

HOST_BITS = 64
"""Bits of a beat of the host port."""


def sum_bits(datapath: Datapath, simd: int, act_bits: int, weight_bits: int) -> int:
    """Bits of the sum of one cycle of one PE, with its sign; see `dot.v`."""
    tree = (simd - 1).bit_length()
    match datapath:
        case Datapath.XNOR:
            return tree + 2
        case Datapath.MUL:
            return act_bits + weight_bits + tree
        case _:
            return act_bits + tree + 1


def parameters(arch: Arch, host_bits: int = HOST_BITS) -> Mapping[str, int]:
    """Every parameter of `engine.v` by name.

    Raises ArchMismatch for an engine that the Verilog does not build.
    """
    if arch.dataflow is not Dataflow.OUTPUT_STATIONARY:
        problem = (
            f"dataflow = {arch.dataflow.value!r}: the Verilog is output-stationary; set dataflow = 'output-stationary'"
        )
        raise ArchMismatch([problem], model="the Verilog", arch=arch.name)
    words = {kind: arch.memories[kind].words if kind in arch.memories else 1 for kind in HOST_MEMORIES}
    return {
        "PE": arch.pe,
        "SIMD": arch.simd,
        "DATAPATH": DATAPATHS.index(arch.datapath),
        "ACT_BITS": arch.act_bits,
        "WEIGHT_BITS": arch.weight_bits,
        "SUM_BITS": sum_bits(arch.datapath, arch.simd, arch.act_bits, arch.weight_bits),
        "ACC_BITS": arch.acc_bits,
        "RESIDUAL_BITS": arch.residual_bits,
        "RESULT_BITS": arch.result_bits,
        "POST": POSTS.index(arch.post),
        "CSD_DIGITS": arch.csd_digits,
        "MULTIPLIER_BITS": arch.multiplier_bits,
        "OFFSET_BITS": arch.offset_bits,
        "SHIFT_BITS": arch.shift_bits,
        "COMPARATORS": arch.comparators,
        "LOOKUPS": arch.lookups,
        "PRODUCT_BITS": arch.product_bits,
        "CLASS_BITS": arch.class_bits,
        "RECORD_BITS": arch.record_bits,
        "ACTIVATION_WORDS": words[MemoryKind.ACTIVATIONS],
        "RESIDUAL_WORDS": words[MemoryKind.RESIDUALS],
        "RESIDUAL_PORTS": arch.memories[MemoryKind.RESIDUALS].read_ports,
        "WEIGHT_WORDS": words[MemoryKind.WEIGHTS],
        "CONSTANT_WORDS": words[MemoryKind.CONSTANTS],
        "THRESHOLD_WORDS": words[MemoryKind.THRESHOLDS],
        "LOOKUP_WORDS": words[MemoryKind.LOOKUPS],
        "CLASS_WORDS": words[MemoryKind.CLASSES],
        "DESCRIPTOR_WORDS": words[MemoryKind.DESCRIPTORS],
        "HOST_BITS": host_bits,
    }
