"""Pages in a browser: no error on the console, charts drawn, tables sorted, definitions shown, nothing too wide."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from engine_runs import run_by_hand
from program_builder import one_of_each

from bnhw.reports.comparison import Column, compare_reports
from bnhw.reports.html.comparison_page import comparison_page
from bnhw.reports.html.report_page import report_page
from bnhw.reports.report import build_report

pytest.importorskip("plotly", reason="pages are drawn with plotly")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

HOOK = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
console.error = (...parts) => errors.push(parts.join(" "));
</script>"""

ACTIONS = """<script>
addEventListener("load", () => setTimeout(() => {
  const table = document.querySelector("table.sortable");
  const heads = [...table.tHead.rows[0].cells];
  const values = (column) => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value);
  const click = (column) => {
    heads[column].querySelector("button").click();
    return { values: values(column), sort: heads.map((head) => head.getAttribute("aria-sort")) };
  };
  const named = (name) => heads.findIndex((head) => head.textContent.startsWith(name));
  const outcome = { before: values(0), cycles: [click(named("cycles")), click(named("cycles"))] };
  outcome.steps = [click(named("step")), click(named("step"))];
  const tooltip = document.getElementById("tooltip");
  const term = document.querySelector(".term");
  outcome.hidden = [tooltip.hidden];
  term.focus();
  outcome.hidden.push(tooltip.hidden);
  outcome.text = [tooltip.textContent, term.dataset.definition];
  dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  outcome.hidden.push(tooltip.hidden);
  outcome.width = [document.documentElement.scrollWidth, innerWidth];
  const charts = [...document.querySelectorAll(".chart")];
  outcome.charts = charts.map((chart) => chart.querySelectorAll("svg.main-svg").length);
  outcome.bars = document.querySelectorAll("#chart-cycles .bars path").length;
  outcome.ground = getComputedStyle(document.body).backgroundColor;
  outcome.errors = errors;
  const place = document.createElement("pre");
  place.id = "outcome";
  place.textContent = JSON.stringify(outcome);
  document.body.append(place);
}, 500));
</script>"""


def browse(page: str, folder: Path, *options: str, width: int = 1280) -> tuple[str, str]:
    """The document as it is after its scripts ran, and what the browser logged."""
    file = folder / "page.html"
    file.write_text(page)
    command = [
        BROWSER or "",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        "--virtual-time-budget=5000",
        f"--window-size={width},2000",
        *options,
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def outcome_of(page: str, folder: Path, *options: str, width: int = 1280) -> Any:
    """What `ACTIONS` finds; the page's own policy, which would not let it run, is taken out."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', HOOK, page, count=1)
    assert free != page
    document, _ = browse(free.replace("</body>", f"{ACTIONS}</body>"), folder, *options, width=width)
    found = re.search(r'<pre id="outcome">(.*?)</pre>', document, re.DOTALL)
    assert found, "the actions did not come to their end"
    return json.loads(html.unescape(found[1]))


def priced_page() -> str:
    return report_page(build_report(one_of_each(), run_by_hand(one_of_each())))


def test_pages_draw_their_charts_under_their_own_policy_without_an_error(tmp_path: Path) -> None:
    report = build_report(one_of_each(), run_by_hand(one_of_each()))
    compared = comparison_page(compare_reports([Column(label=label, report=report) for label in ("a", "b", "c")]))
    plain = report_page(build_report(one_of_each()))
    for number, page in enumerate((report_page(report), plain, compared)):
        folder = tmp_path / str(number)
        folder.mkdir()
        document, log = browse(page, folder)
        assert "CONSOLE" not in log, log
        charts = re.findall(r'<div id="(chart-\w+)" class="chart', page)
        assert charts
        for chart in charts:
            own = document[document.index(f'id="{chart}"') :]
            assert "main-svg" in own[:2000], chart


def test_an_error_on_the_console_is_seen(tmp_path: Path) -> None:
    page = priced_page().replace('"chart-cycles":', '"chart-unknown":')
    _, log = browse(page, tmp_path)
    assert "CONSOLE" in log


def test_tables_sort_and_definitions_open_by_keyboard(tmp_path: Path) -> None:
    found = outcome_of(priced_page(), tmp_path)
    assert found["errors"] == []
    assert found["before"] == sorted(found["before"], key=int)
    falling, rising = found["cycles"]
    numbers = [float(value) for value in falling["values"]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) > 3
    assert [float(value) for value in rising["values"]] == numbers[::-1]
    assert [set(state["sort"]) for state in found["cycles"]] == [{None, "descending"}, {None, "ascending"}]
    names = found["steps"][0]["values"]
    assert names == sorted(names, key=str.casefold)
    assert found["steps"][1]["values"] == names[::-1]
    assert found["hidden"] == [True, False, True]
    assert found["text"][0] == found["text"][1] != ""
    assert all(found["charts"])
    assert found["bars"] > len(found["before"])


def test_a_page_fits_a_narrow_screen_and_follows_the_dark_scheme(tmp_path: Path) -> None:
    light = outcome_of(priced_page(), tmp_path, width=500)
    assert light["width"][0] <= light["width"][1] <= 500
    assert light["errors"] == []
    (tmp_path / "dark").mkdir()
    dark = outcome_of(priced_page(), tmp_path / "dark", "--blink-settings=preferredColorScheme=0")
    assert dark["errors"] == []
    assert (light["ground"], dark["ground"]) == ("rgb(252, 252, 250)", "rgb(20, 23, 26)")
