"""The float model that `bnhw verify --float` compares with: what it returns, and which files it can be."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_builder import ModelBuilder, Tensor, as_nhwc, random_pixels

from bnhw.compare import measure_fidelity
from bnhw.compiler import compile_model
from bnhw.errors import BadInput
from bnhw.fidelity import measure_layers, reference_graph
from bnhw.float_model import float_logits
from bnhw.importer import read_onnx
from bnhw.machine import Machine
from bnhw.options import CompileOptions


def written(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def classifier(builder: ModelBuilder) -> Tensor:
    """One layer of 1-bit weights, and the means of its channels."""
    return builder.reduce_mean(builder.convolution(builder.image, builder.signs((5, 3, 3, 3))), keep=False)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("behind", [(), ("Identity",), ("Dropout", "Cast")])
def test_logits_are_taken_in_front_of_a_final_softmax(tmp_path: Path, op: str, behind: tuple[str, ...]) -> None:
    builder = ModelBuilder()
    logits = classifier(builder)
    plain = written(builder.model(logits), tmp_path / "plain.onnx")
    value = builder.apply(logits, op, axis=1)
    for name in behind:
        attributes: dict[str, Any] = {"to": onnx.TensorProto.FLOAT} if name == "Cast" else {}
        value = builder.apply(value, name, **attributes)
    path = written(builder.model(value), tmp_path / "model.onnx")
    pixels = as_nhwc(random_pixels(builder, 12))
    program = compile_model(path, pixels)
    reals = float_logits(path, program, pixels)
    np.testing.assert_array_equal(reals, float_logits(plain, program, pixels))
    result = Machine(program).run(pixels)
    assert measure_fidelity(result.logits, result.scale, reals).signal_to_noise_db > 30


def test_a_cycle_at_the_end_is_an_error(tmp_path: Path) -> None:
    builder = ModelBuilder()
    model = builder.model(classifier(builder))
    pixels = as_nhwc(random_pixels(builder, 4))
    program = compile_model(written(model, tmp_path / "plain.onnx"), pixels)
    model.graph.node.append(onnx.helper.make_node("Identity", ["end"], ["end"]))
    model.graph.output[0].name = "end"
    with pytest.raises(BadInput, match=r"cycle\.onnx: onnxruntime cannot load it"):
        float_logits(written(model, tmp_path / "cycle.onnx"), program, pixels)


DOMAIN = "onnx.brevitas"


def of_one_bit_activations(builder: ModelBuilder, *, qonnx: bool) -> onnx.ModelProto:
    """The signs of the image in front of the classifier, by QONNX's quantiser or in plain ONNX."""
    if qonnx:
        signs = builder.apply(builder.image, "BipolarQuant", builder.constant(1.0), domain=DOMAIN)
    else:
        signs = builder.sign(builder.image)
    value = builder.convolution(signs, builder.signs((5, 3, 3, 3)))
    return builder.model(builder.reduce_mean(value, keep=False), domains=[(DOMAIN, 1)] if qonnx else [])


def test_a_model_with_quantisers_of_qonnx_runs_as_it_was_imported(tmp_path: Path) -> None:
    qonnx, plain = (of_one_bit_activations(ModelBuilder(), qonnx=choice) for choice in (True, False))
    path, other = written(qonnx, tmp_path / "qonnx.onnx"), written(plain, tmp_path / "plain.onnx")
    pixels = as_nhwc(random_pixels(ModelBuilder(), 40))
    program = compile_model(path, pixels, CompileOptions(input_mean=(100.0,), input_std=(64.0,)))
    reals = float_logits(path, program, pixels)
    np.testing.assert_allclose(reals, float_logits(other, program, pixels), rtol=1e-5, atol=1e-6)
    layers = measure_layers(program, reference_graph(read_onnx(path), program), pixels)
    assert layers[-1].name == program.output
    assert all(layer.signal_to_noise_db > 30 for layer in layers)


def test_any_other_operation_that_onnxruntime_does_not_know_is_an_error(tmp_path: Path) -> None:
    builder = ModelBuilder()
    pixels = as_nhwc(random_pixels(builder, 4))
    program = compile_model(written(builder.model(classifier(builder)), tmp_path / "plain.onnx"), pixels)
    builder = ModelBuilder()
    unknown = builder.apply(classifier(builder), "Guilty", domain=DOMAIN)
    path = written(builder.model(unknown, domains=[(DOMAIN, 1)]), tmp_path / "unknown.onnx")
    with pytest.raises(BadInput, match=r"unknown\.onnx: onnxruntime cannot load it .*Guilty"):
        float_logits(path, program, pixels)
