"""Typed doors to Numba, so that kernels stay checked by mypy although Numba's decorators are untyped.

All compiled code here is single-threaded and free of the interpreter lock, so a caller may run one batch
slice per thread. Nothing is compiled at import: an entry is compiled, or loaded from Numba's disk cache, when
it is first called, for exactly one signature.
"""

import re
from collections.abc import Callable
from functools import partial, wraps
from threading import Event, Lock
from typing import Any, TypeVar, cast

import numba
from llvmlite import binding
from numba import types as nb
from numba.core.registry import cpu_target
from numba.extending import intrinsic as numba_intrinsic

from bnhw.kernels.sources import SOURCES_DIGEST

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


def machine_code(symbol: str, *arguments: nb.Type) -> Callable[[Function], Callable[[], bytes]]:
    """Compile `function` for exactly these argument types when the result is called, to an object file of one symbol.

    Arrays in it must have no owner: nothing of Numba's run time is linked in.
    """
    return partial(_emit_object, symbol, arguments)


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


OWNER_DESTRUCTOR = re.compile(r"^declare void @NRT_MemInfo_call_dtor\((ptr|i8\*).*$", re.MULTILINE)
NOTHING = r"define internal void @NRT_MemInfo_call_dtor(\1 %0) { ret void }"


def llvm_text(symbol: str, arguments: tuple[nb.Type, ...], function: Callable[..., Any]) -> str:
    """An optimised LLVM module that defines one symbol, for this process's target."""
    wrappers: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    dispatcher = numba.njit(nogil=True, **wrappers)(function)
    with _COMPILING:
        dispatcher.compile(arguments)
    (result,) = dispatcher.overloads.values()
    text = OWNER_DESTRUCTOR.sub(NOTHING, result.library.get_llvm_str())
    return text.replace(result.fndesc.llvm_func_name, symbol)


def _emit_object(symbol: str, arguments: tuple[nb.Type, ...], function: Callable[..., Any]) -> Callable[[], bytes]:
    @wraps(function)
    def emit() -> bytes:
        module = binding.parse_assembly(llvm_text(symbol, arguments, function))
        triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
        target = binding.Target.from_triple(triple)
        code: bytes = target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True).emit_object(module)
        return code

    return emit
