"use strict";
(() => {
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const narrow = matchMedia("(max-width: 40rem)");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // Charts name colours of the page as var(--ink); here they become what the current theme says.
  const themed = (value) => {
    if (Array.isArray(value)) return value.map(themed);
    if (value === null || typeof value !== "object") return value;
    const entries = Object.entries(value).map(([key, inner]) =>
      [key, key === "color" && String(inner).startsWith("var(--") ? colour(inner.slice(6, -1)) : themed(inner)]);
    return Object.fromEntries(entries);
  };

  const axis = (own) => ({
    gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true, fixedrange: true,
    ...own, title: { standoff: 8, font: { size: 12, color: colour("muted") }, ...(own.title || {}) },
  });

  const layout = (chart) => {
    const result = {
      ...chart.layout, height: chart.height, autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
      margin: { l: 8, r: 16, t: 34, b: 44 }, hovermode: "closest",
      hoverlabel: { bgcolor: colour("ink"), bordercolor: colour("ink"), font: { color: colour("ground"), size: 12 }, align: "left" },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", font: { size: 12 }, itemclick: "toggle", traceorder: "normal" },
      xaxis: axis(chart.layout.xaxis || {}), yaxis: axis(chart.layout.yaxis || {}),
    };
    if (chart.ticks.length) {
      result.yaxis.ticktext = chart.ticks.map((tick) => tick[narrow.matches ? 1 : 0]);
      result.yaxis.showgrid = false;
      result.yaxis.zeroline = false;
    }
    return result;
  };

  const draw = () => {
    for (const [name, chart] of Object.entries(charts))
      Plotly.react(name, themed(chart.data), layout(chart), { responsive: true, displayModeBar: false });
  };
  draw();
  narrow.addEventListener("change", draw);
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => { root.dataset.theme = "light"; draw(); });
  addEventListener("afterprint", () => { delete root.dataset.theme; draw(); });

  // Tables sort by the button of a column: numbers first from large to small, names from A to Z.
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const numeric = head.dataset.kind === "number";
      const before = head.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numeric;
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = numeric ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b));
      const rows = [...body.rows].sort((a, b) => descending ? compare(b, a) : compare(a, b));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...rows);
    }));
  }

  // Definitions on hover, on focus and on touch; Escape closes. Without this script the titles remain.
  const tooltip = document.createElement("div");
  tooltip.id = "tooltip";
  tooltip.setAttribute("role", "tooltip");
  tooltip.hidden = true;
  document.body.append(tooltip);
  const hide = () => { tooltip.hidden = true; };
  const show = (term) => {
    tooltip.textContent = term.dataset.definition;
    tooltip.hidden = false;
    const box = term.getBoundingClientRect(), own = tooltip.getBoundingClientRect();
    const below = box.bottom + 8 + own.height < innerHeight;
    tooltip.style.left = `${Math.max(16, Math.min(box.left, innerWidth - own.width - 16))}px`;
    tooltip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - own.height - 8)}px`;
  };
  for (const term of document.querySelectorAll(".term")) {
    term.dataset.definition = term.title;
    term.removeAttribute("title");
    term.setAttribute("aria-describedby", "tooltip");
    term.addEventListener("mouseenter", () => show(term));
    term.addEventListener("mouseleave", hide);
    term.addEventListener("focus", () => show(term));
    term.addEventListener("blur", hide);
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", hide, { passive: true, capture: true });
})();
