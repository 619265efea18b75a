"""The ONNX model around the graph: its input, outputs, types and what it says about itself."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper

from bnhw.errors import BadInput, InvalidProgram
from bnhw.graph import unique_name
from bnhw.integer_onnx.builder import GraphBuilder
from bnhw.integer_onnx.instructions import write_instruction
from bnhw.program import Convolve, Program, Tensor

OPSET = 18
"""The oldest with all that is needed (bitwise operations, maxima over given axes), so that most software reads it."""

IR_VERSION = 8
"""The file format that goes with the opset."""

BATCH = "N"
"""The symbolic number of images."""

LOGITS = "logits"

MAX_BYTES = (1 << 31) - (1 << 24)
"""A protobuf file holds 2 GiB; a part is left for the nodes."""


def program_to_onnx(program: Program, *, expose_tensors: bool = False) -> onnx.ModelProto:
    """An integer program as an ONNX model of standard operations on integers alone.

    Its input has the name of the program's and is uint8 (N, height, width, channels), as `bnhw.run` takes images; its
    output `logits` is int64 (N, classes). In between every tensor of the program has its own name and is int32
    (N, channels, height, width). expose_tensors: all of them are outputs too, in the order of the instructions.
    `metadata_props` hold the scale of the logits, scale and zero point of every tensor, and where the program is from.
    Raises BadInput where the weights, a byte each, exceed what an ONNX file can hold, and InvalidProgram for a tensor
    without a name.
    """
    _require_size(program)
    if "" in program.tensor:
        raise InvalidProgram(f"program {program.name!r} has a tensor without a name, which ONNX cannot have; name it")
    builder = GraphBuilder(program=program)
    image = program.tensor[program.input]
    _write_entry(builder, image)
    for instruction in program.instructions:
        write_instruction(builder, instruction)
    logits = _write_logits(builder, program)
    classes = program.tensor[program.output].shape[2]
    inner = [_describe(program.tensor[instruction.output]) for instruction in program.instructions]
    outputs = [helper.make_tensor_value_info(logits, TensorProto.INT64, (BATCH, classes))]
    graph = helper.make_graph(
        builder.nodes,
        program.name or "program",
        [helper.make_tensor_value_info(image.name, TensorProto.UINT8, (BATCH, *image.shape))],
        outputs + inner if expose_tensors else outputs,
        builder.constants,
        value_info=[] if expose_tensors else inner,
    )
    return _finish(graph, program)


def _require_size(program: Program) -> None:
    """Refuse what cannot be written before memory for it is taken."""
    convolutions = [i for i in program.instructions if isinstance(i, Convolve)]
    weights = sum(int(np.prod(convolution.weight_shape, dtype=object)) for convolution in convolutions)
    names = {convolution.weights for convolution in convolutions}
    others = sum(array.size for name, array in program.constants.items() if name not in names)
    needed = weights + 16 * others  # an int64 each, and thresholds fill up to twice as many
    if needed > MAX_BYTES:
        raise BadInput(
            f"program {program.name!r} as ONNX would take {needed:,} bytes (a byte a weight), an ONNX file holds "
            f"{MAX_BYTES:,}; run the .bnhw program, which stores 1-bit weights as bits"
        )


def _write_entry(builder: GraphBuilder, image: Tensor) -> None:
    """Images enter under the name of their tensor; instructions read them as int32, channels first."""
    builder.place, builder.origin = image.name, "images"
    channels_first = builder.add("Transpose", image.name, perm=[0, 3, 1, 2])
    builder.renamed[image.name] = builder.cast(channels_first, TensorProto.INT32)


def _write_logits(builder: GraphBuilder, program: Program) -> str:
    builder.place, builder.origin = program.output, "logits"
    flat = builder.add("Flatten", program.output, axis=1)
    return builder.cast(flat, TensorProto.INT64, unique_name(LOGITS, set(program.tensor)))


def _describe(tensor: Tensor) -> onnx.ValueInfoProto:
    height, width, channels = tensor.shape
    return helper.make_tensor_value_info(tensor.name, TensorProto.INT32, (BATCH, channels, height, width))


def _finish(graph: onnx.GraphProto, program: Program) -> onnx.ModelProto:
    """The model with what it says about itself, checked as ONNX defines it."""
    origin = program.provenance
    graph.doc_string = (
        f"Integer program {program.name!r} made by {origin.producer} from {origin.source_name}. Input: uint8 images "
        "(N, height, width, channels). Output: integer logits (N, classes), whose real values are scale * logits. "
        "Inside, int32 tensors (N, channels, height, width) named as in the program."
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name=origin.producer
    )
    helper.set_model_props(model, _properties(program))
    onnx.checker.check_model(model, full_check=True)
    return model


def _properties(program: Program) -> dict[str, str]:
    """Real numbers are written so that they are read back to the last bit."""
    origin, logits = program.provenance, program.tensor[program.output]
    codings = {
        tensor.name: {
            "type": str(tensor.dtype),
            "scale": tensor.scale,
            "zero_point": tensor.zero_point,
            "bipolar": tensor.bipolar,
        }
        for tensor in program.tensors
    }
    return {
        "format_version": str(program.format_version),
        "producer": origin.producer,
        "source_name": origin.source_name,
        "source_sha256": origin.source_sha256,
        "scale": repr(logits.scale),
        "tensors": json.dumps(codings),
        "options": json.dumps(dict(origin.options)),
    }
