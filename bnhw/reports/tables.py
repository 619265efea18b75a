"""Reports, programs and verifications as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnhw.ops import Window
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    LookUp,
    Multiply,
    PoolMaximum,
    PoolSum,
    Program,
    Requantise,
    Tensor,
    Threshold,
)
from bnhw.reports.engine_tables import engine_rows, engine_tables
from bnhw.reports.report import Report
from bnhw.reports.steps import CodeStep, code_steps, summarise_costs


def format_bits(bits: int) -> str:
    """Bits with separators, and as bytes in a handy unit."""
    size = bits / 8
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{bits:,} bits ({size:.1f} {unit})" if unit != "B" else f"{bits:,} bits"
        size /= 1000
    raise AssertionError


def format_shape(shape: tuple[int, ...]) -> str:
    """Height x width x channels."""
    return "x".join(map(str, shape))


def summary_table(title: str, rows: list[tuple[str, str]]) -> Table:
    """Two columns: what, and how much."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def report_tables(report: Report) -> RenderableType:
    """The summary, what an engine makes of the program, the table of instructions, and the actions of one image."""
    totals = report.totals
    rows = [
        ("MACs per image", f"{totals.macs_full:,} full, {totals.macs_trimmed:,} without padded taps"),
        ("multiplications in the array", f"{report.array_multiplications:,} per image"),
        ("multiplications in all", f"{totals.multipliers:,} per image"),
        ("weights", format_bits(totals.weight_bits)),
        ("constants", format_bits(totals.constant_bits)),
        ("peak live activations", format_bits(report.peak_activation_bits)),
    ]
    run = report.engine
    if run is not None:
        rows += engine_rows(run)
    parts: list[RenderableType] = [summary_table(f"Report of {report.program.name}", rows), Text()]
    if run is not None:
        parts += [*engine_tables(run, report.steps), Text()]
    return Group(*parts, _layer_table(report), Text(), _action_table(report))


def _layer_table(report: Report) -> Table:
    table = Table(
        title="Per instruction and image: operations, and storage in bits",
        title_justify="left",
        header_style="bold",
        box=None,
    )
    table.add_column("kind", no_wrap=True)
    table.add_column("result", overflow="fold")
    for name in ("shape", "type", "MACs", "multiplies", "weights", "constants", "live"):
        table.add_column(name, justify="right")
    for layer, live in zip(report.layers, report.live_activation_bits, strict=True):
        tensor = report.program.tensor[layer.instruction.output]
        counts = layer.counts
        table.add_row(
            layer.instruction.kind,
            layer.instruction.output,
            format_shape(tensor.shape),
            str(tensor.dtype),
            f"{counts.macs_trimmed:,}" if counts.macs_trimmed else "",
            f"{counts.multipliers:,}" if counts.multipliers else "",
            f"{counts.weight_bits:,}" if counts.weight_bits else "",
            f"{counts.constant_bits:,}" if counts.constant_bits else "",
            f"{live:,}",
        )
    return table


def _action_table(report: Report) -> Table:
    table = Table(title="Operations per image", title_justify="left", header_style="bold", box=None)
    table.add_column("operation and operand bits")
    table.add_column("count", justify="right")
    for action in sorted(report.totals.actions, key=lambda a: (a.kind.value, a.widths)):
        table.add_row(action.name, f"{report.totals.actions[action]:,}")
    return table


def program_tables(program: Program) -> RenderableType:
    """`bnhw info`: provenance, options, every instruction with its widths, and what each step costs."""
    origin = program.provenance
    weights = sum(program.weight_storage_bits(i) for i in program.instructions if isinstance(i, Convolve))
    image, output = program.tensor[program.input], program.tensor[program.output]
    rows = [
        ("compiled by", origin.producer),
        ("from", f"{origin.source_name} (sha256 {origin.source_sha256[:16]}...)"),
        ("image", f"{format_shape(image.shape)} {image.dtype}"),
        ("logits", f"{output.shape[2]} x {output.dtype}, real = {output.scale:.9g} x integer"),
        ("weights", format_bits(weights)),
        *((f"option {name}", value) for name, value in origin.options.items()),
        *(("note", note) for note in origin.notes),
    ]
    steps = code_steps(program)
    parts: list[RenderableType] = [summary_table(f"Program {program.name}", rows), Text(), _instruction_table(program)]
    if steps:
        parts += [Text(), _step_table(steps), Text(summarise_costs(steps))]
    return Group(*parts)


def _step_table(steps: Sequence[CodeStep]) -> Table:
    table = Table(
        title="Steps that make codes: operations for one number, bits of constants, and why it is not cheaper",
        title_justify="left",
        header_style="bold",
        box=None,
    )
    table.add_column("result", overflow="fold")
    table.add_column("type", justify="right")
    table.add_column("mode", no_wrap=True)
    for name in ("mult", "add", "shift", "comp", "bits"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why not cheaper", overflow="fold")
    for step in steps:
        table.add_row(
            step.instruction.output,
            step.type,
            step.mode,
            *(_mean(step.for_one(name)) for name in ("multiplications", "additions", "shifters", "comparators")),
            f"{step.counts.constant_bits:,}" if step.counts.constant_bits else "",
            "; ".join(filter(None, (step.reason, step.digits_text))),
        )
    return table


def _mean(count: float) -> str:
    """A whole number as it is, others to two places; nothing for 0."""
    return f"{count:.2f}".rstrip("0").rstrip(".") if count else ""


def _instruction_table(program: Program) -> Table:
    table = Table(
        title="Instructions: type of the result @ its zero point, 0 if none is named",
        title_justify="left",
        header_style="bold",
        box=None,
    )
    table.add_column("#", justify="right")
    table.add_column("kind", no_wrap=True)
    table.add_column("result", overflow="fold")
    table.add_column("details", overflow="fold")
    for name in ("shape", "type", "scale"):
        table.add_column(name, justify="right")
    for number, instruction in enumerate(program.instructions):
        tensor = program.tensor[instruction.output]
        table.add_row(
            str(number),
            instruction.kind,
            instruction.output,
            _details(program, instruction),
            format_shape(tensor.shape),
            _type(tensor),
            f"{tensor.scale:.4g}",
        )
    return table


def _type(tensor: Tensor) -> str:
    if tensor.bipolar:
        return "bipolar"
    return f"{tensor.dtype} @{tensor.zero_point}" if tensor.zero_point else str(tensor.dtype)


def _details(program: Program, instruction: Instruction) -> str:
    match instruction:
        case Convolve(window=window, weight_bits=bits, groups=groups):
            grouped = f", {groups} groups" if groups > 1 else ""
            return f"{bits}-bit {_window_text(window)}{grouped}"
        case PoolSum(window=window) | PoolMaximum(window=window):
            return _window_text(window)
        case Requantise(mode=mode, offset=offset, low=low, high=high):
            rows, sets = program.constants[offset].shape
            divisors = f", {rows} divisors" if rows > 1 else ""
            number = {"multiply": f":{instruction.multiplier_bits}", "csd": f":{instruction.digits}"}.get(
                mode.value, ""
            )
            return f"{mode.value}{number}, {_number(sets, 'set')}{divisors}, clamp {low}..{high}"
        case Threshold(thresholds=name):
            rows, sets, levels = program.constants[name].shape
            divisors = f", {rows} divisors" if rows > 1 else ""
            return f"threshold, {_number(levels, 'level')}, {_number(sets, 'set')}{divisors}"
        case AddSaturating(low=low, high=high):
            return f"clamp {low}..{high}"
        case Multiply(inputs=names):
            first, second = (program.tensor[name] for name in names)
            alike = "" if first.shape == second.shape else ", one factor a channel"
            return f"{first.dtype} x {second.dtype}{alike}, {first.size:,} multiplications"
        case LookUp(table=name):
            rows, entries = program.constants[name].shape
            return f"{_number(rows, 'table')} of {entries}"
        case _:
            return ""


def _window_text(window: Window) -> str:
    down, across = window.stride
    stride = f"{down}" if down == across else f"{down}x{across}"
    return f"{format_shape(window.kernel)}, stride {stride}, pads {','.join(map(str, window.pads))}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
