"""Commands that make files: demo, export, check, compile."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bnhw.cli.console import progress_bar, say, show, show_json
from bnhw.cli.parameters import (
    ActBits,
    InputBits,
    InputMean,
    InputStd,
    Json,
    Multipliers,
    OnnxModel,
    RangesChoice,
    RequantiseChoice,
    ResidualBits,
    WeightBits,
    compile_options,
    option,
)
from bnhw.errors import BadInput
from bnhw.options import CompileOptions

DEFAULTS = CompileOptions()


def demo(
    output: Annotated[Path, option("FOLDER", "Folder for the files made.", "--output", "-o")] = Path("bnhw-demo"),
) -> None:
    """Run the whole flow on a small trained 1-bit network. The network and real images are shipped."""
    from bnhw.demo.flow import run_demo
    from bnhw.demo.table import demo_table

    outcome = run_demo(output, say)
    show(demo_table(outcome))
    if outcome.pages:
        show(f"\nOpen {outcome.pages[0]} in a browser.")


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="safetensors, .pt, or a published .mat.")],
    output: Annotated[Path, option("FILE", "The ONNX file to write.", "--output", "-o")],
) -> None:
    """Turn a trained checkpoint into ONNX. Needs the extra `torch`."""
    from bnhw.export.checkpoints import load_checkpoint
    from bnhw.export.networks import config_of
    from bnhw.export.to_onnx import to_onnx

    if output.suffix != ".onnx":
        raise BadInput(f"{output}: a model has the ending .onnx")
    network = load_checkpoint(checkpoint)
    config = config_of(network)
    to_onnx(network, output, input_shape=config.input_shape)
    say(f"wrote {output}: {config.weight_count:,} weights, {output.stat().st_size:,} bytes")


def check(
    model: OnnxModel,
    act_bits: ActBits = str(DEFAULTS.act_bits),
    requantise: RequantiseChoice = DEFAULTS.requantise,
    multipliers: Multipliers = DEFAULTS.multipliers,
    ranges: RangesChoice = DEFAULTS.ranges,
    weight_bits: WeightBits = DEFAULTS.weight_bits,
    input_bits: InputBits = DEFAULTS.input_bits,
    residual_bits: ResidualBits = DEFAULTS.residual_bits,
    input_mean: InputMean = "0",
    input_std: InputStd = "1",
    as_json: Json = False,
) -> None:
    """List all that stands in the way of compiling a model. Exit code 0 if nothing does."""
    from bnhw.compiler import check as check_model
    from bnhw.errors import UnsupportedModel

    options = compile_options(
        act_bits=act_bits,
        requantise=requantise,
        multipliers=multipliers,
        ranges=ranges,
        weight_bits=weight_bits,
        input_bits=input_bits,
        residual_bits=residual_bits,
        input_mean=input_mean,
        input_std=input_std,
    )
    try:
        checked = check_model(model, options)
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


def compile_command(
    model: OnnxModel,
    output: Annotated[Path, option("FILE", "The program to write (.bnhw).", "--output", "-o")],
    calibrate: Annotated[Path, option("PATH", "Images that show the ranges of activations.", "--calibrate")],
    calibrate_limit: Annotated[int, option("N", "Calibrate on at most so many images.", least=1)] = 200,
    act_bits: ActBits = str(DEFAULTS.act_bits),
    requantise: RequantiseChoice = DEFAULTS.requantise,
    multipliers: Multipliers = DEFAULTS.multipliers,
    ranges: RangesChoice = DEFAULTS.ranges,
    weight_bits: WeightBits = DEFAULTS.weight_bits,
    input_bits: InputBits = DEFAULTS.input_bits,
    residual_bits: ResidualBits = DEFAULTS.residual_bits,
    input_mean: InputMean = "0",
    input_std: InputStd = "1",
    emit_onnx: Annotated[
        Path | None, option("FILE", "Write the program as an integer ONNX graph, too (.onnx).", "--emit-onnx")
    ] = None,
) -> None:
    """Compile an ONNX model to an integer program. Checks itself before it writes."""
    from bnhw.compiler import SELF_CHECK_IMAGES, compile_model
    from bnhw.images import read_images
    from bnhw.program_file import save_program
    from bnhw.reports.steps import code_steps, summarise_modes
    from bnhw.reports.tables import format_bits

    if output.suffix != ".bnhw":
        raise BadInput(f"{output}: a program has the ending .bnhw")
    if emit_onnx is not None and emit_onnx.suffix != ".onnx":
        raise BadInput(f"{emit_onnx}: an integer ONNX graph has the ending .onnx")
    if emit_onnx is not None and emit_onnx.resolve() == model.resolve():
        raise BadInput(f"{emit_onnx}: is the model that is compiled; choose another name for --emit-onnx")
    options = compile_options(
        act_bits=act_bits,
        requantise=requantise,
        multipliers=multipliers,
        ranges=ranges,
        weight_bits=weight_bits,
        input_bits=input_bits,
        residual_bits=residual_bits,
        input_mean=input_mean,
        input_std=input_std,
    )
    images = read_images(calibrate, split="train", limit=calibrate_limit).pixels
    with progress_bar("calibrating", len(images)) as progress:
        program = compile_model(model, images, options, progress=progress)
    graphs = {} if emit_onnx is None else {emit_onnx: _checked_onnx(program, images[:SELF_CHECK_IMAGES])}
    save_program(program, output, beside=graphs)
    for note in program.provenance.notes:
        say(f"note: {note}")
    bits = _weight_bits(program)
    say(f"wrote {output}: {len(program.instructions)} instructions, weights {format_bits(bits)}")
    if options.auto_budget_db is not None:
        say(f"requantise: {summarise_modes(code_steps(program))}")
    for path, content in graphs.items():
        say(f"wrote {path}: the same integers under onnxruntime, {len(content):,} bytes")


def _checked_onnx(program: Any, images: Any) -> bytes:
    from bnhw.onnx_machine import checked_onnx

    return bytes(checked_onnx(program, images).SerializeToString())


def _weight_bits(program: Any) -> int:
    from bnhw.count import count_program, total

    return total(count_program(program)).weight_bits
