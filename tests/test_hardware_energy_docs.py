"""The tables of docs/energy.md are those of the data. BNHW_UPDATE_GOLDEN=1 writes them anew."""

import os
import tomllib
from pathlib import Path

import pytest

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


def test_the_example_of_the_page_is_a_technology() -> None:
    lines = PAGE.read_text().split("named at once.\n")[1].split("\n## ")[0].splitlines()
    text = "\n".join(line[4:] for line in lines if line.startswith("    "))
    assert parse_technology(text, origin="the page").constants.full_adder_fj_per_bit.nominal == 1.7
    assert tomllib.loads(text)["reference"] == "reference"
