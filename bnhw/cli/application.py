"""The table of commands and the entry point."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bnhw.cli import build, describe, estimate, execute, rtl, train
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

for _name, _command in COMMANDS.items():
    app.command(name=_name)(_command)


def main() -> None:
    """Entry point of the `bnhw` command."""
    try:
        app(prog_name="bnhw")
    except BnhwError as error:
        Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}"), highlight=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        sys.exit(0)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options before the command."""
    if version:
        from bnhw.version import __version__

        print(f"bnhw {__version__}")
        raise typer.Exit
