"""The combinational modules of the engine against numpy and plain integers, under Icarus Verilog."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from verilog_helpers import RTL, needs_icarus, needs_verilator, pack, run_module

from bnhw.dtypes import Array

MUX, AND, XNOR, MUL = range(4)
SHIFT, CSD, MULTIPLY = range(3)
VECTORS = 300


def _sum_bits(datapath: int, simd: int, act_bits: int, weight_bits: int) -> int:
    tree = (simd - 1).bit_length()
    return {
        MUX: act_bits + tree + 1,
        AND: act_bits + tree + 1,
        XNOR: tree + 2,
        MUL: act_bits + weight_bits + tree,
    }[datapath]


def _dot_vectors(datapath: int, simd: int, act_bits: int, weight_bits: int) -> tuple[Array, Array, Array]:
    """x, w, used of shape (vectors, simd); the first vectors hold the extremes."""
    rng = np.random.default_rng([datapath, simd, act_bits, weight_bits])
    x = rng.integers(0, 1 << act_bits, (VECTORS, simd))
    least, most = (-(1 << (weight_bits - 1)), (1 << (weight_bits - 1)) - 1) if datapath == MUL else (0, 1)
    w = rng.integers(least, most + 1, (VECTORS, simd))
    used = rng.random((VECTORS, simd)) < rng.random((VECTORS, 1))
    x[:4] = (1 << act_bits) - 1
    w[0], w[1] = least, most
    used[:4] = True
    return np.where(used, x, 0), w, used


def _dot_expected(datapath: int, x: Array, w: Array, used: Array) -> Array:
    terms = {
        MUX: np.where(w == 1, x, -x),
        AND: np.where(w == 1, x, 0),
        XNOR: used & (x == w),
        MUL: w * x,
    }
    return np.asarray(terms[datapath].sum(axis=1))


def _dot(source: Path, folder: Path, datapath: int, simd: int, act_bits: int, weight_bits: int) -> tuple[Array, Array]:
    """(found, expected) sums."""
    x, w, used = _dot_vectors(datapath, simd, act_bits, weight_bits)
    sum_bits = _sum_bits(datapath, simd, act_bits, weight_bits)
    found = run_module(
        folder,
        source,
        parameters={
            "DATAPATH": datapath,
            "SIMD": simd,
            "ACT_BITS": act_bits,
            "WEIGHT_BITS": weight_bits,
            "SUM_BITS": sum_bits,
        },
        inputs={"x": simd * act_bits, "w": simd * weight_bits, "used": simd},
        output=("sum", sum_bits, True),
        vectors=[
            {"x": pack(x[i], act_bits), "w": pack(w[i], weight_bits), "used": pack(used[i], 1)} for i in range(VECTORS)
        ],
    )
    return np.array(found), _dot_expected(datapath, x, w, used)


DOTS = [
    *[(MUX, 16, 4, 1), (MUX, 5, 8, 1), (MUX, 1, 2, 1), (MUX, 64, 3, 1)],
    *[(AND, 16, 4, 1), (AND, 7, 8, 1), (AND, 1, 2, 1)],
    *[(XNOR, 16, 1, 1), (XNOR, 1, 1, 1), (XNOR, 33, 1, 1)],
    *[(MUL, 16, 8, 8), (MUL, 3, 4, 2), (MUL, 1, 2, 5)],
]


@needs_icarus
@pytest.mark.parametrize(("datapath", "simd", "act_bits", "weight_bits"), DOTS)
def test_dot_is_the_sum_of_its_datapath(
    tmp_path: Path, datapath: int, simd: int, act_bits: int, weight_bits: int
) -> None:
    found, expected = _dot(RTL / "dot.v", tmp_path, datapath, simd, act_bits, weight_bits)
    np.testing.assert_array_equal(found, expected)


@needs_icarus
@pytest.mark.parametrize(
    ("datapath", "old", "new"),
    [
        (MUX, "value : -value", "value : ~value"),
        (AND, "& {ACT_BITS{w[lane]}}", "| {ACT_BITS{w[lane]}}"),
        (XNOR, "used[lane] & ~(", "~("),
        (MUL, "products - (", "products + ("),
    ],
)
def test_a_wrong_dot_is_seen(tmp_path: Path, datapath: int, old: str, new: str) -> None:
    text = (RTL / "dot.v").read_text()
    assert text.count(old) == 1
    wrong = tmp_path / "dot.v"
    wrong.write_text(text.replace(old, new))
    act_bits, weight_bits = (1, 1) if datapath == XNOR else (4, 3 if datapath == MUL else 1)
    found, expected = _dot(wrong, tmp_path, datapath, 8, act_bits, weight_bits)
    assert (found != expected).any()


def _signed(rng: np.random.Generator, bits: int) -> list[int]:
    """Numbers of every magnitude, with both ends of the range among them."""
    numbers = [int(rng.integers(0, 1 << 62)) >> int(rng.integers(62 - bits + 1, 62)) for _ in range(VECTORS)]
    numbers = [number * int(sign) for number, sign in zip(numbers, rng.choice([-1, 1], VECTORS), strict=True)]
    ends = [-(1 << (bits - 1)), (1 << (bits - 1)) - 1]
    for i in range(16):
        numbers[i] = ends[int(rng.integers(2))]
    return numbers


def _multipliers(
    rng: np.random.Generator, post: int, bits: int, digits: int, exponents: int
) -> tuple[list[int], list[int]]:
    """(M as the port holds it, M)."""
    if post == MULTIPLY:
        numbers = _signed(rng, bits)
        return numbers, numbers
    count = digits if post == CSD else 1
    nonzero = rng.random((VECTORS, count)) < 0.9
    negative = rng.random((VECTORS, count)) < 0.5
    exponent = rng.integers(0, exponents, (VECTORS, count))
    nonzero[:8] = True
    exponent[:8] = exponents - 1
    fields = nonzero * 64 + negative * 32 + exponent
    values = [
        sum(int(n) * (-1 if s else 1) * (1 << int(e)) for n, s, e in zip(*row, strict=True))
        for row in zip(nonzero, negative, exponent, strict=True)
    ]
    return [pack(row, 7) for row in fields], values


def _requantise(
    source: Path,
    folder: Path,
    post: int,
    sizes: tuple[int, int, int, int],
    multiplier: tuple[int, int, int] = (8, 2, 32),
) -> tuple[list[int], list[int]]:
    """(found, expected); sizes: accumulator, offset, shift, result bits; multiplier: bits, digits, exponents."""
    acc_bits, offset_bits, shift_bits, result_bits = sizes
    multiplier_bits, digits, exponents = multiplier
    rng = np.random.default_rng([post, *sizes, *multiplier])
    acc, offset = _signed(rng, acc_bits), _signed(rng, offset_bits)
    fields, factors = _multipliers(rng, post, multiplier_bits, digits, exponents)
    shift = [int(s) for s in rng.integers(0, 1 << shift_bits, VECTORS)]
    limits = rng.integers(-(1 << (result_bits - 1)), 1 << (result_bits - 1), (VECTORS, 2))
    limits.sort(axis=1)
    limits[: VECTORS // 2] = [-(1 << (result_bits - 1)), (1 << (result_bits - 1)) - 1]
    expected = [
        int(min(max((acc[i] * factors[i] + offset[i]) >> shift[i], limits[i, 0]), limits[i, 1])) for i in range(VECTORS)
    ]
    field = {SHIFT: 7, CSD: digits * 7, MULTIPLY: multiplier_bits}[post]
    found = run_module(
        folder,
        source,
        parameters={
            "POST": post,
            "ACC_BITS": acc_bits,
            "OFFSET_BITS": offset_bits,
            "SHIFT_BITS": shift_bits,
            "MULTIPLIER_BITS": multiplier_bits,
            "CSD_DIGITS": digits,
            "RESULT_BITS": result_bits,
            "EXPONENTS": exponents,
        },
        inputs={
            "acc": acc_bits,
            "multiplier": field,
            "offset": offset_bits,
            "shift": shift_bits,
            "low": result_bits,
            "high": result_bits,
        },
        output=("q", result_bits, True),
        vectors=[
            {
                "acc": acc[i],
                "multiplier": fields[i],
                "offset": offset[i],
                "shift": shift[i],
                "low": int(limits[i, 0]),
                "high": int(limits[i, 1]),
            }
            for i in range(VECTORS)
        ],
    )
    return found, expected


ARITHMETIC = [
    (SHIFT, (16, 24, 4, 5), (8, 2, 32)),
    (SHIFT, (12, 12, 3, 16), (8, 2, 1)),
    (SHIFT, (24, 62, 6, 32), (8, 2, 25)),
    (CSD, (16, 24, 5, 9), (8, 1, 32)),
    (CSD, (20, 40, 6, 9), (8, 2, 32)),
    (CSD, (12, 8, 4, 40), (8, 3, 7)),
    (MULTIPLY, (16, 24, 4, 5), (8, 2, 32)),
    (MULTIPLY, (24, 50, 6, 32), (24, 2, 32)),
    (MULTIPLY, (3, 2, 1, 12), (2, 2, 32)),
]


@needs_icarus
@pytest.mark.parametrize(("post", "sizes", "multiplier"), ARITHMETIC)
def test_requantise_arithmetic_is_exact(
    tmp_path: Path, post: int, sizes: tuple[int, int, int, int], multiplier: tuple[int, int, int]
) -> None:
    found, expected = _requantise(RTL / "post_arithmetic.v", tmp_path, post, sizes, multiplier)
    assert found == expected


@needs_icarus
@pytest.mark.parametrize(
    ("post", "old", "new"),
    [
        (CSD, "EXPONENTS - 1 + $clog2(DIGITS + 1)", "EXPONENTS - 3"),  # products wrap
        (CSD, "total - power", "total + power"),
        (MULTIPLY, "sum >>> shift", "sum >> shift"),
        (MULTIPLY, "(PRODUCT_BITS > OFFSET_BITS ? PRODUCT_BITS : OFFSET_BITS) + 1", "PRODUCT_BITS"),  # the sum wraps
        (SHIFT, "result > highest ? high :", ""),
    ],
)
def test_wrong_arithmetic_is_seen(tmp_path: Path, post: int, old: str, new: str) -> None:
    text = (RTL / "post_arithmetic.v").read_text()
    assert text.count(old) == 1
    wrong = tmp_path / "post_arithmetic.v"
    wrong.write_text(text.replace(old, new))
    found, expected = _requantise(wrong, tmp_path, post, (16, 24, 5, 9))
    assert found != expected


def _thresholds(source: Path, folder: Path, acc_bits: int, comparators: int) -> tuple[Array, Array]:
    """(found, expected) counts; half of the thresholds lie next to the accumulator."""
    rng = np.random.default_rng([acc_bits, comparators])
    acc = np.array(_signed(rng, acc_bits))
    far = np.array([_signed(rng, acc_bits) for _ in range(comparators)]).T
    near = acc[:, None] + rng.integers(-1, 2, (VECTORS, comparators))
    near = near.clip(-(1 << (acc_bits - 1)), (1 << (acc_bits - 1)) - 1)
    thresholds = np.where(rng.random((VECTORS, comparators)) < 0.5, near, far)
    falling = rng.integers(0, 2, VECTORS)
    agree = np.where(falling[:, None] == 1, acc[:, None] <= thresholds, acc[:, None] >= thresholds)
    count_bits = comparators.bit_length()
    found = run_module(
        folder,
        source,
        parameters={"ACC_BITS": acc_bits, "COMPARATORS": comparators, "COUNT_BITS": count_bits},
        inputs={"acc": acc_bits, "thresholds": comparators * acc_bits, "falling": 1},
        output=("count", count_bits, False),
        vectors=[
            {"acc": int(acc[i]), "thresholds": pack(thresholds[i], acc_bits), "falling": int(falling[i])}
            for i in range(VECTORS)
        ],
    )
    return np.array(found), np.asarray(agree.sum(axis=1))


@needs_icarus
@pytest.mark.parametrize(("acc_bits", "comparators"), [(16, 15), (12, 1), (20, 3), (8, 16), (32, 7)])
def test_thresholds_are_counted(tmp_path: Path, acc_bits: int, comparators: int) -> None:
    found, expected = _thresholds(RTL / "post_threshold.v", tmp_path, acc_bits, comparators)
    np.testing.assert_array_equal(found, expected)


@needs_icarus
def test_a_wrong_threshold_is_seen(tmp_path: Path) -> None:
    text = (RTL / "post_threshold.v").read_text()
    old = " - {{ACC_BITS{1'b0}}, falling}"
    assert text.count(old) == 1
    wrong = tmp_path / "post_threshold.v"
    wrong.write_text(text.replace(old, ""))
    found, expected = _thresholds(wrong, tmp_path, 16, 15)
    assert (found != expected).any()


@needs_verilator
@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        *[
            (
                "dot",
                {
                    "DATAPATH": datapath,
                    "SIMD": simd,
                    "ACT_BITS": act_bits,
                    "WEIGHT_BITS": weight_bits,
                    "SUM_BITS": _sum_bits(datapath, simd, act_bits, weight_bits),
                },
            )
            for datapath, simd, act_bits, weight_bits in (DOTS[0], DOTS[4], DOTS[7], DOTS[10], DOTS[12])
        ],
        *[("post_arithmetic", {"POST": post, "EXPONENTS": exponents}) for post in range(3) for exponents in (1, 32)],
        ("post_threshold", {"COMPARATORS": 15, "COUNT_BITS": 4}),
        ("post_threshold", {"COMPARATORS": 1, "COUNT_BITS": 1}),
    ],
)
def test_verilator_has_no_warning(module: str, parameters: dict[str, int]) -> None:
    command = ["verilator", "-Wall", "--lint-only", "--default-language", "1364-2005", str(RTL / f"{module}.v")]
    command += [f"-G{name}={value}" for name, value in parameters.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
