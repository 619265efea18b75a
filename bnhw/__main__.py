"""`python -m bnhw` is the `bnhw` command."""

from bnhw.cli import main

main()
