"""What every command prints with: results to stdout, progress and messages to stderr."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from bnhw.errors import BadInput

MIN_WIDTH = 100
"""Tables keep their columns apart even on a narrow terminal."""

FILE_WIDTH = 160
"""Where the output is a file, names need not be folded."""


def show_any_text() -> None:
    """Write what the encoding of a terminal or file lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print(text: str) -> None:
    with _writing():
        sys.stdout.write(text)


def flush() -> None:
    """Write what was printed to stdout. Raises BadInput where there is no room, BrokenPipeError without a reader."""
    with _writing():
        sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_output()
        raise BadInput(f"the output cannot be written ({error.strerror}); write it to a place with room") from error


def forget_output() -> None:
    """Leave out what is still to be written to stdout: it would fail once more when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(content: RenderableType) -> None:
    """Print a result to stdout."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        _print(as_text(content))
        return
    console.width = max(console.width, MIN_WIDTH)
    console.print(content)


def say(message: str) -> None:
    """Print a message to stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(message))


def show_json(value: Any) -> None:
    """Print JSON to stdout."""
    _print(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the time left; silent where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def as_text(content: RenderableType) -> str:
    """What `show` prints where stdout is a file."""
    buffer = io.StringIO()
    Console(file=buffer, width=FILE_WIDTH, highlight=False, markup=False, emoji=False).print(content)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def write(content: RenderableType, output: Path | None) -> None:
    """Write text or tables to a file, never half of it, or to stdout where none is named."""
    if output is None:
        if isinstance(content, str):
            _print(content)
        else:
            show(content)
        return
    from bnhw.files import write_atomically

    write_atomically(output, (content if isinstance(content, str) else as_text(content)).encode())
    say(f"wrote {output}")


def show_summary(title: str, summary: dict[str, Any], as_json: bool) -> None:
    """Print named results as a table, or as JSON."""
    from bnhw.reports.tables import summary_table
    from bnhw.results import summary_rows

    if as_json:
        show_json(summary)
    else:
        show(summary_table(title, summary_rows(summary)))
