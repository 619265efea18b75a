"""Every exception is raised by something, says what stands in the way, and has its exit code."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from program_builder import one_of_each

import bnhw
from bnhw import errors
from bnhw.compare import first_difference
from bnhw.compiler import check, self_check
from bnhw.demo.digits import load_digits
from bnhw.dtypes import IntegerType
from bnhw.errors import (
    ArchMismatch,
    BadInput,
    BnhwError,
    ComparisonFailed,
    InvalidGraph,
    InvalidProgram,
    MissingDependency,
    PassFailed,
    RtlFailed,
    TrainingDiverged,
    UnsupportedModel,
    WidthExceeded,
)
from bnhw.graph import Graph, Value
from bnhw.hardware.arch_file import load_arch
from bnhw.hardware.mapping import map_program
from bnhw.machine import Machine
from bnhw.rtl.driver import Driver
from bnhw.verify import check_graph

CLASSES = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, BnhwError)} - {BnhwError}


def save_model(path: Path, operation: str) -> Path:
    """image (1, 2, 4, 4) -> one operation -> output."""
    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 2, 4, 4))
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    weights = numpy_helper.from_array(np.ones((3, 2, 1, 1), np.float32), "weights")
    node = helper.make_node(operation, ["image", "weights"], ["output"], name="only")
    graph = helper.make_graph([node], "graph", [entry], [output], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def raise_bad_input(folder: Path) -> None:
    bnhw.load(folder / "gone.bnhw")


def raise_unsupported_model(folder: Path) -> None:
    check(save_model(folder / "m.onnx", "MatMulInteger"))


def raise_invalid_graph(_: Path) -> None:
    check_graph(Graph(name="g", inputs=(Value(name="x", shape=(1, 2, 2)),), outputs=("y",), nodes=()))


def raise_pass_failed(folder: Path) -> None:
    """One number a pixel is no number a class."""
    bnhw.compile(save_model(folder / "m.onnx", "Conv"), np.zeros((2, 4, 4, 2), np.uint8) + 9)


def raise_invalid_program(folder: Path) -> None:
    path = folder / "p.bnhw"
    one_of_each().save(path)
    path.write_bytes(path.read_bytes()[:-1])
    bnhw.load(path)


def raise_comparison_failed(_: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnhw.kernels.portable.add", lambda a, *_: (a * 0 + 1, 0))
        self_check(one_of_each(), np.full((1, 5, 4, 2), 200, np.uint8))


def raise_width_exceeded(_: Path) -> None:
    """The logits are declared one bit wide."""
    program = one_of_each()
    narrow = IntegerType(bits=1, signed=True)
    tensors = [replace(one, dtype=narrow) if one.name == program.output else one for one in program.tensors]
    Machine(replace(program, tensors=tuple(tensors)), "checked").run(np.full((1, 5, 4, 2), 200, np.uint8))


def raise_missing_dependency(_: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sklearn", "sklearn.datasets"):
            patch.setitem(sys.modules, name, None)
        load_digits()


def raise_training_diverged(_: Path) -> None:
    pytest.importorskip("torch", reason="bnhw.export needs torch")
    from torch import nn

    from bnhw.export.recipes import Recipe
    from bnhw.export.schedules import Constant
    from bnhw.export.training import TrainingData, train

    images, labels = np.arange(12, dtype=np.uint8).reshape(4, 1, 1, 3), np.arange(4) % 2
    data = TrainingData(train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    recipe = Recipe(source="this test", epochs=9, batch_size=1, schedule=Constant(1e30))
    train(nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 2)), recipe, data, seed=0)


def raise_arch_mismatch(_: Path) -> None:
    map_program(one_of_each(), load_arch("engine-16x64"))


def raise_rtl_failed(_: Path) -> None:
    """An engine that is never done."""
    engine = object.__new__(Driver)
    engine._library, engine._handle = Mock(engine_run=Mock(return_value=-1)), None
    engine.run(9)


WAYS: dict[type[BnhwError], tuple[Callable[[Path], None], str]] = {
    BadInput: (raise_bad_input, "gone.bnhw: no such file"),
    UnsupportedModel: (
        raise_unsupported_model,
        r"(?s)1 problem stands .* compiling m:\n +1\. .*MatMulInteger",
    ),
    InvalidGraph: (raise_invalid_graph, "graph 'g' is not well formed:\n  - output 'y' is made by no node"),
    PassFailed: (raise_pass_failed, "4x4 positions; expected one number a class"),
    InvalidProgram: (raise_invalid_program, "damaged or cut short"),
    ComparisonFailed: (raise_comparison_failed, "self-check before writing failed"),
    ArchMismatch: (raise_arch_mismatch, "(?s)'random' does not run on the engine 'engine-16x64':\n  1\\. .*; raise it"),
    WidthExceeded: (raise_width_exceeded, "the partial sum -?[0-9]+ left its declared int1, -1 to 0"),
    RtlFailed: (raise_rtl_failed, "the engine is not done after 9 cycles"),
    TrainingDiverged: (raise_training_diverged, "no longer a number in epoch .* try a tenth of the learning rate"),
    MissingDependency: (raise_missing_dependency, r"pip install 'bnhw\[demo\]'"),
}


def test_the_table_of_this_test_holds_every_exception() -> None:
    assert set(WAYS) == CLASSES


@pytest.mark.parametrize("kind", WAYS)
def test_every_exception_is_raised_and_says_what_is_wrong(kind: type[BnhwError], tmp_path: Path) -> None:
    way, message = WAYS[kind]
    with pytest.raises(BnhwError, match=message) as caught:
        way(tmp_path)
    assert type(caught.value) is kind
    assert kind.exit_code == {ComparisonFailed: 3, WidthExceeded: 1, RtlFailed: 1}.get(kind, 2)
    assert kind.__doc__


def test_problems_of_a_model_are_counted_and_numbered() -> None:
    error = UnsupportedModel(["the first", "the second", "the third"], model="net")
    assert error.problems == ("the first", "the second", "the third")
    assert str(error).splitlines() == [
        "3 problems stand in the way of compiling net:",
        "  1. the first",
        "  2. the second",
        "  3. the third",
    ]
    assert str(UnsupportedModel(["one"])) == "1 problem stands in the way of compiling the model:\n  1. one"


def test_problems_of_a_graph_are_listed() -> None:
    error = InvalidGraph(["a", "b"], graph="net")
    assert error.problems == ("a", "b")
    assert str(error) == "graph 'net' is not well formed:\n  - a\n  - b"


def test_a_comparison_that_holds_raises_nothing() -> None:
    program = one_of_each()
    images = np.full((1, 5, 4, 2), 200, np.uint8)
    assert first_difference(Machine(program, "reference"), Machine(program), images).difference is None
