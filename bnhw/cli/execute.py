"""Commands that execute a program: run, verify."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bnhw.cli.console import progress_bar, say, show, show_summary
from bnhw.cli.parameters import (
    Arch,
    ImageFile,
    Json,
    Kernels,
    Labels,
    Limit,
    Model,
    Skip,
    Threads,
    executor_names,
    kernel_choice,
    kernels_to_verify,
    load_images,
    option,
)
from bnhw.cli.rtl import compare_with_rtl
from bnhw.errors import BadInput, ComparisonFailed

if TYPE_CHECKING:
    from bnhw.dtypes import Array
    from bnhw.fidelity import LayerFidelity
    from bnhw.machine import Machine
    from bnhw.program import Program

LAYER_IMAGES = 64
"""So many images' tensors are compared with the float model."""


def run(
    model: Model,
    images: ImageFile,
    labels: Labels = None,
    skip: Skip = 0,
    limit: Limit = None,
    threads: Threads = 1,
    kernels: Kernels = None,
    output: Annotated[Path | None, option("FILE", "Write logits and classes (.npz).", "--output", "-o")] = None,
    as_json: Json = False,
) -> None:
    """Execute a program bit-exactly. Prints accuracy (with labels) and images per second."""
    import bnhw
    from bnhw.machine import Machine
    from bnhw.results import run_summary, write_result

    if output is not None and output.suffix != ".npz":
        raise BadInput(f"{output}: results are written as .npz")
    program = bnhw.load(model)
    chosen = load_images(program, images, labels, skip, limit)
    machine = Machine(program, kernel_choice(kernels))
    with progress_bar("running", len(chosen.pixels)) as progress:
        result = machine.run(chosen.pixels, threads=threads, progress=progress)
    if output is not None:
        write_result(output, result)
    show_summary(f"{model}", run_summary(result, chosen.labels, threads), as_json)


def verify(
    model: Model,
    images: ImageFile,
    against: Annotated[
        str, option("NAMES", "Executors to compare with, between commas: reference, onnx, rtl (the Verilog engine).")
    ] = "reference",
    arch: Arch = None,
    float_model: Annotated[
        Path | None, option("MODEL.onnx", "The ONNX model: adds agreement and signal-to-noise.", "--float")
    ] = None,
    labels: Labels = None,
    skip: Skip = 0,
    limit: Limit = None,
    tensors: Annotated[int, option("N", "Compare every tensor of so many images.", least=1)] = 4,
    min_agreement: Annotated[
        float,
        option("PERCENT", "With --float: fail (exit 3) below this per cent of equal classes.", least=0, most=100),
    ] = 0.0,
    layer_images: Annotated[
        int | None,
        option("N", f"With --float: compare every tensor of so many images with it (default {LAYER_IMAGES}).", least=1),
    ] = None,
    threads: Threads = 1,
    kernels: Kernels = None,
    as_json: Json = False,
) -> None:
    """Compare every intermediate integer of two executors. With --float, also with the float model: class and noise.

    --against rtl --arch ENGINE runs the Verilog engine under Verilator and compares the cycles of every step, too.
    """
    import bnhw
    from bnhw.compare import measure_fidelity
    from bnhw.float_model import float_logits
    from bnhw.machine import Machine
    from bnhw.reports.fidelity_table import layer_table
    from bnhw.results import fidelity_summary, layer_summary

    for name, given in (("--min-agreement", min_agreement), ("--layer-images", layer_images)):
        if given and float_model is None:
            raise BadInput(f"{name} compares with the float model; name it with --float MODEL.onnx")
    names = executor_names(against)
    if arch is not None and "rtl" not in names:
        raise BadInput("--arch is the engine that --against rtl runs; add rtl to --against, or leave --arch out")
    program = bnhw.load(model)
    chosen = load_images(program, images, labels, skip, limit)
    machine = Machine(program, kernels_to_verify(kernels) if "reference" in names else kernel_choice(kernels))
    summary = _compare_executors(machine, names, arch, chosen.pixels[:tensors], f"{model}")
    layers: Sequence[LayerFidelity] = ()
    part = chosen.pixels[: layer_images or LAYER_IMAGES]
    if float_model is not None:
        with progress_bar("running", len(chosen.pixels)) as progress:
            result = machine.run(chosen.pixels, threads=threads, progress=progress)
        reals = float_logits(float_model, program, chosen.pixels)
        summary |= fidelity_summary(measure_fidelity(result.logits, result.scale, reals, chosen.labels))
        layers = _measure_layers(program, float_model, part, machine.choice)
        summary |= layer_summary(layers, len(part))
    show_summary(f"{model}", summary, as_json)
    if layers and not as_json:
        show(layer_table(layers, len(part)))
    if summary.get("agreement_percent", 100.0) < min_agreement:
        raise ComparisonFailed(
            f"{model}: {summary['agreement_percent']:.2f} % of the classes equal the float model's, "
            f"at least {min_agreement} % were asked for"
        )


def _compare_executors(
    machine: "Machine", names: Sequence[str], arch: str | None, pixels: "Array", title: str
) -> dict[str, Any]:
    """Every tensor of `pixels`; raises ComparisonFailed at the first difference with one of `names`."""
    from bnhw.compare import first_difference
    from bnhw.executors import EXECUTORS

    counted: dict[str, Any] = {}
    for name in names:
        if name == "rtl":
            counted |= compare_with_rtl(machine, arch, pixels, title)
            continue
        for executor in machine.executors:
            with progress_bar(f"comparing with {name}", len(pixels)) as progress:
                comparison = first_difference(EXECUTORS[name](machine.program), executor, pixels, progress)
            if comparison.difference is not None:
                raise ComparisonFailed(f"{title}: {comparison.difference}")
            counted |= {"tensors_compared": comparison.tensors, "integers_compared": comparison.integers}
    return {"bit_exact": True, "against": ", ".join(names), "images_compared": len(pixels), **counted}


def _measure_layers(program: "Program", path: Path, pixels: "Array", kernels: str) -> "tuple[LayerFidelity, ...]":
    from bnhw.fidelity import digest_warning, measure_layers, reference_graph
    from bnhw.importer import read_onnx

    source = read_onnx(path)
    warning = digest_warning(source, program)
    if warning is not None:
        say(f"warning: {warning}")
    graph = reference_graph(source, program)
    with progress_bar("comparing layers", len(pixels)) as progress:
        return measure_layers(program, graph, pixels, kernels=kernels, progress=progress)
