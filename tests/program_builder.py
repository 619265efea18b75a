"""A builder of well-formed integer programs, independent of `bnhw.lower`, and one fixed program of every kind.

Array contents are random. Accumulators are declared as narrow as the worst case over the actual weights allows, so
that a range that is too small anywhere is an error.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from bnhw.dtypes import Array, IntegerType
from bnhw.kernels.packing import pack_bits
from bnhw.ops import Window
from bnhw.options import RequantiseMode
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
    Provenance,
    Requantise,
    SumGlobal,
    Tensor,
    Threshold,
)

IMAGE = IntegerType(bits=8, signed=False)
BIT = IntegerType(bits=1, signed=False)
PROVENANCE = Provenance(producer="tests", source_name="built", source_sha256="0" * 64, options={"act_bits": "8"})


@dataclass(kw_only=True)
class Builder:
    """A program under construction: the tests' own, independent of `bnhw.lower`.

    one_bit: all weights have one bit. most_digits: so many signed digits has an M at the most, if not 0.
    """

    random: np.random.Generator
    shape: tuple[int, int, int]
    one_bit: bool = False
    most_digits: int = 0
    instructions: list[Instruction] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tensors["image"] = Tensor(name="image", shape=self.shape, dtype=IMAGE, scale=1.0)
        self.spans["image"] = (0, 255)

    def name(self) -> str:
        """The name of the next result."""
        return f"t{len(self.instructions)}"

    def constant(self, name: str, array: Array) -> str:
        """Store an array."""
        array.setflags(write=False)
        self.constants[name] = array
        return name

    def append(self, instruction: Instruction, like: Tensor, span: tuple[int, int]) -> Tensor:
        """Add an instruction with a result like `like`."""
        tensor = replace(like, name=instruction.output)
        self.instructions.append(instruction)
        self.tensors[tensor.name] = tensor
        self.spans[tensor.name] = span
        return tensor

    def values(self, source: Tensor) -> tuple[int, int]:
        """The range of code - zero point, or of the bipolar value, padding included."""
        if source.bipolar:
            return -1, 1
        low, high = self.spans[source.name]
        return min(low - source.zero_point, 0), max(high - source.zero_point, 0)

    def sums(self, instruction: Instruction, shape: tuple[int, int, int], span: tuple[int, int]) -> Tensor:
        """Add an instruction whose result is an accumulator."""
        dtype = IntegerType.containing(*span)
        return self.append(instruction, Tensor(name="", shape=shape, dtype=dtype, scale=0.5), span)

    def look_up(self, source: Tensor, coding: Tensor, *, per_channel: bool) -> Tensor:
        """Random tables."""
        rows = source.shape[2] if per_channel else 1
        dtype = coding.dtype
        table = self.random.integers(dtype.low, dtype.high + 1, (rows, source.dtype.high + 1)).astype(np.int16)
        name = self.name()
        instruction = LookUp(inputs=(source.name,), output=name, table=self.constant(f"{name}/table", table))
        return self.append(instruction, replace(coding, shape=source.shape), (int(table.min()), int(table.max())))

    def convolve(self, source: Tensor, window: Window, *, groups: int, out_channels: int, bits: int) -> Tensor:
        """Random weights of `bits` bits; `groups` divides both numbers of channels."""
        bits = 1 if self.one_bit else bits
        shape = (out_channels, *window.kernel, source.shape[2] // groups)
        if bits == 1:
            weights = self.random.choice(np.array((-1, 1), np.int8), shape)
            stored = pack_bits((weights > 0).reshape(-1))
        else:
            limit = 1 << (bits - 1)
            weights = stored = self.random.integers(-limit, limit, shape).astype(np.int8)
        low, high = self.values(source)
        rows = weights.reshape(out_channels, -1).astype(np.int64)
        least = np.minimum(rows * low, rows * high).sum(axis=1).min()
        most = np.maximum(rows * low, rows * high).sum(axis=1).max()
        name = self.name()
        instruction = Convolve(
            inputs=(source.name,),
            output=name,
            weights=self.constant(f"{name}/weights", stored),
            weight_bits=bits,
            weight_shape=shape,
            window=window,
            groups=groups,
        )
        rows_columns = window.output_size(*source.shape[:2])
        return self.sums(instruction, (*rows_columns, out_channels), (int(least), int(most)))

    def pool_sum(self, source: Tensor, window: Window) -> Tensor:
        """The sum of each window."""
        low, high = self.plain_values(source)
        taps = window.kernel[0] * window.kernel[1]
        instruction = PoolSum(inputs=(source.name,), output=self.name(), window=window)
        shape = (*window.output_size(*source.shape[:2]), source.shape[2])
        return self.sums(instruction, shape, (low * taps, high * taps))

    def plain_values(self, source: Tensor) -> tuple[int, int]:
        """The range of code - zero point with 0, for 1-bit codes too."""
        low, high = self.spans[source.name]
        return min(low - source.zero_point, 0), max(high - source.zero_point, 0)

    def sum_global(self, source: Tensor) -> Tensor:
        """The sum over all pixels."""
        low, high = self.plain_values(source)
        pixels = source.shape[0] * source.shape[1]
        instruction = SumGlobal(inputs=(source.name,), output=self.name())
        return self.sums(instruction, (1, 1, source.shape[2]), (low * pixels, high * pixels))

    def requantise(
        self,
        source: Tensor,
        coding: Tensor,
        *,
        multiplier_bits: int,
        classes: int = 1,
        per_channel: bool = True,
        digits: int = 0,
    ) -> Tensor:
        """Random constants that spread the source's range over about the range of the result's type.

        multiplier_bits: 0 for no multipliers, 1 for powers of two, more for signed multipliers; with `digits`, sums
        of so many signed powers of two instead.
        """
        name, random = self.name(), self.random
        if self.most_digits and multiplier_bits > 1:
            digits = digits or self.most_digits
        digits = min(digits, self.most_digits or digits)
        shape = (classes, source.shape[2] if per_channel else 1)
        reach = max(map(abs, self.spans[source.name])).bit_length() - coding.dtype.bits
        multiplier = np.ones(shape, np.int64)
        width = 2
        if digits:
            signs = random.choice((-1, 1), (digits, *shape))
            multiplier = (signs << random.integers(0, 12, signs.shape)).sum(axis=0)
            width = 15
        elif multiplier_bits == 1:
            multiplier = 1 << random.integers(0, 4, shape)
            width = 5
        elif multiplier_bits:
            limit = 1 << (multiplier_bits - 1)
            multiplier = random.integers(-limit, limit, shape)
            width = multiplier_bits
        shift = np.clip(reach + width - 2 + random.integers(-1, 2, shape), 0, 62)
        mode = RequantiseMode.MULTIPLY if multiplier_bits > 1 else RequantiseMode.SHIFT
        mode = RequantiseMode.CSD if digits else mode
        half = 1 << np.clip(shift + coding.dtype.bits - 1, 0, 40)
        instruction = Requantise(
            inputs=(source.name,),
            output=name,
            mode=mode,
            multiplier=self.constant(f"{name}/multiplier", multiplier) if digits or multiplier_bits else "",
            offset=self.constant(f"{name}/offset", random.integers(-half, half + 1)),
            shift=self.constant(f"{name}/shift", shift),
            position_classes=(
                self.constant(f"{name}/classes", random.integers(0, classes, source.shape[:2])) if classes > 1 else ""
            ),
            multiplier_bits=width,
            digits=digits,
            low=coding.dtype.low + (coding.dtype.bits > 2),
            high=coding.dtype.high,
        )
        return self.append(instruction, replace(coding, shape=source.shape), (instruction.low, instruction.high))

    def threshold(
        self, source: Tensor, coding: Tensor, *, levels: int, classes: int = 1, per_channel: bool = True
    ) -> Tensor:
        """Random thresholds within and just beyond the source's range, some channels falling."""
        name, random = self.name(), self.random
        low, high = self.spans[source.name]
        sets = source.shape[2] if per_channel else 1
        table = np.sort(random.integers(low - 1, high + 2, (classes, sets, levels)), axis=2)
        narrow = table.astype(np.int16) if low - 1 >= -(2**15) and high + 1 < 2**15 else table
        falling = random.integers(0, 2, sets).astype(np.int8)
        first = int(random.integers(coding.dtype.low, coding.dtype.high - levels + 1))
        instruction = Threshold(
            inputs=(source.name,),
            output=name,
            thresholds=self.constant(f"{name}/thresholds", narrow),
            falling=self.constant(f"{name}/falling", falling) if falling.any() else "",
            position_classes=(
                self.constant(f"{name}/classes", random.integers(0, classes, source.shape[:2])) if classes > 1 else ""
            ),
            low=first,
        )
        return self.append(instruction, replace(coding, shape=source.shape), (first, first + levels))

    def same_coding(self, instruction: Instruction, sources: tuple[Tensor, ...], shape: tuple[int, int, int]) -> Tensor:
        """Add a PoolMaximum, PadChannels or Join: the result is coded like its operands."""
        spans = [self.spans[source.name] for source in sources]
        zero_point = sources[0].zero_point
        if isinstance(instruction, PadChannels):
            spans.append((zero_point, zero_point))
        span = (min(low for low, _ in spans), max(high for _, high in spans))
        return self.append(instruction, replace(sources[0], shape=shape), span)

    def add(self, first: Tensor, second: Tensor, low: int, high: int) -> Tensor:
        """A saturating sum."""
        instruction = AddSaturating(inputs=(first.name, second.name), output=self.name(), low=low, high=high)
        return self.append(instruction, first, (low, high))

    def multiply(self, first: Tensor, second: Tensor) -> Tensor:
        """The product of codes, declared as narrow as their ranges allow."""
        ends = [[end - tensor.zero_point for end in self.spans[tensor.name]] for tensor in (first, second)]
        products = [one * other for one in ends[0] for other in ends[1]]
        instruction = Multiply(inputs=(first.name, second.name), output=self.name())
        return self.sums(instruction, first.shape, (min(products), max(products)))

    def program(self, output: Tensor) -> Program:
        """What was built."""
        return Program(
            name="random",
            instructions=tuple(self.instructions),
            tensors=tuple(self.tensors.values()),
            constants=dict(self.constants),
            input="image",
            output=output.name,
            provenance=PROVENANCE,
        )


def one_of_each() -> Program:
    """A small fixed program that holds every kind of instruction, position classes and a skip connection."""
    builder = Builder(random=np.random.default_rng(0), shape=(5, 4, 2))
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=4, signed=False), scale=0.5, zero_point=3)
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=10, signed=True), scale=0.5)
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    start = builder.look_up(builder.tensors["image"], code, per_channel=True)
    padded = builder.same_coding(
        PadChannels(inputs=(start.name,), output=builder.name(), before=1, after=0), (start,), (5, 4, 3)
    )
    first = builder.convolve(padded, window, groups=1, out_channels=4, bits=1)
    left = builder.requantise(first, wide, multiplier_bits=8)
    second = builder.convolve(padded, window, groups=1, out_channels=4, bits=5)
    right = builder.requantise(second, wide, multiplier_bits=1)
    residual = builder.add(left, right, -300, 200)
    codes = builder.threshold(residual, code, levels=15, classes=2)
    pool = Window(kernel=(2, 2), stride=(2, 2), pads=(0, 0, 1, 0))
    sums = builder.pool_sum(codes, pool)
    means = builder.requantise(sums, code, multiplier_bits=6, classes=2)
    largest = builder.same_coding(
        PoolMaximum(inputs=(codes.name,), output=builder.name(), window=pool), (codes,), (3, 2, 4)
    )
    joined = builder.same_coding(
        Join(inputs=(means.name, largest.name), output=builder.name()), (means, largest), (3, 2, 8)
    )
    logits = builder.convolve(joined, Window(kernel=(1, 1)), groups=2, out_channels=6, bits=1)
    scores = builder.requantise(logits, wide, multiplier_bits=0)
    gate = builder.requantise(builder.sum_global(scores), code, multiplier_bits=4)
    return builder.program(builder.sum_global(builder.multiply(scores, gate)))
