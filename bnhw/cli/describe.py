"""Commands that describe a program: info, report."""

import json
from pathlib import Path
from typing import Annotated

from bnhw.cli.console import as_text, say, show, show_json
from bnhw.cli.parameters import Json, Model, option
from bnhw.errors import BadInput


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
    model: Model,
    output_format: Annotated[str, option("FORMAT", "text or json.", "--format")] = "text",
    output: Annotated[Path | None, option("FILE", "Write to this file instead.", "--output", "-o")] = None,
) -> None:
    """Count operations, multipliers and storage. Per instruction and in total."""
    import bnhw
    from bnhw.reports.tables import report_tables

    if output_format not in ("text", "json"):
        raise BadInput(f"--format {output_format!r} is not available; choose text or json")
    built = bnhw.report(bnhw.load(model))
    text = json.dumps(built.as_json(), indent=2) + "\n" if output_format == "json" else None
    if output is not None:
        from bnhw.files import write_atomically

        write_atomically(output, (text or as_text(report_tables(built))).encode())
        say(f"wrote {output}")
    elif text is not None:
        print(text, end="")
    else:
        show(report_tables(built))
