"""Layers as networks have them, in every layout that a plan knows, equal the reference in every tensor."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_builder import BIT, Builder
from test_fused import CHOICES, assert_equal_to_reference

from bnhw.dtypes import Array, IntegerType
from bnhw.fused import FusedProgram
from bnhw.kernels.fused import fields
from bnhw.ops import Window
from bnhw.plan import Plan, make_plan
from bnhw.plan_interpreter import Interpreter
from bnhw.plan_order import order_steps
from bnhw.plan_tail import fuse_passes
from bnhw.plan_words import choose_words
from bnhw.program import Program, Tensor

BYTE = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=8, signed=False), scale=1.0, zero_point=3)
SIGNED = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=5, signed=True), scale=1.0, zero_point=-2)
TWELVE = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=12, signed=True), scale=1.0, zero_point=7)
TWO = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=2, signed=False), scale=1.0, zero_point=1)
TWO_SIGNED = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=2, signed=True), scale=1.0, zero_point=-1)
THREE = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=3, signed=False), scale=1.0)
ONE = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, zero_point=1)
BIPOLAR = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
RESIDUAL = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=16, signed=True), scale=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A convolution of `channels` to `outputs` on height x width pixels; `bits` of its weights."""

    size: tuple[int, int] = (8, 8)
    channels: int = 64
    outputs: int = 32
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    groups: int = 1
    bits: int = 1
    codes: Tensor = BYTE

    def program(self, seed: int = 0) -> Program:
        """A lookup, the convolution, and the sums of its codes."""
        builder = Builder(random=np.random.default_rng(seed), shape=(*self.size, self.channels))
        codes = builder.look_up(builder.tensors["image"], self.codes, per_channel=True)
        window = Window(kernel=self.kernel, stride=self.stride, pads=self.pads)
        sums = builder.convolve(codes, window, groups=self.groups, out_channels=self.outputs, bits=self.bits)
        return builder.program(builder.sum_global(builder.requantise(sums, BYTE, multiplier_bits=12)))


LAYERS = (
    Layer(size=(32, 32), channels=160, outputs=160),
    Layer(size=(17, 33), channels=64, outputs=48),
    Layer(size=(5, 12), channels=96, outputs=16),
    Layer(size=(16, 16), channels=192, outputs=80),
    Layer(size=(8, 8), channels=130, outputs=70),
    Layer(size=(4, 21), channels=65, outputs=17),
    Layer(size=(32, 32), channels=32, outputs=64, stride=(2, 2), pads=(0, 0, 1, 1)),
    Layer(size=(15, 30), channels=70, outputs=33, stride=(2, 2)),
    Layer(size=(9, 40), channels=16, outputs=16, stride=(3, 1)),
    Layer(size=(40, 40), channels=3, outputs=32, kernel=(7, 7), stride=(2, 2), pads=(3, 3, 3, 3), codes=TWELVE),
    Layer(size=(32, 32), channels=3, outputs=64, codes=TWELVE),
    Layer(size=(6, 6), channels=100, outputs=40, codes=TWELVE, bits=4),
    Layer(size=(16, 16), channels=64, outputs=64, kernel=(1, 1), pads=(0, 0, 0, 0)),
    Layer(size=(7, 7), channels=64, outputs=10, kernel=(1, 1), pads=(0, 0, 0, 0)),
    Layer(size=(14, 14), channels=64, outputs=64, kernel=(1, 1), stride=(2, 2), pads=(0, 0, 0, 0)),
    Layer(size=(9, 9), channels=32, outputs=32, kernel=(5, 1), pads=(2, 0, 2, 0), bits=8),
    Layer(size=(16, 20), channels=128, outputs=128, groups=2),
    Layer(size=(10, 10), channels=256, outputs=64, groups=2),
    Layer(size=(8, 8), channels=96, outputs=96, groups=96),
    Layer(size=(9, 21), channels=150, outputs=150, groups=150, stride=(2, 2), bits=8, codes=SIGNED),
    Layer(size=(6, 5), channels=70, outputs=70, groups=70, kernel=(5, 3), pads=(2, 1, 2, 1), codes=BIPOLAR),
    Layer(size=(5, 6), channels=10, outputs=10, groups=10, codes=TWELVE, bits=4),
    Layer(size=(20, 20), channels=96, outputs=96, groups=6, bits=3),
    Layer(size=(20, 20), channels=140, outputs=70, groups=7),
    Layer(size=(14, 14), channels=128, outputs=128, groups=32),
    Layer(size=(7, 7), channels=128, outputs=256, groups=4, stride=(2, 2), codes=BIPOLAR),
    Layer(size=(9, 35), channels=144, outputs=72, groups=12, bits=8, codes=SIGNED),
    Layer(size=(6, 10), channels=70, outputs=35, groups=35, kernel=(1, 4), pads=(0, 2, 0, 1), bits=8),
    Layer(size=(5, 5), channels=60, outputs=100, groups=20, codes=TWO_SIGNED),
    Layer(size=(16, 16), channels=64, outputs=64, codes=BIPOLAR),
    Layer(size=(18, 18), channels=50, outputs=64, codes=BIPOLAR),
    Layer(size=(16, 16), channels=64, outputs=64, codes=TWO),
    Layer(size=(9, 21), channels=128, outputs=70, codes=TWO_SIGNED),
    Layer(size=(8, 8), channels=640, outputs=40, codes=THREE, stride=(2, 2)),
    Layer(size=(6, 5), channels=100, outputs=16, codes=ONE, pads=(0, 2, 1, 0)),
    Layer(size=(3, 3), channels=320, outputs=17, codes=BIPOLAR, pads=(2, 2, 2, 2)),
    Layer(size=(11, 40), channels=120, outputs=33, codes=BIPOLAR, stride=(1, 2), kernel=(5, 3), pads=(2, 1, 2, 1)),
    Layer(size=(5, 11), channels=704, outputs=40, codes=BIPOLAR),
    Layer(size=(5, 11), channels=704, outputs=40, codes=TWO),
    Layer(size=(7, 7), channels=256, outputs=10, kernel=(1, 1), pads=(0, 0, 0, 0), codes=BIPOLAR),
    Layer(size=(16, 16), channels=64, outputs=64, codes=SIGNED),
    Layer(size=(9, 9), channels=33, outputs=64, codes=SIGNED, pads=(2, 0, 1, 2)),
)


def images_for(program: Program, count: int, seed: int = 1) -> Array:
    shape = (count, *program.tensor[program.input].shape)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layer_is_that_of_the_reference(layer: Layer, kernels: str) -> None:
    program = layer.program()
    assert_equal_to_reference(program, images_for(program, 2), kernels)


SIZES = st.tuples(st.integers(1, 24), st.integers(1, 40))


@pytest.mark.parametrize("kernels", CHOICES)
@settings(max_examples=50, deadline=None)
@given(
    size=SIZES,
    channels=st.integers(1, 200),
    outputs=st.integers(1, 100),
    kernel=st.sampled_from(((1, 1), (3, 3), (2, 5), (4, 1))),
    stride=st.sampled_from(((1, 1), (2, 2), (1, 2), (3, 1))),
    pads=st.sampled_from(((0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0))),
    codes=st.sampled_from((BYTE, SIGNED, TWELVE, BIPOLAR, ONE, TWO, TWO_SIGNED, THREE)),
    seed=st.integers(0, 2**16),
)
def test_layers_of_any_size_are_those_of_the_reference(
    kernels: str,
    size: tuple[int, int],
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    codes: Tensor,
    seed: int,
) -> None:
    fits = all(s + pads[i] + pads[i + 2] >= k for i, (s, k) in enumerate(zip(size, kernel, strict=True)))
    layer = Layer(size=size, channels=channels, outputs=outputs, stride=stride, codes=codes, bits=1 + seed % 3)
    layer = replace(layer, kernel=kernel if fits else (1, 1), pads=pads if fits else (0, 0, 0, 0))
    program = layer.program(seed)
    assert_equal_to_reference(program, images_for(program, 1, seed), kernels)


@pytest.mark.parametrize("kernels", CHOICES)
@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(3, 18), st.integers(3, 36)),
    groups=st.integers(2, 40),
    per_group=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    stride=st.sampled_from(((1, 1), (2, 2), (1, 2))),
    codes=st.sampled_from((BYTE, SIGNED, TWELVE, BIPOLAR, TWO)),
    bits=st.sampled_from((1, 3, 8)),
    seed=st.integers(0, 2**16),
)
def test_layers_of_any_groups_are_those_of_the_reference(
    kernels: str,
    size: tuple[int, int],
    groups: int,
    per_group: tuple[int, int],
    stride: tuple[int, int],
    codes: Tensor,
    bits: int,
    seed: int,
) -> None:
    groups = min(groups, 256 // max(per_group))
    layer = Layer(size=size, stride=stride, codes=codes, bits=bits, groups=groups)
    program = replace(layer, channels=groups * per_group[0], outputs=groups * per_group[1]).program(seed)
    assert_equal_to_reference(program, images_for(program, 1, seed), kernels)


def residual_network(
    size: tuple[int, int], channels: int, *, bits: int = 16, seed: int = 0, code_multiplier_bits: int = 16
) -> Program:
    """Two pre-activation units with their residual stream, and a classifier."""
    builder = Builder(random=np.random.default_rng(seed), shape=(*size, 3))
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    wide = replace(RESIDUAL, dtype=IntegerType(bits=bits, signed=True))
    stem = builder.look_up(builder.tensors["image"], TWELVE, per_channel=True)
    sums = builder.convolve(stem, window, groups=1, out_channels=channels, bits=1)
    stream = builder.requantise(sums, wide, multiplier_bits=16)
    for _ in range(2):
        codes = builder.requantise(stream, BYTE, multiplier_bits=code_multiplier_bits)
        sums = builder.convolve(codes, window, groups=1, out_channels=channels, bits=1)
        codes = builder.requantise(sums, BYTE, multiplier_bits=16)
        sums = builder.convolve(codes, window, groups=1, out_channels=channels, bits=1)
        branch = builder.requantise(sums, wide, multiplier_bits=16)
        stream = builder.add(stream, branch, wide.dtype.low // 3, wide.dtype.high // 3)
    codes = builder.requantise(stream, BYTE, multiplier_bits=code_multiplier_bits)
    logits = builder.convolve(codes, Window(kernel=(1, 1)), groups=1, out_channels=10, bits=1)
    return builder.program(builder.sum_global(logits))


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.parametrize("bits", [9, 16, 20])
@pytest.mark.parametrize("code_multiplier_bits", [0, 16])
@pytest.mark.parametrize(("size", "channels"), [((6, 6), 40), ((18, 17), 64), ((4, 32), 96)], ids=str)
def test_residual_networks_are_those_of_the_reference(
    size: tuple[int, int], channels: int, code_multiplier_bits: int, bits: int, kernels: str
) -> None:
    program = residual_network(size, channels, bits=bits, seed=bits, code_multiplier_bits=code_multiplier_bits)
    images = images_for(program, 11)
    assert_equal_to_reference(program, images, kernels)
    _, counts = FusedProgram(program, kernels).run(images)
    assert any(counts.values()), "some sums must saturate"


def test_residual_ends_and_requantised_stores_take_one_pass() -> None:
    program = residual_network((8, 8), 64, bits=9, code_multiplier_bits=0)
    steps = [step for step in order_steps(program) if step.tail]
    passes = [list(fuse_passes(program, step.tail, _Forms(program))) for step in steps]
    assert [[step.kind for step in of_step] for of_step in passes] == [
        [fields.REQUANTISE, fields.STORE, fields.SHIFT_STORE],
        [fields.REQUANTISE_STORE],
        [fields.RESIDUAL],
        [fields.REQUANTISE_STORE],
        [fields.RESIDUAL],
        [fields.STORE],
    ]
    low_bits = [step.constants.levels for of_step in passes for step in of_step if step.constants]
    assert any(low_bits) and not all(low_bits), "products of more than 32 bits, and others"


def shifted_layer(channels: int, codes: IntegerType, seed: int) -> Program:
    """A convolution whose sums become codes by additions and shifts; some codes are clamped at either end."""
    builder = Builder(random=np.random.default_rng(seed), shape=(7, 19, 3))
    source = builder.look_up(builder.tensors["image"], BYTE, per_channel=True)
    sums = builder.convolve(source, Window(kernel=(3, 3), pads=(1, 1, 1, 1)), groups=1, out_channels=channels, bits=1)
    wanted = Tensor(name="", shape=(1, 1, 1), dtype=codes, scale=1.0, zero_point=codes.low)
    shifted = builder.requantise(sums, wanted, multiplier_bits=0)
    sums = builder.convolve(shifted, Window(kernel=(1, 1)), groups=1, out_channels=16, bits=1)
    return builder.program(builder.sum_global(sums))


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.parametrize("channels", [16, 32, 40, 80, 96])
@pytest.mark.parametrize("codes", [BYTE.dtype, IntegerType(bits=3, signed=False), SIGNED.dtype], ids=str)
def test_codes_by_shifts_alone_are_those_of_the_reference(channels: int, codes: IntegerType, kernels: str) -> None:
    program = shifted_layer(channels, codes, seed=channels)
    assert_equal_to_reference(program, images_for(program, 5), kernels)


@pytest.mark.parametrize(
    ("channels", "codes", "kind"),
    [
        (80, BYTE.dtype, fields.SHIFT_STORE),
        (40, BYTE.dtype, fields.REQUANTISE_STORE),
        (80, SIGNED.dtype, fields.REQUANTISE_STORE),
        (80, IntegerType(bits=12, signed=False), fields.REQUANTISE_STORE),
    ],
)
def test_whole_chunks_of_unsigned_bytes_are_shifted_and_saturated(channels: int, codes: IntegerType, kind: int) -> None:
    program = shifted_layer(channels, codes, seed=0)
    first = next(step for step in order_steps(program) if step.tail)
    assert [step.kind for step in fuse_passes(program, first.tail, _Forms(program))] == [kind]


@pytest.mark.parametrize("kernels", CHOICES)
def test_a_convolution_whose_sums_nothing_reads_has_no_tail(kernels: str) -> None:
    builder = Builder(random=np.random.default_rng(3), shape=(6, 9, 3))
    codes = builder.look_up(builder.tensors["image"], BYTE, per_channel=True)
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    builder.convolve(codes, window, groups=1, out_channels=48, bits=1)
    sums = builder.convolve(codes, window, groups=1, out_channels=32, bits=1)
    program = builder.program(builder.sum_global(builder.requantise(sums, BYTE, multiplier_bits=12)))
    assert any(step.main is not None and not step.tail for step in order_steps(program)), "one has no tail"
    assert_equal_to_reference(program, images_for(program, 3), kernels)


class _Forms(dict):  # type: ignore[type-arg]
    """The form of any tensor without borders."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def __missing__(self, name: str) -> object:
        from bnhw.plan_storage import code_form

        return code_form(self.program.tensor[name], (0, 0, 0, 0))


def test_one_bit_weights_stay_one_bit() -> None:
    one_bit, bytes_ = (make_plan(Layer(channels=256, outputs=256, bits=bits).program()) for bits in (1, 2))
    weights_bytes = 9 * 256 * 256
    assert bytes_.constants.size - one_bit.constants.size == weights_bytes * 7 // 8


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.parametrize("levels", [1, 2, 15, 31, 40, 63, 200, 255])
def test_thresholds_of_any_number_of_levels_are_those_of_the_reference(levels: int, kernels: str) -> None:
    builder = Builder(random=np.random.default_rng(levels), shape=(5, 7, 40))
    codes = builder.look_up(builder.tensors["image"], BYTE, per_channel=True)
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    sums = builder.convolve(codes, window, groups=1, out_channels=40, bits=1)
    wide = replace(BYTE, dtype=IntegerType(bits=9, signed=True))
    codes = builder.threshold(sums, wide, levels=levels, classes=1 + levels % 2)
    program = builder.program(builder.sum_global(codes))
    assert_equal_to_reference(program, images_for(program, 2), kernels)


COUNTED = (  # layer, most planes, planes that are counted (0: multiplied)
    (Layer(codes=TWO), 2, 2),
    (Layer(codes=TWO), 1, 0),
    (Layer(codes=TWO, bits=2), 2, 0),
    (Layer(codes=TWO, channels=128, groups=2), 2, 0),
    (Layer(codes=BIPOLAR), 1, 1),
    (Layer(codes=BIPOLAR), 0, 0),
    (Layer(codes=ONE, channels=65), 1, 0),
    (Layer(codes=ONE, channels=65), 2, 1),
    (Layer(codes=BYTE), 3, 0),
)


@pytest.mark.parametrize(("layer", "most_planes", "planes"), COUNTED, ids=str)
def test_bits_are_counted_where_that_is_faster(layer: Layer, most_planes: int, planes: int) -> None:
    program = layer.program()
    assert list(choose_words(program, most_planes).values()) == ([planes] if planes else [])
    plan = make_plan(program, Interpreter(most_planes=most_planes))
    size = int(plan.table[fields.H_SIZE])
    steps = plan.table[fields.H_FIELDS : fields.H_FIELDS + plan.table[fields.H_STEPS]]
    kinds = [int(plan.table[at]) for at in steps if at < size]
    assert kinds.count(fields.PACK) == int(planes > 0)


GROUPED = (  # layer, how its weights lie, weights that are multiplied for each that counts
    (Layer(channels=128, outputs=128, groups=32), fields.WEIGHT_FEW_SIGNS, 4),
    (Layer(channels=256, outputs=256, groups=32, bits=8), fields.WEIGHT_FEW, 2),
    (Layer(channels=512, outputs=512, groups=32), fields.WEIGHT_FEW_SIGNS, 1),
    (Layer(channels=1024, outputs=1024, groups=32), fields.WEIGHT_FEW_SIGNS, 1),
    (Layer(channels=192, outputs=192, groups=2), fields.WEIGHT_BYTES, None),
    (Layer(channels=128, outputs=128, groups=2), fields.WEIGHT_BITS, None),
    (Layer(channels=128, outputs=128, groups=32, codes=TWELVE, bits=4), fields.WEIGHT_BYTES, None),
    (Layer(channels=64, outputs=64, groups=64), fields.WEIGHT_CHANNELS, None),
)


@pytest.mark.parametrize(("layer", "kind", "waste"), GROUPED, ids=str)
def test_groups_of_few_channels_are_multiplied_chunk_by_chunk(layer: Layer, kind: int, waste: int | None) -> None:
    record, kept = (
        convolution_record(make_plan(layer.program(), Interpreter(by_channel=known))) for known in (True, False)
    )
    assert record[fields.C_BINARY] == kind
    assert kept[fields.C_BINARY] in (fields.WEIGHT_BYTES, fields.WEIGHT_BITS)
    if waste is not None:
        multiplied = record[fields.C_CHUNKS] * record[fields.C_STEPS] * fields.FEW_BYTES
        assert multiplied == waste * 9 * layer.outputs * layer.channels // layer.groups


def convolution_record(plan: Plan) -> Array:
    """The record of a plan's only convolution."""
    steps = plan.table[fields.H_FIELDS : fields.H_FIELDS + plan.table[fields.H_STEPS]]
    (at,) = [int(at) for at in steps if plan.table[at] == fields.CONVOLVE]
    return plan.table[at : at + fields.C_FIELDS]


@pytest.mark.parametrize(("word_channels", "words"), [(64, 3), (32, 5)])
def test_words_of_fewer_channels_are_filled_better(word_channels: int, words: int) -> None:
    program = Layer(channels=160, codes=BIPOLAR).program()
    record = convolution_record(make_plan(program, Interpreter(most_planes=2, word_channels=word_channels)))
    assert record[fields.C_STEPS] == 9 * words
    layer = Layer(channels=33, codes=BIPOLAR).program()
    assert bool(choose_words(layer, 1, word_channels)) is False
    assert bool(choose_words(Layer(channels=32, codes=BIPOLAR).program(), 1, word_channels)) is (word_channels == 32)


def test_words_are_packed_once_for_all_that_read_them() -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(6, 6, 64))
    codes = builder.look_up(builder.tensors["image"], TWO, per_channel=True)
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    sums = [builder.convolve(codes, window, groups=1, out_channels=32, bits=bits) for bits in (1, 1, 2)]
    wide = [builder.requantise(one, RESIDUAL, multiplier_bits=12) for one in sums]
    total = builder.add(builder.add(wide[0], wide[1], -3000, 3000), wide[2], -3000, 3000)
    program = builder.program(builder.sum_global(total))
    plan = make_plan(program, Interpreter(most_planes=2))
    steps = plan.table[fields.H_FIELDS : fields.H_FIELDS + plan.table[fields.H_STEPS]]
    assert [int(plan.table[at]) for at in steps].count(fields.PACK) == 1
    for kernels in CHOICES:
        assert_equal_to_reference(program, images_for(program, 9), kernels)


def test_a_tensor_gives_its_place_to_another_of_its_form() -> None:
    few, many = (make_plan(residual_network((16, 16), 64, seed=1), store_all=s).arena_bytes for s in (False, True))
    assert few < 0.75 * many
