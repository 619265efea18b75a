"""Whole programs in one compiled call equal the reference in every stored tensor."""

import numpy as np
import pytest
from hypothesis import given, settings
from program_builder import one_of_each
from program_strategies import programs_with_images

from bnhw.dtypes import Array
from bnhw.fused import MODULES, FusedProgram
from bnhw.kernels.select import missing_for
from bnhw.machine import Machine
from bnhw.program import AddSaturating, Program

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
