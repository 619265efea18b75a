"""The interpreters without tiles, compiled for older and other processors than this one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from bnhw.kernels.select import host_features

PROGRAMS = """
import sys
from test_fused import assert_equal_to_reference
from test_fused_layers import LAYERS, Layer, images_for, residual_network
from program_builder import one_of_each
layers = (*LAYERS, Layer(size=(14, 18), channels=64, outputs=40, bits=8), Layer(size=(16, 16), channels=144, bits=2))
for program in (one_of_each(), residual_network((9, 10), 40), *(layer.program() for layer in layers)):
    assert_equal_to_reference(program, images_for(program, 2), sys.argv[1])
print("all equal")
"""
X86 = "x86_64" in binding.get_default_triple()


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="code for older x86-64 processors runs on x86-64 alone")
@pytest.mark.parametrize(
    ("kernels", "processor"), [("avx2", "haswell"), ("portable", "haswell"), ("portable", "x86-64")]
)
def test_code_for_older_processors_equals_the_reference(kernels: str, processor: str, tmp_path: Path) -> None:
    if processor == "haswell" and "avx2" not in host_features():
        pytest.skip("this processor has no AVX2")
    target = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAMS, kernels]
    folder = Path(__file__).parent
    paths = os.pathsep.join([str(folder), str(folder.parent)])
    environment = {**os.environ, **target, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == ["all", "equal"], done.stderr
    (code,) = tmp_path.rglob("run_*.o")
    assert code.stat().st_size > 10_000


AARCH64 = """
import re
import sys
from llvmlite import binding
from numba import int64
from bnhw.kernels.fused import run_portable
from bnhw.kernels.jit import llvm_text, optimise, tensor_in
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
try:
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
except RuntimeError:
    sys.exit("this llvmlite has no AArch64 target")
text = llvm_text("bnhw_run", (tensor_in(int64, 1), *(int64,) * 12), run_portable.run.__wrapped__)
of_owners = re.compile(r"^define linkonce_odr void @NRT_(in|de)cref\\(.*?^}$", re.MULTILINE | re.DOTALL)
text = of_owners.sub(r"declare void @NRT_\\1cref(ptr)", text)  # atomic instructions of the host
text = re.sub(r'^target (triple|datalayout) = ".*"$', "", text, flags=re.MULTILINE)
text = re.sub(r'"(target-cpu|target-features)"="[^"]*"', "", text)
assert not re.search(r"call .*@llvm\\.x86", text), "the portable interpreter asks for nothing of x86"
machine = target.create_target_machine(cpu="generic", features="", opt=3)
module = binding.parse_assembly(text)
module.triple = "aarch64-unknown-linux-gnu"
optimise(module, machine)
assert len(machine.emit_object(module)) > 10_000
print(machine.emit_assembly(module))
"""


@pytest.mark.slow
def test_the_portable_interpreter_compiles_for_aarch64() -> None:
    target = {"NUMBA_CPU_NAME": "x86-64" if X86 else "generic", "NUMBA_CPU_FEATURES": ""}
    environment = {**os.environ, **target, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", AARCH64]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if "no AArch64 target" in done.stderr:
        pytest.skip(done.stderr)
    assert not done.returncode, done.stderr
    assert re.search(r"\tmla\tv\d+\.8h", done.stdout), "products of 16 bits are added eight at once"
    assert re.search(r"\tsmull\tv\d+\.4s", done.stdout), "those of transformed patches are widened four at once"
