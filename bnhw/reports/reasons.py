"""Why a step that makes codes is not cheaper: what its constants in the program say, in words."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from bnhw.count import is_comparison
from bnhw.dtypes import Array
from bnhw.ops import pool_divisors
from bnhw.options import AUTO, MOST_DIGITS, Requantisation, RequantiseMode
from bnhw.program import AddSaturating, Instruction, LookUp, PoolSum, Program, Requantise, Threshold
from bnhw.requantise_constants import count_signed_digits, round_ratios

GOOD_ERROR = 0.01
"""Ratios that are held this well are worth a word: the fewest digits that do are named."""


def reason_of(program: Program, instruction: Instruction) -> str:
    """The reason of one LookUp, Requantise, Threshold or AddSaturating."""
    match instruction:
        case LookUp(table=name):
            rows, entries = program.constants[name].shape
            return f"lookup of {entries:,} entries{f' in {rows} tables' if rows > 1 else ''}: exact"
        case AddSaturating():
            return "codes of one scale, one adder and a clamp: nothing is cheaper"
        case Threshold(thresholds=name):
            return _threshold_reason(program.constants[name].shape[2], program.tensor[instruction.output].dtype.bits)
        case Requantise():
            return _requantise_reason(program, instruction)
    raise AssertionError(instruction.kind)


def _threshold_reason(levels: int, bits: int) -> str:
    if levels == 1:
        return "one threshold, exact: nothing is cheaper"
    most = (1 << bits) - 1
    why = f"because the codes have {bits} bits" if levels == most else f"for the codes in reach of {most + 1}"
    return f"thresholds: exact, no adder; {levels} comparators {why}"


def _requantise_reason(program: Program, requantise: Requantise) -> str:
    if is_comparison(program, requantise):
        return "one comparison, exact: nothing is cheaper"
    multiplier, shift = step_constants(program, requantise)
    adder = "wires and one adder" if program.constants[requantise.offset].any() else "wires alone"
    magnitude = np.abs(multiplier)
    if not (magnitude & (magnitude - 1)).any():
        return _powers_reason(multiplier, shift, adder)
    gains = _gains_reason(program, requantise, multiplier, shift)
    return f"{gains}; {_precision_reason(program, requantise, digit_errors(program, requantise))}"


def _powers_reason(multiplier: Array, shift: Array, adder: str) -> str:
    """All M are powers of two, or 0."""
    falling = int((multiplier < 0).any(axis=0).sum())
    if falling:
        return f"{_channels(falling)} (negative gain): a shift cannot negate"
    if not _differs(multiplier) and not _differs(shift):
        return f"{adder}: nothing is cheaper"
    present = multiplier != 0
    places = len(np.unique(np.log2(multiplier[present]) - shift[present]))
    if places < 2:
        return f"{np.count_nonzero(~present.any(axis=0))} channels are constant, the others shift alike: a shifter"
    what = "channels" if multiplier.shape[1] > 1 else "divisors"
    return f"{what} shift by {places} different numbers of places: a shifter instead of wires"


def _channels(falling: int) -> str:
    return "a channel falls" if falling == 1 else f"{falling} channels fall"


def _differs(constants: Array) -> bool:
    return bool((constants != constants.flat[0]).any())


def _gains_reason(program: Program, requantise: Requantise, multiplier: Array, shift: Array) -> str:
    """How the ratios differ between channels and divisors."""
    channels = program.tensor[requantise.output].shape[2]
    rows = len(multiplier)
    columns = {tuple(column) for column in (multiplier / np.exp2(shift)).T.tolist()}
    if len(columns) > 1:
        return _channel_gains_reason(channels, columns, multiplier, requantise.mode)
    place = int(np.argmax(count_signed_digits(multiplier[:, 0])))
    digits = int(count_signed_digits(multiplier[place, 0]))
    ratio = Fraction(int(multiplier[place, 0]), 1 << int(shift[place, 0]))
    needs = f"needs {digits} digits"
    if rows == 1:
        return f"one gain for all channels, {float(ratio):.6g}: {needs}"
    text = str(ratio) if ratio.denominator <= 1 << 10 else f"{float(ratio):.6g}"
    return f"{_divisors(program, requantise, rows)}: ratio {text} {needs}"


def _channel_gains_reason(
    channels: int, columns: set[tuple[float, ...]], multiplier: Array, mode: RequantiseMode
) -> str:
    """For ratios that differ between channels. `columns`: the distinct ones, each with one number a divisor."""
    cause = "(a batch norm, weight scales): no common power of two"
    if len(columns) == channels:
        return f"each of {channels} channels has a gain of its own {cause}"
    numbers = np.unique(count_signed_digits(multiplier).max(axis=0))
    if mode is RequantiseMode.CSD and len(columns) == len(numbers):  # as one gain gives, held better in some channels
        first = [column[0] for column in columns]
        return f"channels with equally many digits have one ratio, {min(first):.6g} to {max(first):.6g}"
    return f"{channels} channels have {len(columns)} different ratios {cause}"


def _divisors(program: Program, requantise: Requantise, rows: int) -> str:
    """`3 divisors (9, 6, 4 pixels)`, where the step reads the sums of a pool whose divisors these are."""
    producers = {instruction.output: instruction for instruction in program.instructions}
    pool = producers.get(requantise.inputs[0])
    if isinstance(pool, PoolSum):
        height, width, _ = program.tensor[pool.inputs[0]].shape
        counted = pool_divisors(pool.window, height, width, count_padding=False)
        classes = program.constants[requantise.position_classes]
        of_rows = [np.unique(counted[classes == row]) for row in range(rows)]
        if all(len(found) == 1 for found in of_rows):
            pixels = sorted((int(found[0]) for found in of_rows), reverse=True)
            return f"{rows} divisors ({', '.join(map(str, pixels))} pixels)"
    return f"{rows} divisors"


def _precision_reason(program: Program, requantise: Requantise, errors: Sequence[float | None]) -> str:
    """What fewer digits would cost, and what was asked for."""
    if requantise.mode is RequantiseMode.CSD:
        digits = int(count_signed_digits(step_constants(program, requantise)[0]).max())
        error = errors[digits - 2]
        return f"csd:{digits - 1} would be off by {_percent(error)}" if error is not None else "fewer cannot hold them"
    asked = program.provenance.options.get("requantise", "")
    what = f"multiplier of {requantise.multiplier_bits} bits"
    if asked.split(":")[0] == AUTO:
        what += f", because the ratios need more than {MOST_DIGITS} signed digits at the precision asked for"
    elif asked.split(":")[0] == RequantiseMode.MULTIPLY.value:
        what = f"mode {asked} was asked for"
    return f"{what}: {_best_digits(errors)}"


def _best_digits(errors: Sequence[float | None]) -> str:
    """The fewest digits that hold the ratios well, or the most that there are."""
    held = [(digits, error) for digits, error in enumerate(errors, 1) if error is not None]
    if not held:
        return "sums of digits cannot hold them"
    digits, error = next((entry for entry in held if entry[1] <= GOOD_ERROR), held[-1])
    name = "shift" if digits == 1 else f"csd:{digits}"
    return f"{name} would hold them {'exactly' if error == 0 else f'to {_percent(error)}'}"


def _percent(error: float) -> str:
    return f"{100 * error:.2g} %"


def step_constants(program: Program, requantise: Requantise) -> tuple[Array, Array]:
    """M and S, int64 (classes, channels or 1)."""
    shift = program.constants[requantise.shift].astype(np.int64)
    if not requantise.multiplier:
        return np.ones_like(shift), shift
    return program.constants[requantise.multiplier].astype(np.int64), shift


def digit_errors(program: Program, requantise: Requantise) -> tuple[float | None, ...]:
    """The largest relative error of the step's ratios M / 2^S under csd:1, csd:2, ...; None where one is too large."""
    multiplier, shift = step_constants(program, requantise)
    ratios = multiplier / np.exp2(shift)
    present = ratios != 0
    errors: list[float | None] = []
    for digits in range(1, MOST_DIGITS + 1):
        try:
            found, places = round_ratios(ratios, Requantisation(mode=RequantiseMode.CSD, number=digits))
        except ValueError:
            errors.append(None)
            continue
        relative = np.abs((found / np.exp2(places))[present] / ratios[present] - 1)
        errors.append(float(relative.max(initial=0.0)))
    return tuple(errors)
