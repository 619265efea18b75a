"""The tables of docs/energy.md are those of the data. BNHW_UPDATE_GOLDEN=1 writes them anew."""

import os
import tomllib
from pathlib import Path

import pytest

from bnhw.hardware.technology import Level
from bnhw.hardware.technology_file import load_technology, parse_technology, shipped_technologies
from bnhw.hardware.validation import validate
from bnhw.reports.energy_tables import constant_rows, node_rows, validation_rows

PAGE = Path(__file__).parent.parent / "docs" / "energy.md"
TABLES = {
    "technology table": node_rows([load_technology(name) for name in shipped_technologies()]),
    "constant table": constant_rows(load_technology("45nm")),
    "validation table": validation_rows(validate()),
}


def split_at(text: str, marker: str) -> tuple[str, str, str]:
    """What stands before the rows of a table, its rows, and what comes behind."""
    before, after = text.split(f"<!-- {marker} -->\n")
    head, dashes, rest = after.split("\n", 2)
    end = rest.index("\n\n") + 1 if rest.startswith("|") else 0
    return f"{before}<!-- {marker} -->\n{head}\n{dashes}\n", rest[:end], rest[end:]


@pytest.mark.parametrize("marker", TABLES)
def test_the_table_of_the_page_is_the_data(marker: str) -> None:
    expected = "".join(f"| {' | '.join(row)} |\n" for row in TABLES[marker])
    before, rows, after = split_at(PAGE.read_text(), marker)
    if os.environ.get("BNHW_UPDATE_GOLDEN"):
        PAGE.write_text(before + expected + after)
        return
    assert rows == expected
    assert len(set(map(len, TABLES[marker]))) == 1
    assert before.splitlines()[-2].count("|") == len(TABLES[marker][0]) + 1


def test_no_cell_breaks_a_table() -> None:
    assert not any("|" in cell or "\n" in cell for rows in TABLES.values() for row in rows for cell in row)


def test_what_the_page_says_of_clocked_storage() -> None:
    text = " ".join(PAGE.read_text().split())
    results = {result.point.name: result for result in validate()}
    shortfalls = []
    for name in ("BinarEye, core", "XNORBIN at 0.8 V", "YodaNN at 1.2 V"):
        point = results[name].point
        technology = load_technology(point.technology).with_voltage(point.voltage_v)
        prices = technology.scaled(Level.NOMINAL)
        clocked_fj = prices.flip_flop_fj_per_bit * prices.flip_flop_bits_per_mac
        shortfalls.append(point.published / (results[name].nominal - clocked_fj))
    said = (
        "Without it the model would be {:.1f} times below BinarEye's core, {:.1f} times below XNORBIN and {:.1f} times"
    )
    assert said.format(*shortfalls) in text
    prices = load_technology("45nm").scaled(Level.NOMINAL)
    clocked = prices.flip_flop_fj_per_bit * prices.flip_flop_bits_per_mac
    parts = [
        clocked / (prices.full_adder_fj_per_bit * (bits + 1) + prices.select_fj_per_bit * bits + clocked)
        for bits in (1, 8)
    ]
    assert "is {:.0%} of a MAC with 1-bit activations, {:.0%} with 8 bits".format(*parts).replace("%", " %") in text


def test_the_example_of_the_page_is_a_technology() -> None:
    lines = PAGE.read_text().split("named at once.\n")[1].split("\n## ")[0].splitlines()
    text = "\n".join(line[4:] for line in lines if line.startswith("    "))
    assert parse_technology(text, origin="the page").constants.full_adder_fj_per_bit.nominal == 1.7
    assert tomllib.loads(text)["reference"] == "reference"
