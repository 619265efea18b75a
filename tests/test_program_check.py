"""Every rule of a well-formed program: each is broken alone, and its message is seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from program_builder import BIT, Builder, one_of_each
from program_strategies import programs

from bnhw.dtypes import Array, IntegerType
from bnhw.errors import InvalidProgram
from bnhw.options import RequantiseMode
from bnhw.program import Program, Tensor
from bnhw.program_check import MAX_ELEMENTS, MAX_WINDOW, check_program

Break = Callable[[Program], Program]


def tensor(name: str, **changes: Any) -> Break:
    """Describe a tensor of `one_of_each` otherwise."""
    return lambda program: replace(
        program, tensors=tuple(replace(t, **changes) if t.name == name else t for t in program.tensors)
    )


def renamed(name: str, other: str) -> Break:
    """Give a tensor another name."""
    return lambda program: replace(
        program, tensors=tuple(replace(t, name=other) if t.name == name else t for t in program.tensors)
    )


def wide_sums(bits: int, *, signed: bool = True) -> Break:
    """Give an addition's operands and result so many bits."""
    dtype = IntegerType(bits=bits, signed=signed)

    def change(program: Program) -> Program:
        names = {"t6", *next(i for i in program.instructions if i.output == "t6").inputs}
        tensors = (replace(t, dtype=dtype) if t.name in names else t for t in program.tensors)
        return replace(program, tensors=tuple(tensors))

    return change


def origin(**changes: Any) -> Break:
    """Change the provenance."""
    return lambda program: replace(program, provenance=replace(program.provenance, **changes))


def instruction(name: str, **changes: Any) -> Break:
    """Change the instruction whose result has this name."""
    return lambda program: replace(
        program,
        instructions=tuple(replace(i, **changes) if i.output == name else i for i in program.instructions),
    )


def constant(name: str, change: Callable[[Array], Array]) -> Break:
    """Replace a constant."""
    return lambda program: replace(program, constants={**program.constants, name: change(program.constants[name])})


def window(name: str, **changes: Any) -> Break:
    """Change the window of an instruction."""

    def change(program: Program) -> Program:
        found = next(i for i in program.instructions if i.output == name)
        return instruction(name, window=replace(found.window, **changes))(program)  # type: ignore[attr-defined]

    return change


def without(name: str) -> Break:
    """Take a constant out."""
    return lambda program: replace(program, constants={k: v for k, v in program.constants.items() if k != name})


def both(*changes: Break) -> Break:
    """Several changes, where one alone would break another rule first."""

    def change(program: Program) -> Program:
        for one in changes:
            program = one(program)
        return program

    return change


def filled(number: int) -> Callable[[Array], Array]:
    """An array of the same shape and type that holds one number."""
    return lambda array: np.full_like(array, number)


UINT4, INT10 = IntegerType(bits=4, signed=False), IntegerType(bits=10, signed=True)
UINT32, INT33 = IntegerType(bits=32, signed=False), IntegerType(bits=33, signed=True)

RULES: tuple[tuple[str, Break, str], ...] = (
    # Text.
    ("escape in the name", lambda p: replace(p, name="a\x1b[2J"), r"name is 'a\\x1b\[2J', which is not printable"),
    ("escape in a tensor's name", renamed("t3", "t\x1b3"), r"tensor's name is 't\\x1b3', which is not printable"),
    ("line break in a source", instruction("t3", source="a\nb"), r"source of 't3' is 'a\\nb', which is not printable"),
    ("escape in the producer", origin(producer="\x9b"), r"provenance names '\\x9b', which is not printable"),
    ("escape in the model's name", origin(source_name="\r"), r"provenance names '\\r', which is not printable"),
    ("escape in the digest", origin(source_sha256="\0"), r"provenance names '\\x00', which is not printable"),
    ("escape in an option", origin(options={"a\b": "1"}), r"the option 'a\\x08=1', which is not printable"),
    ("escape in an option's value", origin(options={"a": "\b"}), r"the option 'a=\\x08', which is not printable"),
    ("text that turns around in a note", origin(notes=("\u202e",)), r"notes '\\u202e', which is not printable"),
    # Tensors.
    ("a name used twice", lambda p: replace(p, tensors=(*p.tensors, p.tensors[1])), "two tensors have one name"),
    ("no rows", tensor("t3", shape=(0, 4, 4)), r"'t3' has shape \(0, 4, 4\)"),
    ("negative columns", tensor("t3", shape=(5, -4, 4)), r"'t3' has shape \(5, -4, 4\)"),
    ("too many elements", tensor("t3", shape=(MAX_ELEMENTS, 1, 2)), "'t3' has shape"),
    ("a size beyond 64 bits", tensor("t3", shape=(2**40, 2**40, 2**40)), "'t3' has shape"),
    ("wider than 32 bits", tensor("t3", dtype=INT33), "'t3': int33 with zero point 0"),
    ("unsigned and beyond int32", tensor("t3", dtype=UINT32), "'t3': uint32 with zero point 0"),
    ("zero point that is no code", tensor("t0", zero_point=16), "'t0': uint4 with zero point 16"),
    ("negative zero point", tensor("t0", zero_point=-1), "'t0': uint4 with zero point -1"),
    ("bipolar of 4 bits", tensor("t0", bipolar=True, zero_point=0), "'t0' is bipolar with uint4"),
    ("bipolar with zero point", tensor("t0", dtype=BIT, bipolar=True, zero_point=1), "'t0' is bipolar with uint1"),
    ("scale 0", tensor("t3", scale=0.0), "'t3' has scale 0.0"),
    ("negative scale", tensor("t3", scale=-1.0), "'t3' has scale -1.0"),
    ("infinite scale", tensor("t3", scale=float("inf")), "'t3' has scale inf"),
    ("scale that is no number", tensor("t3", scale=float("nan")), "'t3' has scale nan"),
    (
        "result not described",
        lambda p: replace(p, tensors=tuple(t for t in p.tensors if t.name != "t3")),
        "tensor 't3' is not described",
    ),
    ("input not described", lambda p: replace(p, input="picture"), "tensor 'picture' is not described"),
    ("output not described", lambda p: replace(p, output="classes"), "tensor 'classes' is not described"),
    ("image of 7 bits", tensor("image", dtype=IntegerType(bits=7, signed=False)), "the input is not uint8"),
    ("signed image", tensor("image", dtype=IntegerType(bits=8, signed=True)), "the input is not uint8"),
    # The order of instructions.
    ("reads what is not there", instruction("t3", inputs=("t99",)), r"Requantise -> 't3'\): reads 't99' before it"),
    ("reads its own result", instruction("t3", inputs=("t3",)), "reads 't3' before it is made"),
    ("reads a later result", instruction("t3", inputs=("t4",)), "reads 't4' before it is made"),
    ("overwrites the image", instruction("t1", output="image"), r"PadChannels -> 'image'\): its result is made twice"),
    ("reads nothing", instruction("t3", inputs=()), "has 0 inputs"),
    ("two inputs for one", instruction("t3", inputs=("t2", "t2")), "has 2 inputs"),
    ("joins nothing", instruction("t11", inputs=()), "has 0 inputs"),
    # The output.
    ("returns the image", lambda p: replace(p, output="image"), "the output 'image' is made by no instruction"),
    ("no instructions", lambda p: replace(p, instructions=()), "the output 't17' is made by no instruction"),
    ("returns a picture", lambda p: replace(p, output="t13"), r"the output 't13' has shape \(3, 2, 6\), expected \(1"),
    # Constants.
    ("no table", without("t0/table"), "its constants 't0/table' are missing"),
    ("no weights", without("t2/weights"), "its constants 't2/weights' are missing"),
    ("no multiplier", without("t3/multiplier"), "its constants 't3/multiplier' are missing"),
    ("no offset", without("t3/offset"), "its constants 't3/offset' are missing"),
    ("no shift", without("t3/shift"), "its constants 't3/shift' are missing"),
    ("no classes", without("t9/classes"), "its constants 't9/classes' are missing"),
    # Lookups.
    ("table of 255 entries", constant("t0/table", lambda a: a[:, 1:]), r"its table is int16 of shape \(2, 255\)"),
    ("three tables for two", constant("t0/table", lambda a: np.vstack((a, a[:1]))), r"of shape \(3, 256\)"),
    ("table of one axis", constant("t0/table", lambda a: a[0]), r"of shape \(256,\)"),
    ("table of fractions", constant("t0/table", lambda a: a.astype(np.float32)), "its table is float32"),
    ("table beyond its type", constant("t0/table", filled(16)), "its table holds numbers outside uint4"),
    ("table below its type", constant("t0/table", filled(-1)), "its table holds numbers outside uint4"),
    # Convolutions.
    ("0-bit weights", instruction("t2", weight_bits=0), r"weights of shape \(4, 3, 3, 3\) with 0 bits"),
    ("9-bit weights", instruction("t4", weight_bits=9), "with 9 bits"),
    ("weights without rows", instruction("t2", weight_shape=(4, 0, 3, 3)), r"weights of shape \(4, 0, 3, 3\)"),
    ("weights of huge shape", instruction("t2", weight_shape=(2**62, 3, 3, 3)), "weight bits are stored as uint64"),
    ("a word too many", constant("t2/weights", lambda a: np.append(a, a[:1])), r"its 108 weight bits are stored as"),
    ("a word too few", constant("t2/weights", lambda a: a[:1]), r"108 weight bits are stored as uint64\(1,\)"),
    ("words of 32 bits", constant("t2/weights", lambda a: a.astype(np.uint32)), "108 weight bits are stored as uint32"),
    ("int16 weights", constant("t4/weights", lambda a: a.astype(np.int16)), "are stored as int16"),
    ("weights reshaped", constant("t4/weights", lambda a: a.reshape(-1)), r"are stored as int8\(108,\)"),
    ("weights of 6 bits", constant("t4/weights", filled(16)), "its weights 16 to 16 do not fit 5 bits"),
    ("negative weights of 6 bits", constant("t4/weights", filled(-17)), "its weights -17 to -17 do not fit 5 bits"),
    ("no groups", instruction("t2", groups=0), r"weights \(4, 3, 3, 3\) in 0 groups do not fit 3 channels"),
    ("two groups of three", instruction("t2", groups=2), "in 2 groups do not fit 3 channels"),
    ("groups and outputs", instruction("t12", groups=4), "in 4 groups do not fit 8 channels"),
    ("window unlike weights", window("t2", kernel=(3, 2)), r"its window is \(3, 2\), its weights are \(3, 3\)"),
    # Windows.
    ("stride 0", window("t2", stride=(0, 1)), "has the window Window"),
    ("negative stride", window("t8", stride=(1, -1)), "has the window Window"),
    ("kernel 0", window("t8", kernel=(0, 2)), "has the window Window"),
    ("negative pad", window("t2", pads=(1, 1, -1, 1)), "has the window Window"),
    ("huge stride", window("t2", stride=(MAX_WINDOW + 1, 1)), "has the window Window"),
    ("huge pad", window("t8", pads=(MAX_WINDOW + 1, 0, 0, 0)), "has the window Window"),
    ("larger than the image", window("t8", kernel=(9, 2)), r"does not fit \(5, 4\)"),
    ("nothing but padding", window("t10", pads=(2, 0, 1, 0)), "can hold nothing but padding"),
    # Requantise steps.
    ("float offset", constant("t3/offset", lambda a: a.astype(np.float64)), "differ in shape or are not signed"),
    ("unsigned shift", constant("t3/shift", lambda a: a.astype(np.uint8)), "differ in shape or are not signed"),
    ("one shift for four", constant("t3/shift", lambda a: a[:, :1]), "differ in shape or are not signed"),
    ("flat offset", constant("t3/offset", lambda a: a[0]), "differ in shape or are not signed"),
    (
        "constants for 3 of 4 channels",
        both(*(constant(f"t3/{name}", lambda a: a[:, :3]) for name in ("multiplier", "offset", "shift"))),
        "has constants for 3 channels, its input has 4",
    ),
    (
        "no rows of constants",
        both(*(constant(f"t3/{name}", lambda a: a[:0]) for name in ("multiplier", "offset", "shift"))),
        "has no rows of constants",
    ),
    ("shift 63", constant("t3/shift", filled(63)), "shifts by 63 to 63"),
    ("shift to the left", constant("t3/shift", filled(-1)), "shifts by -1 to -1"),
    ("multipliers of no bits", instruction("t3", multiplier_bits=0), "its multipliers have 0 bits"),
    ("multipliers of 33 bits", instruction("t3", multiplier_bits=33), "its multipliers have 33 bits"),
    ("multiplier too wide", constant("t3/multiplier", filled(128)), "its multipliers 128 to 128 do not fit 8 bits"),
    ("multiplier too low", constant("t3/multiplier", filled(-129)), "its multipliers -129 to -129 do not fit 8"),
    ("offset of 63 bits", constant("t3/offset", filled(2**62)), "its sums exceed 63 bits"),
    ("offset of -2^63", constant("t3/offset", filled(-(2**63))), "its sums exceed 63 bits"),
    ("shift mode with 3", constant("t5/multiplier", filled(3)), "in mode shift with multipliers that are no powers"),
    ("shift mode with -1", constant("t5/multiplier", filled(-1)), "in mode shift with multipliers that are no powers"),
    (
        "multiply called shift",
        instruction("t3", mode=RequantiseMode.SHIFT),
        "in mode shift with multipliers that are no powers of two",
    ),
    ("rows without classes", instruction("t9", position_classes=""), "has 2 rows of constants and no position"),
    ("class 2 of 2", constant("t9/classes", filled(2)), "its position classes do not fit"),
    ("class -1", constant("t9/classes", filled(-1)), "its position classes do not fit"),
    ("classes of another size", constant("t9/classes", lambda a: a[:2]), "its position classes do not fit"),
    ("classes as fractions", constant("t9/classes", lambda a: a * 1.0), "its position classes do not fit"),
    ("clamp beyond the type", instruction("t3", high=512), r"clamps to \[-511, 512\], its result is int10"),
    ("clamp below the type", instruction("t3", low=-513), r"clamps to \[-513, 511\], its result is int10"),
    ("empty clamp", instruction("t3", low=5, high=4), r"clamps to \[5, 4\]"),
    # Thresholds.
    ("thresholds missing", without("t7/thresholds"), "its constants 't7/thresholds' are missing"),
    ("slopes missing", without("t7/falling"), "its constants 't7/falling' are missing"),
    ("thresholds as fractions", constant("t7/thresholds", lambda a: a * 1.0), r"its thresholds float64\(2, 4, 15\)"),
    ("unsigned thresholds", constant("t7/thresholds", lambda a: a.astype(np.uint32)), "its thresholds uint32"),
    ("thresholds of two axes", constant("t7/thresholds", lambda a: a[0]), r"its thresholds int16\(4, 15\) are not"),
    ("thresholds of 3 channels", constant("t7/thresholds", lambda a: a[:, :3]), r"int16\(2, 3, 15\) are not"),
    ("no threshold", constant("t7/thresholds", lambda a: a[..., :0]), r"int16\(2, 4, 0\) are not"),
    (
        "threshold of 34 bits",
        constant("t7/thresholds", lambda a: np.full(a.shape, 2**32)),
        "its thresholds 4294967296 to 4294967296 do not fit 33 bits",
    ),
    ("threshold below", constant("t7/thresholds", lambda a: np.full(a.shape, -(2**32) - 1)), "do not fit 33 bits"),
    ("descending thresholds", constant("t7/thresholds", lambda a: a[..., ::-1]), "its thresholds do not ascend"),
    ("slope 2", constant("t7/falling", filled(2)), "its falling channels .* are not 0 or 1"),
    ("slopes of 3 channels", constant("t7/falling", lambda a: a[:3]), r"its falling channels int8\(3,\) are not"),
    ("slopes as int64", constant("t7/falling", lambda a: a.astype(np.int64)), r"its falling channels int64\(4,\) are"),
    ("threshold rows without classes", instruction("t7", position_classes=""), "has 2 rows of constants and no"),
    ("threshold class 2 of 2", constant("t7/classes", filled(2)), "its position classes do not fit"),
    ("a threshold too many", instruction("t7", low=1), "gives 1 to 16, its result is uint4"),
    ("below the type", instruction("t7", low=-1), "gives -1 to 14, its result is uint4"),
    # Additions, pools, pads and joins.
    ("adds one tensor", instruction("t6", inputs=("t3",)), "adds tensors of different codings"),
    ("adds three tensors", instruction("t6", inputs=("t3", "t5", "t3")), "adds tensors of different codings"),
    ("adds accumulators", instruction("t6", inputs=("t2", "t4")), "adds tensors of different codings"),
    ("sum of another type", tensor("t6", dtype=IntegerType(bits=11, signed=True)), "adds tensors of different codings"),
    (
        "adds with a zero point",
        both(tensor("t3", zero_point=1), tensor("t5", zero_point=1), tensor("t6", zero_point=1)),
        "adds tensors of different codings or shapes, or with a zero point",
    ),
    ("multiplies one tensor", instruction("t16", inputs=("t13",)), r"multiplies shapes \(3, 2, 6\); two, alike or"),
    ("multiplies three", instruction("t16", inputs=("t13", "t15", "t15")), "two, alike or one number a channel"),
    ("multiplies by pixels", instruction("t16", inputs=("t15", "t13")), r"multiplies shapes \(1, 1, 6\), \(3, 2, 6\)"),
    (
        "product of bits",
        both(tensor("t15", dtype=BIT, bipolar=True, zero_point=0), instruction("t15", low=0, high=1)),
        "multiplies 1-bit codes",
    ),
    ("product with a zero point", tensor("t16", zero_point=1), "or its result has a zero point"),
    ("sum clamped beyond", instruction("t6", high=600), r"clamps to \[-300, 600\]"),
    ("maximum of another type", tensor("t10", dtype=INT10), "its result has another coding than its input"),
    ("pads by -1", instruction("t1", before=-1), "pads by a negative number"),
    ("pads by -1 behind", instruction("t1", after=-1), "pads by a negative number"),
    ("padded with another zero", tensor("t1", zero_point=4), "its result has another coding than its input"),
    ("joins two zero points", tensor("t11", zero_point=4), "joins tensors of different codings or sizes"),
    ("joins two sizes", instruction("t11", inputs=("t9", "t7")), "joins tensors of different codings or sizes"),
    ("adds all 32 bits", wide_sums(32), r"adds int32; sums of 32 bits, sign included, take one less"),
    ("adds all 31 bits", wide_sums(31, signed=False), r"adds uint31; sums"),
    ("no name", renamed("t3", ""), "two tensors have one name, or one has none"),
    (
        "padded too large",
        window("t8", pads=(4096,) * 4, stride=(4096, 4096)),
        "with the padding of its window",
    ),
    # Shapes and ranges of results.
    ("a channel more", tensor("t2", shape=(5, 4, 5)), r"its result has shape \(5, 4, 5\), expected \(5, 4, 4\)"),
    ("a row fewer", tensor("t8", shape=(2, 2, 4)), r"its result has shape \(2, 2, 4\), expected \(3, 2, 4\)"),
    ("pooled too small", tensor("t10", shape=(3, 1, 4)), r"expected \(3, 2, 4\)"),
    ("a channel fewer behind pads", tensor("t1", shape=(5, 4, 2)), r"expected \(5, 4, 3\)"),
    ("joined to 7", tensor("t11", shape=(3, 2, 7)), r"expected \(3, 2, 8\)"),
    ("global sum of 2 rows", tensor("t14", shape=(2, 1, 6)), r"shape \(2, 1, 6\), expected \(1, 1, 6\)"),
    ("clamped to another size", tensor("t3", shape=(5, 4, 3)), r"expected \(5, 4, 4\)"),
    ("accumulator a bit too narrow", tensor("t2", dtype=IntegerType(bits=8, signed=True)), "which is no int8"),
    ("pool a bit too narrow", tensor("t8", dtype=IntegerType(bits=6, signed=True)), "its result can be -.*, which is"),
    ("product a bit too narrow", tensor("t16", dtype=IntegerType(bits=13, signed=True)), "its result can be -6132 to"),
    ("product of another size", tensor("t16", shape=(3, 2, 5)), r"expected \(3, 2, 6\)"),
    ("global sum too narrow", tensor("t14", dtype=INT10), "its result can be -3066 to 3066, which is no int10"),
)


def test_programs_that_the_rules_are_broken_in_are_well_formed() -> None:
    check_program(one_of_each())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_random_programs_are_well_formed(program: Program) -> None:
    check_program(program)


@pytest.mark.parametrize(("change", "message"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_a_broken_rule_is_named(change: Break, message: str) -> None:
    with pytest.raises(InvalidProgram, match=message) as caught:
        check_program(change(one_of_each()), origin="file.bnhw")
    text = str(caught.value)
    assert text.startswith("file.bnhw is not a well-formed program:\n")
    assert text.endswith("\ncompile the model again")


def test_all_broken_rules_are_listed_at_once() -> None:
    broken = both(window("t2", stride=(0, 1)), constant("t9/classes", filled(7)), instruction("t6", high=999))
    with pytest.raises(InvalidProgram) as caught:
        check_program(broken(one_of_each()))
    listed = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert [line.split(":")[0] for line in listed] == [
        "  - instruction 2 (Convolve -> 't2')",
        "  - instruction 6 (AddSaturating -> 't6')",
        "  - instruction 9 (Requantise -> 't9')",
    ]


def built(build: Callable[[Builder], Tensor]) -> Program:
    builder = Builder(random=np.random.default_rng(0), shape=(2, 2, 1))
    return builder.program(builder.sum_global(build(builder)))


def test_lookups_take_unsigned_codes_of_at_most_12_bits() -> None:
    def build(dtype: IntegerType) -> Program:
        coding = Tensor(name="", shape=(1, 1, 1), dtype=dtype, scale=1.0)
        return built(
            lambda b: b.look_up(b.look_up(b.tensors["image"], coding, per_channel=False), coding, per_channel=False)
        )

    check_program(build(IntegerType(bits=12, signed=False)))
    with pytest.raises(InvalidProgram, match="looks up uint13 codes; unsigned ones of at most 12 bits"):
        check_program(build(IntegerType(bits=13, signed=False)))
    with pytest.raises(InvalidProgram, match="looks up int4 codes"):
        check_program(build(IntegerType(bits=4, signed=True)))


def test_bipolar_channels_cannot_be_padded_or_added() -> None:
    from bnhw.program import AddSaturating, PadChannels

    bipolar = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)

    def padded(builder: Builder) -> Tensor:
        bits = builder.look_up(builder.tensors["image"], bipolar, per_channel=False)
        pad = PadChannels(inputs=(bits.name,), output=builder.name(), before=1, after=0)
        return builder.same_coding(pad, (bits,), (2, 2, 2))

    def added(builder: Builder) -> Tensor:
        bits = builder.look_up(builder.tensors["image"], bipolar, per_channel=False)
        return builder.append(
            AddSaturating(inputs=(bits.name, bits.name), output=builder.name(), low=0, high=1), bits, (0, 1)
        )

    with pytest.raises(InvalidProgram, match="or one without a zero"):
        check_program(built(padded))
    with pytest.raises(InvalidProgram, match="adds tensors of different codings"):
        check_program(built(added))


def test_ranges_follow_the_clamps_not_the_types() -> None:
    """A sum of 6 integers within -20..20 fits 9 bits, although their type goes to 511."""
    program = one_of_each()
    narrow = IntegerType(bits=9, signed=True)
    changed = both(instruction("t13", low=-20, high=20), tensor("t14", dtype=narrow))(program)
    check_program(changed)
    with pytest.raises(InvalidProgram, match="its result can be -306 to 306, which is no int9"):
        check_program(both(instruction("t13", low=-51, high=51), tensor("t14", dtype=narrow))(program))


def test_a_rule_broken_early_hides_no_later_one_and_invents_none() -> None:
    with pytest.raises(InvalidProgram) as caught:
        check_program(instruction("t2", groups=0)(one_of_each()))
    assert str(caught.value).count("  - ") == 1
