"""The command line: `bnhw COMMAND`. Thin: every command is one function of the library and its presentation.

Exit codes: 0 done, 1 a bug of ours (with traceback), 2 the user's input (one message), 3 a comparison that did not
hold. Results go to stdout, progress and messages to stderr; `--json` prints JSON and nothing else on stdout.
"""

from bnhw.cli.application import main

__all__ = ["main"]
