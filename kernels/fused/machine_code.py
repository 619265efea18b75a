"""Interpreters as machine code on disk: a program starts without loading the compiler.

Compiling an interpreter takes 10 to 20 seconds and loading Numba most of a second, so the machine code is kept beside
Numba's own caches and loaded by LLVM alone. The file's name holds whatever the code depends on: the sources, the
versions of Numba and LLVM, and the processor's features. A file that is not whole, by a digest in it, is made again.
"""

import ctypes
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llvmlite import binding

from bnhw.kernels.sources import SOURCES_DIGEST

DIGEST_BYTES = 32
ENTRY = "bnhw_run"
"""The one symbol that an interpreter defines."""
COMPILER_VARIABLES = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX", "NUMBA_OPT")

Run = Callable[..., None]
"""(table int64 (n,), twelve integers), see `bnhw.kernels.fused.run_vnni.run`."""


@cache
def load_interpreter(module: str) -> Run:
    """The `run` of a module `bnhw.kernels.fused.run_*`, compiled now where no earlier process has left it on disk.

    Only where the machine has the instructions: others end the process.
    """
    name = f"{module.rpartition('.')[2]}-{_key()}.o"
    for folder in cache_folders():
        code = read_code(folder / name)
        if code is not None:
            return _callable(code)
    code = import_module(module).run()
    for folder in cache_folders():
        if write_code(folder / name, code):
            break
    return _callable(code)


def cache_folders() -> tuple[Path, ...]:
    """Where machine code may lie, the first that can be written to first; as Numba has it."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        return (Path(named),)
    own = Path(__file__).parent / "__pycache__"
    try:
        return own, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnhw"
    except RuntimeError:  # a user without a home
        return (own,)


def read_code(path: Path) -> bytes | None:
    """The machine code in a file, or None where there is none, or not all of it."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    code = content[:-DIGEST_BYTES]
    return code if code and content[-DIGEST_BYTES:] == _digest(code) else None


def write_code(path: Path, code: bytes) -> bool:
    """Keep machine code for later processes, whole or not at all; False where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)
    except OSError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(code + _digest(code))
        Path(name).chmod(0o644)  # whoever installs a package compiles for all
        Path(name).replace(path)
    except OSError:
        with suppress(OSError):
            Path(name).unlink()
        return False
    return True


def _digest(code: bytes) -> bytes:
    return blake2b(code, digest_size=DIGEST_BYTES).digest()


def _key() -> str:
    """Whatever machine code depends on."""
    parts = [SOURCES_DIGEST, version("numba"), str(binding.llvm_version_info), platform.machine()]
    parts += [binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()]
    parts += [os.environ.get(name, "") for name in COMPILER_VARIABLES]
    return blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()


_ENGINES: list[binding.ExecutionEngine] = []
"""Engines own the code they have loaded, which lives as long as the process."""


def _callable(code: bytes) -> Run:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ENGINES.append(engine)
    # Numba's convention: pointers for a result and an exception, the parts of an array (the last six), the integers.
    address = engine.get_function_address(ENTRY)
    pointers = [ctypes.c_void_p] * 4
    numbers = [ctypes.c_int64] * 17
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers, *numbers)(address)

    def run(table: npt.NDArray[np.int64], *values: int) -> None:
        spare = (ctypes.c_void_p * 2)()
        place = ctypes.addressof(spare)
        data, size = table.ctypes.data, table.size
        status = function(place, place + 8, None, None, size, 8, data, size, 8, *values)
        assert status in (0, -2), status  # -2: returned None

    return run
