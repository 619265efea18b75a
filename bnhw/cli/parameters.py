"""Options that several commands share, and what they stand for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnhw.errors import BadInput
from bnhw.options import CompileOptions, parse_act_bits

if TYPE_CHECKING:
    from bnhw.reports.comparison import Column


def option(metavar: str, text: str, *names: str, least: float | None = None, most: float | None = None) -> Any:
    """An option without names is named like its parameter."""
    return typer.Option(*names, metavar=metavar, help=text, min=least, max=most)


Model = Annotated[Path, typer.Argument(metavar="MODEL.bnhw", help="A compiled program.", show_default=False)]
OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.", show_default=False)]
ImageFile = Annotated[
    Path,
    option("PATH", "Images: .npz, .npy, IDX, CIFAR batch, PNG, JPEG, or a folder of these; raw pixels.", "--images"),
]
Labels = Annotated[Path | None, option("FILE", "Labels: .npy, .npz with `labels`, or IDX.", "--labels")]
Skip = Annotated[int, option("N", "Leave out the first so many images.", "--skip", least=0)]
Limit = Annotated[int | None, option("N", "Use at most so many images.", "--limit", least=1)]
Threads = Annotated[int, option("N", "Worker threads; images are split over them.", "--threads", least=1, most=256)]
Kernels = Annotated[
    str | None,
    option(
        "CHOICE",
        "auto, amx, vnni, avx2, portable, reference, multiplexer, bit_serial, checked (asserts widths) "
        "[default: $BNHW_KERNELS or auto].",
        "--kernels",
    ),
]
ActBits = Annotated[
    str,
    option(
        "BITS",
        "Bits of activations, 2..8; a list between commas, one for each activation; or auto:DB, the fewest bits that "
        "keep DB decibels.",
        "--act-bits",
    ),
]
RequantiseChoice = Annotated[
    str,
    option(
        "MODE",
        "shift, csd:N (sums of N signed powers of two), multiply:M (M-bit multipliers), threshold (comparisons, "
        "exact), auto or auto:DB (the cheapest for each step that together cost DB decibels, 0.05 if not given).",
        "--requantise",
    ),
]
Multipliers = Annotated[
    bool,
    typer.Option(
        "--multipliers/--no-multipliers",
        help="Whether requantise steps may multiply; auto does where digits do not do.",
    ),
]
RangesChoice = Annotated[
    str,
    option(
        "METHOD",
        "Ranges of activations: mse (least square error), min-max, or percentile:P with P of 50..100.",
        "--ranges",
    ),
]
WeightBits = Annotated[int, option("N", "Bits of weights that are not 1-bit, 2..8.", "--weight-bits")]
InputBits = Annotated[int, option("N", "Bits of the normalised image, 2..12.", "--input-bits")]
ResidualBits = Annotated[int, option("N", "Bits of the residual stream, 8..24.", "--residual-bits")]
InputMean = Annotated[
    str, option("NUMBERS", "The model takes (pixel - mean) / std: one number or one a colour.", "--input-mean")
]
InputStd = Annotated[str, option("NUMBERS", "As --input-mean; 255 for a model of pixels 0..1.", "--input-std")]
_ARCH = option(
    "ENGINE",
    "An engine: a shipped name, such as engine-16x64, or a TOML file; with other parameters behind a colon: "
    "engine-16x64:post=multiply,weights.words=32768.",
    "--arch",
)
Arch = Annotated[str | None, _ARCH]
Tech = Annotated[
    str | None, option("TECHNOLOGY", "Energy constants: a shipped name, such as 28nm, or a TOML file.", "--tech")
]
Format = Annotated[str, option("FORMAT", "text, json or html.", "--format")]
Output = Annotated[Path | None, option("FILE", "Write to this file instead.", "--output", "-o")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers between commas; `name` is the option's in the error."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise BadInput(
            f"{name} is {text!r}; numbers separated by commas are expected, such as 125.3,123.0,113.9"
        ) from None


def compile_options(
    *,
    act_bits: str,
    requantise: str,
    multipliers: bool,
    ranges: str,
    weight_bits: int,
    input_bits: int,
    residual_bits: int,
    input_mean: str,
    input_std: str,
) -> CompileOptions:
    """The options of `check` and `compile`, from what is typed."""
    return CompileOptions(
        act_bits=parse_act_bits(act_bits),
        requantise=requantise,
        multipliers=multipliers,
        ranges=ranges,
        weight_bits=weight_bits,
        input_bits=input_bits,
        residual_bits=residual_bits,
        input_mean=numbers("--input-mean", input_mean),
        input_std=numbers("--input-std", input_std),
    )


def kernel_choice(kernels: str | None) -> str:
    """The kernels that are asked for, by option or environment."""
    from bnhw.kernels.select import default_choice

    try:
        return kernels or default_choice()
    except ValueError as error:
        raise BadInput(str(error)) from error


def kernels_to_verify(kernels: str | None) -> str:
    """The kernels to compare with the reference; not itself."""
    from bnhw.kernels.select import KERNEL_CHOICES, KERNELS_VARIABLE

    choice = kernel_choice(kernels)
    if choice == "reference":
        origin = f"--kernels {choice}" if kernels else f"{KERNELS_VARIABLE}={choice}"
        others = ", ".join(other for other in KERNEL_CHOICES if other != choice)
        raise BadInput(f"{origin}: it would compare the reference with itself; choose one of {others} with --kernels")
    return choice


def executor_names(text: str) -> tuple[str, ...]:
    """Names of executors between commas, each once."""
    from bnhw.executors import EXECUTORS

    available = (*EXECUTORS, "rtl")
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in available]
    if unknown:
        raise BadInput(
            f"--against {', '.join(map(repr, unknown))} is not available; choose {', '.join(available)}, or several "
            "between commas"
        )
    return names


def load_images(program: Any, path: Path, labels: Path | None, skip: int, limit: int | None) -> Any:
    """Images, with labels that the program's classes allow."""
    from bnhw.images import read_images

    images = read_images(path, labels=labels, skip=skip, limit=limit)
    classes = program.tensor[program.output].shape[2]
    if images.labels is not None and not 0 <= images.labels.min() <= images.labels.max() < classes:
        raise BadInput(
            f"{labels or path}: labels are {images.labels.min()} to {images.labels.max()}; the program has the classes "
            f"0 to {classes - 1}"
        )
    return images


def require_format(name: str, output: Path | None) -> None:
    """Refuse formats that are not there, and a page without a file."""
    if name not in ("text", "json", "html"):
        raise BadInput(f"--format {name!r} is not available; choose text, json or html")
    if name == "html" and output is None:
        raise BadInput("--format html makes a file; name it with -o FILE.html")


def comparison_columns(models: Sequence[Path], archs: Sequence[str], tech: str | None) -> "tuple[Column, ...]":
    """One column a program; with several engines, one engine a program, or one program on each of them."""
    import bnhw
    from bnhw.reports.comparison import Column, column_labels

    count = max(len(models), len(archs))
    if count < 2:
        raise BadInput("one program alone cannot be compared; name two programs, or two engines with --arch")
    if len(models) not in (1, count) or len(archs) not in (0, 1, count):
        raise BadInput(
            f"{len(models)} programs and {len(archs)} engines do not pair; name one engine for all programs, one for "
            "each program, or several engines for one program"
        )
    paths = list(models) * (count // len(models))
    engines = list(archs) * (count // len(archs)) if archs else [None] * count
    programs = {path: bnhw.load(path) for path in models}
    reports = [bnhw.report(programs[path], arch=arch, tech=tech) for path, arch in zip(paths, engines, strict=True)]
    names = ["" if report.engine is None else report.engine.arch.name for report in reports]
    labels = column_labels([path.stem for path in paths], names)
    return tuple(Column(label=label, report=report) for label, report in zip(labels, reports, strict=True))
