"""Commands that describe a program: info, report."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from bnhw.cli.console import as_text, say, show, show_json
from bnhw.cli.parameters import Json, Model, option
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
    output_format: Annotated[str, option("FORMAT", "text or json.", "--format")] = "text",
    output: Annotated[Path | None, option("FILE", "Write to this file instead.", "--output", "-o")] = None,
    as_json: Json = False,
    validate_energy: Annotated[
        bool, typer.Option("--validate-energy", help="Instead: the energy model against published chips. No MODEL.")
    ] = False,
) -> None:
    """Count operations, multipliers and storage. Per instruction and in total."""
    import bnhw
    from bnhw.reports.tables import report_tables

    if output_format not in ("text", "json"):
        raise BadInput(f"--format {output_format!r} is not available; choose text or json")
    output_format = "json" if as_json else output_format
    if validate_energy:
        _report_validation(output_format, model, output)
        return
    if model is None:
        raise BadInput("MODEL.bnhw is missing; give a compiled program, or --validate-energy")
    built = bnhw.report(bnhw.load(model))
    text = json.dumps(built.as_json(), indent=2) + "\n" if output_format == "json" else None
    _give(report_tables(built), text, output)


def _give(tables: RenderableType, text: str | None, output: Path | None) -> None:
    """Print the text, or the tables where there is none, or write it to a file."""
    if output is not None:
        from bnhw.files import write_atomically

        write_atomically(output, (text or as_text(tables)).encode())
        say(f"wrote {output}")
    elif text is not None:
        print(text, end="")
    else:
        show(tables)


def _report_validation(output_format: str, model: Path | None, output: Path | None) -> None:
    """The validation points of the energy model. Raises ComparisonFailed where one does not hold."""
    from bnhw.hardware.validation import validate
    from bnhw.reports.energy_tables import validation_table

    if model is not None:
        raise BadInput(f"--validate-energy concerns no program; leave out {model}")
    results = validate()
    text = json.dumps([result.as_json() for result in results], indent=2) + "\n" if output_format == "json" else None
    _give(validation_table(results), text, output)
    failed = [result.point.name for result in results if not result.holds]
    if failed:
        raise ComparisonFailed(f"the energy model does not hold for {', '.join(failed)}; docs/energy.md has the bands")
