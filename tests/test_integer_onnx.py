"""The integer ONNX graph: standard operations on integers alone, exact at the edges of what a program may hold."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from program_builder import Builder, one_of_each
from program_strategies import programs

import bnhw
from bnhw.compare import first_difference
from bnhw.dtypes import IntegerType
from bnhw.errors import BadInput, InvalidProgram
from bnhw.integer_onnx import model as model_module
from bnhw.integer_onnx import program_to_onnx
from bnhw.machine import Machine
from bnhw.onnx_machine import OnnxMachine, onnx_logits
from bnhw.ops import Window
from bnhw.program import Convolve, Join, Program, Tensor
from bnhw.program_check import check_program

IMAGES = np.random.default_rng(6).integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)

INTEGERS = {
    TensorProto.UINT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT64,
    TensorProto.BOOL,  # what a comparison gives, cast at once
}


# The graph as others read it.


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_every_operation_is_standard_and_every_value_an_integer(program: Program) -> None:
    model = program_to_onnx(program)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert {tensor.data_type for tensor in model.graph.initializer} <= INTEGERS
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    types = {value.name: value.type.tensor_type for value in inferred.graph.value_info}
    made = {name for node in model.graph.node for name in node.output} - {"logits"}
    assert made <= types.keys()
    assert {types[name].elem_type for name in made} <= INTEGERS
    for instruction in program.instructions:
        height, width, channels = program.tensor[instruction.output].shape
        batch, *shape = types[instruction.output].shape.dim
        assert batch.dim_param == "N"
        assert [dim.dim_value for dim in shape] == [channels, height, width]


def test_the_graph_takes_images_and_returns_logits() -> None:
    program = one_of_each()
    graph = program_to_onnx(program).graph
    (entry,), (logits,) = graph.input, graph.output
    assert (entry.name, shape_of(entry), entry.type.tensor_type.elem_type) == ("image", ["N", 5, 4, 2], 2)
    assert (logits.name, shape_of(logits), logits.type.tensor_type.elem_type) == ("logits", ["N", 6], 7)
    exposed = program_to_onnx(program, expose_tensors=True).graph.output
    assert [value.name for value in exposed] == ["logits", *(i.output for i in program.instructions)]
    assert shape_of(exposed[1]) == ["N", 2, 5, 4]


def shape_of(value: onnx.ValueInfoProto) -> list[Any]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_scales_and_origin_are_in_the_metadata() -> None:
    program = one_of_each()
    logits = replace(program.tensor[program.output], scale=0.1 + 0.2)
    program = replace(program, tensors=(*program.tensors[:-1], logits))
    model = program_to_onnx(program)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert float(properties["scale"]) == logits.scale
    assert properties["source_sha256"] == "0" * 64
    assert properties["producer"] == model.producer_name == "tests"
    assert json.loads(properties["options"]) == {"act_bits": "8"}
    codings = json.loads(properties["tensors"])
    assert codings.keys() == program.tensor.keys()
    assert codings["t0"] == {"type": "uint4", "scale": 0.5, "zero_point": 3, "bipolar": False}
    assert "scale * logits" in model.graph.doc_string


def test_nodes_say_which_instruction_they_stem_from() -> None:
    program = one_of_each()
    first = replace(program.instructions[0], source="Mul stem/Mul")
    nodes = program_to_onnx(replace(program, instructions=(first, *program.instructions[1:]))).graph.node
    (gather,) = [node for node in nodes if node.output[0] == "t0"]
    assert (gather.name, gather.doc_string) == ("t0/node", "LookUp Mul stem/Mul")
    assert len({node.name for node in nodes}) == len(nodes)


def test_the_same_program_gives_the_same_bytes() -> None:
    assert program_to_onnx(one_of_each()).SerializeToString() == program_to_onnx(one_of_each()).SerializeToString()


def test_onnx_s_own_evaluator_gives_the_reference_s_integers() -> None:
    """The graph means the same to others than onnxruntime."""
    program = one_of_each()
    model = program_to_onnx(program, expose_tensors=True)
    values = ReferenceEvaluator(model).run(None, {"image": IMAGES})
    found = dict(zip((value.name for value in model.graph.output), values, strict=True))
    for step in Machine(program, "reference").steps(IMAGES):
        value = found[step.instruction.output].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(value, step.value, err_msg=step.instruction.output)


def test_weights_are_unsigned_bytes_because_sums_of_signed_ones_saturate_on_some_processors() -> None:
    graph = program_to_onnx(one_of_each()).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "ConvInteger"]
    assert [int(stored[node.input[3]]) for node in convolutions] == [1, 128, 1]
    for node in convolutions:
        assert stored[node.input[1]].dtype == stored[node.input[3]].dtype == np.uint8
    assert set(np.unique(stored[convolutions[0].input[1]])) == {0, 2}


def test_instructions_may_read_the_image_itself() -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(5, 4, 2))
    image = builder.tensors["image"]
    sums = builder.convolve(image, Window(kernel=(3, 3), pads=(1, 1, 1, 1)), groups=2, out_channels=4, bits=1)
    pooled = builder.pool_sum(image, Window(kernel=(2, 2)))
    codes = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=16, signed=True), scale=0.5)
    low, high = (builder.requantise(tensor, codes, multiplier_bits=0) for tensor in (sums, pooled))
    whole = (builder.sum_global(tensor) for tensor in (low, high))
    parts = tuple(builder.requantise(tensor, codes, multiplier_bits=0) for tensor in whole)
    program = builder.program(
        builder.same_coding(Join(inputs=tuple(part.name for part in parts), output=builder.name()), parts, (1, 1, 6))
    )
    check_program(program)
    assert first_difference(Machine(program, "reference"), OnnxMachine(program), IMAGES).difference is None


# Names.


def renamed(program: Program, names: dict[str, str]) -> Program:
    """The program with other names for its tensors."""
    return replace(
        program,
        tensors=tuple(replace(t, name=names.get(t.name, t.name)) for t in program.tensors),
        instructions=tuple(
            replace(i, inputs=tuple(names.get(n, n) for n in i.inputs), output=names.get(i.output, i.output))
            for i in program.instructions
        ),
        input=names.get(program.input, program.input),
        output=names.get(program.output, program.output),
    )


def test_names_that_the_graph_would_choose_itself_stay_the_program_s() -> None:
    program = one_of_each()
    taken = {"t0": "logits", "t2": "logits/weights", "t4": "t3/Cast", "t6": "t3/Cast_2", "image": "image/Cast"}
    odd = renamed(program, taken)
    expected = Machine(program, "reference").run(IMAGES).logits
    np.testing.assert_array_equal(onnx_logits(program_to_onnx(odd).SerializeToString(), IMAGES), expected)
    found = {step.instruction.output: step.value for step in OnnxMachine(odd).steps(IMAGES)}
    for step in Machine(odd, "reference").steps(IMAGES):
        np.testing.assert_array_equal(found[step.instruction.output], step.value)


def test_a_tensor_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidProgram, match="'random' has a tensor without a name, which ONNX cannot have"):
        program_to_onnx(renamed(one_of_each(), {"t3": ""}))


# Size.


def test_a_program_beyond_two_gigabytes_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, 1))
    shape = (1 << 16, 1, 1, 1 << 16)
    words = np.broadcast_to(np.uint64(0), (1 << 26,))
    one = Window(kernel=(1, 1))
    builder.instructions.append(
        Convolve(inputs=("image",), output="t0", weights="w", weight_bits=1, weight_shape=shape, window=one)
    )
    builder.constants["w"] = words
    tensor = Tensor(name="t0", shape=(1, 1, 1 << 16), dtype=IntegerType(bits=32, signed=True), scale=1.0)
    builder.tensors["t0"] = tensor
    monkeypatch.setattr(model_module, "GraphBuilder", None)
    with pytest.raises(BadInput, match=r"would take 4,294,967,296 bytes \(a byte a weight\), an ONNX file holds 2,13"):
        program_to_onnx(builder.program(tensor))


def test_the_size_that_is_announced_is_never_too_small() -> None:
    program = one_of_each()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "MAX_BYTES", 0)
        with pytest.raises(BadInput) as caught:
            program_to_onnx(program)
    announced = int(str(caught.value).split("would take ")[1].split(" bytes")[0].replace(",", ""))
    small = 8  # bounds, axes and the like belong to the nodes
    arrays = [t for t in program_to_onnx(program).graph.initializer if np.prod(t.dims) > small]
    assert sum(len(tensor.raw_data) for tensor in arrays) <= announced


def test_the_package_offers_the_graph() -> None:
    program = one_of_each()
    assert bnhw.program_to_onnx(program) == program_to_onnx(program)
    assert bnhw.program_to_onnx(program, expose_tensors=True) == program_to_onnx(program, expose_tensors=True)
