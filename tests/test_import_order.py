"""Who may import whom, read from the source; and what runs without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bnhw

ROOT = Path(bnhw.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "version"),
    ("dtypes", "files", "onnx_session"),
    ("kernels",),
    ("options",),
    ("graph", "monotone"),
    ("ops",),
    ("image_files",),
    ("images", "datasets", "weights"),
    ("verify",),
    ("graph_onnx",),
    ("text",),
    ("onnx_builder",),
    ("onnx_elementwise", "onnx_folding", "onnx_layers"),
    ("onnx_ops",),
    ("importer",),
    ("requantise_constants",),
    ("passes",),
    ("threshold_constants",),
    ("program",),
    ("program_shapes",),
    ("program_check",),
    ("program_file",),
    ("lowering_state",),
    ("lower_quantise",),
    ("lower",),
    ("widths",),
    ("checked",),
    ("plan_order", "plan_storage", "plan_interpreter"),
    ("plan_constants", "plan_convolution"),
    ("plan_channels", "plan_few", "plan_words"),
    ("plan_winograd",),
    ("plan_tabulated",),
    ("plan_methods",),
    ("plan_memory", "plan_tail"),
    ("plan_records",),
    ("plan_sums",),
    ("plan_steps",),
    ("plan",),
    ("fused",),
    ("machine", "storage", "count", "integer_onnx"),
    ("compare", "fidelity"),
    ("onnx_machine",),
    ("executors",),
    ("compiler", "float_model", "results"),
    ("hardware.trace",),
    ("hardware.arch_rules",),
    ("hardware.arch",),
    ("hardware.arch_file", "hardware.fit", "hardware.steps"),
    ("hardware.folding", "hardware.fusing"),
    ("hardware.placement", "hardware.weight_words"),
    ("hardware.mapping",),
    ("hardware.emulate", "hardware.stepping", "hardware.timing"),
    ("hardware.tiling",),
    ("hardware.schedule",),
    ("hardware.technology",),
    ("hardware.technology_file", "hardware.unit_energy"),
    ("hardware.energy",),
    ("hardware.validation_points",),
    ("hardware.validation",),
    ("hardware",),
    ("rtl.parameters", "rtl.descriptor"),
    ("rtl.image", "rtl.expected", "rtl.build"),
    ("rtl.driver",),
    ("rtl.machine", "rtl.vectors"),
    ("rtl.verify",),
    ("rtl",),
    ("demo.digits",),
    ("export",),
    ("reports",),
    ("demo",),
    ("api",),
    ("",),  # the package itself
    ("cli",),
    ("__main__",),
)
"""A module imports from layers above its own line, and from itself where it is a folder."""

ENERGY = {"technology", "technology_file", "unit_energy", "energy", "validation_points", "validation"}
"""The modules of bnhw.hardware that price. The others there, the trace apart, tell what happens and when."""

EXCEPTIONS = {
    ("program", "program_file"): "Program.save writes the file that builds on Program",
}
"""Imports inside functions that go the other way."""

KERNEL_LIBRARIES = {"numpy", "numba", "llvmlite", "bitarray", "bnhw"} | set(sys.stdlib_module_names)


def sources() -> Iterator[tuple[str, ast.Module]]:
    """(module name within bnhw, syntax tree) of every file; a folder's own name for its __init__."""
    for path in sorted(_files(ROOT)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), ast.parse(path.read_text())


def _files(folder: Path) -> Iterator[Path]:
    """Every source file, also behind the links to kernels and export."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        elif path.suffix == ".py":
            yield path


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that a tree imports, inside functions too."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                inner = [f"{module}.{alias.name}" for alias in names]
                yield from (name if _is_module(name) else module for name in inner)
            case ast.ImportFrom():
                raise AssertionError("relative imports are not used here")


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split(".")[1:]) if name.startswith("bnhw.") else None
    return path is not None and (path.is_dir() or path.with_suffix(".py").is_file())


def layer(module: str) -> tuple[int, str]:
    """The line of `LAYERS` that a module belongs to, and the entry."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        entry = ".".join(parts[:length])
        for number, entries in enumerate(LAYERS):
            if entry in entries:
                return number, entry
    raise AssertionError(f"bnhw.{module} is in no layer of the table; add it where it belongs")


def wrong_imports(module: str, tree: ast.AST) -> list[str]:
    """The imports of one module that the table does not allow."""
    own_number, own_entry = layer(module)
    wrong = []
    for name in imported(tree):
        if name.split(".")[0] != "bnhw":
            continue
        number, entry = layer(name.removeprefix("bnhw").removeprefix("."))
        if number >= own_number and entry != own_entry and (own_entry, entry) not in EXCEPTIONS:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize(("module", "tree"), [pytest.param(*s, id=s[0] or "bnhw") for s in sources()])
def test_module_imports_only_from_the_layers_before_it(module: str, tree: ast.Module) -> None:
    assert not wrong_imports(module, tree)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("graph", "from bnhw.ops import OPS"),
        ("ops", "import bnhw.passes.fold"),
        ("kernels.portable", "from bnhw import dtypes, graph"),
        ("machine", "def f():\n    from bnhw.count import count_program"),
        ("count", "from bnhw.machine import Machine"),
        ("passes.fold", "from bnhw.program import Program"),
        ("demo.digits", "from bnhw.demo.flow import run_demo"),
    ],
)
def test_wrong_import_is_seen(module: str, text: str) -> None:
    assert wrong_imports(module, ast.parse(text))


def test_every_entry_of_the_table_exists() -> None:
    modules = {module for module, _ in sources()}
    for entries in LAYERS:
        assert set(entries) <= modules


def test_every_exception_is_used_inside_a_function() -> None:
    trees = dict(sources())
    for importer, wanted in EXCEPTIONS:
        assert f"bnhw.{wanted}" in imported(trees[importer])
        top = [node for node in trees[importer].body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert all(f"bnhw.{wanted}" not in imported(ast.Module(body=[node], type_ignores=[])) for node in top)


def crossings(module: str, tree: ast.Module) -> list[str]:
    """Imports between energy on one side, semantics and timing on the other; the trace is what both share."""
    folder, _, name = module.partition(".")
    other_side = {"bnhw.machine", "bnhw.kernels", "bnhw.rtl"}
    wrong = []
    for found in imported(tree):
        inner = found.removeprefix("bnhw.hardware.").split(".")[0] if found.startswith("bnhw.hardware.") else "trace"
        if folder == "hardware" and name in ENERGY:
            outside = ".".join(found.split(".")[:2]) in other_side or inner not in {*ENERGY, "trace"}
        else:
            outside = folder in ("hardware", "rtl", "machine", "kernels") and inner in ENERGY
        wrong += [found] if outside else []
    return wrong


@pytest.mark.parametrize(("module", "tree"), [pytest.param(*s, id=s[0] or "bnhw") for s in sources()])
def test_semantics_and_timing_never_import_energy_nor_energy_them(module: str, tree: ast.Module) -> None:
    assert not crossings(module, tree)


@pytest.mark.parametrize(
    ("module", "text", "crosses"),
    [
        ("hardware.energy", "from bnhw.hardware.schedule import anything", True),
        ("hardware.energy", "import bnhw.machine", True),
        ("hardware.energy", "from bnhw.hardware import trace", False),
        ("hardware.schedule", "from bnhw.hardware.energy import price", True),
        ("rtl", "from bnhw.hardware import technology", True),
        ("reports.report", "from bnhw.hardware.energy import price", False),
    ],
)
def test_a_crossing_is_seen(module: str, text: str, crosses: bool) -> None:
    assert bool(crossings(module, ast.parse(text))) == crosses


def test_only_the_export_imports_torch() -> None:
    users = {module.split(".")[0] for module, tree in sources() for n in imported(tree) if n.split(".")[0] == "torch"}
    assert users == {"export"}


def test_kernels_know_arrays_and_nothing_else() -> None:
    for module, tree in sources():
        if module.split(".")[0] == "kernels":
            names = set(imported(tree))
            assert {name.split(".")[0] for name in names} <= KERNEL_LIBRARIES, module
            assert all(name.startswith("bnhw.kernels") for name in names if name.startswith("bnhw")), module


def run_python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "scipy", "sklearn", "PIL"}:
            raise ModuleNotFoundError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""


def test_shipped_model_compiles_and_runs_without_torch() -> None:
    script = (
        BLOCKED
        + """
import numpy as np
import bnhw
from pathlib import Path
model = Path(bnhw.__file__).parent / "demo" / "digits.onnx"
images = np.random.default_rng(0).integers(0, 17, (20, 8, 8, 1)).astype(np.uint8)
program = bnhw.compile(model, calibration=images)
result = bnhw.run(program, images)
bnhw.report(program)
print(result.logits.shape, "torch" in sys.modules)
"""
    )
    assert run_python(script).strip() == "(20, 10) False"


def test_importing_the_package_is_quick() -> None:
    """Nothing slow is imported before it is used."""
    script = "import sys, bnhw; print(sorted({'torch', 'numba', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    assert run_python(script).strip() == "[]"
