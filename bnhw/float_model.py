"""The float model under onnxruntime: what an integer program is faithful to."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bnhw import onnx_layers
from bnhw.dtypes import Array
from bnhw.errors import BadInput, InvalidProgram
from bnhw.graph_onnx import GraphRunner
from bnhw.importer import Source, import_onnx, read_onnx
from bnhw.machine import fit_images
from bnhw.onnx_ops import CONVERTERS, QONNX_OPS
from bnhw.onnx_session import open_session
from bnhw.program import Program

BATCH = 32

INPUT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
"""Element types of a model's input, by onnxruntime's names."""

UNCHANGED = (onnx_layers.convert_cast, onnx_layers.convert_dropout, onnx_layers.convert_identity)
"""How the importer reads operations that may stand behind a final Softmax."""


def float_logits(path: Path, program: Program, images: Array) -> Array:
    """The logits of the ONNX file at `path`, float (images, classes), for uint8 images as the program takes them.

    The normalisation that the program was compiled with (`input_mean`, `input_std`) is applied to the pixels. A Softmax
    or LogSoftmax at the end is left out, as it is from the program. A model with quantisers of QONNX, which onnxruntime
    does not have, runs as bnhw has imported it.
    Raises BadInput where onnxruntime cannot load or run the model, or its output is not one row an image;
    UnsupportedModel where a model with such quantisers cannot be imported.
    """
    source = read_onnx(path)
    try:
        session = open_session(_returning_logits(source.model).SerializeToString(), origin=str(path))
    except BadInput:
        if not any(node.op_type in QONNX_OPS for node in source.model.graph.node):
            raise
        return _imported_logits(source, program, images)
    return _session_logits(path, session, program, images)


def _imported_logits(source: Source, program: Program, images: Array) -> Array:
    graph = import_onnx(source.model, name=source.name)
    runner = GraphRunner(graph, graph.outputs)
    pixels = _as_model_input(program, images, rank=4)  # flat features, too, are pixels there
    parts = [runner.run(pixels[at : at + BATCH])[graph.outputs[0]] for at in range(0, len(pixels), BATCH)]
    return np.concatenate(parts).reshape(len(images), -1)


def _session_logits(path: Path, session: Any, program: Program, images: Array) -> Array:
    entries = session.get_inputs()
    if not entries or not entries[0].shape:
        raise BadInput(f"{path}: takes no batch of images; give the model that the program was compiled from")
    entry = entries[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else BATCH
    if entry.type not in INPUT_TYPES:
        raise BadInput(f"{path}: takes {entry.type}; one of {', '.join(INPUT_TYPES)} is supported")
    pixels = _as_model_input(program, images, rank=len(entry.shape)).astype(INPUT_TYPES[entry.type])
    parts = [_run(path, session, entry.name, pixels[at : at + batch], batch) for at in range(0, len(pixels), batch)]
    logits = np.concatenate(parts)
    if len(logits) != len(images):
        raise BadInput(f"{path}: returns {logits.shape} for {len(images)} images; one row an image is expected")
    return logits.reshape(len(images), -1)


def _returning_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that returns what the program returns: the operand of a Softmax that the importer leaves out."""
    if len(model.graph.output) != 1:
        return model
    name = model.graph.output[0].name
    for node in reversed(model.graph.node):  # in order of execution, so that a malformed cycle ends, too
        if name not in node.output or not node.input:
            continue
        converter = CONVERTERS.get(node.op_type)
        name = node.input[0]
        if converter is onnx_layers.convert_softmax:
            changed = onnx.ModelProto()
            changed.CopyFrom(model)
            # Without type and shape, which onnxruntime infers: a Cast may stand between this value and the old output.
            changed.graph.output[0].CopyFrom(onnx.ValueInfoProto(name=name))
            return changed
        if converter not in UNCHANGED:
            break
    return model


def _as_model_input(program: Program, images: Array, *, rank: int) -> Array:
    options = program.provenance.options
    try:
        mean, std = (
            np.array([float(number) for number in options.get(name, default).split(",")])
            for name, default in (("input_mean", "0.0"), ("input_std", "1.0"))
        )
    except ValueError as error:
        raise InvalidProgram(
            f"the program's own input_mean or input_std is no number ({error}); compile it again"
        ) from error
    normalised = ((fit_images(program, images) - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(normalised.reshape(len(images), -1) if rank == 2 else normalised)


def _run(path: Path, session: Any, name: str, pixels: Array, batch: int) -> Array:
    count = len(pixels)
    if count < batch and session.get_inputs()[0].shape[0] == batch:  # a model of fixed batch wants full ones
        pixels = np.concatenate([pixels, np.repeat(pixels[-1:], batch - count, axis=0)])
    try:
        (logits, *_) = session.run(None, {name: pixels})
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise BadInput(f"{path}: onnxruntime cannot run it on images of shape {pixels.shape} ({error})") from error
    return np.atleast_1d(logits)[:count]
