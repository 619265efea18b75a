"""Commands that describe programs: info, report, compare."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bnhw.cli.console import show, show_json, write
from bnhw.cli.parameters import Arch, Format, Json, Model, Output, Tech, comparison_columns, option, require_format
from bnhw.errors import BadInput, ComparisonFailed


def info(model: Model, as_json: Json = False) -> None:
    """Print a program's instructions, sizes, options and origin. Says what each step costs and why."""
    import bnhw
    from bnhw.program_file import describe_program
    from bnhw.reports.steps import code_steps
    from bnhw.reports.tables import program_tables

    program = bnhw.load(model)
    if as_json:
        show_json({**describe_program(program), "steps": [step.as_json() for step in code_steps(program)]})
    else:
        show(program_tables(program))


def report(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL.bnhw", help="A compiled program.", show_default=False)
    ] = None,
    arch: Arch = None,
    tech: Tech = None,
    output_format: Format = "text",
    output: Output = None,
    as_json: Json = False,
    validate_energy: Annotated[
        bool, typer.Option("--validate-energy", help="Instead: the energy model against published chips. No MODEL.")
    ] = False,
) -> None:
    """Count operations, multipliers and storage. With an engine also cycles, with a technology energy."""
    import bnhw
    from bnhw.reports.html.report_page import report_page
    from bnhw.reports.tables import report_tables

    if as_json and output_format == "html":
        raise BadInput("--json is --format json, but --format html is asked for; give one of them")
    output_format = "json" if as_json else output_format
    require_format(output_format, output)
    if validate_energy:
        _report_validation(output_format, model or arch or tech, output)
        return
    if model is None:
        raise BadInput("MODEL.bnhw is missing; give a compiled program, or --validate-energy")
    built = bnhw.report(bnhw.load(model), arch=arch, tech=tech)
    match output_format:
        case "json":
            write(json.dumps(built.as_json(), indent=2) + "\n", output)
        case "html":
            write(report_page(built), output)
        case _:
            write(report_tables(built), output)


def _report_validation(output_format: str, given: Path | str | None, output: Path | None) -> None:
    """The validation points of the energy model. Raises ComparisonFailed where one does not hold."""
    from bnhw.hardware.validation import validate
    from bnhw.reports.energy_tables import validation_table

    if given is not None:
        raise BadInput(f"--validate-energy concerns no program; leave out {given}")
    if output_format == "html":
        raise BadInput("--validate-energy is printed as text or json; every page of a report with --tech holds it, too")
    results = validate()
    if output_format == "json":
        write(json.dumps([result.as_json() for result in results], indent=2) + "\n", output)
    else:
        write(validation_table(results), output)
    failed = [result.point.name for result in results if not result.holds]
    if failed:
        raise ComparisonFailed(f"the energy model does not hold for {', '.join(failed)}; docs/energy.md has the bands")


def compare(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL.bnhw...", help="Programs.", show_default=False)],
    arch: Annotated[
        list[str] | None,
        option(
            "ENGINE",
            "An engine for all programs; repeated, one for each program, or several for one program.",
            "--arch",
        ),
    ] = None,
    tech: Tech = None,
    output_format: Format = "text",
    output: Output = None,
) -> None:
    """Put programs or engines side by side. Ratios are to the first column."""
    from bnhw.reports.comparison import compare_reports
    from bnhw.reports.comparison_tables import comparison_tables
    from bnhw.reports.html.comparison_page import comparison_page

    require_format(output_format, output)
    comparison = compare_reports(comparison_columns(models, arch or [], tech))
    match output_format:
        case "json":
            write(json.dumps(comparison.as_json(), indent=2) + "\n", output)
        case "html":
            write(comparison_page(comparison), output)
        case _:
            write(comparison_tables(comparison), output)
