"""The command line: `bnhw COMMAND`. Thin: every command is one function of the library and its presentation.

Exit codes: 0 done, 1 a bug of ours (with traceback), 2 the user's input (one message), 3 a comparison that did not
hold. Results go to stdout, progress and messages to stderr; `--json` prints JSON and nothing else on stdout.
"""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from bnhw.errors import BadInput, BnhwError, ComparisonFailed
from bnhw.options import DEFAULT_MULTIPLIER_BITS, CompileOptions

app = typer.Typer(
    help="Compile networks with 1-bit weights to integer programs, run them bit-exactly, and count what they cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

MIN_WIDTH = 100
"""Tables keep their columns apart even on a narrow terminal."""

FILE_WIDTH = 160
"""Where the output is a file, names need not be folded."""

DEFAULTS = CompileOptions()


def _option(metavar: str, text: str, *names: str, least: float | None = None, most: float | None = None) -> Any:
    """An option without names is named like its parameter."""
    return typer.Option(*names, metavar=metavar, help=text, min=least, max=most)


Model = Annotated[Path, typer.Argument(metavar="MODEL.bnhw", help="A compiled program.", show_default=False)]
OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.", show_default=False)]
ImageFile = Annotated[
    Path, _option("FILE", "Images: .npz with `images` (and `labels`), or .npy; uint8, NHWC or NHW.", "--images")
]
Labels = Annotated[Path | None, _option("FILE", "Labels: .npy, or .npz with `labels`.", "--labels")]
Skip = Annotated[int, _option("N", "Leave out the first so many images.", "--skip", least=0)]
Limit = Annotated[int | None, _option("N", "Use at most so many images.", "--limit", least=1)]
Threads = Annotated[int, _option("N", "Worker threads; images are split over them.", "--threads", least=1, most=256)]
Kernels = Annotated[
    str | None,
    _option("CHOICE", "auto, reference, multiplexer, bit_serial [default: $BNHW_KERNELS or auto].", "--kernels"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def main() -> None:
    """Entry point of the `bnhw` command."""
    try:
        app(prog_name="bnhw")
    except BnhwError as error:
        Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}"), highlight=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        sys.exit(0)


def show(content: RenderableType) -> None:
    """Print a result to stdout."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        print(_as_text(content), end="")
        return
    console.width = max(console.width, MIN_WIDTH)
    console.print(content)


def say(message: str) -> None:
    """Print a message to stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(message))


def show_json(value: Any) -> None:
    """Print JSON to stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the time left; silent where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@app.command()
def demo(
    output: Annotated[Path, _option("FOLDER", "Folder for the files made.", "--output", "-o")] = Path("bnhw-demo"),
) -> None:
    """Run the whole flow on a small trained 1-bit network. The network and real images are shipped."""
    from bnhw.demo.flow import run_demo
    from bnhw.demo.table import demo_table

    show(demo_table(run_demo(output, say)))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="safetensors, .pt, or a published .mat.")],
    output: Annotated[Path, _option("FILE", "The ONNX file to write.", "--output", "-o")],
) -> None:
    """Turn a trained checkpoint into ONNX. Needs the extra `torch`."""
    from bnhw.export.checkpoints import load_checkpoint
    from bnhw.export.to_onnx import to_onnx

    if output.suffix != ".onnx":
        raise BadInput(f"{output}: a model has the ending .onnx")
    network = load_checkpoint(checkpoint)
    to_onnx(network, output, input_shape=network.config.input_shape)
    say(f"wrote {output}: {network.config.weight_count:,} weights, {output.stat().st_size:,} bytes")


@app.command()
def check(model: OnnxModel, as_json: Json = False) -> None:
    """List all that stands in the way of compiling a model. Exit code 0 if nothing does."""
    from bnhw.compiler import check as check_model
    from bnhw.errors import UnsupportedModel

    try:
        checked = check_model(model)
    except UnsupportedModel as error:
        if as_json:
            show_json({"model": str(model), "compiles": False, "problems": list(error.problems), "notes": []})
            raise typer.Exit(error.exit_code) from None
        raise
    if as_json:
        show_json({"model": str(model), "compiles": True, "problems": [], "notes": list(checked.notes)})
        return
    for note in checked.notes:
        say(f"note: {note}")
    show(f"{model}: nothing stands in the way of compiling it")


@app.command(name="compile")
def compile_command(
    model: OnnxModel,
    output: Annotated[Path, _option("FILE", "The program to write (.bnhw).", "--output", "-o")],
    calibrate: Annotated[Path, _option("FILE", "Images that show the ranges of activations.", "--calibrate")],
    calibrate_limit: Annotated[int, _option("N", "Calibrate on at most so many images.", least=1)] = 200,
    act_bits: Annotated[int, _option("N", "Bits of activations, 2..8.")] = DEFAULTS.act_bits,
    requantise: Annotated[
        str, _option("MODE", "shift, csd:N (sums of N signed powers of two), or multiply:M (M-bit multipliers).")
    ] = f"multiply:{DEFAULT_MULTIPLIER_BITS}",
    weight_bits: Annotated[int, _option("N", "Bits of weights that are not 1-bit, 2..8.")] = DEFAULTS.weight_bits,
    input_bits: Annotated[int, _option("N", "Bits of the normalised image, 2..12.")] = DEFAULTS.input_bits,
    residual_bits: Annotated[int, _option("N", "Bits of the residual stream, 8..24.")] = DEFAULTS.residual_bits,
    input_mean: Annotated[
        str, _option("NUMBERS", "The model takes (pixel - mean) / std: one number or one a colour.")
    ] = "0",
    input_std: Annotated[str, _option("NUMBERS", "As --input-mean; 255 for a model of pixels 0..1.")] = "1",
) -> None:
    """Compile an ONNX model to an integer program. Checks itself before it writes."""
    from bnhw.compiler import compile_model
    from bnhw.images import read_images
    from bnhw.reports.tables import format_bits

    if output.suffix != ".bnhw":
        raise BadInput(f"{output}: a program has the ending .bnhw")
    options = CompileOptions(
        act_bits=act_bits,
        weight_bits=weight_bits,
        input_bits=input_bits,
        residual_bits=residual_bits,
        requantise=requantise,
        input_mean=_numbers("--input-mean", input_mean),
        input_std=_numbers("--input-std", input_std),
    )
    images = read_images(calibrate).part(0, calibrate_limit).pixels
    with progress_bar("calibrating", len(images)) as progress:
        program = compile_model(model, images, options, progress=progress)
    program.save(output)
    for note in program.provenance.notes:
        say(f"note: {note}")
    bits = _weight_bits(program)
    say(f"wrote {output}: {len(program.instructions)} instructions, weights {format_bits(bits)}")


def _weight_bits(program: Any) -> int:
    from bnhw.count import count_program, total

    return total(count_program(program)).weight_bits


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise BadInput(
            f"{option} is {text!r}; numbers separated by commas are expected, such as 125.3,123.0,113.9"
        ) from None


@app.command()
def info(model: Model, as_json: Json = False) -> None:
    """Print a program's instructions, sizes, options and origin."""
    import bnhw
    from bnhw.program_file import describe_program
    from bnhw.reports.tables import program_tables

    program = bnhw.load(model)
    if as_json:
        show_json(describe_program(program))
    else:
        show(program_tables(program))


@app.command()
def run(
    model: Model,
    images: ImageFile,
    labels: Labels = None,
    skip: Skip = 0,
    limit: Limit = None,
    threads: Threads = 1,
    kernels: Kernels = None,
    output: Annotated[Path | None, _option("FILE", "Write logits and classes (.npz).", "--output", "-o")] = None,
    as_json: Json = False,
) -> None:
    """Execute a program bit-exactly. Prints accuracy (with labels) and images per second."""
    import bnhw
    from bnhw.machine import Machine
    from bnhw.results import run_summary, write_result

    if output is not None and output.suffix != ".npz":
        raise BadInput(f"{output}: results are written as .npz")
    program = bnhw.load(model)
    chosen = _load_images(program, images, labels, skip, limit)
    machine = Machine(program, _kernel_choice(kernels))
    with progress_bar("running", len(chosen.pixels)) as progress:
        result = machine.run(chosen.pixels, threads=threads, progress=progress)
    if output is not None:
        write_result(output, result)
    _show_summary(f"{model}", run_summary(result, chosen.labels, threads), as_json)


@app.command()
def verify(
    model: Model,
    images: ImageFile,
    against: Annotated[str, _option("EXECUTOR", "Executors to compare with: reference.")] = "reference",
    float_model: Annotated[
        Path | None, _option("MODEL.onnx", "The ONNX model: adds agreement and signal-to-noise.", "--float")
    ] = None,
    labels: Labels = None,
    skip: Skip = 0,
    limit: Limit = None,
    tensors: Annotated[int, _option("N", "Compare every tensor of so many images.", least=1)] = 4,
    min_agreement: Annotated[
        float,
        _option("PERCENT", "With --float: fail (exit 3) below this per cent of equal classes.", least=0, most=100),
    ] = 0.0,
    threads: Threads = 1,
    kernels: Kernels = None,
    as_json: Json = False,
) -> None:
    """Compare every intermediate integer of two executors. With --float, also the classes with the float model's."""
    import bnhw
    from bnhw.compare import first_difference, measure_fidelity
    from bnhw.float_model import float_logits
    from bnhw.machine import Machine
    from bnhw.results import fidelity_summary

    if min_agreement and float_model is None:
        raise BadInput("--min-agreement compares with the float model; name it with --float MODEL.onnx")
    if against != "reference":
        raise BadInput(f"--against {against!r} is not available; choose reference")
    program = bnhw.load(model)
    chosen = _load_images(program, images, labels, skip, limit)
    machine = Machine(program, _kernels_to_verify(kernels))
    part = chosen.pixels[:tensors]
    with progress_bar("comparing", len(part)) as progress:
        comparison = first_difference(Machine(program, "reference"), machine, part, progress)
    if comparison.difference is not None:
        raise ComparisonFailed(f"{model}: {comparison.difference}")
    summary: dict[str, Any] = {
        "bit_exact": True,
        "against": against,
        "images_compared": len(part),
        "tensors_compared": comparison.tensors,
        "integers_compared": comparison.integers,
    }
    if float_model is not None:
        with progress_bar("running", len(chosen.pixels)) as progress:
            result = machine.run(chosen.pixels, threads=threads, progress=progress)
        reals = float_logits(float_model, program, chosen.pixels)
        fidelity = measure_fidelity(result.logits, result.scale, reals, chosen.labels)
        summary |= fidelity_summary(fidelity)
    _show_summary(f"{model}", summary, as_json)
    if summary.get("agreement_percent", 100.0) < min_agreement:
        raise ComparisonFailed(
            f"{model}: {summary['agreement_percent']:.2f} % of the classes equal the float model's, "
            f"at least {min_agreement} % were asked for"
        )


@app.command()
def report(
    model: Model,
    output_format: Annotated[str, _option("FORMAT", "text or json.", "--format")] = "text",
    output: Annotated[Path | None, _option("FILE", "Write to this file instead.", "--output", "-o")] = None,
) -> None:
    """Count operations, multipliers and storage. Per instruction and in total."""
    import bnhw
    from bnhw.reports.tables import report_tables

    if output_format not in ("text", "json"):
        raise BadInput(f"--format {output_format!r} is not available; choose text or json")
    built = bnhw.report(bnhw.load(model))
    text = json.dumps(built.as_json(), indent=2) + "\n" if output_format == "json" else None
    if output is not None:
        from bnhw.files import write_atomically

        write_atomically(output, (text or _as_text(report_tables(built))).encode())
        say(f"wrote {output}")
    elif text is not None:
        print(text, end="")
    else:
        show(report_tables(built))


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options before the command."""
    if version:
        from bnhw.version import __version__

        print(f"bnhw {__version__}")
        raise typer.Exit


def _as_text(content: RenderableType) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=FILE_WIDTH, highlight=False, markup=False, emoji=False).print(content)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _kernel_choice(kernels: str | None) -> str:
    from bnhw.kernels.select import default_choice

    try:
        return kernels or default_choice()
    except ValueError as error:
        raise BadInput(str(error)) from error


def _kernels_to_verify(kernels: str | None) -> str:
    from bnhw.kernels.select import KERNEL_CHOICES, KERNELS_VARIABLE

    choice = _kernel_choice(kernels)
    if choice == "reference":
        origin = f"--kernels {choice}" if kernels else f"{KERNELS_VARIABLE}={choice}"
        others = ", ".join(other for other in KERNEL_CHOICES if other != choice)
        raise BadInput(f"{origin}: it would compare the reference with itself; choose one of {others} with --kernels")
    return choice


def _load_images(program: Any, path: Path, labels: Path | None, skip: int, limit: int | None) -> Any:
    from bnhw.images import read_images, read_labels

    images = read_images(path)
    if labels is not None:
        images = images.with_labels(read_labels(labels, len(images.pixels)))
    if skip >= len(images.pixels):
        raise BadInput(f"{path}: --skip {skip} leaves none of its {len(images.pixels)} images")
    classes = program.tensor[program.output].shape[2]
    if images.labels is not None and not 0 <= images.labels.min() <= images.labels.max() < classes:
        raise BadInput(
            f"{labels or path}: labels are {images.labels.min()} to {images.labels.max()}; the program has the classes "
            f"0 to {classes - 1}"
        )
    return images.part(skip, limit)


def _show_summary(title: str, summary: dict[str, Any], as_json: bool) -> None:
    from bnhw.reports.tables import summary_table
    from bnhw.results import summary_rows

    if as_json:
        show_json(summary)
    else:
        show(summary_table(title, summary_rows(summary)))
