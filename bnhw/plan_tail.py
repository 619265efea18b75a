"""The passes of a tail over sums in the cache: its operations, the commonest sequences of them in one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bnhw.kernels.fused import fields
from bnhw.plan_constants import Constants, add_constants, requantise_constants, threshold_constants
from bnhw.plan_order import TailOperation
from bnhw.plan_storage import Form
from bnhw.program import AddSaturating, Program, Requantise, Threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One operation as the interpreter knows it, see `bnhw.kernels.fused.fields`.

    tensor: read or written. total, codes: tensors that a residual pass writes, or empty. addition: the name that
    clamped sums are counted for, or empty.
    """

    kind: int
    source: int
    target: int
    tensor: str = ""
    constants: Constants | None = None
    total: str = ""
    codes: str = ""
    addition: str = ""


def fuse_passes(program: Program, tail: Sequence[TailOperation], forms: Mapping[str, Form]) -> Iterator[Pass]:
    """Passes that together do what the operations of a tail do one by one.

    | operations | one pass where |
    |---|---|
    | requantise, add, (store,) requantise, store at the end | 32 bits do, the residual has 2 bytes, the codes 1 |
    | requantise, store, and nothing else reads the codes | 32 bits do, codes have 1 or 2 bytes |
    | the same in less time | it adds and shifts alone, codes have 1 byte, of which 0 is the lowest |
    """
    passes = [_single(program, operation) for operation in tail]
    at = 0
    while at < len(passes):
        for length, fuse in ((5, _residual), (4, _residual), (2, _requantise_store)):
            part = passes[at : at + length]
            fused = fuse(part, passes[at + length :], forms) if len(part) == length else None
            if fused is not None:
                yield fused
                at += length
                break
        else:
            yield passes[at]
            at += 1


def _single(program: Program, operation: TailOperation) -> Pass:
    source, target = operation.source, operation.target
    match operation.instruction:
        case None:
            kind = fields.LOAD if operation.load else fields.STORE
            return Pass(kind=kind, tensor=operation.tensor, source=source, target=target)
        case AddSaturating() as add:
            tables = add_constants(add, program.tensor[add.output])
            constants = Constants(kind=fields.ADD, tables=tables, classes=None)
            return Pass(
                kind=fields.ADD,
                tensor=operation.other,
                constants=constants,
                addition=add.output,
                source=source,
                target=target,
            )
        case Requantise() as requantise:
            constants = requantise_constants(program, requantise)
            return Pass(kind=constants.kind, constants=constants, source=source, target=target)
        case Threshold() as threshold:
            constants = threshold_constants(program, threshold)
            return Pass(kind=constants.kind, constants=constants, source=source, target=target)


def _is_narrow(step: Pass) -> bool:
    """Whether a requantise step takes 32 bits and one class of constants."""
    return step.kind == fields.REQUANTISE and step.constants is not None and step.constants.classes is None


def _requantise_store(part: Sequence[Pass], after: Sequence[Pass], forms: Mapping[str, Form]) -> Pass | None:
    requantise, store = part
    if not (_is_narrow(requantise) and store.kind == fields.STORE and store.source == requantise.target):
        return None
    if _is_read(requantise.target, after) or forms[store.tensor].size == 4:
        return None
    kind, constants, form = fields.REQUANTISE_STORE, requantise.constants, forms[store.tensor]
    shifts = constants.shifts if constants is not None else None
    if shifts is not None and (form.size, form.bias, form.shift) == (1, 0, 0):
        kind = fields.SHIFT_STORE
        constants = Constants(kind=kind, tables=shifts.tables, classes=None, levels=shifts.high + 256 * shifts.low)
    return Pass(kind=kind, source=requantise.source, target=0, tensor=store.tensor, constants=constants)


def _is_read(slot: int, after: Sequence[Pass]) -> bool:
    """Whether a slot is read before it is written again."""
    for step in after:
        if step.kind != fields.LOAD and step.source == slot:
            return True
        if step.kind != fields.STORE and step.target == slot:
            return False
    return False


def _residual(part: Sequence[Pass], after: Sequence[Pass], forms: Mapping[str, Form]) -> Pass | None:
    first, add, *stores, second, last = part
    kinds = [store.kind for store in (*stores, last)]
    if after or not (_is_narrow(first) and add.kind == fields.ADD and _is_narrow(second)):
        return None
    if any(kind != fields.STORE for kind in kinds):
        return None
    slots = [(step.source, step.target) for step in (first, add, second)]
    follows = slots[0][1] == slots[1][0] and slots[1][1] == slots[2][0] and last.source == slots[2][1]
    if second.constants is None or second.constants.levels or first.constants is None:
        return None
    if not follows or any(store.source != add.target for store in stores):
        return None
    wide = [add.tensor, *(store.tensor for store in stores)]
    if any(forms[name].size != 2 for name in wide) or forms[last.tensor].size != 1:
        return None
    low_bits = first.constants.levels
    parts = [step.constants.tables for step in (first, add, second) if step.constants is not None]
    return Pass(
        kind=fields.RESIDUAL,
        source=first.source,
        target=0,
        tensor=add.tensor,
        constants=Constants(kind=fields.RESIDUAL, tables=np.concatenate(parts, axis=2), classes=None, levels=low_bits),
        total=stores[0].tensor if stores else "",
        codes=last.tensor,
        addition=add.addition,
    )
