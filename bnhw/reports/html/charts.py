"""The figures of the pages, as plotly draws them. Names from files are escaped: plotly reads some HTML in text."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bnhw.errors import MissingDependency
from bnhw.reports.numbers import middle_cut

COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#999999")
"""Paul Tol's "bright" scheme: told apart with every kind of colour vision, on light and on dark ground."""

LABEL_LENGTH = 30
"""Characters of a step's name beside its bar; the whole name is shown on hover."""

FEW_LABELS, SHORT_LENGTH = 8, 14
"""Up to so many bars keep their names on a narrow page, with so many characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One figure: plotly's data and layout, its height in pixels, and what it shows in words.

    ticks: labels along the vertical axis, long and short; empty where that axis has numbers. wide: needs the page's
    whole width.
    """

    identifier: str
    title: str
    caption: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int
    ticks: Sequence[tuple[str, str]] = ()
    wide: bool = False

    def as_json(self) -> Mapping[str, Any]:
        """What the page's script reads."""
        return {"data": self.data, "layout": self.layout, "height": self.height, "ticks": self.ticks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One colour of a stacked bar chart: a number for every bar."""

    name: str
    values: Sequence[float]
    colour: str


def plotly_module() -> ModuleType:
    """plotly.graph_objects, imported when a page is made. Raises MissingDependency where plotly is not installed."""
    try:
        import plotly.graph_objects  # noqa: PLC0415  (an optional package)
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "reports as HTML are drawn with plotly, which is not installed; install it with: pip install 'bnhw[html]'"
        ) from error
    module: ModuleType = plotly.graph_objects
    return module


def plotly_script() -> str:
    """plotly.js, to stand in the page itself."""
    plotly_module()
    from plotly.offline import get_plotlyjs  # noqa: PLC0415

    return str(get_plotlyjs())


def coloured(series: Sequence[tuple[str, Sequence[float]]], colours: Sequence[str] = COLOURS) -> tuple[Series, ...]:
    """Series in the order of `colours`; those that are 0 everywhere are left out, the others keep their colours."""
    return tuple(
        Series(name=name, values=values, colour=colours[number % len(colours)])
        for number, (name, values) in enumerate(series)
        if any(values)
    )


def stacked_bars(
    identifier: str,
    title: str,
    caption: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    axis: str,
    hover: str = ",.0f",
    ranges: Sequence[tuple[float, float, float]] = (),
    share: bool = False,
) -> Chart:
    """One horizontal bar a label, from top to bottom, with a part for each series.

    axis: title with unit. hover: number format. ranges: low, middle and high of each whole bar, drawn as a whisker.
    share: the axis ends at 1 and is in per cent.
    """
    objects = plotly_module()
    places = list(range(len(labels)))
    names = [html.escape(label) for label in labels]
    data = [
        objects.Bar(
            x=list(one.values),
            y=places,
            name=one.name,
            orientation="h",
            marker={"color": one.colour, "line": {"width": 0}},
            customdata=names,
            hovertemplate=f"%{{customdata}}<br>{html.escape(one.name)}: %{{x:{hover}}}<extra></extra>",
        )
        for one in series
    ]
    if ranges:
        data.append(_whiskers(objects, places, names, ranges, hover))
    layout = objects.Layout(
        barmode="stack",
        bargap=0.3,
        xaxis={"title": {"text": axis}, "rangemode": "tozero"}
        | ({"tickformat": ".0%", "range": [0, 1]} if share else {}),
        yaxis={"tickvals": places, "range": [len(labels) - 0.5, -0.5]},
        showlegend=True,
    )
    return Chart(
        identifier=identifier,
        title=title,
        caption=caption,
        data=[_plain(trace) for trace in data],
        layout=_plain(layout),
        height=110 + len(labels) * (19 if len(labels) > 24 else 26),
        ticks=_ticks(labels),
    )


def _whiskers(
    objects: ModuleType,
    places: Sequence[int],
    names: Sequence[str],
    ranges: Sequence[tuple[float, float, float]],
    hover: str,
) -> Any:
    """A mark at each bar's middle value and a line from low to high."""
    return objects.Scatter(
        x=[middle for _, middle, _ in ranges],
        y=list(places),
        name="range",
        mode="markers",
        marker={"size": 4, "color": "var(--ink)"},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - middle for _, middle, high in ranges],
            "arrayminus": [middle - low for low, middle, _ in ranges],
            "color": "var(--ink)",
            "thickness": 1,
            "width": 3,
        },
        customdata=[[name, low, high] for name, (low, _, high) in zip(names, ranges, strict=True)],
        hovertemplate=f"%{{customdata[0]}}<br>%{{x:{hover}}} (%{{customdata[1]:{hover}}} to "
        f"%{{customdata[2]:{hover}}})<extra></extra>",
    )


def roofline(
    identifier: str,
    caption: str,
    points: Sequence[tuple[str, float, float]],
    *,
    peak: float,
    bandwidth: float,
) -> Chart:
    """Operations a second over operations a bit, both logarithmic.

    points: name, operations a bit, billions of operations a second. peak: of the array, in the same unit; bandwidth:
    billions of bits a second.
    """
    objects = plotly_module()
    ridge = peak / bandwidth
    left = min([ridge, *(x for _, x, _ in points)]) / 4
    right = max([ridge, *(x for _, x, _ in points)]) * 4
    names = [html.escape(name) for name, _, _ in points]
    data = [
        objects.Scatter(
            x=[left, ridge, right],
            y=[left * bandwidth, peak, peak],
            mode="lines",
            name="bound",
            line={"color": "var(--muted)", "width": 1.5},
            hoverinfo="skip",
        ),
        objects.Scatter(
            x=[x for _, x, _ in points],
            y=[y for _, _, y in points],
            mode="markers",
            name="convolutions",
            marker={"color": COLOURS[0], "size": 9, "opacity": 0.8, "line": {"width": 1, "color": "var(--ground)"}},
            customdata=names,
            hovertemplate="%{customdata}<br>%{y:,.3~s}G operations/s, %{x:,.3~s} operations/bit<extra></extra>",
        ),
    ]
    lowest = min([peak, *(y for _, _, y in points)]) / 3
    return Chart(
        identifier=identifier,
        title="Roofline",
        caption=caption,
        data=[_plain(trace) for trace in data],
        layout=_plain(_roofline_layout((left, right), (lowest, peak * 2), peak)),
        height=400,
        wide=True,
    )


def _roofline_layout(across: tuple[float, float], up: tuple[float, float], peak: float) -> Any:
    """Logarithmic axes from and to these numbers, and the name of the upper bound."""
    logarithmic = {"type": "log", "dtick": 1}
    return plotly_module().Layout(
        xaxis={**logarithmic, "title": {"text": "operations per bit"}, "range": [*map(math.log10, across)]},
        yaxis={
            **logarithmic,
            "title": {"text": "operations a second (10<sup>9</sup>)"},
            "range": [*map(math.log10, up)],
        },
        showlegend=False,
        annotations=[
            {
                "x": math.log10(across[1]),
                "y": math.log10(peak),
                "text": f"array peak {peak:,.4g}",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "bottom",
            }
        ],
    )


def _ticks(labels: Sequence[str]) -> Sequence[tuple[str, str]]:
    """Each label cut to leave room for bars; for narrow pages shorter, or only its number where there are many."""
    few = len(labels) <= FEW_LABELS
    return [
        (
            html.escape(f"{middle_cut(label, LABEL_LENGTH)}  {number}"),
            html.escape(middle_cut(label, SHORT_LENGTH)) if few else str(number),
        )
        for number, label in enumerate(labels, start=1)
    ]


def _plain(value: Any) -> Mapping[str, Any]:
    """A validated plotly object as plain values."""
    plain: Mapping[str, Any] = json.loads(json.dumps(value.to_plotly_json(), allow_nan=False))
    return plain
