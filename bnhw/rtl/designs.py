"""What is synthesised to compare areas: one processing element's parts, each in several forms.

All are combinational. Numbers that a form fixes at design time are constants of the circuit, so that synthesis removes
what they make needless; all others are inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bnhw.hardware.arch import Datapath, Post
from bnhw.rtl.area import Target
from bnhw.rtl.parameters import DATAPATHS, POSTS, sum_bits

SIMD = 16
ACC_BITS = 16
RESULT_BITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The value of an input that is fixed, and its width in bits."""

    bits: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """One module of `bnhw/rtl` with its parameters and the inputs that are fixed, by port.

    sources: the files that it needs beside its own. black_boxes: modules in them that are left out of the area.
    targets: those that it is measured on.
    """

    name: str
    title: str
    module: str
    parameters: Mapping[str, int]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    multiplies: bool = False
    sources: tuple[str, ...] = ()
    black_boxes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = tuple(Target)


def dot_design(
    name: str, datapath: Datapath, act_bits: int, weight_bits: int, title: str, *, simd: int = SIMD, masked: bool = True
) -> Design:
    """The sum of one cycle of one processing element, as wide as it can get.

    masked: whether lanes can be out of use, which costs something in datapath xnor alone.
    """
    return Design(
        name=name,
        title=title,
        module="dot",
        parameters={
            "DATAPATH": DATAPATHS.index(datapath),
            "SIMD": simd,
            "ACT_BITS": act_bits,
            "WEIGHT_BITS": weight_bits,
            "SUM_BITS": sum_bits(datapath, simd, act_bits, weight_bits),
        },
        constants={} if masked else {"used": Constant(bits=simd, value=(1 << simd) - 1)},
        multiplies=datapath is Datapath.MUL,
    )


def datapath_designs() -> tuple[Design, ...]:
    """The datapaths at 16 lanes; a number after the name is the activation's width."""
    return (
        dot_design("xnor", Datapath.XNOR, 1, 1, "XNOR and popcount of bits", masked=False),
        dot_design("xnor, masked", Datapath.XNOR, 1, 1, "the same, where lanes can be out of use"),
        dot_design("and4", Datapath.AND, 4, 1, "4-bit activation where the weight is 1; the sum of all is shared"),
        dot_design("mux4", Datapath.MUX, 4, 1, "4-bit activation added or subtracted"),
        dot_design("and8", Datapath.AND, 8, 1, "8-bit activation where the weight is 1; the sum of all is shared"),
        dot_design("mux8", Datapath.MUX, 8, 1, "8-bit activation added or subtracted"),
        dot_design("mul8x8", Datapath.MUL, 8, 8, "8-bit activation times 8-bit weight"),
    )


def post_designs() -> tuple[Design, ...]:
    """The post stages for a 16-bit accumulator and a 4-bit unsigned result; offsets and factors are inputs."""
    return (
        _arithmetic("fixed shift", Post.SHIFT, "shifted ReLU, its shift fixed", shift=6, exponents=1),
        _arithmetic("barrel shift", Post.SHIFT, "shifted ReLU, its shift an input", exponents=1),
        _arithmetic("csd:2", Post.CSD, "factor of two signed digits of 8 places", shift=8, exponents=8, added_bits=8),
        _thresholds("15 thresholds", "comparisons, all rising", {"falling": Constant(bits=1, value=0)}),
        _thresholds("15 thresholds, either way", "comparisons, rising or falling", {}),
        _arithmetic("multiply:8", Post.MULTIPLY, "batch norm with a factor of 8 bits", shift=8, multiplier_bits=8),
        _arithmetic("multiply:16", Post.MULTIPLY, "batch norm with a factor of 16 bits", shift=16, multiplier_bits=16),
    )


def _arithmetic(
    name: str,
    post: Post,
    title: str,
    *,
    shift: int | None = None,
    exponents: int = 32,
    multiplier_bits: int = 0,
    added_bits: int = 0,
) -> Design:
    """One form of post_arithmetic; `shift` is None where it is an input."""
    shift_bits = max(4, (shift or 0).bit_length())
    constants = {
        "low": Constant(bits=RESULT_BITS + 1, value=0),
        "high": Constant(bits=RESULT_BITS + 1, value=(1 << RESULT_BITS) - 1),
    }
    if shift is not None:
        constants["shift"] = Constant(bits=shift_bits, value=shift)
    if post is Post.SHIFT:
        constants["multiplier"] = Constant(bits=7, value=1 << 6)  # one digit, 2^0
    return Design(
        name=name,
        title=title,
        module="post_arithmetic",
        parameters={
            "POST": POSTS.index(post),
            "ACC_BITS": ACC_BITS,
            "OFFSET_BITS": ACC_BITS + (multiplier_bits or added_bits),
            "SHIFT_BITS": shift_bits,
            "MULTIPLIER_BITS": multiplier_bits or 2,
            "CSD_DIGITS": 2,
            "RESULT_BITS": RESULT_BITS + 1,
            "EXPONENTS": exponents,
        },
        constants=constants,
        multiplies=post is Post.MULTIPLY,
    )


def _thresholds(name: str, title: str, constants: Mapping[str, Constant]) -> Design:
    levels = (1 << RESULT_BITS) - 1
    return Design(
        name=name,
        title=title,
        module="post_threshold",
        parameters={"ACC_BITS": ACC_BITS, "COMPARATORS": levels, "COUNT_BITS": RESULT_BITS},
        constants=constants,
    )


def all_designs() -> tuple[Design, ...]:
    """Everything that is compared."""
    return datapath_designs() + post_designs()


GROUPS = (
    (
        f"One processing element of {SIMD} lanes, the sum of a cycle",
        tuple(design.name for design in datapath_designs()),
    ),
    (
        f"One post stage, {ACC_BITS}-bit accumulator, {RESULT_BITS}-bit result",
        tuple(design.name for design in post_designs()),
    ),
)
"""The tables: title, names of designs."""
