"""What is synthesised to compare areas: one processing element's parts, each in several forms.

All are combinational. Numbers that a form fixes at design time are constants of the circuit, so that synthesis removes
what they make needless; all others are inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

SIMD = 16
ACC_BITS = 16
RESULT_BITS = 4
DATAPATH_NUMBERS = {"mux": 0, "and": 1, "xnor": 2, "mul": 3}
POST_NUMBERS = {"shift": 0, "csd": 1, "multiply": 2}
"""The parameters DATAPATH of dot.v and POST of post_arithmetic.v."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The value of an input that is fixed, and its width in bits."""

    bits: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """One module of `bnhw/rtl` with its parameters and the inputs that are fixed, by port.

    sources: the files that it needs beside its own. black_boxes: modules in them that are left out of the area.
    """

    name: str
    title: str
    module: str
    parameters: Mapping[str, int]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    multiplies: bool = False
    sources: tuple[str, ...] = ()
    black_boxes: tuple[str, ...] = ()


def dot_design(
    name: str, datapath: str, act_bits: int, weight_bits: int, title: str, *, simd: int = SIMD, masked: bool = True
) -> Design:
    """The sum of one cycle of one processing element, as wide as it can get.

    masked: whether lanes can be out of use, which costs something in datapath xnor alone.
    """
    tree = (simd - 1).bit_length()
    sum_bits = {"xnor": tree + 2, "mul": act_bits + weight_bits + tree}.get(datapath, act_bits + tree + 1)
    return Design(
        name=name,
        title=title,
        module="dot",
        parameters={
            "DATAPATH": DATAPATH_NUMBERS[datapath],
            "SIMD": simd,
            "ACT_BITS": act_bits,
            "WEIGHT_BITS": weight_bits,
            "SUM_BITS": sum_bits,
        },
        constants={} if masked else {"used": Constant(bits=simd, value=(1 << simd) - 1)},
        multiplies=datapath == "mul",
    )


def datapath_designs() -> tuple[Design, ...]:
    """The datapaths at 16 lanes; a number after the name is the activation's width."""
    return (
        dot_design("xnor", "xnor", 1, 1, "XNOR and popcount of bits", masked=False),
        dot_design("xnor, masked", "xnor", 1, 1, "the same, where lanes can be out of use"),
        dot_design("and4", "and", 4, 1, "4-bit activation where the weight is 1; the sum of all is shared"),
        dot_design("mux4", "mux", 4, 1, "4-bit activation added or subtracted"),
        dot_design("and8", "and", 8, 1, "8-bit activation where the weight is 1; the sum of all is shared"),
        dot_design("mux8", "mux", 8, 1, "8-bit activation added or subtracted"),
        dot_design("mul8x8", "mul", 8, 8, "8-bit activation times 8-bit weight"),
    )


def post_designs() -> tuple[Design, ...]:
    """The post stages for a 16-bit accumulator and a 4-bit unsigned result; offsets and factors are inputs."""
    return (
        _arithmetic("fixed shift", "shift", "shifted ReLU, its shift fixed", shift=6, exponents=1),
        _arithmetic("barrel shift", "shift", "shifted ReLU, its shift an input", exponents=1),
        _arithmetic("csd:2", "csd", "factor of two signed digits of 8 places", shift=8, exponents=8, added_bits=8),
        _thresholds("15 thresholds", "comparisons, all rising", {"falling": Constant(bits=1, value=0)}),
        _thresholds("15 thresholds, either way", "comparisons, rising or falling", {}),
        _arithmetic("multiply:8", "multiply", "batch norm with a factor of 8 bits", shift=8, multiplier_bits=8),
        _arithmetic("multiply:16", "multiply", "batch norm with a factor of 16 bits", shift=16, multiplier_bits=16),
    )


def _arithmetic(
    name: str,
    post: str,
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
    if post == "shift":
        constants["multiplier"] = Constant(bits=7, value=1 << 6)  # one digit, 2^0
    return Design(
        name=name,
        title=title,
        module="post_arithmetic",
        parameters={
            "POST": POST_NUMBERS[post],
            "ACC_BITS": ACC_BITS,
            "OFFSET_BITS": ACC_BITS + (multiplier_bits or added_bits),
            "SHIFT_BITS": shift_bits,
            "MULTIPLIER_BITS": multiplier_bits or 2,
            "CSD_DIGITS": 2,
            "RESULT_BITS": RESULT_BITS + 1,
            "EXPONENTS": exponents,
        },
        constants=constants,
        multiplies=post == "multiply",
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


def engine_designs(parameters: Mapping[str, int]) -> tuple[Design, ...]:
    """One processing element's parts of an engine with these parameters of `engine.v`, every number an input."""
    designs = [
        Design(
            name="dot",
            title=f"sum of a cycle of {parameters['SIMD']} lanes",
            module="dot",
            parameters=_chosen(parameters, "DATAPATH", "SIMD", "ACT_BITS", "WEIGHT_BITS", "SUM_BITS"),
            multiplies=parameters["DATAPATH"] == DATAPATH_NUMBERS["mul"],
        ),
        Design(
            name="post_arithmetic",
            title="requantise with constants",
            module="post_arithmetic",
            parameters={
                **_chosen(parameters, "POST", "ACC_BITS", "OFFSET_BITS", "SHIFT_BITS"),
                **_chosen(parameters, "MULTIPLIER_BITS", "RESULT_BITS"),
                "CSD_DIGITS": max(1, parameters["CSD_DIGITS"]),
                "EXPONENTS": parameters["MULTIPLIER_BITS"],
            },
            multiplies=parameters["POST"] == POST_NUMBERS["multiply"],
        ),
    ]
    comparators = parameters["COMPARATORS"]
    if comparators:
        designs.append(
            Design(
                name="post_threshold",
                title=f"{comparators} thresholds",
                module="post_threshold",
                parameters={
                    "ACC_BITS": parameters["ACC_BITS"] + 1,
                    "COMPARATORS": comparators,
                    "COUNT_BITS": comparators.bit_length(),
                },
            )
        )
    return tuple(designs)


def _chosen(parameters: Mapping[str, int], *names: str) -> dict[str, int]:
    return {name: parameters[name] for name in names}
