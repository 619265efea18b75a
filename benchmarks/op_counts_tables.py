"""The rows of `op_counts.py` compared with their twins, and as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

SAVED = ("multiplications", "additions", "comparisons", "constant_bits")
"""What a batch norm costs outside the array."""


def with_twins(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every row with its totals over those of its batch-norm twin and of its 8-bit-weight twin.

    The first differs in normalisation alone, the second in weights alone. None where there is no such row (yet), or
    where its number is 0.
    """
    done = [row for row in rows if not row["problem"]]
    return [
        {**row, "of_batch_norm_twin": _ratios(row, batch_norm_twin(row, done))}
        | {"of_8_bit_twin": _ratios(row, eight_bit_twin(row, done))}
        for row in rows
    ]


def batch_norm_twin(row: Row, rows: Iterable[Row]) -> Row | None:
    """The row of the same network, weights and requantise mode with plain batch norm."""
    return _find(rows, row, base=True, weights=row["weights"])


def eight_bit_twin(row: Row, rows: Iterable[Row]) -> Row | None:
    """The row of the same network, normalisation and requantise mode with float weights rounded to 8 bits."""
    return _find(rows, row, normalisation=row["normalisation"], weights="float")


def _find(rows: Iterable[Row], row: Row, **wanted: object) -> Row | None:
    same = {"paper": row["paper"], "network": row["network"], "requantise": row["requantise"], **wanted}
    return next((one for one in rows if all(one[name] == value for name, value in same.items())), None)


def _ratios(row: Row, twin: Row | None) -> dict[str, float | None] | None:
    if twin is None or row["problem"]:
        return None
    here, there = _numbers(row), _numbers(twin)
    return {name: round(value / there[name], 4) if there.get(name) else None for name, value in here.items()}


def _numbers(row: Row) -> dict[str, float]:
    """Everything of a row that can be compared, cycles and energy where an engine was given."""
    numbers = dict(row["totals"])
    if row.get("cycles"):
        numbers |= {"cycles": row["cycles"]["total"], "energy": row["energy_pj"]["total"]["nominal"]}
    return numbers


def part_sum(row: Row, name: str, *, image: str = "", array: bool) -> int:
    """A number of a row summed over the array's parts or over all others, at one size of image or at all."""
    return sum(
        int(part[name]) for part in row["parts"] if (part["part"] == "array") is array and image in ("", part["image"])
    )


def as_markdown(rows: Sequence[Row]) -> str:
    """All tables, one of each kind for every requantise mode; rows that could not be compiled are named below."""
    done = [row for row in rows if not row["problem"]]
    parts = []
    for mode in dict.fromkeys(row["requantise"] for row in done):
        chosen = [row for row in done if row["requantise"] == mode]
        parts += [f"## Requantise mode `{mode}`", _counts_table(chosen), _saved_by_image(chosen), _one_bit(chosen)]
        parts.append(_hardware(chosen))
    refused = [f"- {_name(row)}, `{row['requantise']}`: {row['problem']}" for row in rows if row["problem"]]
    if refused:
        parts += ["## Not compiled", "\n".join(refused)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _name(row: Row) -> str:
    return f"{row['network']}, {row['normalisation']}, {_weights(row)}"


def _weights(row: Row) -> str:
    return "1 bit" if row["weights"] == "1bit" else "8 bit"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _counts_table(rows: Sequence[Row]) -> str:
    """What an image costs: operations of the array and of everything else, storage."""
    head = ["network", "normalisation", "weights", "array: multiplications", "array: additions"]
    head += ["elsewhere: multiplications", "additions", "comparisons", "lookups"]
    head += ["constant bits", "weight bits", "activation memory, bits"]
    lines = []
    for row in rows:
        elsewhere = (part_sum(row, name, array=False) for name in ("multiplications", "additions", "comparisons"))
        numbers = (
            part_sum(row, "multiplications", array=True),
            part_sum(row, "additions", array=True),
            *elsewhere,
            row["totals"]["lookups"],
            row["totals"]["constant_bits"],
            row["totals"]["weight_bits"],
            row["peak_activation_bits"],
        )
        lines.append([row["network"], row["normalisation"], _weights(row), *(f"{n:,}" for n in numbers)])
    return "Of one image:\n\n" + _table(head, lines)


def _saved_by_image(rows: Sequence[Row]) -> str:
    """Outside the array, with 1-bit weights: each normalisation beside batch norm, at every size of image."""
    lines = []
    for row in rows:
        twin = batch_norm_twin(row, rows)
        if twin is None or row["weights"] != "1bit":
            continue
        for image in (*dict.fromkeys(part["image"] for part in twin["parts"]), ""):
            cells = [
                _beside(part_sum(row, name, image=image, array=False), part_sum(twin, name, image=image, array=False))
                for name in SAVED
            ]
            lines.append([row["network"], row["normalisation"], image or "all", *cells])
    if not lines:
        return ""
    head = ("network", "normalisation", "image", "multiplications", "additions", "comparisons", "constant bits")
    told = "Outside the array, 1-bit weights, by size of the image; in brackets the change against the batch-norm twin:"
    return told + "\n\n" + _table(head, lines)


def _one_bit(rows: Sequence[Row]) -> str:
    """In the array: 1-bit weights beside 8-bit ones."""
    lines = []
    for row in rows:
        twin = eight_bit_twin(row, rows)
        if twin is None or row["weights"] != "1bit":
            continue
        here, there = (
            part_sum(one, "multiplier_bits", array=True) + part_sum(one, "adder_bits", array=True)
            for one in (row, twin)
        )
        lines.append(
            [
                row["network"],
                row["normalisation"],
                f"{part_sum(twin, 'multiplications', array=True):,}",
                f"{part_sum(row, 'multiplications', array=True):,}",
                f"{part_sum(row, 'multiplexers', array=True):,}",
                f"{there:,}",
                f"{here:,}",
                f"{there / here:.2f}",
                f"{twin['totals']['weight_bits'] / row['totals']['weight_bits']:.2f}",
            ]
        )
    if not lines:
        return ""
    head = ["network", "normalisation", "multiplications, 8 bit", "1 bit", "multiplexers, 1 bit"]
    head += ["full adders used, 8 bit", "1 bit", "ratio", "weight bits, ratio"]
    told = "In the array, 1-bit beside 8-bit weights (a multiplication of a by b bits uses a * b full adders):"
    return told + "\n\n" + _table(head, lines)


def _hardware(rows: Sequence[Row]) -> str:
    """Cycles and energy, and their ratios to both twins."""
    timed = [row for row in rows if row.get("cycles")]
    refused = [f"- {_name(row)}: {row['hardware_problem']}" for row in rows if row.get("hardware_problem")]
    if not timed:
        return "\n".join(refused)
    head = ["network", "normalisation", "weights", "cycles", "compute", "weight load", "rest", "energy, uJ: low"]
    head += ["nominal", "high", "cycles, energy of batch-norm twin", "of 8-bit twin"]
    lines = []
    for row in timed:
        cycles, energy = row["cycles"], row["energy_pj"]["total"]
        rest = cycles["total"] - cycles["compute"] - cycles["weight_load"]
        twins = (batch_norm_twin(row, timed), eight_bit_twin(row, timed))
        lines.append(
            [
                row["network"],
                row["normalisation"],
                _weights(row),
                *(f"{n:,}" for n in (cycles["total"], cycles["compute"], cycles["weight_load"], rest)),
                *(f"{energy[level] / 1e6:,.1f}" for level in ("low", "nominal", "high")),
                *(_over(_numbers(row), twin) for twin in twins),
            ]
        )
    told = f"On engines of the size of `{timed[0]['arch']}`, technology `{timed[0]['technology']}`:"
    warnings = [f"- {text}" for text in dict.fromkeys(text for row in timed for text in row["warnings"])]
    return "\n\n".join(filter(None, (told, _table(head, lines), "\n".join(warnings), "\n".join(refused))))


def _over(numbers: Mapping[str, float], twin: Row | None) -> str:
    if twin is None:
        return "-"
    there = _numbers(twin)
    return f"{numbers['cycles'] / there['cycles']:.3f}, {numbers['energy'] / there['energy']:.3f}"


def _beside(number: int, twin: int) -> str:
    if number == twin:
        return f"{number:,}"
    change = f"{100 * (number / twin - 1):+.1f} %" if twin else "new"
    return f"{number:,} ({change})"
