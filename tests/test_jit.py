"""Functions that others are made of, which have no machine code of their own."""

import pytest
from llvmlite import binding
from numba import int64

from bnhw.kernels.jit import entry, inline, llvm_text, optimise, tensor_in


@inline
def twice(number: int) -> int:
    """A part."""
    return 2 * number


@inline
def four_times(number: int) -> int:
    """A part of a part."""
    return twice(twice(number))


@entry(int64)
def eight_times(number: int) -> int:
    """What is called."""
    return twice(four_times(number))


def test_entries_are_made_of_parts() -> None:
    assert eight_times(5) == 40


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2), (1, 2, 3)])
def test_a_part_cannot_be_called(arguments: tuple[int, ...]) -> None:
    eight_times(1)  # compiled now
    with pytest.raises(TypeError):
        twice(*arguments)


def test_a_text_defines_one_symbol_and_can_be_optimised() -> None:
    text = llvm_text("bnhw_test", (tensor_in(int64, 1), int64), lambda table, number: four_times(number + table[0]))
    module = binding.parse_assembly(text)
    machine = binding.Target.from_default_triple().create_target_machine(opt=3, jit=True)
    optimise(module, machine)
    assert not module.get_function("bnhw_test").is_declaration
    assert "call" not in str(module.get_function("bnhw_test")), "parts are inlined"
