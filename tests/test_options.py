"""Options as text and back, and what is refused."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bnhw.errors import BadInput
from bnhw.options import (
    DEFAULT_AUTO_BUDGET_DB,
    CompileOptions,
    RangeMethod,
    Ranges,
    options_as_text,
    options_from_text,
    parse_act_bits,
)

WIDTHS = st.integers(2, 8)
DECIBELS = st.floats(0, 100, exclude_min=True).map(lambda number: f"auto:{number!r}")
COLOURS = st.sampled_from((1, 3))


@st.composite
def options(draw: st.DrawFn) -> CompileOptions:
    """Any that are allowed."""
    modes = st.sampled_from(("shift", "csd", "csd:1", "csd:4", "multiply", "multiply:2", "threshold", "auto"))
    means, stds = st.floats(-1e6, 1e6), st.floats(1e-6, 1e6)
    lists = st.lists(WIDTHS, min_size=2, max_size=9).map(tuple)
    percents = st.floats(50, 100).map(lambda number: f"percentile:{number!r}")
    mode = draw(st.one_of(modes, DECIBELS))
    return CompileOptions(
        act_bits=draw(st.one_of(WIDTHS, lists, DECIBELS)),
        weight_bits=draw(WIDTHS),
        input_bits=draw(st.integers(2, 12)),
        residual_bits=draw(st.integers(8, 24)),
        requantise=mode,
        multipliers=mode.startswith("multiply") or draw(st.booleans()),
        ranges=draw(st.one_of(st.sampled_from(("min-max", "mse", "percentile")), percents)),
        input_mean=tuple(draw(st.lists(means, min_size=1, max_size=3))),
        input_std=tuple(draw(st.lists(stds, min_size=1, max_size=3))),
    )


@given(options())
def test_options_are_the_same_behind_their_text(chosen: CompileOptions) -> None:
    assert options_from_text(options_as_text(chosen)) == chosen


@given(options(), st.data())
def test_what_is_missing_is_the_default_and_what_is_unknown_is_left_aside(
    chosen: CompileOptions, data: st.DataObject
) -> None:
    texts = options_as_text(chosen)
    name = data.draw(st.sampled_from(sorted(texts)))
    assume(name != "requantise" or chosen.multipliers)  # the default multiplies
    del texts[name]
    found = options_from_text({**texts, "of a later version": "7"})
    assert getattr(found, name) == getattr(CompileOptions(), name)
    assert options_as_text(found) | {name: ""} == texts | {name: ""}


@pytest.mark.parametrize(
    ("text", "found"), [("8", 8), ("2,3,4", (2, 3, 4)), ("auto:30", "auto:30"), (" 4 , 5", (4, 5))]
)
def test_act_bits_are_read(text: str, found: int | tuple[int, ...] | str) -> None:
    assert parse_act_bits(text) == found


@pytest.mark.parametrize("text", ["", "x", "3,", "3.5", "3;4", "aut:30"])
def test_act_bits_that_are_no_numbers_are_refused(text: str) -> None:
    expected = f"act_bits is {text!r}; a number, numbers between commas, or auto:DB is expected"
    with pytest.raises(BadInput, match=f"^{re.escape(expected)}$"):
        parse_act_bits(text)


@pytest.mark.parametrize("text", ["auto:", "auto:x", "auto:0", "auto:-1", "auto:101", "auto:nan", "auto:inf", "auto-3"])
@pytest.mark.parametrize("name", ["act_bits", "requantise"])
def test_decibels_that_are_none_are_refused(name: str, text: str) -> None:
    both = {
        "act_bits": f"act_bits is {text!r}; auto:DB with more than 0 and at most 100 decibels is expected",
        "requantise": f"requantise is {text!r}; auto:DB with more than 0 and at most 100 decibels is expected",
    }
    expected = f"requantise mode {text!r} is not available" if (name, text) == ("requantise", "auto-3") else both[name]
    with pytest.raises(BadInput, match=re.escape(expected)):
        CompileOptions(**{name: text})  # type: ignore[arg-type]  # one option by its name


def test_plain_auto_is_a_mode_but_no_width() -> None:
    assert CompileOptions(requantise="auto").auto_budget_db == DEFAULT_AUTO_BUDGET_DB
    assert CompileOptions(requantise="auto:0.25").auto_budget_db == 0.25
    assert CompileOptions().auto_budget_db is None
    with pytest.raises(BadInput, match="act_bits is 'auto'; auto:DB"):
        CompileOptions(act_bits="auto")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("act_bits", 1, "act_bits is 1; 2 to 8 bits are allowed"),
        ("act_bits", (8, 9), "act_bits is 9; 2 to 8 bits are allowed"),
        ("weight_bits", 9, "weight_bits is 9; 2 to 8 bits are allowed"),
        ("input_bits", 13, "input_bits is 13; 2 to 12 bits are allowed"),
        ("residual_bits", 7, "residual_bits is 7; 8 to 24 bits are allowed"),
        ("input_std", (1.0, 0.0), "input_std is (1.0, 0.0); positive numbers are expected, one or one a colour"),
        ("input_std", (), "input_std is (); positive numbers are expected, one or one a colour"),
        ("input_mean", (float("nan"),), "input_mean is (nan,); finite numbers are expected, one or one a colour"),
        ("input_mean", (), "input_mean is (); finite numbers are expected, one or one a colour"),
        ("requantise", "digits", "requantise mode 'digits' is not available; choose shift, csd:N"),
        ("requantise", "csd:5", "requantise mode 'csd:5' is not available; choose shift, csd:N"),
        ("requantise", "shift:1", "requantise mode 'shift:1' is not available; choose shift, csd:N"),
    ],
)
def test_what_is_out_of_range_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(message)}"):
        CompileOptions(**{name: value})  # type: ignore[arg-type]  # one option by its name


@pytest.mark.parametrize("text", ["", "max", "mse:1", "min-max:3", "percentile:49", "percentile:101", "percentile:x"])
def test_ranges_that_are_none_are_refused(text: str) -> None:
    expected = f"ranges {text!r} are not available; choose min-max, mse, or percentile:P with P of 50..100"
    for read in (Ranges.parse, lambda found: CompileOptions(ranges=found)):
        with pytest.raises(BadInput, match=f"^{re.escape(expected)}$"):
            read(text)


@pytest.mark.parametrize(
    ("name", "given", "plain"),
    [
        ("input_std", np.array([2.0, 4.0]), (2.0, 4.0)),
        ("input_std", [np.float64(2.0)], (2.0,)),
        ("input_std", 255, (255.0,)),
        ("input_mean", np.float32(0.5), (0.5,)),
        ("act_bits", np.int64(4), 4),
        ("act_bits", [8], 8),
        ("act_bits", np.array([8, 4]), (8, 4)),
        ("weight_bits", np.uint8(7), 7),
        ("multipliers", np.True_, True),
    ],
)
def test_numbers_of_any_kind_become_plain_and_stay_so_behind_their_text(name: str, given: Any, plain: object) -> None:
    options = CompileOptions(**{name: given})
    assert (getattr(options, name), type(getattr(options, name))) == (plain, type(plain))
    assert options_from_text(options_as_text(options)) == options


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("act_bits", None, r"act_bits is None; an integer, integers, or 'auto:DB' is expected"),
        ("act_bits", (4.5,), r"act_bits is \(4.5,\); an integer"),
        ("weight_bits", "8", r"weight_bits is '8'; an integer is expected"),
        ("weight_bits", 7.5, r"weight_bits is 7.5; an integer is expected"),
        ("residual_bits", 16.5, r"residual_bits is 16.5; an integer is expected"),
        ("requantise", None, r"requantise is None; a text is expected"),
        ("multipliers", "no", r"multipliers is 'no'; True or False is expected"),
        ("input_std", "2", r"input_std is '2'; a number, or one a colour, is expected"),
        ("input_mean", None, r"input_mean is None; a number, or one a colour, is expected"),
    ],
)
def test_values_of_another_kind_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        CompileOptions(**{name: value})


def test_ranges_are_read() -> None:
    assert Ranges.parse("percentile") == Ranges(method=RangeMethod.PERCENTILE, percent=99.99)
    assert Ranges.parse("percentile:50") == Ranges(method=RangeMethod.PERCENTILE, percent=50)
    assert Ranges.parse("mse").method is RangeMethod.MSE


@pytest.mark.parametrize(("name", "text"), [("weight_bits", "x"), ("input_std", "1,x"), ("residual_bits", "3.0")])
def test_texts_that_are_no_numbers_are_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|could not convert"):
        options_from_text({name: text})
