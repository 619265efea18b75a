"""The executor on onnxruntime: what it yields, and that its own check can fail."""

from typing import Any

import numpy as np
import onnx
import pytest
from program_builder import one_of_each

from bnhw import onnx_machine
from bnhw.errors import BadInput, ComparisonFailed
from bnhw.executors import EXECUTORS
from bnhw.integer_onnx import program_to_onnx
from bnhw.machine import Machine
from bnhw.onnx_machine import OnnxMachine, checked_onnx, onnx_logits
from bnhw.onnx_session import open_session
from bnhw.program import Program

IMAGES = np.random.default_rng(6).integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)


def test_steps_are_those_of_the_reference() -> None:
    program = one_of_each()
    expected = list(Machine(program, "reference").steps(IMAGES))
    found = list(OnnxMachine(program, threads=2).steps(IMAGES))
    assert [step.instruction for step in found] == [step.instruction for step in expected]
    assert [step.saturations for step in found] == [step.saturations for step in expected]
    assert sum(step.saturations for step in found) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.value.dtype == np.int64
        np.testing.assert_array_equal(one.value, other.value)


def test_images_in_any_memory_order_are_the_same_images() -> None:
    expected = Machine(one_of_each(), "reference").run(IMAGES).logits
    *_, last = OnnxMachine(one_of_each()).steps(np.asfortranarray(IMAGES))
    np.testing.assert_array_equal(last.value.reshape(3, -1), expected)
    model = program_to_onnx(one_of_each()).SerializeToString()
    np.testing.assert_array_equal(onnx_logits(model, IMAGES[::-1]), expected[::-1])


def test_every_executor_goes_by_its_name() -> None:
    program = one_of_each()
    assert {name: make(program).name for name, make in EXECUTORS.items()} == {name: name for name in EXECUTORS}


def test_the_checked_graph_is_the_plain_one() -> None:
    assert checked_onnx(one_of_each(), IMAGES) == program_to_onnx(one_of_each())


def test_a_wrong_tensor_stops_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnhw.integer_onnx.pooling.LOWEST", 15)
    with pytest.raises(ComparisonFailed, match="ONNX graph is wrong: first difference in PoolMaximum"):
        checked_onnx(one_of_each(), IMAGES)


def test_the_graph_that_is_written_is_run_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all tensors as outputs onnxruntime executes another graph than the one that is written."""

    def wrong(program: Program, *, expose_tensors: bool = False) -> onnx.ModelProto:
        model = program_to_onnx(program, expose_tensors=expose_tensors)
        if not expose_tensors:
            (flatten,) = (node for node in model.graph.node if node.op_type == "Flatten")
            doubled = onnx.helper.make_node("Add", [program.output, program.output], ["doubled"])
            flatten.input[0] = "doubled"
            model.graph.node.insert(len(model.graph.node) - 2, doubled)
        return model

    monkeypatch.setattr(onnx_machine, "program_to_onnx", wrong)
    with pytest.raises(ComparisonFailed, match=r"ONNX graph of 'random' returns logits \[\[.* where the reference"):
        checked_onnx(one_of_each(), IMAGES)


def test_what_onnxruntime_cannot_load_is_named() -> None:
    with pytest.raises(BadInput, match="some file: onnxruntime cannot load it"):
        open_session(b"no model", origin="some file")


def test_a_session_that_fails_names_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("onnxruntime.InferenceSession", fail)
    with pytest.raises(BadInput, match=r"the integer ONNX of program 'random': onnxruntime cannot load it \(no such"):
        OnnxMachine(one_of_each())
