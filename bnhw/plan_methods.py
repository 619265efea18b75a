"""Which way each convolution of a plan goes: the fastest that is exact and that an interpreter knows."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from bnhw.plan_interpreter import Interpreter
from bnhw.plan_tabulated import choose_tabulated
from bnhw.plan_winograd import choose_transformed
from bnhw.plan_words import choose_words
from bnhw.program import Convolve, Program

Method: TypeAlias = Literal["counted", "tabulated", "transformed", "multiplied"]
"""Bits are counted (`bnhw.plan_words`), sums of channels looked up (`bnhw.plan_tabulated`), patches transformed
(`bnhw.plan_winograd`), or codes multiplied with weights (`bnhw.plan_convolution`)."""


def choose_methods(program: Program, interpreter: Interpreter) -> tuple[Mapping[str, Method], Mapping[str, int]]:
    """Of every convolution, by the tensor it writes, the method; and of those whose bits are counted, the planes."""
    transformed = choose_transformed(program) if interpreter.transforms else frozenset()
    tabulated = choose_tabulated(program, transformed) if interpreter.tabulates else frozenset()
    limits = dict.fromkeys(transformed, interpreter.transformed_planes)
    limits |= dict.fromkeys(tabulated, interpreter.tabulated_planes)
    words = choose_words(program, interpreter.most_planes, interpreter.word_channels, limits)
    methods: dict[str, Method] = {
        instruction.output: "multiplied" for instruction in program.instructions if isinstance(instruction, Convolve)
    }
    methods |= dict.fromkeys(transformed, "transformed")
    methods |= dict.fromkeys(tabulated, "tabulated")
    methods |= dict.fromkeys(words, "counted")
    return methods, words
