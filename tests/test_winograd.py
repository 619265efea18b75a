"""Convolutions by Winograd's transforms equal the reference, whatever their shape, codes, weights and memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_builder import Builder
from test_fused import CHOICES, assert_equal_to_reference
from test_fused_layers import (
    BIPOLAR,
    BYTE,
    LAYERS,
    ONE,
    SIGNED,
    TWELVE,
    TWO,
    Layer,
    images_for,
    residual_network,
)

from bnhw import fused, plan_winograd
from bnhw.dtypes import Array
from bnhw.fused import FusedProgram
from bnhw.kernels.fused import fields
from bnhw.kernels.packing import pack_bits
from bnhw.ops import Window
from bnhw.plan import Plan, make_plan
from bnhw.plan_interpreter import Interpreter, interpreter_of
from bnhw.plan_storage import code_form
from bnhw.plan_winograd import (
    LEAST_PATCHES,
    RESULT_BITS,
    Segment,
    choose_transformed,
    group_of,
    list_segments,
    portion_of,
)
from bnhw.plan_words import choose_words
from bnhw.program import Program, Tensor

TRANSFORMING = [choice for choice in CHOICES if interpreter_of(choice).transforms]
PADS = ((0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0), (2, 2, 2, 2))


@contextmanager
def always_transformed() -> Iterator[None]:
    """Whatever can be transformed is, and bits are not counted."""

    def interpreter(kernels: str) -> Interpreter:
        return replace(interpreter_of(kernels), most_planes=0, tabulates=False)

    with (
        patch.object(plan_winograd, "_transformed_cycles", lambda *_: 0.0),
        patch.object(fused, "interpreter_of", interpreter),
    ):
        yield


@contextmanager
def never_transformed() -> Iterator[None]:
    """Nothing is transformed."""

    def interpreter(kernels: str) -> Interpreter:
        return replace(interpreter_of(kernels), transforms=False, tabulates=False)

    with patch.object(fused, "interpreter_of", interpreter):
        yield


def kinds_of(plan: Plan) -> list[int]:
    """The kinds of a plan's steps."""
    starts = plan.table[fields.H_FIELDS : fields.H_FIELDS + plan.table[fields.H_STEPS]]
    return [int(plan.table[at]) for at in starts]


def is_transformed(program: Program) -> bool:
    """Whether a plan of the program transforms a convolution."""
    return fields.TRANSFORM in kinds_of(make_plan(program, Interpreter(transforms=True)))


@pytest.mark.parametrize("kernels", TRANSFORMING)
@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 21), st.integers(1, 40)),
    channels=st.integers(1, 200),
    outputs=st.integers(1, 100),
    pads=st.sampled_from(PADS),
    codes=st.sampled_from((BYTE, SIGNED, TWO, ONE)),
    bits=st.sampled_from((1, 1, 2, 5, 8)),
    images=st.integers(1, 11),
    seed=st.integers(0, 2**16),
)
def test_transformed_layers_of_any_size_are_those_of_the_reference(
    kernels: str,
    size: tuple[int, int],
    channels: int,
    outputs: int,
    pads: tuple[int, int, int, int],
    codes: Tensor,
    bits: int,
    images: int,
    seed: int,
) -> None:
    fits = all(s + pads[i] + pads[i + 2] >= 3 for i, s in enumerate(size))
    layer = Layer(size=size, channels=channels, outputs=outputs, codes=codes, bits=bits)
    program = replace(layer, pads=pads if fits else (2, 2, 2, 2)).program(seed)
    with always_transformed():
        assert is_transformed(program)
        assert_equal_to_reference(program, images_for(program, images, seed), kernels)


@pytest.mark.parametrize("kernels", TRANSFORMING)
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.kernel == (3, 3)], ids=str)
def test_layers_that_are_not_transformed_are_those_of_the_reference(layer: Layer, kernels: str) -> None:
    program = layer.program()
    with never_transformed():
        assert_equal_to_reference(program, images_for(program, 2), kernels)


def extreme_program(channels: int, code: int, signs: Array) -> Program:
    """A layer of which every code is the same, and the weights are given: bool (outputs, 3, 3, channels)."""
    program = Layer(size=(9, 20), channels=channels, outputs=len(signs)).program()
    constants = dict(program.constants)
    look_up, convolve = program.instructions[:2]
    constants[f"{look_up.output}/table"] = np.full_like(constants[f"{look_up.output}/table"], code)
    constants[f"{convolve.output}/weights"] = pack_bits(signs.reshape(-1))
    limit = 9 * channels * 255
    wide = [
        replace(tensor, dtype=type(tensor.dtype).containing(-limit, limit))
        if tensor.name == convolve.output
        else tensor
        for tensor in program.tensors
    ]
    return replace(program, constants=constants, tensors=tuple(wide))


@pytest.mark.parametrize("kernels", TRANSFORMING)
@pytest.mark.parametrize("channels", [64, 1280])
@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("pattern", ["all", "none", "alternating", "corners"])
def test_the_largest_sums_are_those_of_the_reference(pattern: str, code: int, channels: int, kernels: str) -> None:
    signs = np.zeros((32, 3, 3, channels), bool)
    if pattern == "all":
        signs[:] = True
    elif pattern == "alternating":
        signs[:, np.indices((3, 3)).sum(axis=0) % 2 == 0] = True
    elif pattern == "corners":
        signs[:, ::2, ::2] = True
    program = extreme_program(channels, code, signs)
    with always_transformed():
        assert_equal_to_reference(program, images_for(program, 1), kernels)


def limit_program(weights: Array, code: int, zero_point: int) -> Program:
    """A layer of which every code is the same, and the 8-bit weights are given: int8 (outputs, 3, 3, channels)."""
    codes = replace(BYTE, zero_point=zero_point)
    layer = Layer(size=(9, 20), channels=weights.shape[3], outputs=len(weights), codes=codes, bits=8)
    program = layer.program()
    look_up, convolve = program.instructions[:2]
    table, name = f"{look_up.output}/table", f"{convolve.output}/weights"
    constants = {**program.constants, table: np.full_like(program.constants[table], code), name: weights}
    wide = type(codes.dtype).containing(-(1 << 27), 1 << 27)
    tensors = [replace(t, dtype=wide) if t.name == convolve.output else t for t in program.tensors]
    return replace(program, constants=constants, tensors=tuple(tensors))


MOST_CHANNELS = ((1 << (RESULT_BITS - 1)) - 1) // (255 * 9 * 128)
"""That sums of 8-bit codes and weights allow."""


@pytest.mark.parametrize("kernels", TRANSFORMING)
@pytest.mark.parametrize("zero_point", [0, 3, 255])
@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("pattern", ["least", "most", "mixed"])
def test_sums_at_the_limit_are_those_of_the_reference(pattern: str, code: int, zero_point: int, kernels: str) -> None:
    weights = np.full((33, 3, 3, MOST_CHANNELS), -128 if pattern == "least" else 127, np.int8)
    if pattern == "mixed":
        weights[1::2] = -128
    program = limit_program(weights, code, zero_point)
    with always_transformed():
        assert is_transformed(program)
        assert_equal_to_reference(program, images_for(program, 2), kernels)


@pytest.mark.parametrize("kernels", TRANSFORMING)
def test_sums_beyond_the_limit_would_be_wrong(kernels: str) -> None:
    weights = np.full((1, 3, 3, 2 * MOST_CHANNELS + 2), -128, np.int8)
    program = limit_program(weights, 255, 0)
    with always_transformed():
        assert not is_transformed(program)
        assert_equal_to_reference(program, images_for(program, 1), kernels)
        with patch.object(plan_winograd, "RESULT_BITS", 30), pytest.raises(AssertionError):
            assert_equal_to_reference(program, images_for(program, 1), kernels)


def test_one_wrong_weight_is_found() -> None:
    signs = np.random.default_rng(0).integers(0, 2, (32, 3, 3, 64)).astype(bool)
    other = signs.copy()
    other[17, 1, 2, 40] ^= True
    programs = [extreme_program(64, 7, of_one) for of_one in (signs, other)]
    images = images_for(programs[0], 1)
    for kernels in TRANSFORMING:
        values = [FusedProgram(program, kernels, store_all=True).tensor_values(images)[0] for program in programs]
        sums = programs[0].instructions[1].output
        differs = (values[0][sums] != values[1][sums]).any(axis=(0, 1, 2))
        assert list(np.flatnonzero(differs)) == [17]


@pytest.mark.parametrize("kernels", TRANSFORMING)
@pytest.mark.parametrize(("size", "channels"), [((8, 8), 40), ((18, 17), 64), ((4, 32), 96), ((7, 7), 33)], ids=str)
@pytest.mark.parametrize("portion_bytes", [1, 1 << 16, 1 << 30])
def test_portions_of_any_size_give_the_same(
    portion_bytes: int, size: tuple[int, int], channels: int, kernels: str
) -> None:
    program = residual_network(size, channels)
    images = images_for(program, 11)
    with (
        patch.object(plan_winograd, "PORTION_BYTES", portion_bytes),
        patch.object(plan_winograd, "LEAST_PATCHES", 4),
        always_transformed(),
    ):
        assert_equal_to_reference(program, images, kernels)


@pytest.mark.parametrize("kernels", TRANSFORMING)
def test_two_convolutions_with_different_borders_read_one_tensor(kernels: str) -> None:
    builder = Builder(random=np.random.default_rng(5), shape=(11, 18, 3))
    codes = builder.look_up(builder.tensors["image"], BYTE, per_channel=True)
    wide = builder.convolve(codes, Window(kernel=(5, 5), pads=(2, 2, 2, 2)), groups=1, out_channels=32, bits=1)
    narrow = builder.convolve(codes, Window(kernel=(3, 3), pads=(1, 1, 1, 1)), groups=1, out_channels=32, bits=1)
    first, second = (builder.requantise(sums, SIGNED, multiplier_bits=12) for sums in (wide, narrow))
    total = builder.add(first, second, SIGNED.dtype.low, SIGNED.dtype.high)
    program = builder.program(builder.sum_global(total))
    with always_transformed():
        assert_equal_to_reference(program, images_for(program, 2), kernels)


def test_layers_are_transformed_where_that_is_exact_and_faster() -> None:
    wide = Layer(size=(16, 16), channels=64, outputs=64)
    assert is_transformed(wide.program())
    assert is_transformed(replace(wide, bits=8).program())
    assert is_transformed(replace(wide, codes=SIGNED).program())
    assert is_transformed(replace(wide, size=(32, 32), channels=16, outputs=16).program())
    others = {
        "too small": replace(wide, size=(4, 4)),
        "stride": replace(wide, stride=(2, 2)),
        "kernel": replace(wide, kernel=(1, 1)),
        "groups": replace(wide, groups=2),
        "twelve bits": replace(wide, codes=TWELVE),
        "bipolar": replace(wide, codes=BIPOLAR),
        "sums of more than 26 bits": replace(wide, channels=300, bits=8),
    }
    assert [name for name, layer in others.items() if is_transformed(layer.program())] == []
    assert fields.TRANSFORM not in kinds_of(make_plan(wide.program())), "only interpreters that know transforms"


def test_sums_fill_at_most_the_bits_that_are_left_of_them() -> None:
    codes = BYTE.dtype.high - BYTE.dtype.low
    assert codes == 255
    channels = MOST_CHANNELS
    for extra, expected in ((0, True), (1, False)):
        program = Layer(size=(16, 16), channels=channels + extra, outputs=1, bits=8).program()
        weights = f"{program.instructions[1].output}/weights"
        least = np.full_like(program.constants[weights], -128)
        chosen = choose_transformed(replace(program, constants={**program.constants, weights: least}))
        assert bool(chosen) == expected


@settings(max_examples=200, deadline=None)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 70)), pads=st.sampled_from(PADS[1:]))
def test_segments_cover_every_pixel_once(size: tuple[int, int], pads: tuple[int, int, int, int]) -> None:
    window = Window(kernel=(3, 3), pads=pads)
    rows, columns = window.output_size(*size)
    if rows < 1 or columns < 1:
        return
    form = code_form(replace(BYTE, shape=(*size, 32)), pads)
    covered = np.zeros(rows * columns, int)
    patches = 0
    for segment in list_segments(form, window, (rows, columns)):
        assert segment.first == patches
        patches += segment.patches
        corner = divmod(segment.pixel, form.row_pixels)
        assert len(segment.tiles) % 2 == 0
        for number, (_, row, column, count) in enumerate(segment.tiles):
            if not count:
                continue
            covered[row * columns + column : row * columns + column + count] += 1
            place = fields.LANES * number // segment.row, fields.LANES * number % segment.row
            assert (row - place[0], column - place[1]) == corner, "where the patches' rows lie in the slot"
    assert (covered == 1).all()


@settings(max_examples=200, deadline=None)
@given(columns=st.integers(1, 70), rows=st.integers(1, 40), channels=st.integers(1, 40))
def test_groups_and_portions_are_as_small_as_they_must_be(columns: int, rows: int, channels: int) -> None:
    form = code_form(replace(BYTE, shape=(rows, columns, 16 * channels)), (1, 1, 1, 1))
    segments = list_segments(form, Window(kernel=(3, 3), pads=(1, 1, 1, 1)), (rows, columns))
    sizes = [segment.patches for segment in segments]
    group = group_of(segments)
    assert group >= 1
    assert all(sum(sizes[at : at + group]) <= fields.GROUP_PATCHES for at in range(len(sizes)))
    portion = portion_of(len(segments), max(sizes), 16 * channels)
    assert 1 <= portion <= len(segments)
    of_largest = max(sum(sizes[at : at + portion]) for at in range(len(sizes)))
    assert of_largest <= max(LEAST_PATCHES, plan_winograd.PORTION_BYTES // (fields.POSITIONS * 32 * channels))


def _segments(*patches: int) -> tuple[Segment, ...]:
    return tuple(Segment(pixel=0, first=0, patches=count, row=16, tiles=()) for count in patches)


@pytest.mark.parametrize(
    ("patches", "group"), [((4,) * 16, 16), ((4, 4, 4, 2) * 14, 16), ((4, 1) * 40, 16), ((2,) * 6, 32), ((3,) * 80, 20)]
)
def test_groups_fill_fours_of_patches(patches: tuple[int, ...], group: int) -> None:
    assert group_of(_segments(*patches)) == group


def test_bits_are_counted_only_where_transforms_take_longer() -> None:
    program = Layer(size=(16, 16), channels=64, outputs=64, codes=TWO).program()
    transformed = choose_transformed(program)
    assert len(choose_words(program, 4, 64, dict.fromkeys(transformed, 2))) == 1
    assert len(choose_words(program, 4, 64, dict.fromkeys(transformed, 1))) == 0
    assert len(choose_words(program, 4, 64)) == 1


def test_one_bit_weights_stay_one_bit_where_they_are_transformed() -> None:
    layer = Layer(size=(16, 16), channels=256, outputs=256)
    sizes = []
    for transforms in (False, True):
        program: Any = layer.program()
        sizes.append(make_plan(program, Interpreter(transforms=transforms)).constants.size)
    assert sizes[0] == sizes[1]


WIDE = (
    Layer(size=(224, 224), channels=64, outputs=16),
    Layer(size=(1, 5000), channels=64, outputs=16),
    Layer(size=(3, 4099), channels=160, outputs=16),
    Layer(size=(1000, 1), channels=32, outputs=20),
    Layer(size=(5, 700), channels=16, outputs=16, pads=(0, 2, 1, 0)),
    Layer(size=(9, 9), channels=4096, outputs=48),
    Layer(size=(7, 7), channels=512, outputs=80, bits=2),
    Layer(size=(8, 8), channels=70, outputs=70),
)


@pytest.mark.parametrize("layer", WIDE, ids=str)
def test_everything_that_is_read_and_written_lies_in_the_arena(layer: Layer) -> None:
    program = layer.program()
    with patch.object(plan_winograd, "_transformed_cycles", lambda *_: 0.0):
        plan = make_plan(program, Interpreter(transforms=True))
    header = plan.table[: fields.H_FIELDS].tolist()
    steps = plan.table[fields.H_FIELDS : fields.H_FIELDS + header[fields.H_STEPS]]
    (number,) = np.flatnonzero([plan.table[at] == fields.TRANSFORM for at in steps])
    images = 1 if number < header[fields.H_OWN] else header[fields.H_GROUP]
    step = plan.table[steps[number] :][: fields.N_FIELDS].tolist()
    channels = step[fields.N_CHANNELS]
    place = next(place for place in plan.places.values() if place.form.channels == channels and place.form.pads[0] < 9)
    size = fields.SEGMENT_FIELDS * step[fields.N_SEGMENT_COUNT]
    segments = plan.table[step[fields.N_SEGMENTS] :][:size].reshape(-1, fields.SEGMENT_FIELDS)
    corners = segments[:, fields.E_PIXEL] + 4 * (segments[:, fields.E_PATCHES] - 1)
    last_pixel = int(corners.max()) + 5 * place.form.row_pixels + 5
    behind = (last_pixel + 1 - place.form.pixels) * fields.BLOCK
    room = plan.slots if images == 1 else plan.arena_bytes
    assert place.offset + place.form.size_bytes + behind <= room, "pixels"
    together = images * len(segments)
    counts = np.tile(segments[:, fields.E_PATCHES], images)
    portion, group = step[fields.N_PORTION], step[fields.N_GROUP]
    assert portion % group == 0
    assert all(counts[at : at + group].sum() <= fields.GROUP_PATCHES for at in range(0, together, group)), "sums"
    patches = max(int(counts[at : at + portion].sum()) for at in range(0, together, portion))
    rows = 2 * channels
    used = (fields.GROUP_PATCHES + 3) * fields.PATCH_BYTES
    used += fields.POSITIONS * (64 * channels + fields.FILTER_PADDING)
    used += (fields.POSITIONS - 1) * (patches * rows + fields.PATCHES_PADDING) + (patches + 3) * rows
    own = min(p.offset for p in plan.places.values() if p.offset > plan.panel) if images > 1 else plan.arena_bytes
    assert plan.panel + used <= own - fields.SLACK_BYTES, "scratch memory, without what tiles may read behind tensors"
