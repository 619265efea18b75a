"""Which steps a program becomes, where tensors lie, and what an engine refuses."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hardware_strategies import engine_programs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program_builder import BIT, Builder, one_of_each

from bnhw.dtypes import IntegerType
from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import Arch
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.fusing import fuse
from bnhw.hardware.mapping import map_program
from bnhw.hardware.placement import Lifetime, allocate
from bnhw.hardware.steps import EngineProgram, MainKind, PostKind
from bnhw.hardware.trace import MemoryKind
from bnhw.hardware.weight_words import weight_words
from bnhw.ops import Window
from bnhw.program import Join, PadChannels, Program, Tensor

WIDE = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=12, signed=True), scale=0.5)
CODE = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=4, signed=False), scale=0.5, zero_point=3)
POINT = Window(kernel=(1, 1))


def builder(channels: int = 4) -> Builder:
    return Builder(random=np.random.default_rng(1), shape=(4, 4, channels))


def engine(**options: object) -> Arch:
    roomy: dict[str, object] = {"pe": 1, "simd": 4, "lookups": 1, "datapath": "mul", "post": "multiply"}
    roomy |= {"multiplier_bits": 24, "product_bits": 16}
    return load_arch("engine-16x64").with_options(**(roomy | options))


def residual_block() -> Program:
    """A stream, a branch of two convolutions, and their sum."""
    b = builder()
    start = b.look_up(b.tensors["image"], CODE, per_channel=False)
    stream = b.requantise(start, WIDE, multiplier_bits=0)
    first = b.requantise(b.convolve(start, POINT, groups=1, out_channels=4, bits=1), CODE, multiplier_bits=1)
    second = b.requantise(b.convolve(first, POINT, groups=1, out_channels=4, bits=1), WIDE, multiplier_bits=1)
    return b.program(b.sum_global(b.add(stream, second, -100, 100)))


def test_a_branch_and_its_addition_are_one_step() -> None:
    steps = map_program(residual_block(), engine()).steps
    assert [(step.main, step.post_kind, len(step.instructions)) for step in steps] == [
        (MainKind.SUM, PostKind.LOOKUP, 1),
        (MainKind.SUM, PostKind.ARITHMETIC, 1),
        (MainKind.CONVOLVE, PostKind.ARITHMETIC, 2),
        (MainKind.CONVOLVE, PostKind.ARITHMETIC, 3),
        (MainKind.SUM, PostKind.NONE, 1),
    ]
    assert steps[3].second is not None
    assert steps[3].second.place.tensor == steps[1].name


def test_a_stream_is_updated_in_place() -> None:
    mapped = map_program(residual_block(), engine())
    addition = mapped.steps[3]
    assert addition.second is not None
    assert addition.second.place.base == addition.result.base
    assert addition.second.place.memory is addition.result.memory is MemoryKind.RESIDUALS


def test_a_stream_that_is_read_again_is_not_overwritten() -> None:
    b = builder()
    start = b.look_up(b.tensors["image"], CODE, per_channel=False)
    stream = b.requantise(start, WIDE, multiplier_bits=0)
    branch = b.requantise(b.convolve(start, POINT, groups=1, out_channels=4, bits=1), WIDE, multiplier_bits=1)
    total = b.add(stream, branch, -100, 100)
    mapped = map_program(b.program(b.sum_global(b.add(total, stream, -9, 9))), engine())
    places = [mapped.places[tensor.name] for tensor in (stream, total)]
    assert places[0].base + places[0].size <= places[1].base or places[1].base + places[1].size <= places[0].base


def test_a_tensor_with_two_readers_is_stored() -> None:
    b = builder()
    start = b.look_up(b.tensors["image"], CODE, per_channel=False)
    sums = b.convolve(start, POINT, groups=1, out_channels=4, bits=1)
    both = b.add(b.requantise(sums, WIDE, multiplier_bits=1), b.requantise(sums, WIDE, multiplier_bits=1), -9, 9)
    steps = map_program(b.program(b.sum_global(both)), engine()).steps
    assert [step.main.value for step in steps] == ["sum", "convolve", "sum", "sum", "sum"]
    assert [len(step.instructions) for step in steps] == [1, 1, 1, 2, 1]


def test_a_tensor_added_to_itself_is_read_twice() -> None:
    b = builder()
    stream = b.requantise(b.look_up(b.tensors["image"], CODE, per_channel=False), WIDE, multiplier_bits=0)
    steps = map_program(b.program(b.sum_global(b.add(stream, stream, -9, 9))), engine()).steps
    assert steps[2].second is not None
    assert steps[2].second.place == steps[2].source.place


def test_every_kind_of_instruction_is_in_a_step() -> None:
    program = one_of_each()
    steps = fuse(program)
    assert {i.output for step in steps for i in step.instructions} == {i.output for i in program.instructions}
    kinds = [
        (step.main.value, step.post_kind.value, step.add is not None) for step in map_program(program, engine()).steps
    ]
    assert kinds == [
        ("sum", "lookup", False),
        ("sum", "none", False),  # PadChannels
        ("convolve", "arithmetic", False),
        ("convolve", "arithmetic", True),
        ("sum", "threshold", False),
        ("sum", "arithmetic", False),  # PoolSum
        ("maximum", "none", False),
        ("sum", "none", False),  # the two parts of the Join
        ("sum", "none", False),
        ("convolve", "arithmetic", False),
        ("sum", "arithmetic", False),  # SumGlobal
        ("multiply", "none", False),
        ("sum", "none", False),
    ]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(engine_programs())
def test_places_follow_the_rules(mapped: EngineProgram) -> None:
    arch, read = mapped.arch, {s.source.place.tensor for s in mapped.steps if s.main is MainKind.CONVOLVE}
    for name, place in mapped.places.items():
        tensor = mapped.program.tensor[name]
        activation = name in read or tensor.dtype.bits <= arch.act_bits
        assert place.memory is (MemoryKind.ACTIVATIONS if activation else MemoryKind.RESIDUALS)
        assert place.planes == -(-tensor.dtype.bits // (arch.act_bits if activation else arch.residual_bits))
        assert place.base + place.size <= mapped.required_words[place.memory]
    for step in mapped.steps:
        if step.convolve:
            words = len(weight_words(mapped.program, arch, step.convolve))
            assert step.convolve.base + words <= mapped.required_words[MemoryKind.WEIGHTS]
            assert words == step.convolve.phases * step.taps * sum(b.words for b in step.convolve.blocks)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(1, 30)), max_size=12))
def test_buffers_alive_together_do_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [
        Lifetime(tensors=(f"t{at}",), first=first, last=first + length, size=size)
        for at, (first, length, size) in enumerate(drawn)
    ]
    bases, words = allocate(buffers)
    live = [sum(b.size for b in buffers if b.first <= time <= b.last) for time in range(15)]
    assert max(live) <= words <= sum(b.size for b in buffers)
    for one in buffers:
        for other in buffers:
            if one is not other and one.first <= other.last and other.first <= one.last:
                starts = bases[one.tensors[0]], bases[other.tensors[0]]
                assert starts[0] + one.size <= starts[1] or starts[1] + other.size <= starts[0]


def test_groups_within_words_need_no_second_phase() -> None:
    def phases(channels: int, groups: int, **options: object) -> int:
        b = builder(channels)
        start = b.look_up(b.tensors["image"], CODE, per_channel=False)
        sums = b.convolve(start, POINT, groups=groups, out_channels=channels, bits=1)
        unit = map_program(b.program(b.sum_global(sums)), engine(**({"datapath": "mux"} | options))).steps[1].convolve
        assert unit is not None
        return unit.phases

    assert phases(8, 1) == 1
    assert phases(8, 2) == 1  # a word of 4 channels is a group
    assert phases(8, 4) == 2
    assert phases(8, 2, pe=4) == 1
    assert phases(6, 2, pe=2, simd=4) == 2
    assert phases(8, 8, datapath="mul") == 1


Change = Callable[[Builder, Tensor], Tensor]


def refusal(build: Change, **options: object) -> str:
    b = builder()
    start = b.look_up(b.tensors["image"], CODE, per_channel=False)
    program = b.program(b.sum_global(build(b, start)))
    map_program(program, engine())  # fits
    with pytest.raises(ArchMismatch) as caught:
        map_program(program, engine(**options))
    assert caught.value.exit_code == 2
    assert len(caught.value.problems) == 1
    return str(caught.value)


def multiplied(b: Builder, x: Tensor) -> Tensor:
    return b.multiply(x, b.requantise(b.sum_global(x), CODE, multiplier_bits=4))


def convolved(bits: int) -> Change:
    return lambda b, x: b.convolve(x, POINT, groups=1, out_channels=4, bits=bits)


def requantised(multiplier_bits: int, *, digits: int = 0, classes: int = 1) -> Change:
    return lambda b, x: b.requantise(x, WIDE, multiplier_bits=multiplier_bits, digits=digits, classes=classes)


def padded(b: Builder, x: Tensor) -> Tensor:
    pad = PadChannels(inputs=(x.name,), output=b.name(), before=3, after=0)
    return b.same_coding(pad, (x,), (4, 4, 7))


def joined(b: Builder, x: Tensor) -> Tensor:
    return b.same_coding(Join(inputs=(x.name, x.name), output=b.name()), (x, x), (4, 4, 8))


@pytest.mark.parametrize(
    ("build", "options", "parts"),
    [
        (convolved(5), {"datapath": "mux"}, ("datapath = 'mux' takes 1-bit weights, there are 5 bits", "'mul'")),
        (convolved(5), {"datapath": "xnor"}, ("datapath = 'xnor' takes 1-bit weights", "train with 1-bit weights")),
        (convolved(5), {"weight_bits": 4}, ("weight_bits = 4, 5 needed by 't1' (Convolve)", "fewer --weight-bits")),
        (convolved(8), {"acc_bits": 9}, ("acc_bits = 9, ", "needed by 't1' (Convolve)")),
        (multiplied, {"product_bits": 0}, ("product_bits = 0, 5 needed by 't3' (Multiply)", "multiplies two computed")),
        (multiplied, {"product_bits": 4}, ("product_bits = 4, 5 needed by",)),
        (requantised(0, digits=4), {"post": "csd", "csd_digits": 2}, ("csd_digits = 2, ", "csd:N")),
        (
            requantised(0, digits=4),
            {"post": "shift"},
            ("post = 'shift' takes factors M of one", "'csd'"),
        ),
        (requantised(20), {"multiplier_bits": 8}, ("multiplier_bits = 8, ", "multiply:M")),
        (requantised(20), {"offset_bits": 4}, ("offset_bits = 4, ", "(Requantise)")),
        (requantised(20), {"shift_bits": 1}, ("shift_bits = 1, ",)),
        (requantised(20, classes=4), {"class_bits": 1}, ("class_bits = 1, 2 needed by",)),
        (lambda b, x: b.threshold(x, CODE, levels=3), {"comparators": 0}, ("comparators = 0, 1 needed", "csd:2")),
        (padded, {"pe": 2}, ("pe = 2 does not divide the 3 channels padded in front in 't1'", "a pe that divides")),
        (joined, {"pe": 8, "simd": 8}, ("pe = 8 does not divide all but the last of the 4, 4 channels joined in",)),
    ],
)
def test_refusal_names_parameter_need_step_and_remedy(
    build: Change, options: dict[str, object], parts: tuple[str, ...]
) -> None:
    message = refusal(build, **options)
    for part in ("'random' does not run on the engine 'engine-16x64'", *parts):
        assert part in message


def test_lookup_without_lookups_is_refused_and_so_are_wide_tables() -> None:
    program = residual_block()
    with pytest.raises(ArchMismatch, match=r"lookups = 0, 1 needed by 't0' \(LookUp\); set it to 1 or more"):
        map_program(program, engine(lookups=0))
    with pytest.raises(ArchMismatch, match="residual_bits = 3, 5 needed by 't0'"):
        map_program(program, engine(residual_bits=3))


def test_all_problems_are_listed_with_the_steps_of_each() -> None:
    with pytest.raises(ArchMismatch) as caught:
        map_program(one_of_each(), engine(datapath="mux", comparators=0, product_bits=0, lookups=0))
    message = str(caught.value)
    for part in ("1. ", "2. ", "3. ", "4. ", "comparators", "product_bits", "lookups", "1-bit weights"):
        assert part in message


def test_long_lists_of_steps_are_cut() -> None:
    b = builder()
    x = b.look_up(b.tensors["image"], CODE, per_channel=False)
    for _ in range(5):
        x = b.requantise(b.convolve(x, POINT, groups=1, out_channels=4, bits=2), CODE, multiplier_bits=0)
    with pytest.raises(ArchMismatch, match=r"'t1' \(Convolve\), 't3' \(Convolve\), .* and 2 more; choose"):
        map_program(b.program(b.sum_global(x)), engine(datapath="mux"))


def test_small_memories_are_no_mismatch() -> None:
    arch = engine(memories={"activations": {"words": 1}, "residuals": {"words": 1}, "weights": {"words": 1}})
    required = map_program(one_of_each(), arch).required_words
    assert required[MemoryKind.WEIGHTS] > 1 < required[MemoryKind.RESIDUALS]
    assert required == map_program(one_of_each(), replace(arch, memories=engine().memories)).required_words


def test_bits_lie_in_the_activation_memory() -> None:
    b = builder()
    bits = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
    start = b.look_up(b.tensors["image"], bits, per_channel=False)
    mapped = map_program(
        b.program(b.convolve(start, Window(kernel=(4, 4)), groups=1, out_channels=2, bits=1)), engine()
    )
    assert mapped.places[start.name].planes == 1
    unit = mapped.steps[1].convolve
    assert unit is not None
    assert (unit.doubled, unit.zero_padding) == (True, False)
