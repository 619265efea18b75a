"""From an ONNX file and calibration images to a checked program: the stages in their order."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bnhw.compare import Difference, first_difference, measure_fidelity
from bnhw.dtypes import Array
from bnhw.errors import BadInput, ComparisonFailed
from bnhw.graph import Graph
from bnhw.graph_onnx import run_outputs
from bnhw.images import fit_pixels
from bnhw.importer import Source, import_onnx, read_onnx
from bnhw.lower import lower
from bnhw.machine import Machine, fit_images
from bnhw.options import CompileOptions, options_as_text
from bnhw.passes.base import run_passes
from bnhw.passes.pipeline import float_passes, normalise_input, quantise_graph
from bnhw.program import Program, Provenance
from bnhw.program_check import check_program
from bnhw.version import producer

TRIAL_IMAGES = 2
"""Random images on which `check` tries to compile."""

SELF_CHECK_IMAGES = 2
"""Calibration images on which reference and kernels are compared before a program is handed out."""

FIDELITY_IMAGES = 16
"""Calibration images on which integer and float logits are compared before a program is handed out."""

LEAST_SIGNAL_TO_NOISE_DB = 20.0
"""Below this, noise of a tenth of the logits, a program comes with a warning."""

LEAST_AGREEMENT = 0.9
"""Below this share of equal classes, too: logits that differ little from each other lose them to little noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A model that can be compiled: the graph after all passes that need no images, and notes for the user."""

    graph: Graph
    notes: tuple[str, ...]


def check(path: Path, options: CompileOptions | None = None) -> Checked:
    """Import a model, run every pass, and lower it on random pixels.

    Raises BadInput for a file that is no model, UnsupportedModel or PassFailed for what stands in the way.
    """
    options = options or CompileOptions()
    source = read_onnx(path)
    graph = _import(source, options)
    channels, height, width = graph.inputs[0].shape
    pixels = np.random.default_rng(0).integers(0, 256, (TRIAL_IMAGES, height, width, channels), np.uint8)
    placed = run_passes(graph, float_passes(options))
    # What only shows when integers are made is found by a trial on random pixels.
    quantised = quantise_graph(graph, options, calibration_images(graph, pixels))
    check_program(lower(quantised, _provenance(source, options, 0)))
    return Checked(graph=placed, notes=placed.notes)


def compile_model(
    path: str | Path,
    calibration: Array,
    options: CompileOptions | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Program:
    """Compile an ONNX file into an integer program.

    calibration: uint8 images (images, height, width, channels), or (images, height, width) for one channel;
    the ranges of activations are taken from them. progress: called with the number of calibration images done.
    Raises BadInput, UnsupportedModel, PassFailed for what the user can mend; ComparisonFailed if reference and
    kernels disagree on the result, which would be a bug.
    """
    options = options or CompileOptions()
    source = read_onnx(Path(path))
    graph = _import(source, options)
    images = calibration_images(graph, calibration)
    quantised = quantise_graph(graph, options, images, progress)
    program = lower(quantised, _provenance(source, options, len(images)))
    check_program(program)
    self_check(program, fit_images(program, calibration)[:SELF_CHECK_IMAGES])
    faithful = _faithfulness_notes(program, graph, images[:FIDELITY_IMAGES], calibration[:FIDELITY_IMAGES])
    return replace(program, provenance=replace(program.provenance, notes=(*program.provenance.notes, *faithful)))


def _faithfulness_notes(program: Program, graph: Graph, reals: Array, pixels: Array) -> list[str]:
    """A warning where the integers are far from the float graph, which reference and kernels alone cannot show."""
    result = Machine(program).run(pixels)
    fidelity = measure_fidelity(result.logits, result.scale, run_outputs(graph, reals))
    far = fidelity.signal_to_noise_db < LEAST_SIGNAL_TO_NOISE_DB
    if not far and fidelity.agreement >= LEAST_AGREEMENT:
        return []
    return [
        f"on {fidelity.images} calibration images the integer logits are {'only ' if far else ''}"
        f"{fidelity.signal_to_noise_db:.0f} dB from the float model's, {'' if far else 'but only '}"
        f"{100 * fidelity.agreement:.0f} % of the classes are equal; use more bits, or a finer requantise mode"
    ]


def _import(source: Source, options: CompileOptions) -> Graph:
    graph = import_onnx(source.model, name=source.name)
    if graph.inputs[0].shape[1:] == (1, 1) and graph.inputs[0].shape[0] > 4:
        graph = graph.with_notes(f"the model takes {graph.inputs[0].shape[0]} flat features as 1x1 pixels")
    try:
        return normalise_input(graph, options)
    except ValueError as error:
        raise BadInput(str(error)) from error


def _provenance(source: Source, options: CompileOptions, images: int) -> Provenance:
    return Provenance(
        producer=producer(),
        source_name=source.name,
        source_sha256=source.sha256,
        options={**options_as_text(options), "calibration_images": str(images)},
    )


def calibration_images(graph: Graph, images: Array) -> Array:
    """uint8 images as the float graph takes them: float32 (images, channels, height, width).

    Raises BadInput where they do not fit the model's input.
    """
    (entry,) = graph.inputs
    channels, height, width = entry.shape
    pixels = fit_pixels(images, (height, width, channels))
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)


def self_check(program: Program, images: Array) -> None:
    """Raise ComparisonFailed unless reference and automatically chosen kernels agree on every tensor."""
    for executor in Machine(program, "auto").executors:
        difference: Difference | None = first_difference(Machine(program, "reference"), executor, images).difference
        if difference is not None:
            raise ComparisonFailed(f"self-check before writing failed: {difference}; please report this as a bug")
