"""Descriptor words: what `descriptor.vh` names, filled from the steps of a program."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from bnhw.hardware.arch import Arch
from bnhw.hardware.steps import (
    ArithmeticUnit,
    LookUpUnit,
    MainKind,
    Place,
    PostKind,
    Step,
    ThresholdUnit,
)
from bnhw.hardware.timing import post_cycles
from bnhw.hardware.trace import MemoryKind

MAINS = (MainKind.CONVOLVE, MainKind.SUM, MainKind.MAXIMUM, MainKind.MULTIPLY)
"""By the number in the field MAIN."""

POSTS = (PostKind.NONE, PostKind.ARITHMETIC, PostKind.THRESHOLD, PostKind.LOOKUP)
"""By the number in the field POST."""

SIGNED_BITS = (17, 34)
"""Fields of these widths are two's complement."""

ADDRESS = 1 << 24
"""Addresses count modulo this."""

FIELD = re.compile(r"^`define (\w+) (\d+) \+: (\d+)", re.MULTILINE)


@cache
def fields() -> Mapping[str, tuple[int, int]]:
    """(offset, width) of every field, by name."""
    text = (resources.files("bnhw.rtl") / "descriptor.vh").read_text(encoding="utf-8")
    return {name: (int(offset), int(width)) for name, offset, width in FIELD.findall(text)}


def pack(values: Mapping[str, int]) -> int:
    """The word that holds the values, 0 elsewhere. Raises ValueError with every value that does not fit its field."""
    word, problems = 0, []
    for name, value in values.items():
        offset, width = fields()[name]
        signed = width in SIGNED_BITS
        low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
        if not low <= value <= high:
            problems.append(f"{name} is {value}, a descriptor holds {low} to {high}")
        word |= (value & ((1 << width) - 1)) << offset
    if problems:
        raise ValueError("; ".join(problems))
    return word


def descriptor_words(arch: Arch, step: Step, *, last: bool) -> tuple[int, ...]:
    """The words of one step: its descriptor, and the block table where its blocks read different words.

    Raises ValueError with every number that a descriptor cannot hold.
    """
    entries = tuple(
        pack(
            {
                "ENTRY_WORDS": block.words - 1,
                "ENTRY_FIRST_WORD": block.first,
                "ENTRY_OFFSET": block.first * step.source.place.planes,
            }
        )
        for block in (step.convolve.blocks if step.convolve is not None and step.block_table else ())
    )
    values = {
        "LAST_STEP": int(last),
        "STEP_WORDS": step.descriptor_words,
        "BLOCK_TABLE": int(bool(entries)),
        "MINIMUM": max(post_cycles(arch, step), step.result.planes) - 1,
        **_main(arch, step),
        **_operand(step),
        **_post(arch, step),
        **_write(arch, step),
    }
    return (pack(values), *entries)


def _main(arch: Arch, step: Step) -> dict[str, int]:
    """The loop nest and the reads of operand a."""
    place, window, unit = step.source.place, step.window, step.convolve
    column_step = place.pixel_words * place.planes
    row_step = place.shape[1] * column_step
    top, left = window.pads[:2]
    width, words = (arch.simd, place.pixel_words) if unit else (arch.pe, place.blocks)
    return {
        "MAIN": MAINS.index(step.main),
        "MAIN_MEMORY": _memory(place),
        "OUT_ROWS": step.rows - 1,
        "OUT_COLUMNS": step.columns - 1,
        "BLOCKS": step.blocks - 1,
        "IN_ROWS": place.shape[0],
        "IN_COLUMNS": place.shape[1],
        "ROW_FIRST": -top,
        "COLUMN_FIRST": -left,
        "STRIDE_ROWS": window.stride[0],
        "STRIDE_COLUMNS": window.stride[1],
        "KERNEL_ROWS": window.kernel[0] - 1,
        "KERNEL_COLUMNS": window.kernel[1] - 1,
        "PHASES": unit.phases - 1 if unit else 0,
        "WORDS": place.pixel_words - 1 if unit else 0,
        "PLANES": place.planes - 1,
        "READ_BASE": (place.base - top * row_step - left * column_step) % ADDRESS,
        "ROW_STEP": row_step,
        "COLUMN_STEP": column_step,
        "OUT_ROW_STEP": window.stride[0] * row_step,
        "OUT_COLUMN_STEP": window.stride[1] * column_step,
        "LAST_WORD": words - 1,
        "LAST_LANES": place.shape[2] - (words - 1) * width,
        "SOURCE_BEFORE": step.source.first_block,
        "READ_OFFSET": step.source.offset,
        "BIPOLAR": int(unit.doubled) if unit else 0,
        "PADDING_ZERO": int(unit.zero_padding) if unit else 0,
        "PADDING_CODE": (1 if unit.doubled else unit.padding) if unit else 0,
        "WEIGHT_BASE": unit.base if unit else 0,
    }


def _operand(step: Step) -> dict[str, int]:
    """The reads of operand b, of MULTIPLY or the addition."""
    values = {"OPERAND": int(step.second is not None), "ADD": int(step.add is not None)}
    if step.add:
        values |= {"ADD_LOW": step.add.low, "ADD_HIGH": step.add.high}
    if step.second:
        place = step.second.place
        values |= {
            "OPERAND_MEMORY": _memory(place),
            "OPERAND_BASE": place.base,
            "OPERAND_STEP": 0 if step.second.one_pixel else place.pixel_words * place.planes,
            "OPERAND_PLANES": place.planes - 1,
            "OPERAND_OFFSET": step.second.offset,
        }
    return values


def _post(arch: Arch, step: Step) -> dict[str, int]:
    """The post unit and where its constants lie."""
    values = {"POST": POSTS.index(step.post_kind), "POST_CYCLES": post_cycles(arch, step) - 1}
    match step.post:
        case ArithmeticUnit() | ThresholdUnit() as unit:
            values |= {
                "CONSTANT_BASE": unit.base,
                "CONSTANT_STEP": unit.block_stride,
                "CLASSES": int(unit.position_classes is not None),
                "CLASS_BASE": unit.classes_base,
                "CLASS_STEP": unit.class_stride,
                "LOW": unit.low,
            }
            if isinstance(unit, ArithmeticUnit):
                values["HIGH"] = unit.high
        case LookUpUnit(table=table, base=base):
            entries = int(table.shape[1]).bit_length() - 1
            by_channel = len(table) > 1
            values |= {
                "CONSTANT_BASE": base,
                "CONSTANT_STEP": arch.pe << entries if by_channel else 0,
                "LOOKUP_CHANNELS": int(by_channel),
                "LOOKUP_SHIFT": entries,
            }
        case None:
            pass
    return values


def _write(arch: Arch, step: Step) -> dict[str, int]:
    """Where results go."""
    place = step.result
    banks = arch.groups if place.memory is MemoryKind.ACTIVATIONS else 1
    return {
        "WRITE_MEMORY": _memory(place),
        "WRITE_BASE": place.base + step.first_block // banks * place.planes,
        "WRITE_STEP": place.pixel_words * place.planes,
        "WRITE_BANK": step.first_block % banks,
        "WRITE_PLANES": place.planes - 1,
        "WRITE_OFFSET": step.write_offset,
        "WRITE_LANES": step.channels - (step.blocks - 1) * arch.pe,
    }


def _memory(place: Place) -> int:
    return int(place.memory is MemoryKind.RESIDUALS)
