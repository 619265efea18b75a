"""The table of commands and the entry point."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from bnhw.cli import build, describe, estimate, execute, rtl, train
from bnhw.cli.console import flush, forget_output, show_any_text
from bnhw.errors import BnhwError

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": build.demo,
    "train": train.train,
    "export": build.export,
    "check": build.check,
    "compile": build.compile_command,
    "info": describe.info,
    "run": execute.run,
    "verify": execute.verify,
    "report": describe.report,
    "compare": describe.compare,
    "estimate": estimate.estimate,
    "rtl": rtl.rtl,
}
"""Every command by its name, in the order of the help."""

app = typer.Typer(
    help="Compile networks with 1-bit weights to integer programs, run them bit-exactly, and count what they cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def _until_nobody_reads(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which ends well where the reader of its output goes away, as `| head` does."""

    @wraps(command)
    def run(*values: Any, **named: Any) -> None:
        try:
            command(*values, **named)
            flush()
        except BrokenPipeError:
            forget_output()
            raise typer.Exit from None

    return run


for _name, _command in COMMANDS.items():
    app.command(name=_name)(_until_nobody_reads(_command))


def main() -> None:
    """Entry point of the `bnhw` command."""
    show_any_text()
    try:
        app(prog_name="bnhw")
    except BnhwError as error:
        Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}"), highlight=False)
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options before the command."""
    if version:
        from bnhw.version import __version__

        print(f"bnhw {__version__}")
        raise typer.Exit
