"""Pages: nothing from a file becomes markup, nothing is fetched, every figure is explained, plotly is optional."""

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from engine_runs import run_by_hand
from program_builder import one_of_each

from bnhw.program import Program
from bnhw.reports.comparison import Column, compare_reports
from bnhw.reports.definitions import DEFINITIONS
from bnhw.reports.engine import PARTS
from bnhw.reports.html.comparison_page import comparison_page
from bnhw.reports.html.elements import Markup, breakable, data_block, element, join
from bnhw.reports.html.report_charts import merged, part_series
from bnhw.reports.html.report_page import report_page
from bnhw.reports.report import Report, build_report

pytest.importorskip("plotly", reason="pages are drawn with plotly")

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;</title>"
"""What a name in a file could hold."""


class Page(HTMLParser):
    """The elements of a page, and the text of scripts by their type."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.starts: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.starts.append((tag, values))
        self._script = values.get("type", "") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts.append((self._script, data))
        else:
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    @property
    def executed(self) -> list[str]:
        """The scripts that a browser runs."""
        return [text for kind, text in self.scripts if not kind]

    @property
    def charts(self) -> Any:
        """The data of the charts."""
        (text,) = (t for kind, t in self.scripts if kind == "application/json")
        return json.loads(text)


def evil_program() -> Program:
    """The program with every instruction, all of whose names are hostile."""
    program = one_of_each()
    names = {tensor.name: f"{tensor.name}{EVIL}" for tensor in program.tensors}
    return replace(
        program,
        name=EVIL,
        instructions=tuple(
            replace(i, inputs=tuple(names[n] for n in i.inputs), output=names[i.output]) for i in program.instructions
        ),
        tensors=tuple(replace(tensor, name=names[tensor.name]) for tensor in program.tensors),
        input=names[program.input],
        output=names[program.output],
        provenance=replace(
            program.provenance, producer=EVIL, source_name=EVIL, source_sha256=EVIL, options={EVIL: EVIL}, notes=(EVIL,)
        ),
    )


def reports(program: Program) -> list[Report]:
    """Without an engine, with one, and priced."""
    runs = (None, run_by_hand(program, priced=False), run_by_hand(program))
    return [build_report(program, run) for run in runs]


def pages(program: Program) -> list[str]:
    """Every kind of page, hostile column labels included."""
    listed = reports(program)
    columns = [Column(label=f"{at}{program.name}", report=report) for at, report in enumerate(listed)]
    priced = [Column(label=f"{at}{program.name}", report=listed[2]) for at in range(2)]
    made = [report_page(report) for report in listed]
    return [*made, comparison_page(compare_reports(columns)), comparison_page(compare_reports(priced))]


@pytest.fixture(scope="module")
def plain_pages() -> list[str]:
    return pages(one_of_each())


@pytest.fixture(scope="module")
def evil_pages() -> list[str]:
    return pages(evil_program())


KNOWN_TAGS = (
    "html head meta title style body main h1 h2 h3 p div section span small dl dt dd figure figcaption table thead "
    "tbody tfoot tr th td button a code script wbr"
)


def test_hostile_names_become_no_markup(evil_pages: list[str], plain_pages: list[str]) -> None:
    for text, plain in zip(evil_pages, plain_pages, strict=True):
        found, expected = Page(text), Page(plain)
        assert {tag for tag, _ in found.starts} <= set(KNOWN_TAGS.split())
        assert not [attrs for _, attrs in found.starts if any(name.startswith("on") for name in attrs)]
        assert found.executed == expected.executed
        assert len(found.executed) == 2
        assert any(EVIL in piece for piece in found.text)


def test_hostile_names_are_text_in_charts_too(evil_pages: list[str]) -> None:
    """plotly reads a few elements in text: labels and hover texts must hold none."""

    def strings(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [s for inner in value.values() for s in strings(inner)]
        if isinstance(value, list):
            return [s for inner in value for s in strings(inner)]
        return [value] if isinstance(value, str) else []

    for text in evil_pages:
        found = [s for s in strings(Page(text).charts) if "script" in s or "img" in s]
        assert found
        for piece in found:
            assert "<" not in piece.replace("<br>", "").replace("<extra></extra>", "")


def test_a_page_fetches_nothing_and_only_its_own_scripts_may_run(plain_pages: list[str]) -> None:
    for text in plain_pages:
        page = Page(text)
        (policy,) = (
            attrs["content"] for tag, attrs in page.starts if attrs.get("http-equiv") == "Content-Security-Policy"
        )
        digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.executed]
        assert policy == (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src "
            + " ".join(f"'sha256-{digest}'" for digest in digests)
        )
        for _, attrs in page.starts:
            assert "src" not in attrs
            assert attrs.get("href", "#").startswith("#")
        assert "\r" not in text  # a browser would read another text than the digests are of


def test_every_head_and_figure_is_explained_and_the_keyboard_reaches_it(plain_pages: list[str]) -> None:
    for text in plain_pages:
        terms = [(tag, attrs) for tag, attrs in Page(text).starts if "term" in attrs.get("class", "").split()]
        assert terms
        for tag, attrs in terms:
            assert len(attrs["title"]) > 8
            assert tag == "button" or attrs["tabindex"] == "0"


def test_a_page_of_a_priced_run_says_where_everything_is_from(plain_pages: list[str]) -> None:
    program = one_of_each()
    text = " ".join(Page(plain_pages[2]).text)
    for wanted in (
        program.provenance.source_sha256,
        "engine-16x64",
        "28nm",
        "Horowitz",
        "YodaNN",
        "made by hand",
        "held out",
        "TOPS/W",
    ):
        assert wanted in text, wanted
    for step in build_report(program, run_by_hand(program)).steps:
        assert f"{step.work.cycles.total:,}" in text
    assert "YodaNN" not in " ".join(Page(plain_pages[1]).text)


def test_a_page_without_an_engine_shows_no_figure_of_one(plain_pages: list[str]) -> None:
    text = " ".join(Page(plain_pages[0]).text)
    for absent in ("latency", "utilisation", "TOPS/W", "chart-cycles"):
        assert absent not in text
    assert set(Page(plain_pages[0]).charts) == {"chart-macs", "chart-memory"}


def test_charts_hold_the_numbers_of_the_report(plain_pages: list[str]) -> None:
    program = one_of_each()
    steps = build_report(program, run_by_hand(program)).steps
    charts = Page(plain_pages[2]).charts
    cycles = [sum(column) for column in zip(*(trace["x"] for trace in charts["chart-cycles"]["data"]), strict=True)]
    assert cycles == [step.work.cycles.total for step in steps]
    *parts, whisker = charts["chart-energy"]["data"]
    energy = [sum(column) for column in zip(*(trace["x"] for trace in parts), strict=True)]
    wholes = [step.work.energy_total for step in steps]
    assert energy == pytest.approx([float(whole.nominal) / 1e3 for whole in wholes if whole])
    assert whisker["x"] == pytest.approx(energy)
    highs = [x + up for x, up in zip(whisker["x"], whisker["error_x"]["array"], strict=True)]
    assert highs == pytest.approx([float(whole.high) / 1e3 for whole in wholes if whole])
    array = charts["chart-array"]["data"][0]
    assert array["name"] == "real MACs"
    assert array["x"] == pytest.approx([step.work.utilisation for step in steps])
    assert len(charts["chart-cycles"]["ticks"]) == len(steps)


def test_components_of_energy_keep_their_colours_and_no_two_share_one() -> None:
    few = part_series([("array", [1.0]), ("weights", [1.0])])
    many = part_series(merged([(part.value, [1.0 + at]) for at, part in enumerate(PARTS)]))
    assert [one.name for one in many][-1] == "other"
    assert len({one.colour for one in many}) == len(many) == 6
    colours = {one.name: one.colour for one in many}
    assert all(colours.get(one.name, one.colour) == one.colour for one in few)
    assert sum(one.values[0] for one in many) == sum(1.0 + at for at in range(len(PARTS)))


def test_every_definition_is_a_sentence() -> None:
    for key, definition in DEFINITIONS.items():
        assert definition.name, key
        assert definition.text[0].isupper(), key
        assert definition.text.endswith("."), key


def test_elements_escape_and_leave_out() -> None:
    made = element("td", "<b>", None, Markup("<i></i>"), class_='a"b', data_value=3, hidden=True, title=None)
    assert made.text == '<td class="a&quot;b" data-value="3" hidden>&lt;b&gt;<i></i></td>'
    assert element("wbr").text == "<wbr>"
    assert join(["a&", None, Markup("&amp;")]).text == "a&amp;&amp;"
    assert breakable("a<b/c").text == "a&lt;b/<wbr>c"
    assert data_block("x", {"</script>": "\u2028&"}).text == (
        '<script type="application/json" id="x">{"\\u003c/script\\u003e":"\\u2028\\u0026"}</script>'
    )


def test_without_plotly_a_page_names_the_extra() -> None:
    script = """
import sys
sys.modules["plotly"] = None
sys.path.insert(0, TESTS)
from program_builder import one_of_each
from bnhw.errors import MissingDependency
from bnhw.reports.html.report_charts import merged, part_series
from bnhw.reports.html.report_page import report_page
from bnhw.reports.report import build_report
try:
    report_page(build_report(one_of_each()))
except MissingDependency as error:
    print(error)
"""
    script = script.replace("TESTS", repr(str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "plotly, which is not installed; install it with: pip install 'bnhw[html]'" in done.stdout, done.stderr
