"""Hypothesis strategies for well-formed integer programs, and images for them.

Structure is drawn; array contents come from a drawn seed.
"""

import numpy as np
from hypothesis import strategies as st
from program_builder import BIT, Builder

from bnhw.dtypes import Array, IntegerType
from bnhw.ops import Window
from bnhw.program import (
    Join,
    PadChannels,
    PoolMaximum,
    Program,
    Tensor,
)

CHANNELS = st.one_of(st.sampled_from((1, 2, 3, 63, 64, 65, 128, 129, 200)), st.integers(1, 12))


@st.composite
def codings(draw: st.DrawFn, *, max_bits: int = 8, bipolar: bool = True) -> Tensor:
    """A tensor whose name and shape do not count yet: 1..max_bits bits, signed, unsigned or bipolar."""
    if bipolar and draw(st.integers(0, 3)) == 0:
        return Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=0.25, bipolar=True)
    dtype = IntegerType(bits=draw(st.integers(1, max_bits)), signed=draw(st.booleans()))
    zero_point = draw(
        st.one_of(st.just(0), st.sampled_from((dtype.low, dtype.high)), st.integers(dtype.low, dtype.high))
    )
    return Tensor(name="", shape=(1, 1, 1), dtype=dtype, scale=0.25, zero_point=zero_point)


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> Window:
    """A window that fits: kernels 1..5 (1 and 3 often), strides 1..3, four different pads smaller than the kernel."""
    sides = [draw(_side(size)) for size in (height, width)]
    (rows, top, bottom), (columns, left, right) = sides
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return Window(kernel=(rows, columns), stride=stride, pads=(top, left, bottom, right))


@st.composite
def _side(draw: st.DrawFn, size: int) -> tuple[int, int, int]:
    """Kernel, pad before and pad behind along an axis of `size` pixels."""
    before, behind = draw(st.sampled_from(((0, 0), (1, 1), (0, 1), (1, 0), (2, 2), (3, 0))))
    least, most = max(before, behind) + 1, min(5, size + before + behind)
    kernel = draw(st.one_of(st.just(min(max(3, least), most)), st.integers(least, most)))
    return kernel, before, behind


@st.composite
def programs(draw: st.DrawFn, *, max_steps: int = 5, one_bit: bool = False, most_digits: int = 0) -> Program:
    """Programs of every kind of instruction: a lookup, some steps, and a sum or a whole-image convolution.

    one_bit, most_digits: see `Builder`.
    """
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.sampled_from((1, 2, 3, 5))))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    builder = Builder(random=random, shape=shape, one_bit=one_bit, most_digits=most_digits)
    current = builder.look_up(builder.tensors["image"], draw(codings(max_bits=12)), per_channel=draw(st.booleans()))
    for _ in range(draw(st.integers(0, max_steps))):
        current = _step(draw, builder, current)
    return builder.program(_end(draw, builder, current))


def _end(draw: st.DrawFn, builder: Builder, current: Tensor) -> Tensor:
    if draw(st.booleans()):
        whole = Window(kernel=current.shape[:2])
        total = builder.convolve(current, whole, groups=1, out_channels=draw(st.integers(1, 10)), bits=1)
    else:
        total = builder.sum_global(current)
    if draw(st.booleans()):
        return builder.requantise(total, draw(codings(max_bits=20, bipolar=False)), multiplier_bits=9)
    return total


def _step(draw: st.DrawFn, builder: Builder, current: Tensor) -> Tensor:
    kind = draw(
        st.sampled_from(("convolve", "convolve", "average", "maximum", "residual", "join", "pad", "look_up", "product"))
    )
    match kind:
        case "convolve":
            return _requantised(draw, builder, _convolution(draw, builder, current))
        case "average":
            return _requantised(draw, builder, builder.pool_sum(current, draw(windows(*current.shape[:2]))))
        case "maximum":
            window = draw(windows(*current.shape[:2]))
            instruction = PoolMaximum(inputs=(current.name,), output=builder.name(), window=window)
            return builder.same_coding(
                instruction, (current,), (*window.output_size(*current.shape[:2]), current.shape[2])
            )
        case "residual":
            return _residual(draw, builder, current)
        case "product" if not current.bipolar:
            return _product(draw, builder, current)
        case "join" if current.shape[2] <= 100:
            joining = Join(inputs=(current.name,) * draw(st.integers(2, 3)), output=builder.name())
            channels = len(joining.inputs) * current.shape[2]
            return builder.same_coding(joining, (current,), (*current.shape[:2], channels))
        case "pad" if not current.bipolar:
            before, after = draw(st.integers(0, 3)), draw(st.integers(0, 70))
            padded = PadChannels(inputs=(current.name,), output=builder.name(), before=before, after=after)
            return builder.same_coding(padded, (current,), (*current.shape[:2], before + current.shape[2] + after))
        case "look_up" if not current.dtype.signed and current.dtype.bits <= 12:
            return builder.look_up(current, draw(codings()), per_channel=draw(st.booleans()))
    return current


def _convolution(draw: st.DrawFn, builder: Builder, current: Tensor) -> Tensor:
    channels = current.shape[2]
    groups = draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0]))
    out_channels = draw(CHANNELS) if groups == 1 else groups * draw(st.integers(1, 1 + 64 // groups))
    bits = draw(st.one_of(st.just(1), st.integers(2, 8))) if current.dtype.bits <= 12 else 1
    window = draw(windows(*current.shape[:2]))
    return builder.convolve(current, window, groups=groups, out_channels=out_channels, bits=bits)


def _requantised(draw: st.DrawFn, builder: Builder, total: Tensor) -> Tensor:
    if draw(st.integers(0, 2)) == 0:
        coding = draw(codings())
        return builder.threshold(
            total,
            coding,
            levels=draw(st.integers(1, (1 << coding.dtype.bits) - 1)),
            classes=draw(st.sampled_from((1, 1, 3))),
            per_channel=draw(st.booleans()),
        )
    return builder.requantise(
        total,
        draw(codings()),
        multiplier_bits=draw(st.sampled_from((0, 1, 2, 8, 16, 24))),
        classes=draw(st.sampled_from((1, 1, 2, 4))),
        per_channel=draw(st.booleans()),
        digits=draw(st.sampled_from((0, 0, 0, 1, 2, 4))),
    )


def _residual(draw: st.DrawFn, builder: Builder, current: Tensor) -> Tensor:
    dtype = IntegerType(bits=draw(st.integers(4, 24)), signed=True)
    wide = Tensor(name="", shape=(1, 1, 1), dtype=dtype, scale=0.125)
    first = builder.requantise(current, wide, multiplier_bits=draw(st.sampled_from((0, 1, 16))))
    second = builder.requantise(current, wide, multiplier_bits=draw(st.sampled_from((0, 1, 16))))
    total = builder.add(first, second, dtype.low // 2, dtype.high // 2)
    if dtype.bits <= 12 and draw(st.booleans()):
        return total
    return builder.requantise(total, draw(codings()), multiplier_bits=draw(st.sampled_from((0, 12))))


def _product(draw: st.DrawFn, builder: Builder, current: Tensor) -> Tensor:
    """The tensor times one number a channel that depends on all of it, or times another tensor made of it."""
    narrow = codings(max_bits=12, bipolar=False)
    source = builder.sum_global(current) if draw(st.booleans()) else current
    gate = builder.requantise(source, draw(narrow), multiplier_bits=draw(st.sampled_from((0, 1, 16))))
    if current.dtype.bits > 16:
        current = builder.requantise(current, draw(narrow), multiplier_bits=0)
    return _requantised(draw, builder, builder.multiply(current, gate))


@st.composite
def batches(draw: st.DrawFn, program: Program, *, max_images: int = 3) -> Array:
    """uint8 images for a program, with many 0 and 255."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, max_images)), *program.tensor[program.input].shape)
    pixels = random.integers(0, 256, shape)
    extreme = random.integers(0, 4, shape)
    return np.where(extreme == 0, 0, np.where(extreme == 1, 255, pixels)).astype(np.uint8)


@st.composite
def programs_with_images(draw: st.DrawFn, *, max_images: int = 3, max_steps: int = 5) -> tuple[Program, Array]:
    """A program and images for it."""
    program = draw(programs(max_steps=max_steps))
    return program, draw(batches(program, max_images=max_images))
