"""Numbers as people read them: separators, units, ranges, ratios."""

import math

SI_PREFIXES = ("p", "n", "u", "m", "")
"""From 1e-12 to 1, in steps of 1000."""


def significant(value: float, digits: int = 3) -> str:
    """A number with separators and at least so many significant digits: 12,345, 12.3, 0.0123; whole numbers whole."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{places}f}"


def format_seconds(microseconds: float) -> str:
    """Microseconds in a handy unit: ns, us, ms or s."""
    return _with_prefix(microseconds * 1e6, "s")


def format_energy(picojoules: float) -> str:
    """Picojoules in a handy unit: pJ, nJ, uJ, mJ or J."""
    return _with_prefix(picojoules, "J")


def format_energy_range(low: float, nominal: float, high: float) -> str:
    """The nominal energy, and the range in the same unit: `1.20 uJ (0.80 to 2.10)`."""
    scale, prefix = si_prefix(nominal)
    low_text, nominal_text, high_text = (significant(value / scale) for value in (low, nominal, high))
    return f"{nominal_text} {prefix}J ({low_text} to {high_text})"


def _with_prefix(pico: float, unit: str) -> str:
    scale, prefix = si_prefix(pico)
    return f"{significant(pico / scale)} {prefix}{unit}"


def si_prefix(pico: float) -> tuple[float, str]:
    """What to divide by, and the letter, for a number of 1e-12 units."""
    step = min(max(math.floor(math.log10(pico) / 3), 0), len(SI_PREFIXES) - 1) if pico > 0 else 0
    return 1000.0**step, SI_PREFIXES[step]


def format_percent(share: float | None) -> str:
    """A share of 1 in per cent with one decimal; empty for None."""
    return "" if share is None else f"{100 * share:.1f} %"


def format_avoided(share: float) -> str:
    """A share of 1 in per cent, rounded down: only all is 100.0 %."""
    return f"{math.floor(1000 * share) / 10:.1f} %"


def format_small_share(share: float | None) -> str:
    """A share of 1 in per cent with two significant digits, so that little is not nothing; empty for None."""
    return "" if share is None else f"{significant(100 * share, 2)} %"


def ratio(value: float | None, base: float | None) -> float | None:
    """value / base; None where one is missing or the base is 0."""
    return None if value is None or not base else value / base


def format_ratio(value: float | None, base: float | None) -> str:
    """`x 0.25`, `=` where both are equal, `none` for 0, `new` where the base is 0, empty where one is missing."""
    if value is None or base is None:
        return ""
    if value == base:
        return "="
    if value == 0:
        return "none"
    return f"x {significant(value / base)}" if base else "new"


def format_difference(difference: float | None) -> str:
    """With its sign: whole numbers with separators, others to three significant digits; empty for none."""
    if not difference:
        return ""
    sign = "+" if difference > 0 else "-"
    return f"{sign}{format_count(abs(difference))}"


def format_count(value: float | None) -> str:
    """Whole numbers with separators, others to three significant digits; empty for None."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else significant(value)


def middle_cut(text: str, length: int) -> str:
    """The text, or its beginning and end around an ellipsis in so many characters."""
    if len(text) <= length:
        return text
    front = (length - 1) // 2
    return f"{text[:front]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (length - 1 - front) :]}"
