"""Cycle formulas of other people's engines, to hold ours against the same layer of theirs.

None of this says anything of our engine. Each formula is the published model of one tool or chip and reproduces figures
that were measured with it (`docs/cross-checks.md`). SCALE-Sim's are in `bnhw.hardware.systolic`, FINN's in
`bnhw.hardware.streaming`.
"""

from dataclasses import dataclass, fields

from bnhw.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionShape:
    """A square dense convolution of stride 1: kernel x kernel, inputs to outputs channels, height x width results."""

    height: int
    width: int
    inputs: int
    outputs: int
    kernel: int

    def __post_init__(self) -> None:
        wrong = [f"{f.name} is {getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) < 1]
        if wrong:
            raise BadInput(f"no convolution: {', '.join(wrong)}; at least 1 is expected")


NE16_SIDE, NE16_OUTPUTS, NE16_INPUTS = 3, 32, 16
"""A subtile of NE16: 3 x 3 output pixels of 32 output channels, from 16 input channels at a time."""

NE16_FIFO = 6
"""Cycles until the first word of a stream arrives."""

NE16_MEMORY_BITS = 256
"""Bits that the memory gives or takes a cycle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ne16Cycles:
    """Cycles of the stages of NE16 for one layer. `normquant` is batch norm and rounding to 8 bits."""

    load: int = 0
    weight_offset: int = 0
    matrixvec: int = 0
    update_idx: int = 0
    normquant: int = 0
    streamout: int = 0

    @property
    def total(self) -> int:
        """All of them: the stages do not overlap."""
        return sum(getattr(self, stage.name) for stage in fields(self))


def ne16_subtile(kernel: int, outputs: int, weight_bits: int) -> Ne16Cycles:
    """Each stage of one subtile of NE16 once, with `outputs` of its 32 output channels in use.

    load: pixels of the window of 3 x 3 results, 16 input channels of 8 bits each. matrixvec: weights are bit-serial in
    3 x 3 mode, one bit of one output channel a cycle; in 1 x 1 mode the bits lie in parallel. normquant: a 32-bit scale
    for one channel a cycle, without shifts and biases of the channels' own. streamout: 32 channels of 8 bits a pixel.

    Raises `BadInput` for what NE16 does not have.
    """
    if kernel not in (1, 3):
        raise BadInput(f"NE16 has no convolution of {kernel} x {kernel}; 1 x 1 and 3 x 3 are there")
    if not (1 <= weight_bits <= 8 and 1 <= outputs <= NE16_OUTPUTS):
        raise BadInput(f"{weight_bits} bits, {outputs} channels; NE16 takes 1 to 8 and 1 to {NE16_OUTPUTS}")
    side = NE16_SIDE + kernel - 1
    words = -(-NE16_INPUTS * 8 // NE16_MEMORY_BITS)
    return Ne16Cycles(
        load=(NE16_FIFO if kernel == 3 else 10) + side * side * words,
        weight_offset=NE16_FIFO,
        matrixvec=NE16_FIFO + outputs * (weight_bits if kernel == 3 else 1),
        update_idx=2,
        normquant=9 + outputs,
        streamout=3 + NE16_SIDE * NE16_SIDE * -(-NE16_OUTPUTS * 8 // NE16_MEMORY_BITS) + 1,
    )


def ne16_cycles(shape: ConvolutionShape, weight_bits: int) -> Ne16Cycles:
    """A dense convolution on NE16: 8-bit activations, `weight_bits` 1 to 8. Raises `BadInput` for other kernels.

    Results are cut into subtiles; each sums over its input channels 16 at a time, then is normalised and written once.
    Source: the performance model of DORY (pulp-platform/dory at be3d6dd, Ne16PerfModel.py).
    """
    tiles = -(-shape.height // NE16_SIDE) * -(-shape.width // NE16_SIDE)
    summed = -(-shape.inputs // NE16_INPUTS)
    whole, rest = divmod(shape.outputs, NE16_OUTPUTS)
    found = dict.fromkeys((stage.name for stage in fields(Ne16Cycles)), 0)
    for count, outputs in ((whole, NE16_OUTPUTS), (min(rest, 1), rest)):
        if count:
            once = ne16_subtile(shape.kernel, outputs, weight_bits)
            for stage in found:
                times = 1 if stage in ("normquant", "streamout") else summed
                found[stage] += tiles * count * times * getattr(once, stage)
    return Ne16Cycles(**found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZigZagCycles:
    """ZigZag's latency of a layer whose output and input channels are unrolled on an array.

    ideal: array cycles at the reached spatial utilisation. loading: the input tensor, padding included, through the
    port of the off-chip memory before anything starts. fill: the skew of a systolic array, (rows - 1) + (columns - 1).
    """

    ideal: int
    loading: int
    fill: int

    @property
    def total(self) -> int:
        """`latency_total2`: all of them and 2 cycles, in which the first weights come and the last sums go."""
        return self.ideal + self.loading + self.fill + 2


def zigzag_cycles(
    shape: ConvolutionShape, *, side: int, systolic: bool = True, activation_bits: int = 8, port_bits: int = 64
) -> ZigZagCycles:
    """ZigZag 3.9.1 on `tpu_like` hardware of side x side, one operand a dimension (K on one, C on the other).

    The form was derived from measured figures, not from ZigZag's source: it reproduces three of three.
    """
    if side < 1:
        raise BadInput(f"an array of side {side}; at least 1 is expected")
    blocks = -(-shape.inputs // side) * -(-shape.outputs // side)
    padded = (shape.height + shape.kernel - 1) * (shape.width + shape.kernel - 1) * shape.inputs
    return ZigZagCycles(
        ideal=shape.height * shape.width * shape.kernel**2 * blocks,
        loading=-(-padded * activation_bits // port_bits),
        fill=2 * (side - 1) if systolic else 0,
    )
