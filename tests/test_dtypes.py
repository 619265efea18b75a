"""Integer types and the meaning of codes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnhw.dtypes import IntegerType, Quantisation

TYPES = st.builds(lambda bits, signed: IntegerType(bits=bits, signed=signed), st.integers(1, 64), st.booleans())


@given(TYPES)
def test_type_holds_two_to_the_bits_numbers(dtype: IntegerType) -> None:
    assert dtype.high - dtype.low + 1 == 2**dtype.bits
    assert (dtype.low < 0) == dtype.signed


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_containing_is_the_narrowest_type(first: int, second: int) -> None:
    low, high = sorted((first, second))
    dtype = IntegerType.containing(low, high)
    assert dtype.low <= low <= high <= dtype.high
    assert dtype.signed == (low < 0)
    if dtype.bits > 1:
        narrower = IntegerType(bits=dtype.bits - 1, signed=dtype.signed)
        assert low < narrower.low or high > narrower.high


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [(0, 0, "uint1"), (0, 1, "uint1"), (0, 255, "uint8"), (0, 256, "uint9"), (-1, 0, "int1"), (-1, 1, "int2"),
     (-128, 127, "int8"), (-128, 128, "int9"), (-129, 0, "int9"), (3, 4, "uint3"), (-5, -3, "int4")],
)  # fmt: skip
def test_containing_by_example(low: int, high: int, name: str) -> None:
    assert str(IntegerType.containing(low, high)) == name


def test_empty_range_has_no_type() -> None:
    with pytest.raises(ValueError, match=r"empty range \[1, 0\]"):
        IntegerType.containing(1, 0)


@pytest.mark.parametrize("bits", [0, -1, 65])
def test_width_out_of_range_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.64 bits"):
        IntegerType(bits=bits, signed=False)


SCALES = st.floats(1e-6, 1e6)


@given(st.integers(1, 32), st.booleans(), SCALES, st.data())
def test_slope_and_intercept_give_the_real_value(bits: int, signed: bool, scale: float, data: st.DataObject) -> None:
    dtype = IntegerType(bits=bits, signed=signed)
    codes = st.integers(dtype.low, dtype.high)
    zero_point, code = data.draw(codes), data.draw(codes)
    quantisation = Quantisation(dtype=dtype, scale=scale, zero_point=zero_point)
    real = quantisation.slope * code + quantisation.intercept
    assert real == pytest.approx(scale * (code - zero_point), rel=1e-9, abs=1e-9 * scale * 2**bits)
    assert quantisation.low_value <= code - zero_point <= quantisation.high_value


def test_bipolar_code_stands_for_plus_or_minus_the_scale() -> None:
    quantisation = Quantisation(dtype=IntegerType(bits=1, signed=False), scale=0.75, bipolar=True)
    assert [quantisation.slope * code + quantisation.intercept for code in (0, 1)] == [-0.75, 0.75]
    assert (quantisation.low_value, quantisation.high_value) == (-1, 1)
    assert str(quantisation) == "bipolar"


UINT1, UINT8 = IntegerType(bits=1, signed=False), IntegerType(bits=8, signed=False)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scale_is_positive_and_finite(scale: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        Quantisation(dtype=UINT8, scale=scale)


@pytest.mark.parametrize("zero_point", [-1, 256])
def test_zero_point_is_a_code(zero_point: int) -> None:
    with pytest.raises(ValueError, match="is no code of uint8"):
        Quantisation(dtype=UINT8, scale=1.0, zero_point=zero_point)


@pytest.mark.parametrize(("dtype", "zero_point"), [(UINT8, 0), (IntegerType(bits=1, signed=True), 0), (UINT1, 1)])
def test_bipolar_code_is_one_unsigned_bit(dtype: IntegerType, zero_point: int) -> None:
    with pytest.raises(ValueError, match="one unsigned bit without zero point"):
        Quantisation(dtype=dtype, scale=1.0, zero_point=zero_point, bipolar=True)
