"""The frame of every page: head, style, scripts. Nothing is fetched, and no script but these can run."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources

from bnhw.reports.definitions import DEFINITIONS, Definition
from bnhw.reports.html.charts import Chart, plotly_script
from bnhw.reports.html.elements import Content, Markup, data_block, element, join


def page(title: str, content: Sequence[Content], charts: Sequence[Chart]) -> str:
    """One self-contained HTML file. Raises MissingDependency where plotly is not installed."""
    scripts = (plotly_script(), _file("behaviour.js"))
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {_hashes(scripts)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(_file("style.css"))),
    )
    body = element(
        "body",
        element("main", *content),
        data_block("charts", {chart.identifier: chart.as_json() for chart in charts}),
        *(Markup(f"<script>{script}</script>") for script in scripts),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en').text}\n"


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hashes(scripts: Sequence[str]) -> str:
    """What the policy allows: scripts with these digests and no others."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def term(key: str, name: str = "") -> Markup:
    """A figure's name, with its definition on hover and on focus."""
    definition = DEFINITIONS[key]
    return explained(name or definition.name, full_text(definition))


def explained(name: str, text: str) -> Markup:
    """A name with a text on hover and on focus."""
    return element("span", name, class_="term", tabindex=0, title=text)


def full_text(definition: Definition) -> str:
    """The definition and its unit."""
    return f"{definition.text} Unit: {definition.unit}." if definition.unit else definition.text


def section(title: str, *content: Content) -> Markup:
    """A part of the page under its heading."""
    return element("section", element("h2", title), *content, id=title.split(maxsplit=1)[0].lower())


def note(*content: Content) -> Markup:
    """A paragraph in small type."""
    return element("p", *content, class_="note")


def figures(charts: Sequence[Chart]) -> Markup:
    """Places for charts, two side by side where the page is wide enough; wide ones alone."""
    return element(
        "div",
        *(
            element(
                "figure",
                element("h3", chart.title),
                element("figcaption", chart.caption),
                element("div", id=chart.identifier, class_="chart", role="img", aria_label=chart.title),
                class_="wide" if chart.wide else None,
            )
            for chart in charts
        ),
        class_="charts",
    )


def headline(value: str, name: Content, detail: str) -> Markup:
    """One large figure."""
    return element(
        "div",
        element("span", value, class_="value"),
        element("span", name, class_="name"),
        element("span", detail, class_="detail"),
        class_="headline",
    )


def facts(entries: Sequence[tuple[Content, str, str]]) -> Markup:
    """Names, values, and what stands below them in small type."""
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value, element("small", detail) if detail else None))
            for name, value, detail in entries
        ),
        class_="facts",
    )


def table(
    head: Sequence[Content], body: Sequence[Sequence[Content]], *, wrap: Sequence[int] = (), narrow: bool = False
) -> Markup:
    """A plain table: the first column names the row.

    wrap: the columns of running text, aligned left. narrow: few short columns, which need not fill the page.
    """
    return scrolling(
        element(
            "table",
            element("thead", element("tr", *(_cell("th", n, cell, wrap, scope="col") for n, cell in enumerate(head)))),
            element("tbody", *(element("tr", *_row(cells, wrap)) for cells in body)),
        ),
        narrow=narrow,
    )


def _row(cells: Sequence[Content], wrap: Sequence[int]) -> list[Markup]:
    first = element("th", cells[0], scope="row")
    return [first, *(_cell("td", number, cell, wrap) for number, cell in enumerate(cells[1:], start=1))]


def _cell(tag: str, number: int, content: Content, wrap: Sequence[int], **attributes: str) -> Markup:
    return element(tag, content, class_="text wrap" if number == 0 or number in wrap else None, **attributes)


def scrolling(content: Markup, *, narrow: bool = False) -> Markup:
    """A table that is wider than the page scrolls by itself; the keyboard reaches it, too."""
    class_ = "scroll narrow" if narrow else "scroll"
    return element("div", content, class_=class_, tabindex=0, role="region", aria_label="table")


def glossary(keys: Sequence[str]) -> Markup:
    """Every figure of the page with its definition, for print and for reading through."""
    entries = (
        element("div", element("dt", DEFINITIONS[key].name), element("dd", full_text(DEFINITIONS[key]))) for key in keys
    )
    return section("Definitions", element("dl", *entries, class_="glossary"))


def in_greek(text: str) -> str:
    """Micro as a page can print it: `1.2 us` becomes 1.2 µs."""
    return re.sub(r"(?<![^ (])u(?=[sJ]\b)", "\N{MICRO SIGN}", text)


def plain_text(value: object) -> str:
    """A parameter's value as text."""
    return value if isinstance(value, str) else json.dumps(value)


def paragraph(*content: Content) -> Markup:
    """Running text."""
    return element("p", join(content))


def warning_box(warnings: Sequence[str]) -> Markup | None:
    """Warnings in one frame; None without any."""
    if not warnings:
        return None
    return element("div", *(element("p", text) for text in warnings), class_="warning", role="note")
