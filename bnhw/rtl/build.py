"""Builds the Verilog engine with Verilator, once for each set of parameters, and keeps it in the user's cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from bnhw.errors import BadInput

CACHE_VARIABLE = "BNHW_CACHE"
"""A folder for builds in place of the user's cache folder."""

VERILATOR_OPTIONS = ("-O3", "--x-initial", "unique", "--x-assign", "unique", "-Wall", "--language", "1364-2005")

COMPILER_OPTIONS = ("-std=c++17", "-O1", "-w", "-fPIC", "-pthread")
"""Compiling at -O2 takes longer than it saves on the networks of the tests."""


def verilog_folder() -> Path:
    """The folder of the Verilog sources that come with the package."""
    return Path(str(resources.files("bnhw.rtl")))


def source_files(folder: Path) -> tuple[Path, ...]:
    """Every file that a build depends on."""
    return tuple(sorted(path for path in folder.iterdir() if path.suffix in (".v", ".vh", ".cpp")))


def require_tool(name: str, package: str) -> str:
    """The path of a program. Raises BadInput that names the Debian package where there is none."""
    path = shutil.which(name)
    if path is None:
        raise BadInput(f"{name} is not installed; on Debian: apt-get install {package}")
    return path


@cache
def verilator_version() -> str:
    """What `verilator --version` says. Raises BadInput without Verilator."""
    command = [require_tool("verilator", "verilator"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def build_digest(parameters: Mapping[str, int], folder: Path) -> str:
    """SHA-256 of everything that a build depends on: sources, parameters, options, Verilator's version."""
    digest = hashlib.sha256()
    for path in source_files(folder):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    digest.update(repr((sorted(parameters.items()), VERILATOR_OPTIONS, COMPILER_OPTIONS)).encode())
    digest.update(verilator_version().encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where builds are kept: $BNHW_CACHE, or bnhw below the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base).absolute() if base else Path.home() / ".cache") / "bnhw"
    except RuntimeError as error:
        raise BadInput(f"there is no home folder to keep builds in; set {CACHE_VARIABLE} to a folder") from error


def build_library(parameters: Mapping[str, int], folder: Path | None = None) -> Path:
    """The shared library of the engine with these parameters; built where it is not in the cache yet.

    folder: of the Verilog sources. Raises BadInput where a tool is missing, the build fails or the cache cannot be
    written.
    """
    folder = verilog_folder() if folder is None else folder
    library = cache_folder() / "engine" / f"{build_digest(parameters, folder)}.so"
    if library.is_file():
        return library
    try:
        library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies there is executed
        with tempfile.TemporaryDirectory(dir=library.parent) as work:
            _build(parameters, folder, Path(work)).replace(library)
    except OSError as error:
        raise BadInput(
            f"{library.parent}: cannot be written ({error.strerror}); set {CACHE_VARIABLE} to a folder that can"
        ) from error
    return library


def _build(parameters: Mapping[str, int], folder: Path, work: Path) -> Path:
    """Verilator makes C++ of the engine; that, the wrapper and Verilator's runtime become a library."""
    verilator = require_tool("verilator", "verilator")
    values = [f"-G{name}={value}" for name, value in parameters.items()]
    places = ("--top-module", "engine", "--Mdir", str(work), f"-I{folder}")
    _run([verilator, "--cc", *VERILATOR_OPTIONS, *places, *values, str(folder / "engine.v")])
    include = Path(_run([verilator, "--getenv", "VERILATOR_ROOT"]).strip()) / "include"
    # Most of the compiler's time goes into headers, so everything is one source.
    sources = (*sorted(work.glob("Vengine*.cpp")), folder / "wrapper.cpp")
    joined = work / "all.cpp"
    joined.write_text("".join(f'#include "{path}"\n' for path in sources))
    return _compile([str(joined), str(_runtime(include))], (work, include), "-shared", work / "engine.so")


def _runtime(include: Path) -> Path:
    """Verilator's own part of every library, compiled once for each version."""
    name = hashlib.sha256(repr((verilator_version(), str(include), COMPILER_OPTIONS)).encode()).hexdigest()
    compiled = cache_folder() / "engine" / f"{name}.o"
    if not compiled.is_file():
        with tempfile.TemporaryDirectory(dir=compiled.parent) as work:
            joined = Path(work) / "runtime.cpp"
            sources = (include / "verilated.cpp", include / "verilated_threads.cpp")
            joined.write_text("".join(f'#include "{path}"\n' for path in sources))
            _compile([str(joined)], (include,), "-c", Path(work) / "runtime.o").replace(compiled)
    return compiled


def _compile(inputs: Sequence[str], headers: Sequence[Path], kind: str, output: Path) -> Path:
    compiler = require_tool("g++", "g++")
    folders = [f"-I{path}" for path in headers] + [f"-I{headers[-1] / 'vltstd'}"]
    _run([compiler, *COMPILER_OPTIONS, kind, *folders, *inputs, "-o", str(output)])
    return output


def _run(command: list[str]) -> str:
    """Run a tool. Raises BadInput with the beginning of what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[:20])
        raise BadInput(f"{Path(command[0]).name} failed:\n{said}")
    return done.stdout
