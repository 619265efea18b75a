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
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.registry import cpu_target
from numba.core.typed_passes import NativeLowering
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


class LibraryOfParts(CPUCodeLibrary):
    """A module of LLVM that others link, and nothing executes: it never becomes machine code.

    Making that of every function, and again of each that calls it, takes Numba most of its time, and optimising each
    with all that it calls, at level 3, most of the rest. Here level 1 does; whoever makes machine code of the whole
    optimises it once. The result is as fast; at level 0, it counted bits 10 % slower.
    """

    def _optimize_functions(self, module: Any) -> None:
        """Left to the whole module."""

    def _optimize_final_module(self) -> None:
        manage: Callable[..., Any] = self._codegen._module_pass_manager
        passes, builder = manage(opt=1)
        passes.run(self._final_module, builder)

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()  # type: ignore[no-untyped-call]  # Numba's is untyped
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[no-untyped-call]  # Numba's is untyped
class LoweringOfParts(NativeLowering):
    """Lower into a `LibraryOfParts`."""

    _name = "lowering_of_parts"

    def run_pass(self, state: Any) -> bool:
        """As Numba's own, with a function that only raises in place of the compiled one."""
        library: Callable[..., Any] = LibraryOfParts
        state.library = library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)  # type: ignore[no-untyped-call]  # Numba's is untyped
        nothing = object().__format__  # a built-in function, as Numba's dispatchers want, and another one each time
        state.targetctx.insert_user_function(nothing, state["cr"].fndesc, [state.library])
        state["cr"] = state["cr"]._replace(cfunc=nothing)
        return True


class CompilerOfParts(CompilerBase):
    """Numba's compiler for functions that others are made of."""

    def define_pipelines(self) -> list[Any]:
        """Numba's own pipeline but for its lowering."""
        define: Callable[..., Any] = DefaultPassBuilder.define_nopython_pipeline
        pipeline = define(self.state)
        pipeline.passes = [
            (LoweringOfParts if step is NativeLowering else step, name) for step, name in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]


PART: dict[str, Any] = {
    "nogil": True,
    "pipeline_class": CompilerOfParts,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def inline(function: Function) -> Function:
    """Compile `function` as a part of the entries that call it; it cannot be called from anywhere else."""
    return cast(Function, numba.njit(**PART)(function))


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
    try:
        dispatcher = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that Numba may write to
        dispatcher = numba.njit(nogil=True)(function)
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
    """An LLVM module that defines one symbol, for this process's target, hardly optimised yet."""
    dispatcher = numba.njit(**PART)(function)
    with _COMPILING, global_compiler_lock:
        dispatcher.compile(arguments)
        (result,) = dispatcher.overloads.values()
        result.library.finalize()
        result.library._verify_declare_only_symbols()
    text = OWNER_DESTRUCTOR.sub(NOTHING, result.library.get_llvm_str())
    return text.replace(result.fndesc.llvm_func_name, symbol)


def optimise(module: binding.ModuleRef, machine: binding.TargetMachine) -> None:
    """Run LLVM's passes of its level 3."""
    options = binding.create_pipeline_tuning_options(speed_level=3)
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)


def _emit_object(symbol: str, arguments: tuple[nb.Type, ...], function: Callable[..., Any]) -> Callable[[], bytes]:
    @wraps(function)
    def emit() -> bytes:
        module = binding.parse_assembly(llvm_text(symbol, arguments, function))
        triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
        target = binding.Target.from_triple(triple)
        machine = target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)
        optimise(module, machine)
        code: bytes = machine.emit_object(module)
        return code

    return emit
