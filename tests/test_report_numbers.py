"""Numbers as people read them."""

import pytest

from bnhw.reports.html.page import in_greek
from bnhw.reports.numbers import (
    format_avoided,
    format_count,
    format_difference,
    format_energy,
    format_energy_range,
    format_percent,
    format_ratio,
    format_seconds,
    format_small_share,
    middle_cut,
    ratio,
    significant,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (12.34, "12.3"),
        (0.01234, "0.0123"),
        (1, "1.00"),
        (-2.5, "-2.50"),
        (999.7, "1,000"),
    ],
)
def test_three_digits_and_separators(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("picojoules", "text"),
    [
        (0, "0 pJ"),
        (0.5, "0.500 pJ"),
        (1500, "1.50 nJ"),
        (999.9, "1,000 pJ"),
        (2.5e6, "2.50 uJ"),
        (3e9, "3.00 mJ"),
        (4e12, "4.00 J"),
        (4e16, "40,000 J"),
    ],
)
def test_energies_have_a_handy_unit(picojoules: float, text: str) -> None:
    assert format_energy(picojoules) == text


def test_a_range_has_the_unit_of_its_middle() -> None:
    assert format_energy_range(800e3, 1.2e6, 2.1e6) == "1.20 uJ (0.800 to 2.10)"


def test_times_have_a_handy_unit() -> None:
    assert [format_seconds(us) for us in (0.25, 43.65, 3910.13, 2e6)] == ["250 ns", "43.6 us", "3.91 ms", "2.00 s"]


@pytest.mark.parametrize(
    ("value", "base", "text"),
    [(1, 4, "x 0.250"), (4, 4, "="), (0, 4, "none"), (4, 0, "new"), (0, 0, "="), (None, 4, ""), (4, None, "")],
)
def test_ratios_in_words_where_no_number_says_it(value: float | None, base: float | None, text: str) -> None:
    assert format_ratio(value, base) == text


def test_ratios_and_shares_without_a_base_are_none() -> None:
    assert (ratio(1, 4), ratio(1, 0), ratio(None, 1), ratio(1, None)) == (0.25, None, None, None)
    assert (format_percent(0.1234), format_percent(None)) == ("12.3 %", "")


def test_large_shares_are_not_all_and_small_ones_not_nothing() -> None:
    assert [format_avoided(share) for share in (1, 0.99999, 0.9984, 0)] == ["100.0 %", "99.9 %", "99.8 %", "0.0 %"]
    assert [format_small_share(s) for s in (0.0002, 0.123, 1, None)] == ["0.020 %", "12 %", "100 %", ""]


def test_whole_numbers_stay_whole_and_differences_have_a_sign() -> None:
    assert [format_count(n) for n in (1234567, 1234.5, None)] == ["1,234,567", "1,234", ""]
    assert [format_difference(n) for n in (1024, -1337.4, 0, None)] == ["+1,024", "-1,337", "", ""]


def test_long_names_keep_both_ends() -> None:
    assert middle_cut("short", 10) == "short"
    assert middle_cut("units.0/conv1/Conv", 9) == "unit\N{HORIZONTAL ELLIPSIS}Conv"
    assert len(middle_cut("x" * 99, 30)) == 30


def test_micro_is_a_letter_of_its_own_on_pages() -> None:
    assert in_greek("1.2 us (uJ) plus us.") == "1.2 \N{MICRO SIGN}s (\N{MICRO SIGN}J) plus \N{MICRO SIGN}s."
    assert in_greek("uJ") == "\N{MICRO SIGN}J"
