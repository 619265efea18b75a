"""Whole programs in one compiled call equal the reference in every stored tensor."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from program_builder import one_of_each
from program_strategies import programs_with_images

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.fused import MODULES, FusedProgram
from bnhw.kernels import select
from bnhw.kernels.select import missing_for
from bnhw.machine import Machine
from bnhw.plan_order import unplanned_kinds
from bnhw.program import AddSaturating, Instruction, Program

CHOICES = [choice for choice in MODULES if not missing_for(choice)]


def assert_equal_to_reference(program: Program, images: Array, kernels: str) -> None:
    images = np.ascontiguousarray(images)
    fused = FusedProgram(program, kernels, store_all=True)
    found, found_clamped = fused.tensor_values(images)
    clamped: dict[str, int] = {}
    logits = images
    for step in Machine(program, "reference").steps(images):
        name = step.instruction.output
        np.testing.assert_array_equal(found[name], step.value, err_msg=f"{step.instruction.kind} {name}")
        if isinstance(step.instruction, AddSaturating):
            clamped[name] = step.saturations
        logits = step.value if name == program.output else logits
    assert found_clamped == clamped
    for plan in (fused, FusedProgram(program, kernels)):
        result, counts = plan.run(images)
        np.testing.assert_array_equal(result, logits.reshape(len(images), -1))
        assert counts == clamped


@pytest.mark.parametrize("kernels", CHOICES)
@settings(max_examples=100, deadline=None)
@given(case=programs_with_images())
def test_every_tensor_of_random_programs_is_that_of_the_reference(kernels: str, case: tuple[Program, Array]) -> None:
    assert_equal_to_reference(*case, kernels)


@pytest.mark.parametrize("kernels", CHOICES)
def test_every_kind_of_instruction(kernels: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)
    assert_equal_to_reference(one_of_each(), images, kernels)


class Unknown(Instruction):
    """A kind of instruction that no plan knows."""


def test_programs_that_no_plan_can_hold_run_instruction_by_instruction() -> None:
    program = one_of_each()
    first, *others = program.instructions
    unknown = Unknown(inputs=(first.output,), output="more")
    larger = replace(program, instructions=(first, unknown, *others))
    assert unplanned_kinds(program) == ()
    assert unplanned_kinds(larger) == ("Unknown",)
    assert Machine(larger, "auto").fused is None
    for kernels in CHOICES:
        with pytest.raises(BadInput, match=f"'{kernels}' cannot run the instructions Unknown; choose auto"):
            Machine(larger, kernels)


def test_an_interpreter_is_not_loaded_where_the_machine_lacks_its_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "host_features", frozenset)
    for kernels in set(MODULES) - {"portable"}:
        with pytest.raises(ValueError, match=f"cannot run '{kernels}', it lacks"):
            FusedProgram(one_of_each(), kernels)
    assert Machine(one_of_each(), "auto").fused is None


def test_several_threads_share_a_planned_program() -> None:
    program = one_of_each()
    images = np.random.default_rng(2).integers(0, 256, (64, 5, 4, 2)).astype(np.uint8)
    expected = Machine(program, "reference").run(images)
    for kernels in CHOICES:
        fused = FusedProgram(program, kernels)
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda at: fused.run(images[at : at + 1]), range(64)))  # noqa: B023  (used at once)
        np.testing.assert_array_equal(np.concatenate([logits for logits, _ in parts]), expected.logits)
