"""Typed doors to Numba, so that kernels stay checked by mypy although Numba's decorators are untyped.

All compiled code here is single-threaded and free of the interpreter lock, so a caller may run one batch
slice per thread. Nothing is compiled at import: an entry is compiled, or loaded from Numba's disk cache, when
it is first called, for exactly one signature.
"""

from collections.abc import Callable
from functools import partial, wraps
from hashlib import blake2b
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypeVar, cast

import numba
from numba import types as nb
from numba.extending import intrinsic as numba_intrinsic

SOURCES_DIGEST = blake2b(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))), digest_size=6
).hexdigest()
"""Names the disk cache, so that code compiled from older sources of this folder or those in it is never loaded."""

_COMPILING = Lock()

Function = TypeVar("Function", bound=Callable[..., Any])


def tensor_in(dtype: nb.Type, axes: int) -> nb.Array:
    """Signature type of a C-contiguous array that is only read; a read-only array is accepted."""
    return nb.Array(dtype, axes, "C", readonly=True)


def tensor_out(dtype: nb.Type, axes: int) -> nb.Array:
    """Signature type of a C-contiguous array that is written."""
    return nb.Array(dtype, axes, "C")


def inline(function: Function) -> Function:
    """Compile `function` as a part of the entries that call it."""
    return cast(Function, numba.njit(nogil=True)(function))


def entry(*arguments: nb.Type) -> Callable[[Function], Function]:
    """Compile `function` at its first call, for exactly these argument types, and cache it on disk."""
    return partial(_compile_lazily, arguments)


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function(typing_context, *types) -> (signature, code generator)` callable in compiled code."""
    return cast(Callable[..., Any], numba_intrinsic(function))


def _compile_lazily(arguments: tuple[nb.Type, ...], function: Function) -> Function:
    # Numba's disk cache looks at the file of the entry alone, not at those it takes inlined code from.
    function.__qualname__ += f"_{SOURCES_DIGEST}"
    dispatcher = numba.njit(nogil=True, cache=True)(function)
    ready = Event()

    @wraps(function)
    def run(*values: Any) -> Any:
        if not ready.is_set():
            with _COMPILING:  # two threads may meet an entry for the first time at once
                if not ready.is_set():
                    dispatcher.compile(arguments)
                    dispatcher.disable_compile()
                    ready.set()
        return dispatcher(*values)

    return cast(Function, run)
