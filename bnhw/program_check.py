"""The rules of a well-formed integer program.

A program may come from a file, so nothing about it is trusted: every name, shape, type, bound and constant is
checked here before any memory for tensors is allocated.
"""

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np

from bnhw.dtypes import MAX_TENSOR_BITS, Array, IntegerType
from bnhw.errors import InvalidProgram
from bnhw.ops import Window
from bnhw.options import RequantiseMode
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    LookUp,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    SumGlobal,
    Tensor,
    Threshold,
)
from bnhw.program_shapes import result_shape
from bnhw.requantise_constants import MAX_SUM, count_signed_digits

MAX_ELEMENTS = 1 << 28
"""No tensor of one image has more elements (1 GiB as int32)."""

MAX_WINDOW = 1 << 12
"""No kernel, stride or pad is larger."""

THRESHOLD_BITS = 33
"""Signed bits of a threshold: those of any accumulator, and one number beyond each end."""

THRESHOLD_LIMIT = 1 << (THRESHOLD_BITS - 1)

Range: TypeAlias = tuple[int, int]
"""The smallest and the largest integer that a tensor can hold."""


def check_program(program: Program, *, origin: str = "program") -> None:
    """Raise InvalidProgram with every broken rule; `origin` names the file in the message."""
    problems = [*_text_problems(program), *_tensor_problems(program)]
    if not problems:
        image = program.tensor[program.input].dtype
        ranges = {program.input: (image.low, image.high)}
        for number, instruction in enumerate(program.instructions):
            place = f"instruction {number} ({instruction.kind} -> {instruction.output!r})"
            problems += [f"{place}: {text}" for text in _instruction_problems(program, instruction, ranges)]
            declared = program.tensor[instruction.output].dtype
            ranges.setdefault(instruction.output, (declared.low, declared.high))  # where a problem hides the true one
        problems += _output_problems(program, ranges)
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise InvalidProgram(f"{origin} is not a well-formed program:\n{listing}\ncompile the model again")


def _text_problems(program: Program) -> list[str]:
    """Text goes to terminals, which obey control characters."""
    origin = program.provenance
    texts = [
        ("the program's name is", program.name),
        *(("a tensor's name is", tensor.name) for tensor in program.tensors),
        *((f"the source of {i.output!r} is", i.source) for i in program.instructions),
        *(("its provenance names", text) for text in (origin.producer, origin.source_name, origin.source_sha256)),
        *(("its provenance names the option", f"{name}={value}") for name, value in origin.options.items()),
        *(("its provenance notes", note) for note in origin.notes),
    ]
    return [f"{what} {text!r}, which is not printable" for what, text in texts if not text.isprintable()]


def _tensor_problems(program: Program) -> list[str]:
    problems = []
    if len(program.tensor) != len(program.tensors) or "" in program.tensor:
        problems.append("two tensors have one name, or one has none")
    for tensor in program.tensors:
        if min(tensor.shape) < 1 or tensor.size > MAX_ELEMENTS:
            problems.append(f"tensor {tensor.name!r} has shape {tensor.shape}")
        bits = tensor.dtype.bits + (not tensor.dtype.signed)  # the sign bit that an unsigned type leaves out
        if bits > MAX_TENSOR_BITS or not tensor.dtype.low <= tensor.zero_point <= tensor.dtype.high:
            problems.append(f"tensor {tensor.name!r}: {tensor.dtype} with zero point {tensor.zero_point}")
        if tensor.bipolar and (tensor.dtype != IntegerType(bits=1, signed=False) or tensor.zero_point):
            problems.append(f"tensor {tensor.name!r} is bipolar with {tensor.dtype}")
        if not 0 < tensor.scale < np.inf:
            problems.append(f"tensor {tensor.name!r} has scale {tensor.scale}")
    names = {program.input, program.output, *(i.output for i in program.instructions)}
    problems += [f"tensor {name!r} is not described" for name in sorted(names - program.tensor.keys())]
    if program.input in program.tensor and program.tensor[program.input].dtype != IntegerType(bits=8, signed=False):
        problems.append("the input is not uint8")
    return problems


def _output_problems(program: Program, made: Collection[str]) -> list[str]:
    if program.output == program.input or program.output not in made:
        return [f"the output {program.output!r} is made by no instruction"]
    shape = program.tensor[program.output].shape
    if shape[:2] != (1, 1):
        return [f"the output {program.output!r} has shape {shape}, expected (1, 1, classes)"]
    return []


def _instruction_problems(program: Program, instruction: Instruction, ranges: dict[str, Range]) -> list[str]:
    """Every broken rule of one instruction; the range of a well-formed one's result is added to `ranges`."""
    unknown = [name for name in instruction.inputs if name not in ranges]
    if unknown:
        return [f"reads {', '.join(map(repr, unknown))} before it is made"]
    if instruction.output in ranges:
        return ["its result is made twice"]
    inputs = [program.tensor[name] for name in instruction.inputs]
    result = program.tensor[instruction.output]
    if not inputs or (len(inputs) != 1 and not isinstance(instruction, AddSaturating | Join | Multiply)):
        return [f"has {len(inputs)} inputs"]
    missing = [name for name in _constant_names(instruction) if name not in program.constants]
    if missing:
        return [f"its constants {', '.join(map(repr, missing))} are missing"]
    problems = _own_problems(program, instruction, inputs, result)
    if problems:
        return problems
    expected = result_shape(instruction, inputs)
    if expected != result.shape:
        return [f"its result has shape {result.shape}, expected {expected}"]
    low, high = _result_range(program, instruction, inputs, [ranges[name] for name in instruction.inputs])
    if not result.dtype.low <= low <= high <= result.dtype.high:
        return [f"its result can be {low} to {high}, which is no {result.dtype}"]
    ranges[instruction.output] = low, high
    if isinstance(instruction, Requantise):
        return _sum_problems(program, instruction, ranges[instruction.inputs[0]])
    return []


def _constant_names(instruction: Instruction) -> list[str]:
    match instruction:
        case LookUp(table=table):
            return [table]
        case Convolve(weights=weights):
            return [weights]
        case Requantise():
            names = (instruction.multiplier, instruction.position_classes)
            return [instruction.offset, instruction.shift, *(name for name in names if name)]
        case Threshold():
            names = (instruction.falling, instruction.position_classes)
            return [instruction.thresholds, *(name for name in names if name)]
        case _:
            return []


def _own_problems(program: Program, instruction: Instruction, inputs: Sequence[Tensor], result: Tensor) -> list[str]:
    match instruction:
        case LookUp():
            return _look_up_problems(program.constants[instruction.table], inputs[0], result)
        case Convolve():
            return _convolve_problems(program, instruction, inputs[0])
        case Requantise():
            return _requantise_problems(program, instruction, inputs[0], result)
        case Threshold():
            return _threshold_problems(program, instruction, inputs[0], result)
        case AddSaturating():
            return _add_problems(instruction, inputs, result)
        case Multiply():
            return _multiply_problems(inputs, result)
        case PoolSum(window=window):
            return _window_problems(window, inputs[0])
        case PoolMaximum(window=window):
            return _maximum_problems(window, inputs[0], result)
        case PadChannels():
            return _pad_problems(instruction, inputs[0], result)
        case Join():
            codings = {(*_coding(t), t.shape[:2]) for t in (*inputs, result)}
            return [] if len(codings) == 1 else ["joins tensors of different codings or sizes"]
        case _:
            return []


def _coding(tensor: Tensor) -> tuple[IntegerType, float, int, bool]:
    return tensor.dtype, tensor.scale, tensor.zero_point, tensor.bipolar


def _maximum_problems(window: Window, source: Tensor, result: Tensor) -> list[str]:
    top, left, bottom, right = window.pads
    if _coding(source) != _coding(result):
        return ["its result has another coding than its input"]
    if max(top, bottom) >= window.kernel[0] or max(left, right) >= window.kernel[1]:
        return [f"its window {window} can hold nothing but padding"]
    return _window_problems(window, source)


def _pad_problems(pad: PadChannels, source: Tensor, result: Tensor) -> list[str]:
    if min(pad.before, pad.after) < 0:
        return ["pads by a negative number"]
    if _coding(source) != _coding(result) or source.bipolar:
        return ["its result has another coding than its input, or one without a zero"]
    return []


def _look_up_problems(table: Array, source: Tensor, result: Tensor) -> list[str]:
    if source.dtype.signed or source.dtype.bits > 12:
        return [f"looks up {source.dtype} codes; unsigned ones of at most 12 bits are expected"]
    if (
        table.dtype.kind not in "iu"
        or table.ndim != 2
        or table.shape[0] not in (1, source.shape[2])
        or table.shape[1] != source.dtype.high + 1
    ):
        return [f"its table is {table.dtype} of shape {table.shape}"]
    if table.min() < result.dtype.low or table.max() > result.dtype.high:
        return [f"its table holds numbers outside {result.dtype}"]
    return []


def _convolve_problems(program: Program, convolve: Convolve, source: Tensor) -> list[str]:
    shape = convolve.weight_shape
    stored = program.constants[convolve.weights]
    count = int(np.prod([int(n) for n in shape], dtype=object))
    if len(shape) != 4 or min(shape) < 1 or not 1 <= convolve.weight_bits <= 8:
        return [f"weights of shape {shape} with {convolve.weight_bits} bits"]
    if convolve.weight_bits == 1 and (stored.dtype != np.uint64 or stored.shape != (-(-count // 64),)):
        return [f"its {count} weight bits are stored as {stored.dtype}{stored.shape}"]
    if convolve.weight_bits > 1 and (stored.dtype != np.int8 or stored.shape != shape):
        return [f"its weights {shape} are stored as {stored.dtype}{stored.shape}"]
    limit = 1 << (convolve.weight_bits - 1)
    if convolve.weight_bits > 1 and (stored.min() < -limit or stored.max() >= limit):
        return [f"its weights {stored.min()} to {stored.max()} do not fit {convolve.weight_bits} bits"]
    groups = convolve.groups
    if groups < 1 or shape[0] % groups or shape[3] * groups != source.shape[2]:
        return [f"weights {shape} in {groups} groups do not fit {source.shape[2]} channels"]
    if convolve.window.kernel != shape[1:3]:
        return [f"its window is {convolve.window.kernel}, its weights are {shape[1:3]}"]
    return _window_problems(convolve.window, source)


def _window_problems(window: Window, source: Tensor) -> list[str]:
    numbers = (*window.kernel, *window.stride)
    if min(numbers) < 1 or min(window.pads) < 0 or max(*numbers, *window.pads) > MAX_WINDOW:
        return [f"has the window {window}"]
    (height, width, channels), (top, left, bottom, right) = source.shape, window.pads
    if min(window.output_size(height, width)) < 1:
        return [f"its window {window} does not fit {source.shape[:2]}"]
    if (top + height + bottom) * (left + width + right) * channels > MAX_ELEMENTS:
        return [f"with the padding of its window {window}, {source.shape} has more than {MAX_ELEMENTS} elements"]
    return []


def _requantise_problems(program: Program, instruction: Requantise, source: Tensor, result: Tensor) -> list[str]:
    offset, shift = (program.constants[name] for name in (instruction.offset, instruction.shift))
    multiplier = program.constants[instruction.multiplier] if instruction.multiplier else np.ones_like(offset)
    tables = (multiplier, offset, shift)
    if any(t.dtype.kind != "i" or t.ndim != 2 or t.shape != offset.shape for t in tables):
        return ["its constants differ in shape or are not signed integers"]
    if not offset.shape[0]:
        return ["has no rows of constants"]
    if offset.shape[1] not in (1, source.shape[2]):
        return [f"has constants for {offset.shape[1]} channels, its input has {source.shape[2]}"]
    if shift.min() < 0 or shift.max() > 62:
        return [f"shifts by {shift.min()} to {shift.max()}"]
    bits = instruction.multiplier_bits
    if not 1 <= bits <= 32:
        return [f"its multipliers have {bits} bits, 1 to 32 are expected"]
    limit = 1 << (bits - 1)
    if instruction.multiplier and (multiplier.min() < -limit or multiplier.max() >= limit):
        return [f"its multipliers {multiplier.min()} to {multiplier.max()} do not fit {bits} bits"]
    if instruction.mode is RequantiseMode.SHIFT and ((multiplier < 0) | (multiplier & (multiplier - 1) != 0)).any():
        return ["is in mode shift with multipliers that are no powers of two"]
    if instruction.mode is RequantiseMode.CSD and int(count_signed_digits(multiplier).max()) > instruction.digits:
        return [f"has multipliers of more than {instruction.digits} signed digits"]
    problems = _class_problems(program, instruction.position_classes, len(offset), source)
    return problems or _bound_problems(instruction.low, instruction.high, result)


def _class_problems(program: Program, name: str, rows: int, source: Tensor) -> list[str]:
    """Problems of a map of position classes, or of its absence, for constants of so many rows."""
    if not name:
        return [f"has {rows} rows of constants and no position classes"] if rows != 1 else []
    classes = program.constants[name]
    if classes.shape != source.shape[:2] or classes.dtype.kind not in "iu" or not _within(classes, rows):
        return ["its position classes do not fit"]
    return []


def _threshold_problems(program: Program, instruction: Threshold, source: Tensor, result: Tensor) -> list[str]:
    table = program.constants[instruction.thresholds]
    if table.dtype.kind != "i" or table.ndim != 3 or not table.size or table.shape[1] not in (1, source.shape[2]):
        return [f"its thresholds {table.dtype}{table.shape} are not signed integers (classes, channels or 1, levels)"]
    if table.min() < -THRESHOLD_LIMIT or table.max() >= THRESHOLD_LIMIT:
        return [f"its thresholds {table.min()} to {table.max()} do not fit {THRESHOLD_BITS} bits"]
    if (table[..., 1:] < table[..., :-1]).any():
        return ["its thresholds do not ascend"]
    if instruction.falling:
        falling = program.constants[instruction.falling]
        if falling.dtype != np.int8 or falling.shape not in ((1,), source.shape[2:]) or not _within(falling, 2):
            return [f"its falling channels {falling.dtype}{falling.shape} are not 0 or 1 for one or all channels"]
    problems = _class_problems(program, instruction.position_classes, len(table), source)
    return problems or _code_problems(instruction.low, instruction.low + table.shape[2], result)


def _code_problems(low: int, high: int, result: Tensor) -> list[str]:
    if not result.dtype.low <= low <= high <= result.dtype.high:
        return [f"gives {low} to {high}, its result is {result.dtype}"]
    return []


def _sum_problems(program: Program, requantise: Requantise, span: Range) -> list[str]:
    """Sums of a well-formed requantise step that reads integers of `span`."""
    offset = program.constants[requantise.offset]
    multiplier = program.constants[requantise.multiplier] if requantise.multiplier else np.ones_like(offset)
    bound = max(abs(span[0]), abs(span[1]))
    largest = max(abs(int(m)) * bound + abs(int(b)) for m, b in zip(multiplier.flat, offset.flat, strict=True))
    return ["its sums exceed 63 bits"] if largest >= MAX_SUM else []


def _within(classes: Array, rows: int) -> bool:
    return bool(classes.min() >= 0 and classes.max() < rows)


def _bound_problems(low: int, high: int, result: Tensor) -> list[str]:
    if not result.dtype.low <= low <= high <= result.dtype.high:
        return [f"clamps to [{low}, {high}], its result is {result.dtype}"]
    return []


def _add_problems(instruction: AddSaturating, inputs: Sequence[Tensor], result: Tensor) -> list[str]:
    codings = {(*_coding(t), t.shape) for t in (*inputs, result)}
    if len(inputs) != 2 or len(codings) != 1 or inputs[0].zero_point or inputs[0].bipolar:
        return ["adds tensors of different codings or shapes, or with a zero point"]
    if inputs[0].dtype.bits + (not inputs[0].dtype.signed) >= MAX_TENSOR_BITS:
        return [f"adds {inputs[0].dtype}; sums of {MAX_TENSOR_BITS} bits, sign included, take one less"]
    return _bound_problems(instruction.low, instruction.high, result)


def _multiply_problems(inputs: Sequence[Tensor], result: Tensor) -> list[str]:
    if len(inputs) != 2 or inputs[1].shape not in (inputs[0].shape, (1, 1, inputs[0].shape[2])):
        return [f"multiplies shapes {', '.join(str(t.shape) for t in inputs)}; two, alike or one number a channel"]
    if any(tensor.bipolar for tensor in inputs) or result.bipolar or result.zero_point:
        return ["multiplies 1-bit codes, or its result has a zero point"]
    return []


def _result_range(
    program: Program, instruction: Instruction, inputs: Sequence[Tensor], spans: Sequence[Range]
) -> Range:
    """What the result of a well-formed instruction can be, every partial sum and padding included."""
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    zero_point = inputs[0].zero_point
    below, above = min(low - zero_point, 0), max(high - zero_point, 0)
    match instruction:
        case Multiply():
            (a, b), (c, d) = (
                (span[0] - tensor.zero_point, span[1] - tensor.zero_point)
                for span, tensor in zip(spans, inputs, strict=True)
            )
            products = (a * c, a * d, b * c, b * d)
            return min(products), max(products)
        case LookUp(table=table):
            return int(program.constants[table].min()), int(program.constants[table].max())
        case Convolve():
            return _sum_range(program, instruction, (-1, 1) if inputs[0].bipolar else (below, above))
        case Requantise() | AddSaturating():
            return instruction.low, instruction.high
        case Threshold(thresholds=thresholds):
            return instruction.low, instruction.low + program.constants[thresholds].shape[2]
        case PoolSum(window=window):
            taps = window.kernel[0] * window.kernel[1]
            return below * taps, above * taps
        case SumGlobal():
            pixels = inputs[0].shape[0] * inputs[0].shape[1]
            return below * pixels, above * pixels
        case PadChannels():
            return min(low, zero_point), max(high, zero_point)
        case _:
            return low, high


def _sum_range(program: Program, convolve: Convolve, values: Range) -> Range:
    """The range over the actual weights of sums of weight * value with values in `values`, which contains 0."""
    rows = program.weights_of(convolve).reshape(convolve.weight_shape[0], -1)
    positive = np.maximum(rows, 0).sum(axis=1, dtype=np.int64).astype(object)  # Python integers never wrap
    negative = np.minimum(rows, 0).sum(axis=1, dtype=np.int64).astype(object)
    low, high = values
    return int((positive * low + negative * high).min()), int((positive * high + negative * low).max())
