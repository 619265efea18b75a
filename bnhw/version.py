"""The version of the package, in one place."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("bnhw")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def producer() -> str:
    """ "bnhw <version>", written into every file."""
    return f"bnhw {__version__}"
